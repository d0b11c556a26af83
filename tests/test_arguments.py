"""Training arguments: command line and recipe, errors that name the value, the published values in the recipes."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from train.arguments import (
    AVicunaTrainingArguments,
    StageArguments,
    accumulation_steps,
    parse_arguments,
    read_share,
)
from train.data_sources import DataSource, read_data_source


RECIPES = Path(__file__).parents[1] / "train" / "recipes"
BASE = ["--use_peft", "--bf16", "false", "--output_dir", "/nowhere"]


def write_recipe(folder: Path, text: str) -> str:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_an_unknown_recipe_key_is_named(tmp_path):
    recipe = write_recipe(tmp_path, "use_peft: true\nbf16: false\nlearning_rat: 1.0e-4\n")
    with pytest.raises(ValueError, match="Unknown arguments from config file.*learning_rat"):
        parse_arguments(["--config", recipe])


def test_the_command_line_overrides_the_recipe(tmp_path):
    text = "trainable: [vision_adapter]\nlearning_rate: 1.0e-4\nbf16: false\nlora_r: 3\nmax_missing: 1%\n"
    recipe = write_recipe(tmp_path, text)
    name, stage, training = parse_arguments(
        ["--config", recipe, "--learning_rate", "0.5", "--trainable", "audio_adapter"]
    )
    assert (name, training.learning_rate, stage.trainable) == ("recipe", 0.5, ["audio_adapter"])
    assert (stage.lora_r, stage.max_missing_share) == (3, 0.01)


def test_published_settings_are_the_defaults():
    _, stage, training = parse_arguments(BASE)
    assert (stage.lora_r, stage.lora_alpha, stage.lora_dropout) == (64, 128, 0.05)
    assert (training.lr_scheduler_type, training.warmup_steps, training.weight_decay) == ("cosine", 0.03, 0.0)
    assert (training.max_length, training.effective_batch_size) == (2048, 128)
    assert training.activation_checkpointing is True


@pytest.mark.parametrize(
    ("name", "trainable", "use_peft", "epochs", "lr", "batch", "template", "zero"),
    [
        ("stage1_vision_text", ["vision_adapter"], False, 1, 1e-3, 16, "plain", "ds_config.json"),
        ("stage2_audio_text", ["audio_adapter"], False, 1, 1e-3, 16, "plain", "ds_config.json"),
        ("stage3_time_event", [], True, 2, 1e-4, 8, "vicuna", "ds_config.json"),
        ("stage4_instruction", [], True, 2, 1e-4, 8, "vicuna", "train/recipes/ds_zero2.json"),
    ],
)
def test_recipes_have_the_published_hyperparameters(name, trainable, use_peft, epochs, lr, batch, template, zero):
    # --deepspeed "" and --bf16 false: no launcher and no GPU
    line = ["--config", str(RECIPES / f"{name}.yaml"), "--bf16", "false", "--deepspeed", ""]
    _, stage, training = parse_arguments(line)
    assert (stage.trainable, stage.use_peft, stage.chat_template) == (trainable, use_peft, template)
    assert (training.num_train_epochs, training.learning_rate) == (epochs, lr)
    assert (training.per_device_train_batch_size, training.effective_batch_size) == (batch, 128)
    assert f"deepspeed: {zero}\n" in (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    assert stage.datasets


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_sandbox_recipes_parse(number):
    _, stage, _ = parse_arguments(["--config", str(RECIPES / "sandbox" / f"stage{number}.yaml")])
    assert stage.datasets and "language_model" in stage.trainable


@pytest.mark.parametrize(
    ("world_size", "batch", "given", "expected"), [(8, 16, None, 1), (1, 16, None, 8), (2, 8, 8, 8), (4, 4, None, 8)]
)
def test_accumulation_keeps_the_effective_batch_size(world_size, batch, given, expected):
    steps = accumulation_steps(
        effective_batch_size=128, per_device_batch_size=batch, world_size=world_size, given=given
    )
    assert steps == expected


@pytest.mark.parametrize(("batch", "given"), [(24, None), (16, 4), (256, None)])
def test_an_unreachable_effective_batch_size_is_an_error_unless_zero(batch, given):
    values = {"per_device_batch_size": batch, "world_size": 1, "given": given}
    with pytest.raises(ValueError, match=f"effective batch is 128.*batch {batch}"):
        accumulation_steps(effective_batch_size=128, **values)
    assert accumulation_steps(effective_batch_size=0, **values) == (given or 1)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["--bf16", "false"], "nothing to train"),
        ([*BASE, "--config", "no/such/recipe.yaml"], "no such recipe: no/such/recipe.yaml"),
        ([*BASE, "--config", str(RECIPES)], "no such recipe: .*recipes"),
        (["--trainable", "projector"], "projector"),
        (["--use_peft", "--trainable", "language_model"], "either in full or by LoRA"),
        ([*BASE, "--chat_template", "alpaca"], "alpaca"),
        ([*BASE, "--datasets", '{"path": "x", "wieght": 2}'], "wieght"),
        ([*BASE, "--max_missing", "120%"], "120%"),
        ([*BASE, "--learning_rat", "1"], "learning_rat"),
        ([*BASE, "--max_length", "-1"], "max_length must be at least 1, got -1"),
        ([*BASE, "--max_length", "0"], "max_length must be at least 1, got 0"),
        ([*BASE, "--packing", "true"], "packing is not supported.*use --flatten true"),
        ([*BASE, "--padding_free", "true"], "padding_free is not supported.*use --flatten true"),
        ([*BASE, "--group_by_length"], "group_by_length is not supported.*use --flatten true"),
        ([*BASE, "--train_sampling_strategy", "group_by_length"], "is not supported.*use --flatten true"),
        ([*BASE, "--trainable", "vision_tower", "--features_dir", "x"], "'vision_tower'.*features_dir"),
        ([*BASE, "--lora_modules_to_save", "lm_head"], "name the parts .* in `trainable`"),
        (
            ["--trainable", "vision_adapter", "--bf16", "false", "--load_in_4bit"],
            "quantised weights cannot be trained",
        ),
    ],
)
def test_a_wrong_value_is_named(line, words):
    with pytest.raises(ValueError, match=words):
        parse_arguments(line)


@pytest.mark.parametrize("option", ["--model", "--model_name_or_path", "--model-name-or-path"])
def test_all_spellings_of_the_model_option_are_accepted(option):
    assert parse_arguments([*BASE, option, "somewhere"])[1].model_name_or_path == "somewhere"


def test_an_unreadable_value_is_one_line_on_stderr(capsys):
    with pytest.raises(SystemExit):
        parse_arguments([*BASE, "--learning-rate", "fast"])
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    "words", [["--output_dir", ""], ["--model="], ["--data-dir", " "], ["--features_dir", "a", ""], ["--config", ""]]
)
def test_an_empty_value_is_one_line_on_stderr(words, capsys):
    with pytest.raises((SystemExit, ValueError)) as error:
        parse_arguments([*BASE, *words])
    assert "is empty" in capsys.readouterr().err or "no such recipe" in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1", "is not YAML"),
        ("- 1", "is not a YAML mapping, but list"),
        ("", "is not a YAML mapping, but NoneType"),
        ("datasets: rows.parquet", "datasets must be a list, got 'rows.parquet'"),
        ("trainable: vision_adapter", "trainable must be a list"),
        ("learning_rate: [1]", "learning_rate must be one value"),
        ("output_dir: ''", "the value of output_dir is empty"),
        ("data_dir: ''", "the value of data_dir is empty"),
    ],
)
def test_a_damaged_recipe_is_an_error_that_names_the_value(text, words, tmp_path):
    recipe = write_recipe(tmp_path, text)
    line = ["--use_peft", "--bf16", "false"] + ([] if "output_dir" in text else ["--output_dir", "/nowhere"])
    with pytest.raises(ValueError, match=words):
        parse_arguments(["--config", recipe, *line])


def test_a_data_source_is_a_path_json_or_a_mapping():
    full = DataSource("pu_valor", weight=0.5, options={"num_videos": 3})
    assert read_data_source("folder/rows.parquet") == DataSource("folder/rows.parquet")
    assert read_data_source('{"path": "pu_valor", "weight": 0.5, "options": {"num_videos": 3}}') == full
    assert read_data_source({"path": "pu_valor", "weight": 0.5, "options": {"num_videos": 3}}) == full


@pytest.mark.parametrize(("text", "share"), [("1%", 0.01), ("0.01", 0.01), (0, 0.0), ("100%", 1.0)])
def test_a_share_is_a_percentage_or_a_number(text, share):
    assert read_share(text) == pytest.approx(share)


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_repeats_no_default(path):
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    fields = {f.name: f for kind in (StageArguments, AVicunaTrainingArguments) for f in dataclasses.fields(kind)}
    assert [name for name, value in recipe.items() if value == fields[name].default] == []
