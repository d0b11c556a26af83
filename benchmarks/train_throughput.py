"""Training throughput: flattened batches against padded ones on a CPU; tokens per second, MFU and memory on a GPU.

    python -m benchmarks.train_throughput                              # tiny model, CPU: the ratio
    python -m benchmarks.train_throughput --device cuda --size 7b      # random weights, stages I and III, 8 x 2048

Writes benchmarks/results/train_throughput[_cuda].json with its conditions. Features are random numbers: no media are
decoded. In a flattened batch the cost of everything but attention is proportional to the tokens. Attention is cheaper
than in a padded batch where it is computed per sample (our attention, flash attention), and more expensive where a
mask of the whole row is made. MFU counts 6 FLOPs per trained and 4 per frozen parameter and token, and 12 * layers *
hidden * length for attention.
"""

import statistics
import time
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from peft import get_peft_model
from torch import nn
from transformers import LlamaConfig

from benchmarks.conditions import RESULTS, describe_conditions, write_results
from dataset_builders.command_line import one_line_errors, parse_options
from modeling_avicuna import AVicunaConfig, AVicunaForConditionalGeneration
from train.arguments import StageArguments
from train.collator import IGNORED, flatten_batch
from train.packed_attention import PACKED_SDPA
from train.trainable import lora_config, set_trainable


PROGRAM = "python -m benchmarks.train_throughput"
# Quantiles (0, 5, 10, 20, ... 90, 95, 100 %) of the tokens of a PU-VALOR row with LLaMA's tokenizer, 100 audio-visual
# tokens included: 1,300 virtual rows from the 6,141 real VALOR captions, with T1, T2 and T3 turns.
LENGTH_QUANTILES = (
    [0, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100],
    [174, 185, 190, 201, 243, 257, 279, 301, 318, 340, 392, 429, 552],
)
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense bf16, from NVIDIA's data sheets
TEXT = {
    "tiny": {
        "hidden_size": 128,
        "intermediate_size": 352,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "vocab_size": 4000,
    },
    "7b": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "vocab_size": 32002,
    },
}
STAGES = {
    "I": StageArguments(trainable=["vision_adapter"]),
    "III": StageArguments(use_peft=True),
    "full": StageArguments(trainable=["language_model", "vision_adapter", "audio_adapter"]),
}


@dataclass
class Options:
    """Command line."""

    device: str = field(default="cpu", metadata={"help": "cpu or cuda.", "choices": ["cpu", "cuda"]})
    size: str = field(default="tiny", metadata={"help": "Size of the language model.", "choices": sorted(TEXT)})
    batch_size: int = field(default=8, metadata={"help": "Samples of a batch."})
    length: int = field(default=2048, metadata={"help": "Tokens of a sample on a GPU."})
    num_batches: int = field(default=4, metadata={"help": "Batches of mixed lengths on a CPU."})
    rounds: int = field(default=3, metadata={"help": "Passes over the batches; the median counts."})


def build_model(size: str, *, stage: StageArguments, device: str, dtype: torch.dtype, attention: str) -> nn.Module:
    """A feature-only AVicuna with random weights, with the parameters trainable that `stage` trains."""
    text = LlamaConfig(max_position_embeddings=8192, attn_implementation=attention, **TEXT[size])
    config = AVicunaConfig(
        vision_config=None,
        audio_config=None,
        text_config=text,
        video_token_id=text.vocab_size - 2,
        audio_token_id=text.vocab_size - 1,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = AVicunaForConditionalGeneration._from_config(config, dtype=dtype, attn_implementation=attention)
    set_trainable(model, stage.trainable)
    peft = lora_config(model, stage)
    return (get_peft_model(model, peft) if peft else model).train()


def make_batch(lengths: list[int], *, vocab_size: int) -> dict[str, torch.Tensor]:
    """A padded batch of samples with 75 visual and 25 audio tokens each and a third of the text supervised."""
    batch_size, longest = len(lengths), max(lengths)
    ids = torch.randint(5, vocab_size - 2, (batch_size, longest))
    ids[:, 1:76], ids[:, 76:101] = vocab_size - 2, vocab_size - 1
    mask = (torch.arange(longest) < torch.tensor(lengths)[:, None]).long()
    answers = torch.arange(longest) >= (101 + 2 * (torch.tensor(lengths)[:, None] - 101) // 3)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": ids.masked_fill(~(answers & mask.bool()), IGNORED),
        "video_features": torch.randn(batch_size, 75, 768),
        "video_lengths": torch.full((batch_size,), 75),
        "audio_features": torch.randn(batch_size, 25, 512),
        "audio_lengths": torch.full((batch_size,), 25),
    }


def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: dict[str, torch.Tensor]) -> float:
    loss = model(**batch, use_cache=False).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()  # waits for the device


def measure(model: nn.Module, batches: list[dict], *, device: str, rounds: int, warm_up: bool = True) -> dict:
    """Median seconds of one pass over the batches, after one pass to warm up, and the loss of the first batch."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.0)
    batches = [{n: v.to(device) if isinstance(v, torch.Tensor) else v for n, v in batch.items()} for batch in batches]
    seconds: list[float] = []
    losses: list[float] = []
    for _ in range(rounds + warm_up):
        started = time.perf_counter()
        losses = [step(model, optimizer, batch) for batch in batches]
        seconds.append(time.perf_counter() - started)
    seconds = seconds[warm_up:]
    return {"seconds": statistics.median(seconds), "all_seconds": seconds, "loss": losses[0]}


def model_flops(model: nn.Module, *, num_tokens: int, length: int) -> float:
    """FLOPs of one step of the model; recomputation is not counted."""
    config = model.config.text_config
    body = sum(p.numel() for name, p in model.named_parameters() if "embed_tokens" not in name)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    attention = 12 * config.num_hidden_layers * config.hidden_size * length / 2  # causal: half of the square
    return num_tokens * (4 * body + 2 * trained + attention)


def compare_padding(options: Options) -> dict:
    """Useful tokens per second on the same samples: padded, flattened with our attention, and flattened with
    transformers' SDPA, which makes a mask of the whole row squared."""
    rng = np.random.default_rng(0)
    drawn = np.interp(rng.uniform(0, 100, size=options.num_batches * options.batch_size), *LENGTH_QUANTILES)
    lengths = drawn.round().astype(int).reshape(options.num_batches, -1).tolist()
    model = build_model(
        options.size, stage=STAGES["full"], device=options.device, dtype=torch.float32, attention="sdpa"
    )
    torch.manual_seed(0)
    padded = [make_batch(row, vocab_size=TEXT[options.size]["vocab_size"]) for row in lengths]
    flattened = [flatten_batch(batch) for batch in padded]
    useful, computed = sum(map(sum, lengths)), sum(max(row) * len(row) for row in lengths)
    ways = {"padded": (padded, "sdpa"), "flattened": (flattened, PACKED_SDPA), "flattened_masked": (flattened, "sdpa")}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    losses: dict[str, float] = {}
    for _ in range(options.rounds + 1):  # alternating, so that all run under the same load; the first one warms up
        for name, (batches, attention) in ways.items():
            model.model.language_model.set_attn_implementation(attention)
            result = measure(model, batches, device=options.device, rounds=1, warm_up=False)
            seconds[name].append(result["seconds"])
            losses[name] = result["loss"]
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


def measure_stage(options: Options, name: str) -> dict:
    """Tokens per second, MFU and peak memory of full-length batches, bf16 with gradient checkpointing."""
    model = build_model(
        options.size, stage=STAGES[name], device=options.device, dtype=torch.bfloat16, attention="sdpa"
    )
    model.activation_checkpointing_enable()
    model.enable_input_require_grads()
    torch.manual_seed(0)
    batch = make_batch([options.length] * options.batch_size, vocab_size=TEXT[options.size]["vocab_size"])
    batch.pop("attention_mask")  # nothing is padded
    torch.cuda.reset_peak_memory_stats()
    result = measure(model, [batch], device=options.device, rounds=options.rounds)
    num_tokens = options.batch_size * options.length
    speed = model_flops(model, num_tokens=num_tokens, length=options.length) / result["seconds"]
    peak = next((flops for gpu, flops in PEAK_FLOPS.items() if gpu in torch.cuda.get_device_name()), None)
    return {
        **result,
        "tokens_per_second": num_tokens / result["seconds"],
        "model_tflops_per_second": speed / 1e12,
        "mfu": None if peak is None else speed / peak,
        "peak_memory_gib": torch.cuda.max_memory_allocated() / 2**30,
    }


def main(arguments: list[str] | None = None):
    options = parse_options(Options, arguments, program=PROGRAM, description=__doc__.splitlines()[0])
    gpu = {"gpu": torch.cuda.get_device_name()} if options.device == "cuda" else {}
    conditions = describe_conditions(["torch"], **gpu, torch_threads=torch.get_num_threads(), **asdict(options))
    if options.device == "cuda":
        results = {f"stage {name}": measure_stage(options, name) for name in ("I", "III")}
    else:
        results = compare_padding(options)
    path = RESULTS / f"train_throughput{'_cuda' if options.device == 'cuda' else ''}.json"
    write_results(path, conditions=conditions, results=results)


if __name__ == "__main__":
    with one_line_errors(PROGRAM):
        main()
