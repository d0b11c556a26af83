"""Selection of A5-222K from captioned sounds; every record is selected or dropped with a reason."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_builders.sources.audio_captions import AudioCaption
from dataset_builders.sources.audio_selection import (
    NUM_PAIRS,
    TARGET_MIX,
    HeldOutSounds,
    blacklist_keys,
    captioned_clip_keys,
    listed_keys,
    select_sounds,
    share_out,
    unav100_keys,
)
from dataset_builders.sources.media_folder import MediaFolder
from dataset_builders.sources.record_report import RecordReport


WORDS = "rain wind speech music a dog barks at night while two men talk".split()


def pair(number, caption, key=None, duration=None):
    return AudioCaption(str(number), caption, (key or f"youtube:{number}",), (f"clip{number}",), duration)


def select(sources, **settings):
    report = RecordReport()
    for source, pairs in sources.items():
        report.read(source, num=len(pairs))
    media = {source: MediaFolder(None, kind="audio") for source in sources}
    held_out = settings.pop("held_out", HeldOutSounds())
    selected = select_sounds(sources, held_out=held_out, media=media, report=report, **settings)
    return [(one.source, one.pair.record_id) for one in selected], report.counts()


def test_the_published_mix_sums_to_the_published_size():
    assert sum(share for source, share in TARGET_MIX.items() if source != "captions") == NUM_PAIRS == 222_000


def test_sources_of_the_real_sizes_give_222_000_pairs():
    usable = {"audiocaps": 45_341, "clotho": 19_162, "auto_acd": 1_500_000, "wavcaps": 380_000, "audioset": 600_000}
    shares = share_out(usable, num_pairs=NUM_PAIRS)
    assert sum(shares.values()) == NUM_PAIRS
    assert shares["audiocaps"] == 45_341 and shares["clotho"] == 19_162
    assert shares["auto_acd"] > 2 * shares["wavcaps"] > 3 * shares["audioset"]


@settings(max_examples=200, deadline=None)
@given(
    usable=st.dictionaries(st.sampled_from(sorted(TARGET_MIX)), st.integers(0, 300_000), min_size=1),
    num_pairs=st.integers(1, 400_000),
)
def test_shares_never_exceed_a_source_and_sum_to_the_requested_number(usable, num_pairs):
    shares = share_out(usable, num_pairs=num_pairs)
    assert list(shares) == list(usable)
    assert all(0 <= shares[source] <= usable[source] for source in usable)
    assert sum(shares.values()) == min(num_pairs, sum(usable.values()))


@settings(max_examples=60, deadline=None)
@given(
    captions=st.lists(st.lists(st.sampled_from(WORDS), max_size=4).map(" ".join), min_size=1, max_size=40),
    num_pairs=st.one_of(st.none(), st.integers(1, 30)),
    seed=st.integers(0, 3),
)
def test_every_record_is_kept_or_dropped_with_a_reason(captions, num_pairs, seed):
    half = len(captions) // 2
    sources = {
        "audiocaps": [pair(number, caption) for number, caption in enumerate(captions[:half])],
        "wavcaps": [pair(number, caption) for number, caption in enumerate(captions[half:], start=half // 2)],
    }
    selected, counts = select(sources, num_pairs=num_pairs, seed=seed)
    for row in counts.values():
        assert row["read"] == row["kept"] + sum(row["dropped"].values())
    assert sum(row["kept"] for row in counts.values()) == len(selected) == len(set(selected))
    assert selected == select(sources, num_pairs=num_pairs, seed=seed)[0]


def test_each_defect_is_dropped_with_its_reason():
    sources = {
        "wavcaps": [
            pair(1, "800"),
            pair(2, "On|on"),
            pair(3, "Rain."),
            pair(4, "A long storm", duration=2_438.0),
            pair(5, "A short storm", duration=60.0),
        ]
    }
    selected, counts = select(sources)
    assert selected == [("wavcaps", "5")]
    assert counts["wavcaps"]["dropped"] == {"audio_too_long": 1, "caption_too_short": 2, "caption_without_words": 1}


def test_duplicate_sounds_and_texts_are_dropped_from_later_sources():
    sources = {
        "audiocaps": [pair(1, "A dog barks", "youtube:x"), pair(2, "a  dog barks!", "youtube:y")],
        "clotho": [pair(1, "Rain on a roof", "freesound_name:r"), pair(2, "Heavy rain", "freesound_name:r")],
        "wavcaps": [pair(1, "An animal", "youtube:x"), pair(2, "Heavy rain", "youtube:z")],
    }
    selected, counts = select(sources)
    assert selected == [("audiocaps", "1"), ("clotho", "1"), ("clotho", "2")]
    assert counts["audiocaps"]["dropped"] == {"duplicate_text": 1}
    assert counts["wavcaps"]["dropped"] == {"duplicate_audio": 1, "duplicate_text": 1}
    assert len(select(sources, max_per_text=2)[0]) == 5


def test_a_file_given_twice_adds_nothing():
    pairs = [pair(1, "A dog barks"), pair(2, "Rain on a roof")]
    selected, counts = select({"audiocaps": pairs + pairs}, max_per_text=2)
    assert len(selected) == 2 and counts["audiocaps"]["dropped"] == {"duplicate_id": 2}


def test_a_held_out_sound_is_excluded_by_any_of_its_keys():
    held_out = HeldOutSounds()
    held_out.add("clotho", ["freesound_name:rain"])
    one = AudioCaption("7", "Heavy rain falls", ("freesound:7", "freesound_name:rain"), ("7",))
    selected, counts = select({"wavcaps": [one, pair(1, "Wind blows")]}, held_out=held_out)
    assert selected == [("wavcaps", "1")] and counts["wavcaps"]["dropped"] == {"in_test_set": 1}


def test_a_pair_with_a_missing_sound_does_not_make_its_text_a_duplicate(tmp_path):
    (tmp_path / "clip2.wav").write_bytes(b"-")
    report = RecordReport()
    selected = select_sounds(
        {"wavcaps": [pair(1, "A dog barks"), pair(2, "A dog barks")]},
        held_out=HeldOutSounds(),
        media={"wavcaps": MediaFolder(tmp_path, kind="audio")},
        report=report,
    )
    assert [one.path for one in selected] == [str(tmp_path / "clip2.wav")]
    assert report.counts()["wavcaps"]["dropped"] == {"missing_media": 1}


def test_another_seed_gives_another_sample_in_the_same_order():
    sources = {"audiocaps": [pair(number, f"Sound number {number}") for number in range(100)]}
    first, second = (select(sources, num_pairs=30, seed=seed)[0] for seed in (0, 1))
    assert first != second and len(first) == len(second) == 30
    for selected in (first, second):
        numbers = [int(record_id) for _, record_id in selected]
        assert numbers == sorted(numbers)


def test_keys_of_the_real_evaluation_sets(data_dir):
    blacklist = set(blacklist_keys(data_dir / "wavcaps" / "blacklist_exclude_test_ac.json.gz"))
    assert len(blacklist) == 1_451 + 2_078  # 2,090 lines, 12 of them twice
    assert {"youtube:vfY_TJq7n_U", "freesound:156"} <= blacklist
    unav = set(unav100_keys(data_dir / "unav100" / "unav100_annotations.json.gz"))
    assert len(unav) == 2_134 + 2_167
    valor = set(captioned_clip_keys(data_dir / "valor" / "valor32k_captions.jsonl.gz"))
    assert len(valor) == 6_141 and "youtube:MfCOvU5nfbQ" in valor


def test_a_list_of_ids_may_name_videos_clips_or_files(tmp_path):
    (tmp_path / "ids.txt").write_text("-uGHAvfqs2I_30.000_40.000\nSanta Motor.wav\n\nvfY_TJq7n_U\n")
    keys = set(listed_keys(tmp_path / "ids.txt"))
    assert {"youtube:-uGHAvfqs2I", "freesound_name:santa motor", "youtube:vfY_TJq7n_U"} <= keys


def test_an_unknown_list_in_a_blacklist_is_an_error(tmp_path):
    (tmp_path / "blacklist.json").write_text('{"AudioSet": [], "BBC": []}')
    with pytest.raises(ValueError, match=r"lists of \['BBC'\]"):
        list(blacklist_keys(tmp_path / "blacklist.json"))
