"""A path option that names the wrong thing is one error that names it, before the command writes anything."""

import json
import os
from unittest import mock

import pytest
from datasets import Dataset

from dataset_builders.schema import FEATURES
from eval import events, run
from tests.train_fixtures import audio_rows, workshop  # noqa: F401
from train import sft


@pytest.fixture
def paths(tmp_path, monkeypatch):
    """The working directory, with a file, an empty folder, rows, an annotation file and a folder of clips.

    Restores the environment: arguments with `deepspeed` set the variables of a launcher.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("text", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.mp4").write_bytes(b"not read")
    Dataset.from_list(audio_rows(), features=FEATURES).to_parquet("rows.parquet")
    event = {"segment": [0.0, 1.0], "label": "dog", "label_id": 0}
    database = {"a": {"duration": 4.0, "subset": "test", "annotations": [event]}}
    (tmp_path / "annotations.json").write_text(json.dumps({"database": database}), encoding="utf-8")
    with mock.patch.dict(os.environ):
        yield tmp_path


TRAINING = (
    "--trainable audio_adapter --bf16 false --use_cpu true --effective_batch_size 0 --output_dir output "
    "--datasets rows.parquet"
).split()


@pytest.mark.parametrize("value", ["absent", "file", "file/sub"])
@pytest.mark.parametrize("option", ["--media_dir", "--data_dir", "--features_dir", "--model", "--deepspeed"])
def test_a_wrong_path_of_a_stage_is_named(workshop, paths, option, value):  # noqa: F811
    line = [*TRAINING, "--model", str(workshop.checkpoint), option, value]
    with pytest.raises(ValueError, match=value):
        sft.main(line)
    assert not (paths / "output").exists()


@pytest.mark.parametrize("value", ["file", "folder"])
@pytest.mark.parametrize("option", ["--model", "--annotations", "--media-dir", "--features-dir", "--output"])
def test_a_wrong_path_of_an_evaluation_is_named(workshop, paths, option, value):  # noqa: F811
    if option == "--output" and value == "folder":
        return
    paths_of = {"--model": workshop.checkpoint, "--annotations": "annotations.json", "--media-dir": "clips"}
    given = {"--task": "unav100", **paths_of, "--output": "output", option: value}
    if option == "--features-dir":
        given.pop("--media-dir")
    with pytest.raises((ValueError, OSError), match=value):
        run.main([str(word) for pair in given.items() for word in pair])
    assert not (paths / "output").exists()


def test_an_output_of_eval_events_that_is_a_file_is_named(paths, capsys):
    line = [
        "--task",
        "unav100",
        "--annotations",
        "annotations.json",
        "--predictions",
        "said.jsonl",
        "--output",
        "file",
    ]
    with pytest.raises(SystemExit, match="2"):
        events.parse(line)
    assert "--output file is a file" in capsys.readouterr().err
