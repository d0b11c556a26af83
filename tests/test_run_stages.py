"""Stages in order, each from the one before; finished ones are skipped, cut-off ones resumed."""

from pathlib import Path

import pytest

from train import run_stages
from train.run_stages import RunArguments, stage_commands
from train.summary import SUMMARY_FILE


RECIPES = Path(run_stages.__file__).with_name("recipes")


def value_of(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


def test_each_stage_starts_from_the_one_before():
    args = RunArguments("start", "out", recipes_dir=str(RECIPES), launcher="accelerate launch --num_processes 8")
    commands = stage_commands(args, overrides=["--seed", "1"])
    names = ["stage1_vision_text", "stage2_audio_text", "stage3_time_event", "stage4_instruction"]
    assert [output.name for output, _ in commands] == names
    starts = [value_of(command, "--model_name_or_path") for _, command in commands]
    assert starts == ["start", *(str(Path("out") / name) for name in names[:-1])]
    for _, command in commands:
        assert command[:4] == ["accelerate", "launch", "--num_processes", "8"] and value_of(command, "--seed") == "1"


def test_what_is_finished_is_skipped_and_what_was_cut_off_resumed(tmp_path, monkeypatch):
    (tmp_path / "stage1").mkdir()
    (tmp_path / "stage1" / SUMMARY_FILE).write_text("{}", encoding="utf-8")
    (tmp_path / "stage2" / "checkpoint-5").mkdir(parents=True)
    started = []

    class Done:
        returncode = 0

    monkeypatch.setattr(run_stages.subprocess, "run", lambda command: started.append(command) or Done())
    recipes = str(RECIPES / "sandbox")
    run_stages.main(["--model_name_or_path", "start", "--output_dir", str(tmp_path), "--recipes_dir", recipes])
    assert [Path(value_of(command, "--config")).stem for command in started] == ["stage2", "stage3", "stage4"]
    assert ["--resume_from_checkpoint" in command for command in started] == [True, False, False]


def test_a_failed_stage_stops_the_run(tmp_path, monkeypatch):
    class Failed:
        returncode = 3

    monkeypatch.setattr(run_stages.subprocess, "run", lambda command: Failed())
    with pytest.raises(SystemExit, match="stage1 ended with status 3"):
        run_stages.main(
            ["--model_name_or_path", "start", "--output_dir", str(tmp_path), "--recipes_dir", str(RECIPES / "sandbox")]
        )


def test_a_folder_without_recipes_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no stage"):
        stage_commands(RunArguments("start", "out", recipes_dir=str(tmp_path)), overrides=[])
