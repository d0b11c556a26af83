"""Questions per second of vLLM over HTTP against `answer_questions` in one process, side by side.

    python -m benchmarks.serving --address http://127.0.0.1:8000 --model DIR --folder DIR

The server runs already and serves the same checkpoint (docs/serve.md), with `--allowed-local-media-path` for the
folder of the videos. Both are asked in turn: all questions about one video at once, and one question about each of
several videos at once. The videos are made by the sandbox.
"""

import json
import time
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoProcessor

import modeling_avicuna  # noqa: F401  (registers the auto classes)
from benchmarks.conditions import RESULTS, describe_conditions, write_results
from dataset_builders.command_line import one_line_errors, parse_options
from dataset_builders.input_settings import check_range
from dataset_builders.sandbox import make_world
from dataset_builders.sandbox.classes import EVENT_CLASSES
from modeling_avicuna.answering_avicuna import answer_batch, answer_questions
from modeling_avicuna.prompt_avicuna import GROUNDING_PROMPT


PROGRAM = "python -m benchmarks.serving"


@dataclass
class ServingOptions:
    """Options of `python -m benchmarks.serving`."""

    address: str = field(metadata={"help": "Of the server, http://host:port."})
    model: Path = field(metadata={"help": "The checkpoint folder that it serves."})
    folder: Path = field(
        metadata={"help": "New folder for the videos, below the server's --allowed-local-media-path."}
    )
    served_name: str | None = field(
        default=None, metadata={"help": "Name of the model in requests. Default: --model."}
    )
    num_questions: int = field(default=30, metadata={"help": "About one video, and number of videos."})
    max_new_tokens: int = field(default=16, metadata={"help": "Longest answer, in tokens."})
    output: Path = field(default=RESULTS / "serving.json", metadata={"help": "File for the figures."})

    def __post_init__(self):
        check_range(self, 1, "num_questions", "max_new_tokens")


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_options(ServingOptions, arguments, program=PROGRAM, description=__doc__.splitlines()[0])
    conditions = describe_conditions(["torch", "transformers"], **asdict(options))
    make_world(options.folder, num_clips=0, num_test_videos=options.num_questions, seed=5)
    videos = sorted((options.folder / "test").glob("*.mp4"))
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(options.model)
    labels = [EVENT_CLASSES[number % len(EVENT_CLASSES)].label for number in range(options.num_questions)]
    questions = [GROUNDING_PROMPT.format(query=f"{label}, {number}") for number, label in enumerate(labels)]
    settings = {"max_new_tokens": options.max_new_tokens, "do_sample": False}

    def of_one_video() -> None:
        prepared = processor.prepare_media({"type": "video", "path": videos[0]})
        block = {"type": "video", "video": prepared}
        answer_questions(
            model, processor=processor, media=block, questions=questions, duration=prepared.duration, **settings
        )

    def of_videos() -> None:
        prepared = [processor.prepare_media({"type": "video", "path": video}) for video in videos]
        answer_batch(
            model,
            processor=processor,
            media=[{"type": "video", "video": medium} for medium in prepared],
            questions=questions,
            durations=[medium.duration for medium in prepared],
            **settings,
        )

    def served(files: list[Path]) -> Callable[[], None]:
        def ask_all() -> None:
            with ThreadPoolExecutor(len(questions)) as pool:
                list(pool.map(lambda pair: ask(options, *pair), zip(files, questions)))

        return ask_all

    ways = {
        "one_video": {"answer_questions": of_one_video, "vllm": served([videos[0]] * len(questions))},
        "different_videos": {"answer_batch": of_videos, "vllm": served(videos)},
    }
    results: dict[str, dict] = {}
    ask(options, videos[-1], "Is the server there?")
    for case, functions in ways.items():
        results[case] = {}
        for name, function in functions.items():
            began = time.perf_counter()
            function()
            seconds = time.perf_counter() - began
            results[case][name] = {
                "wall_seconds": round(seconds, 2),
                "questions_per_second": round(len(questions) / seconds, 2),
            }
    write_results(options.output, conditions=conditions, results=results)


def ask(options: ServingOptions, video: Path, question: str) -> str:
    """One question over HTTP."""
    content = [
        {"type": "video_url", "video_url": {"url": video.absolute().as_uri()}},
        {"type": "text", "text": question},
    ]
    request = {
        "model": options.served_name or str(options.model),
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_tokens": options.max_new_tokens,
    }
    call = urllib.request.Request(
        f"{options.address}/v1/chat/completions", json.dumps(request).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(call) as response:
        return json.load(response)["choices"][0]["message"]["content"]


if __name__ == "__main__":
    with one_line_errors(PROGRAM):
        main()
