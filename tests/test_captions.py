"""Reading clips with captions: all published formats; each dropped record has a reason."""

import gzip
import json

import pytest

from dataset_builders.sources.captions import read_clips
from dataset_builders.sources.clip_ids import split_clip_id
from dataset_builders.sources.record_report import RecordReport


def read(path, **options):
    report = RecordReport()
    return read_clips(path, report=report, **options), report


def write_json(path, records):
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def reasons(report):
    return report.counts()["captions"]["dropped"]


GOOD = {"video_id": "-u_HAvfqs2I_7.800_17.800", "desc": "A dog barks."}


def test_ids_with_dashes_underscores_and_fractional_times_are_parsed(tmp_path):
    clips, _ = read(write_json(tmp_path / "desc.json", [GOOD]))
    assert (clips[0].clip_id, clips[0].youtube_id) == ("-u_HAvfqs2I_7.800_17.800", "-u_HAvfqs2I")
    assert (clips[0].start, clips[0].duration, clips[0].split) == (7.8, 10.0, "train")


def test_an_id_without_times_is_a_youtube_id():
    assert split_clip_id("_xdYMgoI2rY") == ("_xdYMgoI2rY", None, None)
    assert split_clip_id("a_b_c") == ("a_b_c", None, None)
    assert split_clip_id("nLKEdmVu3FY_000040") == ("nLKEdmVu3FY", None, None)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({**GOOD, "desc": ""}, "empty_caption"),
        ({**GOOD, "desc": None}, "empty_caption"),
        ({**GOOD, "desc": "800"}, "caption_without_words"),
        ({**GOOD, "desc": "Play the <video> from <s0>"}, "caption_with_placeholder"),
        ({**GOOD, "video_id": ""}, "no_id"),
        ({**GOOD, "video_id": "abc_9.000_3.000"}, "ends_before_it_starts"),
        ({**GOOD, "video_id": "abc_9.000_9.500"}, "clip_too_short"),
        ({**GOOD, "start": "soon", "end": "later"}, "time_is_not_a_number"),
        ({"video_id": "abc", "desc": "A dog barks.", "end": 5}, "end_without_start"),
        ({**GOOD, "video_id": "abc", "duration": 0}, "ends_before_it_starts"),
        ({**GOOD, "video_id": "abc", "duration": "long"}, "time_is_not_a_number"),
        ({**GOOD, "tracks": "smell"}, "unknown_tracks"),
        ({**GOOD, "tracks": ["audio"]}, "unknown_tracks"),
    ],
)
def test_a_defective_record_is_dropped_with_its_reason(tmp_path, record, reason):
    other = {"video_id": "other_0.000_4.500", "desc": "A bell rings twice."}
    clips, report = read(write_json(tmp_path / "desc.json", [record, other]))
    assert [clip.clip_id for clip in clips] == ["other_0.000_4.500"]
    assert clips[0].duration == 4.5
    assert reasons(report) == {reason: 1}
    assert report.counts()["captions"]["read"] == 2 and report.counts()["captions"]["kept"] == 1


@pytest.mark.parametrize(
    ("times", "clip_id", "start", "duration"),
    [
        ({"start": 5}, "abc_5.000_15.000", 5.0, 10.0),
        ({"start_time": "5", "duration": 4}, "abc_5.000_9.000", 5.0, 4.0),
        ({"start_seconds": 5, "end_seconds": 8}, "abc_5.000_8.000", 5.0, 3.0),
        ({"duration": 4.5}, "abc", None, 4.5),
    ],
)
def test_a_start_or_a_duration_alone_is_used(tmp_path, times, clip_id, start, duration):
    (clip,), _ = read(write_json(tmp_path / "desc.json", [{"video_id": "abc", "desc": "A dog barks.", **times}]))
    assert (clip.clip_id, clip.start, clip.duration) == (clip_id, start, duration)
    timed = {**GOOD, **times}  # the times of an id remain unless both are given
    (clip,), _ = read(write_json(tmp_path / "desc.json", [timed]))
    assert clip.clip_id == GOOD["video_id"] and clip.duration == (3.0 if "end_seconds" in times else 10.0)


def test_each_letter_of_a_script_without_spaces_is_a_word(tmp_path):
    clips, _ = read(write_json(tmp_path / "desc.json", [{**GOOD, "desc": "\u72d7\u5728\u53eb"}]))
    assert [clip.caption for clip in clips] == ["\u72d7\u5728\u53eb"]


def test_a_repeated_clip_is_kept_once(tmp_path):
    clips, report = read(write_json(tmp_path / "desc.json", [GOOD, GOOD, {**GOOD, "desc": "A cat sings."}]))
    assert len(clips) == 1
    assert reasons(report) == {"repeated_record": 1, "second_caption_of_a_clip": 1}


def test_json_json_lines_and_gzip_give_the_same_clips(tmp_path):
    records = [GOOD, {"video_id": "other_0.000_4.500", "desc": "A bell rings."}]
    plain = write_json(tmp_path / "a.json", records)
    lines = tmp_path / "b.jsonl"
    lines.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    packed = tmp_path / "c.jsonl.gz"
    packed.write_bytes(gzip.compress(lines.read_bytes()))
    assert read(plain)[0] == read(lines)[0] == read(packed)[0]


def test_additional_columns_of_a_ragged_csv_are_ignored(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text(
        "video_id,start_time,end_time,caption,type,answer\n"
        'CEfOX4fYlsY,20.000,30.000,"A bird, yellow, leaps.",desc,yes\n'
        'CEfOX4fYlsY,20.000,30.000,"A bird, yellow, leaps.",action,yes,no,perhaps,and,more\n'
        "-short,1.000\n",
        encoding="utf-8",
    )
    clips, report = read(path)
    assert [(clip.clip_id, clip.caption) for clip in clips] == [
        ("CEfOX4fYlsY_20.000_30.000", "A bird, yellow, leaps.")
    ]
    assert reasons(report) == {"repeated_record": 1, "empty_caption": 1}


def test_a_missing_column_or_file_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "titles.csv"
    path.write_text("video_id,title\na_0_10,A dog\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"titles\.csv has no caption column.*title"):
        read(path)
    with pytest.raises(ValueError, match=r"desc\.json has no id column.*clip"):
        read(write_json(tmp_path / "desc.json", [{"clip": "a", "desc": "A dog barks."}]))
    with pytest.raises(ValueError, match="no such captions file"):
        read(tmp_path / "absent.json")


def test_a_file_without_a_usable_clip_is_an_error_with_the_reasons(tmp_path):
    with pytest.raises(ValueError, match="leaves no usable clip.*empty_caption"):
        read(write_json(tmp_path / "desc.json", [{**GOOD, "desc": " "}]))


@pytest.mark.parametrize("excluded", ["-u_HAvfqs2I_7.800_17.800", "-u_HAvfqs2I"])
def test_excluded_ids_match_clips_and_youtube_ids(tmp_path, excluded):
    ids = tmp_path / "ids.txt"
    ids.write_text(f"{excluded}\nneverheardof\n", encoding="utf-8")
    other = {"video_id": "other_0.000_4.500", "desc": "A bell rings."}
    clips, report = read(write_json(tmp_path / "desc.json", [GOOD, other]), exclude_ids_file=ids)
    assert [clip.youtube_id for clip in clips] == ["other"]
    assert reasons(report) == {"excluded_id": 1}
    assert report.settings["excluded_ids"] == {"in_file": 2, "hit": 1}
    ids.write_text(json.dumps([excluded]), encoding="utf-8")
    assert len(read(tmp_path / "desc.json", exclude_ids_file=ids)[0]) == 1


def test_only_damaged_captions_of_valor_are_dropped(data_dir):
    clips, report = read(data_dir / "valor" / "valor32k_captions.jsonl.gz")
    assert report.counts()["captions"]["read"] == 6141
    assert reasons(report) == {"caption_without_words": 3}  # "800", "200" and "100"
    assert sum(clip.duration < 10 for clip in clips) == 76
    assert sum(clip.youtube_id.startswith("-") for clip in clips) == 120
    assert {clip.split for clip in clips} == {"val", "test"}
    assert all(len(clip.youtube_id) == 11 for clip in clips)


def test_the_published_csv_of_valor_gives_the_same_captions(data_dir):
    derived = {clip.clip_id: clip.caption for clip in read(data_dir / "valor" / "valor32k_captions.jsonl.gz")[0]}
    csv_clips = {}
    for name, num_read, num_empty in (("val", 7569, 393), ("test", 9063, 486)):
        clips, report = read(data_dir / "valor" / f"processed_{name}_data.csv.gz")
        assert report.counts()["captions"]["read"] == num_read
        assert reasons(report)["empty_caption"] == num_empty
        csv_clips.update({clip.clip_id: clip.caption for clip in clips})
    assert csv_clips == derived


def test_unav_test_videos_can_be_excluded_from_valor(data_dir, tmp_path):
    with gzip.open(data_dir / "unav100" / "unav100_annotations.json.gz", "rt") as file:
        database = json.load(file)["database"]
    test_ids = {name for name, video in database.items() if video["subset"] == "test"}
    ids = tmp_path / "unav100_test.txt"
    ids.write_text("\n".join(sorted(test_ids)), encoding="utf-8")
    captions = data_dir / "valor" / "valor32k_captions.jsonl.gz"
    clips, report = read(captions, exclude_ids_file=ids)
    assert reasons(report)["excluded_id"] == 56
    assert report.settings["excluded_ids"] == {"in_file": 2167, "hit": 56}
    assert not {clip.youtube_id for clip in clips} & test_ids


def test_a_chosen_field_gives_one_or_several_captions(tmp_path):
    records = [
        {"clip_id": "a_0.000_9.000", "vast_cap": "A dog barks.", "audio_cap": ["Barking.", "A dog barks.", "", "800"]},
        {"clip_id": "b_0.000_9.000", "vast_cap": "It rains hard.", "audio_cap": ["800", "<video>"]},
    ]
    path = write_json(tmp_path / "vast.json", records)
    clips, _ = read(path, caption_field="vast_cap")
    assert [(clip.caption, clip.other_captions) for clip in clips] == [("A dog barks.", ()), ("It rains hard.", ())]
    clips, report = read(path, caption_field="audio_cap", min_caption_words=1)
    assert [(clip.caption, clip.other_captions) for clip in clips] == [("Barking.", ("A dog barks.",))]
    assert reasons(report) == {"caption_without_words": 1}
    assert report.counts()["captions"]["repaired"] == {"caption_without_words": 1}
    with pytest.raises(ValueError, match="no caption column"):
        read(path)
