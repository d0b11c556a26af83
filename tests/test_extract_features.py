"""The feature cache: the same loss as from media files, resuming, lists of failures, settings of the towers."""

import json
import shutil

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoProcessor

from dataset_builders.features.feature_store import FeatureStore, FeatureWriter
from dataset_builders.features.towers import check_towers, tower_fingerprint, tower_settings
from dataset_builders.sandbox.world import make_world
from dataset_builders.schema import FEATURES
from dataset_builders.sources.rows import make_row
from tests.train_fixtures import changed_names, run_stage, saved_weights
from tests.two_processes import run_on_two_processes
from train import extract_features
from train.checkpoint import load_model
from train.collator import AVicunaCollator
from train.extract_features import list_media
from train.initialize import build_tiny
from train.media_rows import CachedMedia, MediaFiles


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Three clips and one untrimmed video with their cached features, and a checkpoint with 8 tokens per video."""
    folder = tmp_path_factory.mktemp("world")
    make_world(folder, num_clips=3, num_test_videos=1, seed=3)
    model, processor = build_tiny(["a caption"], vocab_size=400, num_av_tokens=8)
    model.save_pretrained(folder / "checkpoint")
    processor.save_pretrained(folder / "checkpoint")
    for media in ("clips", "test"):
        extract_features.main(command(folder, folder / media, folder / "features"))
    return folder


def command(folder, media_dir, output, *more: str) -> list[str]:
    return ["--model", str(folder / "checkpoint"), "--media-dir", str(media_dir), "--output", str(output), *more]


def rows_of(world) -> list[dict]:
    """A clip as image, as audio and as video, and the untrimmed video."""
    clips, (test,) = sorted((world / "clips").iterdir()), (world / "test").iterdir()
    turns = [("What is this?", "Something that was rendered.")]
    return [
        make_row("image", source="s", turns=turns, image=str(clips[0])),
        make_row("audio", source="s", turns=turns, audio=str(clips[1])),
        make_row("clip", source="s", turns=turns, video=str(clips[2])),
        make_row("untrimmed", source="s", turns=turns, video=str(test)),
    ]


@pytest.mark.parametrize("index", range(4))
def test_the_loss_from_features_equals_the_loss_from_media(world, index):
    processor, model = (
        AutoProcessor.from_pretrained(str(world / "checkpoint")),
        load_model(str(world / "checkpoint")).eval(),
    )
    row = rows_of(world)[index]
    cached = AVicunaCollator(processor, media=CachedMedia([str(world / "features")], processor=processor))([row])
    raw = AVicunaCollator(processor, media=MediaFiles(None, processor=processor))([row])
    assert not {"pixel_values_videos", "input_features"} & cached.keys()
    assert not {"video_features", "audio_features"} & raw.keys()
    with torch.no_grad():
        assert model(**cached).loss.item() == pytest.approx(model(**raw).loss.item(), rel=1e-5)


def test_training_from_media_changes_no_tower_and_no_batch_statistics(world, tmp_path):
    rows = tmp_path / "rows.parquet"
    Dataset.from_list(rows_of(world)[2:], features=FEATURES).to_parquet(str(rows))
    same = {
        "datasets": rows,
        "trainable": ["vision_adapter", "audio_adapter"],
        "model_name_or_path": world / "checkpoint",
    }
    same |= {"per_device_train_batch_size": 2, "effective_batch_size": 2}
    outputs = {}
    for name, features in (("raw", None), ("cached", world / "features")):
        outputs[name] = run_stage(None, "unused", tmp_path / name, features_dir=features, **same)
        names = changed_names(world / "checkpoint", outputs[name])
        assert names and all("_adapter." in changed for changed in names)
    assert any("running_mean" in name for name in saved_weights(outputs["raw"]))
    summaries = [json.loads((folder / "training_summary.json").read_text()) for folder in outputs.values()]
    assert summaries[0]["final_loss"] == pytest.approx(summaries[1]["final_loss"], rel=1e-4)


def test_an_interrupted_extraction_is_resumed(world, tmp_path, monkeypatch):
    clips = sorted((world / "clips").iterdir())
    output = tmp_path / "features"
    one = ["--media", str(clips[0])]
    extract_features.main(["--model", str(world / "checkpoint"), "--output", str(output), *one])
    for name in (".tmpx8Rq1", ".partial-0123abcd-silence.safetensors"):  # left by kill -9 during a write
        (output / name).touch()
    encoded = []
    encode = extract_features.encode_media
    monkeypatch.setattr(extract_features, "encode_media", lambda *a: encoded.append(1) or encode(*a))
    extract_features.main(command(world, world / "clips", output))
    assert len(encoded) == len(clips) - 1 + 2  # silence and darkness
    assert not list(output.glob(".*")), "temporary files of a killed process remain"
    whole, resumed = FeatureStore(world / "features"), FeatureStore(output)
    for clip in clips:
        np.testing.assert_array_equal(whole.video(clip.stem), resumed.video(clip.stem))
        np.testing.assert_array_equal(whole.audio(clip.stem), resumed.audio(clip.stem))


def test_failures_are_listed_with_their_reason(world, tmp_path):
    media = tmp_path / "media"
    media.mkdir()
    clip = next((world / "clips").iterdir())
    shutil.copy(clip, media / "good.mp4")
    (media / "empty.mp4").write_bytes(b"")
    (media / "-broken.mp4").write_bytes(clip.read_bytes()[:400])
    extract_features.main(command(world, media, tmp_path / "out"))
    lines = (tmp_path / "out" / "failed-0000.jsonl").read_text(encoding="utf-8").splitlines()
    failed = {entry["media_id"]: entry["reason"] for entry in map(json.loads, lines)}
    assert failed.keys() == {"empty", "-broken"} and all("mp4" in reason for reason in failed.values())
    assert list(FeatureStore(tmp_path / "out")) == ["good"]
    with pytest.raises(ValueError, match="2 of 3 media failed"):
        extract_features.main(command(world, media, tmp_path / "strict", "--max_missing", "0.5"))


def test_two_processes_resume_a_cache_and_give_the_features_of_one(world, tmp_path):
    media, output = tmp_path / "media", tmp_path / "features"
    shutil.copytree(world / "clips", media)
    clips = sorted(media.iterdir())
    one = ["--output", str(output), "--media", str(clips[0])]
    extract_features.main(["--model", str(world / "checkpoint"), *one])
    (output / "failed-0002.jsonl").write_text(
        '{"media_id": "failed in an earlier run on three processes"}\n', encoding="utf-8"
    )
    begun = {path: path.stat().st_mtime_ns for path in output.glob("part-*")}
    for number in range(4):  # adjacent in the sorted list, so they are divided between the processes
        (media / f"zz{number}.mp4").write_bytes(b"")
    strict = [*command(world, media, output), "--max_missing", "0.5"]
    text = run_on_two_processes("train.extract_features", *strict, succeeds=False)
    assert "4 of 7 media failed" in text
    failed = [
        {entry["media_id"] for entry in map(json.loads, path.read_text(encoding="utf-8").splitlines())}
        for path in sorted(output.glob("failed-*.jsonl"))
    ]
    earlier = "failed in an earlier run on three processes"  # remains listed
    assert sorted(len(names - {earlier}) for names in failed) == [2, 2]
    assert set.union(*failed) == {earlier, *(f"zz{n}" for n in range(4))}
    assert {path: path.stat().st_mtime_ns for path in begun} == begun
    assert {path.name[:9] for path in output.glob("part-*.jsonl")} == {"part-0000", "part-0001"}
    one, two = FeatureStore(world / "features"), FeatureStore(output)
    assert sorted(two) == [clip.stem for clip in clips] and two.settings == one.settings
    np.testing.assert_array_equal(two.silence(), one.silence())
    for clip in clips:
        assert two.duration(clip.stem) == one.duration(clip.stem)
        np.testing.assert_array_equal(two.video(clip.stem), one.video(clip.stem))
        np.testing.assert_array_equal(two.audio(clip.stem), one.audio(clip.stem))


def test_features_of_other_towers_cannot_be_added_to_a_cache(world, tmp_path):
    model, _ = build_tiny(["a caption"], vocab_size=400, num_av_tokens=8, seed=1)
    own = tower_fingerprint(load_model(str(world / "checkpoint")))
    assert own != tower_fingerprint(model)
    assert FeatureStore(world / "features").settings["towers"] == own
    with pytest.raises(ValueError, match="was written with settings"):
        FeatureWriter(world / "features", settings={"towers": tower_fingerprint(model)})


def part_rows(world, start: float | None, end: float | None) -> list[dict]:
    """The untrimmed video, a clip as image and a clip as audio: a part of each."""
    rows = [rows_of(world)[3], *rows_of(world)[:2]]
    for row in rows:
        row["id"] += "-part"
        row["media"] |= {"start": start, "end": end}
    return rows


@pytest.mark.parametrize(("start", "end"), [(2.0, 7.0), (None, 5.0), (3.0, None)])
def test_a_row_about_a_part_of_a_file_has_the_features_of_that_part(world, tmp_path, start, end):
    """From the cache and from the file, and not those of the whole file."""
    rows, path = part_rows(world, start, end), tmp_path / "rows.parquet"
    Dataset.from_list(rows, features=FEATURES).to_parquet(str(path))
    output = tmp_path / "features"
    for media_dir in ("clips", "test"):
        extract_features.main([*command(world, world / media_dir, output), "--datasets", str(path)])
    processor, model = (
        AutoProcessor.from_pretrained(str(world / "checkpoint")),
        load_model(str(world / "checkpoint")).eval(),
    )
    cached = CachedMedia([str(output)], processor=processor)
    files = MediaFiles(None, processor=processor)
    assert CachedMedia([str(world / "features")], processor=processor).missing(rows[0])  # only the whole file
    for row in rows:
        assert cached.missing(row) == []
        whole = {**row, "media": {**row["media"], "start": None, "end": None}}
        batches = [AVicunaCollator(processor, media=media)([row]) for media in (cached, files)]
        with torch.no_grad():
            losses = [model(**batch).loss.item() for batch in batches]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
        of_whole = AVicunaCollator(processor, media=cached)([whole])
        assert any(not torch.equal(batches[0][name], of_whole[name]) for name in of_whole if "features" in name)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("cached_dtype", ["float32", "float16", "bfloat16"])
def test_towers_in_another_data_type_are_the_same_towers(world, dtype, cached_dtype):
    cached = load_model(str(world / "checkpoint"), dtype=cached_dtype)
    model = load_model(str(world / "checkpoint"), dtype=dtype)
    if {dtype, cached_dtype} != {"float16", "bfloat16"}:  # these cannot represent each other's values
        check_towers(tower_settings(cached), model, folder="cache")


def test_a_stage_with_features_of_other_towers_is_an_error(world, tmp_path):
    model, processor = build_tiny(["a caption"], vocab_size=400, num_av_tokens=8, seed=1)
    model.save_pretrained(tmp_path / "other")
    processor.save_pretrained(tmp_path / "other")
    rows = tmp_path / "rows.parquet"
    Dataset.from_list(rows_of(world)[2:], features=FEATURES).to_parquet(str(rows))
    fingerprints = [tower_fingerprint(m) for m in (load_model(str(world / "checkpoint")), model)]
    with pytest.raises(ValueError, match=f"fingerprint {fingerprints[0]}.*fingerprint {fingerprints[1]}"):
        run_stage(
            None,
            "unused",
            tmp_path / "out",
            model_name_or_path=tmp_path / "other",
            features_dir=world / "features",
            datasets=rows,
            trainable="vision_adapter",
        )


def test_failures_of_earlier_runs_remain_listed_until_they_succeed(world, tmp_path):
    clip, output = next((world / "clips").iterdir()), tmp_path / "out"
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
        (folder / f"{folder.name}.mp4").write_bytes(b"")
        with pytest.raises(ValueError, match="1 of 1 media failed"):  # with nothing left, whatever may be missing
            extract_features.main(command(world, folder, output))
    failed = [json.loads(line)["media_id"] for line in (output / "failed-0000.jsonl").read_text().splitlines()]
    assert failed == ["first", "second"]
    shutil.copy(clip, folders[0] / "first.mp4")
    extract_features.main(command(world, folders[0], output))
    failed = [json.loads(line)["media_id"] for line in (output / "failed-0000.jsonl").read_text().splitlines()]
    assert failed == ["second"] and list(FeatureStore(output)) == ["first"]


@pytest.mark.parametrize("arguments", [["--num-workers", "0"], ["--max-missing", "120%"], ["--max_missing", "much"]])
def test_a_wrong_option_is_an_error(tmp_path, arguments):
    with pytest.raises(ValueError):
        extract_features.main(["--model", "x", "--output", str(tmp_path), *arguments])


def test_two_files_with_one_id_and_a_missing_folder_are_errors(tmp_path):
    for name in ("a.mp4", "a.wav"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ValueError, match="id 'a'"):
        list_media(str(tmp_path), [])
    with pytest.raises(ValueError, match="no such media folder"):
        list_media(str(tmp_path / "none"), [])
    with pytest.raises(ValueError, match="no such media file: .*gone.mp4"):
        list_media(None, [str(tmp_path / "gone.mp4")])


def test_the_loss_is_equal_with_centred_tokens_and_short_windows(world, tmp_path):
    """An audio row shows the middle window of the clip, both from the file and from the cached windows."""
    model, processor = build_tiny(
        ["a caption"], vocab_size=400, num_av_tokens=40, alignment="centred", window_seconds=2.0, stride_seconds=1.0
    )
    model.save_pretrained(tmp_path / "checkpoint")
    processor.save_pretrained(tmp_path / "checkpoint")
    rows = rows_of(world)
    media = [path for row in rows for path in row["media"].values() if isinstance(path, str)]
    line = ["--model", str(tmp_path / "checkpoint"), "--output", str(tmp_path / "features"), "--media", *media]
    extract_features.main(line)
    store = FeatureStore(tmp_path / "features")
    assert (store.settings["alignment"], store.settings["window_seconds"]) == ("centred", 2.0)
    for row in rows:
        cached = AVicunaCollator(processor, media=CachedMedia([str(tmp_path / "features")], processor=processor))(
            [row]
        )
        raw = AVicunaCollator(processor, media=MediaFiles(None, processor=processor))([row])
        with torch.no_grad():
            assert model(**cached).loss.item() == pytest.approx(model(**raw).loss.item(), rel=1e-5)
    with pytest.raises(ValueError, match="alignment='centred', but the processor has alignment='published'"):
        CachedMedia([str(tmp_path / "features")], processor=AutoProcessor.from_pretrained(str(world / "checkpoint")))
