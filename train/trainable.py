"""Which parameters a stage trains: whole parts by name, and LoRA on the language model.

Called by `train/sft.py` between loading and the trainer. It sets `requires_grad` and describes LoRA; it builds no
optimizer, and saving and merging live in `checkpoint.py`.
"""

from peft import LoraConfig
from torch import nn

from train.arguments import PARTS, StageArguments


def part_parameters(model: nn.Module, part: str) -> list[nn.Parameter]:
    """The parameters of one named part; the output head belongs to the language model.

    Raises:
        ValueError: the checkpoint has no such part (a feature-only checkpoint has no towers).
    """
    module = getattr(model.model, part)
    if module is None:
        raise ValueError(f"cannot train {part!r}: this checkpoint has none")
    parameters = list(module.parameters())
    if part == "language_model":
        parameters += list(model.get_output_embeddings().parameters())
    return parameters


def set_trainable(model: nn.Module, parts: list[str]):
    """Freezes everything, then thaws the named parts, of `arguments.PARTS`."""
    model.requires_grad_(False)
    for part in parts:
        for parameter in part_parameters(model, part):
            parameter.requires_grad_(True)


def linear_layer_names(language_model: nn.Module) -> list[str]:
    """Last names of the linear layers ("q_proj", "down_proj", ...), sorted: whatever language model it is."""
    return sorted({name.rsplit(".", 1)[-1] for name, module in language_model.named_modules() if is_linear(module)})


def is_linear(module: nn.Module) -> bool:
    # GPT-2's Conv1D is a linear layer with its weight transposed; PEFT handles both
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def lora_config(model: nn.Module, stage: StageArguments) -> LoraConfig | None:
    """LoRA on all linear layers of the language model (FACTS: the published choice), or None without `use_peft`.

    Parts that the stage trains in full are saved whole beside LoRA (`modules_to_save`). The output head is no layer of
    the language model here: TRL's fused loss reads its weight directly and would not see an adapter on it.
    """
    if not stage.use_peft:
        return None
    names = "|".join(linear_layer_names(model.model.language_model))
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=stage.lora_r,
        lora_alpha=stage.lora_alpha,
        lora_dropout=stage.lora_dropout,
        target_modules=rf"model\.language_model\..*\b({names})",
        modules_to_save=list(stage.trainable) or None,
    )


def count_parameters(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Part -> (trained, all) parameters, for the log; under ZeRO-3 a partitioned tensor counts in full."""
    counts = {}
    for part in PARTS:
        module = getattr(model.model, part)
        if module is not None:
            sizes = [(p.requires_grad, getattr(p, "ds_numel", p.numel())) for p in part_parameters(model, part)]
            counts[part] = (sum(size for trained, size in sizes if trained), sum(size for _, size in sizes))
    return counts
