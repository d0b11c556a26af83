"""Publishing to a local Hub: the published files, loading them without the project, and failures."""

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi

from dataset_builders.media_writer import MediaWriter
from model_card import push as push_module
from model_card import write as write_module
from model_card.release.fresh_process import HIDE_PROJECT
from model_card.release.upload import upload
from modeling_avicuna import AVicunaForConditionalGeneration, AVicunaProcessor
from tests.hub_server import TOKEN
from tests.train_fixtures import run_stage, stage_arguments, workshop  # noqa: F401
from train.arguments import parse_arguments
from train.initialize import build_tiny
from train.publishing import publish_stage


MODEL = ("models", "user/avicuna")
PROJECT = Path(__file__).resolve().parents[1]
CAPTIONS = ["a dog barking in the yard", "a man playing the guitar", "rain falling on a roof"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A tiny checkpoint with its processor."""
    folder = tmp_path_factory.mktemp("checkpoint") / "avicuna"
    model, processor = build_tiny(CAPTIONS, num_av_tokens=8)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "training_args.bin").write_bytes(b"a pickle that must not be published")
    return folder


@pytest.fixture(scope="module")
def stage(workshop, tmp_path_factory) -> Path:  # noqa: F811
    """The output of a LoRA stage: the merged model and the adapter."""
    return run_stage(
        workshop, "composed", tmp_path_factory.mktemp("stage") / "stage3", use_peft=True, lora_r=4, lora_alpha=64
    )


def push(hub, home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "model_card.push", *arguments],
        cwd=PROJECT,
        env={**hub.environment(home), **environment},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


LOAD_MODEL = """
import sys
from transformers import AutoModel, AutoProcessor
model = AutoModel.from_pretrained("user/avicuna", trust_remote_code=True, revision=sys.argv[1])
processor = AutoProcessor.from_pretrained("user/avicuna", trust_remote_code=True, revision=sys.argv[1])
assert type(model).__module__.startswith("transformers_modules"), type(model).__module__
inputs = processor(text="USER: hello ASSISTANT:", return_tensors="pt")
print(model(**inputs).logits.double().sum().item())
"""

# the code of the card with a shorter answer, and the published pipeline
RUN_CARD = """
from huggingface_hub import hf_hub_download
from transformers import pipeline

card = open(hf_hub_download("user/avicuna", "README.md"), encoding="utf-8").read()
sample = card.split("```python\\n")[1].split("```")[0].replace("max_new_tokens=128", "max_new_tokens=4")
exec(compile(sample, "card", "exec"))
locate = pipeline(task="audio-visual-event-localization", model="user/avicuna", trust_remote_code=True)
print(type(locate(hf_hub_download("user/avicuna", "example.mp4"), max_new_tokens=4)).__name__)
"""


def run_without_project(code: str, hub, home: Path, *arguments: str) -> str:
    """Run `code` in a process without the project and with an empty cache; returns its output."""
    done = subprocess.run(
        [sys.executable, "-c", HIDE_PROJECT + code, *arguments],
        cwd=home,
        env={**hub.environment(home), "HF_MODULES_CACHE": str(home / "modules"), "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_a_pushed_model_loads_by_its_revision_without_the_project(hub, checkpoint, tmp_path, capsys):
    video = tmp_path / "clip.mp4"
    write_example(video)
    arguments = ("--model", str(checkpoint), "--repo-id", "user/avicuna", "--example-video", str(video))
    push_module.main([*arguments, "--dry-run"])
    printed = capsys.readouterr().out
    assert "model.safetensors" in printed and "training_args.bin" not in printed
    assert hub.requests == [], "a dry run must not send a request"
    done = push(hub, tmp_path, *arguments, "--revision", "v1")
    assert done.returncode == 0, done.stderr
    assert MODEL not in hub.private
    assert hub.repos[MODEL] == {}, "only the branch must be written"
    published = hub.branches["models", "user/avicuna", "v1"]
    assert published["example.mp4"] == video.read_bytes()
    assert "training_args.bin" not in published and "modeling_avicuna.py" in published
    assert published["README.md"].count(b'revision="v1"') == 3, "the code of the card must load the branch"
    printed = run_without_project(LOAD_MODEL, hub, tmp_path, "v1")
    assert float(printed.split()[-1]) == pytest.approx(logits_in_memory(checkpoint), abs=1e-6)


def test_the_code_in_the_card_of_a_pushed_model_runs(hub, checkpoint, tmp_path, monkeypatch):
    """With the default example video, from the sandbox, and a repository name without owner."""
    monkeypatch.setattr(push_module, "HfApi", lambda: HfApi(endpoint=hub.address, token=TOKEN))
    push_module.main(["--model", str(checkpoint), "--repo-id", "avicuna"])
    published = hub.repos[MODEL]
    assert published["example.mp4"][4:8] == b"ftyp"
    assert b"not run" in published["README.md"] and b"user/avicuna" in published["README.md"]
    printed = run_without_project(RUN_CARD, hub, tmp_path)
    assert printed.strip().splitlines()[-1] == "list"


def test_a_space_is_tested_and_published_with_the_model(hub, checkpoint, monkeypatch, capsys):
    pytest.importorskip("gradio", reason="Gradio is not installed: the extra `space`")
    monkeypatch.setattr(push_module, "HfApi", lambda: HfApi(endpoint=hub.address, token=TOKEN))
    line = ["--model", str(checkpoint), "--repo-id", "avicuna", "--space-id", "avicuna-demo"]
    push_module.main(line)
    assert "the Space starts in a fresh process and answers: " in capsys.readouterr().out
    space = hub.repos["spaces", "user/avicuna-demo"]
    assert set(space) == {"README.md", "app.py", "requirements.txt"}
    assert hub.space_sdks["user/avicuna-demo"] == "gradio"
    assert b'MODEL_ID = "user/avicuna"' in space["app.py"] and b"- user/avicuna\n" in space["README.md"]
    assert ("spaces", "user/avicuna-demo") not in hub.private and "model.safetensors" in hub.repos[MODEL]
    for wrong in (["--revision", "v1"], ["--revision", "main"]):
        with pytest.raises(ValueError, match="--space-id requires --model and excludes --revision"):
            push_module.main([*line, *wrong])


def logits_in_memory(checkpoint: Path) -> float:
    model = AVicunaForConditionalGeneration.from_pretrained(checkpoint)
    inputs = AVicunaProcessor.from_pretrained(checkpoint)(text="USER: hello ASSISTANT:", return_tensors="pt")
    return model(**inputs).logits.double().sum().item()


def test_a_launched_training_publishes_a_model_without_training_state(hub, workshop, tmp_path):  # noqa: F811
    """`accelerate launch train/sft.py --push_to_hub`: no training state, no adapter, a card with the log."""
    output = tmp_path / "stage3"
    push_options = {"push_to_hub": True, "hub_model_id": "user/avicuna", "save_strategy": "steps", "save_steps": 1}
    options = stage_arguments(workshop, "composed", output, use_peft=True, lora_r=4, **push_options)
    launcher = Path(sys.executable).with_name("accelerate")
    done = subprocess.run(
        [launcher, "launch", "--num_processes", "1", "--cpu", "train/sft.py", *options],
        cwd=PROJECT,
        env=hub.environment(tmp_path / "home"),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (output / "checkpoint-2").is_dir() and (output / "adapter").is_dir()
    published = hub.repos[MODEL]
    assert published["model.safetensors"] == (output / "model.safetensors").read_bytes()
    assert not [name for name in published if "/" in name or name.startswith(("training_args", "optimizer"))]
    assert b"| LoRA | pseudo-valor 8 | 0 | 2 |" in published["README.md"]
    assert [entry["step"] for entry in json.loads(published["training_summary.json"])["log"]] == [1, 2]
    assert str(tmp_path).encode() not in published["training_summary.json"]
    assert "example.mp4" in published and "chat_template.jinja" in published and MODEL not in hub.private


def test_a_failed_push_after_training_keeps_the_model_and_names_the_command(hub, workshop, tmp_path, monkeypatch):  # noqa: F811
    output = run_stage(workshop, "composed", tmp_path / "stage", trainable="vision_adapter")
    line = stage_arguments(workshop, "composed", output, trainable="vision_adapter", hub_model_id="user/avicuna")
    training = parse_arguments(line)[2]
    for name, value in hub.environment(tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    hub.faults["POST .*/commit/"] = 403
    with pytest.raises(RuntimeError, match="is trained, but not published.*--repo-id user/avicuna"):
        publish_stage(training)
    assert not hub.repos[MODEL] and (output / "model.safetensors").is_file()


DESCRIBE_START = """
import json
from train.summary import describe_start

print(json.dumps(describe_start("user/avicuna")))
"""


def test_a_stage_that_starts_from_the_hub_records_the_earlier_stages(hub, stage, tmp_path):
    upload(stage, api=HfApi(endpoint=hub.address, token=TOKEN), repo_id="user/avicuna")
    done = subprocess.run(
        [sys.executable, "-c", DESCRIBE_START],
        cwd=PROJECT,
        env=hub.environment(tmp_path / "home"),
        capture_output=True,
        text=True,
        check=True,
    )
    start, summary = json.loads(done.stdout), json.loads((stage / "training_summary.json").read_text())
    assert start == {**summary.pop("started_from"), "stages": [summary]}


def test_an_adapter_names_its_base_on_the_hub(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(push_module, "HfApi", lambda: HfApi(endpoint=hub.address, token=TOKEN))
    folder = tmp_path / "adapter"
    folder.mkdir()
    config = {"base_model_name_or_path": "/home/me/base", "r": 8, "lora_alpha": 16, "lora_dropout": 0.0}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    line = ["--adapter", str(folder), "--repo-id", "user/avicuna-lora"]
    with pytest.raises(ValueError, match="--base-model"):
        push_module.main(line)
    with pytest.raises(ValueError, match="--base-model user/avicuna: the Hub has no such model"):
        push_module.main([*line, "--base-model", "user/avicuna"])
    assert ("models", "user/avicuna-lora") not in hub.repos
    hub.repos["models", "user/avicuna"] = {"config.json": b"{}"}
    push_module.main([*line, "--base-model", "user/avicuna"])
    assert "not tested: its base model /home/me/base is not on this machine" in capsys.readouterr().out
    published = hub.repos["models", "user/avicuna-lora"]
    assert json.loads(published["adapter_config.json"]) == {**config, "base_model_name_or_path": "user/avicuna"}
    assert b"base_model: user/avicuna" in published["README.md"] and "Notice" not in published


def test_the_code_in_the_card_of_a_pushed_adapter_runs(hub, workshop, stage, tmp_path, monkeypatch, capsys):  # noqa: F811
    """Without the project, base and adapter give the logits of the merged model."""
    api = HfApi(endpoint=hub.address, token=TOKEN)
    monkeypatch.setattr(push_module, "HfApi", lambda: api)
    upload(workshop.checkpoint, api=api, repo_id="user/avicuna-stage2")
    push_module.main(
        ["--adapter", str(stage / "adapter"), "--base-model", "user/avicuna-stage2", "--repo-id", "user/lora"]
    )
    assert f"loads on {workshop.checkpoint} in a fresh process as PeftModel" in capsys.readouterr().out
    assert set(hub.repos["models", "user/lora"]) == {
        "README.md",
        "LICENSE.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    card = hub.repos["models", "user/lora"]["README.md"].decode()
    assert "| pseudo-valor 8 | 2 | 4 | 0.01 |" in card and "Rank 4, alpha 64" in card
    sample = card.split("```python\n")[1].split("```")[0]
    code = "print(model.eval()(input_ids=torch.arange(3, 9)[None]).logits.double().sum().item())"
    printed = run_without_project(f"import torch\n{sample}\n{code}", hub, tmp_path)
    merged = AVicunaForConditionalGeneration.from_pretrained(stage).eval()
    assert float(printed.split()[-1]) == pytest.approx(
        merged(input_ids=torch.arange(3, 9)[None]).logits.double().sum().item(), rel=1e-4
    )


def test_an_error_while_writing_the_release_sends_nothing(hub, checkpoint, monkeypatch):
    def write(*paths, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("model_card.release.model_release.shutil.copy2", write)
    with pytest.raises(OSError, match="No space left on device"):
        push_module.main(["--model", str(checkpoint), "--repo-id", "user/avicuna"])
    assert hub.requests == []


def test_a_full_disk_is_an_error_and_nothing_is_sent(hub, checkpoint, tmp_path):
    """The release is assembled on a file system of 64 KiB in a separate mount namespace."""
    disk = tmp_path / "disk"
    disk.mkdir()
    small = f"mount -t tmpfs -o size=64k tmpfs {disk}"
    if subprocess.run(["unshare", "-rm", "sh", "-c", small], capture_output=True).returncode:
        pytest.skip("this machine does not allow mounting a file system in a user namespace")
    line = [sys.executable, "-m", "model_card.push", "--model", str(checkpoint), "--repo-id", "user/avicuna"]
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", f'{small} && TMPDIR={disk} exec "$@"', "sh", *line],
        cwd=PROJECT,
        env=hub.environment(tmp_path / "home"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "No space left on device" in done.stderr.strip().splitlines()[-1], done.stderr
    assert hub.requests == []


def test_a_card_of_other_weights_is_an_error(checkpoint, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(checkpoint, other)
    write_module.main(["--model", str(other), "--repo-id", "user/avicuna"])
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "audio_interleaving_rate": 0.5}))
    with pytest.raises(ValueError, match="was written for other weights or settings"):
        push_module.main(["--model", str(other), "--repo-id", "user/avicuna", "--dry-run"])


def test_a_card_that_loads_another_repository_is_an_error(checkpoint, tmp_path):
    card = tmp_path / "card.md"
    card.write_text('```python\nmodel = AutoModel.from_pretrained("user/other", trust_remote_code=True)\n```\n')
    line = ["--model", str(checkpoint), "--repo-id", "user/avicuna", "--card", str(card), "--dry-run"]
    with pytest.raises(ValueError, match="loads user/other, but the release goes to user/avicuna"):
        push_module.main(line)


def write_example(path: Path, *, seconds: int = 2) -> None:
    """Frames of increasing brightness and a tone."""
    with MediaWriter(path, width=64, height=64, fps=8, sampling_rate=48000, num_channels=1) as writer:
        for index in range(8 * seconds):
            writer.write_frame(np.full((64, 64, 3), 10 * index, np.uint8))
        writer.write_audio(np.sin(np.arange(48000 * seconds) / 20).astype(np.float32)[None])
