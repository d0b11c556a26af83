"""Provenance of a data set, a training run or a result: commit, package versions and hash of the model."""

import contextlib
import hashlib
import importlib.metadata
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any


# the files that the output of a checkpoint depends on; training state and cards are not included
MODEL_FILES = (
    "*.safetensors",
    "pytorch_model*.bin",
    "config.json",
    "processor_config.json",
    "tokenizer.json",
    "*.jinja",
)


def git_commit() -> str | None:
    """The commit of this checkout, with "-dirty" if it has local changes; None outside a checkout or without git.

    An installed copy may be inside another repository, so git is first asked whether it tracks this file.
    """
    is_ours = ["git", "ls-files", "--error-unmatch", Path(__file__).name]
    describe = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    options: dict[str, Any] = {"cwd": Path(__file__).parent, "capture_output": True, "text": True}
    try:
        if subprocess.run(is_ours, **options).returncode:
            return None
        described = subprocess.run(describe, **options)
    except FileNotFoundError:
        return None
    return described.stdout.strip() or None if described.returncode == 0 else None


def package_versions(names: Iterable[str]) -> dict[str, str]:
    """The version of each package that is installed."""
    versions = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def build_environment(packages: Iterable[str]) -> dict:
    """The environment of a build, as recorded in its report."""
    return {"git_commit": git_commit(), "packages": package_versions(packages)}


def model_hash(model: str) -> str:
    """An identifier of a model: a hash of a folder's weights and settings, or the Hub id unchanged."""
    folder = Path(model)
    if not folder.is_dir():
        return model
    digest = hashlib.sha256()
    for path in sorted({path for pattern in MODEL_FILES for path in folder.glob(pattern)}):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]
