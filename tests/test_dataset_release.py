"""Publishing a dataset: from a built folder to `load_dataset` without the project, and what is not published."""

import io
import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfApi

from dataset_builders.a5_222k import A5222KConfig
from dataset_builders.release.a5_222k_folder import write_folder
from dataset_builders.release.pu_valor_folder import build_folder
from dataset_builders.schema import FEATURES
from model_card import push as push_module
from model_card.release.dataset_release import assemble_dataset, copy_parquet, find_dataset_problems, write_card
from model_card.write import dataset_card
from tests.curation_fixtures import quick_settings, write_captions
from tests.hub_server import TOKEN
from tests.test_push import run_without_project, write_example


LOAD_DATASET = """
from datasets import load_dataset

rows = load_dataset("user/pu_valor", split="train")
assert list(load_dataset("user/pu_valor", split="train", streaming=True)) == list(rows)
print(len(rows), rows.features)
"""


def test_a_pushed_dataset_loads_in_a_process_without_the_project(hub, tmp_path, monkeypatch):
    folder = build_folder(quick_settings(write_captions(tmp_path / "desc.json"), num_videos=9), tmp_path / "built")
    monkeypatch.setattr(push_module, "HfApi", lambda: HfApi(endpoint=hub.address, token=TOKEN))
    push_module.main(["--dataset", str(folder), "--repo-id", "user/pu_valor"])
    published = hub.repos["datasets", "user/pu_valor"]
    for path in folder.rglob("*.parquet"):
        assert published[path.relative_to(folder).as_posix()] == path.read_bytes()
    assert b'load_dataset("user/pu_valor"' in published["README.md"] and "report.json" in published
    assert ("datasets", "user/pu_valor") not in hub.private
    assert run_without_project(LOAD_DATASET, hub, tmp_path).strip() == f"9 {FEATURES}"


def test_a_smaller_build_replaces_the_shards_of_a_larger_one(hub, tmp_path, monkeypatch):
    """`data/train-*.parquet` would also match old shards, which would duplicate rows."""
    captions = write_captions(tmp_path / "desc.json")
    monkeypatch.setattr(push_module, "HfApi", lambda: HfApi(endpoint=hub.address, token=TOKEN))
    for num_videos in (9, 4):
        settings = quick_settings(captions, num_videos=num_videos, videos_per_shard=3)
        folder = build_folder(settings, tmp_path / f"built{num_videos}")
        push_module.main(["--dataset", str(folder), "--repo-id", "user/pu_valor"])
        shards = {path.name for path in (folder / "data").iterdir()}
        published = hub.repos["datasets", "user/pu_valor"]
        assert {name.split("/")[1] for name in published if name.startswith("data/")} == shards
    tables = [pq.read_table(io.BytesIO(content)) for name, content in published.items() if name.startswith("data/")]
    assert sum(table.num_rows for table in tables) == 4


PUSH_ROWS = """
import sys
from datasets import load_dataset
import dataset_builders

options = {"text_encoder": sys.argv[2], "clustering": "none", "coherence_threshold": None, "num_videos": 5}
rows = load_dataset("pu_valor", captions_file=sys.argv[1], **options)
rows.push_to_hub("user/pu_valor", private=True)
"""


def test_rows_in_memory_are_published_with_push_to_hub(hub, tmp_path, project_dir, sentence_encoder_dir):
    captions = write_captions(tmp_path / "desc.json")
    subprocess.run(
        [sys.executable, "-c", PUSH_ROWS, str(captions), str(sentence_encoder_dir)],
        cwd=project_dir,
        env=hub.environment(tmp_path / "home"),
        check=True,
    )
    assert ("datasets", "user/pu_valor") in hub.private
    assert run_without_project(LOAD_DATASET, hub, tmp_path).strip() == f"5 {FEATURES}"


def test_a_published_dataset_has_no_local_paths(tmp_path):
    """A5-222K built with a clip folder has absolute paths in its rows and in its report."""
    captions, clips = write_captions(tmp_path / "desc.json", num_clips=3), tmp_path / "clips"
    for record in json.loads(captions.read_text()):
        write_example(clips / f"{record['video_id']}.mp4", seconds=1)
    config = A5222KConfig(captions_file=str(captions), clips_dir=str(clips), num_pairs=None)
    folder = write_folder(config, tmp_path / "a5")
    assert str(clips) in (folder / "report.json").read_text()
    assemble_dataset(folder, output=tmp_path / "release")
    write_card(tmp_path / "release", dataset_card(tmp_path / "release", name="user/a5"))
    assert find_dataset_problems(tmp_path / "release") == []
    before, after = (
        pq.read_table(next((root / "data").glob("*.parquet"))).to_pylist() for root in (folder, tmp_path / "release")
    )
    for old, new in zip(before, after, strict=True):
        assert old["media"]["audio"] == str(clips / new["media"]["audio"])
        assert {**old, "media": None} == {**new, "media": None}
    assert str(tmp_path) not in (tmp_path / "release" / "report.json").read_text()
    size = sum(path.stat().st_size for path in (tmp_path / "release" / "data").iterdir())
    assert f"{size:,} bytes of Parquet" in (tmp_path / "release" / "README.md").read_text()


def test_rendered_videos_are_published_only_on_request(tmp_path):
    folder = tmp_path / "built"
    (folder / "data").mkdir(parents=True)
    (folder / "videos").mkdir()
    (folder / "videos" / "a.mp4").write_bytes(b"mp4")
    pq.write_table(pa.table({"id": ["a"], "video": [b"mp4"]}), folder / "data" / "train-0.parquet")
    card = (
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*.parquet\n---\n"
    )
    assemble_dataset(folder, output=tmp_path / "without")
    assert not list((tmp_path / "without").rglob("*.mp4"))
    write_card(tmp_path / "without", card)
    (problem,) = find_dataset_problems(tmp_path / "without")
    assert "data/train-0.parquet contains the videos" in problem
    assemble_dataset(folder, output=tmp_path / "with", include_media=True)
    assert list((tmp_path / "with").rglob("*.mp4"))
    write_card(tmp_path / "with", card)
    assert find_dataset_problems(tmp_path / "with", include_media=True) == []
    (tmp_path / "with" / "data" / "train-0.parquet").unlink()
    (problem,) = find_dataset_problems(tmp_path / "with", include_media=True)
    assert "README.md lists the split train" in problem


def test_the_videos_of_a_file_with_relative_paths_are_not_read(tmp_path, monkeypatch):
    media = [{"video": "videos/a.mp4", "audio": None}]
    pq.write_table(pa.table({"media": media, "video": [b"0" * 100]}), tmp_path / "source.parquet")
    read, read_table = [], pq.read_table
    monkeypatch.setattr(
        pq, "read_table", lambda path, columns=None: read.append(columns) or read_table(path, columns=columns)
    )
    copy_parquet(tmp_path / "source.parquet", tmp_path / "target.parquet")
    assert read == [["media"]] and (tmp_path / "target.parquet").is_symlink()


def test_an_unfinished_build_is_not_published(tmp_path):
    (tmp_path / "built" / ".build").mkdir(parents=True)
    with pytest.raises(ValueError, match="unfinished build"):
        assemble_dataset(tmp_path / "built", output=tmp_path / "release")


def test_all_formats_of_configs_on_the_hub_are_read(tmp_path):
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "data" / "train-00000-of-00001.parquet")
    forms = [
        "data_files: data/*.parquet",
        "data_files: [data/train-*.parquet]",
        "data_files: [{split: train, path: [data/train-*.parquet]}]",
        "data_dir: data",
    ]
    for form in forms:
        text = f"---\nconfigs:\n- config_name: default\n  {form}\n---\n# A card\n"
        (tmp_path / "README.md").write_text(text, encoding="utf-8")
        assert find_dataset_problems(tmp_path) == [], form
    text = "---\nconfigs:\n- config_name: default\n  data_files: other/*.parquet\n---\n# A card\n"
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    assert find_dataset_problems(tmp_path) == ["README.md lists the split train in other/*.parquet: no such file"]


@pytest.mark.parametrize(
    "form",
    ["data_files: /etc/*", "data_files: https://host/a.parquet", "data_dir: other", "data_dir: /", "data_dir: .."],
)
def test_configs_that_name_files_outside_the_data_set_are_a_problem(tmp_path, form):
    folder = tmp_path / "built"
    (folder / "data").mkdir(parents=True)
    text = f"---\nconfigs:\n- config_name: default\n  {form}\n---\n# A card\n"
    (folder / "README.md").write_text(text, encoding="utf-8")
    (problem,) = find_dataset_problems(folder)
    assert form.split(": ")[1] in problem and "no such" in problem


def test_a_wrong_number_of_rows_is_a_problem(tmp_path):
    (tmp_path / "data").mkdir()
    for name, num_rows in (("train-00000-of-00001", 900), ("train-00000-of-00002", 250)):
        pq.write_table(pa.table({"id": [str(row) for row in range(num_rows)]}), tmp_path / "data" / f"{name}.parquet")
    (tmp_path / "report.json").write_text(json.dumps({"num_rows": {"train": 900}}), encoding="utf-8")
    (tmp_path / "README.md").write_text("---\n{}\n---\n# A card\n", encoding="utf-8")
    assert find_dataset_problems(tmp_path) == ["the files of split train have 1150 rows, but report.json counts 900"]
