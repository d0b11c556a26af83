"""Questions per second of vLLM over HTTP against `answer_questions` in one process, side by side.

    python -m benchmarks.serving
    python -m benchmarks.serving --model DIR --address http://127.0.0.1:8000 --media-dir DIR

The first form builds a random tiny Llama checkpoint and serves it on the processor (`make serve-env`). The second one
asks a server that runs already, such as one on a GPU; `--media-dir` is then a new folder below the folder of its
`--allowed-local-media-path`. Both are asked in turn: all questions about one video at once, and one question about
each of several videos at once. The videos are made by the sandbox. Generation is greedy, in float32 on a processor.
"""

import os
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoProcessor

import modeling_avicuna  # noqa: F401  (registers the auto classes)
from benchmarks.conditions import RESULTS, describe_conditions, write_results
from dataset_builders.command_line import one_line_errors, parse_options
from dataset_builders.input_settings import check_range
from dataset_builders.release.provenance import model_hash
from dataset_builders.sandbox import make_world
from dataset_builders.sandbox.classes import EVENT_CLASSES
from examples.ask_server import complete, find_model
from modeling_avicuna.answering_avicuna import answer_batch, answer_questions
from modeling_avicuna.prompt_avicuna import GROUNDING_PROMPT
from tests.tiny_models import draw_large_weights
from train.initialize import build_tiny


PROGRAM = "python -m benchmarks.serving"
SERVER_PYTHON = Path(__file__).parents[1] / ".venv-serve" / "bin" / "python"
# vLLM on a processor refuses heads of 16, and the default blocks of 128 tokens hold no whole video
TINY_LLAMA = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 1024}
SERVER_OPTIONS = "--host 127.0.0.1 --dtype float32 --block-size 32 --max-model-len 768 --enforce-eager".split()


@dataclass
class ServingOptions:
    """Options of `python -m benchmarks.serving`."""

    model: Path | None = field(default=None, metadata={"help": "A checkpoint folder. Default: a random tiny Llama."})
    address: str | None = field(
        default=None, metadata={"help": "Of a vLLM server of --model. Default: started by the benchmark."}
    )
    media_dir: Path | None = field(
        default=None, metadata={"help": "New folder for the videos, which the server of --address may read."}
    )
    num_questions: int = field(default=30, metadata={"help": "About one video, and number of videos."})
    max_new_tokens: int = field(default=16, metadata={"help": "Longest answer, in tokens."})
    output: Path = field(default=RESULTS / "serving.json", metadata={"help": "File for the figures."})

    def __post_init__(self):
        check_range(self, 1, "num_questions", "max_new_tokens")
        if self.address is not None and (self.model is None or self.media_dir is None):
            raise ValueError("--address needs the --model that it serves and a --media-dir that it may read")


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_options(ServingOptions, arguments, program=PROGRAM, description=__doc__.splitlines()[0])
    labels = [EVENT_CLASSES[number % len(EVENT_CLASSES)].label for number in range(options.num_questions)]
    questions = [GROUNDING_PROMPT.format(query=f"{label}, {number}") for number, label in enumerate(labels)]
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder, media = options.model or scratch / "model", options.media_dir or scratch / "media"
        if options.model is None:
            write_tiny_llama(folder, texts=questions)
        conditions = describe_conditions(
            ["torch", "transformers"], **{**asdict(options), "model_hash": model_hash(folder)}
        )
        # one for the first request, one for all questions, and one for each
        make_world(media, num_clips=0, num_test_videos=options.num_questions + 2, seed=5)
        first, one, *several = sorted((media / "test").glob("*.mp4"))
        address = options.address
        if address is None:
            address = stack.enter_context(serve(folder, media=media, log=scratch / "log.txt"))
        served = Served(address, find_model(address), options.max_new_tokens)
        here = Here(folder, options.max_new_tokens)
        served.answer([first], questions[:1])
        here.answer_each([first], questions[:1])
        results = {
            "one_video": {
                "answer_questions": measure(lambda: here.answer_all(one, questions)),
                "vllm": measure(lambda: served.answer([one] * len(questions), questions)),
                "vllm_again": measure(lambda: served.answer([one] * len(questions), questions)),
            },
            "different_videos": {
                "answer_batch": measure(lambda: here.answer_each(several, questions)),
                "vllm": measure(lambda: served.answer(several, questions)),
            },
        }
    for case in results.values():
        # vLLM leaves out an incomplete character at the end of an answer
        texts = [[text.rstrip("\ufffd") for text in way.pop("answers")] for way in case.values()]
        case["num_equal_answers"] = sum(len(set(answers)) == 1 for answers in zip(*texts, strict=True))
        case["num_questions"] = len(questions)
    write_results(options.output, conditions=conditions, results=results)


def measure(ask: Callable[[], list[str]]) -> dict[str, Any]:
    began = time.perf_counter()
    answers = ask()
    seconds = time.perf_counter() - began
    return {
        "wall_seconds": round(seconds, 2),
        "questions_per_second": round(len(answers) / seconds, 2),
        "answers": answers,
    }


class Here:
    """The model in this process."""

    def __init__(self, folder: Path, max_new_tokens: int):
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.processor = AutoProcessor.from_pretrained(folder)
        self.settings = {"max_new_tokens": max_new_tokens, "do_sample": False}

    def answer_all(self, video: Path, questions: list[str]) -> list[str]:
        medium = self.processor.prepare_media({"type": "video", "path": video})
        answers = answer_questions(
            self.model,
            processor=self.processor,
            media={"type": "video", "video": medium},
            questions=questions,
            duration=medium.duration,
            **self.settings,
        )
        return [answer.text for answer in answers]

    def answer_each(self, videos: list[Path], questions: list[str]) -> list[str]:
        media = [self.processor.prepare_media({"type": "video", "path": video}) for video in videos]
        answers = answer_batch(
            self.model,
            processor=self.processor,
            media=[{"type": "video", "video": medium} for medium in media],
            questions=questions,
            durations=[medium.duration for medium in media],
            **self.settings,
        )
        return [answer.text for answer in answers]


@dataclass
class Served:
    """The model of a server."""

    address: str
    model: str
    max_new_tokens: int

    def answer(self, videos: list[Path], questions: list[str]) -> list[str]:
        """One question about each video, all at once."""
        with ThreadPoolExecutor(len(questions)) as pool:
            return list(pool.map(self._answer_one, videos, questions))

    def _answer_one(self, video: Path, question: str) -> str:
        content = [
            {"type": "video_url", "video_url": {"url": video.absolute().as_uri()}},
            {"type": "text", "text": question},
        ]
        request = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "max_tokens": self.max_new_tokens,
        }
        return complete(self.address, request)


def write_tiny_llama(folder: Path, *, texts: list[str]) -> None:
    """A random checkpoint whose greedy answers have no near ties."""
    torch.manual_seed(0)
    model, processor = build_tiny([*texts, "From 03 to 17, a dog barks. From 40 to 99, rain falls."], text=TINY_LLAMA)
    draw_large_weights(model)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


@contextmanager
def serve(folder: Path, *, media: Path, log: Path, name: str = "avicuna", **environment: str) -> Iterator[str]:
    """vLLM on the processor for a checkpoint, in the environment of `make serve-env`; yields its address.

    Args:
        media: the folder that requests may name.
        log: what the server prints.
        environment: more variables.

    Raises:
        ValueError: the environment does not exist.
        RuntimeError: the server ended, also while it was used; with the end of its log.
    """
    if not SERVER_PYTHON.exists():
        raise ValueError(f"no {SERVER_PYTHON}: run `make serve-env`")
    port = free_port()
    given = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "HF_MODULES_CACHE")}
    given |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    given |= {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}
    command = [SERVER_PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", folder]
    command += ["--served-model-name", name, "--port", port, "--allowed-local-media-path", media, *SERVER_OPTIONS]
    with log.open("w") as output:
        process = subprocess.Popen(
            [str(word) for word in command], env=given | environment, stdout=output, stderr=subprocess.STDOUT
        )
    with running(process, f"http://127.0.0.1:{port}", log=log) as address:
        yield address


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def running(process: subprocess.Popen, address: str, *, log: Path, seconds: float = 900.0) -> Iterator[str]:
    """Waits until a server answers; terminates it afterwards."""
    try:
        deadline = time.monotonic() + seconds
        while True:
            try:
                urllib.request.urlopen(f"{address}/health", timeout=2).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the server does not answer: {log.read_text()[-4000:]}") from None
                time.sleep(0.5)
        yield address
        if process.poll() is not None:
            raise RuntimeError(f"the server ended: {log.read_text()[-4000:]}")
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


if __name__ == "__main__":
    with one_line_errors(PROGRAM):
        main()
