"""`load_dataset("pu_valor", ...)`: rows, cache keys, options and errors."""

import functools
import json
import re
import shutil
from pathlib import Path

import datasets
import pytest
from datasets import load_dataset

from dataset_builders import build
from dataset_builders.pseudo_untrimmed.curation import prepare
from dataset_builders.pseudo_untrimmed.settings import PRESETS
from dataset_builders.pseudo_untrimmed.shards import build_shard
from dataset_builders.pu_valor import PUValor
from dataset_builders.schema import FEATURES, MEDIA, TRACKED_FEATURES, with_rejected
from dataset_builders.sources.record_report import RecordReport
from dataset_builders.sources.vtimellm import read_vtimellm, write_vtimellm
from modeling_avicuna.media_avicuna import probe

from .curation_fixtures import load_pu_valor, make_captions, quick_options, quick_settings, write_captions


@pytest.fixture
def load(tmp_path):
    return functools.partial(load_pu_valor, cache_dir=tmp_path / "cache")


def built_beside(dataset):
    return Path(dataset.cache_files[0]["filename"]).parent


def test_rows_have_the_schema_and_follow_the_plan(tmp_path, load):
    dataset = load(write_captions(tmp_path / "desc.json"))["train"]
    assert dataset.features == FEATURES and len(dataset) == 40
    captions = {record["video_id"]: record["desc"] for record in make_captions(60)}
    for row in dataset:
        segments = row["segments"]
        assert 3 <= len(segments) <= 8
        assert segments[0]["start"] == 0 and segments[-1]["end"] == row["duration"]
        assert all(one["end"] == other["start"] for one, other in zip(segments, segments[1:]))
        for segment in segments:
            assert captions[segment["clip_id"]] == segment["caption"]
            assert segment["end"] - segment["start"] == pytest.approx(10 * segment["scale"], abs=1e-4)
        borders = {segment["start"] for segment in segments} | {segment["end"] for segment in segments}
        assert row["times"] and all(time["seconds"] in borders for time in row["times"])
        assert row["media"] == dict.fromkeys(MEDIA) and row["source"] == "pseudo-valor"
    assert len(set(dataset["id"])) == 40


def test_splits_are_those_of_the_captions(tmp_path, load):
    records = make_captions(60)
    for number, record in enumerate(records):
        record["split"] = "val" if number < 20 else "test"
    path = tmp_path / "desc.jsonl"
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    dataset = load(path, num_videos=30)
    assert {split: len(rows) for split, rows in dataset.items()} == {"val": 10, "test": 20}
    assigned = {record["video_id"]: record["split"] for record in records}
    for split, rows in dataset.items():
        assert {assigned[segment["clip_id"]] for row in rows for segment in row["segments"]} == {split}


def test_the_same_seed_gives_the_same_parquet_for_any_num_proc(tmp_path, load):
    path = write_captions(tmp_path / "desc.json")
    written = []
    for number, num_proc in enumerate((None, 2, 4)):
        dataset = load(path, num_proc=num_proc, videos_per_shard=7)["train"]
        assert len(dataset.cache_files) == (num_proc or 1)
        dataset.to_parquet(tmp_path / f"{number}.parquet")
        written.append((tmp_path / f"{number}.parquet").read_bytes())
        shutil.rmtree(tmp_path / "cache")
    assert written[0] == written[1] == written[2]
    assert load(path, seed=1)["train"][0] != dataset[0]


def test_the_cache_key_depends_on_content_not_on_paths(tmp_path, load):
    path = write_captions(tmp_path / "desc.json")
    first = built_beside(load(path)["train"])
    moved = tmp_path / "elsewhere.json"
    shutil.copyfile(path, moved)
    assert built_beside(load(moved)["train"]) == first
    assert built_beside(load(path, seed=1)["train"]) != first
    write_captions(path, num_clips=59)  # the same path with other contents
    assert built_beside(load(path)["train"]) != first


def test_streaming_gives_the_same_rows(tmp_path, load):
    path = write_captions(tmp_path / "desc.json")
    streamed = load(path, streaming=True, split="train", videos_per_shard=15)
    assert streamed.num_shards == 3
    built = load(path, split="train", videos_per_shard=15)
    assert list(streamed) == list(built)


def test_the_builder_works_without_registration(tmp_path):
    options = quick_options(write_captions(tmp_path / "desc.json"))
    builder = PUValor(cache_dir=str(tmp_path / "cache"), **options)
    builder.download_and_prepare(file_format="parquet", output_dir=str(tmp_path / "out"))
    rows = load_dataset("parquet", data_files=str(tmp_path / "out" / "*.parquet"), split="train")
    assert len(rows) == 40 and rows.features == FEATURES


def test_the_report_is_written_next_to_the_data(tmp_path, load):
    records = make_captions(30) + [{"video_id": "number_0.000_10.000", "desc": "800"}]
    path = tmp_path / "desc.json"
    path.write_text(json.dumps(records), encoding="utf-8")
    folder = built_beside(load(path)["train"])
    report = json.loads((folder / "report.json").read_text())
    assert report["sources"]["captions"]["dropped"] == {"caption_without_words": 1}
    assert report["sources"]["videos"] == {"read": 40, "kept": 40, "dropped": {}, "repaired": {}}
    dropped = [json.loads(line) for line in (folder / "dropped.jsonl").read_text().splitlines()]
    assert [(entry["id"], entry["detail"]) for entry in dropped] == [("number_0.000_10.000", "800")]
    assert report["settings"]["splits"]["train"]["num_clips"] == 30


def test_videos_without_a_unique_plan_are_counted(tmp_path, load):
    dataset = load(write_captions(tmp_path / "desc.json", 3), num_videos=50, max_repeats=1)["train"]
    assert len(dataset) == 6  # the orders of three clips
    report = json.loads((built_beside(dataset) / "report.json").read_text())
    assert report["sources"]["videos"]["dropped"] == {"no_plan_passed_same_video": 44}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"captions_file": None}, "needs a captions_file"),
        ({"captions_file": "absent.json"}, "no such annotation file.*absent.json"),
        ({"clustering": "dbscan"}, "clustering must be one of.*'dbscan'"),
        ({"clips_per_video": (8, 3)}, r"clips_per_video must be .*\(8, 3\)"),
        ({"scale_range": (0, 1)}, "scale_range"),
        ({"media": "rendered"}, "needs clips_dir"),
        ({"media": "mp4"}, "media must be one of"),
        ({"conversation_types": ("T4",)}, "T4"),
        ({"gap_share": 0.5}, "gap_share needs backgrounds_file"),
        ({"absent_share": 1.5}, "absent_share must be at least 0 and at most 1, got 1.5"),
        ({"num_videos": 0}, "num_videos must be at least 1"),
        ({"clips_dir": "nowhere"}, "no such folder: nowhere"),
        ({"coherence_threshold": "high"}, "coherence_threshold"),
        ({"min_clips": 3}, "min_clips"),
    ],
)
def test_a_wrong_setting_is_an_error_that_names_it(tmp_path, load, changes, message):
    path = write_captions(tmp_path / "desc.json")
    with pytest.raises((ValueError, TypeError), match=message):
        load(path, **changes)


def test_too_few_clips_are_an_error_that_counts_them(tmp_path, load):
    with pytest.raises(ValueError, match="2 usable clips do not make one video of 3"):
        load(write_captions(tmp_path / "desc.json", 2))


def test_real_captions_and_encoder_give_coherent_videos(data_dir, sentence_encoder_dir, tmp_path):
    import gzip

    lines = gzip.decompress((data_dir / "valor" / "valor32k_captions.jsonl.gz").read_bytes()).splitlines()[:240]
    path = tmp_path / "captions.jsonl"
    path.write_bytes(b"\n".join(lines))
    options = {
        "captions_file": str(path),
        "text_encoder": str(sentence_encoder_dir),
        "cache_dir": str(tmp_path / "cache"),
    }
    dataset = load_dataset("pu_valor", num_videos=120, **options)["val"]
    facts = json.loads((built_beside(dataset) / "report.json").read_text())["settings"]["splits"]["val"]
    assert len(dataset) == 120 and min(facts["clusters"]["sizes"]) >= 8
    assert facts["clusters"]["mean_cosine"] > facts["clusters"]["random_mean_cosine"] + 0.1
    # uses the cached embeddings
    strict = load_dataset("pu_valor", num_videos=120, coherence_threshold=0.4, **options)["val"]
    strict_facts = json.loads((built_beside(strict) / "report.json").read_text())["settings"]["splits"]["val"]
    assert strict_facts["rejected_plans"]["incoherent"] > facts["rejected_plans"].get("incoherent", 0)


def test_real_clips_are_rendered_and_missing_clips_counted(data_dir, tmp_path, load):
    clips_dir = data_dir / "valor_clips"
    dataset = load(
        clips_dir / "captions.jsonl",
        clips_dir=str(clips_dir),
        num_videos=1,
        media="rendered",
        render_size=(128, 96),
        render_fps=10,
        scale_range=(0.6, 0.6),
    )["test"]
    info = probe(dataset[0]["media"]["video"])
    assert (info.width, info.height, info.fps) == (128, 96, 10) and info.has_audio
    assert info.duration == pytest.approx(dataset[0]["duration"], abs=0.1)
    assert any(segment["clip_id"].startswith("-") for segment in dataset[0]["segments"])
    report = json.loads((built_beside(dataset) / "report.json").read_text())
    assert report["sources"]["captions"]["dropped"] == {"no_media_file": 3}
    video = datasets.Video(decode=False).encode_example(dataset[0]["media"]["video"])
    assert video["path"] == dataset[0]["media"]["video"]


def test_gaps_and_overlaps_are_in_the_segments_and_in_the_times(tmp_path, load):
    backgrounds = tmp_path / "backgrounds.json"
    backgrounds.write_text(json.dumps(["quiet_0.000_10.000", "room"]), encoding="utf-8")
    path = write_captions(tmp_path / "desc.json")
    options = {"gap_share": 0.5, "gap_seconds": (1, 4), "overlap_share": 0.3, "backgrounds_file": str(backgrounds)}
    rows = load(path, conversation_types=("T1",), **options)["train"]
    plain = load(path)["train"]
    num_gaps, num_overlaps = 0, 0
    for row, other in zip(rows, plain):
        shown = [segment for segment in row["segments"] if segment["caption"] is not None]
        assert [segment["clip_id"] for segment in shown] == [segment["clip_id"] for segment in other["segments"]]
        times = [time["seconds"] for time in row["times"]]
        assert times == [segment[edge] for segment in shown for edge in ("start", "end")]
        reached = 0.0
        for segment in row["segments"]:
            assert segment["start"] <= reached + 1e-5
            num_overlaps += segment["start"] < reached - 1e-5
            if segment["caption"] is None:
                num_gaps += 1
                assert segment["start"] == reached and 1 <= segment["end"] - segment["start"] <= 4.001
                assert segment["clip_id"] in ("quiet_0.000_10.000", "room")
            reached = max(reached, segment["end"])
        assert row["duration"] == reached
    assert num_gaps > 60 and num_overlaps > 30


def test_each_use_of_a_clip_draws_one_of_its_captions(tmp_path, load):
    texts = {}
    records = []
    for number, record in enumerate(make_captions(12)):
        texts[record["video_id"]] = [
            f"{record['desc'][:-1]} {n}." for n in ("once", "twice", "again")[: 1 + number % 3]
        ]
        records.append({"video_id": record["video_id"], "cap": texts[record["video_id"]]})
    path = tmp_path / "desc.json"
    path.write_text(json.dumps(records), encoding="utf-8")
    rows = load(path, caption_field="cap", conversation_types=("T1",), num_videos=300)["train"]
    used: dict[str, set] = {}
    for row in rows:
        for segment in row["segments"]:
            used.setdefault(segment["clip_id"], set()).add(segment["caption"])
            assert segment["caption"][1:-1] in row["messages"][1]["content"]
    assert {name: sorted(found) for name, found in used.items()} == {name: sorted(t) for name, t in texts.items()}
    again = load(path, caption_field="cap", conversation_types=("T1",), num_videos=300, videos_per_shard=7)["train"]
    assert again["segments"] == rows["segments"]


def test_an_overlay_replaces_only_the_tracks_that_carry_the_event(tmp_path, load):
    backgrounds = tmp_path / "backgrounds.json"
    backgrounds.write_text(json.dumps(["quiet_0.000_10.000", "room_0.000_10.000"]), encoding="utf-8")
    records = make_captions(60)
    for number, record in enumerate(records[:40]):
        record["tracks"] = ("audio", "video")[number % 2]
    path = tmp_path / "desc.json"
    path.write_text(json.dumps(records), encoding="utf-8")
    tracks = {record["video_id"]: record.get("tracks", "both") for record in records}
    options = {"gap_share": 0.5, "overlap_share": 0.3, "backgrounds_file": str(backgrounds)}
    plain, rows = (load(path, overlay=overlay, **options)["train"] for overlay in (False, True))
    assert plain.features == FEATURES and rows.features == TRACKED_FEATURES
    assert rows["messages"] == plain["messages"] and rows["times"] == plain["times"]
    for row, other in zip(rows, plain):
        events = [segment for segment in row["segments"] if segment["tracks"] != "background"]
        assert [{**segment, "tracks": None} for segment in events] == [
            {**segment, "tracks": None} for segment in other["segments"] if segment["caption"] is not None
        ]
        assert all(segment["tracks"] == tracks[segment["clip_id"]] for segment in events)
        repeated = [segment for segment in row["segments"] if segment["tracks"] == "background"]
        assert len({segment["clip_id"] for segment in repeated}) == 1
        assert repeated[0]["start"] == 0 and repeated[-1]["end"] == row["duration"]
        assert all(one["end"] == other["start"] for one, other in zip(repeated, repeated[1:]))
        assert all(0.5 <= segment["scale"] <= 1 and segment["caption"] is None for segment in repeated)
        starts = [segment["start"] for segment in row["segments"]]
        assert starts == sorted(starts)
    assert len({row["segments"][0]["clip_id"] for row in rows}) == 2


def test_a_row_that_names_tracks_is_exported_with_them_and_not_read_without(tmp_path, load):
    backgrounds = tmp_path / "backgrounds.json"
    backgrounds.write_text(json.dumps(["quiet_0.000_10.000"]), encoding="utf-8")
    rows = load(write_captions(tmp_path / "desc.json"), overlay=True, backgrounds_file=str(backgrounds))["train"]
    write_vtimellm(rows, tmp_path / "rows.json")
    again = list(read_vtimellm(tmp_path / "rows.json", report=RecordReport()))
    assert [row["segments"] for row in again] == rows["segments"]
    with pytest.raises(ValueError, match="says which tracks its segments play"):
        load_dataset(
            "instruction", "vtimellm", annotations_file=str(tmp_path / "rows.json"), cache_dir=str(tmp_path / "cache")
        )


def test_the_preset_sets_what_was_not_given(tmp_path):
    path = write_captions(tmp_path / "desc.json")
    (tmp_path / "backgrounds.json").write_text('["quiet_0.000_10.000"]', encoding="utf-8")
    given = {"preset": "pu_valor_2", "backgrounds_file": str(tmp_path / "backgrounds.json"), "hard_absent": "cluster"}
    settings = quick_settings(path, **given, gap_share=0.1)
    expected = {**PRESETS["pu_valor_2"], "gap_share": 0.1, "hard_absent": "nearest"}  # a default is not a choice
    assert {name: getattr(settings, name) for name in expected} == expected
    with pytest.raises(ValueError, match="preset must be one of"):
        quick_settings(path, preset="pu_valor_3")
    with pytest.raises(ValueError, match="overlay needs backgrounds_file"):
        quick_settings(path, preset="pu_valor_2")


def test_the_preset_builds_from_the_command_line_and_its_card_says_what_is_ours(tmp_path, sentence_encoder_dir):
    path = write_captions(tmp_path / "desc.json", num_clips=80)
    (tmp_path / "backgrounds.json").write_text('["quiet_0.000_10.000"]', encoding="utf-8")
    words = ["--captions-file", str(path), "--preset", "pu_valor_2", "--output", str(tmp_path / "built")]
    words += ["--backgrounds-file", str(tmp_path / "backgrounds.json"), "--num-videos", "60", "--cluster-size", "40"]
    build.main([*words, "--text-encoder", str(sentence_encoder_dir), "--embeddings-dir", str(tmp_path / "cache")])
    rows = load_dataset(str(tmp_path / "built"), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows.features == with_rejected(TRACKED_FEATURES)
    answers = [message["content"] for row in rows for message in row["messages"] if message["role"] == "assistant"]
    assert any(answer == "No event." for answer in answers) and any("<s1>" in answer for answer in answers)
    card = (tmp_path / "built" / "README.md").read_text(encoding="utf-8")
    for name, value in PRESETS["pu_valor_2"].items():
        stated = "open: our choice" if name == "max_repeats" else "not in the paper: our choice"
        assert re.search(rf"^\| `{name}` \| `{json.dumps(value)}` \| `.*` \| {stated} \|$", card, re.MULTILINE)


def test_an_overlay_without_a_usable_background_is_an_error_that_names_the_file(tmp_path, load):
    captions, backgrounds = write_captions(tmp_path / "desc.json"), tmp_path / "backgrounds.json"
    backgrounds.write_text('["quiet_0.000_0.100"]', encoding="utf-8")
    with pytest.raises(ValueError, match=r"backgrounds\.json has no clip of at least"):
        load(captions, overlay=True, backgrounds_file=str(backgrounds))


def test_a_prepared_folder_that_was_replaced_is_read_again(tmp_path):
    """Within one process: the plan and the clips of a shard must be those of one preparation."""
    folders = []
    for number in range(2):
        records = [{**record, "desc": f"{record['desc']} Take {number}."} for record in make_captions(60)]
        captions_file = tmp_path / f"{number}.json"
        captions_file.write_text(json.dumps(records))
        settings = quick_settings(captions_file)
        folders.append(prepare(settings, tmp_path / "prepared").folder)
    first, second = (build_shard(folder, "train", 0, settings=settings) for folder in folders)
    assert first != second
    build_shard(folders[0], "train", 0, settings=settings)
    shutil.rmtree(folders[0])
    shutil.copytree(folders[1], folders[0])
    assert build_shard(folders[0], "train", 0, settings=settings) == second
