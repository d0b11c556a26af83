"""A command does not replace files that it has not written, and leaves other files where they are."""

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dataset_builders import build
from dataset_builders.features.feature_store import FeatureStore, FeatureWriter
from dataset_builders.release.citation import BIBTEX
from dataset_builders.sandbox import __main__ as sandbox
from eval.records import AnswerLog
from model_card import write
from modeling_avicuna import convert_avicuna_to_hf
from train import initialize, sft
from train.arguments import StageArguments
from train.checkpoint import check_output


CAPTIONS = [{"video_id": f"clip{n}_0.000_10.000", "desc": "A dog barks at a cat."} for n in range(4)]
BUILD = "--text-encoder x --output {folder} --captions-file {captions}"
COMMANDS = {
    "build pu_valor": (build.main, f"{BUILD} --num-videos 3"),
    "build a5_222k": (build.main, "--builder a5_222k --captions-file {captions} --output {folder}"),
    "initialize": (initialize.main, "--size tiny --captions-file {captions} --output {folder}"),
    "sft": (sft.main, "--model x --trainable vision_adapter --bf16 false --output_dir {folder} --datasets x"),
    "write": (write.main, "--model {folder}"),
}
FILES = {
    "README.md": "# My notes\n",
    "config.json": '{"model_type": "llama"}',
    "report.json": '{"a": 1}',
}


@pytest.mark.parametrize("command", COMMANDS)
def test_files_of_something_else_are_not_replaced(command, tmp_path):
    main, words = COMMANDS[command]
    (tmp_path / "captions.json").write_text(json.dumps(CAPTIONS), encoding="utf-8")
    folder = tmp_path / "own"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    line = words.format(folder=folder, captions=tmp_path / "captions.json").split()
    with pytest.raises(ValueError, match=str(folder)):
        main(line)
    assert {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()} == FILES


def test_files_that_are_not_replaced_are_no_obstacle(tmp_path):
    captions = tmp_path / "captions.json"
    captions.write_text(json.dumps(CAPTIONS), encoding="utf-8")
    initialize.main(f"--size tiny --captions-file {captions} --output {tmp_path}".split())
    with FeatureWriter(tmp_path) as writer:
        writer.add("clip", video=np.ones((1, 2)), audio=np.ones((1, 2)), duration=1.0)
    assert json.loads(captions.read_text(encoding="utf-8")) == CAPTIONS
    assert (tmp_path / "model.safetensors").exists() and "clip" in FeatureStore(tmp_path)


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "write"])
def test_an_output_that_is_a_file_is_an_error_that_names_it(command, tmp_path):
    main, words = COMMANDS[command]
    (tmp_path / "captions.json").write_text(json.dumps(CAPTIONS), encoding="utf-8")
    (tmp_path / "file").write_text("text", encoding="utf-8")
    with pytest.raises(ValueError, match=str(tmp_path / "file")):
        main(words.format(folder=tmp_path / "file", captions=tmp_path / "captions.json").split())
    assert (tmp_path / "file").read_text(encoding="utf-8") == "text"


def test_the_converter_does_not_replace_files_of_something_else(tmp_path):
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match="holds config.json, which this command has not written"):
        convert_avicuna_to_hf.convert_checkpoint("base", vision_adapter="a", audio_adapter="b", output=tmp_path)


@pytest.mark.parametrize(("name", "text"), [("results.json", "{}"), ("settings.json", '{"theme": "dark"}')])
def test_a_run_does_not_replace_results_or_settings_of_something_else(name, text, tmp_path):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=name):
        AnswerLog(tmp_path).begin({"task": "sandbox", "prompts_sha256": "0"})
    assert (tmp_path / name).read_text(encoding="utf-8") == text


def test_the_sandbox_does_not_replace_other_captions(tmp_path):
    line = ["--num-clips", "0", "--num-test-videos", "0", "--output", str(tmp_path)]
    sandbox.main(line)
    sandbox.main(line)
    (tmp_path / "annotations.json").write_text('{"database": {}}', encoding="utf-8")
    with pytest.raises(ValueError, match="another annotations.json"):
        sandbox.main(line)


def test_a_stage_is_not_written_over_its_model(tmp_path):
    line = "--trainable vision_adapter --bf16 false --datasets x".split()
    with pytest.raises(ValueError, match="also the folder of the model"):
        sft.main([*line, "--model", str(tmp_path), "--output_dir", f"{tmp_path}{'/'}"])


def test_an_interrupted_initialization_is_repeated(tmp_path):
    Path(tmp_path / "captions.json").write_text(json.dumps(CAPTIONS), encoding="utf-8")
    line = f"--size tiny --captions-file {tmp_path}/captions.json --output {tmp_path}/out".split()
    initialize.main(line)
    (tmp_path / "out" / "model.safetensors").unlink()
    initialize.main(line)
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_only_written_cards_are_replaced(tmp_path):
    card, licence = tmp_path / "README.md", tmp_path / "LICENSE.md"
    for path in (card, licence):
        path.write_text("Of mine.\n", encoding="utf-8")
        with pytest.raises(ValueError, match=f"{path.name} was not written by this command"):
            write.check_replaced([path])
        path.write_text(f"# Model\n\n## Licences\n\n{BIBTEX}\n", encoding="utf-8")
        write.check_replaced([card, licence])
        path.unlink()


@pytest.mark.parametrize("mark", ["checkpoint-5", "stage_settings.json", None])
def test_a_stage_that_was_killed_while_it_saved_its_model_continues(mark, tmp_path):
    """Models are not saved in one step: a part of config.json can be left."""
    (tmp_path / "config.json").write_text("", encoding="utf-8")
    if mark is not None:
        (tmp_path / mark).touch()
    with nullcontext() if mark else pytest.raises(ValueError, match="holds config.json"):
        check_output(StageArguments(trainable=["vision_adapter"]), SimpleNamespace(output_dir=str(tmp_path)))
