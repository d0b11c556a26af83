"""Readers of timed events, on the real files."""

import json

import pytest

from dataset_builders.sources.published_events import (
    AnnotatedEvent,
    AnnotatedVideo,
    consensus,
    read_durations,
    read_internvid,
)
from dataset_builders.sources.record_report import RecordReport
from dataset_builders.sources.records import UnusableRecord, count_drop, refuse
from dataset_builders.sources.timed_events import (
    UncleanVideo,
    clean_events,
    clean_video,
    fit_duration,
    internvid_excerpts,
    read_videos,
)


def clean(raw, duration=10.0):
    report = RecordReport()
    events = [AnnotatedEvent(*event) for event in raw]
    events = clean_events(events, video_id="v", duration=duration, source="test", report=report)
    counts = report.counts().get("test", {"dropped": {}, "repaired": {}})
    return [(event.start, event.end, event.text) for event in events], counts["dropped"], counts["repaired"]


def read(source, path, *, durations=None, subset="train"):
    """The cleaned videos of a file, and the counts of its events."""
    report, videos = RecordReport(), []
    for unclean in read_videos(source, path, subset=subset, report=report):
        report.read(source, num=len(unclean.video.events))
        file_duration = None if durations is None else durations.get(unclean.video.video_id)
        with count_drop(report, source, unclean.video.video_id, num=len(unclean.video.events)):
            videos.append(clean_video(unclean, source=source, file_duration=file_duration, report=report))
    return [video for video in videos if video.events], report.counts()[source]


@pytest.mark.parametrize(
    ("segment", "reason"),
    [
        ((7.0, 3.0, "a dog"), "end_before_start"),
        ((3.0, 3.0, "a dog"), "zero_length"),
        ((10.0, 12.0, "a dog"), "start_after_duration"),
        ((1.0, 2.0, " \n"), "no_text"),
        ((-3.0, -1.0, "a dog"), "ends_before_the_video"),
    ],
)
def test_an_invalid_segment_is_dropped_with_its_reason(segment, reason):
    events, dropped, repaired = clean([segment, (1.0, 4.0, "a cat")])
    assert events == [(1.0, 4.0, "a cat")] and dropped == {reason: 1} and repaired == {}


def test_events_are_clamped_sorted_and_deduplicated():
    raw = [(8.0, 11.0, "b"), (-1.0, 2.0, "a"), (8.0, 11.0, "B"), (8.0, 10.0005, "c")]
    events, dropped, repaired = clean(raw)
    assert events == [(0.0, 2.0, "a"), (8.0, 10.0, "b"), (8.0, 10.0, "c")]
    assert dropped == {"duplicate_event": 1} and repaired == {"end_after_duration": 1, "negative_start": 1}


def test_placeholders_and_special_tokens_are_removed_from_texts():
    events, _, _ = clean([(0, 1, "Press <s0> on\nthe <video>  </s>")])
    assert events == [(0.0, 1.0, "Press s0 on the video")]


@pytest.mark.parametrize(
    ("split", "num_videos", "num_events"),
    [("train", 6_489, 18_123), ("validation", 2_134, 6_036), ("test", 2_167, 5_900)],
)
def test_all_of_unav100_is_read(data_dir, split, num_videos, num_events):
    videos, counts = read("unav100", data_dir / "unav100" / "unav100_annotations.json.gz", subset=split)
    assert len(videos) == num_videos and sum(len(video.events) for video in videos) == num_events
    assert counts["read"] == num_events and not counts["dropped"] and not counts["repaired"]
    assert any(video.video_id.startswith("-") for video in videos)
    assert all(0 <= event.start < event.end <= video.duration for video in videos for event in video.events)


def test_an_unknown_subset_is_an_error_that_lists_the_subsets(data_dir):
    with pytest.raises(ValueError, match=r"no split 'val'; it has \['test', 'train', 'validation'\]"):
        read("unav100", data_dir / "unav100" / "unav100_annotations.json.gz", subset="val")


@pytest.mark.parametrize(
    ("name", "num_videos", "num_read", "dropped", "num_clamped"),
    [
        ("train", 10_009, 37_421, {"end_before_start": 2, "zero_length": 2}, 29),
        ("val_1", 4_917, 17_505, {}, 5),
    ],
)
def test_only_invalid_segments_of_activitynet_captions_are_dropped(
    data_dir, name, num_videos, num_read, dropped, num_clamped
):
    videos, counts = read("activitynet_captions", data_dir / "activitynet_captions" / f"{name}.json.gz")
    assert len(videos) == num_videos and counts["read"] == num_read
    assert counts["dropped"] == dropped and counts["repaired"] == {"end_after_duration": num_clamped}
    assert sum(len(video.events) for video in videos) == num_read - sum(dropped.values())
    texts = [event.text for video in videos for event in video.events]
    assert not [text for text in texts if text != " ".join(text.split()) or "\n" in text or not text]


def test_vtimellm_evaluation_files_have_the_format_of_activitynet_captions(data_dir):
    path = data_dir / "vtimellm" / "data_example.json"
    videos, _ = read("activitynet_captions", path)
    assert [len(video.events) for video in videos] == [3, 3] and videos[1].events[0].start == 0.0
    unclean = next(read_videos("activitynet_captions", path, subset="train", report=RecordReport()))
    assert unclean.media_names == ("v_bXdq2zI1Ms0", "bXdq2zI1Ms0")


def test_charades_needs_durations_and_four_reversed_segments_are_dropped(data_dir):
    path = data_dir / "charades_sta" / "charades_sta_train.txt.gz"
    videos, counts = read("charades_sta", path)
    assert not videos and counts["dropped"] == {"unknown_duration": 12_408}

    class ThousandSeconds(dict):
        def get(self, key, default=None):
            return 1_000.0

    videos, counts = read("charades_sta", path, durations=ThousandSeconds())
    assert counts["dropped"] == {"end_before_start": 4}
    assert len(videos) == 5_336 and sum(len(video.events) for video in videos) == 12_404


def test_malformed_lines_of_charades_are_dropped_and_ends_clamped_to_the_duration(data_dir, tmp_path):
    durations = read_durations(data_dir / "charades_sta" / "Charades_v1_test.csv.gz")
    assert len(durations) == 1_863 and durations["YSKX3"] == 16.62
    path = tmp_path / "charades.txt"
    path.write_text("YSKX3 2.0 20.5##person fixes the bed.\nnonsense\n")
    (video,), counts = read("charades_sta", path, durations=durations)
    assert [(event.start, event.end) for event in video.events] == [(2.0, 16.62)]
    assert counts["dropped"] == {"malformed_line": 1} and counts["repaired"] == {"end_after_duration": 1}


@pytest.mark.parametrize(("name", "num_videos", "num_rows"), [("val", 1_094, 4_180), ("test", 1_037, 4_021)])
def test_didemo_events_have_the_consensus_span_of_their_annotators(data_dir, name, num_videos, num_rows):
    path = data_dir / "didemo" / f"{name}_data.json.gz"
    videos, counts = read("didemo", path)
    assert len(videos) == num_videos and counts["read"] == num_rows and set(counts["dropped"]) <= {"duplicate_event"}
    assert sum(len(video.events) for video in videos) == num_rows - sum(counts["dropped"].values())
    for video in videos:
        assert video.duration in (25.0, 30.0) and video.media_end == video.duration
        assert all(event.start % 5 == 0 and event.end % 5 == 0 for event in video.events)
    unclean = read_videos("didemo", path, subset="train", report=RecordReport())
    assert not any(video.media_names[-1].endswith(".") for video in unclean)


def test_consensus_is_one_of_the_annotations_and_the_earliest_of_ties():
    assert consensus([(5, 10), (5, 10), (5, 10), (0, 5)]) == (5, 10)
    assert consensus([(0, 5), (0, 5), (20, 25), (20, 25)]) == (0, 5)
    assert consensus([(0, 20), (5, 15), (5, 20), (25, 30)]) == (5, 20)


def test_qvhighlights_keeps_all_windows_of_a_query(data_dir):
    videos, counts = read("qvhighlights", data_dir / "qvhighlights" / "highlight_val_release.jsonl.gz")
    assert sum(len(video.events) for video in videos) == counts["read"] == 2_803
    assert not counts["dropped"] and len(videos) == 1_519
    assert max(len({event.start for event in video.events}) for video in videos) == 25


def test_consecutive_clips_of_internvid_become_one_excerpt(tmp_path):
    clock = "00:00:{:06.3f}".format
    clips = [(10, 14, "a man digs"), (15, 20, "a man rests"), (40, 45.5, "a dog runs")]
    lines = [
        json.dumps(
            {
                "YoutubeID": "-bc_efghijk",
                "Start_timestamp": clock(start),
                "End_timestamp": clock(end),
                "Caption": text,
            }
        )
        for start, end, text in reversed(clips)
    ]
    path = tmp_path / "internvid.jsonl"
    path.write_text("\n".join(lines))
    (first, second), _ = read("internvid", path)
    assert first.video_id == "-bc_efghijk_10.000_20.000" and first.duration == 10.0
    assert [(event.start, event.end) for event in first.events] == [(0.0, 4.0), (5.0, 10.0)]
    assert second.video_id == "-bc_efghijk_40.000_45.500" and second.duration == 5.5
    short = list(internvid_excerpts(read_internvid(path, drop=refuse(path)), max_duration=8.0))
    assert [len(unclean.video.events) for unclean in short] == [1, 1, 1]


@pytest.mark.parametrize(
    ("annotated", "measured", "is_beginning", "expected"),
    [
        (47.68, 7.0, False, "duration_differs"),
        (10.0, 88.0, False, "duration_differs"),
        (10.0, 10.4, False, (10.0, None)),
        (200.0, 203.0, False, (200.0, None)),
        (None, 12.5, False, (12.5, None)),
        (12.5, None, False, (12.5, None)),
        (None, None, False, "unknown_duration"),
        (0.0, None, False, "unknown_duration"),
        (30.0, 88.0, True, (30.0, 30.0)),  # DiDeMo: the first 30 s of a longer file
        (30.0, 27.5, True, (27.5, None)),  # with a shorter last chunk
        (30.0, 24.0, True, "duration_differs"),
        (30.0, None, True, (30.0, 30.0)),
    ],
)
def test_the_annotated_duration_must_match_the_file(annotated, measured, is_beginning, expected):
    unclean = UncleanVideo(AnnotatedVideo("v", annotated, ()), ("v",), is_beginning)
    if isinstance(expected, tuple):
        assert fit_duration(unclean, measured) == expected
    else:
        with pytest.raises(UnusableRecord) as unusable:
            fit_duration(unclean, measured)
        assert unusable.value.reason == expected
