"""Rules of the source tree: import directions, remote code of the model, file names, packaging.

All rules are checked on the source text.
"""

import ast
import functools
import re
import subprocess
from pathlib import Path

import pytest


PROJECT = Path(__file__).resolve().parents[1]
PACKAGES = ("modeling_avicuna", "dataset_builders", "train", "eval", "model_card", "serve")
MAY_IMPORT = {
    "modeling_avicuna": set(),
    "dataset_builders": {"modeling_avicuna"},  # inside functions: see test_a_shard_is_built_without_torch
    "train": {"modeling_avicuna", "dataset_builders"},
    "eval": {"modeling_avicuna", "dataset_builders"},
    "model_card": {"modeling_avicuna", "dataset_builders"},
    "serve": {"modeling_avicuna"},  # the plugin `avicuna_vllm`
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
PACKAGE_FILES = [path for path in PYTHON_FILES if path.relative_to(PROJECT).parts[0] in PACKAGES]
MODEL_FILES = [path for path in PACKAGE_FILES if path.relative_to(PROJECT).parts[0] == "modeling_avicuna"]


def name_of(path: Path) -> str:
    return str(path.relative_to(PROJECT))


@functools.cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes())


@functools.cache
def absolute_imports(path: Path) -> set[str]:
    """Top-level names of the packages that a file imports."""
    nodes = list(ast.walk(parse(path)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 0}
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("path", PACKAGE_FILES, ids=name_of)
def test_a_package_imports_only_allowed_packages(path):
    package = path.relative_to(PROJECT).parts[0]
    allowed = MAY_IMPORT[package] | {package}
    ours = {*PACKAGES, "avicuna_vllm", "tests", "examples", "benchmarks"}
    assert not (absolute_imports(path) & ours) - allowed


@pytest.mark.parametrize("path", MODEL_FILES, ids=name_of)
def test_the_model_files_can_be_copied_into_a_checkpoint(path):
    """transformers copies only files of one folder that it finds by `from .name import`."""
    source = path.read_text()
    assert path.parent.name == "modeling_avicuna", "sub-packages are not copied into checkpoints"
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1 and node.module and "." not in node.module, (
                f"line {node.lineno}: {ast.unparse(node)}"
            )
    siblings = {other.stem for other in MODEL_FILES}
    for line_number, line in enumerate(source.splitlines(), start=1):
        found = re.match(r"\s*(?:from|import)\s+\.(\w+)", line)
        if found:
            assert found.group(1) in siblings, f"line {line_number} looks like an import of a file that does not exist"
    if path.stem != "__init__":
        assert "modeling_avicuna" not in absolute_imports(path)


@pytest.mark.parametrize("path", [path for path in MODEL_FILES if path.stem != "__init__"], ids=name_of)
def test_unguarded_imports_of_the_model_are_installed_with_transformers(path):
    """transformers refuses remote code if one of its unguarded imports is not installed."""
    import transformers.dynamic_module_utils as dynamic_module_utils

    needed = set(dynamic_module_utils.get_imports(path))
    standard_library = set(__import__("sys").stdlib_module_names)
    assert needed - standard_library <= MUST_BE_INSTALLED_BY_USERS_OF_THE_MODEL


def test_no_file_is_named_like_a_dependency():
    taken = {*CLIENT_PACKAGES, "torch", "numpy", "av", "types", "logging", "json", "random", "tokenizers", "typing"}
    assert [name_of(path) for path in PACKAGE_FILES if path.stem in taken] == []


def test_each_module_has_a_docstring():
    missing = [path for path in PACKAGE_FILES if parse(path).body and not ast.get_docstring(parse(path))]
    assert [name_of(path) for path in missing] == []


@pytest.mark.parametrize("path", PYTHON_FILES, ids=name_of)
def test_source_is_ascii_and_has_no_broad_except(path):
    assert path.read_bytes().isascii(), "write other characters as escapes"
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.ExceptHandler):
            caught = "" if node.type is None else ast.unparse(node.type)
            broad = caught in ("", "Exception", "BaseException")
            reraises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
            counts = path.relative_to(PROJECT).match("benchmarks/mutated_*.py")  # they count unexpected exceptions
            assert not broad or reraises or counts, f"line {node.lineno}: a broad except hides the reason"


@pytest.mark.parametrize("package", CLIENT_PACKAGES)
def test_each_dependency_is_imported(package):
    in_recipe = package == "deepspeed" and any(
        "deepspeed:" in recipe.read_text() for recipe in (PROJECT / "train" / "recipes").glob("*.yaml")
    )
    assert in_recipe or any(package in absolute_imports(path) for path in PACKAGE_FILES), f"{package} is never used"


def test_the_installed_distribution_has_only_the_libraries_and_the_plugin():
    """`train` and `eval` run from a checkout; installed, their names could conflict with other packages."""
    calls = [node for node in ast.walk(parse(PROJECT / "setup.py")) if isinstance(node, ast.Call)]
    call = next(node for node in calls if getattr(node.func, "id", "") == "setup")
    packages = set(ast.literal_eval(next(word.value for word in call.keywords if word.arg == "packages")))
    on_disk = {
        ".".join(path.parent.relative_to(PROJECT).parts)
        for path in PACKAGE_FILES
        if path.relative_to(PROJECT).parts[0] in ("modeling_avicuna", "dataset_builders")
    }
    assert packages == on_disk | {"avicuna_vllm"}


def test_no_media_weights_or_pickles_are_committed():
    heavy = {".mp4", ".wav", ".webm", ".mov", ".safetensors", ".bin", ".pt", ".pth", ".pkl", ".npy", ".npz", ".ckpt"}
    allowed = {"examples/sandbox_checkpoint/model.safetensors"}  # tests/test_sandbox_checkpoint.py limits its size
    found = {name_of(path) for path in project_files() if path.suffix in heavy}
    assert {name for name in found if not name.startswith("tests/golden/")} - allowed == set()


def test_the_constraints_pin_every_direct_dependency():
    pinned = {
        line.split("==")[0].lower().replace("_", "-") for line in (PROJECT / "constraints.txt").open() if "==" in line
    }
    declared = re.findall(r'"([A-Za-z0-9_-]+)(?:>=[^"]*)"', (PROJECT / "setup.py").read_text())
    optional = {"torchcodec", "setuptools", "vllm"}
    missing = {name.lower().replace("_", "-") for name in declared} - pinned - optional
    assert not missing
