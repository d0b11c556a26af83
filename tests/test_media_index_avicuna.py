"""The remembered index of a media file: no second pass over the same content, and never the index of another."""

import io
import os

import numpy as np
import pytest

from modeling_avicuna import load_video_frames
from modeling_avicuna import media_index_avicuna as media_index
from modeling_avicuna.media_avicuna import MediaFile, load_audio, probe
from tests.media_files import write_ramp


@pytest.fixture
def video(tmp_path):
    return write_ramp(tmp_path / "video.mkv", codec="mpeg4", audio_codec="pcm_s16le", seconds=16)


@pytest.fixture(autouse=True)
def passes(monkeypatch):
    """Names of the files that were read from their beginning to their end. A file counts as settled at once."""
    done, scan = [], MediaFile._scan
    monkeypatch.setattr(media_index, "_remembered", {})
    monkeypatch.setattr(media_index, "SETTLED_SECONDS", 0.0)
    monkeypatch.setattr(MediaFile, "_scan", lambda self: done.append(self.name) or scan(self))
    return done


def read(source) -> list[np.ndarray]:
    return [load_video_frames(source, 5)[0], load_video_frames(source, 5, start=8.0, end=12.0)[0], load_audio(source)]


def test_further_readings_of_a_file_give_the_same_without_another_pass(video, passes):
    unremembered = read(video.read_bytes())
    passes.clear()
    for _ in range(2):
        for first, again in zip(unremembered, read(video), strict=True):
            np.testing.assert_array_equal(first, again)
    assert passes == [str(video)]


def test_a_file_with_another_content_is_read_again(video, passes, tmp_path):
    status, num_bytes = video.stat(), video.stat().st_size
    assert probe(video).duration == 16.0
    other = write_ramp(tmp_path / "other.mkv", codec="mpeg4", audio_codec="pcm_s16le", seconds=14).read_bytes()
    assert len(other) < num_bytes
    with video.open("r+b") as file:  # the same inode, size and time of modification
        file.write(other.ljust(num_bytes, b"\0"))
    os.utime(video, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert probe(video).duration == 14.0
    assert len(passes) == 2


def test_a_file_that_was_just_changed_is_not_remembered(video, passes, monkeypatch):
    """Two changes can have the same time: clocks of file systems are coarse."""
    monkeypatch.setattr(media_index, "SETTLED_SECONDS", 60.0)
    probe(video)
    probe(video)
    assert len(passes) == 2


def test_only_local_files_are_remembered(video, passes):
    class PartOfFile(io.BufferedReader):
        """It could begin anywhere in the file."""

    content = video.read_bytes()
    with PartOfFile(io.FileIO(video)) as part:
        for source in (content, io.BytesIO(content), part):
            probe(source)
    assert not media_index._remembered
    assert len(passes) == 3


def test_the_number_of_remembered_files_is_limited(video, passes, tmp_path):
    paths = [tmp_path / f"{number}.mkv" for number in range(media_index.NUM_REMEMBERED + 1)]
    for path in paths:
        path.write_bytes(video.read_bytes())
        probe(path)
    assert len(media_index._remembered) == media_index.NUM_REMEMBERED
    probe(paths[-1])
    assert len(passes) == len(paths)
    probe(paths[0])
    assert len(passes) == len(paths) + 1
