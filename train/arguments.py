"""The arguments of one training stage, read from its recipe (YAML) and the command line by TRL's TrlParser.

The defaults are the published hyper-parameters that all four stages share; a recipe holds only what differs.
"""

import math
import operator
import os
import re
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

import yaml
from trl import ModelConfig, SFTConfig, TrlParser

from dataset_builders.command_line import OneLineParser
from dataset_builders.input_settings import check_positive, check_range
from dataset_builders.pseudo_untrimmed.composing import COMPOSITION_RULES
from dataset_builders.sources.annotation_files import read_object
from train.data_sources import DataSource, read_data_source


PARTS = ("vision_adapter", "audio_adapter", "language_model", "vision_tower", "audio_tower")
TOWERS = ("vision_tower", "audio_tower")
CHAT_TEMPLATES = ("vicuna", "plain", "listing")
ADAMW = ("adamw_torch", "adamw_torch_fused")  # values of `optim` that `use_muon` can be combined with


@dataclass
class StageArguments(ModelConfig):
    """The checkpoint, the trained parts and the data of a stage.

    The options of the checkpoint, of quantisation and of LoRA are those of TRL's `ModelConfig`, with the published
    values of LoRA as defaults.
    """

    model_name_or_path: str | None = field(
        default=None,
        metadata={"aliases": ["--model"], "help": "Checkpoint to start from: a folder or a Hub id; LoRA is merged."},
    )
    dtype: str | None = field(
        default="auto",
        metadata={"help": "Data type of the weights.", "choices": ["auto", "float32", "bfloat16", "float16"]},
    )
    lora_r: int = field(default=64, metadata={"help": "Rank of LoRA (published: 64)."})
    lora_alpha: int = field(default=128, metadata={"help": "Scale of LoRA (published: 128)."})
    lora_dropout: float = field(default=0.05, metadata={"help": "Dropout in LoRA (published: 0.05)."})
    trainable: list[str] = field(
        default_factory=list,
        metadata={"help": f"Parts trained in full, of: {', '.join(PARTS)}. All others are frozen."},
    )
    datasets: list[str] = field(
        default_factory=list,
        metadata={"help": "Sources to mix: paths, or JSON mappings with path, name, split, weight, options."},
    )
    eval_datasets: list[str] = field(
        default_factory=list,
        metadata={"help": "Held-out sources in the form of `datasets`, evaluated as `eval_strategy` specifies."},
    )
    data_dir: str | None = field(
        default=None, metadata={"help": "Folder that relative paths in `datasets` (./rows, *_file, *_dir) start from."}
    )
    chat_template: str = field(
        default="vicuna",
        metadata={"help": "vicuna (conversation), plain (only the caption; stages I and II), or listing (warm-up)."},
    )
    media_dir: str | None = field(default=None, metadata={"help": "Folder that relative media paths start from."})
    features_dir: list[str] = field(
        default_factory=list, metadata={"help": "Folders of cached tower outputs; none: media files are decoded."}
    )
    composition: str = field(
        default="even",
        metadata={
            "choices": list(COMPOSITION_RULES),
            "help": "Rows of virtual pseudo-untrimmed videos: even, or published (short videos end in rows of zeros).",
        },
    )
    max_missing: str = field(
        default="0%", metadata={"help": "Share of rows without media that are dropped and counted; more are an error."}
    )
    flatten: bool = field(
        default=False, metadata={"help": "Concatenate the samples of a batch into one row instead of padding them."}
    )

    def __post_init__(self):
        super().__post_init__()
        if unknown := [part for part in self.trainable if part not in PARTS]:
            raise ValueError(f"unknown trainable part {unknown[0]!r}; known parts: {list(PARTS)}")
        if not self.trainable and not self.use_peft:
            raise ValueError(f"nothing to train: name parts in `trainable` ({list(PARTS)}) or set `use_peft`")
        if self.use_peft and "language_model" in self.trainable:
            raise ValueError(
                "the language model is trained either in full or by LoRA: drop one of `use_peft` and `trainable`"
            )
        if self.features_dir and (towers := [part for part in self.trainable if part in TOWERS]):
            raise ValueError(f"trainable: {towers} has no effect with features_dir: cached features run no tower")
        check_range(self, 1, "lora_r", "lora_alpha")
        check_range(self, 0, "lora_dropout", high=1)
        if self.lora_modules_to_save:
            raise ValueError("lora_modules_to_save: name the parts to train in full in `trainable`")
        if (self.load_in_4bit or self.load_in_8bit) and not self.use_peft:
            raise ValueError("quantised weights cannot be trained: use load_in_4bit and load_in_8bit with use_peft")
        if self.chat_template not in CHAT_TEMPLATES:
            raise ValueError(f"unknown chat_template {self.chat_template!r}; known: {list(CHAT_TEMPLATES)}")
        for name in ("model_name_or_path", "data_dir", "media_dir", "features_dir"):
            value = getattr(self, name)
            if value == "" or isinstance(value, list) and "" in value:
                raise ValueError(f"the value of {name} is empty")
        for entry in [*self.datasets, *self.eval_datasets]:
            read_data_source(entry)
        read_share(self.max_missing)

    @property
    def sources(self) -> list[DataSource]:
        return [read_data_source(entry) for entry in self.datasets]

    @property
    def eval_sources(self) -> list[DataSource]:
        return [read_data_source(entry) for entry in self.eval_datasets]

    @property
    def max_missing_share(self) -> float:
        return read_share(self.max_missing)


def read_share(text: str | float) -> float:
    """A share, as "1%" or 0.01, as a number from 0 to 1.

    Raises:
        ValueError: not a number, or not from 0 to 1.
    """
    number = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*(%?)\s*", str(text))
    share = float(number[1]) / (100 if number[2] else 1) if number else -1.0
    if not 0 <= share <= 1:
        raise ValueError(f"max_missing must be a share from 0% to 100%, such as 1% or 0.01, got {text!r}")
    return share


COMPARISONS = {">=": operator.ge, "<=": operator.le}


def read_criterion(text: str) -> tuple[str, Callable[[float, float], bool], float]:
    """Parses "start_tens_accuracy >= 0.68" into the name of the metric, the comparison and the number."""
    match = re.fullmatch(r"\s*(\w+)\s*(>=|<=)\s*(\d+(?:\.\d+)?)\s*", text)
    if match is None:
        raise ValueError(f"stop_when takes criteria such as 'start_tens_accuracy >= 0.68', got {text!r}")
    return match[1].removeprefix("eval_"), COMPARISONS[match[2]], float(match[3])


@dataclass
class AVicunaTrainingArguments(SFTConfig):
    """TRL's `SFTConfig` with the published settings as defaults and a check of the effective batch size."""

    effective_batch_size: int = field(
        default=128,
        metadata={"help": "Processes x batch x accumulation, fixed by the recipe (published: 128). 0 accepts any."},
    )
    gradient_accumulation_steps: int | None = field(
        default=None, metadata={"help": "Micro batches per step; by default derived from effective_batch_size."}
    )
    output_dir: str = field(
        default="trainer_output",
        metadata={"aliases": ["--output"], "help": "Folder of the finished stage and its checkpoints."},
    )
    use_muon: bool = field(
        default=False,
        metadata={"help": "Muon for the weights of linear layers; `optim` for embeddings, head, norms and biases."},
    )
    adapter_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of both adapters; by default learning_rate."}
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
    group_by_length: bool = field(default=False, metadata={"help": "Not supported: use flatten."})

    def __post_init__(self):
        if not self.output_dir:
            raise ValueError("the value of output_dir is empty")
        self.check_numbers()
        if self.use_muon:
            self.check_muon()
        self.check_lengths()
        for criterion in self.stop_when:
            read_criterion(criterion)
        if self.stop_when and str(self.eval_strategy) == "no":
            raise ValueError("stop_when needs evaluations: set eval_strategy and eval_datasets")
        if self.deepspeed:
            if isinstance(self.deepspeed, str) and Path(self.deepspeed).is_file():
                read_object(self.deepspeed)
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
        # `gradient_checkpointing` is the deprecated name; TRL's default of True must not beat an explicit False.
        # Older versions of transformers (5.17) know only that name.
        if getattr(self, "activation_checkpointing", True) is None:
            self.activation_checkpointing = self.gradient_checkpointing
        super().__post_init__()

    def check_numbers(self):
        """Raises ValueError for a number out of its range, which Trainer would accept."""
        for name in vars(self):
            if isinstance(value := getattr(self, name), float) and not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, got {value}")
        check_range(self, 1, "per_device_train_batch_size", "per_device_eval_batch_size")
        check_range(self, 1, "gradient_accumulation_steps")
        check_range(self, 0, "effective_batch_size", "dataloader_num_workers", "weight_decay", "max_grad_norm")
        check_range(self, 0, "learning_rate", "adapter_learning_rate", "warmup_steps")
        check_range(self, 0, "label_smoothing_factor", "adam_beta1", "adam_beta2", high=1)
        check_range(self, 0, "seed", high=2**32 - 1)
        check_positive(self, "num_train_epochs")

    def check_lengths(self):
        """Raises ValueError for options of Trainer and TRL that the collator does not support."""
        if self.max_length is not None and self.max_length < 1:
            raise ValueError(f"max_length must be at least 1, got {self.max_length}; none: no limit")
        for name in ("packing", "eval_packing", "padding_free", "group_by_length"):
            if getattr(self, name):
                raise ValueError(
                    f"{name} is not supported, since rows become tokens in the collator: use --flatten true"
                )
        if self.train_sampling_strategy not in ("random", "sequential"):
            raise ValueError(
                f"train_sampling_strategy: {self.train_sampling_strategy} is not supported, since rows have no length "
                "before the collator: use --flatten true"
            )

    def check_muon(self):
        """Raises ValueError if matrices are partitioned, which Muon does not support, or if `optim` is not AdamW."""
        if self.deepspeed or self.fsdp:
            engine = "deepspeed" if self.deepspeed else "fsdp"
            raise ValueError(
                f"use_muon does not work with {engine}: Muon needs whole matrices, and {engine} partitions them. "
                f"Train without {engine}, or with use_muon: false"
            )
        if self.optim not in ADAMW:
            raise ValueError(
                f"use_muon needs optim to be one of {list(ADAMW)}, for all other parameters, got {self.optim}"
            )


def name_single_process():
    """Sets the environment variables of a launcher for one process, unless they are set.

    `accelerate launch` does not set them for a single process, and DeepSpeed would then look for MPI.
    """
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
    """Micro batches per optimizer step that give the recipe's effective batch size on this number of processes.

    Args:
        effective_batch_size: of the recipe; 0 accepts any.
        per_device_batch_size: samples of a micro batch.
        world_size: number of processes.
        given: `gradient_accumulation_steps` of the recipe or the command line, if there is one.

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
            f"{per_device_batch_size}{accumulation}. Change per_device_train_batch_size or "
            "gradient_accumulation_steps, or set effective_batch_size (0 accepts any)"
        )
    return given


class StageParser(OneLineParser, TrlParser):
    """TRL's parser with errors of one line, without the usage text."""

    may_be_empty = frozenset({"__deepspeed"})  # `--deepspeed ""` overrides the recipe's


def parse_arguments(
    arguments: list[str] | None = None,
) -> tuple[str | None, StageArguments, AVicunaTrainingArguments]:
    """Reads `--config recipe.yaml` and the command line, which takes precedence.

    Returns:
        The name of the recipe, if one was given, and the arguments.

    Raises:
        ValueError: an unknown key in the recipe, or an invalid value.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = StageParser((StageArguments, AVicunaTrainingArguments), allow_abbrev=False)
    if "--config" not in arguments:
        return None, *parser.parse_args_and_config(arguments)
    if arguments[-1] == "--config":
        parser.error("argument --config: expected one argument")
    recipe = Path(arguments[arguments.index("--config") + 1])
    read_recipe(recipe)
    return recipe.stem, *parser.parse_args_and_config(arguments)


def read_recipe(path: Path) -> dict:
    """The content of a recipe.

    Raises:
        ValueError: no such file, not a YAML mapping, or a list in place of one value or the reverse, which TRL does
            not check; the message names the file.
    """
    if not path.is_file():
        raise ValueError(f"no such recipe: {path}")
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"{path} is not a YAML mapping, but {type(recipe).__name__}")
    types = {**get_type_hints(StageArguments), **get_type_hints(AVicunaTrainingArguments)}
    for name, value in recipe.items():
        kind = types.get(name)
        kinds = {kind} if get_origin(kind) is list else {kind, *get_args(kind)}
        if list[str] in kinds and str not in kinds and not isinstance(value, list):
            raise ValueError(f"{path}: {name} must be a list, got {value!r}")
        if kinds & {int, float, bool} and isinstance(value, (list, dict)):
            raise ValueError(f"{path}: {name} must be one value, got {value!r}")
    return recipe
