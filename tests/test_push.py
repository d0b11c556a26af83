"""Publishing, end to end, against a stand-in Hub on this machine: what goes, what a stranger gets, what a failure leaves."""

import json
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import HfApi

from dataset_builders.media import MediaWriter
from model_card.push import upload
from tests.hub_server import TOKEN, serve_hub
from train.initialize import build_tiny


MODEL = ("models", "user/avicuna")
PROJECT = Path(__file__).resolve().parents[1]
CAPTIONS = ["a dog barking in the yard", "a man playing the guitar", "rain falling on a roof"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A tiny checkpoint with its processor and a card, as training leaves it."""
    folder = tmp_path_factory.mktemp("checkpoint") / "avicuna"
    model, processor = build_tiny(CAPTIONS, num_av_tokens=8)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: other\n---\n\n# A tiny AVicuna\n")
    (folder / "training_args.bin").write_bytes(b"a pickle that must stay at home")
    return folder


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    with serve_hub() as server:
        yield server


def push(hub, home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "model_card.push", *arguments],
        cwd=PROJECT,
        env={**hub.environment(home), **environment},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


STRANGER = """
import sys, torch
from transformers import AutoModel, AutoProcessor
assert not any(name.startswith("/work") and name.endswith("main") for name in sys.path)
model = AutoModel.from_pretrained("user/avicuna", trust_remote_code=True, revision=sys.argv[1])
processor = AutoProcessor.from_pretrained("user/avicuna", trust_remote_code=True, revision=sys.argv[1])
assert type(model).__module__.startswith("transformers_modules"), type(model).__module__
inputs = processor(text="USER: hello ASSISTANT:", return_tensors="pt")
print(model(**inputs).logits.double().sum().item())
"""


def ask_as_a_stranger(hub, home: Path, revision: str) -> subprocess.CompletedProcess:
    """Load the pushed model in a process that has neither the project nor its cache."""
    return subprocess.run(
        [sys.executable, "-c", STRANGER, revision],
        cwd=home,
        env={**hub.environment(home), "HF_MODULES_CACHE": str(home / "modules"), "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def test_a_pushed_model_loads_by_its_revision_in_a_process_without_the_project(hub, checkpoint, tmp_path):
    video = tmp_path / "clip.mp4"
    write_example(video)
    arguments = ("--model", str(checkpoint), "--repo-id", "user/avicuna", "--example-video", str(video))
    dry = push(hub, tmp_path, *arguments, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "model.safetensors" in dry.stdout and "training_args.bin" not in dry.stdout
    assert hub.requests == [], "a dry run asked the Hub"
    done = push(hub, tmp_path, *arguments, "--revision", "v1")
    assert done.returncode == 0, done.stderr
    assert MODEL not in hub.private
    assert hub.repos[MODEL] == {}, "only the branch was to be written"
    published = hub.branches["models", "user/avicuna", "v1"]
    assert published["example.mp4"] == video.read_bytes()
    assert "training_args.bin" not in published and "modeling_avicuna.py" in published
    stranger = ask_as_a_stranger(hub, tmp_path, "v1")
    assert stranger.returncode == 0, stranger.stderr[-3000:]
    assert float(stranger.stdout.split()[-1]) == pytest.approx(logits_in_memory(checkpoint), abs=1e-6)


def logits_in_memory(checkpoint: Path) -> float:
    from modeling_avicuna import AVicunaForConditionalGeneration, AVicunaProcessor

    model = AVicunaForConditionalGeneration.from_pretrained(checkpoint)
    inputs = AVicunaProcessor.from_pretrained(checkpoint)(text="USER: hello ASSISTANT:", return_tensors="pt")
    return model(**inputs).logits.double().sum().item()


@pytest.fixture
def release(tmp_path) -> Path:
    """A folder as `assemble_release` leaves it, in small: what an upload needs to see."""
    folder = tmp_path / "release"
    folder.mkdir()
    (folder / "README.md").write_text("---\nlicense: other\n---\n")
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(50_000))
    return folder


@pytest.mark.parametrize(
    ("token", "faults", "says"),
    [
        ("hf_wrong", {}, "401"),
        (TOKEN, {"POST .*/commit/": 403}, "403"),
        (TOKEN, {"POST .*/commit/": 507}, "507"),
        (TOKEN, {"PUT /objects/": None}, "broke off"),
    ],
    ids=["wrong token", "no rights", "the hub's disk is full", "connection dropped"],
)
def test_a_failed_upload_says_why_and_publishes_nothing(hub, release, monkeypatch, token, faults, says):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the library waits longer after each lost connection
    hub.faults.update(faults)
    with pytest.raises(RuntimeError, match=f"(?s)user/avicuna.*{says}"):
        upload(release, api=HfApi(endpoint=hub.address, token=token), repo_id="user/avicuna")
    assert not hub.repos.get(MODEL), "half a release stands on the Hub"
    assert MODEL not in hub.repos or MODEL in hub.private


def test_an_upload_without_the_right_to_create_the_repository_names_it(hub, release):
    hub.faults["POST /api/repos/create"] = 403
    with pytest.raises(RuntimeError, match="user/avicuna"):
        upload(release, api=HfApi(endpoint=hub.address, token=TOKEN), repo_id="user/avicuna")


def test_an_interrupted_upload_sends_no_large_file_twice(hub, release):
    api = HfApi(endpoint=hub.address, token=TOKEN)
    hub.faults["POST .*/commit/"] = 403
    with pytest.raises(RuntimeError):
        upload(release, api=api, repo_id="user/avicuna")
    sent = [request for request in hub.requests if request.startswith("PUT /objects/")]
    hub.faults.clear()
    upload(release, api=api, repo_id="user/avicuna")
    assert len(sent) == 1
    assert [request for request in hub.requests if request.startswith("PUT /objects/")] == sent
    assert set(hub.repos[MODEL]) >= {"README.md", "config.json", "model.safetensors"}
    assert MODEL not in hub.private


def test_a_new_repository_opens_only_when_its_commit_stands(hub, release):
    upload(release, api=HfApi(endpoint=hub.address, token=TOKEN), repo_id="user/avicuna")
    commit = next(i for i, request in enumerate(hub.requests) if "/commit/" in request)
    opened = next(i for i, request in enumerate(hub.requests) if request.endswith("/settings"))
    assert commit < opened


def test_a_private_upload_stays_private(hub, release):
    upload(release, api=HfApi(endpoint=hub.address, token=TOKEN), repo_id="user/avicuna", private=True)
    assert MODEL in hub.private


def test_an_adapter_names_its_base_on_the_hub(hub, tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/home/me/base", "r": 8}))
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    (folder / "README.md").write_text("---\nlicense: other\n---\n")
    arguments = ("--adapter", str(folder), "--repo-id", "user/avicuna-lora")
    refused = push(hub, tmp_path, *arguments)
    assert refused.returncode != 0 and "--base-model" in refused.stderr
    done = push(hub, tmp_path, *arguments, "--base-model", "user/avicuna")
    assert done.returncode == 0, done.stderr
    config = json.loads(hub.repos["models", "user/avicuna-lora"]["adapter_config.json"])
    assert config["base_model_name_or_path"] == "user/avicuna"


def write_example(path: Path) -> None:
    """Two seconds of a brightening frame and a tone."""
    with MediaWriter(path, width=64, height=64, fps=8, sampling_rate=48000, num_channels=1) as writer:
        for index in range(16):
            writer.write_frame(np.full((64, 64, 3), 10 * index, np.uint8))
        writer.write_audio(np.sin(np.arange(96000) / 20).astype(np.float32)[None])
