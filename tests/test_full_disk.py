"""A disk that is full is one line on stderr, and no half-written file has the name of a finished one.

The limit of the size of a file stands for the full disk: the operating system refuses the write in the same way.
"""

import contextlib
import resource

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file

from dataset_builders.atomic_files import write_json
from dataset_builders.command_line import one_line_errors
from dataset_builders.features.feature_store import FeatureWriter, read_parts
from dataset_builders.media_writer import MediaWriter
from dataset_builders.release.pu_valor_folder import write_parquet
from train.resuming import newest_checkpoint


NUMBERS = np.random.default_rng(0).normal(size=(400, 256))


@contextlib.contextmanager
def full_disk(num_bytes: int = 20_000):
    """In the body, no file can grow beyond `num_bytes`."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write_video(path):
    frames = np.random.default_rng(0).integers(0, 255, (30, 96, 96, 3), np.uint8)
    with MediaWriter(path, width=96, height=96, fps=8) as writer:
        for frame in frames:
            writer.write_frame(frame)


def write_features(path):
    with FeatureWriter(path) as writer:
        writer.add("clip", video=NUMBERS, audio=NUMBERS, duration=1.0)


WRITERS = {
    "a.mp4": write_video,
    "a.parquet": lambda path: write_parquet(pa.table({"a": NUMBERS.ravel()}), path),
    "a.json": lambda path: write_json(path, NUMBERS.tolist()),
    "a.safetensors": lambda path: save_file({"a": torch.from_numpy(NUMBERS)}, path),
    "features": write_features,
    "optimizer.pt": lambda path: torch.save({"a": torch.from_numpy(NUMBERS)}, path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_line(name, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"), one_line_errors("command"), full_disk():
        WRITERS[name](tmp_path / name)
    message = capsys.readouterr().err
    assert message.startswith("command: error: ") and message.count("\n") == 1
    assert "large" in message or "disk is full" in message
    if name == "features":
        assert not list(read_parts(tmp_path / name))
    elif name != "optimizer.pt":
        assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_with_a_half_written_optimizer_is_not_resumed(tmp_path):
    checkpoint = tmp_path / "checkpoint-1"
    checkpoint.mkdir()
    with contextlib.suppress(RuntimeError), full_disk():
        torch.save({"a": torch.from_numpy(NUMBERS)}, checkpoint / "optimizer.pt")
    (checkpoint / "trainer_state.json").write_text("{}", encoding="utf-8")
    assert (checkpoint / "optimizer.pt").exists() and newest_checkpoint(tmp_path) is None


def test_other_errors_keep_their_traceback():
    with pytest.raises(RuntimeError, match="a mistake of ours"), one_line_errors("command"):
        raise RuntimeError("a mistake of ours")
