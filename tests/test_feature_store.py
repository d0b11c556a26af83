"""The feature store: round trip, resuming after a kill, partly written files are not read."""

import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from dataset_builders.features.feature_store import FeatureStore, FeatureWriter
from dataset_builders.pseudo_untrimmed.composing import compose_features


def rows(seed, num, width):
    return np.random.default_rng(seed).normal(size=(num, width)).astype(np.float32)


def test_rows_are_read_as_written(tmp_path):
    with FeatureWriter(tmp_path, media_per_part=2) as writer:
        for number in range(5):
            writer.add(
                f"-id_{number}", video=rows(number, 3 + number, 8), audio=rows(number, number, 4), duration=number
            )
        writer.add("picture", video=rows(9, 1, 8), audio=np.zeros((0, 4)), duration=None)
    store = FeatureStore(tmp_path)
    assert len(store) == 6 and "-id_3" in store and "other" not in store
    for number in range(5):
        assert np.array_equal(store.video(f"-id_{number}"), rows(number, 3 + number, 8))
        assert np.array_equal(store.audio(f"-id_{number}"), rows(number, number, 4))
        assert store.duration(f"-id_{number}") == number
    assert store.duration("picture") is None and store.audio("picture").shape == (0, 4)
    assert np.array_equal(pickle.loads(pickle.dumps(store)).video("-id_2"), store.video("-id_2"))


def test_a_new_writer_resumes_an_interrupted_one(tmp_path):
    writer = FeatureWriter(tmp_path, media_per_part=2)
    for number in range(3):  # the third is not flushed, as in a killed process
        writer.add(str(number), video=rows(number, 2, 8), audio=rows(number, 1, 4), duration=1)
    (tmp_path / "part-0000-00001.safetensors").write_bytes(b"torn")  # a part without an index is ignored
    assert sorted(FeatureStore(tmp_path)) == ["0", "1"]
    with FeatureWriter(tmp_path, media_per_part=2) as again:
        todo = [number for number in range(4) if str(number) not in again]
        assert todo == [2, 3]
        for number in todo:
            again.add(str(number), video=rows(number, 2, 8), audio=rows(number, 1, 4), duration=1)
    store = FeatureStore(tmp_path)
    assert all(np.array_equal(store.video(str(number)), rows(number, 2, 8)) for number in range(4))


def test_the_files_of_a_folder_are_not_listed_for_each_part(tmp_path, monkeypatch):
    listed = []
    glob = Path.glob
    monkeypatch.setattr(Path, "glob", lambda self, pattern: listed.append(pattern) or glob(self, pattern))
    with FeatureWriter(tmp_path, media_per_part=1) as writer:
        for number in range(20):
            writer.add(str(number), video=rows(0, 1, 4), audio=rows(0, 1, 4), duration=1)
    assert len(listed) <= 2
    with FeatureWriter(tmp_path) as other, FeatureWriter(tmp_path) as writer:  # two of one rank do not overwrite parts
        other.add("a", video=rows(0, 1, 4), audio=rows(0, 1, 4), duration=1)
        writer.add("b", video=rows(1, 1, 4), audio=rows(1, 1, 4), duration=1)
    store = FeatureStore(tmp_path)
    assert len(store) == 22 and np.array_equal(store.video("b"), rows(1, 1, 4))
    assert sorted(path.stem for path in tmp_path.glob("*.jsonl")) == [
        f"part-0000-{number:05d}" for number in range(22)
    ]


def test_the_index_takes_less_than_300_bytes_for_a_medium(tmp_path):
    with FeatureWriter(tmp_path) as writer:
        for number in range(4000):
            writer.add(f"{number:08d}", video=rows(0, 1, 4), audio=rows(0, 1, 4), duration=10)
    tracemalloc.start()
    store = FeatureStore(tmp_path)
    num_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert num_bytes < 300 * len(store)


def test_each_process_writes_its_own_parts(tmp_path):
    for rank in (0, 1):
        with FeatureWriter(tmp_path, rank=rank) as writer:
            writer.add(f"rank{rank}", video=rows(rank, 2, 8), audio=rows(rank, 1, 4), duration=1)
    assert sorted(FeatureStore(tmp_path)) == ["rank0", "rank1"]


def test_half_precision_is_read_as_float32(tmp_path):
    with FeatureWriter(tmp_path, dtype="float16") as writer:
        writer.add("a", video=rows(0, 4, 8), audio=rows(0, 1, 4), duration=1)
    read = FeatureStore(tmp_path).video("a")
    assert read.dtype == np.float32 and np.allclose(read, rows(0, 4, 8), atol=2e-3)


def test_features_of_a_store_are_composed_with_its_features_of_silence_and_darkness(tmp_path):
    with FeatureWriter(tmp_path) as writer:
        writer.add("loud", video=rows(0, 10, 8), audio=rows(0, 1, 4), duration=10)
        writer.add("mute", video=rows(1, 10, 8), audio=np.zeros((0, 4)), duration=10)
        writer.write_silence(np.full(4, 0.5))
        writer.write_darkness(np.full(8, 0.25))
    segments = [
        {"clip_id": "loud", "start": 0.0, "end": 10.0, "scale": 1.0},
        {"clip_id": "mute", "start": 15.0, "end": 25.0, "scale": 1.0},
    ]
    store = FeatureStore(tmp_path)
    compose_features(segments, store)
    for name in ("silence", "darkness"):  # read once, not for every composed row
        (tmp_path / f"{name}.safetensors").unlink()
    video, audio = compose_features(segments, store)
    assert video.shape == (75, 8) and (video[30:45] == 0.25).all() and (video[45:] != 0.25).all()
    assert (audio[10:] == 0.5).all()


def test_features_of_another_alignment_or_window_are_an_error(tmp_path):
    """A folder without these settings has the published ones."""
    published = {"alignment": "published", "window_seconds": 10.0, "stride_seconds": 4.0}
    with FeatureWriter(tmp_path, settings={"towers": "a"}) as writer:
        writer.add("x", video=rows(0, 2, 8), audio=rows(0, 1, 4), duration=1)
    FeatureStore(tmp_path).check_settings(published)
    FeatureWriter(tmp_path, settings={"towers": "a", **published})
    for changed in ({"alignment": "centred"}, {"window_seconds": 2.0}):
        with pytest.raises(ValueError, match="alignment='published'.*'centred'|window_seconds=10.0.*2.0"):
            FeatureStore(tmp_path).check_settings({**published, **changed})
        with pytest.raises(ValueError, match="was written with settings"):
            FeatureWriter(tmp_path, settings={"towers": "a", **published, **changed})


def test_invalid_input_is_an_error_that_names_it(tmp_path):
    with pytest.raises(ValueError, match="no cached features"):
        FeatureStore(tmp_path)
    with pytest.raises(ValueError, match="bfloat16"):
        FeatureWriter(tmp_path, dtype="bfloat16")
    with FeatureWriter(tmp_path, settings={"vision_tower": "a"}) as writer:
        writer.add("x", video=rows(0, 2, 8), audio=rows(0, 1, 4), duration=1)
        with pytest.raises(ValueError, match="'x' is already"):
            writer.add("x", video=rows(0, 2, 8), audio=rows(0, 1, 4), duration=1)
        with pytest.raises(ValueError, match="2-dimensional"):
            writer.add("y", video=rows(0, 2, 8)[0], audio=rows(0, 1, 4), duration=1)
    with pytest.raises(ValueError, match="vision_tower"):
        FeatureWriter(tmp_path, settings={"vision_tower": "b"})
    with pytest.raises(ValueError, match="'z'"):
        FeatureStore(tmp_path).video("z")


def test_a_part_that_covers_the_whole_medium_uses_its_features(tmp_path):
    with FeatureWriter(tmp_path) as writer:
        for name, seconds in (("short", 27.5), ("long", 88.0), ("long@0.000-30.000", 30.0)):
            writer.add(name, video=np.ones((2, 4)), audio=np.ones((1, 4)), duration=seconds)
    store = FeatureStore(tmp_path)
    assert store.find("short", None, 30.0) == "short" and store.find("long", None, 30.0) == "long@0.000-30.000"
    assert store.find("long", None, 25.0) is None and store.find("short", 5.0, 30.0) is None
    assert store.find("long") == "long" and store.find("absent") is None
