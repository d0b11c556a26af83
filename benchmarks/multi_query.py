"""How much sharing saves: N queries about one video in one pipeline call against N separate calls.

    python benchmarks/multi_query.py --output benchmarks/results/multi_query.json

Runs on the tiny random model (`train.initialize.build_tiny`, 100 audio-visual tokens) and a video that it writes itself,
both ways in turns in one process. The times say nothing about a trained 7B model; the ratio is what is measured.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import transformers


PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

from dataset_builders.media_writer import MediaWriter  # noqa: E402
from dataset_builders.sandbox.classes import EVENT_CLASSES  # noqa: E402
from modeling_avicuna import AVicunaPipeline  # noqa: E402
from modeling_avicuna.prompt_avicuna import GROUNDING_PROMPT, SYSTEM_PROMPT  # noqa: E402
from train.initialize import build_tiny  # noqa: E402


MANNERS = ("", " far away", " close to the camera", " again and again")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-queries", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=20.0, help="length of the video")
    parser.add_argument("--batch-size", type=int, default=32, help="queries answered together")
    parser.add_argument("--max-new-tokens", type=int, default=16, help="a grounding answer with two spans has 14")
    parser.add_argument("--language-model", default="llama", help="llama or lfm2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="JSON file to write; printed in any case")
    args = parser.parse_args()
    torch.set_num_threads(1)
    queries = [event.label + manner for manner in MANNERS for event in EVENT_CLASSES][: args.num_queries]
    if len(queries) < args.num_queries:
        raise ValueError(f"there are only {len(queries)} queries, asked for {args.num_queries}")
    model, processor = build_tiny([SYSTEM_PROMPT, GROUNDING_PROMPT, *queries], language_model=args.language_model)
    pipe = AVicunaPipeline(model=model, processor=processor, device=-1, max_new_tokens=args.max_new_tokens)
    with tempfile.TemporaryDirectory() as folder:
        video = write_video(Path(folder) / "video.mp4", seconds=args.seconds)
        sources = {"file": video, "features": cached_features(pipe, video, duration=args.seconds)}
        result = {
            **{name: compare(pipe, source, queries, args) for name, source in sources.items()},
            "conditions": conditions(args, num_parameters=model.num_parameters()),
        }
    text = json.dumps(result, indent=2)
    print(text)
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(text + "\n", encoding="utf-8")


def compare(pipe: AVicunaPipeline, source, queries: list[str], args: argparse.Namespace) -> dict:
    """CPU and wall seconds of both ways, the ways in turns, and the ratio of the medians; answers must be the same."""

    def separately():
        return {query: pipe(source, query=query) for query in queries}

    def together():
        return pipe(source, query=queries, batch_size=args.batch_size)

    pipe(source, query=queries[:2])  # nothing is built or imported for the first time in the measured part
    separate, shared = [], []
    for _ in range(args.rounds):
        seconds, expected = timed(separately)
        separate.append(seconds)
        seconds, answers = timed(together)
        shared.append(seconds)
        if spans(answers) != spans(expected):
            raise ValueError("shared and separate answers differ")
    result = {"separate": separate, "shared": shared}
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
    """The same video after the towers: what is left to share is the language model's work."""
    messages = [{"role": "user", "content": [{"type": "video", "path": video}]}]
    inputs = pipe.processor.apply_chat_template(messages, tokenize=True, return_dict=True)
    with torch.no_grad():
        pictures = pipe.model.model.encode_video(inputs["pixel_values_videos"]).pooler_output[0]
        sounds = pipe.model.model.encode_audio(inputs["input_features"]).pooler_output[0]
    return {"video_features": pictures, "audio_features": sounds, "duration": duration}


def conditions(args: argparse.Namespace, *, num_parameters: int) -> dict:
    return {
        **{name: value for name, value in vars(args).items() if name != "output"},
        "num_parameters": num_parameters,
        "device": "cpu, 1 thread",
        "processor": processor_name(),
        "num_cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
