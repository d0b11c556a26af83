"""The trainable parameters of a stage: sets `requires_grad` of whole parts, and configures LoRA."""

from peft import LoraConfig
from torch import nn
from trl import get_peft_config

from train.arguments import PARTS, StageArguments


def part_parameters(model: nn.Module, part: str) -> list[nn.Parameter]:
    """The parameters of a part; the output head is part of the language model. ValueError if the checkpoint has no
    such part."""
    module = getattr(model.model, part)
    if module is None:
        raise ValueError(f"cannot train {part!r}: this checkpoint has none")
    parameters = list(module.parameters())
    if part == "language_model":
        parameters += list(model.get_output_embeddings().parameters())
    return parameters


def set_trainable(model: nn.Module, parts: list[str]):
    """Freezes the model, then makes the named parts trainable (names of `arguments.PARTS`)."""
    model.requires_grad_(False)
    for part in parts:
        for parameter in part_parameters(model, part):
            parameter.requires_grad_(True)


def linear_layer_names(language_model: nn.Module) -> list[str]:
    """The last name of each linear layer ("q_proj", "down_proj", ...), sorted, for any language model."""
    return sorted({name.rsplit(".", 1)[-1] for name, module in language_model.named_modules() if is_linear(module)})


def is_linear(module: nn.Module) -> bool:
    # GPT-2's Conv1D is a linear layer with its weight transposed; PEFT handles both
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def lora_config(model: nn.Module, stage: StageArguments) -> LoraConfig | None:
    """The LoRA configuration of the stage, or None without `use_peft`.

    By default LoRA is applied to all linear layers of the language model (the published choice), except the output
    head: TRL's fused loss reads its weight directly and would ignore an adapter. Parts that the stage trains in full
    are saved in full with LoRA (`modules_to_save`).
    """
    config = get_peft_config(stage)
    if config is None:
        return None
    if stage.lora_target_modules is None:
        names = "|".join(linear_layer_names(model.model.language_model))
        config.target_modules = rf"model\.language_model\..*\b({names})"
    config.modules_to_save = list(stage.trainable) or None
    return config


def count_parameters(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Part -> (trained, all) parameters; under ZeRO-3 the full size of a partitioned tensor counts."""
    counts = {}
    for part in PARTS:
        module = getattr(model.model, part)
        if module is not None:
            sizes = [(p.requires_grad, getattr(p, "ds_numel", p.numel())) for p in part_parameters(model, part)]
            counts[part] = (sum(size for trained, size in sizes if trained), sum(size for _, size in sizes))
    return counts
