"""Uploads in one commit to a local Hub: failed, interrupted, repeated and private uploads."""

import hashlib
import subprocess
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from model_card.release.upload import upload
from tests.hub_server import TOKEN


MODEL = ("models", "user/avicuna")
SHARDS = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]


@pytest.fixture
def release(tmp_path) -> Path:
    """A small release folder."""
    folder = tmp_path / "release"
    folder.mkdir()
    (folder / "README.md").write_text("---\nlicense: other\n---\n")
    (folder / "config.json").write_text("{}")
    for number, name in enumerate(SHARDS):
        (folder / name).write_bytes(bytes([number]) * 50_000)
    return folder


def send(hub, folder: Path, *, token: str = TOKEN, **options) -> str:
    return upload(folder, api=HfApi(endpoint=hub.address, token=token), repo_id="user/avicuna", **options)


def sent_objects(hub) -> list[str]:
    return [request for request in hub.requests if request.startswith("PUT /objects/")]


FAILURES = {
    "wrong token": ("hf_wrong", {}, "401"),
    "no rights": (TOKEN, {"POST .*/commit/": 403}, "403"),
    "missing owner": (TOKEN, {"POST /api/repos/create": 404}, "no such repository"),
    "missing repository": (TOKEN, {"POST .*/preupload/": 404}, "no such repository"),
    "disk of the Hub is full": (TOKEN, {"POST .*/commit/": 507}, "507"),
    "connection dropped during a file": (TOKEN, {"PUT /objects/": None}, "interrupted"),
    "connection dropped during the commit": (TOKEN, {"POST .*/commit/": None}, "interrupted"),
}


@pytest.mark.parametrize(("token", "faults", "message"), FAILURES.values(), ids=FAILURES)
def test_a_failed_upload_names_the_reason_and_publishes_nothing(hub, release, monkeypatch, token, faults, message):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # huggingface_hub waits after each lost connection
    hub.faults.update(faults)
    with pytest.raises(RuntimeError, match=f"(?s)user/avicuna.*{message}"):
        send(hub, release, token=token)
    assert not hub.repos.get(MODEL), "a part of the release was published"


LATER_FAILURES = {name: failure for name, failure in FAILURES.items() if name != "missing owner"}


@pytest.mark.parametrize(("token", "faults", "message"), LATER_FAILURES.values(), ids=LATER_FAILURES)
def test_a_failed_upload_does_not_change_an_older_release(hub, release, monkeypatch, token, faults, message):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    send(hub, release)
    before = dict(hub.repos[MODEL])
    (release / "config.json").write_text('{"new": true}')
    (release / SHARDS[0]).write_bytes(b"new" * 20_000)
    hub.faults.update(faults)
    with pytest.raises(RuntimeError, match=f"(?s)user/avicuna.*{message}"):
        send(hub, release, token=token, revision="v2")
    assert hub.repos[MODEL] == before and not hub.branches, "a branch without the new release must not remain"


def test_an_interrupted_upload_is_resumed_without_sending_a_large_file_twice(hub, release, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    last = hashlib.sha256((release / SHARDS[-1]).read_bytes()).hexdigest()
    hub.faults[f"PUT /objects/{last}"] = None
    with pytest.raises(RuntimeError, match="run it again"):
        send(hub, release)
    arrived = set(hub.objects)
    assert len(arrived) == 2 and not hub.repos[MODEL]
    hub.faults.clear()
    hub.requests.clear()
    send(hub, release)
    assert sent_objects(hub) == [f"PUT /objects/{last}"]
    assert hub.repos[MODEL] == {path.name: path.read_bytes() for path in release.iterdir()}


UPLOAD = """
import sys
from pathlib import Path
from huggingface_hub import HfApi
from model_card.release.upload import upload

upload(Path(sys.argv[1]), api=HfApi(), repo_id="user/avicuna")
"""


def test_a_killed_upload_is_resumed_by_the_same_command(hub, release, tmp_path, project_dir):
    command = [sys.executable, "-c", UPLOAD, str(release)]
    settings = {"cwd": project_dir, "env": hub.environment(tmp_path / "home"), "stderr": subprocess.DEVNULL}
    last = hashlib.sha256((release / SHARDS[-1]).read_bytes()).hexdigest()
    hub.faults[f"PUT /objects/{last}"] = None
    with subprocess.Popen(command, **settings) as process:
        while len(hub.objects) < 2 or f"PUT /objects/{last}" not in hub.requests:
            assert process.poll() is None, "the upload ended before it was killed"
            time.sleep(0.05)
        process.kill()
    assert not hub.repos[MODEL]
    hub.faults.clear()
    hub.requests.clear()
    subprocess.run(command, check=True, **settings)
    assert sent_objects(hub) == [f"PUT /objects/{last}"]
    assert set(hub.repos[MODEL]) == {path.name for path in release.iterdir()}


def test_a_private_repository_remains_private(hub, release):
    send(hub, release, private=True)
    assert MODEL in hub.private
    send(hub, release)
    assert MODEL in hub.private, "an existing repository keeps its visibility"


def test_a_private_upload_to_a_public_repository_is_an_error(hub, release):
    HfApi(endpoint=hub.address, token=TOKEN).create_repo("user/avicuna", private=False)
    with pytest.raises(ValueError, match="user/avicuna is public, and --private was given"):
        send(hub, release, private=True)
    assert hub.repos[MODEL] == {} and not sent_objects(hub)


def test_files_of_an_older_release_are_removed_and_other_files_kept(hub, release):
    send(hub, release)
    hub.repos[MODEL] |= {"pytorch_model.bin": b"pickle", "assets/logo.svg": b"<svg/>", ".gitattributes": b"lfs"}
    for name in SHARDS[1:]:
        (release / name).unlink()
    send(hub, release, replaces=("model*.safetensors", "config.json", "*.bin"))
    kept = {"README.md", "config.json", SHARDS[0], "assets/logo.svg", ".gitattributes"}
    assert set(hub.repos[MODEL]) == kept
