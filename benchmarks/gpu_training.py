"""Stages I and III at the size of Vicuna-7B on one GPU: useful tokens per second, MFU, peak memory.

    python -m benchmarks.gpu_training --output training.json                          # random weights, bf16
    python -m benchmarks.gpu_training --size tiny --device cpu --output training.json # trial run

`AVicunaTrainer` trains with the published settings on cached features (random numbers) and rows with the lengths of
PU-VALOR rows. Padded batches are compared with flattened ones, with and without gradient checkpointing, on the same
rows; flattened ones also in larger batches, and with `--liger true` with Liger's kernels. MFU is the share of the
GPU's peak (data sheet) that the model's own operations take, those on padding and recomputation not counted.
"""

import gc
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback

from benchmarks.conditions import RESULTS, describe_conditions, write_results
from benchmarks.full_size import SIZES, build_full_size, device_conditions, peak_flops, peak_gib, reset_peak, wait
from benchmarks.train_throughput import NUM_AUDIO, NUM_VIDEO, draw_lengths, make_batch
from dataset_builders.command_line import one_line_errors, parse_options
from dataset_builders.input_settings import check_range
from train import packed_attention
from train.arguments import AVicunaTrainingArguments, StageArguments
from train.collator import IGNORED, flatten_batch
from train.trainable import lora_config, set_trainable
from train.trainer import AVicunaTrainer


PROGRAM = "python -m benchmarks.gpu_training"
WARM_UP = 3  # steps before the measurement, with the longest rows: the memory allocator then has what later steps need
STAGES = {"III": {"use_peft": True}, "I": {"trainable": ["vision_adapter"]}}
LEARNING_RATES = {"III": 1e-4, "I": 1e-3}


@dataclass(frozen=True)
class Case:
    """One short training: a stage, a form of its batches, and what is switched on."""

    stage: str
    form: str  # "padded", "flattened", or "flattened_in_a_loop"
    checkpointing: bool = False
    large: bool = False
    liger: bool = False

    def __str__(self):
        extras = {
            "gradient checkpointing": self.checkpointing,
            "large batch": self.large,
            "Liger kernels": self.liger,
        }
        return ", ".join([f"stage {self.stage}", self.form, *(name for name, is_on in extras.items() if is_on)])


CASES = (  # in the order of their value: a time limit may end the part
    *(Case(stage, form) for stage in STAGES for form in ("padded", "flattened")),
    *(Case(stage, "flattened", large=True) for stage in STAGES),
    *(Case(stage, form, checkpointing=True) for stage in STAGES for form in ("padded", "flattened")),
    Case("III", "flattened_in_a_loop"),
)
LIGER_CASES = tuple(Case(stage, "flattened", large=large, liger=True) for large in (False, True) for stage in STAGES)


@dataclass
class TrainingOptions:
    """Options of `python -m benchmarks.gpu_training`."""

    size: str = field(default="7b", metadata={"choices": sorted(SIZES), "help": "Size of the model."})
    device: str = field(default="cuda", metadata={"choices": ["cuda", "cpu"], "help": "Where it is trained."})
    batch_size: int = field(default=8, metadata={"help": "Samples of a step."})
    large_batch_size: int = field(default=32, metadata={"help": "Samples of a step of the cases with large batches."})
    liger: bool = field(default=False, metadata={"help": "Flattened batches with Liger's kernels (liger-kernel)."})
    steps: int = field(default=8, metadata={"help": "Measured steps of each case."})
    output: Path = field(default=RESULTS / "gpu_training.json", metadata={"help": "File for the figures."})

    def __post_init__(self):
        check_range(self, 1, "batch_size", "large_batch_size", "steps")


class StepTimer(TrainerCallback):
    """Seconds from the end of the warm-up to the end of the last step."""

    def __init__(self, device: str):
        self.device, self.started, self.seconds = device, 0.0, 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == WARM_UP:
            wait(self.device)
            reset_peak(self.device)
            self.started = time.perf_counter()
        elif state.global_step == state.max_steps:
            wait(self.device)
            self.seconds = time.perf_counter() - self.started


class MatmulTypes(TorchDispatchMode):
    """Counts the floating-point operations of matrix products by the data type of their operands."""

    def __init__(self):
        super().__init__()
        self.flops: Counter = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("mm", "addmm", "bmm", "baddbmm"):
            left, right = (args[1], args[2]) if name in ("addmm", "baddbmm") else (args[0], args[1])
            self.flops[str(left.dtype).removeprefix("torch.")] += 2 * left.numel() * right.shape[-1]
        return func(*args, **(kwargs or {}))


def make_collator(form: str, *, model: nn.Module):
    """Batches of random tokens and features with the lengths that a row names."""
    config = model.config

    def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
        lengths = [row["length"] for row in rows]
        torch.manual_seed(lengths[0])
        batch = make_batch(
            lengths,
            first_id=100,
            last_id=min(config.video_token_id, config.audio_token_id),
            video_id=config.video_token_id,
            audio_id=config.audio_token_id,
        )
        return batch if form == "padded" else flatten_batch(batch)

    return collate


def step_flops(model: nn.Module, lengths: list[int], num_labels: int, *, attention: bool = True) -> float:
    """Operations of one step on samples of these lengths: 4 per frozen and 6 per trained weight of the language model
    and token (the head: per label), those of the adapters per media token, and causal attention if `attention`. The
    embedding is a look-up."""
    text = model.config.text_config
    total = 0.0
    for name, parameter in model.named_parameters():
        if "embed_tokens" in name or parameter.ndim < 2:
            continue
        num_tokens, forward_only = sum(lengths), False
        if "lm_head" in name:
            num_tokens = num_labels
        elif "_adapter" in name:  # a frozen adapter needs no gradient: nothing before it is trained
            num_tokens = len(lengths) * (NUM_VIDEO if "vision_adapter" in name else NUM_AUDIO)
            forward_only = True
        total += (6 if parameter.requires_grad else 2 if forward_only else 4) * parameter.numel() * num_tokens
    pairs = sum(length**2 for length in lengths) / 2 if attention else 0
    return total + 12 * text.num_hidden_layers * text.hidden_size * pairs


def train_case(options: TrainingOptions, case: Case) -> dict:
    """One short training; its figures."""
    is_gpu = options.device != "cpu"
    dtype = torch.bfloat16 if is_gpu else torch.float32
    model, processor = build_full_size(options.size, device=options.device, dtype=dtype, towers=False)
    stage = StageArguments(**STAGES[case.stage])
    set_trainable(model, stage.trainable)
    if case.form != "padded":
        packed_attention.prepare_for_packing(model)
    num_steps = WARM_UP + options.steps
    batch_size = options.large_batch_size if case.large else options.batch_size
    measured = draw_lengths(options.steps * batch_size)
    lengths = [max(measured)] * (WARM_UP * batch_size) + measured
    collate = make_collator(case.form, model=model)
    with tempfile.TemporaryDirectory() as folder:
        training = AVicunaTrainingArguments(
            output_dir=folder,
            max_steps=num_steps,
            per_device_train_batch_size=batch_size,
            effective_batch_size=batch_size,
            learning_rate=LEARNING_RATES[case.stage],
            bf16=is_gpu,
            use_cpu=not is_gpu,
            gradient_checkpointing=case.checkpointing,
            use_liger_kernel=case.liger,
            train_sampling_strategy="sequential",
            logging_steps=num_steps,
            save_strategy="no",
            report_to="none",
            dataloader_num_workers=2 if is_gpu else 0,
            seed=0,
        )
        timer = StepTimer(options.device)
        trainer = AVicunaTrainer(
            model,
            args=training,
            train_dataset=Dataset.from_dict({"length": lengths}),
            data_collator=collate,
            processing_class=processor,
            peft_config=lora_config(model, stage),
            callbacks=[timer],
        )
        loss = trainer.train().training_loss
        peak = peak_gib(options.device)
        pair = measured[:2]
        with MatmulTypes() as counts:
            trainer.training_step(trainer.model, collate([{"length": n} for n in pair]))
    steps = np.reshape(measured, (options.steps, -1)).tolist()
    flops = sum(step_flops(trainer.model, row, count_labels(row)) for row in steps)
    useful, limit = sum(measured), peak_flops(options.device)
    return {
        "seconds_per_step": round(timer.seconds / options.steps, 4),
        "useful_tokens_per_second": round(useful / timer.seconds, 1),
        "share_of_padding": round(1 - useful / sum(max(row) * len(row) for row in steps), 3),
        "model_tflops_per_second": round(flops / timer.seconds / 1e12, 2),
        "mfu": None if limit is None else round(flops / timer.seconds / limit, 4),
        "peak_memory_gib": peak,
        "training_loss": loss,
        "counted_by_estimated_matmul_flops": round(
            counts.flops.total() / step_flops(trainer.model, pair, count_labels(pair), attention=False), 3
        ),
        "share_of_matmul_flops_by_type": {
            name: round(value / counts.flops.total(), 5) for name, value in counts.flops.items()
        },
    }


def count_labels(lengths: list[int]) -> int:
    return int((make_batch(lengths)["labels"] != IGNORED).sum())


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_options(TrainingOptions, arguments, program=PROGRAM, description=__doc__.splitlines()[0])
    conditions = describe_conditions(
        ["torch", "transformers", "trl", "peft"],
        **{**asdict(options), **device_conditions(options.device)},
        varlen_attention=packed_attention.HAS_VARLEN,
    )
    results: dict[str, dict] = {}
    for case in LIGER_CASES if options.liger else CASES:
        results[str(case)] = measure(options, case)
        print(case, results[str(case)], flush=True)
        write_results(options.output, conditions=conditions, results=results)


def measure(options: TrainingOptions, case: Case) -> dict:
    """Figures of `train_case`, or what went wrong: one case too large for the GPU does not end the others."""
    has_varlen = packed_attention.HAS_VARLEN
    packed_attention.HAS_VARLEN = has_varlen and case.form != "flattened_in_a_loop"
    try:
        return train_case(options, case)
    except (RuntimeError, ValueError) as error:  # torch.OutOfMemoryError is a RuntimeError
        return {"failed": f"{type(error).__name__}: {error}"}
    finally:
        packed_attention.HAS_VARLEN = has_varlen
        gc.collect()
        if options.device != "cpu":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    with one_line_errors(PROGRAM):
        main()
