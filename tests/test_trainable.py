"""The trainable parameters of a stage, for any language model."""

import pytest
from peft import get_peft_model
from torch import nn

from tests.tiny_models import tiny_model
from train.arguments import PARTS, StageArguments
from train.trainable import count_parameters, linear_layer_names, lora_config, set_trainable


OWNERS = {
    "vision_adapter": ("model.vision_adapter.",),
    "audio_adapter": ("model.audio_adapter.",),
    "language_model": ("model.language_model.", "lm_head."),
    "vision_tower": ("model.vision_tower.",),
    "audio_tower": ("model.audio_tower.",),
}


@pytest.mark.parametrize("part", PARTS)
def test_only_the_named_part_is_trainable(part):
    model = tiny_model()
    set_trainable(model, [part])
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == name.startswith(OWNERS[part]), name


def test_each_parameter_belongs_to_one_part():
    model = tiny_model()
    names = [name for name, _ in model.named_parameters()]
    assert all(sum(name.startswith(prefixes) for prefixes in OWNERS.values()) == 1 for name in names)
    assert sum(total for _, total in count_parameters(model).values()) == sum(p.numel() for p in model.parameters())


def test_a_missing_part_is_an_error():
    with pytest.raises(ValueError, match="vision_tower"):
        set_trainable(tiny_model(vision_config=None), ["vision_tower"])


def test_lora_is_added_to_all_linear_layers_of_the_language_model_only():
    model = tiny_model()
    set_trainable(model, [])
    stage = StageArguments(use_peft=True, lora_r=2)
    expected = {
        f"model.language_model.{name}"
        for name, module in model.model.language_model.named_modules()
        if isinstance(module, nn.Linear)
    }
    tuned = get_peft_model(model, lora_config(model, stage))
    adapted = {
        n.removeprefix("base_model.model.").split(".lora_A")[0] for n, _ in tuned.named_parameters() if "lora_A" in n
    }
    assert adapted == expected and len(expected) == 7 * 2  # q, k, v, o, gate, up, down of two layers
    assert all(("lora_" in name) == parameter.requires_grad for name, parameter in tuned.named_parameters())


def test_parts_trained_with_lora_are_saved_in_full():
    model = tiny_model()
    set_trainable(model, ["audio_adapter"])
    stage = StageArguments(use_peft=True, lora_r=2, trainable=["audio_adapter"])
    tuned = get_peft_model(model, lora_config(model, stage))
    trained = {name for name, parameter in tuned.named_parameters() if parameter.requires_grad}
    assert any("audio_adapter.modules_to_save" in name for name in trained)
    assert not any("vision_adapter" in name for name in trained)


def test_the_linear_layers_of_another_kind_of_model_are_found():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.Linear(2, 2)
            self.norm = nn.LayerNorm(2)
            self.out = nn.Linear(2, 2)

    assert linear_layer_names(nn.ModuleList([Block(), Block()])) == ["mix", "out"]
