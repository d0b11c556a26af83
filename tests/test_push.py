"""Publishing, end to end, against a stand-in Hub on this machine: what goes, what a stranger gets, what a failure leaves."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from huggingface_hub import HfApi

from dataset_builders.a5_222k import A5222KConfig
from dataset_builders.a5_222k_release import write_release
from dataset_builders.built_folder import build_folder
from dataset_builders.media import MediaWriter
from dataset_builders.schema import FEATURES
from model_card import push as push_module
from model_card.dataset_release import assemble_dataset, find_dataset_problems
from model_card.push import upload
from modeling_avicuna import AVicunaForConditionalGeneration, AVicunaProcessor
from tests.curation_fixtures import quick_settings, write_captions
from tests.hub_server import TOKEN, serve_hub
from tests.train_fixtures import run_stage, stage_arguments, workshop  # noqa: F401
from train.arguments import parse_arguments
from train.initialize import build_tiny
from train.publishing import publish_stage


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

# what the card shows, as it stands (but for the length of the answer), and the pipeline that came along
READER = """
from huggingface_hub import hf_hub_download
from transformers import pipeline

card = open(hf_hub_download("user/avicuna", "README.md"), encoding="utf-8").read()
sample = card.split("```python\\n")[1].split("```")[0].replace("max_new_tokens=128", "max_new_tokens=4")
exec(compile(sample, "card", "exec"))
locate = pipeline(task="audio-visual-event-localization", model="user/avicuna", trust_remote_code=True)
print(type(locate(hf_hub_download("user/avicuna", "example.mp4"), max_new_tokens=4)).__name__)
"""


def run_as_a_stranger(code: str, hub, home: Path, *arguments: str) -> str:
    """Run `code` in a process that has neither the project nor its cache; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=home,
        env={**hub.environment(home), "HF_MODULES_CACHE": str(home / "modules"), "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_a_pushed_model_loads_by_its_revision_in_a_process_without_the_project(hub, checkpoint, tmp_path, capsys):
    video = tmp_path / "clip.mp4"
    write_example(video)
    arguments = ("--model", str(checkpoint), "--repo-id", "user/avicuna", "--example-video", str(video))
    push_module.main([*arguments, "--dry-run"])
    told = capsys.readouterr().out
    assert "model.safetensors" in told and "training_args.bin" not in told
    assert hub.requests == [], "a dry run asked the Hub"
    done = push(hub, tmp_path, *arguments, "--revision", "v1")
    assert done.returncode == 0, done.stderr
    assert MODEL not in hub.private
    assert hub.repos[MODEL] == {}, "only the branch was to be written"
    published = hub.branches["models", "user/avicuna", "v1"]
    assert published["example.mp4"] == video.read_bytes()
    assert "training_args.bin" not in published and "modeling_avicuna.py" in published
    told = run_as_a_stranger(STRANGER, hub, tmp_path, "v1")
    assert float(told.split()[-1]) == pytest.approx(logits_in_memory(checkpoint), abs=1e-6)


def test_the_card_of_a_pushed_model_runs_as_it_stands(hub, checkpoint, tmp_path, monkeypatch):
    """Without a video given, the release carries one of the sandbox; a bare name becomes the user's repository."""
    monkeypatch.setattr(push_module, "HfApi", lambda: HfApi(endpoint=hub.address, token=TOKEN))
    push_module.main(["--model", str(checkpoint), "--repo-id", "avicuna"])
    published = hub.repos[MODEL]
    assert published["example.mp4"][4:8] == b"ftyp"
    assert b"not run" in published["README.md"] and b"user/avicuna" in published["README.md"]
    told = run_as_a_stranger(READER, hub, tmp_path)
    assert told.strip().splitlines()[-1] == "list"


def logits_in_memory(checkpoint: Path) -> float:
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


def test_training_ends_in_the_same_release(hub, workshop, tmp_path, monkeypatch):  # noqa: F811
    """`--push_to_hub` publishes what `python -m model_card.push` would: no training state, a card with the log."""
    for name, value in hub.environment(tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "1")
    push_options = {"push_to_hub": True, "hub_model_id": "user/avicuna", "save_strategy": "steps", "save_steps": 1}
    output = run_stage(workshop, "composed", tmp_path / "stage3", use_peft=True, lora_r=4, **push_options)
    assert (output / "checkpoint-2").is_dir() and (output / "adapter").is_dir()
    published = hub.repos[MODEL]
    assert published["model.safetensors"] == (output / "model.safetensors").read_bytes()
    assert not [name for name in published if "/" in name or name.startswith(("training", "optimizer"))]
    assert b"| LoRA | pseudo-valor 8 | 0 | 2 |" in published["README.md"]
    assert "example.mp4" in published and "chat_template.jinja" in published and MODEL not in hub.private
    hub.faults["POST .*/commit/"] = 403
    training = parse_arguments(
        stage_arguments(workshop, "composed", output, trainable="vision_adapter", **push_options)
    )[2]
    with pytest.raises(RuntimeError, match="is trained, but not published.*--repo-id user/avicuna"):
        publish_stage(training)


def test_an_adapter_names_its_base_on_the_hub(hub, tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    config = {"base_model_name_or_path": "/home/me/base", "r": 8, "lora_alpha": 16, "lora_dropout": 0.0}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    arguments = ("--adapter", str(folder), "--repo-id", "user/avicuna-lora")
    refused = push(hub, tmp_path, *arguments)
    assert refused.returncode != 0 and "--base-model" in refused.stderr
    done = push(hub, tmp_path, *arguments, "--base-model", "user/avicuna")
    assert done.returncode == 0, done.stderr
    published = hub.repos["models", "user/avicuna-lora"]
    assert json.loads(published["adapter_config.json"]) == {**config, "base_model_name_or_path": "user/avicuna"}
    assert b"base_model: user/avicuna" in published["README.md"]


def test_the_card_of_a_pushed_adapter_runs_as_it_stands(hub, workshop, tmp_path, monkeypatch):  # noqa: F811
    """LoRA of a real stage, on its base, in a process without the project: the logits of the merged model."""
    api = HfApi(endpoint=hub.address, token=TOKEN)
    monkeypatch.setattr(push_module, "HfApi", lambda: api)
    upload(workshop.checkpoint, api=api, repo_id="user/avicuna-stage2")
    output = run_stage(workshop, "composed", tmp_path / "stage3", use_peft=True, lora_r=4, lora_alpha=64)
    push_module.main(
        ["--adapter", str(output / "adapter"), "--base-model", "user/avicuna-stage2", "--repo-id", "user/lora"]
    )
    card = hub.repos["models", "user/lora"]["README.md"].decode()
    assert "| pseudo-valor 8 | 2 | 4 | 0.01 |" in card and "Rank 4, alpha 64" in card
    sample = card.split("```python\n")[1].split("```")[0]
    asked = "print(model.eval()(input_ids=torch.arange(3, 9)[None]).logits.double().sum().item())"
    told = run_as_a_stranger(f"import torch\n{sample}\n{asked}", hub, tmp_path)
    merged = AVicunaForConditionalGeneration.from_pretrained(output).eval()
    assert float(told.split()[-1]) == pytest.approx(
        merged(input_ids=torch.arange(3, 9)[None]).logits.double().sum().item(), rel=1e-4
    )


def test_a_full_disk_ends_before_anything_is_sent(hub, checkpoint, monkeypatch):
    def write(*places, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("model_card.release.shutil.copy2", write)
    with pytest.raises(SystemExit, match="No space left on device"):
        push_module.main(["--model", str(checkpoint), "--repo-id", "user/avicuna"])
    assert hub.requests == []


def test_a_card_that_loads_another_repository_is_refused(checkpoint, tmp_path):
    card = tmp_path / "card.md"
    card.write_text('```python\nmodel = AutoModel.from_pretrained("user/other", trust_remote_code=True)\n```\n')
    line = ["--model", str(checkpoint), "--repo-id", "user/avicuna", "--card", str(card), "--dry-run"]
    with pytest.raises(SystemExit, match="loads user/other, but the release goes to user/avicuna"):
        push_module.main(line)


LOAD_DATASET = """
import sys
from datasets import load_dataset

rows = load_dataset("user/pu_valor", split="train")
assert list(load_dataset("user/pu_valor", split="train", streaming=True)) == list(rows)
assert not [name for name in sys.modules if name.startswith("dataset_builders")]
print(len(rows), rows.features)
"""


def test_a_pushed_dataset_loads_in_a_process_without_the_project(hub, tmp_path, monkeypatch):
    folder = build_folder(quick_settings(write_captions(tmp_path / "desc.json"), num_videos=9), tmp_path / "built")
    monkeypatch.setattr(push_module, "HfApi", lambda: HfApi(endpoint=hub.address, token=TOKEN))
    push_module.main(["--dataset", str(folder), "--repo-id", "user/pu_valor"])
    published = hub.repos["datasets", "user/pu_valor"]
    for path in folder.rglob("*.parquet"):
        assert published[path.relative_to(folder).as_posix()] == path.read_bytes()
    assert b'load_dataset("user/pu_valor"' in published["README.md"] and "report.json" in published
    assert ("datasets", "user/pu_valor") not in hub.private
    assert run_as_a_stranger(LOAD_DATASET, hub, tmp_path).strip() == f"9 {FEATURES}"


def test_a_published_dataset_names_files_and_no_places_of_this_machine(tmp_path):
    """A5-222K built with the clips' folder holds absolute paths, in its rows and in its report."""
    captions, clips = write_captions(tmp_path / "desc.json", num_clips=3), tmp_path / "clips"
    for record in json.loads(captions.read_text()):
        write_example(clips / f"{record['video_id']}.mp4", seconds=1)
    config = A5222KConfig(captions_file=str(captions), clips_dir=str(clips), num_pairs=None)
    folder = write_release(config, tmp_path / "a5")
    assert str(clips) in (folder / "report.json").read_text()
    assemble_dataset(folder, output=tmp_path / "release", card="---\nlicense: other\n---\n")
    assert find_dataset_problems(tmp_path / "release") == []
    before, after = (
        pq.read_table(next((root / "data").glob("*.parquet"))).to_pylist() for root in (folder, tmp_path / "release")
    )
    for old, new in zip(before, after, strict=True):
        assert old["media"]["audio"] == str(clips / new["media"]["audio"])
        assert {**old, "media": None} == {**new, "media": None}
    assert str(tmp_path) not in (tmp_path / "release" / "report.json").read_text()


def test_rendered_videos_are_published_on_purpose_only(tmp_path):
    folder = tmp_path / "built"
    (folder / "data").mkdir(parents=True)
    (folder / "videos").mkdir()
    (folder / "videos" / "a.mp4").write_bytes(b"mp4")
    pq.write_table(pa.table({"id": ["a"], "video": [b"mp4"]}), folder / "data" / "train-0.parquet")
    card = (
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*.parquet\n---\n"
    )
    without = assemble_dataset(folder, output=tmp_path / "without", card=card)
    assert not [path for path in without if path.suffix == ".mp4"]
    (problem,) = find_dataset_problems(tmp_path / "without")
    assert "data/train-0.parquet holds the videos themselves" in problem
    assert any(
        path.suffix == ".mp4"
        for path in assemble_dataset(folder, output=tmp_path / "with", card=card, include_media=True)
    )
    assert find_dataset_problems(tmp_path / "with", include_media=True) == []
    (tmp_path / "with" / "data" / "train-0.parquet").unlink()
    (problem,) = find_dataset_problems(tmp_path / "with", include_media=True)
    assert "README.md promises the split train" in problem


def test_an_unfinished_build_is_not_published(tmp_path):
    (tmp_path / "built" / ".build").mkdir(parents=True)
    with pytest.raises(ValueError, match="unfinished build"):
        assemble_dataset(tmp_path / "built", output=tmp_path / "release", card="")


def write_example(path: Path, *, seconds: int = 2) -> None:
    """A brightening frame and a tone."""
    with MediaWriter(path, width=64, height=64, fps=8, sampling_rate=48000, num_channels=1) as writer:
        for index in range(8 * seconds):
            writer.write_frame(np.full((64, 64, 3), 10 * index, np.uint8))
        writer.write_audio(np.sin(np.arange(48000 * seconds) / 20).astype(np.float32)[None])
