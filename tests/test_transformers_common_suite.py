"""transformers' own model tests, run on AVicuna: minutes long and in need of a package index, so marked slow.

    pytest -m slow tests/test_transformers_common_suite.py

The wheel of transformers carries no tests; its source distribution carries the common ones, which are fetched for the
installed version. Three modules that they import but that are not in it (exporters, generation) are replaced by empty
classes: nothing of them is counted as passed.
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
    """Runs pip in this environment; skips the test where no package index can be reached."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"pip {arguments[0]} failed: {done.stderr.strip().splitlines()[-1]}")


@pytest.fixture(scope="module")
def suite(tmp_path_factory) -> Path:
    """The tests of transformers' source distribution with ours among them, and the one package that they lack."""
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
