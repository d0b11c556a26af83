"""Training throughput on a CPU: flattened batches against padded ones, on the same samples, side by side.

    python -m benchmarks.train_throughput

Writes benchmarks/results/train_throughput.json with its conditions. Features are random numbers: no media are
decoded. In a flattened batch the cost of everything but attention is proportional to the tokens. Attention is cheaper
than in a padded batch where it is computed per sample (our attention, flash attention), and more expensive where a
mask of the whole row is made. `benchmarks/gpu_training.py` measures a 7B model on a GPU.
"""

import statistics
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import LlamaConfig

from benchmarks.conditions import RESULTS, describe_conditions, write_results
from dataset_builders.command_line import one_line_errors, parse_options
from dataset_builders.input_settings import check_range
from modeling_avicuna import AVicunaConfig, AVicunaForConditionalGeneration
from train.collator import IGNORED, flatten_batch
from train.packed_attention import PACKED_SDPA


PROGRAM = "python -m benchmarks.train_throughput"
# Quantiles (0, 5, 10, 20, ... 90, 95, 100 %) of the tokens of a PU-VALOR row with LLaMA's tokenizer, 100 audio-visual
# tokens included: 1,300 virtual rows from the 6,141 real VALOR captions, with T1, T2 and T3 turns.
LENGTH_QUANTILES = (
    [0, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100],
    [174, 185, 190, 201, 243, 257, 279, 301, 318, 340, 392, 429, 552],
)
NUM_VIDEO, NUM_AUDIO = 75, 25  # tokens of a sample (published)
TEXT = {
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "vocab_size": 1002,
}


@dataclass
class Options:
    """Command line."""

    batch_size: int = field(default=8, metadata={"help": "Samples of a batch."})
    num_batches: int = field(default=4, metadata={"help": "Batches of mixed lengths on a CPU."})
    rounds: int = field(default=3, metadata={"help": "Passes over the batches; the median counts."})
    output: Path = field(default=RESULTS / "train_throughput.json", metadata={"help": "File for the figures."})

    def __post_init__(self):
        check_range(self, 1, "batch_size", "num_batches", "rounds")


def draw_lengths(num_samples: int) -> list[int]:
    """Tokens of random PU-VALOR rows, always the same."""
    ranks = np.random.default_rng(0).uniform(0, 100, size=num_samples)
    return np.interp(ranks, *LENGTH_QUANTILES).round().astype(int).tolist()


def build_model() -> nn.Module:
    """A feature-only AVicuna with random weights, of which everything is trained."""
    text = LlamaConfig(max_position_embeddings=8192, **TEXT)
    config = AVicunaConfig(
        vision_config=None, audio_config=None, text_config=text, video_token_id=1000, audio_token_id=1001
    )
    torch.manual_seed(0)
    return AVicunaForConditionalGeneration(config).train()


def make_batch(
    lengths: list[int], *, first_id: int = 5, last_id: int = 1000, video_id: int = 1000, audio_id: int = 1001
) -> dict[str, torch.Tensor]:
    """A padded batch of samples with 75 visual and 25 audio tokens each and a third of the text supervised.

    Args:
        first_id, last_id: the text is random ids from `first_id` to `last_id - 1`.
        video_id, audio_id: the placeholders.
    """
    batch_size, longest = len(lengths), max(lengths)
    ids = torch.randint(first_id, last_id, (batch_size, longest))
    ids[:, 1 : 1 + NUM_VIDEO], ids[:, 1 + NUM_VIDEO : 1 + NUM_VIDEO + NUM_AUDIO] = video_id, audio_id
    mask = (torch.arange(longest) < torch.tensor(lengths)[:, None]).long()
    answers = torch.arange(longest) >= (101 + 2 * (torch.tensor(lengths)[:, None] - 101) // 3)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": ids.masked_fill(~(answers & mask.bool()), IGNORED),
        "video_features": torch.randn(batch_size, NUM_VIDEO, 768),
        "video_lengths": torch.full((batch_size,), NUM_VIDEO),
        "audio_features": torch.randn(batch_size, NUM_AUDIO, 512),
        "audio_lengths": torch.full((batch_size,), NUM_AUDIO),
    }


def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: dict[str, torch.Tensor]) -> float:
    loss = model(**batch, use_cache=False).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()


def measure(model: nn.Module, batches: list[dict]) -> tuple[float, float]:
    """Seconds of one pass over the batches, and the loss of the last one."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    started = time.perf_counter()
    losses = [step(model, optimizer, batch) for batch in batches]
    return time.perf_counter() - started, losses[-1]


def compare_padding(options: Options) -> dict:
    """Useful tokens per second on the same samples: padded, flattened with our attention, and flattened with
    transformers' SDPA, which makes a mask of the whole row squared."""
    drawn = draw_lengths(options.num_batches * options.batch_size)
    lengths = np.reshape(drawn, (options.num_batches, -1)).tolist()
    model = build_model()
    torch.manual_seed(0)
    padded = [make_batch(row) for row in lengths]
    flattened = [flatten_batch(batch) for batch in padded]
    useful, computed = sum(map(sum, lengths)), sum(max(row) * len(row) for row in lengths)
    ways = {"padded": (padded, "sdpa"), "flattened": (flattened, PACKED_SDPA), "flattened_masked": (flattened, "sdpa")}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    losses: dict[str, float] = {}
    for _ in range(options.rounds + 1):  # alternating, so that all run under the same load; the first one warms up
        for name, (batches, attention) in ways.items():
            model.model.language_model.set_attn_implementation(attention)
            passed, losses[name] = measure(model, batches)
            seconds[name].append(passed)
    seconds = {name: times[1:] for name, times in seconds.items()}
    speed = {name: useful / statistics.median(times) for name, times in seconds.items()}
    return {
        "ratio": speed["flattened"] / speed["padded"],
        "ratio_with_a_mask_of_the_whole_row": speed["flattened_masked"] / speed["padded"],
        "ratio_if_time_were_tokens": computed / useful,
        "useful_tokens_per_second": speed,
        "all_seconds": seconds,
        "num_useful_tokens": useful,
        "largest_relative_loss_difference": max(abs(loss / losses["padded"] - 1) for loss in losses.values()),
    }


def main(arguments: list[str] | None = None):
    options = parse_options(Options, arguments, program=PROGRAM, description=__doc__.splitlines()[0])
    conditions = describe_conditions(["torch"], torch_threads=torch.get_num_threads(), **asdict(options))
    write_results(options.output, conditions=conditions, results=compare_padding(options))


if __name__ == "__main__":
    with one_line_errors(PROGRAM):
        main()
