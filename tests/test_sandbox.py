"""The sandbox world: files and formats, determinism, and visible and audible events."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from dataset_builders.sandbox import make_world, world
from dataset_builders.sandbox.classes import AUDIO_ONLY, AUDIO_VISUAL, EVENT_CLASSES, VISUAL_ONLY
from dataset_builders.sandbox.pictures import MOTIONS, PATTERNS, SHAPES
from dataset_builders.sandbox.world import (
    FPS,
    SAMPLING_RATE,
    Take,
    TimeLine,
    draw_frames,
    mix_samples,
    plan_clip,
    plan_untrimmed_video,
)
from modeling_avicuna.media_avicuna import decode_audio, decode_video, probe


NUM_CLASSES = len(EVENT_CLASSES)
VALOR_ID = re.compile(r"^[A-Za-z0-9_-]{11}_\d+\.\d{3}_\d+\.\d{3}$")


@pytest.fixture(scope="module")
def small_world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    make_world(folder, num_clips=6, num_background_clips=1, num_test_videos=1, num_train_videos=1, seed=3)
    return folder


def test_a_world_has_the_files_and_formats_of_the_real_datasets(small_world):
    captions = json.loads((small_world / "captions.json").read_text())
    assert len(captions) == 6 and all(set(row) == {"video_id", "desc"} for row in captions)
    for row in captions:
        assert VALOR_ID.match(row["video_id"])
        _, start, end = row["video_id"].rsplit("_", 2)
        info = probe(small_world / "clips" / f"{row['video_id']}.mp4")
        assert info.duration == float(end) - float(start) == 10.0
        assert info.has_audio and info.sampling_rate == 48_000 and info.fps == FPS
    short_captions = json.loads((small_world / "short_captions.json").read_text())
    known = {event.label: event.tracks for event in EVENT_CLASSES}
    assert [row["video_id"] for row in short_captions] == [row["video_id"] for row in captions]
    assert all(row["tracks"] == known[row["desc"]] for row in short_captions)
    assert set(known.values()) == {"audio", "video", "both"}
    backgrounds = json.loads((small_world / "backgrounds.json").read_text())
    assert len(backgrounds) == 1 and VALOR_ID.match(backgrounds[0])
    names = {path.stem for path in (small_world / "clips").iterdir()}
    assert names == {row["video_id"] for row in captions} | set(backgrounds)
    short = json.loads((small_world / "short_captions.json").read_text())
    assert [row["video_id"] for row in short] == [row["video_id"] for row in captions]
    assert short[0]["desc"] == "dog barking"
    assert all(name["desc"] in row["desc"] for name, row in zip(short, captions))

    annotations = json.loads((small_world / "annotations.json").read_text())
    assert set(annotations) == {"version", "database"}
    assert sorted(entry["subset"] for entry in annotations["database"].values()) == ["test", "train"]
    for video_id, entry in annotations["database"].items():
        assert set(entry) == {"duration", "annotations", "subset"}
        info = probe(small_world / entry["subset"] / f"{video_id}.mp4")
        assert info.duration == pytest.approx(entry["duration"])
        for annotation in entry["annotations"]:
            assert set(annotation) == {"segment", "label", "label_id"}
            assert EVENT_CLASSES[annotation["label_id"]].label == annotation["label"]


def test_two_processes_of_the_command_make_the_same_world(small_world, tmp_path):
    command = [sys.executable, "-m", "dataset_builders.sandbox", "--output", str(tmp_path), "--num-clips", "6"]
    subprocess.run(
        [*command, "--num-background-clips", "1", "--num-test-videos", "1", "--num-train-videos", "1"]
        + ["--seed", "3", "--num-workers", "2"],
        check=True,
        timeout=120,
    )
    files = {path.relative_to(small_world): path for path in small_world.rglob("*") if path.is_file()}
    again = {path.relative_to(tmp_path): path for path in tmp_path.rglob("*") if path.is_file()}
    assert files.keys() == again.keys()
    assert all(path.read_bytes() == again[name].read_bytes() for name, path in files.items())


def test_pixels_samples_and_plans_depend_on_the_seed_and_index_only():
    def make(seed, index):
        plan = plan_untrimmed_video(index, seed=seed, num_classes=NUM_CLASSES)
        take = plan_clip(index, seed=seed, num_classes=NUM_CLASSES)
        rng = np.random.default_rng(seed)
        return (
            plan,
            take,
            draw_frames([take[2]], 2.0, rng=rng).tobytes(),
            mix_samples([take[2]], 2.0, rng=rng).tobytes(),
        )

    first, again, other_seed, other_index = make(0, 4), make(0, 4), make(1, 4), make(0, 5)
    assert first == again
    for other in (other_seed, other_index):
        assert all(one != two for one, two in zip(first, other))


def test_ids_of_clips_and_videos_are_unique():
    ids = [plan_clip(index, seed=0, num_classes=NUM_CLASSES)[0] for index in range(300)]
    ids += [plan_untrimmed_video(index, seed=0, num_classes=NUM_CLASSES)[0] for index in range(100)]
    ids += [plan_untrimmed_video(index, subset="train", seed=0, num_classes=NUM_CLASSES)[0] for index in range(100)]
    assert len(set(ids)) == 500


def test_classes_alternate_and_captions_name_them_in_several_wordings():
    plans = [plan_clip(index, seed=0, num_classes=NUM_CLASSES) for index in range(10 * NUM_CLASSES)]
    for event in EVENT_CLASSES:
        captions = [caption for _, caption, take in plans if take.event == event]
        assert len(captions) == 10 and len(set(captions)) >= 5
        for caption in captions:
            assert event.label in caption
            # no other class is named
            assert [other.label for other in EVENT_CLASSES if other.label in caption] == [event.label]
            assert caption[0].isupper() and caption.endswith(".") and "{" not in caption and "  " not in caption


def test_the_list_of_classes_is_consistent():
    assert 24 <= NUM_CLASSES <= 48
    labels = [event.label for event in EVENT_CLASSES]
    assert len(set(labels)) == NUM_CLASSES
    assert set(EVENT_CLASSES) == {*AUDIO_VISUAL, *AUDIO_ONLY, *VISUAL_ONLY}
    for event in EVENT_CLASSES:
        assert event.label in event.phrase
        assert (event in AUDIO_ONLY) == (event.picture is None)
        assert (event in VISUAL_ONLY) == (event.sound is None)
        assert bool(event.look) == (event.picture is not None) and bool(event.noise) == (event.sound is not None)
        if event.picture is not None:
            assert event.picture.motion in MOTIONS and event.picture.shape in SHAPES.keys() | PATTERNS.keys()
        if event.sound is not None:
            assert 0 < event.sound.low < SAMPLING_RATE / 4 and 0 < event.sound.high < SAMPLING_RATE / 4
    for few in (4, 8, 12):  # a world with few classes has all kinds
        kinds = {(event.picture is None, event.sound is None) for event in EVENT_CLASSES[:few]}
        assert len(kinds) == 3


def test_test_videos_are_untrimmed():
    """Durations of 20 to 60 s, overlaps, gaps, repeats; events of one class never overlap."""
    overlaps = gaps = repeats = 0
    for index in range(100):
        _, duration, takes = plan_untrimmed_video(index, seed=0, num_classes=NUM_CLASSES)
        assert 20 <= duration <= 60 and duration * FPS == int(duration * FPS)
        assert takes and takes == sorted(takes, key=lambda take: take.start)
        labels = [take.event.label for take in takes]
        repeats += len(labels) > len(set(labels))
        for take in takes:
            assert 0 <= take.start < take.end <= duration and take.end - take.start >= 1.5
        for one, two in ((a, b) for a in takes for b in takes if a.start < b.start):
            assert one.event != two.event or two.start > one.end
            overlaps += two.start < one.end
        gaps += any(two.start > max(t.end for t in takes[: i + 1]) for i, two in enumerate(takes[1:]))
    assert overlaps > 50 and gaps > 80 and 30 < repeats < 100


@pytest.mark.parametrize("event", EVENT_CLASSES, ids=[event.label for event in EVENT_CLASSES])
def test_an_event_is_visible_and_audible_in_its_interval_only(event):
    take = Take(event, 1.0, 4.0, 0.1, -0.1, (0.0, 0.0, 0.0), 1.0, 0.3)
    frames, samples = (
        draw_frames([take], 5.0, rng=np.random.default_rng(0)),
        mix_samples([take], 5.0, rng=np.random.default_rng(0)),
    )
    empty, silence = (
        draw_frames([], 5.0, rng=np.random.default_rng(0)),
        mix_samples([], 5.0, rng=np.random.default_rng(0)),
    )
    assert frames.shape == (5 * FPS, 96, 96, 3) and samples.shape == (5 * SAMPLING_RATE,)
    changed = np.abs(frames.astype(int) - empty).max(axis=-1).reshape(5 * FPS, -1)
    seen = (changed > 40).mean(axis=1)
    inside = np.zeros(5 * FPS, dtype=bool)
    inside[FPS : 4 * FPS] = True
    assert (seen[~inside] == 0).all()
    if event.picture is None:
        assert (seen == 0).all()
    else:
        assert (seen[inside] > 0.01).mean() > 0.8
    level = np.sqrt(np.mean((samples - silence).reshape(50, -1) ** 2, axis=1))  # each 0.1 s
    assert (level[:10] == 0).all() and (level[40:] == 0).all()
    assert (level[10:40].max() > 0.02) == (event.sound is not None)
    assert np.abs(samples).max() <= 0.6


def colours(take, seed):
    """A histogram of colours and the mean change between frames."""
    frames = draw_frames([take], 2.0, rng=np.random.default_rng(seed)).astype(int)
    bins = (frames // 32 @ [64, 8, 1]).reshape(-1)
    change = np.abs(np.diff(frames, axis=0)).mean() / 20
    return np.append(np.sqrt(np.bincount(bins, minlength=512) / len(bins)), change)


def spectrum(take, seed):
    """Mean and standard deviation over time of the levels in frequency bands."""
    samples = mix_samples([take], 2.0, rng=np.random.default_rng(seed))
    frames = np.lib.stride_tricks.sliding_window_view(samples, 2048)[::1024] * np.hanning(2048)
    power = np.abs(np.fft.rfft(frames)) ** 2
    edges = np.unique(np.geomspace(2, 500, 40).astype(int))
    levels = np.log(np.add.reduceat(power, edges, axis=1) + 1e-3)
    return np.concatenate([levels.mean(axis=0), levels.std(axis=0)])


@pytest.mark.parametrize("look, sense, least", [(colours, "picture", 0.8), (spectrum, "sound", 0.95)])
def test_a_linear_classifier_of_simple_features_recognises_the_classes(look, sense, least):
    """Ridge regression on six clips of each class, tested on two; chance is below 0.05."""
    events = [event for event in EVENT_CLASSES if getattr(event, sense) is not None]
    features = np.stack(
        [
            [
                look(world._draw_take(event, 0.0, 2.0, np.random.default_rng([number, copy])), 100 * number + copy)
                for copy in range(8)
            ]
            for number, event in enumerate(events)
        ]
    )
    train, test = features[:, :6].reshape(-1, features.shape[-1]), features[:, 6:].reshape(-1, features.shape[-1])
    mean, spread = train.mean(axis=0), train.std(axis=0) + 1e-6
    train, test = ((part - mean) / spread for part in (train, test))
    targets = np.repeat(np.eye(len(events)), 6, axis=0)
    weights = train.T @ np.linalg.solve(train @ train.T + np.eye(len(train)), targets)
    named = (test @ weights).argmax(axis=1)
    assert (named == np.repeat(np.arange(len(events)), 2)).mean() >= least


def test_encoded_videos_are_close_to_the_drawn_frames_and_samples(tmp_path):
    _, _, take = plan_clip(0, seed=0, num_classes=NUM_CLASSES)
    world.write_video(tmp_path / "v.mp4", [take], 3.0, rng=np.random.default_rng(5))
    rng = np.random.default_rng(5)
    frames, samples = draw_frames([take], 3.0, rng=rng), mix_samples([take], 3.0, rng=rng)
    decoded = np.stack([timed.frame.to_ndarray(format="rgb24") for timed in decode_video(tmp_path / "v.mp4")])
    assert decoded.shape == frames.shape
    assert 10 * np.log10(255**2 / np.mean((decoded.astype(float) - frames) ** 2)) > 28
    heard = decode_audio(tmp_path / "v.mp4", sampling_rate=SAMPLING_RATE, num_channels=1)[0, : len(samples)]
    assert 10 * np.log10(np.mean(samples**2) / np.mean((heard - samples) ** 2)) > 8


@pytest.mark.parametrize("arguments", [{"num_clips": -1}, {"num_classes": 0}, {"num_classes": 99}, {"num_proc": 0}])
def test_invalid_arguments_are_an_error(tmp_path, arguments):
    with pytest.raises(ValueError, match=str(*arguments.values())):
        make_world(tmp_path / "w", **({"num_clips": 1} | arguments))
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    "time_line",
    [
        TimeLine(),
        TimeLine(event_seconds=(4, 12), video_seconds=(20, 40)),
        TimeLine(event_seconds=(1, 3), video_seconds=(10, 15), gap_seconds=(2, 2.5), overlap_share=0),
    ],
    ids=str,
)
def test_untrimmed_videos_have_the_lengths_of_their_time_line(time_line):
    overlaps = 0
    for index in range(200):
        _, duration, takes = plan_untrimmed_video(index, seed=1, num_classes=NUM_CLASSES, time_line=time_line)
        assert time_line.video_seconds[0] <= duration <= time_line.video_seconds[1]
        for take in takes:
            assert (
                0.75 * time_line.event_seconds[0] - 0.01 <= take.end - take.start <= time_line.event_seconds[1] + 0.01
            )
            assert take.end <= duration
        for before, after in zip(takes, takes[1:]):
            overlaps += after.start < before.end
            if not time_line.overlap_share:
                assert after.start - before.end >= time_line.gap_seconds[0] - 0.01
    assert bool(overlaps) == bool(time_line.overlap_share)


@pytest.mark.parametrize(
    "values",
    [
        {"event_seconds": (5, 4)},
        {"event_seconds": (0, 4)},
        {"video_seconds": (0, 10)},
        {"gap_seconds": (-1, 2)},
        {"overlap_share": 1.5},
    ],
    ids=str,
)
def test_an_invalid_time_line_is_an_error(values):
    with pytest.raises(ValueError, match=f"{next(iter(values))} must be"):
        TimeLine(**values)
