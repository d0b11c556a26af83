"""Clips that are parts of longer videos: events of UnAV-100 and ActivityNet, rendered, and composed of features."""

import json
import threading

import numpy as np
import pytest
from datasets import Dataset

from dataset_builders.features.feature_store import FeatureFolders, FeatureWriter
from dataset_builders.pseudo_untrimmed import usable_clips
from dataset_builders.pseudo_untrimmed.planning import Segment
from dataset_builders.pseudo_untrimmed.rendering import render_video
from dataset_builders.schema import FEATURES
from dataset_builders.sources.captions import Clip, read_clips
from dataset_builders.sources.clip_files import ClipFile, locate_clip
from dataset_builders.sources.media_folder import MediaFolder
from dataset_builders.sources.record_report import RecordReport
from dataset_builders.sources.records import UnusableRecord
from modeling_avicuna.media_avicuna import decode_audio, decode_video
from train.extract_features import list_parts

from .curation_fixtures import load_pu_valor
from .media_files import write_ramp


EVENTS = [(1.0, 5.0, "dog barking"), (6.5, 9.0, "church bell ringing"), (13.0, 16.0, "clock ticking")]


def unav100(video_id, events, duration):
    annotations = [{"segment": [start, end], "label": label, "label_id": 0} for start, end, label in events]
    return {"database": {video_id: {"duration": duration, "subset": "train", "annotations": annotations}}}


def activitynet(video_id, events, duration):
    return {
        video_id: {
            "duration": duration,
            "timestamps": [[start, end] for start, end, _ in events],
            "sentences": [text for *_, text in events],
        }
    }


@pytest.mark.parametrize("form", [unav100, activitynet])
@pytest.mark.parametrize("indent", [None, 1])
def test_each_annotated_event_is_a_clip_of_its_video(tmp_path, form, indent):
    path = tmp_path / "annotations.json"
    events = [*EVENTS, (18.0, 25.0, "bird chirping"), (9.0, 9.5, "drum beating")]
    path.write_text(json.dumps(form("v_some", events, 20.0), indent=indent), encoding="utf-8")
    report = RecordReport()
    clips = read_clips(path, report=report)
    assert [(clip.clip_id, clip.caption, clip.duration) for clip in clips] == [
        ("v_some_1.000_5.000", "dog barking", 4.0),
        ("v_some_6.500_9.000", "church bell ringing", 2.5),
        ("v_some_13.000_16.000", "clock ticking", 3.0),
        ("v_some_18.000_20.000", "bird chirping", 2.0),  # the video ends
    ]
    assert report.counts()["captions"]["dropped"] == {"clip_too_short": 1} and clips[0].split == "train"


def test_a_clip_is_its_own_file_or_a_part_of_its_video(tmp_path):
    for name in ("v_some_1.000_5.000.mp4", "some.mp4", "other_2.mp4"):
        (tmp_path / name).write_bytes(b"x")
    folder = MediaFolder(tmp_path)
    assert locate_clip(folder, "v_some_1.000_5.000") == ClipFile(str(tmp_path / "v_some_1.000_5.000.mp4"))
    assert locate_clip(folder, "v_some_6.500_9.000") == ClipFile(str(tmp_path / "some.mp4"), 6.5, 9.0)
    assert locate_clip(folder, "other_2_4") is None and locate_clip(folder, "none_6.500_9.000") is None


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """20 s of grey 16 + 10 t, with a beep from 14 to 15 s."""
    return write_ramp(tmp_path_factory.mktemp("video") / "v_some.mp4", audio_codec="aac")


def greys(path):
    return {round(timed.time, 2): float(timed.frame.to_ndarray(format="gray").mean()) for timed in decode_video(path)}


def test_a_part_is_rendered_at_its_own_times(video, tmp_path):
    segments = [Segment("late", 0.0, 6.0, 2.0), Segment("early", 6.0, 10.0, 1.0)]
    files = {"late": ClipFile(video, 13.0, 16.0), "early": ClipFile(video, 1.0, 5.0)}
    rendered = render_video(segments, files, tmp_path / "r.mp4", width=64, height=48, fps=10, crf=4).path
    shown = greys(rendered)
    for time, grey in shown.items():
        source = 13.0 + (time + 0.05) / 2 if time < 5.99 else 1.0 + time - 6.0
        assert grey == pytest.approx(16 + 10 * source, abs=4), time
    level = (
        np.abs(decode_audio(rendered, sampling_rate=16_000)[0, :160_000]).reshape(-1, 1600).max(axis=1)
    )  # each 0.1 s
    assert (level[22:38] > 0.1).all() and max(level[:18].max(), level[42:].max()) < 0.05  # 14 to 15 s, at half speed
    with pytest.raises(ValueError, match="shorter than planned"):
        render_video([Segment("late", 0.0, 4.0, 1.0)], files, tmp_path / "r.mp4", width=64, height=48, fps=10)


def test_videos_of_annotated_events_are_rendered_and_parts_outside_the_file_are_counted(video, tmp_path):
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(unav100("v_some", [*EVENTS, (22.0, 25.0, "drum beating")], 40.0)), encoding="utf-8")
    options = {"media": "rendered", "clips_dir": str(video.parent), "num_videos": 2, "clips_per_video": (2, 3)}
    options |= {"render_size": (64, 48), "render_fps": 10, "scale_range": (1.0, 1.0), "max_repeats": 1}
    rows = load_pu_valor(path, cache_dir=tmp_path / "cache", background_noise_snr_db=None, **options)["train"]
    starts = {f"v_some_{start:.3f}_{end:.3f}": start for start, end, _ in EVENTS}
    for row in rows:
        shown = greys(row["media"]["video"])
        for segment in row["segments"]:
            middle = round((segment["start"] + segment["end"]) / 2, 1)
            source = starts[segment["clip_id"]] + middle - segment["start"]
            assert shown[middle] == pytest.approx(16 + 10 * source, abs=4)
    report = json.loads(next(tmp_path.glob("cache/**/report.json")).read_text(encoding="utf-8"))
    assert report["sources"]["captions"]["dropped"] == {"ends_after_its_file": 1}


def test_features_of_a_part_are_found_by_the_name_of_the_clip(video, tmp_path, monkeypatch):
    rows = [
        {
            "id": "row",
            "source": "pseudo-valor",
            "duration": 6.5,
            "media": dict.fromkeys(FEATURES["media"]),
            "segments": [
                {"clip_id": f"v_some_{start:.3f}_{end:.3f}", "start": 0.0, "end": 4.0, "scale": 1.0, "caption": text}
                for start, end, text in EVENTS
            ],
            "messages": [{"role": "user", "content": "<video>"}, {"role": "assistant", "content": "Rain."}],
            "times": [],
        }
    ]
    Dataset.from_list(rows, features=FEATURES).to_parquet(str(tmp_path / "rows.parquet"))
    with monkeypatch.context() as patch:
        patch.setattr(Dataset, "__getitem__", None)  # the rows of a large set are not made Python objects
        parts = list_parts([json.dumps({"path": str(tmp_path / "rows.parquet")})], media_dir=str(video.parent))
    assert sorted((part.start, part.end) for part in parts) == [(start, end) for start, end, _ in EVENTS]
    with FeatureWriter(tmp_path / "features") as writer:
        for part in parts:
            writer.add(part.key, video=np.ones((4, 2)), audio=np.ones((1, 2)), duration=part.end - part.start)
    store, key = FeatureFolders([tmp_path / "features"]).find(["v_some_6.500_9.000"])
    assert key == "v_some@6.500-9.000" and store.duration(key) == 2.5
    assert FeatureFolders([tmp_path / "features"]).find(["v_some_6.000_9.000"]) is None


def test_clips_are_measured_in_parallel_and_reported_in_their_order(tmp_path, monkeypatch):
    both = threading.Barrier(2, timeout=30)

    def measure(media, clip):
        both.wait()  # one thread alone would wait in vain
        return float(clip.clip_id) if clip.clip_id != "2" else UnusableRecord("at 1 s", "unreadable_media_file")

    monkeypatch.setattr(usable_clips, "measure_clip", measure)
    monkeypatch.setattr(usable_clips.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(usable_clips, "CLIPS_AT_ONCE", 4)
    clips, report = [Clip(str(number), "It rains.", 10.0) for number in range(1, 9)], RecordReport()
    kept = usable_clips.measure_clips(clips, str(tmp_path), source="captions", report=report)
    assert [(clip.clip_id, clip.duration) for clip in kept] == [(str(n), float(n)) for n in (1, 3, 4, 5, 6, 7, 8)]
    assert [entry["detail"] for entry in report.entries] == ["at 1 s"] and report.num_kept["captions"] == 7
