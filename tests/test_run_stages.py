"""Running stages in order: finished stages are skipped, interrupted ones resumed, changed ones are an error."""

import sys
from pathlib import Path

import pytest

from train import run_stages
from train.resuming import SETTINGS_FILE
from train.run_stages import RunOptions, stages_of
from train.summary import SUMMARY_FILE


RECIPES = Path(run_stages.__file__).with_name("recipes")
LAUNCHER = ["--launcher", sys.executable]


def value_of(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


@pytest.fixture
def started(monkeypatch) -> list[list[str]]:
    """The commands that would be run; each succeeds."""
    commands = []

    class Done:
        returncode = 0

    monkeypatch.setattr(run_stages.subprocess, "run", lambda command, env: commands.append(command) or Done())
    return commands


def write_complete_checkpoint(folder: Path):
    folder.mkdir(parents=True)
    (folder / "trainer_state.json").write_text("{}", encoding="utf-8")


def test_each_stage_starts_from_the_previous_one():
    options = RunOptions("start", "out", recipes_dir=str(RECIPES), launcher="accelerate launch --num_processes 8")
    stages = stages_of(options, overrides=["--seed", "1"])
    names = ["stage1_vision_text", "stage2_audio_text", "stage3_time_event", "stage4_instruction"]
    assert [stage.output.name for stage in stages] == names
    commands = [stage.command(options.launcher) for stage in stages]
    starts = [value_of(command, "--model") for command in commands]
    assert starts == ["start", *(str(Path("out") / name) for name in names[:-1])]
    for command in commands:
        assert command[:4] == ["accelerate", "launch", "--num_processes", "8"] and value_of(command, "--seed") == "1"


@pytest.mark.parametrize(
    "spelling", ["--model --output --recipes-dir", "--model_name_or_path --output_dir --recipes_dir"]
)
def test_finished_stages_are_skipped_and_interrupted_ones_resumed(tmp_path, started, spelling):
    (tmp_path / "stage1").mkdir()
    (tmp_path / "stage1" / SUMMARY_FILE).write_text("{}", encoding="utf-8")
    write_complete_checkpoint(tmp_path / "stage2" / "checkpoint-5")
    (tmp_path / "stage3" / "checkpoint-5").mkdir(parents=True)  # interrupted while writing
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    for number in range(1, 5):
        (recipes / f"stage{number}.yaml").write_text("learning_rate: 1.0\n", encoding="utf-8")
    start = tmp_path / "start"
    start.mkdir()
    values = (str(start), str(tmp_path), str(recipes))
    run_stages.main([*LAUNCHER, *(word for pair in zip(spelling.split(), values) for word in pair)])
    assert [Path(value_of(command, "--config")).stem for command in started] == ["stage2", "stage3", "stage4"]
    assert ["--resume_from_checkpoint" in command for command in started] == [True, False, False]


def test_a_finished_stage_with_other_settings_is_an_error(tmp_path, started):
    start, recipes, output = tmp_path / "start", tmp_path / "recipes", tmp_path / "out"
    for folder in (start, recipes):
        folder.mkdir()
    (start / "config.json").write_text("{}", encoding="utf-8")
    (recipes / "stage1.yaml").write_text("learning_rate: 1.0e-5\n", encoding="utf-8")
    line = [*LAUNCHER, "--model", str(start), "--output", str(output), "--recipes-dir", str(recipes)]
    run_stages.main([*line, "--seed", "1"])
    (output / "stage1" / SUMMARY_FILE).write_text("{}", encoding="utf-8")
    run_stages.main([*line, "--seed", "1"])
    assert len(started) == 1 and (output / "stage1" / SETTINGS_FILE).exists()
    with pytest.raises(ValueError, match=r"stage1 was started with overrides \['--seed', '1'\].*\['--seed', '2'\]"):
        run_stages.main([*line, "--seed", "2"])
    (recipes / "stage1.yaml").write_text("learning_rate: 2.0e-5\n", encoding="utf-8")
    with pytest.raises(ValueError, match="stage1 was started with recipe.*1e-05.*2e-05"):
        run_stages.main([*line, "--seed", "1"])
    (recipes / "stage1.yaml").write_text("learning_rate: 1.0e-5\n", encoding="utf-8")
    (start / "config.json").write_text('{"other": "weights"}', encoding="utf-8")
    with pytest.raises(ValueError, match="stage1 was started with model"):
        run_stages.main([*line, "--seed", "1"])


def test_a_failed_stage_stops_the_run(tmp_path, monkeypatch):
    class Failed:
        returncode = 3

    monkeypatch.setattr(run_stages.subprocess, "run", lambda command, env: Failed())
    with pytest.raises(SystemExit, match="stage1 ended with status 3"):
        run_stages.main(
            [*LAUNCHER, "--model", str(tmp_path), "--output", str(tmp_path / "out")]
            + ["--recipes-dir", str(RECIPES / "sandbox")]
        )


def test_a_folder_without_recipes_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no stage"):
        stages_of(RunOptions("start", "out", recipes_dir=str(tmp_path)), overrides=[])


WRONG_STARTS = {
    "empty output": (["--output", ""], "the value of --output is empty"),
    "empty model": (["--model="], "the value of --model is empty"),
    "absent model": (["--model", "no/such/folder"], "--model no/such/folder is neither a folder nor a Hub id"),
    "model is a file": (["--model", "{file}"], "{file} is neither a folder nor a Hub id"),
    "absent launcher": (["--launcher", "no-such-program x"], "'no-such-program x': no such program"),
    "absent recipes": (["--recipes-dir", "{file}"], "no stage*.yaml in {file}"),
    "damaged recipe": (["--recipes-dir", "{damaged}"], "stage2.yaml is not YAML"),
    "text for a list": (["--recipes-dir", "{text}"], "stage1.yaml: datasets must be a list, got 'rows.parquet'"),
}


@pytest.mark.parametrize("name", WRONG_STARTS)
def test_a_wrong_start_is_an_error_before_anything_is_written(name, tmp_path, started, capsys):
    places = {"file": tmp_path / "file", "damaged": tmp_path / "damaged", "text": tmp_path / "text"}
    places["file"].write_text("text", encoding="utf-8")
    for folder, recipes in {"damaged": ["trainable: []", "a: [1"], "text": ["datasets: rows.parquet"]}.items():
        places[folder].mkdir()
        for number, recipe in enumerate(recipes, start=1):
            (places[folder] / f"stage{number}.yaml").write_text(recipe, encoding="utf-8")
    words, message = WRONG_STARTS[name]
    line = [*LAUNCHER, "--model", str(tmp_path), "--output", str(tmp_path / "out"), "--recipes-dir", str(RECIPES)]
    with pytest.raises((ValueError, SystemExit)) as error:
        run_stages.main([*line, *(word.format(**places) for word in words)])
    assert message.format(**places) in f"{error.value}{capsys.readouterr().err}"
    assert not started and not (tmp_path / "out").exists()


def test_other_settings_are_accepted_while_nothing_is_trained(tmp_path, started):
    """A first run with a wrong value may have written the settings."""
    line = [*LAUNCHER, "--model", str(tmp_path), "--output", str(tmp_path / "out")]
    run_stages.main([*line, "--recipes-dir", str(RECIPES / "sandbox"), "--features_dir", "wrong"])
    run_stages.main([*line, "--recipes-dir", str(RECIPES / "sandbox"), "--features_dir", "right"])
    assert value_of(started[-1], "--features_dir") == "right"


def test_an_empty_deepspeed_is_passed_on(tmp_path, started):
    """It overrides the recipe's."""
    line = [*LAUNCHER, "--model", str(tmp_path), "--output", str(tmp_path / "out")]
    run_stages.main([*line, "--recipes-dir", str(RECIPES), "--deepspeed", ""])
    assert value_of(started[0], "--deepspeed") == ""
