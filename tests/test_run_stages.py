"""Running stages in order: finished stages are skipped, interrupted ones resumed, changed ones are an error."""

from pathlib import Path

import pytest

from train import run_stages
from train.run_stages import SETTINGS_FILE, RunOptions, stages_of
from train.summary import SUMMARY_FILE


RECIPES = Path(run_stages.__file__).with_name("recipes")


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
    values = ("start", str(tmp_path), str(recipes))
    run_stages.main([word for pair in zip(spelling.split(), values) for word in pair])
    assert [Path(value_of(command, "--config")).stem for command in started] == ["stage2", "stage3", "stage4"]
    assert ["--resume_from_checkpoint" in command for command in started] == [True, False, False]


def test_a_finished_stage_with_other_settings_is_an_error(tmp_path, started):
    start, recipes, output = tmp_path / "start", tmp_path / "recipes", tmp_path / "out"
    for folder in (start, recipes):
        folder.mkdir()
    (start / "config.json").write_text("{}", encoding="utf-8")
    (recipes / "stage1.yaml").write_text("learning_rate: 1.0e-5\n", encoding="utf-8")
    line = ["--model", str(start), "--output", str(output), "--recipes-dir", str(recipes)]
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
        run_stages.main(["--model", "start", "--output", str(tmp_path), "--recipes-dir", str(RECIPES / "sandbox")])


def test_a_folder_without_recipes_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no stage"):
        stages_of(RunOptions("start", "out", recipes_dir=str(tmp_path)), overrides=[])
