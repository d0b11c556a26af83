"""The arguments of one training stage: dataclass = command line = YAML recipe, through TRL's TrlParser.

First thing that `train/sft.py` does. The defaults are the published hyper-parameters that all four stages share; a
recipe states what is its own. This file reads no data and builds no model.
"""

import difflib
import json
import operator
import os
import re
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from trl import SFTConfig, TrlParser


PARTS = ("vision_adapter", "audio_adapter", "language_model", "vision_tower", "audio_tower")
CHAT_TEMPLATES = ("vicuna", "plain")
ADAMW = ("adamw_torch", "adamw_torch_fused")  # values of `optim` that `use_muon` can be combined with


@dataclass
class DataSource:
    """One entry of the recipe's `datasets`: what `load_dataset` is to read, and how often.

    Args:
        path (`str`): name of one of our builders, a folder or file of built rows, or a Hub id.
        name (`str`, *optional*): configuration name.
        split (`str`): split to train on.
        weight (`float`): times that each row is seen in an epoch: 0.5 draws half of the rows, 2 shows each twice.
        options (`dict`): what the builder itself takes, for example `captions_file`.
    """

    path: str
    name: str | None = None
    split: str = "train"
    weight: float = 1.0
    options: dict = field(default_factory=dict)

    def __post_init__(self):
        if self.weight <= 0:
            raise ValueError(f"weight of data source {self.path!r} must be positive, got {self.weight}")


def read_data_source(entry: str | dict) -> DataSource:
    """A `datasets` entry, as YAML mapping, JSON text or bare path, as `DataSource`.

    Raises:
        ValueError: not one of these forms, or a key that `DataSource` does not have.
    """
    if isinstance(entry, str):
        entry = json.loads(entry) if entry.lstrip().startswith("{") else {"path": entry}
    known = set(DataSource.__dataclass_fields__)
    if unknown := sorted(set(entry) - known):
        raise ValueError(f"unknown key {unknown[0]!r} in data source {entry}; known keys: {sorted(known)}")
    if "path" not in entry:
        raise ValueError(f"data source without 'path': {entry}")
    return DataSource(**entry)


@dataclass
class StageArguments:
    """What a stage starts from, what it trains and what it reads."""

    model_name_or_path: str = field(
        default="",
        metadata={"help": "Checkpoint to start from: the (merged) output of the stage before, or a Hub id."},
    )
    dtype: str = field(
        default="auto", metadata={"help": "Data type of the weights: auto, float32, bfloat16 or float16."}
    )
    attn_implementation: str | None = field(default=None, metadata={"help": "eager, sdpa, flash_attention_2, ..."})
    trainable: list[str] = field(
        default_factory=list,
        metadata={"help": f"Parts trained in full, of: {', '.join(PARTS)}. All others are frozen."},
    )
    use_peft: bool = field(
        default=False, metadata={"help": "Train LoRA on all linear layers of the language model; merged at the end."}
    )
    lora_r: int = field(default=64, metadata={"help": "Rank of LoRA (published: 64)."})
    lora_alpha: int = field(default=128, metadata={"help": "Scale of LoRA (published: 128)."})
    lora_dropout: float = field(default=0.05, metadata={"help": "Dropout in LoRA (published: 0.05)."})
    datasets: list[str] = field(
        default_factory=list,
        metadata={"help": "Sources to mix: paths, or JSON mappings with path, name, split, weight, options."},
    )
    eval_datasets: list[str] = field(
        default_factory=list,
        metadata={"help": "Held-out sources in the form of `datasets`, evaluated as `eval_strategy` says."},
    )
    data_dir: str | None = field(
        default=None, metadata={"help": "Folder that relative paths in `datasets` (./rows, *_file, *_dir) start from."}
    )
    chat_template: str = field(
        default="vicuna", metadata={"help": "vicuna (conversation) or plain (caption alone; stages I and II)."}
    )
    media_dir: str | None = field(default=None, metadata={"help": "Folder that relative media paths start from."})
    features_dir: list[str] = field(
        default_factory=list, metadata={"help": "Folders of cached tower outputs; none: media files are decoded."}
    )
    max_missing: str = field(
        default="0%", metadata={"help": "Share of rows whose media may be missing and are then dropped, counted."}
    )
    flatten: bool = field(
        default=False, metadata={"help": "Lay the samples of a batch end to end instead of padding them."}
    )

    def __post_init__(self):
        if unknown := [part for part in self.trainable if part not in PARTS]:
            raise ValueError(f"unknown trainable part {unknown[0]!r}; known parts: {list(PARTS)}")
        if not self.trainable and not self.use_peft:
            raise ValueError(f"nothing to train: name parts in `trainable` ({list(PARTS)}) or set `use_peft`")
        if self.use_peft and "language_model" in self.trainable:
            raise ValueError(
                "the language model is trained either in full or by LoRA: drop one of `use_peft` and `trainable`"
            )
        if self.chat_template not in CHAT_TEMPLATES:
            raise ValueError(f"unknown chat_template {self.chat_template!r}; known: {list(CHAT_TEMPLATES)}")
        self.datasets = [read_data_source(entry) for entry in self.datasets]
        self.eval_datasets = [read_data_source(entry) for entry in self.eval_datasets]
        self.max_missing = read_share(self.max_missing)


def read_share(text: str | float) -> float:
    """A share as "1%" or 0.01, as a number from 0 to 1."""
    text = str(text).strip()
    share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    if not 0 <= share <= 1:
        raise ValueError(f"a share lies between 0% and 100%, got {text!r}")
    return share


COMPARISONS = {">=": operator.ge, "<=": operator.le}


def read_criterion(text: str) -> tuple[str, Callable[[float, float], bool], float]:
    """ "start_tens_accuracy >= 0.68" as (name of the metric, comparison, number).

    Raises:
        ValueError: another form.
    """
    match = re.fullmatch(r"\s*(\w+)\s*(>=|<=)\s*(\d+(?:\.\d+)?)\s*", text)
    if match is None:
        raise ValueError(f"stop_when takes criteria such as 'start_tens_accuracy >= 0.68', got {text!r}")
    return match[1].removeprefix("eval_"), COMPARISONS[match[2]], float(match[3])


@dataclass
class AVicunaTrainingArguments(SFTConfig):
    """TRL's `SFTConfig` with the published settings as defaults and a guard on the effective batch."""

    effective_batch_size: int = field(
        default=128,
        metadata={"help": "processes x batch x accumulation, part of the recipe (published: 128). 0 accepts any."},
    )
    gradient_accumulation_steps: int | None = field(
        default=None, metadata={"help": "Micro batches per step; not given: derived from effective_batch_size."}
    )
    use_muon: bool = field(
        default=False,
        metadata={"help": "Muon for the weights of linear layers; embeddings, head, norms and biases by `optim`."},
    )
    adapter_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of both adapters; not given: learning_rate."}
    )
    stop_when: list[str] = field(
        default_factory=list,
        metadata={
            "help": "End the training after the first evaluation that meets all of these, for example "
            '"start_tens_accuracy >= 0.68" or "loss <= 1.5"; max_steps or num_train_epochs is then the upper limit.'
        },
    )
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning rate schedule (published: cosine)."})
    warmup_steps: float = field(default=0.03, metadata={"help": "Steps, or below 1 a share of all (published: 0.03)."})
    weight_decay: float = field(default=0.0, metadata={"help": "Weight decay (published: none)."})
    max_length: int | None = field(
        default=2048, metadata={"help": "Tokens of a sample after expansion (published: 2048); answers are cut here."}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "The collator reads whole rows: keep False."})

    def __post_init__(self):
        if self.use_muon:
            self.check_muon()
        for criterion in self.stop_when:
            read_criterion(criterion)
        if self.stop_when and str(self.eval_strategy) == "no":
            raise ValueError("stop_when needs evaluations: set eval_strategy and eval_datasets")
        if self.deepspeed:
            name_single_process()
        world_size = int(os.environ.get("WORLD_SIZE", "1"))
        self.gradient_accumulation_steps = accumulation_steps(
            effective_batch_size=self.effective_batch_size,
            per_device_batch_size=self.per_device_train_batch_size,
            world_size=world_size,
            given=self.gradient_accumulation_steps,
        )
        # rows become tensors in our collator, not in TRL's tokenising pass over the dataset
        self.dataset_kwargs = {"skip_prepare_dataset": True}
        # `gradient_checkpointing` is the deprecated name; TRL's default of True must not beat an explicit False
        if self.activation_checkpointing is None:
            self.activation_checkpointing = self.gradient_checkpointing
        super().__post_init__()

    def check_muon(self):
        """Raises ValueError where Muon would not see whole matrices, or where `optim` is no AdamW."""
        if self.deepspeed or self.fsdp:
            engine = "deepspeed" if self.deepspeed else "fsdp"
            raise ValueError(
                f"use_muon does not work with {engine}: Muon needs whole matrices, and {engine} partitions them. "
                f"Train without {engine}, or with use_muon: false"
            )
        if self.optim not in ADAMW:
            raise ValueError(
                f"use_muon trains all other parameters by one of {list(ADAMW)}, not by optim: {self.optim}"
            )


def name_single_process():
    """Tells DeepSpeed that it is alone, where no launcher told it anything: `accelerate launch` starts one process by
    itself, on one GPU say, and DeepSpeed would look for MPI."""
    if "RANK" in os.environ:
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ |= {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def accumulation_steps(
    *, effective_batch_size: int, per_device_batch_size: int, world_size: int, given: int | None
) -> int:
    """Micro batches per optimizer step, so that the effective batch is the recipe's on any number of processes.

    Raises:
        ValueError: the product of processes x batch x accumulation is not `effective_batch_size` (0: not checked).
    """
    samples = world_size * per_device_batch_size
    if effective_batch_size == 0:
        return given or 1
    if given is None and effective_batch_size % samples == 0:
        return effective_batch_size // samples
    if given is None or samples * given != effective_batch_size:
        accumulation = f" x accumulation {given}" if given else " cannot be accumulated to it"
        raise ValueError(
            f"the recipe's effective batch is {effective_batch_size}, but processes {world_size} x batch "
            f"{per_device_batch_size}{accumulation}. Change per_device_train_batch_size or gradient_accumulation_steps, "
            "or set effective_batch_size to what you want (0: any)"
        )
    return given


def check_recipe_keys(path: str, known: set[str]):
    """Refuses a recipe with a key that no argument has, before anything else is looked at.

    Raises:
        ValueError: names the recipe, the key and the nearest known one.
    """
    recipe = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    if not isinstance(recipe, dict):
        raise ValueError(f"recipe {path} must hold a YAML mapping, got {type(recipe).__name__}")
    for key in recipe:
        if key not in known and key != "env":
            nearest = difflib.get_close_matches(str(key), known, n=1)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
            raise ValueError(f"unknown key {key!r} in recipe {path}{hint}")


def parse_arguments(
    arguments: list[str] | None = None,
) -> tuple[str | None, StageArguments, AVicunaTrainingArguments]:
    """Reads `--config recipe.yaml` and the command line, which wins.

    Returns:
        The name of the recipe, if one was given, and what it and the command line say.

    Raises:
        ValueError: an unknown key in the recipe or on the command line, named; a value that the dataclasses refuse.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    recipe = None
    if "--config" in arguments[:-1]:
        path = arguments[arguments.index("--config") + 1]
        known = {name for kind in (StageArguments, AVicunaTrainingArguments) for name in kind.__dataclass_fields__}
        check_recipe_keys(path, known)
        recipe = Path(path).stem
    parser = TrlParser((StageArguments, AVicunaTrainingArguments), allow_abbrev=False)
    return recipe, *parser.parse_args_and_config(arguments)
