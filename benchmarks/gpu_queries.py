"""Questions about one video at the size of Vicuna-7B on one GPU: queries per second, and memory by length of video.

    python -m benchmarks.gpu_queries --output queries.json                          # random weights, bf16
    python -m benchmarks.gpu_queries --size tiny --device cpu --output queries.json # trial run
    python -m benchmarks.gpu_queries --four-bit true --output queries_4bit.json     # needs bitsandbytes

The pipeline answers grounding queries in well-formed spans, so that answers have the length of a trained model's.
Queries are asked together (one encoding and one prefix of the cache for all) and one by one, from cached features.
Memory and seconds of one query about a file are measured for videos of several lengths, with the towers.
"""

import gc
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from transformers import BitsAndBytesConfig

from benchmarks.conditions import RESULTS, describe_conditions, write_results
from benchmarks.full_size import SIZES, build_full_size, device_conditions, peak_gib, reset_peak, wait
from benchmarks.multi_query import cached_features, list_queries, spans
from dataset_builders.command_line import one_line_errors, parse_options
from dataset_builders.input_settings import check_range
from dataset_builders.media_writer import MediaWriter
from dataset_builders.sandbox.classes import EVENT_CLASSES
from modeling_avicuna import AVicunaForConditionalGeneration, AVicunaPipeline
from modeling_avicuna.modeling_avicuna import FULL_PRECISION_MODULES
from train.trainer import apply_liger_to_language_model


PROGRAM = "python -m benchmarks.gpu_queries"
MAX_NEW_TOKENS = 16  # a grounding answer with two spans has 14
FPS, WIDTH, HEIGHT, SAMPLING_RATE = 5, 160, 96, 16_000  # small: the length is what matters here


@dataclass
class QueryOptions:
    """Options of `python -m benchmarks.gpu_queries`."""

    size: str = field(default="7b", metadata={"choices": sorted(SIZES), "help": "Size of the model."})
    device: str = field(default="cuda", metadata={"choices": ["cuda", "cpu"], "help": "Where it runs."})
    four_bit: bool = field(default=False, metadata={"help": "The language model in 4 bits (bitsandbytes NF4)."})
    liger: bool = field(default=False, metadata={"help": "Liger's kernels in the language model (liger-kernel)."})
    num_queries: int = field(default=100, metadata={"help": "Queries about the video."})
    num_separate: int = field(default=10, metadata={"help": "Of these, how many are asked one by one for comparison."})
    batch_sizes: list[int] = field(default_factory=lambda: [32, 100], metadata={"help": "Queries answered together."})
    minutes: list[float] = field(default_factory=lambda: [1, 10, 60], metadata={"help": "Lengths of the videos."})
    rounds: int = field(default=3, metadata={"help": "Measurements; the fastest counts, the first one warms up."})
    output: Path = field(default=RESULTS / "gpu_queries.json", metadata={"help": "File for the figures."})

    def __post_init__(self):
        check_range(self, 1, "num_queries", "num_separate", "rounds")


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_options(QueryOptions, arguments, program=PROGRAM, description=__doc__.splitlines()[0])
    conditions = describe_conditions(
        ["torch", "transformers"],
        max_new_tokens=MAX_NEW_TOKENS,
        **{**asdict(options), **device_conditions(options.device)},
    )
    pipe = build_pipeline(options)
    results: dict = {"model_memory_gib": peak_gib(options.device)}
    with tempfile.TemporaryDirectory() as folder:
        results["by_length"] = {}
        for minutes in options.minutes:
            video = write_video(Path(folder, f"{minutes:g}.mp4"), seconds=60 * minutes)
            results["by_length"][f"{minutes:g} min"] = ask_once(pipe, video, options)
            write_results(options.output, conditions=conditions, results=results)
        features = cached_features(pipe, Path(folder, f"{options.minutes[0]:g}.mp4"), duration=60.0)
    results["queries"] = compare_queries(pipe, features, options)
    write_results(options.output, conditions=conditions, results=results)


def build_pipeline(options: QueryOptions) -> AVicunaPipeline:
    """The pipeline on a random model; in 4 bits, the model is saved and loaded again, as a user loads one."""
    dtype = torch.float32 if options.device == "cpu" else torch.bfloat16
    model, processor = build_full_size(options.size, device=options.device, dtype=dtype)
    if options.four_bit:
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            del model
            gc.collect()
            torch.cuda.empty_cache()
            reset_peak(options.device)
            quantization = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_compute_dtype=dtype,
                llm_int8_skip_modules=FULL_PRECISION_MODULES,
            )
            model = AVicunaForConditionalGeneration.from_pretrained(
                folder, dtype=dtype, quantization_config=quantization, device_map=options.device
            ).eval()
    if options.liger:
        apply_liger_to_language_model(model, {"fused_linear_cross_entropy": False})
    return AVicunaPipeline(model=model, processor=processor, max_new_tokens=MAX_NEW_TOKENS)


def write_video(path: Path, *, seconds: float) -> Path:
    """Small noisy frames and noise, written quickly."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, size=(50, HEIGHT, WIDTH, 3), dtype=np.uint8)
    samples = rng.uniform(-0.3, 0.3, size=(1, 10 * SAMPLING_RATE)).astype(np.float32)
    with MediaWriter(path, width=WIDTH, height=HEIGHT, fps=FPS, sampling_rate=SAMPLING_RATE, num_channels=1) as writer:
        for second in range(round(seconds)):
            for number in range(FPS):
                writer.write_frame(frames[(FPS * second + number) // 25 % 50])  # a new picture every 5 s
            if second % 10 == 0:
                writer.write_audio(samples[:, : SAMPLING_RATE * min(10, round(seconds) - second)])
    return path


def ask_once(pipe: AVicunaPipeline, video: Path, options: QueryOptions) -> dict:
    """Wall seconds of one query about a file, device memory with it, and the process's largest memory so far."""
    query = EVENT_CLASSES[0].label
    seconds = []
    for _ in range(2):  # the first one warms up
        wait(options.device)
        reset_peak(options.device)
        started = time.perf_counter()
        pipe(video, query=query)
        wait(options.device)
        seconds.append(time.perf_counter() - started)
    return {
        "seconds": round(seconds[-1], 3),
        "peak_memory_gib": peak_gib(options.device),
        "process_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "file_mb": round(video.stat().st_size / 1e6, 2),
    }


def compare_queries(pipe: AVicunaPipeline, features: dict, options: QueryOptions) -> dict:
    """Queries per second, together and one by one, and the share of equal answers (16-bit types round differently in
    batches of other sizes, and a random model is never sure)."""
    queries = list_queries(options.num_queries)

    def one_by_one() -> dict:
        return {query: pipe(features, query=query) for query in queries[: options.num_separate]}

    seconds, separate = fastest(one_by_one, options)
    results = {"one_by_one": {"queries_per_second": round(len(separate) / seconds, 2)}}
    for batch_size in options.batch_sizes:

        def together(batch_size: int = batch_size) -> dict:
            return pipe(features, query=queries, batch_size=batch_size)

        reset_peak(options.device)
        seconds, answers = fastest(together, options)
        answered, expected = spans(answers), spans(separate)
        equal = [answered[query] == expected[query] for query in separate]
        results[f"together, {batch_size} at once"] = {
            "queries_per_second": round(len(queries) / seconds, 2),
            "ratio_to_one_by_one": round(len(queries) / seconds / results["one_by_one"]["queries_per_second"], 2),
            "share_of_equal_answers": sum(equal) / len(equal),
            "peak_memory_gib": peak_gib(options.device),
        }
    return results


def fastest(function: Callable[[], dict], options: QueryOptions) -> tuple[float, dict]:
    """Wall seconds of the fastest of several calls after one that warms up, and what it returned."""
    seconds = []
    for _ in range(options.rounds + 1):
        wait(options.device)
        started = time.perf_counter()
        result = function()
        wait(options.device)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:]), result


if __name__ == "__main__":
    with one_line_errors(PROGRAM):
        main()
