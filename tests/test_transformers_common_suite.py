"""Runs the common model tests of transformers on AVicuna; slow: takes minutes and needs a package index.

    pytest -m slow tests/test_transformers_common_suite.py

The wheel of transformers has no tests; the common ones are in its source distribution, which is downloaded for the
installed version. Three modules that they import but that are missing there (exporters, generation, utils) are
replaced by empty classes, whose tests are not counted.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from xml.etree import ElementTree

import pytest
import transformers


STUBS = {
    "exporters/test_export.py": "class ExportTesterMixin: pass\n",
    "generation/test_utils.py": "class GenerationTesterMixin: pass\n",
    "utils/test_configuration_utils.py": "config_common_kwargs = {}\n",
}


def pip(*arguments) -> None:
    """Runs pip in this environment; skips the test if no package index can be reached."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"pip {arguments[0]} failed: {done.stderr.strip().splitlines()[-1]}")


@pytest.fixture(scope="module")
def suite(tmp_path_factory) -> Path:
    """The tests of the source distribution of transformers with ours added, and a package that they need."""
    folder = tmp_path_factory.mktemp("suite")
    pip("download", "--quiet", "--no-deps", "--no-binary", "transformers", "--dest", folder,
        f"transformers=={transformers.__version__}")  # fmt: skip
    if importlib.util.find_spec("parameterized") is None:
        pip("install", "--quiet", "--no-deps", "--target", folder / "packages", "parameterized")
    with tarfile.open(next(folder.glob("transformers-*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    tests = next(folder.glob("transformers-*/tests"))
    for name, text in STUBS.items():
        (tests / name).parent.mkdir(exist_ok=True)
        (tests / name).write_text(text)
    (tests / "avicuna").mkdir()
    shutil.copy(Path(__file__).with_name("transformers_common_suite.py"), tests / "avicuna/test_modeling_avicuna.py")
    for package in (tests, *(path for path in tests.iterdir() if path.is_dir())):
        (package / "__init__.py").touch()
    return tests.parent


@pytest.mark.slow
def test_the_common_model_tests_of_transformers_pass(suite, project_dir):
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(project_dir), str(suite.parent / "packages")]),
        "AVICUNA_TINY_MODELS": str(project_dir / "tests/tiny_models.py"),
    }
    command = [sys.executable, "-m", "pytest", "tests/avicuna", "-q", "-c", os.devnull, "--rootdir", ".",
               "-p", "no:cacheprovider", "--junit-xml", "report.xml"]  # fmt: skip
    done = subprocess.run(command, cwd=suite, env=environment, capture_output=True, text=True, check=False)
    assert (suite / "report.xml").is_file(), done.stdout[-3000:] + done.stderr[-3000:]
    cases = list(ElementTree.parse(suite / "report.xml").iter("testcase"))
    failed = [case.get("name") for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = [case.get("name") for case in cases if case.find("skipped") is not None]
    print(f"transformers {transformers.__version__}: {len(cases) - len(failed) - len(skipped)} passed, "
          f"{len(failed)} failed, {len(skipped)} skipped")  # fmt: skip
    assert failed == [], done.stdout[-5000:]
    assert len(cases) - len(skipped) > 80
