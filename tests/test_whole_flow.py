"""From captioned clips to an answer with all packages, by the commands of a user; and errors for wrong input.

Three clips are rendered into a pseudo-untrimmed video, one training step runs on it, and the trained checkpoint
answers about the video. A shortened demo is a slow test.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset, load_dataset
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor

import dataset_builders  # noqa: F401  (registers the builders)
import modeling_avicuna  # noqa: F401  (registers the auto classes)
from dataset_builders.sandbox.world import make_world
from dataset_builders.schema import FEATURES
from dataset_builders.sources.rows import make_row
from modeling_avicuna.media_avicuna import probe
from tests.media_files import pictures, write_media
from train.initialize import build_tiny


PROJECT = Path(__file__).resolve().parents[1]
BINARIES = Path(sys.executable).parent
CAPTIONS = ["In the room, a cat whirled around the door.", "A man holds a horse and speaks.", "Two men take drinks."]


def run(*command: str | Path, check: bool = True) -> subprocess.CompletedProcess:
    words = [str(word) for word in command]
    words[0] = sys.executable if words[0] == "python" else str(BINARIES / words[0])
    done = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0 or not check, done.stderr[-4000:]
    return done


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """A tiny random checkpoint, as written by `python -m train.initialize --size tiny`."""
    folder = tmp_path_factory.mktemp("start") / "stage0"
    model, processor = build_tiny(CAPTIONS, num_av_tokens=20)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def training_command(start: Path, rows: Path, output: Path) -> tuple:
    return (
        *("accelerate", "launch", "--num_processes", 1, "--cpu", "train/sft.py"),
        *("--config", "train/recipes/sandbox/stage4.yaml", "--datasets", json.dumps({"path": str(rows)})),
        *("--model_name_or_path", start, "--output_dir", output, "--max_steps", 1, "--warmup_steps", 0),
        *("--per_device_train_batch_size", 1, "--effective_batch_size", 1),
    )


def test_a_model_trained_on_a_rendered_video_answers_about_it(start, tmp_path):
    clips = tmp_path / "clips"
    make_world(tmp_path, num_clips=3)
    rows = load_dataset(
        "pu_valor",
        split="train",
        captions_file=str(tmp_path / "captions.json"),
        clips_dir=str(clips),
        num_videos=1,
        clips_per_video=(3, 3),
        max_repeats=1,
        clustering="none",
        coherence_threshold=None,
        ambiguity_threshold=None,
        media="rendered",
        cache_dir=str(tmp_path / "cache"),
    )
    row = rows[0]
    video = Path(row["media"]["video"])
    info = probe(video)
    assert {segment["clip_id"] for segment in row["segments"]} <= {path.stem for path in clips.glob("*.mp4")}
    assert info.duration == pytest.approx(row["duration"], abs=1 / float(info.fps) + 1e-6)
    assert info.has_audio

    (tmp_path / "rows").mkdir()
    rows.to_parquet(tmp_path / "rows" / "train.parquet")
    trained = tmp_path / "trained"
    run(*training_command(start, tmp_path / "rows", trained))
    before, after = load_file(start / "model.safetensors"), load_file(trained / "model.safetensors")
    assert not torch.equal(before["model.vision_adapter.weight"], after["model.vision_adapter.weight"])
    assert not torch.equal(before["model.audio_adapter.weight"], after["model.audio_adapter.weight"])

    model = AutoModel.from_pretrained(trained, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(trained, trust_remote_code=True)
    with_sound = ask(model, processor, {"type": "video", "path": str(video)})
    silent = ask(model, processor, {"type": "video", "path": str(video), "audio": False})
    assert with_sound.shape == silent.shape and not torch.equal(with_sound, silent), "sound must change the logits"


def ask(model, processor, video: dict) -> torch.Tensor:
    """The logits of the first answer token."""
    messages = [{"role": "user", "content": [video, {"type": "text", "text": "What happens, and when?"}]}]
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    generated = model.generate(
        **inputs, max_new_tokens=4, do_sample=False, return_dict_in_generate=True, output_logits=True
    )
    text = processor.batch_decode(generated.sequences[:, inputs["input_ids"].shape[1] :])[0]
    assert isinstance(processor.post_process_events([text], [10.0])[0], list)
    return generated.logits[0]


@pytest.mark.parametrize(
    ("missing", "arguments", "message"),
    [
        (None, ("--learning_rat", "1"), "learning_rat"),
        ("model.safetensors", (), "model.safetensors"),
    ],
    ids=["unknown recipe key", "checkpoint without weights"],
)
def test_the_last_line_of_a_failed_training_names_the_wrong_input(start, tmp_path, missing, arguments, message):
    checkpoint = tmp_path / "stage0"
    checkpoint.mkdir()
    for path in start.iterdir():
        if path.name != missing:
            os.symlink(path, checkpoint / path.name)
    (tmp_path / "rows").mkdir()
    video = write_media(tmp_path / "clip.mp4", frames=pictures(10))
    row = make_row("one", source="test", turns=[("What is this?", "A test.")], video=str(video))
    Dataset.from_list([row], features=FEATURES).to_parquet(tmp_path / "rows" / "train.parquet")
    command = training_command(checkpoint, tmp_path / "rows", tmp_path / "out")
    done = run("python", *command[command.index("train/sft.py") :], *arguments, check=False)
    assert done.returncode != 0
    assert message in done.stderr.strip().splitlines()[-1], done.stderr[-2000:]


def test_a_missing_video_of_the_demo_is_an_error(tmp_path):
    absent = tmp_path / "absent.mp4"
    done = run("python", "examples/demo.py", "--output", tmp_path / "demo", "--video", absent, check=False)
    assert done.returncode == 2 and done.stderr == f"python examples/demo.py: error: {absent} does not exist\n"
    assert not (tmp_path / "demo").exists()


@pytest.mark.slow
def test_the_demo_runs_and_reuses_its_finished_stages(tmp_path):
    output = tmp_path / "demo"
    run("python", "examples/demo.py", "--output", output, "--max-steps", 2)
    results = json.loads((output / "eval" / "results.json").read_text())
    assert {f"mAP@0.{tenth}" for tenth in range(5, 10)} | {"average_mAP"} <= set(results["metrics"])
    assert list((output / "eval" / "timelines").glob("*.png"))
    video = next((output / "world" / "train").glob("*.mp4"))
    again = run("python", "examples/demo.py", "--output", output, "--video", video, "--question", "What is heard?")
    assert "question: What is heard?" in again.stdout and "done already" in again.stdout
