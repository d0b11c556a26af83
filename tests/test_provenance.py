"""Provenance of results: git commit, package versions, and the hash of a model."""

import re
import shutil
import subprocess
import sys
from importlib.metadata import version

import pytest

from dataset_builders.release import provenance
from dataset_builders.release.provenance import build_environment, git_commit, model_hash, package_versions


def test_the_commit_is_read_from_git(monkeypatch):
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", git_commit())
    monkeypatch.setenv("PATH", "")
    assert git_commit() is None


def test_the_commit_of_another_repository_is_not_used(tmp_path):
    """For a copy that is installed into the environment of another project."""
    shutil.copy(provenance.__file__, tmp_path)
    (tmp_path / "other.txt").touch()
    for command in (
        ["init", "-q"],
        ["add", "other.txt"],
        ["-c", "user.name=other", "-c", "user.email=other@example.org", "commit", "-qm", "other"],
    ):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    done = subprocess.run(
        [sys.executable, "-c", "import provenance; print(provenance.git_commit())"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "None"


def test_versions_are_the_installed_ones():
    versions = {"torch": version("torch"), "numpy": version("numpy")}
    assert package_versions(["torch", "numpy", "no-such-package"]) == versions
    assert build_environment(["torch", "numpy"]) == {"git_commit": git_commit(), "packages": versions}


def test_the_hash_of_a_model_does_not_depend_on_its_path_or_other_files(tmp_path):
    hashes = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"weights")
        (folder / "training_args.bin").write_bytes(name.encode())
        (folder / "README.md").write_text(name)
        hashes.append(model_hash(str(folder)))
    assert hashes[0] == hashes[1] and re.fullmatch("[0-9a-f]{16}", hashes[0])
    assert model_hash("user/avicuna") == "user/avicuna"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "chat_template.jinja"])
def test_the_hash_of_a_model_depends_on_its_files(tmp_path, name):
    (tmp_path / name).write_bytes(b"a")
    before = model_hash(str(tmp_path))
    (tmp_path / name).write_bytes(b"b")
    assert model_hash(str(tmp_path)) != before
