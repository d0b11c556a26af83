"""The built folder: the same bytes for every way to build it, and readable without the project."""

import dataclasses
import hashlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import Features
from huggingface_hub import DatasetCard

from benchmarks import curation_full_size
from dataset_builders import build
from dataset_builders.media_writer import MediaWriter
from dataset_builders.pseudo_untrimmed import curation, embedding, rendered_rows
from dataset_builders.release import pu_valor_folder
from dataset_builders.release.pu_valor_card import card_text
from dataset_builders.release.pu_valor_folder import build_folder, list_shards, prepare_folder
from dataset_builders.schema import FEATURES
from dataset_builders.sources.media_folder import MediaFolder
from modeling_avicuna.media_avicuna import MediaError

from .curation_fixtures import make_captions, quick_options, quick_settings, write_captions


def files_of(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / "data").iterdir())}


def run_python(code, *, cwd, env=None):
    """Run code in a new process that cannot import the project; returns its output."""
    environment = {**(env or os.environ), "PYTHONPATH": "", "HF_DATASETS_CACHE": str(cwd / "cache")}
    guard = "import sys; sys.path[:] = [path for path in sys.path if path != '']\n"
    check = "\nassert not any(name.startswith('dataset_builders') for name in sys.modules)\n"
    result = subprocess.run(
        [sys.executable, "-c", guard + code + check], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small finished build; its captions file is next to it."""
    root = tmp_path_factory.mktemp("built")
    write_captions(root / "desc.json")
    return build_folder(quick_settings(root / "desc.json", videos_per_shard=9), root / "pu_valor")


def test_the_bytes_do_not_depend_on_the_number_of_workers(folder, tmp_path):
    for num_workers in (2, 4):
        settings = quick_settings(folder.parent / "desc.json", videos_per_shard=9)
        built = build_folder(settings, tmp_path / str(num_workers) / "pu_valor", num_workers=num_workers)
        assert files_of(built) == files_of(folder) and len(files_of(built)) == 5
        for name in ("report.json", "README.md"):
            assert (built / name).read_bytes() == (folder / name).read_bytes()


def test_a_build_killed_while_it_removed_its_work_folder_is_finished(tmp_path, monkeypatch):
    settings = quick_settings(write_captions(tmp_path / "desc.json", 40))

    def remove_in_part(folder):
        sorted(path for path in folder.rglob("*") if path.is_file())[-1].unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pu_valor_folder.shutil, "rmtree", remove_in_part)
        build_folder(settings, tmp_path / "killed")
    assert (tmp_path / "killed" / ".build").exists()
    killed, whole = (build_folder(settings, tmp_path / name) for name in ("killed", "whole"))
    assert files_of(killed) == files_of(whole) and not (killed / ".build").exists()


def test_a_killed_build_is_resumed_with_the_same_bytes(tmp_path):
    """After kill -9, finished shards are kept and the missing ones written."""
    options = {"num_videos": 3600, "videos_per_shard": 60}
    captions = write_captions(tmp_path / "desc.json", 300)
    output = tmp_path / "killed"
    command = [sys.executable, "-m", "dataset_builders.build", "--output", str(output)]
    for name, value in quick_options(captions, **options).items():
        command += ["--" + name.replace("_", "-"), str(value)]
    project = Path(__file__).parents[1]
    process = subprocess.Popen(command, cwd=project, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(output.glob(".build/*/done/*.json"))) < 5:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (output / "report.json").exists()
    marks = list(output.glob(".build/*/done/*.json"))
    assert 5 <= len(marks) < 60
    times = {path.name: path.stat().st_mtime_ns for path in (output / "data").iterdir() if path.name[0] != "."}
    done = {f"{mark.stem}-of-00060.parquet" for mark in marks}
    (output / "data" / sorted(done)[0]).write_bytes(b"incomplete")
    (output / "data" / ".partial-0123abcd-train-00000-of-00060.parquet").touch()  # killed while it opened a shard

    settings = quick_settings(captions, **options)
    build_folder(settings, output)
    for name in sorted(done)[1:]:
        assert (output / "data" / name).stat().st_mtime_ns == times[name]
    whole = build_folder(settings, tmp_path / "whole")
    assert files_of(output) == files_of(whole)  # without the partial file of the killed process
    assert not (output / ".build").exists()


def test_tasks_write_their_shards_and_a_last_call_finishes(folder, tmp_path, capsys):
    output = tmp_path / "pu_valor"
    arguments = ["--output", str(output), "--videos-per-shard", "9"]
    for name, value in quick_options(folder.parent / "desc.json").items():
        arguments += ["--" + name.replace("_", "-"), str(value)]
    for task in range(2):
        build.main([*arguments, "--task", str(task), "--num-tasks", "2"])
        assert not (output / "report.json").exists()
    assert [len(list(output.glob("data/*.parquet")))] == [5]
    build.main(arguments)
    assert files_of(output) == files_of(folder)
    assert "{'train': 40} rows" in capsys.readouterr().out


def test_two_shards_through_datatrove_have_the_same_bytes(folder, tmp_path):
    pytest.importorskip("datatrove", reason="the optional extra `cluster` is not installed")
    from datatrove.executor import LocalPipelineExecutor

    from dataset_builders.release.cluster_shards import BuildShards

    settings = quick_settings(folder.parent / "desc.json", videos_per_shard=9)
    output = tmp_path / "pu_valor"
    steps = [BuildShards(settings, output)]
    LocalPipelineExecutor(pipeline=steps, tasks=2, workers=1, logging_dir=str(tmp_path / "logs")).run()
    assert not (output / "report.json").exists()
    build_folder(settings, output)
    assert files_of(output) == files_of(folder)


def test_a_plan_that_another_process_finished_first_is_used(folder, tmp_path, monkeypatch):
    settings = quick_settings(folder.parent / "desc.json")
    curate = curation.curate

    def curate_late(settings, target):
        monkeypatch.setattr(curation, "curate", curate)
        prepare_folder(settings, tmp_path)  # the other process
        curate(settings, target)

    monkeypatch.setattr(curation, "curate", curate_late)
    prepared = prepare_folder(settings, tmp_path)
    assert prepared.num_rows == {"train": 40}
    assert [path.name for path in (tmp_path / ".build").iterdir()] == [settings.fingerprint()]


def test_a_build_resumed_in_another_environment_records_both_and_has_the_same_bytes(folder, tmp_path, monkeypatch):
    settings = quick_settings(folder.parent / "desc.json", videos_per_shard=9)
    output = tmp_path / "pu_valor"
    build_folder(settings, output, shards=[("train", 0), ("train", 1)])
    elsewhere = {"git_commit": "feed" * 10, "packages": {"numpy": "9.9.9"}}
    monkeypatch.setattr(pu_valor_folder, "build_environment", lambda packages: elsewhere)
    build_folder(settings, output)
    finished = json.loads((output / "report.json").read_text())
    here = json.loads((folder / "report.json").read_text())
    assert files_of(output) == files_of(folder) and finished["sizes"] == here["sizes"]
    assert len(finished["environments"]) == 2 and elsewhere in finished["environments"]
    assert f"* Built at commit `{'feed' * 10}` with numpy 9.9.9\n" in (output / "README.md").read_text()


@pytest.mark.parametrize("changes", [{}, {"num_videos": 30}])
def test_shards_without_a_record_of_their_build_are_an_error(folder, tmp_path, changes):
    """After an interrupted build whose work folder was removed, old and new shards would be mixed."""
    settings = quick_settings(folder.parent / "desc.json", videos_per_shard=9)
    output = tmp_path / "pu_valor"
    build_folder(settings, output, shards=[("train", 0), ("train", 3)])
    shutil.rmtree(output / ".build")
    again = quick_settings(folder.parent / "desc.json", videos_per_shard=9, **changes)
    with pytest.raises(ValueError, match="holds data, which this command has not written"):
        build_folder(again, output)
    (tmp_path / "videos" / "videos" / "train").mkdir(parents=True)
    (tmp_path / "videos" / "videos" / "train" / "pu_valor_train_000000.mp4").write_bytes(b"-")
    with pytest.raises(ValueError, match="holds videos, which this command has not written"):
        build_folder(again, tmp_path / "videos")


def test_a_finished_folder_with_missing_or_foreign_shards_is_an_error(folder, tmp_path):
    output = tmp_path / "pu_valor"
    shutil.copytree(folder, output)
    settings = quick_settings(folder.parent / "desc.json", videos_per_shard=9)
    (output / "data" / "train-00002-of-00005.parquet").rename(output / "data" / "train-00002-of-00009.parquet")
    with pytest.raises(ValueError, match="missing or foreign: .*00002-of-00005.*00002-of-00009"):
        build_folder(settings, output)


def test_a_concurrent_build_is_an_error(folder, tmp_path):
    settings = quick_settings(folder.parent / "desc.json", videos_per_shard=9)
    prepare_folder(settings, tmp_path / "pu_valor")
    with pu_valor_folder.alone(tmp_path / "pu_valor"), pytest.raises(ValueError, match="is being built by another"):
        build_folder(settings, tmp_path / "pu_valor")
    assert files_of(build_folder(settings, tmp_path / "pu_valor")) == files_of(folder)


def test_the_files_have_no_schema_metadata(folder):
    """Older versions of `datasets` may not be able to read it."""
    for path in (folder / "data").iterdir():
        assert pq.read_schema(path).metadata is None


def test_a_folder_of_another_build_is_an_error(folder):
    settings = quick_settings(folder.parent / "desc.json", seed=1)
    with pytest.raises(ValueError, match="holds the finished build .* choose another folder"):
        build_folder(settings, folder)
    with pytest.raises(ValueError, match="no such shards"):
        build_folder(settings, folder.parent / "other", shards=[("train", 99)])
    with pytest.raises(ValueError, match="holds the unfinished build"):
        build_folder(quick_settings(folder.parent / "desc.json", seed=2), folder.parent / "other")


def test_a_finished_folder_is_not_changed(folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    build_folder(quick_settings(folder.parent / "desc.json", videos_per_shard=9), folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_the_command_names_wrong_values(tmp_path, capsys):
    output = ["--output", str(tmp_path / "x")]
    with pytest.raises(ValueError, match="absent.json"):
        build.main([*output, "--captions-file", str(tmp_path / "absent.json")])
    for words, message in (
        (["--num-videos", "1e3"], "invalid int value: '1e3'"),
        (["--captoins-file", "x"], "unrecognized arguments: --captoins-file"),
    ):
        with pytest.raises(SystemExit):
            build.main([*output, *words])
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    for words, message in (
        (["--num_videos", "0", "--captions_file", "c"], "num_videos must be at least 1, got 0"),
        (["--num-workers", "0", "--captions-file", "c"], "num_workers must be at least 1, got 0"),
        (["--task", "4", "--num-tasks", "4", "--captions-file", "c"], "task must be at least 0 and at most 3, got 4"),
    ):
        with pytest.raises(ValueError, match=message):
            build.main([*output, *words])


def test_the_card_has_counts_and_the_report_has_hashes(folder):
    card = (folder / "README.md").read_text()
    report = json.loads((folder / "report.json").read_text())
    assert card.startswith("---\n") and "path: data/train-*.parquet" in card
    assert "| train | 40 |" in card and report["num_rows"] == {"train": 40}
    assert report["fingerprint"] in card and set(report["sha256"]) == set(files_of(folder))
    for name in ("timeline.png", "distributions.png"):
        assert f"figures/{name}" in card and (folder / "figures" / name).read_bytes().startswith(b"\x89PNG")
    published = card_text(report, name="user/pu_valor")
    assert published == card.replace('"./pu_valor"', '"user/pu_valor"') != card


def make_clip(path, *, with_sound):
    import numpy as np

    with MediaWriter(path, width=64, height=48, fps=10, sampling_rate=16000 if with_sound else None) as writer:
        for frame in range(20):
            writer.write_frame(np.full((48, 64, 3), 10 * frame, np.uint8))
        if with_sound:
            writer.write_audio(np.sin(np.arange(32000) / 5)[None].repeat(2, 0).astype(np.float32) * 0.2)


def test_rendered_rows_contain_their_video_and_unusable_clips_are_counted(tmp_path):
    clips_dir = tmp_path / "clips"
    records = [{**record, "video_id": f"-clip_{number}"} for number, record in enumerate(make_captions(6))]
    (tmp_path / "desc.json").write_text(json.dumps(records), encoding="utf-8")
    for number in range(4):
        make_clip(clips_dir / f"-clip_{number}.mp4", with_sound=number != 2)
    (clips_dir / "-clip_4.mp4").write_bytes(b"no mp4")  # clip 5 has no file
    settings = quick_settings(
        tmp_path / "desc.json", clips_dir=str(clips_dir), media="rendered", num_videos=3, render_size=(64, 48)
    )
    folder = build_folder(settings, tmp_path / "pu_valor")
    report = json.loads((folder / "report.json").read_text())
    assert report["sources"]["captions"]["dropped"] == {"no_media_file": 1, "unreadable_media_file": 1}
    table = pq.read_table(folder / "data").to_pylist()
    for row in table:
        path = folder / row["media"]["video"]
        assert row["video"]["bytes"] == path.read_bytes() and row["media"]["video"] == f"videos/train/{row['id']}.mp4"
    code = (
        "import datasets, io, av\n"
        "ds = datasets.load_dataset('./pu_valor', split='train')\n"
        "assert isinstance(ds.features['video'], datasets.Video)\n"
        "for row in ds.cast_column('video', datasets.Video(decode=False)):\n"
        "    with av.open(io.BytesIO(row['video']['bytes'])) as file:\n"
        "        num_frames = sum(1 for _ in file.decode(video=0))\n"
        "    assert abs(num_frames / 25 - row['duration']) <= 0.04, (num_frames, row['duration'])\n"
        "print(len(ds))\n"
    )
    assert run_python(code, cwd=tmp_path).strip() == "3"
    card = (folder / "README.md").read_text()
    assert "The videos are rendered" in card and "This copy holds rendered media" in card
    assert list(Features._from_yaml_list(DatasetCard(card).data.dataset_info["features"])) == [*FEATURES, "video"]
    sample = card.split("```python\n")[1].split("```")[0]
    assert "Video(decode=False)" in sample and " s: " in run_python(sample, cwd=tmp_path)


def test_a_row_with_a_clip_that_cannot_be_rendered_is_dropped_with_the_reason(folder, tmp_path, monkeypatch):
    table = pq.read_table(next((folder / "data").iterdir()))
    broken = table["segments"][0].as_py()[0]["clip_id"]

    def render(segments, clip_files, path, **options):
        if any(segment["clip_id"] == broken for segment in segments):
            raise MediaError(f"{broken}.mp4", "unreadable video stream", "at 2.0 s")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"-")

    monkeypatch.setattr(rendered_rows, "render_video", render)
    settings = quick_settings(folder.parent / "desc.json", clips_dir=str(tmp_path), media="rendered")
    rows, drops = rendered_rows.render_rows(
        table, tmp_path / "videos", clips=MediaFolder(tmp_path), settings=settings, relative_to=tmp_path
    )
    assert len(rows) + len(drops) == len(table) and drops[0]["id"] == table["id"][0].as_py()
    assert {drop["reason"] for drop in drops} == {"not_rendered: unreadable video stream"}
    assert "at 2.0 s" in drops[0]["detail"]
    assert all((tmp_path / media["video"]).exists() for media in rows["media"].to_pylist())


def test_a_process_lists_the_clips_of_a_build_once_for_all_its_shards(tmp_path, monkeypatch):
    """A shard has 20 rendered videos: with a listing for each, the time is quadratic in the number of clips."""
    settings = quick_settings(write_captions(tmp_path / "desc.json"), videos_per_shard=4)
    prepared = prepare_folder(settings, tmp_path / "built")
    settings.media, settings.clips_dir, listed = "rendered", str(tmp_path), []

    def list_folder(folder, **options):
        listed.append(folder)
        return MediaFolder(folder, **options)

    def render(segments, clip_files, path, **options):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"-")

    monkeypatch.setattr(rendered_rows, "MediaFolder", list_folder)
    monkeypatch.setattr(rendered_rows, "render_video", render)
    for shard in list_shards(prepared, settings)[:3]:
        pu_valor_folder.write_shard(tmp_path / "built", prepared, settings, shard, {})
    assert listed == [str(tmp_path)]


def test_the_job_of_a_shard_is_sent_without_the_report(tmp_path, monkeypatch):
    """The report has the size of every cluster: sent with each shard, it would make the build quadratic."""
    settings = quick_settings(write_captions(tmp_path / "desc.json"), videos_per_shard=4)
    prepared = prepare_folder(settings, tmp_path / "built")
    prepared = dataclasses.replace(prepared, report={"sizes": list(range(100_000))})
    sent = []
    monkeypatch.setattr(pu_valor_folder, "run_jobs", lambda function, jobs, **options: sent.extend(jobs) or ())
    pu_valor_folder.write_shards(tmp_path / "built", prepared, settings, list_shards(prepared, settings), 1)
    assert len(sent) == 10 and max(len(pickle.dumps(job)) for job in sent) < 10_000


def test_a_shard_is_hashed_without_reading_it_as_a_whole(tmp_path, monkeypatch):
    path = tmp_path / "shard.parquet"
    path.write_bytes(b"0123" * 700_000)
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(Path, "read_bytes", None)
    assert pu_valor_folder.hash_file(path) == expected


def test_plans_with_a_partly_damaged_clip_are_replaced(tmp_path):
    clips_dir = tmp_path / "clips"
    records = [{**record, "video_id": f"clip_{number}x"} for number, record in enumerate(make_captions(7))]
    (tmp_path / "desc.json").write_text(json.dumps(records), encoding="utf-8")
    for number in range(7):
        make_clip(clips_dir / f"clip_{number}x.mp4", with_sound=number != 2)
    content = bytearray((clips_dir / "clip_3x.mp4").read_bytes())
    middle = (content.index(b"mdat") + content.index(b"moov")) // 2
    content[middle : middle + 400] = bytes(400)  # the header and the first frames are intact
    (clips_dir / "clip_3x.mp4").write_bytes(content)
    settings = quick_settings(
        tmp_path / "desc.json", clips_dir=str(clips_dir), media="rendered", num_videos=4, render_size=(64, 48)
    )
    folder = build_folder(settings, tmp_path / "pu_valor")
    report = json.loads((folder / "report.json").read_text())
    rows = pq.read_table(folder / "data", columns=["segments"]).to_pylist()
    assert len(rows) == 4 and report["sources"]["videos"]["dropped"] == {}
    assert "clip_3x" not in {segment["clip_id"] for row in rows for segment in row["segments"]}
    assert report["sources"]["captions"] | {"repaired": {}} == {
        "read": 7,
        "kept": 6,
        "dropped": {"unreadable_media_file": 1},
        "repaired": {},
    }
    assert report["settings"]["splits"]["train"]["rejected_plans"]["unreadable_clip"] >= 1


def test_a_build_lists_its_shards(folder, tmp_path):
    settings = quick_settings(folder.parent / "desc.json", videos_per_shard=15)
    shards = list_shards(prepare_folder(settings, tmp_path), settings)
    assert shards == [("train", 0), ("train", 1), ("train", 2)]


@pytest.mark.slow
def test_a_build_of_the_size_of_the_paper_takes_at_most_two_minutes_and_two_gigabytes(tmp_path):
    """114,081 videos from 32,000 captions with 2 workers and cached (random) embeddings."""
    import numpy as np

    encoder, num_clips = "made-up/encoder", 32000
    captions = write_captions(tmp_path / "desc.json", num_clips)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(1600, 384))[np.arange(num_clips) % 1600] + 1.2 * rng.normal(size=(num_clips, 384))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    keys = [embedding.hash_text(record["desc"]) for record in make_captions(num_clips)]
    folder = tmp_path / "embeddings" / embedding.fingerprint_encoder(encoder)
    embedding.write_vectors(folder, keys, vectors.astype(np.float32))
    arguments = ["--captions-file", str(captions), "--text-encoder", encoder, "--num-workers", "2"]
    facts = curation_full_size.measure(
        tmp_path / "out", [*arguments, "--embeddings-dir", str(tmp_path / "embeddings")]
    )
    assert facts["rows"] == {"train": 114081}
    assert facts["seconds"] <= 120 and facts["peak_gigabytes"] <= 2.0, facts
