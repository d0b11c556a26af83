"""Readers of events with times, on the real files with their real quirks."""

import pytest

from dataset_builders.release.curation_report import CurationReport
from dataset_builders.sources.timed_events import (
    clean_events,
    consensus,
    read_activitynet_captions,
    read_charades_sta,
    read_didemo,
    read_durations,
    read_internvid,
    read_qvhighlights,
    read_unav100,
)


def clean(raw, duration=10.0):
    report = CurationReport()
    events = clean_events(raw, video_id="v", duration=duration, source="test", report=report)
    counts = report.counts().get("test", {"dropped": {}, "repaired": {}})
    return [(event.start, event.end, event.text) for event in events], counts["dropped"], counts["repaired"]


@pytest.mark.parametrize(
    ("segment", "reason"),
    [
        ((7.0, 3.0, "a dog"), "end_before_start"),
        ((3.0, 3.0, "a dog"), "zero_length"),
        ((10.0, 12.0, "a dog"), "start_after_duration"),
        ((1.0, 2.0, " \n"), "no_text"),
    ],
)
def test_a_broken_segment_is_dropped_with_its_reason(segment, reason):
    events, dropped, repaired = clean([segment, (1.0, 4.0, "a cat")])
    assert events == [(1.0, 4.0, "a cat")] and dropped == {reason: 1} and repaired == {}


def test_events_are_clamped_sorted_and_told_once():
    raw = [(8.0, 11.0, "b"), (-1.0, 2.0, "a"), (8.0, 11.0, "B"), (8.0, 10.0005, "c")]
    events, dropped, repaired = clean(raw)
    assert events == [(0.0, 2.0, "a"), (8.0, 10.0, "b"), (8.0, 10.0, "c")]
    assert dropped == {"duplicate_event": 1} and repaired == {"end_after_duration": 1, "negative_start": 1}


def test_text_that_reads_as_a_placeholder_or_special_token_of_ours_does_not_get_through():
    events, _, _ = clean([(0, 1, "Press <s0> on\nthe <video>  </s>")])
    assert events == [(0.0, 1.0, "Press s0 on the video")]


@pytest.mark.parametrize(
    ("split", "num_videos", "num_events"),
    [("train", 6_489, 18_123), ("validation", 2_134, 6_036), ("test", 2_167, 5_900)],
)
def test_unav100_is_read_whole(data_dir, split, num_videos, num_events):
    report = CurationReport()
    path = data_dir / "unav100" / "unav100_annotations.json.gz"
    videos = list(read_unav100(path, split=split, report=report))
    assert len(videos) == num_videos and sum(len(video.events) for video in videos) == num_events
    assert report.counts()["unav100"]["read"] == num_events and report.num_dropped() == report.num_repaired() == 0
    assert any(video.video_id.startswith("-") for video in videos)
    assert all(0 <= event.start < event.end <= video.duration for video in videos for event in video.events)


def test_an_unknown_subset_names_those_that_the_file_has(data_dir):
    with pytest.raises(ValueError, match=r"no split 'val'; it has \['test', 'train', 'validation'\]"):
        list(read_unav100(data_dir / "unav100" / "unav100_annotations.json.gz", split="val", report=CurationReport()))


@pytest.mark.parametrize(
    ("name", "num_videos", "num_read", "dropped", "num_clamped"),
    [
        ("train", 10_009, 37_421, {"end_before_start": 2, "zero_length": 2}, 29),
        ("val_1", 4_917, 17_505, {}, 5),
    ],
)
def test_activitynet_captions_lose_their_broken_segments_and_nothing_else(
    data_dir, name, num_videos, num_read, dropped, num_clamped
):
    report = CurationReport()
    path = data_dir / "activitynet_captions" / f"{name}.json.gz"
    videos = list(read_activitynet_captions(path, report=report))
    counts = report.counts()["activitynet_captions"]
    assert len(videos) == num_videos and counts["read"] == num_read
    assert counts["dropped"] == dropped and counts["repaired"] == {"end_after_duration": num_clamped}
    assert sum(len(video.events) for video in videos) == num_read - sum(dropped.values())
    texts = [event.text for video in videos for event in video.events]
    assert not [text for text in texts if text != " ".join(text.split()) or "\n" in text or not text]


def test_vtimellm_evaluation_files_are_activitynet_captions(data_dir):
    videos = list(read_activitynet_captions(data_dir / "vtimellm" / "data_example.json", report=CurationReport()))
    assert [len(video.events) for video in videos] == [3, 3] and videos[1].events[0].start == 0.0
    assert videos[0].media_names == ("v_bXdq2zI1Ms0", "bXdq2zI1Ms0")


def test_charades_needs_durations_and_drops_its_four_reversed_segments(data_dir):
    path = data_dir / "charades_sta" / "charades_sta_train.txt.gz"
    report = CurationReport()
    assert list(read_charades_sta(path, durations={}, report=report)) == []
    assert report.counts()["charades_sta"]["dropped"] == {"unknown_duration": 12_408}

    class AsLongAsAny(dict):
        def get(self, key, default=None):
            return 1_000.0

    report = CurationReport()
    videos = list(read_charades_sta(path, durations=AsLongAsAny(), report=report))
    assert report.counts()["charades_sta"]["dropped"] == {"end_before_start": 4}
    assert len(videos) == 5_336 and sum(len(video.events) for video in videos) == 12_404
    assert "AKKWU" in {entry["id"] for entry in report.entries}


def test_charades_lines_of_another_form_are_dropped_and_ends_are_clamped_to_the_length(data_dir, tmp_path):
    durations = read_durations(data_dir / "charades_sta" / "Charades_v1_test.csv.gz")
    assert len(durations) == 1_863 and durations["YSKX3"] == 16.62
    path = tmp_path / "charades.txt"
    path.write_text("YSKX3 2.0 20.5##person fixes the bed.\nnonsense\n")
    report = CurationReport()
    (video,) = read_charades_sta(path, durations=durations, report=report)
    assert [(event.start, event.end) for event in video.events] == [(2.0, 16.62)]
    counts = report.counts()["charades_sta"]
    assert counts["dropped"] == {"malformed_line": 1} and counts["repaired"] == {"end_after_duration": 1}


@pytest.mark.parametrize(("name", "num_videos", "num_rows"), [("val", 1_094, 4_180), ("test", 1_037, 4_021)])
def test_didemo_keeps_each_description_at_the_span_that_its_annotators_agree_on_most(
    data_dir, name, num_videos, num_rows
):
    report = CurationReport()
    videos = list(read_didemo(data_dir / "didemo" / f"{name}_data.json.gz", report=report))
    num_dropped = report.num_dropped("didemo")
    assert len(videos) == num_videos and report.counts()["didemo"]["read"] == num_rows
    assert set(report.counts()["didemo"]["dropped"]) <= {"duplicate_event"}
    assert sum(len(video.events) for video in videos) == num_rows - num_dropped
    for video in videos:
        assert video.duration in (25.0, 30.0) and not video.media_names[-1].endswith(".")
        assert all(event.start % 5 == 0 and event.end % 5 == 0 for event in video.events)


def test_consensus_is_one_of_the_annotations_and_ties_go_to_the_earliest():
    assert consensus([(1, 1), (1, 1), (1, 1), (0, 0)]) == (1, 1)
    assert consensus([(0, 0), (0, 0), (4, 4), (4, 4)]) == (0, 0)
    assert consensus([(0, 3), (1, 2), (1, 3), (5, 5)]) == (1, 3)


def test_qvhighlights_keeps_every_window_of_a_query(data_dir):
    report = CurationReport()
    videos = list(read_qvhighlights(data_dir / "qvhighlights" / "highlight_val_release.jsonl.gz", report=report))
    assert sum(len(video.events) for video in videos) == report.counts()["qvhighlights"]["read"] == 2_803
    assert report.num_dropped() == 0 and len(videos) == 1_519
    assert max(len({event.start for event in video.events}) for video in videos) == 25


def test_internvid_clips_that_follow_each_other_become_one_excerpt(tmp_path):
    clock = "00:00:{:06.3f}".format
    clips = [(10, 14, "a man digs"), (15, 20, "a man rests"), (40, 45.5, "a dog runs")]
    lines = [
        f'{{"YoutubeID": "-bc_efghijk", "Start_timestamp": "{clock(start)}", "End_timestamp": "{clock(end)}", "Caption": "{text}"}}'
        for start, end, text in reversed(clips)
    ]
    (tmp_path / "internvid.jsonl").write_text("\n".join(lines))
    first, second = read_internvid(tmp_path / "internvid.jsonl", report=CurationReport())
    assert first.media_names == ("-bc_efghijk_10.000_20.000",) and first.duration == 10.0
    assert [(event.start, event.end) for event in first.events] == [(0.0, 4.0), (5.0, 10.0)]
    assert second.video_id == "-bc_efghijk_40.000_45.500" and second.duration == 5.5
    short = list(read_internvid(tmp_path / "internvid.jsonl", report=CurationReport(), max_duration=8.0))
    assert [len(video.events) for video in short] == [1, 1, 1]
