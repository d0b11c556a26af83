"""Measures ours against the published code: the same weights, inputs and answers, one thread, CPU seconds.

    python -m benchmarks.side_by_side --published DIR --published-python PYTHON --unav DIR --tokenizer DIR

`--published` is a clone of yunlong10/AVicuna at commit 3a19f51; `--published-python` is an interpreter with its
versions (transformers 4.31, peft 0.4, tokenizers 0.13.3, accelerate 0.21, numpy 1.26, sentencepiece) and with the same
torch as ours. `--unav` is a clone of ttgeng233/UnAV, whose evaluator is the official one. None of it is copied. A part
without its clone is skipped, and says so.

Each side is a process (`side_ours.py`, `side_published.py`). They take turns, so that other work on the machine
affects both; the medians are compared.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.authors_metrics import official_unav
from benchmarks.conditions import RESULTS, describe_conditions, write_results
from benchmarks.event_localization import make_sets
from benchmarks.multi_query import list_queries
from benchmarks.side_worker import REPLY
from benchmarks.train_throughput import NUM_AUDIO, NUM_VIDEO, draw_lengths
from dataset_builders.command_line import one_line_errors, parse_options
from dataset_builders.input_settings import check_range
from eval.metrics import load_metric
from modeling_avicuna.convert_avicuna_to_hf import convert_checkpoint
from modeling_avicuna.prompt_avicuna import GROUNDING_PROMPT


PROGRAM = "python -m benchmarks.side_by_side"
LONG_SECONDS = 20.0
PROJECT = Path(__file__).resolve().parents[1]
VIDEO_SIZE, AUDIO_SIZE = 768, 512  # published
SIZES = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
    "58m": {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8, "num_attention_heads": 8},
}


@dataclass
class Options:
    """Options of the command."""

    published: Path | None = field(default=None, metadata={"help": "Clone of yunlong10/AVicuna."})
    published_python: Path = field(
        default=Path("python"), metadata={"help": "Interpreter with the versions that it needs."}
    )
    earlier: Path | None = field(default=None, metadata={"help": "Another checkout of this repository, as a side."})
    unav: Path | None = field(default=None, metadata={"help": "Clone of ttgeng233/UnAV."})
    tokenizer: Path | None = field(
        default=None, metadata={"help": "Folder with LLaMA's tokenizer.model, for both sizes; none: only the mAP."}
    )
    sizes: list[str] = field(default_factory=lambda: list(SIZES), metadata={"help": f"Of {list(SIZES)}."})
    num_queries: int = field(default=100, metadata={"help": "Queries about one video."})
    max_new_tokens: int = field(default=16, metadata={"help": "Tokens of an answer to a query."})
    num_predictions: int = field(default=10_000, metadata={"help": "Predictions for the mAP."})
    rounds: int = field(default=5, metadata={"help": "Measurements of each side; the median counts."})
    output: Path = field(default=RESULTS / "side_by_side.json", metadata={"help": "File for the figures."})

    def __post_init__(self):
        check_range(self, 1, "num_queries", "max_new_tokens", "num_predictions", "rounds")
        needed = {"published": "avicuna/inference.py", "unav": "libs/utils/metrics.py", "tokenizer": "tokenizer.model"}
        for name, file in needed.items():
            folder = getattr(self, name)
            if folder is not None and not (folder / file).is_file():
                raise ValueError(f"--{name} {folder} has no {file}")
        if unknown := [size for size in self.sizes if size not in SIZES]:
            raise ValueError(f"--sizes must be of {list(SIZES)}, got {unknown[0]!r}")


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_options(Options, arguments, program=PROGRAM, description=__doc__.splitlines()[0])
    conditions = describe_conditions(["torch", "transformers", "peft", "trl"], **asdict(options), threads=1)
    parts: dict[str, Callable[[], dict[str, Any]]] = {}
    if options.unav is None:
        print("the mAP of UnAV-100 is skipped: it needs --unav")
    else:
        parts["UnAV-100 mAP"] = lambda: compare_evaluators(options)
    if options.tokenizer is None or (options.published is None and options.earlier is None):
        print("answers and training are skipped: they need --tokenizer, and --published or --earlier")
    else:
        parts |= {size: partial(compare_models, size, options) for size in options.sizes}
    results = {}
    for name, measure in parts.items():
        results[name] = measure()
        write_results(options.output, conditions=conditions, results=results)  # after each part: they take long


def compare_models(size: str, options: Options) -> dict[str, Any]:
    """The figures of every measurement that asks a model or trains it."""
    questions = [GROUNDING_PROMPT.format(query=query) for query in list_queries(options.num_queries)]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        num_parameters = write_checkpoints(Path(folder), size=size, tokenizer=options.tokenizer)
        write_inputs(Path(folder) / "inputs.pt")
        sides = {name: stack.enter_context(start(*command)) for name, command in list_sides(options).items()}
        for side in sides.values():
            side("load", folder=folder)
        asked = {"max_new_tokens": options.max_new_tokens}
        figures: dict[str, Any] = {
            "num_parameters": num_parameters,
            f"{len(questions)} queries": compare(sides, "ask", options.rounds, questions=questions, **asked),
            "one query": compare(sides, "ask", options.rounds, questions=questions[:1], **asked),
            "64 tokens": compare(sides, "generate", options.rounds, question=questions[0], num_tokens=64),
        }
        for side in sides.values():
            side("prepare_training")
        figures["training step, padded"] = compare(sides, "train", options.rounds, form="padded")
        flattened = {name: side for name, side in sides.items() if name != "published"}
        figures["training step, flattened"] = compare(
            flattened, "train", options.rounds, form="flattened", against=figures["training step, padded"]
        )
        return figures


def list_sides(options: Options) -> dict[str, tuple[Path, list[str]]]:
    """Name -> checkout and command of each side."""
    sides = {"ours": (PROJECT, [sys.executable, "-m", "benchmarks.side_ours"])}
    if options.earlier is not None:
        sides["earlier"] = (options.earlier.resolve(), [sys.executable, "-m", "benchmarks.side_ours"])
    if options.published is not None:
        published = [
            str(options.published_python),
            "-m",
            "benchmarks.side_published",
            str(options.published.resolve()),
        ]
        sides["published"] = (PROJECT, published)
    return sides


class Side:
    """A process of `side_worker.serve`. Calling it runs one of its functions."""

    def __init__(self, process: subprocess.Popen):
        self.process = process

    def __call__(self, function: str, **arguments: Any) -> tuple[float, Any]:
        """CPU seconds and result of a function.

        Raises:
            RuntimeError: the process ended; its error is on standard error.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps({"function": function, "arguments": arguments}), file=self.process.stdin, flush=True)
        for line in self.process.stdout:  # libraries print while they are imported
            if line.startswith(REPLY):
                reply = json.loads(line.removeprefix(REPLY))
                return reply["cpu_seconds"], reply["result"]
        raise RuntimeError(f"{self.process.args} ended in {function}")


@contextlib.contextmanager
def start(checkout: Path, command: list[str]) -> Iterator[Side]:
    variables = {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    process = subprocess.Popen(
        command,
        cwd=checkout,
        env={**os.environ, **variables},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Side(process)
    finally:
        process.terminate()
        process.wait()


def compare(
    sides: dict[str, Side], function: str, rounds: int, *, against: dict | None = None, **arguments: Any
) -> dict[str, Any]:
    """Median CPU seconds of each side, and how many times as fast ours is.

    Args:
        against: figures of the published code in another form of the same work.

    Raises:
        ValueError: the sides give different results.
    """
    first = {name: side(function, **arguments) for name, side in sides.items()}
    expected = first["ours"][1]
    for name, (_, result) in first.items():
        if not agree(result, expected):
            raise ValueError(f"{function}: ours and {name} differ: {expected!r:.200} and {result!r:.200}")
    # a first call is slower by less than a second: a long one counts
    seconds = {name: [taken] if taken > LONG_SECONDS else [] for name, (taken, _) in first.items()}
    for _ in range(rounds):
        for name, side in sides.items():
            seconds[name].append(side(function, **arguments)[0])
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    figures: dict[str, Any] = {"cpu_seconds": {name: round(median, 4) for name, median in medians.items()}}
    if against is not None and "published" in against["cpu_seconds"]:
        medians["published"] = against["cpu_seconds"]["published"]
    for name in set(medians) - {"ours"}:
        figures[f"times_as_fast_as_{name}"] = round(medians[name] / medians["ours"], 3)
    return {**figures, "all_cpu_seconds": {name: [round(s, 4) for s in times] for name, times in seconds.items()}}


def agree(result: Any, expected: Any) -> bool:
    """Losses within 1e-4 of each other, equal ids, and texts that are equal but for white space and invalid bytes,
    which the two tokenizers decode differently."""
    if isinstance(expected, float):
        return abs(result - expected) <= 1e-4 * abs(expected)
    if expected and isinstance(expected[0], str):
        result, expected = (
            ["".join(text.replace("\ufffd", "").split()) for text in texts] for texts in (result, expected)
        )
    return result == expected


def write_checkpoints(folder: Path, *, size: str, tokenizer: Path) -> int:
    """A random model in the published form and its conversion; returns the number of parameters of the Llama."""
    torch.manual_seed(0)
    published = folder / "published"
    settings = {**SIZES[size], "vocab_size": 32_000, "max_position_embeddings": 2048, "pad_token_id": 0}
    model = LlamaForCausalLM(LlamaConfig(**settings, bos_token_id=1, eos_token_id=2))
    base = published / "base"
    base.mkdir(parents=True)
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        (base / name).write_bytes((tokenizer / name).read_bytes())
    # as transformers 4.31 writes it
    form = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "float32"}
    form |= {"bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "rms_norm_eps": 1e-6, "use_cache": True}
    (base / "config.json").write_text(json.dumps({**form, **settings, "pretraining_tp": 1}))
    torch.save(model.state_dict(), base / "pytorch_model.bin")
    for name, width in (("mm_projector", VIDEO_SIZE), ("mm_projector_a", AUDIO_SIZE)):
        layer = torch.nn.Linear(width, settings["hidden_size"])
        torch.save(
            {f"model.{name}.{key}": value for key, value in layer.state_dict().items()}, published / f"{name}.bin"
        )
    convert_checkpoint(
        base,
        vision_adapter=published / "mm_projector.bin",
        audio_adapter=published / "mm_projector_a.bin",
        output=folder / "ours",
    )
    return model.num_parameters()


def write_inputs(path: Path, *, batch_size: int = 8) -> None:
    """Features of one video, and a batch with the token counts of PU-VALOR rows, a third of each text supervised."""
    generator = torch.Generator().manual_seed(0)
    lengths = [length - NUM_VIDEO - NUM_AUDIO for length in draw_lengths(batch_size)]
    text_ids = [torch.randint(5, 32_000, (length,), generator=generator) for length in lengths]
    labels = [ids.masked_fill(torch.arange(len(ids)) < 2 * len(ids) // 3, -100) for ids in text_ids]
    torch.save(
        {
            "num_video": NUM_VIDEO,
            "num_audio": NUM_AUDIO,
            "video_features": torch.randn(NUM_VIDEO, VIDEO_SIZE, generator=generator),
            "audio_features": torch.randn(NUM_AUDIO, AUDIO_SIZE, generator=generator),
            "text_ids": text_ids,
            "text_labels": labels,
            "batch_video": torch.randn(batch_size, NUM_VIDEO, VIDEO_SIZE, generator=generator),
            "batch_audio": torch.randn(batch_size, NUM_AUDIO, AUDIO_SIZE, generator=generator),
        },
        path,
    )


def compare_evaluators(options: Options) -> dict[str, Any]:
    """mAP of made-up predictions by the official program, in one process, and by ours.

    Raises:
        ValueError: the values differ by more than 1e-9.
    """
    predictions, references = make_sets(options.num_predictions)
    ids = {label: int(label.split()[1]) for events in references for label in (event["label"] for event in events)}
    database = {
        str(video): {
            "subset": "test",
            "annotations": [
                {"segment": [e["start"], e["end"]], "label": e["label"], "label_id": ids[e["label"]]} for e in events
            ],
        }
        for video, events in enumerate(references)
    }
    rows = [
        (str(video), e["start"], e["end"], ids[e["label"]], e["score"])
        for video, events in enumerate(predictions)
        for e in events
    ]
    names = ("video-id", "t-start", "t-end", "label", "score")
    given: dict[str, Any] = {name: np.array(column) for name, column in zip(names, zip(*rows))}
    given["video-id"] = [row[0] for row in rows]
    ours = load_metric("event_localization")
    seconds: dict[str, list[float]] = {"ours": [], "published": []}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "annotations.json").write_text(json.dumps({"database": database}))
        detection = official_unav(options.unav, Path(folder) / "annotations.json")
        for _ in range(options.rounds):
            began = time.process_time()
            _, average = detection.evaluate(dict(given), verbose=False)
            seconds["published"].append(time.process_time() - began)
            began = time.process_time()
            values = ours.compute(predictions=predictions, references=references)
            seconds["ours"].append(time.process_time() - began)
    if abs(100 * average - values["average_mAP"]) > 1e-9:
        raise ValueError(f"the official program gives {100 * average}, ours gives {values['average_mAP']}")
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return {
        "num_predictions": options.num_predictions,
        "average_mAP": round(values["average_mAP"], 6),
        "cpu_seconds": {name: round(median, 4) for name, median in medians.items()},
        "times_as_fast_as_published": round(medians["published"] / medians["ours"], 1),
        "all_cpu_seconds": {name: [round(s, 4) for s in times] for name, times in seconds.items()},
    }


if __name__ == "__main__":
    with one_line_errors(PROGRAM):
        main()
