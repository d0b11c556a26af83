"""load_dataset("a5_222k", ...) on the real files: kept, dropped and excluded pairs, and errors."""

import json

import pytest
from datasets import load_dataset

import dataset_builders  # noqa: F401 - registers the builder
from dataset_builders.a5_222k import A5222KConfig, pair_row, select_pairs
from dataset_builders.schema import FEATURES
from dataset_builders.sources.annotation_files import read_text
from dataset_builders.sources.audio_captions import read_audiocaps, read_clotho
from dataset_builders.sources.record_report import RecordReport


@pytest.fixture(scope="module")
def whole(data_dir):
    """The selection and its report for all available sources, with all evaluation sets excluded."""
    audiocaps, clotho, wavcaps = data_dir / "audiocaps", data_dir / "clotho", data_dir / "wavcaps"
    config = A5222KConfig(
        audiocaps_file=audiocaps / "train.csv.gz",
        clotho_file=clotho / "train.csv.gz",
        captions_file=data_dir / "valor" / "valor32k_captions.jsonl.gz",
        wavcaps_file=[wavcaps / "sb_final.json.gz"],
        audioset_file=data_dir / "llp" / "AVVP_dataset_full.csv.gz",
        class_labels_file=data_dir / "audioset" / "class_labels_indices.csv",
        exclude_audiocaps_file=[audiocaps / "val.csv.gz", audiocaps / "test.csv.gz"],
        exclude_clotho_file=[clotho / "val.csv.gz", clotho / "test.csv.gz"],
        exclude_blacklist_file=wavcaps / "blacklist_exclude_test_ac.json.gz",
        exclude_unav100_file=data_dir / "unav100" / "unav100_annotations.json.gz",
    )
    report = RecordReport()
    return select_pairs(config, report=report), report.counts()


def test_counts_of_kept_and_dropped_pairs_per_source(whole):
    selected, counts = whole
    assert {source: (row["read"], row["kept"]) for source, row in counts.items()} == {
        "audiocaps": (49_838, 45_341),
        "clotho": (19_195, 19_162),
        "captions": (6_141, 6_037),
        "wavcaps": (1_232, 1_009),
        "audioset": (11_849, 553),
    }
    assert counts["audiocaps"]["dropped"] == {"caption_too_short": 2, "duplicate_text": 4_090, "in_test_set": 405}
    assert counts["clotho"]["dropped"] == {"duplicate_text": 18, "in_test_set": 15}
    assert counts["captions"]["dropped"] == {"caption_without_words": 3, "duplicate_text": 1, "in_test_set": 100}
    assert counts["wavcaps"]["dropped"] == {"audio_too_long": 33, "duplicate_text": 190}
    assert counts["audioset"]["dropped"] == {"duplicate_audio": 852, "duplicate_text": 10_317, "in_test_set": 127}
    assert len(selected) == sum(row["kept"] for row in counts.values()) == 72_102


def test_no_sound_of_an_evaluation_set_is_selected(whole, data_dir):
    selected, _ = whole
    keys = {key for one in selected for key in one.pair.audio_keys}
    unav = json.loads(read_text(data_dir / "unav100" / "unav100_annotations.json.gz"))["database"]
    held_out = {f"youtube:{name}" for name, record in unav.items() if record["subset"] in ("validation", "test")}
    for split in ("val", "test"):
        for reader, source in ((read_audiocaps, "audiocaps"), (read_clotho, "clotho")):
            pairs = reader(data_dir / source / f"{split}.csv.gz", report=RecordReport())
            held_out |= {key for pair in pairs for key in pair.audio_keys}
    assert len(held_out) > 7_000 and not keys & held_out


def test_captions_are_unique_and_a_sound_belongs_to_one_source(whole):
    selected, _ = whole
    captions = [one.pair.caption.casefold() for one in selected]
    assert len(set(captions)) == len(captions)
    owners = {}
    for one in selected:
        for key in one.pair.audio_keys:
            assert owners.setdefault(key, one.source) == one.source


def test_the_dataset_has_the_schema_and_a_report_next_to_it(data_dir, tmp_path):
    settings = {"clotho_file": str(data_dir / "clotho" / "val.csv.gz"), "num_pairs": 300, "cache_dir": str(tmp_path)}
    dataset = load_dataset("a5_222k", split="train", **settings)
    assert dataset.features == FEATURES and len(dataset) == 300 == len(set(dataset["id"]))
    row = dataset[0]
    assert row["messages"][0]["content"].startswith("<audio>\n") and row["messages"][1]["content"].endswith(".")
    assert row["media"]["audio"].endswith(".wav") and row["media"]["video"] is None
    (report,) = tmp_path.rglob("report.json")
    dropped = json.loads(report.read_text())["sources"]["clotho"]["dropped"]
    assert sum(dropped.values()) == 5_225 - 300 and "not_sampled" in dropped
    assert (report.parent / "dropped.jsonl").is_file()
    again = load_dataset("a5_222k", split="train", num_proc=2, **{**settings, "cache_dir": str(tmp_path / "two")})
    assert again.to_list() == dataset.to_list()


def test_a_changed_file_is_read_again_under_the_same_name(tmp_path):
    path = tmp_path / "captions.json"
    built = []
    for caption in ("A dog barks.", "A cat meows."):
        path.write_text(json.dumps([{"video_id": "abcdefghijk_0.000_10.000", "desc": caption}]))
        dataset = load_dataset("a5_222k", captions_file=str(path), cache_dir=str(tmp_path / "cache"), split="train")
        built.append(dataset[0]["messages"][1]["content"])
    assert built == ["A dog barks.", "A cat meows."]


def test_relative_paths_start_at_data_dir(data_dir, tmp_path):
    settings = {"data_dir": str(data_dir), "cache_dir": str(tmp_path), "split": "train"}
    dataset = load_dataset("a5_222k", wavcaps_file="wavcaps/sb_final.json.gz", **settings)
    assert len(dataset) == 1_232 - 33 - 149  # too long, repeated captions
    with pytest.raises(ValueError, match="no such annotation file.*shared/data/wavcaps/none.json"):
        load_dataset("a5_222k", wavcaps_file="wavcaps/none.json", **settings)


def test_silent_and_unreadable_clips_are_dropped(data_dir, tmp_path):
    (tmp_path / "clips").mkdir()
    for name in ("video7013.mp4", "video7016.mp4"):
        (tmp_path / "clips" / name).symlink_to(data_dir / "msrvtt" / name)
    (tmp_path / "clips" / "empty.mp4").touch()
    captions = [
        ("video7013", "A man cuts wood."),
        ("video7016", "Two girls paint eggs."),
        ("empty", "There was rain."),
    ]
    path = tmp_path / "captions.json"
    path.write_text(json.dumps([{"video_id": name, "desc": text} for name, text in captions]))
    report = RecordReport()
    config = A5222KConfig(captions_file=path, clips_dir=str(tmp_path / "clips"))
    (one,) = select_pairs(config, report=report)
    assert one.path == str(tmp_path / "clips" / "video7016.mp4") == pair_row(one)["media"]["audio"]
    assert report.counts()["captions"]["dropped"] == {"no_sound": 1, "unreadable_media": 1}


def test_missing_clips_are_an_error_unless_allowed(data_dir):
    folder = data_dir / "valor_clips"
    num_missing = sum(
        not (folder / f"{json.loads(line)['video_id']}.mp4").exists()
        for line in (folder / "captions.jsonl").read_text().splitlines()
    )
    settings = {"captions_file": folder / "captions.jsonl", "clips_dir": str(folder)}
    assert 2 <= num_missing < 6
    with pytest.raises(ValueError, match=f"{num_missing} of 6 media files are missing"):
        select_pairs(A5222KConfig(**settings), report=RecordReport())
    report = RecordReport()
    selected = select_pairs(A5222KConfig(**settings, max_missing=0.5), report=report)
    assert len(selected) == 6 - num_missing
    assert report.counts()["captions"]["dropped"]["missing_media"] == num_missing
    assert any(one.pair.record_id.startswith("-") for one in selected)


def test_a_build_without_usable_sources_is_an_error(data_dir, tmp_path):
    with pytest.raises(ValueError, match="a5_222k needs a source: one of .*'audiocaps_file'"):
        select_pairs(A5222KConfig(), report=RecordReport())
    with pytest.raises(ValueError, match="needs class_labels_file, one class_labels_indices.csv"):
        select_pairs(A5222KConfig(audioset_file=tmp_path / "a.csv"), report=RecordReport())
    pointer = data_dir / "wavcaps" / "fsd_final.lfs_pointer.json"
    with pytest.raises(ValueError, match="git-LFS pointer"):
        select_pairs(A5222KConfig(wavcaps_file=pointer), report=RecordReport())
    captions = tmp_path / "captions.csv"
    captions.write_text("audiocap_id,youtube_id,start_time,caption\n1,abcdefghijk,0,On|on\n")
    with pytest.raises(ValueError, match="no pair is left\naudiocaps: read 1, kept 0"):
        select_pairs(A5222KConfig(audiocaps_file=captions), report=RecordReport())
