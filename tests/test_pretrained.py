"""Models and processors that cannot be loaded, or only in part, are errors that name them."""

import json
import shutil
from functools import partial

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    ClapAudioModelWithProjection,
    CLIPVisionModelWithProjection,
    LlamaConfig,
    LlamaForCausalLM,
)

from dataset_builders.pretrained import load_processor, load_weights
from eval import run
from model_card import write
from model_card.lineage import read_lineage
from train import extract_features, initialize, sft
from train.checkpoint import base_of_adapter


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with an AVicuna checkpoint and its parts, each in a folder of its own."""
    folder = tmp_path_factory.mktemp("models")
    model, processor = initialize.build_tiny(["A dog barks."], num_av_tokens=8)
    model.save_pretrained(folder / "avicuna")
    processor.save_pretrained(folder / "avicuna")
    model.model.vision_tower.save_pretrained(folder / "clip")
    model.model.audio_tower.save_pretrained(folder / "clap")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=1100, **sizes)).save_pretrained(folder / "llama")
    initialize.train_tokenizer(["A dog barks."]).save_pretrained(folder / "llama")
    return folder


def as_file(folder, content=b'{"a": 1}'):
    shutil.rmtree(folder)
    folder.write_bytes(content)


def set_config(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


def cut(folder, name="model.safetensors"):
    (folder / name).write_bytes((folder / name).read_bytes()[:3000])


DAMAGE = {
    "a JSON file": (as_file, "it is a file"),
    "a text file": (partial(as_file, content=b"lmsys/vicuna-7b-v1.5"), "it is a file"),
    "a pickle": (partial(as_file, content=b"\x80\x02}."), "it is a file"),
    "a folder without settings": (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    "an adapter": (
        lambda folder: (folder / "config.json").rename(folder / "adapter_config.json"),
        "the folder of the merged model",
    ),
    "settings cut": (partial(cut, name="config.json"), None),
    "settings that are a list": (lambda folder: (folder / "config.json").write_text("[1]"), "not a JSON object, but"),
    "settings that are a number": (lambda folder: (folder / "config.json").write_text("3"), "not a JSON object, but"),
    "a list as tokenizer settings": (
        lambda folder: (folder / "tokenizer_config.json").write_text("[]"),
        "tokenizer_config.json is not a JSON object",
    ),
    "a type that is not known": (partial(set_config, model_type="foo"), "foo"),
    "a text as width": (partial(set_config, hidden_size="x"), "hidden_size"),
    "another width": (partial(set_config, hidden_size=32), "mismatch"),
    "weights cut": (cut, None),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors"),
}


@pytest.mark.parametrize("damage", [name for name in DAMAGE if "settings cut" not in name])
def test_a_model_that_cannot_be_loaded_is_named(models, tmp_path, damage):
    folder = shutil.copytree(models / "llama", tmp_path / "model")
    change, message = DAMAGE[damage]
    change(folder)
    with pytest.raises(ValueError, match=f"cannot load the model .*model: (?s:.*){message or ''}"):
        initialize.assemble(language_model=str(folder), vision_tower=None, audio_tower=None)


@pytest.mark.parametrize("name", ["", "nowhere/none", "/nowhere/none"])
def test_a_name_without_a_model_is_an_error(name):
    with pytest.raises(ValueError, match=f"the name of a model is empty|cannot load the model {name}"):
        load_weights(AutoModelForCausalLM, name)


@pytest.mark.parametrize(
    ("model_class", "other"),
    [
        (CLIPVisionModelWithProjection, "llama"),
        (CLIPVisionModelWithProjection, "clap"),
        (ClapAudioModelWithProjection, "llama"),
        (ClapAudioModelWithProjection, "clip"),
        (AutoModelForCausalLM, "clip"),
    ],
)
def test_weights_of_another_kind_of_model_are_an_error(models, model_class, other):
    """transformers alone gives some of these a model with random weights."""
    with pytest.raises(ValueError, match=f"cannot load the model .*{other}"):
        load_weights(model_class, str(models / other))


@pytest.mark.parametrize("tower", ["vision_tower", "audio_tower"])
def test_an_empty_name_of_a_tower_is_an_error(models, tower):
    """As from a shell variable that is not set; it does not mean a model without the tower."""
    parts = {"vision_tower": None, "audio_tower": None, tower: ""}
    with pytest.raises(ValueError, match="the name of a model is empty"):
        initialize.assemble(language_model=str(models / "llama"), **parts)


@pytest.mark.parametrize("lost", ["model.vision_adapter.weight", "lm_head.weight", "model.language_model.norm.weight"])
def test_missing_weights_are_an_error_that_names_one(models, tmp_path, lost):
    model = AutoModelForCausalLM.from_pretrained(models / "avicuna")
    weights = {name: tensor for name, tensor in model.state_dict().items() if name != lost}
    model.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(ValueError, match=f"lacks 1 weights of AVicunaForConditionalGeneration, for example {lost}"):
        load_weights(AutoModelForCausalLM, str(tmp_path))


def test_a_complete_model_is_loaded(models):
    model = load_weights(AutoModelForCausalLM, str(models / "avicuna"), dtype="auto")
    assert load_processor(str(models / "avicuna")).num_av_tokens == model.config.num_av_tokens == 8
    assert not any(torch.isnan(parameter).any() for parameter in model.parameters())


def test_a_language_model_with_other_parts_is_an_error(models):
    with pytest.raises(ValueError, match="type 'avicuna' are not supported: they have other parts"):
        initialize.assemble(language_model=str(models / "avicuna"), vision_tower=None, audio_tower=None)


TRAINING = "--trainable vision_adapter --datasets rows --effective_batch_size 0 --bf16 false --use_cpu true".split()


def run_command(command, model, folder):
    """Calls a command with a model, on a clip and an annotation in `folder`."""
    (folder / "clips").mkdir()
    (folder / "clips/a.mp4").write_bytes(b"not read")
    event = {"segment": [0.0, 1.0], "label": "dog", "label_id": 0}
    database = {"a": {"duration": 4.0, "subset": "test", "annotations": [event]}}
    (folder / "annotations.json").write_text(json.dumps({"database": database}), encoding="utf-8")
    media, output = ["--media-dir", str(folder / "clips")], ["--output", str(folder / "output")]
    annotations = ["--annotations", str(folder / "annotations.json")]
    main, words = {
        "eval.run": (run.main, ["--task", "unav100", *annotations, *media, *output]),
        "extract_features": (extract_features.main, [*media, *output]),
        "sft": (sft.main, ["--output_dir", str(folder / "output"), *TRAINING]),
        "model_card.write": (write.main, ["--repo-id", "user/model"]),
    }[command]
    main(["--model", str(model), *words])


COMMANDS = ["eval.run", "extract_features", "sft", "model_card.write"]


@pytest.mark.parametrize("damage", ["a JSON file", "a folder without settings", "settings that are a list"])
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_names_a_model_that_cannot_be_loaded(models, tmp_path, command, damage):
    model = shutil.copytree(models / "avicuna", tmp_path / "model")
    DAMAGE[damage][0](model)
    with pytest.raises((ValueError, OSError), match=str(model)):
        run_command(command, model, tmp_path)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_names_a_model_of_another_type(models, tmp_path, command):
    with pytest.raises(ValueError, match=str(models / "llama")):
        run_command(command, models / "llama", tmp_path)


def change_json(**values):
    """A change of a JSON object; a value `KeyError` removes the key."""

    def change(text: str) -> str:
        changed = {**json.loads(text), **values}
        return json.dumps({key: value for key, value in changed.items() if value is not KeyError})

    return change


DAMAGED_SETTINGS = [
    ("tokenizer.json", lambda text: "{}"),
    ("tokenizer.json", lambda text: "[]"),
    ("tokenizer.json", lambda text: "null"),
    ("tokenizer.json", lambda text: text[:500]),
    ("tokenizer.json", change_json(model=None)),
    ("tokenizer.json", change_json(added_tokens=KeyError)),
    ("tokenizer.json", change_json(version="x")),
    ("tokenizer_config.json", change_json(tokenizer_class=[])),
    ("tokenizer_config.json", change_json(bos_token=[])),
    ("tokenizer_config.json", change_json(auto_map=None)),
    ("processor_config.json", change_json(feature_extractor=[])),
    ("processor_config.json", change_json(video_processor="x")),
    ("processor_config.json", change_json(alignment=[])),
    ("preprocessor_config.json", lambda text: "[]"),
    ("config.json", change_json(model_type=[])),
    ("config.json", change_json(dtype="x")),
]
DAMAGED_MODEL_SETTINGS = [
    ("config.json", change_json(dtype=[])),
    ("generation_config.json", lambda text: "3"),
    ("generation_config.json", change_json(pad_token_id="x")),
    ("model.safetensors.index.json", lambda text: "{}"),
    ("model.safetensors.index.json", lambda text: "[]"),
]


def damage_settings(models, folder, name, change):
    model = shutil.copytree(models / "avicuna", folder / "model")
    if name == "model.safetensors.index.json":
        (model / "model.safetensors").unlink()
    text = (model / name).read_text(encoding="utf-8") if (model / name).exists() else "{}"
    (model / name).write_text(change(text), encoding="utf-8")
    return model


@pytest.mark.parametrize(("name", "change"), DAMAGED_SETTINGS)
def test_damaged_settings_of_a_processor_are_an_error_that_names_the_file(models, tmp_path, name, change):
    model = damage_settings(models, tmp_path, name, change)
    with pytest.raises(ValueError, match=f"cannot load the model {model}: (?s:.*){name}"):
        load_processor(str(model))


@pytest.mark.parametrize(("name", "change"), DAMAGED_MODEL_SETTINGS)
def test_damaged_settings_of_a_model_are_an_error_that_names_the_file(models, tmp_path, name, change):
    model = damage_settings(models, tmp_path, name, change)
    with pytest.raises(ValueError, match=f"cannot load the model {model}: (?s:.*){name}"):
        load_weights(AutoModelForCausalLM, str(model))


@pytest.mark.parametrize("content", ["{}", "[]", '{"peft_type": "x"}', '{"base_model_name_or_path": [1]}'])
def test_damaged_settings_of_an_adapter_are_an_error_that_names_the_file(tmp_path, content):
    (tmp_path / "adapter_config.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match="adapter_config.json"):
        base_of_adapter(str(tmp_path))


@pytest.mark.parametrize("name", ["training_summary.json", "origin.json"])
@pytest.mark.parametrize("content", ["{}", "[]", '{"started_from": 3, "parts": 3}'])
def test_a_damaged_record_of_a_checkpoint_is_an_error_that_names_the_file(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=name):
        read_lineage(tmp_path)


def test_code_in_a_checkpoint_is_not_run(models, tmp_path):
    """transformers alone asks on the terminal whether to run it."""
    model = damage_settings(models, tmp_path, "config.json", change_json(model_type="of_this_checkpoint"))
    with pytest.raises(ValueError, match=f"cannot load the model {model}"):
        load_weights(AutoModelForCausalLM, str(model))
