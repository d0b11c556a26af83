"""The rules that hold the rooms apart and let the model travel: import direction, remote-code traps, names, packaging.

Every rule here is checked on the text of the files, so that a break is told before anything runs.
"""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


PROJECT = Path(__file__).resolve().parents[1]
ROOMS = ("modeling_avicuna", "dataset_builders", "train", "eval", "model_card")
MAY_IMPORT = {
    "modeling_avicuna": set(),
    "dataset_builders": {"modeling_avicuna"},  # inside functions: see test_importing_the_builders_loads_no_torch
    "train": {"modeling_avicuna", "dataset_builders"},
    "eval": {"modeling_avicuna", "dataset_builders"},
    "model_card": {"modeling_avicuna", "dataset_builders"},
}
CLIENT_PACKAGES = (
    "transformers",
    "datasets",
    "peft",
    "trl",
    "accelerate",
    "deepspeed",
    "huggingface_hub",
    "torchaudio",
    "decord",
    "evaluate",
    "sentence_transformers",
)
# the last two are installed with every transformers
MUST_BE_INSTALLED_BY_USERS_OF_THE_MODEL = {"torch", "transformers", "numpy", "huggingface_hub", "safetensors"}


def project_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [PROJECT / line for line in listed.stdout.splitlines() if (PROJECT / line).is_file()]


PYTHON_FILES = [path for path in project_files() if path.suffix == ".py" and path.parent.name != "sandbox_checkpoint"]
ROOM_FILES = [path for path in PYTHON_FILES if path.relative_to(PROJECT).parts[0] in ROOMS]
MODEL_FILES = [path for path in ROOM_FILES if path.relative_to(PROJECT).parts[0] == "modeling_avicuna"]


def name_of(path: Path) -> str:
    return str(path.relative_to(PROJECT))


def absolute_imports(tree: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0], node


@pytest.mark.parametrize("path", ROOM_FILES, ids=name_of)
def test_a_room_imports_only_the_rooms_it_may(path):
    room = path.relative_to(PROJECT).parts[0]
    allowed = MAY_IMPORT[room] | {room}
    imported = {module for module, _ in absolute_imports(ast.parse(path.read_text()))}
    assert not (imported & {*ROOMS, "tests", "examples", "benchmarks"}) - allowed


@pytest.mark.parametrize("path", MODEL_FILES, ids=name_of)
def test_the_model_folder_survives_being_copied_into_a_checkpoint(path):
    """transformers copies flat files that it finds by `from .name import`; anything else is left behind."""
    source = path.read_text()
    tree = ast.parse(source)
    assert path.parent.name == "modeling_avicuna", "sub-packages are not copied into checkpoints"
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1 and node.module and "." not in node.module, (
                f"line {node.lineno}: {ast.unparse(node)}"
            )
    siblings = {other.stem for other in MODEL_FILES}
    for line_number, line in enumerate(source.splitlines(), start=1):
        found = re.match(r"\s*(?:from|import)\s+\.(\w+)", line)
        if found:
            assert found.group(1) in siblings, f"line {line_number} reads as an import of a file that does not exist"
    if path.stem != "__init__":
        assert "modeling_avicuna" not in {module for module, _ in absolute_imports(tree)}


@pytest.mark.parametrize("path", [path for path in MODEL_FILES if path.stem != "__init__"], ids=name_of)
def test_the_model_needs_only_torch_transformers_and_numpy_unguarded(path):
    """transformers refuses remote code whose unguarded imports are not installed, wherever in the file they stand."""
    import transformers.dynamic_module_utils as dynamic_module_utils

    needed = set(dynamic_module_utils.get_imports(path))
    standard_library = set(__import__("sys").stdlib_module_names)
    assert needed - standard_library <= MUST_BE_INSTALLED_BY_USERS_OF_THE_MODEL


@pytest.mark.parametrize("path", [path for path in ROOM_FILES if path.stem != "__init__"], ids=name_of)
def test_no_file_bears_a_dependencys_name(path):
    taken = {*CLIENT_PACKAGES, "torch", "numpy", "av", "types", "logging", "json", "random", "tokenizers", "typing"}
    assert path.stem not in taken


@pytest.mark.parametrize("path", ROOM_FILES, ids=name_of)
def test_a_module_opens_by_saying_what_it_is(path):
    tree = ast.parse(path.read_text())
    if path.stem == "__init__" and not tree.body:
        return
    assert ast.get_docstring(tree), "the module has no opening docstring"


@pytest.mark.parametrize("path", PYTHON_FILES, ids=name_of)
def test_source_is_ascii_and_swallows_no_exception(path):
    source = path.read_bytes()
    assert source.isascii(), "write other characters as escapes"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ExceptHandler):
            caught = "" if node.type is None else ast.unparse(node.type)
            broad = caught in ("", "Exception", "BaseException")
            reraises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
            counts = path.relative_to(PROJECT).match(
                "benchmarks/mutated_*.py"
            )  # an unexpected exception is their result
            assert not broad or reraises or counts, f"line {node.lineno}: a broad except hides the reason"


@pytest.mark.parametrize("package", CLIENT_PACKAGES)
def test_each_package_of_the_client_is_really_imported(package):
    users = [
        path
        for path in ROOM_FILES
        if package in {module for module, _ in absolute_imports(ast.parse(path.read_text()))}
    ]
    named_in_configuration = package == "deepspeed" and any(
        "deepspeed:" in recipe.read_text() for recipe in (PROJECT / "train" / "recipes").glob("*.yaml")
    )
    assert users or named_in_configuration, f"{package} is declared and never used"


def test_the_installed_distribution_holds_the_two_libraries_alone():
    """`train` and `eval` run from a checkout; installed, they would take everybody's module names."""
    tree = ast.parse((PROJECT / "setup.py").read_text())
    call = next(
        node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setup"
    )
    packages = set(ast.literal_eval(next(word.value for word in call.keywords if word.arg == "packages")))
    on_disk = {
        ".".join(path.parent.relative_to(PROJECT).parts)
        for path in ROOM_FILES
        if path.relative_to(PROJECT).parts[0] in ("modeling_avicuna", "dataset_builders")
    }
    assert packages == on_disk


def test_no_media_weights_or_pickles_are_committed():
    heavy = {".mp4", ".wav", ".webm", ".mov", ".safetensors", ".bin", ".pt", ".pth", ".pkl", ".npy", ".npz", ".ckpt"}
    allowed = {"examples/sandbox_checkpoint/model.safetensors"}  # tests/test_sandbox_checkpoint.py holds its size
    found = {name_of(path) for path in project_files() if path.suffix in heavy}
    assert {name for name in found if not name.startswith("tests/golden/")} - allowed == set()


def test_the_constraints_pin_every_direct_dependency():
    pinned = {
        line.split("==")[0].lower().replace("_", "-") for line in (PROJECT / "constraints.txt").open() if "==" in line
    }
    declared = re.findall(r'"([A-Za-z0-9_-]+)(?:>=[^"]*)"', (PROJECT / "setup.py").read_text())
    optional = {"torchcodec", "setuptools"}
    missing = {name.lower().replace("_", "-") for name in declared} - pinned - optional
    assert not missing
