"""A figure's origin: the commit as git tells it, and a model known by what its answers depend on."""

import re
import shutil
import subprocess
import sys
from importlib.metadata import version

import pytest

from dataset_builders.release import provenance
from dataset_builders.release.provenance import build_environment, git_commit, model_hash, package_versions


def test_the_commit_is_git_s(monkeypatch):
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", git_commit())
    monkeypatch.setenv("PATH", "")
    assert git_commit() is None


def test_a_copy_in_somebody_elses_repository_does_not_tell_his_commit(tmp_path):
    """Installed into the environment of another project, say."""
    shutil.copy(provenance.__file__, tmp_path)
    (tmp_path / "his.txt").touch()
    for command in (
        ["init", "-q"],
        ["add", "his.txt"],
        ["-c", "user.name=he", "-c", "user.email=he@example.org", "commit", "-qm", "his"],
    ):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    told = subprocess.run(
        [sys.executable, "-c", "import provenance; print(provenance.git_commit())"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == "None"


def test_versions_are_those_installed():
    versions = {"torch": version("torch"), "numpy": version("numpy")}
    assert package_versions(["torch", "numpy"]) == versions
    assert build_environment(["torch", "numpy"]) == {"git_commit": git_commit(), "packages": versions}


def test_a_model_is_its_weights_and_settings_wherever_it_lies_and_whatever_lies_beside_it(tmp_path):
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
def test_another_byte_is_another_model(tmp_path, name):
    (tmp_path / name).write_bytes(b"a")
    before = model_hash(str(tmp_path))
    (tmp_path / name).write_bytes(b"b")
    assert model_hash(str(tmp_path)) != before
