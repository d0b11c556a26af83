"""How much sharing saves: N queries about one video in one pipeline call against N separate calls.

    python -m benchmarks.multi_query

Runs on the tiny random model (`train.initialize.build_tiny`, 100 audio-visual tokens) and a video that it writes,
both ways in turn in one process. The times say nothing about a trained 7B model; the ratio is what is measured.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.conditions import RESULTS, describe_conditions, write_results
from dataset_builders.command_line import one_line_errors, parse_options
from dataset_builders.input_settings import check_range
from dataset_builders.media_writer import MediaWriter
from dataset_builders.sandbox.classes import EVENT_CLASSES
from modeling_avicuna import AVicunaPipeline
from modeling_avicuna.prompt_avicuna import GROUNDING_PROMPT, SYSTEM_PROMPT
from train.initialize import build_tiny


PROGRAM = "python -m benchmarks.multi_query"
MANNERS = ("", " far away", " close to the camera", " again and again")


@dataclass
class QueryOptions:
    """Options of `python -m benchmarks.multi_query`."""

    num_queries: int = field(default=100, metadata={"help": "Queries about the video."})
    seconds: float = field(default=20.0, metadata={"help": "Length of the video."})
    max_new_tokens: int = field(default=16, metadata={"help": "A grounding answer with two spans has 14."})
    language_model: str = field(
        default="llama", metadata={"choices": ["llama", "lfm2"], "help": "Kind of the language model."}
    )
    rounds: int = field(default=3, metadata={"help": "Measurements of each way; the median counts."})
    output: Path = field(default=RESULTS / "multi_query.json", metadata={"help": "File for the figures."})

    def __post_init__(self):
        check_range(self, 1, "num_queries", "seconds", "max_new_tokens", "rounds")


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_options(QueryOptions, arguments, program=PROGRAM, description=__doc__.splitlines()[0])
    torch.set_num_threads(1)
    queries = list_queries(options.num_queries)
    model, processor = build_tiny([SYSTEM_PROMPT, GROUNDING_PROMPT, *queries], language_model=options.language_model)
    conditions = describe_conditions(
        ["torch", "transformers"], **asdict(options), num_parameters=model.num_parameters(), device="cpu, 1 thread"
    )
    pipe = AVicunaPipeline(model=model, processor=processor, device=-1, max_new_tokens=options.max_new_tokens)
    with tempfile.TemporaryDirectory() as folder:
        video = write_video(Path(folder) / "video.mp4", seconds=options.seconds)
        sources: dict[str, Path | dict] = {
            "file": video,
            "features": cached_features(pipe, video, duration=options.seconds),
        }
        results = {name: compare(pipe, source, queries, options) for name, source in sources.items()}
    write_results(options.output, conditions=conditions, results=results)


def list_queries(num_queries: int) -> list[str]:
    """Different queries. Raises ValueError: there are fewer."""
    queries = [event.label + manner for manner in MANNERS for event in EVENT_CLASSES]
    if len(queries) < num_queries:
        raise ValueError(f"--num-queries is {num_queries}; there are only {len(queries)} queries")
    return queries[:num_queries]


def compare(pipe: AVicunaPipeline, source: Path | dict, queries: list[str], options: QueryOptions) -> dict:
    """CPU and wall seconds of both ways, measured in turn, and the ratio of the medians.

    Raises:
        ValueError: the two ways give different answers.
    """

    def separately() -> dict:
        return {query: pipe(source, query=query) for query in queries}

    def together() -> dict:
        return pipe(source, query=queries)

    pipe(source, query=queries[:2])  # so that nothing is built or imported in the measured part
    separate, shared = [], []
    for _ in range(options.rounds):
        seconds, expected = timed(separately)
        separate.append(seconds)
        seconds, answers = timed(together)
        shared.append(seconds)
        if spans(answers) != spans(expected):
            raise ValueError("shared and separate answers differ")
    result: dict[str, Any] = {"separate": separate, "shared": shared}
    for clock in ("cpu_seconds", "wall_seconds"):
        medians = [statistics.median(seconds[clock] for seconds in way) for way in (shared, separate)]
        result[f"ratio_of_{clock}"] = round(medians[0] / medians[1], 4)
    return result


def timed(function: Callable) -> tuple[dict[str, float], dict]:
    cpu, wall = time.process_time(), time.perf_counter()
    result = function()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {"cpu_seconds": round(cpu, 3), "wall_seconds": round(wall, 3)}, result


def spans(answers: dict) -> dict:
    return {query: [(event["start"], event["end"]) for event in events] for query, events in answers.items()}


def write_video(path: Path, *, seconds: float, fps: int = 25) -> Path:
    """A moving gradient of 320 x 240 pixels with a gliding tone."""
    rows, columns = np.mgrid[0:240, 0:320]
    moments = np.arange(round(seconds * 16_000)) / 16_000
    with MediaWriter(path, width=320, height=240, fps=fps, sampling_rate=16_000, num_channels=1) as writer:
        for number in range(round(seconds * fps)):
            picture = np.stack([rows + number, columns + 2 * number, rows + columns], axis=-1) % 256
            writer.write_frame(picture.astype(np.uint8))
        writer.write_audio(0.3 * np.sin(2 * np.pi * (200 + 20 * moments) * moments)[None])
    return path


def cached_features(pipe: AVicunaPipeline, video: Path, *, duration: float) -> dict:
    """The tower outputs of the same video: then only the work of the language model can be shared."""
    messages = [{"role": "user", "content": [{"type": "video", "path": video}]}]
    inputs = pipe.processor.apply_chat_template(messages, tokenize=True, return_dict=True).to(pipe.device)
    with torch.no_grad():
        pictures = pipe.model.model.encode_video(inputs["pixel_values_videos"]).pooler_output[0]
        sounds = pipe.model.model.encode_audio(inputs["input_features"]).pooler_output[0]
    return {"video_features": pictures, "audio_features": sounds, "duration": duration}


if __name__ == "__main__":
    with one_line_errors(PROGRAM):
        main()
