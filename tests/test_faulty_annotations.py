"""Faulty annotation files, by kind of fault: malformed records, wrong types, encodings, unsafe names."""

import gzip
import json
import warnings

import pytest

from benchmarks import mutated_annotations
from dataset_builders.a5_222k import A5222KConfig, select_pairs
from dataset_builders.image_text import ImageTextConfig
from dataset_builders.image_text import read_rows as read_image_rows
from dataset_builders.instruction import InstructionConfig, read_rows
from dataset_builders.sources.annotation_files import read_csv, read_json_records, read_text
from dataset_builders.sources.audio_captions import read_audiocaps, read_audioset_labels, read_auto_acd, read_clotho
from dataset_builders.sources.captions import read_clips
from dataset_builders.sources.clip_ids import split_clip_id, youtube_id_of
from dataset_builders.sources.excluded_ids import ExcludedIds, read_excluded_ids
from dataset_builders.sources.record_report import RecordReport
from eval.tasks import TASKS

from .media_files import pictures, tone, write_media


def build(source, records, tmp_path, *, name="records.json", **settings):
    """(rows, counts) of an instruction source; `records` are written as JSON, or as they are if they are text."""
    path = tmp_path / name
    path.write_text(records if isinstance(records, str) else json.dumps(records), encoding="utf-8")
    report = RecordReport()
    rows = list(read_rows(InstructionConfig(name=source, annotations_file=path, **settings), report=report))
    counts = report.counts()[source]
    assert counts["read"] == counts["kept"] + sum(counts["dropped"].values())
    return rows, counts


def unav(**videos):
    good = {"duration": 10.0, "subset": "train", "annotations": [{"segment": [0, 4], "label": "rain", "label_id": 0}]}
    return {"database": {"good": good, **{name: {**good, **change} for name, change in videos.items()}}}


def captions(**videos):
    good = {"duration": 10.0, "timestamps": [[0, 4]], "sentences": ["It rains."]}
    return {"v_good": good, **{f"v_{name}": {**good, **change} for name, change in videos.items()}}


MOMENT = {"video": "good.mp4", "description": "a dog", "times": [[0, 0], [1, 1]], "num_segments": 6}
QUERY = {"qid": 1, "vid": "good", "query": "a dog", "duration": 150, "relevant_windows": [[0, 4]]}
DIALOG = {"image_id": "good", "dialog": [{"question": "who ?", "answer": "a man"}]}
PAIR = {"video_id": "good", "q": "Who?", "a": "A man."}
MUSIC = {
    "video_id": "good",
    "question_id": 1,
    "type": '["Audio", "Counting"]',
    "question_content": "How many <Object>?",
    "templ_values": '["flute"]',
    "question_deleted": 0,
    "anser": "two",
}
NAN = float("nan")


@pytest.mark.parametrize(
    ("source", "records", "reason"),
    [
        ("unav100", unav(bad={"duration": NAN}), "time_is_not_a_number"),
        ("unav100", unav(bad={"duration": "long"}), "time_is_not_a_number"),
        ("unav100", unav(bad={"annotations": None}), "malformed_record"),
        ("unav100", unav(bad={"annotations": [{"segment": [0, NAN], "label": "rain"}]}), "time_is_not_a_number"),
        ("unav100", unav(bad={"annotations": [{"segment": [0], "label": "rain"}]}), "malformed_record"),
        ("unav100", unav(bad={"annotations": [{"segment": [0, 4], "label": ["rain"]}]}), "malformed_record"),
        ("unav100", unav(bad={"annotations": ["rain"]}), "malformed_record"),
        ("activitynet_captions", captions(bad={"duration": NAN}), "time_is_not_a_number"),
        ("activitynet_captions", captions(bad={"duration": float("inf")}), "time_is_not_a_number"),
        ("activitynet_captions", captions(bad={"timestamps": [[NAN, 4]]}), "time_is_not_a_number"),
        ("activitynet_captions", captions(bad={"timestamps": [[0, 10**400]]}), "time_is_not_a_number"),
        ("activitynet_captions", captions(bad={"timestamps": []}), "malformed_record"),
        ("activitynet_captions", captions(bad={"sentences": [None]}), "malformed_record"),
        ("activitynet_captions", {**captions(), "v_bad": None}, "malformed_record"),
        ("charades_sta", "good 0.0 4.0##a dog.\nbad 0.0##a dog.\n", "malformed_line"),
        ("charades_sta", "good 0.0 4.0##a dog.\nbad 0.0 4.0.0##a dog.\n", "time_is_not_a_number"),
        ("didemo", [MOMENT, {**MOMENT, "times": []}], "malformed_record"),
        ("didemo", [MOMENT, {**MOMENT, "times": [[0, 9]]}], "malformed_record"),
        ("didemo", [MOMENT, {**MOMENT, "description": None}], "malformed_record"),
        ("didemo", [MOMENT, "nothing"], "malformed_record"),
        ("qvhighlights", [QUERY, {**QUERY, "relevant_windows": []}], "malformed_record"),
        ("qvhighlights", [QUERY, {**QUERY, "duration": None}], "malformed_record"),
        ("qvhighlights", [QUERY, {**QUERY, "duration": "long"}], "time_is_not_a_number"),
        ("avsd", {"dialogs": [DIALOG, {**DIALOG, "dialog": [{"question": "who ?"}]}]}, "malformed_record"),
        ("avsd", {"dialogs": [DIALOG, {**DIALOG, "image_id": ["a"]}]}, "malformed_record"),
        ("music_avqa", [MUSIC, {**MUSIC, "type": "Audio"}], "malformed_record"),
        ("music_avqa", [MUSIC, {**MUSIC, "templ_values": "[]"}], "malformed_record"),
        ("video_instruct", [PAIR, {**PAIR, "a": None}], "no_answer"),
        ("video_instruct", [PAIR, {**PAIR, "a": ["yes"]}], "malformed_record"),
        ("video_instruct", [PAIR, {"video": ["a", "b"], "q": "Who?", "a": "A man."}], "malformed_record"),
        ("video_instruct", [PAIR, {"video": "a", "QA": [{"q": "Who?", "a": None}]}], "malformed_record"),
        ("video_instruct", [PAIR, 5], "malformed_record"),
    ],
)
def test_a_malformed_record_is_counted_and_other_records_are_kept(source, records, reason, tmp_path):
    settings = {}
    if source == "charades_sta":
        (tmp_path / "durations.json").write_text('{"good": 10, "bad": 10}')
        settings["durations_file"] = tmp_path / "durations.json"
    rows, counts = build(source, records, tmp_path, **settings)
    assert counts["dropped"] == {reason: 1}
    assert counts["kept"] >= 1 and all("good" in row["media"]["video"] for row in rows)


def test_numbers_are_accepted_as_ids_and_answers(tmp_path):
    rows, counts = build("video_instruct", [{"video_id": 7, "q": "How many?", "a": 2}], tmp_path)
    assert rows[0]["media"]["video"] == "7.mp4" and rows[0]["messages"][1]["content"] == "2"
    assert counts["dropped"] == {}


@pytest.mark.parametrize(
    ("source", "records"),
    [
        ("unav100", captions()),
        ("unav100", [MOMENT]),
        ("activitynet_captions", unav()),
        ("activitynet_captions", [QUERY]),
        ("charades_sta", '[{"video": "a"}]'),
        ("didemo", [QUERY]),
        ("didemo", {"dialogs": [DIALOG]}),
        ("qvhighlights", [{key: value for key, value in QUERY.items() if key != "relevant_windows"}]),  # a test file
        ("qvhighlights", [MOMENT]),
        ("avsd", [PAIR]),
        ("avsd", {"dialogs": [{"image_id": "a"}]}),
        ("music_avqa", [PAIR]),
        ("music_avqa", unav()),
        ("internvid", [QUERY]),
        ("video_instruct", [QUERY]),
        ("vtimellm", [5]),
        ("vtimellm", "[" * 100_000),
    ],
)
def test_a_file_of_another_dataset_is_an_error_that_names_it(source, records, tmp_path):
    with pytest.raises(ValueError, match=r"wrong\.json"):
        build(source, records, tmp_path, name="wrong.json")


@pytest.mark.parametrize("task", sorted(TASKS))
def test_a_file_of_another_dataset_is_an_error_in_evaluation(task, tmp_path):
    (tmp_path / "wrong.json").write_text('[{"nothing": 1}]')
    with pytest.raises(ValueError, match=r"wrong\.json"):
        TASKS[task].read([tmp_path / "wrong.json"] * (2 if task in ("charades_sta", "activitynet_qa") else 1), "test")


def test_a_malformed_record_is_an_error_in_evaluation(tmp_path):
    (tmp_path / "unav.json").write_text(
        json.dumps(unav(bad={"annotations": [{"segment": [0, NAN], "label": "rain"}]}))
    )
    with pytest.raises(ValueError, match=r"unav\.json: bad: time_is_not_a_number"):
        TASKS["unav100"].read([tmp_path / "unav.json"], "train")
    (tmp_path / "avsd.json").write_text(json.dumps({"dialogs": [DIALOG]}).replace("a man", "__UNDISCLOSED__"))
    with pytest.raises(ValueError, match=r"avsd\.json, dialog 0: the answer is not disclosed"):
        TASKS["avsd"].read([tmp_path / "avsd.json"], None)


def test_annotations_without_class_ids_and_durations_are_evaluated(tmp_path):
    events = [{"segment": [0, 4], "label": "wind"}, {"segment": [1, 2], "label": "rain"}]
    video = {"subset": "test", "annotations": events}
    (tmp_path / "unav.json").write_text(json.dumps({"database": {"a": video}}))
    (example,) = TASKS["unav100"].read([tmp_path / "unav.json"], "test")
    assert example.duration is None and example.questions[0].reference == ["rain", "wind"]


LINES = "First line, with \u2028 and \x85 in it"


def test_json_lines_are_split_at_line_feeds_only(tmp_path):
    (tmp_path / "lines.jsonl").write_text(
        json.dumps({"q": LINES}, ensure_ascii=False) + "\r\n" + json.dumps({"q": 2}) + "\n", encoding="utf-8"
    )
    assert read_json_records(tmp_path / "lines.jsonl") == [{"q": LINES}, {"q": 2}]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_text_with_a_byte_order_mark_is_read(tmp_path, encoding):
    (tmp_path / "a.txt").write_bytes("caf\u00e9".encode(encoding))
    assert read_text(tmp_path / "a.txt") == "caf\u00e9"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("caf\u00e9".encode("latin-1"), r"a\.txt is not UTF-8 text"),
        ("text".encode("utf-16")[:-1], r"a\.txt is not UTF-16 text"),
        (gzip.compress(b"text" * 100, mtime=0)[:-12], r"a\.txt is a damaged gzip file"),
        (gzip.compress(b"text" * 100, mtime=0)[:15], r"a\.txt is a damaged gzip file"),
        (gzip.compress(bytes(range(200)), mtime=0)[:40] + b"\xff" * 40, r"a\.txt is a damaged gzip file"),
    ],
)
def test_a_damaged_file_is_an_error_that_names_it(tmp_path, data, message):
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_text(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("reader", "text"),
    [
        (
            read_audiocaps,
            "audiocap_id,youtube_id,start_time,caption\n1,aaaaaaaaaaa,30,A dog\nbarks\n2,bbbbbbbbbbb,0,Rain\n",
        ),
        (
            read_audiocaps,
            "audiocap_id,youtube_id,start_time,caption\n1,aaaaaaaaaaa,30,A dog\n9,ccccccccccc,0,Rain, wind\n"
            "2,bbbbbbbbbbb,0,Rain\n",
        ),
        (read_clotho, "file_name,caption_1,caption_2,caption_3,caption_4,caption_5\na.wav,1,2,3,4,5\nshort.wav,1\n"),
        (read_auto_acd, "youtube_id,caption\naaaaaaaaaaa,Rain falls.\nbbbbbbbbbbb\n"),
    ],
)
def test_a_csv_row_with_a_wrong_number_of_fields_is_counted(tmp_path, reader, text):
    (tmp_path / "a.csv").write_text(text)
    report = RecordReport()
    pairs = list(reader(tmp_path / "a.csv", report=report))
    (counts,) = report.counts().values()
    assert counts["dropped"] == {"malformed_row": 1} and counts["read"] == len(pairs) + 1 >= 2


def test_a_quoted_caption_may_span_two_lines(tmp_path):
    (tmp_path / "a.csv").write_text('audiocap_id,youtube_id,start_time,caption\n1,aaaaaaaaaaa,30,"A dog\nbarks"\n')
    (pair,) = read_audiocaps(tmp_path / "a.csv", report=RecordReport())
    assert pair.caption == "A dog\nbarks"


@pytest.mark.parametrize("row", ['60,"a dog', '60,"a "dog"', '"60,a dog'])
@pytest.mark.parametrize("tail", ["", '80,"rain, wind"\n', '99,a dog"\n'])
def test_a_stray_quote_is_an_error_with_its_line(tmp_path, row, tail):
    lines = [f"{number},rain\n" for number in range(100)]
    lines[59] = f"{row}\n"
    (tmp_path / "a.csv").write_text("id,caption\n" + "".join(lines) + tail)
    with pytest.raises(ValueError, match=r"a\.csv, line 61"):
        list(read_csv(tmp_path / "a.csv", columns=("id",)))


def test_a_malformed_row_of_labels_is_counted(tmp_path):
    (tmp_path / "classes.csv").write_text('index,mid,display_name\n0,/m/1,"Rain, heavy"\n')
    (tmp_path / "a.csv").write_text('aaaaaaaaaaa, 0.0, 10.0, "/m/1"\nbbbbbbbbbbb, 0.0\nccccccccccc, 0, soon, "/m/1"\n')
    report = RecordReport()
    settings = {"class_labels_file": tmp_path / "classes.csv", "report": report}
    assert len(list(read_audioset_labels(tmp_path / "a.csv", **settings))) == 1
    assert report.counts()["audioset"]["dropped"] == {"malformed_row": 1, "time_is_not_a_number": 1}


CLIP = {"video_id": "aaaaaaaaaaa_0.000_10.000", "desc": "A dog barks."}
EXCLUDED = "ttttttttttt"


@pytest.mark.parametrize(
    "text",
    [
        f"{EXCLUDED}\n",
        f"\ufeff{EXCLUDED}.mp4\r\nuuuuuuuuuuu.mp4\r\n",
        f'["{EXCLUDED}", "uuuuuuuuuuu"]',
        f'["v_{EXCLUDED}"]',
        f'[{{"video_id": "{EXCLUDED}", "desc": "Rain."}}]',
        f'{{"video_id": "{EXCLUDED}"}}\n{{"video_id": "uuuuuuuuuuu"}}\n',
        f'{{"video_id": "{EXCLUDED}"}}\n',
        f"video_id,label\n{EXCLUDED},rain\n",
        f"label\tfilename\nrain\t{EXCLUDED}\n",
        f'"youtube_id"\n"{EXCLUDED}"\n',
        f"# made by hand\n{EXCLUDED}, 0.0, 10.0\nuuuuuuuuuuu, 0.0, 10.0\n",
        f"{EXCLUDED} 0.0 4.0##a dog.\n",
        json.dumps({"database": {EXCLUDED: {"subset": "test", "annotations": []}}}),
        json.dumps({"database": {EXCLUDED: {"subset": "test"}, "aaaaaaaaaaa": {"subset": "train"}}}),
        json.dumps({f"v_{EXCLUDED}": {"duration": 4, "timestamps": [], "sentences": []}}),
        json.dumps({"dialogs": [{"image_id": EXCLUDED, "dialog": []}]}),
        json.dumps({"AudioSet": [EXCLUDED], "FreeSound": ["12"]}),
        json.dumps({"AudioSet": [f"Y{EXCLUDED}.wav"], "FreeSound": ["12"]}),
        json.dumps({"test": [EXCLUDED], "train": ["aaaaaaaaaaa"]}),
        json.dumps(
            {"videos": [{"video_id": EXCLUDED, "split": "test"}, {"video_id": "aaaaaaaaaaa", "split": "train"}]}
        ),
        json.dumps({"database": {EXCLUDED: {"subset": "testing"}, "aaaaaaaaaaa": {"subset": "Training"}}}),
        json.dumps({"data": {"0": {"video_id": EXCLUDED}}}),
        f'"{EXCLUDED}"\n"uuuuuuuuuuu"\n',
        f"https://www.youtube.com/watch?v={EXCLUDED}&t=30s\nhttps://youtu.be/uuuuuuuuuuu\n",
        f"videos/test/{EXCLUDED}.mp4\n/data/other videos/uuuuuuuuuuu.mp4\n",
        f"C:\\videos\\{EXCLUDED}.mp4\n",
        f"uuuuuuuuuuu\r{EXCLUDED}\r",
        f"Video ID,Split\n{EXCLUDED},test\naaaaaaaaaaa,train\n",
        f"video_id;label\n{EXCLUDED};rain\n",
        f'{EXCLUDED},5,"rain, wind",test\naaaaaaaaaaa,5,rain,train\n',
        f"{EXCLUDED} 0 10\nuuuuuuuuuuu 0 10\n",
        f"Category&VideoID&Quality&StartTime&EndTime\nRain&{EXCLUDED}&good&0&10\n",
        f"Rain&{EXCLUDED}&good&0&10\nDog&uuuuuuuuuuu&good&0&10\n",
        f"{EXCLUDED}_6_16\n",  # LLP's and VGGSound's names of an excerpt that overlaps
        f"{EXCLUDED}_000006.wav\n",
    ],
)
def test_all_published_formats_of_exclusion_lists_are_read(tmp_path, text):
    (tmp_path / "ids").write_text(text, encoding="utf-8")
    (tmp_path / "clips.json").write_text(json.dumps([CLIP, {**CLIP, "video_id": f"{EXCLUDED}_5.000_15.000"}]))
    report = RecordReport()
    clips = read_clips(tmp_path / "clips.json", report=report, exclude_ids_file=tmp_path / "ids")
    assert [clip.youtube_id for clip in clips] == ["aaaaaaaaaaa"]
    assert report.counts()["captions"]["dropped"] == {"excluded_id": 1}


@pytest.mark.parametrize(
    "text",
    ["", "[]", '[{"title": "a"}]', '{"a": 1}', "title,year\nrain,2020\n", "label,video_id\nrain\n", "[[1]]", "{"]
    + ['{"aaaaaaaaaaa": ["a dog barks"]}', '{"train": ["a"]}', "video_id,split\na,train\n"],
)
def test_an_exclusion_list_in_an_unknown_format_is_an_error_that_names_it(tmp_path, text):
    (tmp_path / "ids.txt").write_text(text)
    with pytest.raises(ValueError, match=r"ids\.txt"):
        read_excluded_ids(tmp_path / "ids.txt")


@pytest.mark.parametrize(
    ("excluded", "name", "matches"),
    [
        ("aaaaaaaaaaa", "aaaaaaaaaaa_5.000_9.000", True),
        ("aaaaaaaaaaa", "aaaaaaaaaaa_5_9", True),
        ("aaaaaaaaaaa", "aaaaaaaaaaa_000005.mp4", True),
        ("aaaaaaaaaaa_5_9", "aaaaaaaaaaa_9.000_12.000", False),
        ("aaaaaaaaaaa_5_9", "aaaaaaaaaaa", False),
        ("film", "film_5.000_9.000", True),
        ("film", "film_5", False),
        ("v_aaaaaaaaaaa", "activitynet/aaaaaaaaaaa.mp4", True),
        ("b/001.mp4", "a/001.mp4", False),
        ("b/001.mp4", "a/b/001.mp4", True),
        ("001", "a/001.mp4", True),
    ],
)
def test_excluded_ids_match_excerpts_and_paths(excluded, name, matches):
    assert ExcludedIds([excluded]).matches([name]) is matches


def test_excerpts_and_paths_of_excluded_videos_are_dropped_by_every_reader(tmp_path):
    (tmp_path / "ids.txt").write_text("aaaaaaaaaaa\n")
    times = {"Start_timestamp": "00:00:05.000", "End_timestamp": "00:00:09.000", "Caption": "a dog"}
    clips = [json.dumps({"YoutubeID": name, **times}) for name in ("aaaaaaaaaaa", "uuuuuuuuuuu")]
    pairs = [{"video": f"videos/{name}.mp4", "q": "Who?", "a": "A man."} for name in ("v_aaaaaaaaaaa", "good")]
    for source, records in (("internvid", "\n".join(clips)), ("video_instruct", pairs)):
        _, counts = build(source, records, tmp_path, exclude_ids_file=tmp_path / "ids.txt")
        assert counts["dropped"] == {"excluded_id": 1}, source


@pytest.mark.parametrize("line", ["audio/Yttttttttttt.wav", "https://youtu.be/ttttttttttt", "ttttttttttt_30_40"])
def test_all_names_of_excluded_sounds_are_read(tmp_path, line):
    (tmp_path / "ids.txt").write_text(f"{line}\n")
    (tmp_path / "captions.csv").write_text(
        "audiocap_id,youtube_id,start_time,caption\n1, ttttttttttt,30,A dog barks\n2,aaaaaaaaaaa,30,Rain falls\n"
        "3,short,30,Wind blows\n"
    )
    report = RecordReport()
    config = A5222KConfig(audiocaps_file=tmp_path / "captions.csv", exclude_ids_file=tmp_path / "ids.txt")
    assert [one.pair.record_id for one in select_pairs(config, report=report)] == ["2"]
    assert report.counts()["audiocaps"]["dropped"] == {"in_test_set": 1, "malformed_id": 1}


def test_a_row_of_a_test_set_that_cannot_be_excluded_is_an_error(tmp_path):
    header = "audiocap_id,youtube_id,start_time,caption\n"
    (tmp_path / "train.csv").write_text(f"{header}1,aaaaaaaaaaa,30,A dog barks\n")
    (tmp_path / "test.csv").write_text(f"{header}2,uuuuuuuuuuu,30,Rain falls\n3,ttttttttttt,Wind blows\n")
    config = A5222KConfig(audiocaps_file=tmp_path / "train.csv", exclude_audiocaps_file=tmp_path / "test.csv")
    with pytest.raises(ValueError, match=r"test\.csv: line 3: malformed_row"):
        select_pairs(config, report=RecordReport())


def test_the_suffix_of_a_file_is_not_part_of_a_clip_id(tmp_path):
    (tmp_path / "clips.json").write_text(json.dumps([{**CLIP, "video_id": "aaaaaaaaaaa_5.000_9.500.mp4"}]))
    (clip,) = read_clips(tmp_path / "clips.json", report=RecordReport())
    assert (clip.clip_id, clip.duration) == ("aaaaaaaaaaa_5.000_9.500", 4.5)


def test_an_exclusion_list_without_effect_is_a_warning(tmp_path):
    (tmp_path / "ids.txt").write_text("nobody\n")
    (tmp_path / "clips.json").write_text(json.dumps([CLIP]))
    with pytest.warns(UserWarning, match="none of the 1 ids of exclude_ids_file occurs"):
        read_clips(tmp_path / "clips.json", report=RecordReport(), exclude_ids_file=tmp_path / "ids.txt")
    with pytest.warns(UserWarning, match="none of the 1 ids"):
        build("avsd", {"dialogs": [DIALOG]}, tmp_path, exclude_ids_file=tmp_path / "ids.txt")
    with pytest.warns(UserWarning, match=r"no sound of \['ids'\] occurs"):
        config = A5222KConfig(captions_file=tmp_path / "clips.json", exclude_ids_file=tmp_path / "ids.txt")
        select_pairs(config, report=RecordReport())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ExcludedIds().num_ids == 0
        ExcludedIds().warn_if_unmet("exclude_ids_file")


@pytest.mark.parametrize(
    ("length", "duration", "expected"),
    [(7, 47.68, {"duration_differs": 1}), (10, 10.3, {}), (20, 10.0, {"duration_differs": 1})],
)
def test_a_record_whose_duration_differs_from_the_file_is_dropped(tmp_path, length, duration, expected):
    (tmp_path / "videos").mkdir()
    write_media(tmp_path / "videos" / "a.mp4", frames=pictures(length * 2), fps=2)
    records = {"database": {"a": {**unav()["database"]["good"], "duration": duration}}}
    rows, counts = build("unav100", records, tmp_path, media_dir=str(tmp_path / "videos"))
    assert counts["dropped"] == expected and bool(rows) == (not expected)


def test_didemo_rows_use_the_first_30_seconds_of_a_longer_file(tmp_path):
    (tmp_path / "videos").mkdir()
    write_media(tmp_path / "videos" / "good.mp4", frames=pictures(88), fps=1)
    rows, counts = build("didemo", [MOMENT], tmp_path, media_dir=str(tmp_path / "videos"))
    assert counts["dropped"] == {} and rows
    for row in rows:
        assert row["duration"] == row["media"]["end"] == 30.0 and row["media"]["start"] is None


def conversation(times, *, duration=30.0, **meta):
    turns = [{"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "From <s0> to <e0>, rain.</s>"}]
    return {"id": "good", "conversations": turns, "meta": {"duration": duration, "token": times, **meta}}


@pytest.mark.parametrize(
    ("times", "duration", "reason"),
    [
        ({"<s0>": 35, "<e0>": 3}, 30.0, "end_before_start"),
        ({"<s0>": 3, "<e0>": 3}, 30.0, "zero_length"),
        ({"<s0>": 31, "<e0>": 40}, 30.0, "start_after_duration"),
        ({"<s0>": 3, "<e0>": NAN}, 30.0, "time_is_not_a_number"),
        ({"<s0>": 3, "<e0>": "soon"}, 30.0, "time_is_not_a_number"),
        ({"<s0>": 3, "<e0>": 9}, None, "unknown_duration"),
        ({"<s0>": 3, "<e0>": 9}, NAN, "time_is_not_a_number"),
        ({"<s0>": 3}, 30.0, "time_without_seconds"),
    ],
)
def test_times_of_conversations_are_checked_as_in_other_sources(tmp_path, times, duration, reason):
    records = [conversation({"<s0>": 1, "<e0>": 31}), conversation(times, duration=duration)]
    (row,), counts = build("vtimellm", records, tmp_path)
    assert counts["dropped"] == {reason: 1} and counts["repaired"] == {"end_after_duration": 1}
    assert [time["seconds"] for time in row["times"]] == [1.0, 30.0]
    assert row["messages"][1]["content"] == "From <s0> to <e0>, rain."


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"meta": {"duration": -5}}, "unknown_duration"),
        ({"meta": {"duration": 0}}, "unknown_duration"),
        ({"meta": {"duration": 30, "token": {"<s0>": 99}}}, "time_outside_of_the_video"),
        ({"meta": {"duration": 30, "token": {"<e4>": -1}}}, "time_outside_of_the_video"),
        ({"turns": ("human",)}, "not_alternating"),
        ({"turns": ("gpt", "human")}, "not_alternating"),
        ({"turns": ("human", "gpt", "gpt")}, "not_alternating"),
        ({"turns": ("system",)}, "not_alternating"),
        ({"text": "<video>\n<video>\nWhat?"}, "not_one_video"),
        ({"text": "<image>\nWhat?"}, "not_one_video"),
    ],
)
def test_conversations_that_cannot_be_trained_on_are_dropped(tmp_path, change, reason):
    turns = [{"from": name, "value": change.get("text", "What?")} for name in change.get("turns", ("human", "gpt"))]
    bad = {"id": "bad", "conversations": turns[:1] if "text" in change else turns, "meta": change.get("meta", {})}
    if "text" in change:
        bad["conversations"].append({"from": "gpt", "value": "Rain."})
    rows, counts = build("vtimellm", [conversation({"<s0>": 1, "<e0>": 2}), bad], tmp_path)
    assert counts["dropped"] == {reason: 1} and [row["id"] for row in rows] == ["good_000000"]


def test_a_conversation_without_a_placeholder_gets_one(tmp_path):
    turns = [{"from": "system", "value": "You see."}, {"from": "human", "value": "What?"}]
    turns.append({"from": "gpt", "value": "Rain."})
    (row,), _ = build("vtimellm", [{"id": "a", "conversations": turns, "meta": {"duration": 5}}], tmp_path)
    assert [message["content"] for message in row["messages"]] == ["You see.", "<video>\nWhat?", "Rain."]


def test_an_instruction_of_videochat2_is_part_of_the_question(tmp_path):
    asked = [{"i": "Answer briefly.", "q": "Who?", "a": "A man."}, {"i": "Describe it.", "q": "", "a": "Rain."}]
    (row,), counts = build("video_instruct", [{"video": "a.mp4", "QA": asked}], tmp_path)
    assert [message["content"] for message in row["messages"][::2]] == [
        "<video>\nAnswer briefly. Who?",
        "Describe it.",
    ]
    assert counts["dropped"] == {}


def test_an_excerpt_without_a_file_is_a_part_of_the_whole_file(tmp_path):
    (tmp_path / "videos").mkdir()
    write_media(tmp_path / "videos" / "good.mp4", frames=pictures(100), fps=1)
    records = [
        conversation({"<s0>": 1, "<e0>": 9}, split=[40.0, 70.0]),
        conversation({"<s0>": 1, "<e0>": 9}, split=[80.0, 110.0]),
    ]
    (row,), counts = build("vtimellm", records, tmp_path, media_dir=str(tmp_path / "videos"))
    assert (row["media"]["start"], row["media"]["end"]) == (40.0, 70.0)
    assert counts["dropped"] == {"duration_differs": 1}


@pytest.mark.parametrize(
    ("clip_id", "expected"),
    [
        ("cam_1_2", ("cam_1_2", None, None)),
        ("kitchen_03_15", ("kitchen_03_15", None, None)),
        ("living_room_000030", ("living_room", None, None)),  # eleven characters: same format as VGGSound
        ("a_1.5_2.5", ("a_1.5_2.5", None, None)),
        ("AP0061o0Nvk_101.8_111.8", ("AP0061o0Nvk", 101.8, 111.8)),
        ("-u_HAvfqs2I_7.800_17.800", ("-u_HAvfqs2I", 7.8, 17.8)),
    ],
)
def test_only_ids_with_decimals_are_split_into_times(clip_id, expected):
    assert split_clip_id(clip_id) == expected


def test_clips_whose_ids_end_in_two_integers_have_the_default_duration(tmp_path):
    (tmp_path / "clips.json").write_text(json.dumps([{"video_id": "cam_9_2", "desc": "A dog barks."}]))
    (clip,) = read_clips(tmp_path / "clips.json", report=RecordReport())
    assert (clip.clip_id, clip.duration) == ("cam_9_2", 10.0) and youtube_id_of("kitchen_03_15") is None


TOKENS = ("</s>", "<|im_end|>", "<|eot_id|>", "<end_of_turn>", "[INST]", "<</SYS>>", "<pad>", "\0", "\x1b[2J")
TOKENS += ("<\uff5cend\u2581of\u2581sentence\uff5c>", "<unused7>", "[gMASK]", "<seed:eos>")


@pytest.mark.parametrize("token", TOKENS)
def test_control_tokens_are_removed_by_every_reader(tmp_path, token):
    text = f"A dog {token} barks"
    built = [
        build("unav100", unav(bad={"annotations": [{"segment": [0, 4], "label": text}]}), tmp_path)[0],
        build("activitynet_captions", captions(bad={"sentences": [text]}), tmp_path)[0],
        build("didemo", [{**MOMENT, "description": text}], tmp_path)[0],
        build("avsd", {"dialogs": [{**DIALOG, "dialog": [{"question": text, "answer": text}]}]}, tmp_path)[0],
        build("music_avqa", [{**MUSIC, "anser": text, "templ_values": json.dumps([text])}], tmp_path)[0],
        build("video_instruct", [{**PAIR, "q": text, "a": text}], tmp_path)[0],
        build("vtimellm", [conversation({"<s0>": 1, "<e0>": 9}) | {"conversations": [
            {"from": "human", "value": text}, {"from": "gpt", "value": text}]}], tmp_path)[0],
    ]  # fmt: skip
    (tmp_path / "clips.json").write_text(json.dumps([{**CLIP, "desc": text}]))
    (clip,) = read_clips(tmp_path / "clips.json", report=RecordReport())
    config = A5222KConfig(captions_file=tmp_path / "clips.json")
    (pair,) = select_pairs(config, report=RecordReport())
    texts = [message["content"] for rows in built for row in rows for message in row["messages"]]
    assert len(texts) > 10 and not [text for text in (*texts, clip.caption, pair.pair.caption) if token in text]


@pytest.mark.parametrize("name", ["../secret", "a/../../secret", "..\\secret", "..", "a\0b"])
def test_a_media_name_outside_the_folder_is_dropped(tmp_path, name):
    (tmp_path / "videos").mkdir()
    write_media(tmp_path / "secret.mp4", frames=pictures(10))
    write_media(tmp_path / "videos" / "good.mp4", frames=pictures(10))
    for settings in ({}, {"media_dir": str(tmp_path / "videos")}):
        rows, counts = build("video_instruct", [PAIR, {**PAIR, "video_id": name}], tmp_path, **settings)
        assert counts["dropped"] == {"unsafe_media_name": 1} and len(rows) == 1
    rows, counts = build(
        "vtimellm", [conversation({"<s0>": 1, "<e0>": 9}), {**conversation({}), "id": name}], tmp_path
    )
    assert sum(counts["dropped"].values()) == 1 and rows[0]["media"]["video"] == "good.mp4"
    (tmp_path / "clips.json").write_text(json.dumps([CLIP, {**CLIP, "video_id": name}]))
    assert len(read_clips(tmp_path / "clips.json", report=RecordReport())) == 1


@pytest.mark.parametrize("setting", [{"num_pairs": -5}, {"num_pairs": "1e3"}, {"max_missing": 2}, {"max_per_text": 0}])
def test_a_setting_out_of_range_is_an_error_that_names_it(tmp_path, setting):
    (tmp_path / "clips.json").write_text(json.dumps([CLIP]))
    with pytest.raises(ValueError, match=next(iter(setting))):
        select_pairs(A5222KConfig(captions_file=tmp_path / "clips.json", **setting), report=RecordReport())
    if "max_missing" in setting:
        with pytest.raises(ValueError, match="max_missing"):
            list(read_image_rows(ImageTextConfig(annotations_file=tmp_path / "clips.json", **setting), report=None))


def test_several_captions_files_are_read_in_order(tmp_path):
    for name in ("b", "a"):
        (tmp_path / f"{name}.json").write_text(json.dumps([{**CLIP, "video_id": name * 11}]))
    clips = read_clips([tmp_path / "b.json", str(tmp_path / "a.json")], report=RecordReport())
    assert [clip.clip_id for clip in clips] == ["b" * 11, "a" * 11]


def test_an_audio_file_of_a_video_is_dropped(tmp_path):
    (tmp_path / "videos").mkdir()
    write_media(tmp_path / "videos" / "good.mp4", waveform=tone(1.0))
    rows, counts = build("unav100", unav(), tmp_path, media_dir=str(tmp_path / "videos"))
    assert rows == [] and counts["dropped"] == {"no_picture": 1}


def test_mutated_files_give_rows_counted_drops_or_an_error_that_names_them(data_dir):
    mutated_annotations.main(["--data-dir", str(data_dir), "--num-files", "2", "--seed", "2"])
