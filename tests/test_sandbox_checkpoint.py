"""The trained checkpoint in the repository: files, code and results; and a short training that uses its media."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModel, AutoProcessor

import modeling_avicuna
from dataset_builders.features.feature_store import FeatureStore, FeatureWriter
from dataset_builders.sandbox import make_world
from dataset_builders.sandbox.world import TimeLine
from eval.run import main as evaluate
from examples import ship_checkpoint
from examples.sandbox_recipe import PROJECT, WORLDS
from examples.ship_checkpoint import FIRST, SEED
from train.extract_features import main as extract
from train.initialize import main as initialize
from train.sft import main as train


CODE = Path(modeling_avicuna.__file__).parent
CHECKPOINT = PROJECT / ship_checkpoint.CHECKPOINT
MOST_BYTES = 4_000_000


def test_the_code_of_the_checkpoint_is_linked_to_the_project_and_complete(tmp_path):
    """A saved copy of the checkpoint has the same files."""
    for part in (AutoModel, AutoProcessor):
        part.from_pretrained(CHECKPOINT).save_pretrained(tmp_path)
    linked = {path.name: path for path in CHECKPOINT.glob("*.py")}
    wanted = {path.name for path in tmp_path.glob("*.py")}
    assert set(linked) == wanted, f"link {sorted(wanted - set(linked))}, remove {sorted(set(linked) - wanted)}"
    for name, path in linked.items():
        assert path.is_symlink() and path.resolve() == CODE / name and not os.readlink(path).startswith("/")
        assert path.read_bytes() == (tmp_path / name).read_bytes()


def test_the_checkpoint_is_small_and_records_its_training():
    assert sum(path.stat().st_size for path in CHECKPOINT.iterdir() if not path.is_symlink()) < MOST_BYTES
    summary = json.loads((CHECKPOINT / "training_summary.json").read_text())
    stages = [stage["stage"] for stage in summary["started_from"]["stages"]] + [summary["stage"]]
    assert stages == ["stage1", "stage2", "stage2_warmup", "stage3", "stage4"]
    assert (CHECKPOINT / "README.md").read_text().startswith("---\n")


def test_the_checkpoint_loads_without_the_project(tmp_path):
    script = (
        "from transformers import AutoModel, AutoProcessor\n"
        f"for part in (AutoModel, AutoProcessor):\n    loaded = part.from_pretrained({str(CHECKPOINT)!r}, "
        "trust_remote_code=True)\nprint(type(loaded).__module__)\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_MODULES_CACHE": str(tmp_path)}
    command = [sys.executable, "-P", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("transformers_modules."), done.stderr[-2000:]


def test_the_checkpoint_reaches_its_recorded_average_precision(tmp_path):
    """On the first 20 of the 60 held-out videos, created again from the seed."""
    values = [float(word) for word in WORLDS["plain"] if not word.startswith("--")]
    time_line = {"event_seconds": tuple(values[:2]), "video_seconds": tuple(map(int, values[2:]))}
    make_world(tmp_path, num_clips=0, num_test_videos=FIRST, seed=SEED, time_line=TimeLine(**time_line))
    stated = json.loads((CHECKPOINT / f"results_first_{FIRST}.json").read_text())
    evaluate(
        f"--task sandbox_query --model {CHECKPOINT} --annotations {tmp_path}/annotations.json --media-dir "
        f"{tmp_path}/test --output {tmp_path}/eval --batch-size 28 --max-new-tokens 40 --score presence".split()
    )
    measured = json.loads((tmp_path / "eval" / "results.json").read_text())
    assert measured["metrics"]["average_mAP"] == pytest.approx(stated["metrics"]["average_mAP"], abs=3)


def test_a_short_training_learns_from_its_media(tmp_path):
    """Stage I for 80 steps on the labels of 56 clips, with their features and with zeros."""
    make_world(tmp_path / "world", num_clips=56)
    captions, clips = tmp_path / "world" / "captions.json", tmp_path / "world" / "clips"
    initialize(
        f"--size tiny --language-model biogpt --alignment centred --window-seconds 2 --stride-seconds 1 "
        f"--captions-file {captions} --media-dir {clips} --output {tmp_path}/stage0".split()
    )
    extract(f"--model {tmp_path}/stage0 --media-dir {clips} --output {tmp_path}/seen".split())
    store = FeatureStore(tmp_path / "seen")
    with FeatureWriter(tmp_path / "unseen", settings=store.settings) as writer:
        for clip in clips.iterdir():
            video, audio = store.video(clip.stem), store.audio(clip.stem)
            writer.add(clip.stem, video=np.zeros_like(video), audio=np.zeros_like(audio), duration=10.0)
    losses = {}
    for name in ("seen", "unseen"):
        train(
            f"--config train/recipes/sandbox/stage1.yaml --data_dir {tmp_path}/world --features_dir {tmp_path}/{name} "
            f"--model_name_or_path {tmp_path}/stage0 --output_dir {tmp_path}/{name}_stage1".split()
            + ["--datasets", json.dumps({"path": "image_text", "options": {"captions_file": "short_captions.json"}})]
        )
        losses[name] = json.loads((tmp_path / f"{name}_stage1" / "training_summary.json").read_text())["final_loss"]
    assert losses["seen"] < 0.75 * losses["unseen"], losses
