"""Runs the commands in the running text of the pages through a shell in a copy of the checkout (`make test-slow`).

The `.venv` of the copy uses the packages of this environment and installs into its own folder: `make` and `pip` work
as for a user, without downloading gigabytes. tests/test_docs.py and tests/test_docs_slow.py run the code blocks.
"""

import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.documentation import FENCE, PAGES, PROJECT, Snippet, commands_in_text
from tests.hub_server import TOKEN, serve_hub


# `make demo` first: the other commands use its output
COMMANDS = sorted(commands_in_text(), key=lambda snippet: not snippet.text.startswith("make demo"))
# all changes of a command
FILLED_IN = {
    "-m eval.run ...": "-m eval.run --task sandbox_query --model outputs/demo/stage4 --output outputs/eval --limit 2 \
--annotations outputs/demo/world/annotations.json --media-dir outputs/demo/world/test --max-new-tokens 2",
    "--nproc_per_node N": "--nproc_per_node 2",
}
SHORTER = {"MAX_STEPS": "1"}  # Makefile variable: training steps of each stage of the demo
CHECK_REQUIREMENTS = """
import sys
from importlib import metadata, util
from pathlib import Path
from packaging.requirements import Requirement

extra = sys.argv[1]
required = [Requirement(text) for text in metadata.requires("avicuna")]
required = [one for one in required if one.marker is None or one.marker.evaluate({"extra": extra})]
assert required and not [one for one in required if metadata.version(one.name) not in one.specifier]
print(Path(util.find_spec("modeling_avicuna").origin).parents[1])
"""
DECODE_VIDEO = """
import sys
from datasets import Dataset, Video

rows = Dataset.from_dict({"video": [sys.argv[1]]}).cast_column("video", Video())
print(rows[0]["video"][0].shape)
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkout")
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    files = subprocess.run(listing, cwd=PROJECT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in files:
        if (PROJECT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, folder / name)
    borrow_environment(folder / ".venv")
    done = run_in_shell("pip download --no-deps --dest downloaded setuptools", folder)
    if done.returncode:
        pytest.skip(f"the package registry cannot be reached: {done.stderr.strip().splitlines()[-1]}")
    return folder


def borrow_environment(folder: Path) -> None:
    """Create an environment that uses the packages and programs of this one; pip installs into the new one."""
    venv.create(folder, with_pip=True)
    (own,) = folder.glob("lib/python*/site-packages")
    packages = [path for path in sys.path if path.endswith("site-packages")]
    (own / "borrowed.pth").write_text("\n".join(packages) + "\n")
    for program in Path(sys.executable).parent.iterdir():
        content = program.read_bytes() if program.is_file() else b""
        if content.startswith(b"#!" + os.fsencode(sys.executable)) and not (folder / "bin" / program.name).exists():
            rest = content.partition(b"\n")[2]
            (folder / "bin" / program.name).write_bytes(b"#!" + os.fsencode(folder / "bin/python") + b"\n" + rest)
            (folder / "bin" / program.name).chmod(0o755)


def run_in_shell(text: str, folder: Path, **more: str) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MAKEFLAGS")}
    environment |= {"PATH": f"{folder / '.venv/bin'}{os.pathsep}{os.environ['PATH']}", **SHORTER, **more}
    return subprocess.run(
        ["bash", "-c", text], cwd=folder, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )


def link_ffmpeg(folder: Path) -> str:
    """Link the FFmpeg libraries of the PyAV wheel under their usual names; returns a search path for the loader."""
    import av

    libraries = Path(av.__file__).parent.with_name("av.libs")
    folder.mkdir()
    for path in libraries.glob("lib*.so.*"):
        if named := re.fullmatch(r"(lib(?:av|sw)\w+)-\w+\.so\.(\d+)\..*", path.name):
            (folder / f"{named[1]}.so.{named[2]}").symlink_to(path)
    return f"{folder}{os.pathsep}{libraries}"


@pytest.mark.slow
@pytest.mark.parametrize("snippet", [one for one in COMMANDS if not one.text.startswith("hf ")], ids=str)
def test_a_command_in_the_text_runs_and_has_its_effect(snippet, checkout):
    if not (checkout / "path/to.mp4").exists():
        write_video(checkout / "path/to.mp4")
    text = snippet.text
    for written, filled_in in FILLED_IN.items():
        text = text.replace(written, filled_in)
    done = run_in_shell(text, checkout)
    assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    CHECKS[text.split()[0]](snippet, checkout, done.stdout + done.stderr)


def write_video(path: Path) -> None:
    from dataset_builders.sandbox.world import make_world

    make_world(path.parent / "world", num_clips=1)
    next((path.parent / "world/clips").glob("*.mp4")).rename(path)


def check_make(snippet: Snippet, checkout: Path, output: str) -> None:
    assert (checkout / ".venv/.installed").exists()
    if "demo" in snippet.text:
        assert "question: When does a dog bark?" in output and "path/to.mp4" in output
        assert (checkout / "outputs/demo/stage4/model.safetensors").exists()
        return
    assert "Warn" not in output
    modules = f"modules:\n\t@echo $(MODULES)\ninclude {checkout / 'Makefile'}\n"
    listed = subprocess.run(
        ["make", "-f", "-"], input=modules, cwd=checkout, capture_output=True, text=True, check=True
    )
    api = checkout / "outputs/api"
    pages = {".".join(page.relative_to(api).with_suffix("").parts) for page in api.rglob("*.html")}
    assert set(listed.stdout.split()) <= pages and len(pages) > 100


def check_pip(snippet: Snippet, checkout: Path, output: str) -> None:
    python = checkout / ".venv/bin/python"
    extra = "".join(re.findall(r"\[(\w+)\]", snippet.text))
    # from another folder, so that the installed package is imported
    command = [python, "-c", CHECK_REQUIREMENTS, extra]
    done = subprocess.run(command, cwd=checkout / "path", capture_output=True, text=True)
    assert done.stdout.strip() == str(checkout), done.stderr
    if extra == "torchcodec":
        environment = {**os.environ, "LD_LIBRARY_PATH": link_ffmpeg(checkout / "path/ffmpeg")}
        done = subprocess.run(
            [python, "-c", DECODE_VIDEO, checkout / "path/to.mp4"], env=environment, capture_output=True, text=True
        )
        assert done.stdout.startswith("torch.Size([3, "), done.stderr


def check_torchrun(snippet: Snippet, checkout: Path, output: str) -> None:
    assert output.count("outputs/eval/results.json") == 1, "only one of the two processes must report"
    assert (checkout / "outputs/eval/predictions.jsonl").exists()


CHECKS = {"make": check_make, "pip": check_pip, "torchrun": check_torchrun}


@pytest.mark.slow
def test_a_push_works_after_hf_auth_login(tmp_path):
    (snippet,) = (snippet for snippet in COMMANDS if snippet.text.startswith("hf "))
    with serve_hub() as hub:
        environment = {name: value for name, value in hub.environment(tmp_path).items() if name != "HF_TOKEN"}
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        options = {"env": environment, "capture_output": True, "text": True, "stdin": subprocess.DEVNULL}
        done = subprocess.run(["bash", "-c", snippet.text], **options)
        assert done.returncode == 0, done.stderr
        code = "from huggingface_hub import HfApi; print(HfApi().create_repo('user/mine'))"
        done = subprocess.run([sys.executable, "-c", code], **options)
        assert ("models", "user/mine") in hub.repos, done.stderr
    assert (tmp_path / "token").read_text() == TOKEN


def test_each_command_in_the_text_has_a_check():
    assert {snippet.text.split()[0] for snippet in COMMANDS} == {*CHECKS, "hf"}
    filled_in = [snippet for snippet in COMMANDS if "..." in snippet.text]
    assert len(filled_in) == 1 and all(part in filled_in[0].text for part in FILLED_IN)


def known_options() -> set[str]:
    """All options of the programs: from the source of their parsers and the fields of their dataclasses."""
    from train.arguments import AVicunaTrainingArguments, StageArguments

    files = [
        path
        for package in ("train", "eval", "model_card", "dataset_builders", "modeling_avicuna")
        for path in (PROJECT / package).rglob("*.py")
    ]
    written = {option for path in files for option in re.findall(r'"(--[\w-]+)"', path.read_text(encoding="utf-8"))}
    fields = {name for kind in (AVicunaTrainingArguments, StageArguments) for name in kind.__dataclass_fields__}
    for path in files:  # fields of options classes
        fields |= set(re.findall(r"^    (\w+): .* field\(", path.read_text(encoding="utf-8"), re.MULTILINE))
    return written | {f"--{spelling}" for name in fields for spelling in (name, name.replace("_", "-"))}


@pytest.mark.parametrize("page", PAGES)
def test_options_in_the_text_exist(page):
    text = FENCE.sub("", (PROJECT / page).read_text(encoding="utf-8"))
    named = {option for span in re.findall(r"`(--[^`]+)`", text) for option in re.findall(r"--[\w-]+", span)}
    # of argparse, pip and vLLM
    of_others = {"--help", "--no-deps", "--allowed-local-media-path", "--block-size", "--mm-processor-cache-gb"}
    assert named - known_options() - of_others == set()
