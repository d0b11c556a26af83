"""Fixtures of the training tests: a tiny checkpoint, random cached features, rows of every kind, a stage runner.

Everything is created once per session in a temporary folder. No media are decoded.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file

from dataset_builders.features.feature_store import FeatureWriter
from dataset_builders.schema import FEATURES, MEDIA
from dataset_builders.sources.rows import make_row
from train import sft
from train.initialize import build_tiny


FEATURE_SIZE = 64
NUM_CLIPS = 6
CAPTIONS = [
    "A dog barks in the garden.",
    "Rain falls on a tin roof.",
    "Two people talk in a kitchen.",
    "A bell rings twice.",
    "A train passes by.",
    "Somebody plays the piano.",
]
# fp32 on one core, no download, no reporting
QUIET = {
    "bf16": False,
    "use_cpu": True,
    "gradient_checkpointing": False,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "per_device_train_batch_size": 4,
    "effective_batch_size": 4,
    "max_steps": 2,
    "learning_rate": 0.01,
    "warmup_steps": 0,
}


@dataclass(frozen=True)
class Workshop:
    """Paths of the session: `checkpoint`, `features`, and one Parquet file per kind of row."""

    folder: Path

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint"

    @property
    def features(self) -> Path:
        return self.folder / "features"

    def rows(self, kind: str) -> Path:
        return self.folder / f"{kind}.parquet"


def image_rows() -> list[dict]:
    return [
        make_row(f"image-{n}", source="images", turns=[("What is this?", text)], image=f"clip{n}.jpg")
        for n, text in enumerate(CAPTIONS)
    ]


def audio_rows() -> list[dict]:
    return [
        make_row(f"audio-{n}", source="sounds", turns=[("What is heard?", text)], audio=f"clip{n}.wav")
        for n, text in enumerate(CAPTIONS)
        if n != NUM_CLIPS - 1  # the last clip is silent
    ]


def composed_row(number: int, clips: list[int]) -> dict:
    """A virtual pseudo-untrimmed row of 10-s clips with a question about its first clip."""
    row = make_row(
        f"composed-{number}",
        source="pseudo-valor",
        turns=[(f'When does "{CAPTIONS[clips[0]]}" happen?', "From <s0> to <e0>.")],
        video="none",
        duration=10.0 * len(clips),
        times={"s0": 0.0, "e0": 10.0},
    )
    row["media"] = dict.fromkeys(MEDIA)
    row["segments"] = [
        {"clip_id": f"clip{clip}", "start": 10.0 * k, "end": 10.0 * (k + 1), "scale": 1.0, "caption": CAPTIONS[clip]}
        for k, clip in enumerate(clips)
    ]
    return row


def video_rows() -> list[dict]:
    return [
        make_row(
            f"video-{n}",
            source="unav100",
            turns=[("What happens?", f"From <s0> to <e0>, {text} "), ("And then?", "No event.")],
            video=f"clip{n}.mp4",
            duration=10.0,
            times={"s0": 1.0 * n, "e0": 5.0 + n / 2},
        )
        for n, text in enumerate(CAPTIONS)
    ]


ROWS = {
    "image": image_rows,
    "audio": audio_rows,
    "composed": lambda: [composed_row(n, [n % 5, (n + 1) % 5, (n + 2) % 5][: 2 + n % 2]) for n in range(8)],
    "video": video_rows,
}


def write_features(folder: Path):
    rng = np.random.default_rng(0)
    with FeatureWriter(folder) as writer:
        writer.write_silence(rng.normal(size=FEATURE_SIZE))
        for n in range(NUM_CLIPS):
            audio = rng.normal(size=(0 if n == NUM_CLIPS - 1 else 1, FEATURE_SIZE))
            writer.add(f"clip{n}", video=rng.normal(size=(6, FEATURE_SIZE)), audio=audio, duration=10.0)


@pytest.fixture(scope="session")
def workshop(tmp_path_factory) -> Workshop:
    shop = Workshop(tmp_path_factory.mktemp("workshop"))
    model, processor = build_tiny(CAPTIONS, vocab_size=400, num_av_tokens=8)
    model.save_pretrained(shop.checkpoint)
    processor.save_pretrained(shop.checkpoint)
    write_features(shop.features)
    for kind, make in ROWS.items():
        Dataset.from_list(make(), features=FEATURES).to_parquet(shop.rows(kind))
    return shop


def stage_arguments(shop: Workshop | None, kind: str, output: Path, **overrides) -> list[str]:
    """The command line of a two-step stage on rows of `kind`; `overrides` replace or add arguments."""
    values = {**QUIET, "output_dir": output}
    if shop is not None:
        values |= {"model_name_or_path": shop.checkpoint, "features_dir": shop.features, "datasets": shop.rows(kind)}
    values |= overrides
    line = []
    for name, value in values.items():
        if value is not None:
            line += [f"--{name}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    return line


def run_stage(shop: Workshop | None, kind: str, output: Path, **overrides) -> Path:
    sft.main(stage_arguments(shop, kind, output, **overrides))
    return output


def saved_weights(folder: Path, name: str = "model.safetensors") -> dict[str, torch.Tensor]:
    return load_file(folder / name)


def changed_names(before: Path, after: Path) -> set[str]:
    """Names of the tensors that differ between two checkpoints with the same names."""
    old, new = saved_weights(before), saved_weights(after)
    assert old.keys() == new.keys()
    return {name for name in old if not torch.equal(old[name], new[name])}
