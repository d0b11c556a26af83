"""Readers of captioned sounds, on the real files."""

import pytest

from dataset_builders.sources.audio_captions import (
    read_audiocaps,
    read_audioset_labels,
    read_auto_acd,
    read_captioned_clips,
    read_clotho,
    read_wavcaps,
)
from dataset_builders.sources.clip_ids import youtube_id_of
from dataset_builders.sources.record_report import RecordReport
from dataset_builders.sources.text_cleaning import caption_key, normalize_caption


def read(reader, path, **settings):
    report = RecordReport()
    return list(reader(path, report=report, **settings)), report


@pytest.mark.parametrize(
    ("name", "num_pairs", "num_clips"),
    [
        ("train", 49_838, 49_838),
        ("val", 2_475, 495),
        ("test", 4_875, 975),
        ("v2_val", 2_475, 495),
        ("v2_test", 4_875, 975),
    ],
)
def test_all_pairs_of_audiocaps_are_read_in_both_versions(data_dir, name, num_pairs, num_clips):
    pairs, report = read(read_audiocaps, data_dir / "audiocaps" / f"{name}.csv.gz")
    assert len(pairs) == report.num_read["audiocaps"] == num_pairs
    assert len({pair.audio_keys for pair in pairs}) == num_clips
    assert not [pair for pair in pairs if "\r" in pair.caption]


@pytest.mark.parametrize(("name", "num_files"), [("train", 3_839), ("val", 1_045), ("test", 1_045)])
def test_clotho_has_five_captions_per_file_and_names_without_html_entities(data_dir, name, num_files):
    pairs, report = read(read_clotho, data_dir / "clotho" / f"{name}.csv.gz")
    assert len(pairs) == report.num_read["clotho"] == 5 * num_files
    names = {pair.media_names[0] for pair in pairs}
    assert len(names) == num_files and len({pair.record_id for pair in pairs}) == 5 * num_files
    assert not [name for name in names if "&amp;" in name or "&#39;" in name or name != name.strip()]


def test_all_pairs_of_wavcaps_soundbible_are_read(data_dir):
    pairs, _ = read(read_wavcaps, data_dir / "wavcaps" / "sb_final.json.gz")
    assert len(pairs) == 1_232 and pairs[0].audio_keys == ("soundbible:2219",)
    assert max(pair.duration for pair in pairs) > 2_400 and all(isinstance(pair.duration, float) for pair in pairs)


def test_the_source_of_a_wavcaps_record_is_detected_from_its_fields(tmp_path):
    (tmp_path / "wavcaps.json").write_text(
        '{"data": [{"id": "Y-0SdAVK79lg.wav", "caption": "c", "duration": 10},'
        '{"id": "12", "file_name": "Rain &amp; Wind.wav", "caption": "c", "duration": 3, "href": "x",'
        ' "download_link": "https://freesound.org/people/a/sounds/12/"},'
        '{"id": "07", "caption": "c", "duration": 3, "download_link": "https://sound-effects.bbcrewind.co.uk/07"}]}'
    )
    pairs, _ = read(read_wavcaps, tmp_path / "wavcaps.json")
    assert [pair.audio_keys for pair in pairs] == [
        ("youtube:-0SdAVK79lg",),
        ("freesound:12", "freesound_name:rain & wind"),
        ("bbc:07",),
    ]


def test_auto_acd_ids_are_read_in_each_format_and_malformed_ids_dropped(tmp_path):
    (tmp_path / "auto_acd.csv").write_text(
        "youtube_id,caption\n-0SdAVK79lg,Rain falls.\nYb0RFKhbpFJA.wav,Wind blows.\n"
        "---g-f_I2yQ_000001,A band.\nabc,x\n"
    )
    pairs, report = read(read_auto_acd, tmp_path / "auto_acd.csv")
    assert [pair.audio_keys[0] for pair in pairs] == [
        "youtube:-0SdAVK79lg",
        "youtube:b0RFKhbpFJA",
        "youtube:---g-f_I2yQ",
    ]
    assert report.counts()["auto_acd"]["dropped"] == {"malformed_id": 1}
    (tmp_path / "other.csv").write_text("clip,caption\n1,2\n")
    with pytest.raises(ValueError, match=r"has the columns \['clip', 'caption'\], expected one of"):
        read(read_auto_acd, tmp_path / "other.csv")


def test_audioset_segments_become_sentences_of_their_class_names(data_dir, tmp_path):
    path = tmp_path / "balanced_train_segments.csv"
    path.write_text(
        "# Segments csv created\n# num_ytids=3\n# YTID, start_seconds, end_seconds, positive_labels\n"
        '--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"\n'
        '--ZhevVpy1s, 50.000, 60.000, "/m/012xff,/m/none"\n'
        '--aE2O5G5WE, 0.000, 10.000, "/m/none"\n'
    )
    classes = data_dir / "audioset" / "class_labels_indices.csv"
    pairs, report = read(read_audioset_labels, path, class_labels_file=classes)
    assert [pair.record_id for pair in pairs] == ["--PJHxphWEs_30.000_40.000", "--ZhevVpy1s_50.000_60.000"]
    assert "speech and gush" in pairs[0].caption and "toothbrush" in pairs[1].caption
    counts = report.counts()["audioset"]
    assert counts["read"] == 3 and counts["dropped"] == counts["repaired"] == {"unknown_label": 1}


def test_all_labels_of_llp_are_known_classes(data_dir):
    classes = data_dir / "audioset" / "class_labels_indices.csv"
    path = data_dir / "llp" / "AVVP_dataset_full.csv.gz"
    pairs, report = read(read_audioset_labels, path, class_labels_file=classes)
    assert len(pairs) == report.num_read["audioset"] == 11_849 and report.entries == []
    by_id = {pair.record_id: pair for pair in pairs}
    assert "speech and dog" in by_id["BjCEufrlXm4_20_30"].caption
    assert by_id["AP0061o0Nvk_101.8_111.8"].audio_keys == ("youtube:AP0061o0Nvk",)


def test_malformed_llp_names_are_dropped(data_dir, tmp_path):
    path = tmp_path / "llp.csv"
    path.write_text("filename\tevent_labels\n17iGUal2M_10_20\tSpeech\n4YdbENYcIyE_23_33\tSpeech,Dog\n")
    pairs, report = read(
        read_audioset_labels, path, class_labels_file=data_dir / "audioset" / "class_labels_indices.csv"
    )
    assert len(pairs) == 1 and report.counts()["audioset"]["dropped"] == {"malformed_id": 1}


def test_three_damaged_captions_of_valor_are_dropped(data_dir):
    pairs, report = read(read_captioned_clips, data_dir / "valor" / "valor32k_captions.jsonl.gz")
    assert len(pairs) == 6_138 and report.num_read["captions"] == 6_141
    assert report.counts()["captions"]["dropped"] == {"caption_without_words": 3}
    assert len({pair.audio_keys for pair in pairs}) == 6_138 and min(pair.duration for pair in pairs) < 10.0


def test_normalising_is_idempotent_on_real_captions(data_dir):
    files = ((read_audiocaps, "audiocaps/train.csv.gz"), (read_clotho, "clotho/train.csv.gz"))
    for reader, name in files:
        captions = [pair.caption for pair in read(reader, data_dir / name)[0]][::4]
        normalised = [normalize_caption(caption) for caption in captions]
        assert normalised == [normalize_caption(caption) for caption in normalised]
        assert all(caption.isascii() and caption[-1] in ".!?" for caption in normalised)
        assert [caption_key(one) for one in normalised[:2_000]] == [
            caption_key(one.replace("\u2019", "'")) for one in captions[:2_000]
        ]


@pytest.mark.parametrize(
    ("name", "youtube_id"),
    [
        ("YvfY_TJq7n_U.wav", "vfY_TJq7n_U"),
        ("vfY_TJq7n_U", "vfY_TJq7n_U"),
        ("-uGHAvfqs2I_30.000_40.000", "-uGHAvfqs2I"),
        ("FwVYUHKoLtQ_000034.wav", "FwVYUHKoLtQ"),
        ("7X3oSVoA_90_100", None),
        ("ab_12_34567_000030", "ab_12_34567"),
        ("19jWnmYnlD8_30_400", "19jWnmYnlD8"),
        ("Santa Motor.wav", None),
    ],
)
def test_youtube_ids_are_found_in_clip_names(name, youtube_id):
    assert youtube_id_of(name) == youtube_id
