"""The checkpoint that a stage starts from and the one that it writes: a folder that `from_pretrained` reads.

Used by `train/sft.py`. With LoRA the written folder holds the merged model and, in `adapter/`, LoRA alone. The folder
is the same for every launch (one process, DDP, ZeRO). Resuming an interrupted stage is `resuming.py`.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoProcessor, BitsAndBytesConfig, PreTrainedModel, ProcessorMixin
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config
from transformers.utils.peft_utils import find_adapter_config_file
from trl import SFTTrainer, get_quantization_config

from modeling_avicuna.modeling_avicuna import FULL_PRECISION_MODULES
from modeling_avicuna.origin_avicuna import is_hub_id
from train.arguments import AVicunaTrainingArguments, StageArguments


ADAPTER_FOLDER = "adapter"
MERGED_START_FOLDER = "merged_start"


def load_model(
    path: str,
    *,
    dtype: str | None = "auto",
    attn_implementation: str | None = None,
    revision: str | None = None,
    quantization_config: BitsAndBytesConfig | None = None,
) -> PreTrainedModel:
    """The model of a checkpoint; LoRA in a checkpoint is merged first by `merged_start`."""
    model = AutoModelForCausalLM.from_pretrained(
        path,
        dtype=dtype,
        attn_implementation=attn_implementation,
        revision=revision,
        quantization_config=quantization_config,
    )
    # under ZeRO-3 transformers would save the parts under the key names of their own model classes
    model._weight_conversions = None
    return model


def quantization_config(stage: StageArguments) -> BitsAndBytesConfig | None:
    """The config of `load_in_4bit` and `load_in_8bit`, for the language model alone."""
    config = get_quantization_config(stage)
    if config is not None:
        config.llm_int8_skip_modules = list(FULL_PRECISION_MODULES)
    return config


@contextmanager
def whole_models(training: AVicunaTrainingArguments) -> Iterator[None]:
    """Inside the block, ZeRO-3 does not partition models on loading, for example a builder's sentence encoder."""
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if training.deepspeed:
            set_hf_deepspeed_config(training.hf_deepspeed_config)


def start_deepspeed(training: AVicunaTrainingArguments):
    """Initialises DeepSpeed's communication before the model is loaded, since ZeRO-3 partitions it while loading.

    Trainer does this on GPUs only: with `use_cpu` it starts torch's process group without DeepSpeed.
    """
    if training.deepspeed:
        import deepspeed

        deepspeed.init_distributed()


def base_of_adapter(path: str, *, revision: str | None = None) -> str | None:
    """The base model of a folder or Hub id that holds LoRA; None where it holds a whole model."""
    file = find_adapter_config_file(path, revision=revision) if Path(path).is_dir() or is_hub_id(path) else None
    if file is None:
        return None
    return json.loads(Path(file).read_text(encoding="utf-8"))["base_model_name_or_path"]


def merged_start(stage: StageArguments, training: AVicunaTrainingArguments) -> str:
    """The whole model that a stage starts from.

    A folder or Hub id with LoRA (`adapter/` of a stage, or a `checkpoint-<step>` of a LoRA stage) is merged into its
    base model and written to `merged_start/` below `output_dir`, once; call this on every process.

    Returns:
        `model_name_or_path`, or the folder with the merged model.

    Raises:
        ValueError: no `model_name_or_path`.
    """
    path = stage.model_name_or_path
    if not path:
        raise ValueError("model_name_or_path is not set: the checkpoint that this stage starts from")
    base = base_of_adapter(path, revision=stage.model_revision)
    if base is None:
        return path
    merged = Path(training.output_dir, MERGED_START_FOLDER)
    with training.main_process_first(local=False, desc="merging LoRA into its base model"), whole_models(training):
        if training.process_index == 0:
            merge_adapter(base, adapter=path, output=merged, dtype=stage.dtype, revision=stage.model_revision)
            AutoProcessor.from_pretrained(base).save_pretrained(merged)
    return str(merged)


def merge_adapter(
    base: str, *, adapter: str | Path, output: Path, dtype: str | None = "auto", revision: str | None = None
):
    """Adds LoRA to the weights of its base model and writes the sum as a plain checkpoint.

    The base is loaded once more, whole and on one process: under ZeRO-3 the trained model is partitioned.

    Args:
        base: folder or Hub id of the model that LoRA was trained on.
        adapter: folder or Hub id of LoRA.
        output: folder to write to.
        dtype: of the weights.
        revision: of the adapter, for a Hub id.
    """
    unset_hf_deepspeed_config()
    model = PeftModel.from_pretrained(load_model(base, dtype=dtype), str(adapter), revision=revision)
    model.merge_and_unload().save_pretrained(output)


def save_stage(trainer: SFTTrainer, *, stage: StageArguments, base: str, processor: ProcessorMixin):
    """Writes the finished model and its processor into the trainer's `output_dir`; call it on every process.

    Args:
        base: folder or Hub id of the whole model that was trained.

    Raises:
        FloatingPointError: a trained parameter is not finite; nothing is written.
    """
    check_finite(trainer.model)
    output = Path(trainer.args.output_dir)
    trainer.save_model(str(output / ADAPTER_FOLDER if stage.use_peft else output))
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        if stage.use_peft:
            merge_adapter(base, adapter=output / ADAPTER_FOLDER, output=output, dtype=stage.dtype)
        processor.save_pretrained(output)
    trainer.accelerator.wait_for_everyone()


def check_finite(model: torch.nn.Module):
    """Raises FloatingPointError, naming it, for a trained parameter that holds NaN or an infinity."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not torch.isfinite(parameter).all():
            raise FloatingPointError(f"the training diverged: {name} holds values that are not finite")
