"""What a stage leaves behind: one folder that `AutoModel.from_pretrained` reads, whatever was trained and on however many processes.

Last thing that `train/sft.py` does. With LoRA the folder holds the merged model and, in `adapter/`, LoRA alone; the next
stage starts from the folder. Periodic checkpoints for resuming are the Trainer's own (`checkpoint-<step>/`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoProcessor, PreTrainedModel, ProcessorMixin
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config
from transformers.trainer_utils import get_last_checkpoint
from trl import SFTTrainer

from train.arguments import AVicunaTrainingArguments, StageArguments


ADAPTER_FOLDER = "adapter"


def load_processor(path: str) -> ProcessorMixin:
    """The processor of a checkpoint.

    Raises:
        ValueError: no path given.
    """
    if not path:
        raise ValueError("model_name_or_path is not set: the checkpoint that this stage starts from")
    return AutoProcessor.from_pretrained(path)


def load_model(path: str, *, dtype: str = "auto", attn_implementation: str | None = None) -> PreTrainedModel:
    """The model of a checkpoint.

    Under ZeRO-3 transformers remembers renamings of every sub-model and would save old key names; forgetting them keeps
    the files of all launches alike.
    """
    model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation=attn_implementation)
    model._weight_conversions = None
    return model


@contextmanager
def whole_models(training: AVicunaTrainingArguments) -> Iterator[None]:
    """In the block, models are read whole; ZeRO-3 partitions every one, a builder's sentence encoder too."""
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if training.deepspeed:
            set_hf_deepspeed_config(training.hf_deepspeed_config)


def start_deepspeed(training: AVicunaTrainingArguments):
    """Tells DeepSpeed of the processes before the model is read: ZeRO-3 partitions it on the way in.

    The Trainer does so by itself on GPUs; with `use_cpu` it starts torch's process group and leaves DeepSpeed alone.
    """
    if training.deepspeed:
        import deepspeed

        deepspeed.init_distributed()


def resume_point(resume: str | None, output_dir: str) -> str | None:
    """The folder to resume from: "true" means the newest checkpoint in `output_dir`.

    Raises:
        ValueError: "true", but there is no checkpoint.
    """
    if resume is None or resume.lower() in ("false", ""):
        return None
    if resume.lower() != "true":
        return resume
    newest = get_last_checkpoint(output_dir) if Path(output_dir).is_dir() else None
    if newest is None:
        raise ValueError(f"nothing to resume from: no checkpoint-<step> folder in {output_dir}")
    return newest


def save_stage(trainer: SFTTrainer, *, stage: StageArguments, processor: ProcessorMixin):
    """Writes the finished model and its processor into the trainer's `output_dir`; call it on every process."""
    output = Path(trainer.args.output_dir)
    trainer.save_model(str(output / ADAPTER_FOLDER if stage.use_peft else output))
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        if stage.use_peft:
            merge_adapter(stage.model_name_or_path, adapter=output / ADAPTER_FOLDER, output=output, dtype=stage.dtype)
        processor.save_pretrained(output)
    trainer.accelerator.wait_for_everyone()


def merge_adapter(base: str, *, adapter: Path, output: Path, dtype: str = "auto"):
    """Adds LoRA to the weights of the checkpoint it was trained on and writes the sum as a plain checkpoint.

    The base is read from its folder once more, on one process and whole, because a partitioned model (ZeRO-3) has no
    weights to add to.
    """
    unset_hf_deepspeed_config()
    model = PeftModel.from_pretrained(load_model(base, dtype=dtype), str(adapter))
    merged = model.merge_and_unload()
    merged.save_pretrained(output)
