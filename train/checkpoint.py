"""Loads the checkpoint that a stage starts from and saves the one that it writes.

With LoRA, the written folder holds the merged model and, in `adapter/`, the LoRA weights. The folder does not depend
on the launcher (one process, DDP, ZeRO). `resuming.py` resumes an interrupted stage.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel, ProcessorMixin
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config
from transformers.utils.peft_utils import find_adapter_config_file
from trl import SFTTrainer, get_quantization_config

from dataset_builders.atomic_files import check_output_folder
from dataset_builders.pretrained import load_processor, load_weights, name_errors
from dataset_builders.sources.annotation_files import read_object
from modeling_avicuna import AVicunaConfig
from modeling_avicuna.modeling_avicuna import FULL_PRECISION_MODULES
from modeling_avicuna.origin_avicuna import ORIGIN_FILE, is_hub_id
from train.arguments import AVicunaTrainingArguments, StageArguments
from train.resuming import SETTINGS_FILE, SUMMARY_FILE


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
    """The model of a checkpoint folder or Hub id. Raises ValueError: it cannot be loaded, or weights are missing."""
    model = load_weights(
        AutoModelForCausalLM,
        path,
        dtype=dtype,
        attn_implementation=attn_implementation,
        revision=revision,
        quantization_config=quantization_config,
    )
    # without this, transformers under ZeRO-3 saves each sub-model with the key names of its own class
    model._weight_conversions = None
    return model


def quantization_config(stage: StageArguments) -> BitsAndBytesConfig | None:
    """The configuration of `load_in_4bit` and `load_in_8bit`; only the language model is quantised."""
    config = get_quantization_config(stage)
    if config is not None:
        config.llm_int8_skip_modules = list(FULL_PRECISION_MODULES)
    return config


@contextmanager
def whole_models(training: AVicunaTrainingArguments) -> Iterator[None]:
    """In the body, models are loaded without ZeRO-3's partitioning, for example a builder's sentence encoder."""
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if training.deepspeed:
            set_hf_deepspeed_config(training.hf_deepspeed_config)


def start_deepspeed(training: AVicunaTrainingArguments):
    """Initialises DeepSpeed's communication before the model is loaded, since ZeRO-3 partitions it while loading.

    Trainer does this only on GPUs; with `use_cpu` it starts torch's process group without DeepSpeed.
    """
    if training.deepspeed:
        import deepspeed

        deepspeed.init_distributed()


def base_of_adapter(path: str, *, revision: str | None = None) -> str | None:
    """The base model of a folder or Hub id with LoRA weights; None if it is a complete model.

    Raises:
        ValueError: the configuration of the LoRA weights names no base model.
    """
    file = find_adapter_config_file(path, revision=revision) if Path(path).is_dir() or is_hub_id(path) else None
    if file is None:
        return None
    base = read_object(file).get("base_model_name_or_path")
    if not base or not isinstance(base, str):
        raise ValueError(f"{file} names no base model, but {base!r}")
    return base


def check_output(stage: StageArguments, training: AVicunaTrainingArguments):
    """Raises ValueError for an `output_dir` whose files would be replaced: the folder of the model that the stage
    starts from, or a folder with another model or card and no trace of a training."""
    output, start = Path(training.output_dir), stage.model_name_or_path
    if start and output.resolve() == Path(start).resolve():
        raise ValueError(f"output_dir {output} is also the folder of the model, whose files would be replaced")
    config, card = output / "config.json", output / "README.md"
    foreign = [ORIGIN_FILE]  # a checkpoint that no training has written
    if config.is_file() and not _is_config_of_avicuna(config):
        foreign.append(config.name)
    if card.is_file() and "generated_from_trainer" not in card.read_text(encoding="utf-8", errors="replace"):
        foreign.append(card.name)
    marks = [SETTINGS_FILE, SUMMARY_FILE, "training_args.bin", "checkpoint-*"]
    check_output_folder(output, marks=marks, writes=foreign)


def _is_config_of_avicuna(config: Path) -> bool:
    try:
        return read_object(config).get("model_type") == AVicunaConfig.model_type
    except ValueError:  # a training that was killed while it saved its model can leave a part of the file
        return False


def merged_start(stage: StageArguments, training: AVicunaTrainingArguments) -> str:
    """The complete model that a stage starts from: `model_name_or_path`, or a folder with the merged model.

    LoRA weights (`adapter/` of a stage, or a `checkpoint-<step>` of a LoRA stage) are merged once into their base
    model and written to `merged_start/` in `output_dir`. Call this on every process.

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
            load_processor(base).save_pretrained(merged)
    return str(merged)


def merge_adapter(
    base: str, *, adapter: str | Path, output: Path, dtype: str | None = "auto", revision: str | None = None
):
    """Merges LoRA weights into their base model and writes a plain checkpoint to `output`.

    The base model is loaded again without partitioning, since the trained model is partitioned under ZeRO-3.

    Args:
        base: folder or Hub id of the model that LoRA was trained on.
        adapter: folder or Hub id of the LoRA weights; `revision` is theirs.
    """
    unset_hf_deepspeed_config()
    model = load_model(base, dtype=dtype)
    with name_errors(str(adapter), files=("adapter_config.json",)):
        model = PeftModel.from_pretrained(model, str(adapter), revision=revision)
    model.merge_and_unload().save_pretrained(output)


def save_stage(trainer: SFTTrainer, *, stage: StageArguments, base: str, processor: ProcessorMixin):
    """Writes the trained model and its processor to the trainer's `output_dir`; call it on every process.

    Args:
        base: folder or Hub id of the model that was trained.

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
    """Raises FloatingPointError, with its name, for a trained parameter with NaN or infinite values."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not torch.isfinite(parameter).all():
            raise FloatingPointError(f"the training diverged: {name} holds values that are not finite")
