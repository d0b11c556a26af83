"""Evaluate a model on one task: ask, store every answer, score.

    python -m eval.run --task sandbox --model DIR --annotations DIR/annotations.json --media-dir DIR/test --output DIR
    accelerate launch -m eval.run --task unav100_query --model DIR --annotations FILE --features DIR --output DIR

Started again with the same output it asks only what has no answer yet; with all answers there it only scores, so another
protocol costs no generation. Questions and metrics are the task's (`tasks/`), words to classes and scores the protocol's.
"""

import argparse
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import PartialState
from tqdm import tqdm

from dataset_builders.release.provenance import git_commit, model_hash, package_versions
from dataset_builders.sources.annotation_files import fingerprint
from modeling_avicuna.timestamp_avicuna import Event

from .generation import GenerationSettings, Generator, Unreadable
from .media import SOUNDS, MediaSource
from .prompts import prompts_hash
from .records import AnswerLog, write_json
from .task import Example, Protocol, Score, Task
from .tasks import TASKS
from .timeline import draw_timeline


PACKAGES = ("torch", "transformers", "evaluate", "datasets", "numpy", "sentence-transformers")
WAIT = timedelta(days=2)  # processes wait for the slowest; the default of minutes would kill them


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m eval.run", description=__doc__.splitlines()[0])
    parser.add_argument("--task", required=True, choices=sorted(TASKS))
    parser.add_argument("--model", required=True, help="checkpoint folder or Hub id")
    parser.add_argument("--annotations", required=True, nargs="+", type=Path, help="annotation file(s) of the task")
    parser.add_argument("--subset", help="part of the annotation file; default: the task's")
    parser.add_argument("--media-dir", type=Path, help="folder with the videos")
    parser.add_argument("--features", type=Path, help="folder of cached tower outputs, instead of --media-dir")
    parser.add_argument("--sound", choices=SOUNDS, default="original", help="what the model hears")
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--limit", type=int, help="only the first so many videos; the result's name says so")
    parser.add_argument("--label", choices=("exact", "embedding"), default=Protocol.label, help="text -> class")
    parser.add_argument("--score", choices=("time_tokens", "constant"), default=Protocol.score)
    parser.add_argument("--encoder", default=Protocol.encoder, help="sentence encoder of --label embedding")
    parser.add_argument("--batch-size", type=int, default=8, help="questions answered at a time")
    parser.add_argument("--num-workers", type=int, default=1, help="threads that decode the next videos")
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--num-beams", type=int, default=1)
    parser.add_argument("--rate", type=float, help="audio interleaving rate 0-1; default: the checkpoint's")
    parser.add_argument("--interleaving", help="rule of token order; default: the checkpoint's")
    parser.add_argument("--dtype", default="auto", help="of the weights: auto, float32, bfloat16")
    parser.add_argument("--timelines", type=int, default=1, help="videos to draw; localization tasks only")
    return parser.parse_args(arguments)


def start_processes() -> PartialState:
    """This process among those that were launched. Without an accelerator they must be told that the CPU will do:
    otherwise accelerate lets each of them believe that it is alone."""
    return PartialState(cpu=not torch.accelerator.is_available(), timeout=WAIT)


def answer_all(log: AnswerLog, examples: Sequence[Example], media: MediaSource, arguments: argparse.Namespace) -> None:
    """Asks what has no answer yet; each process takes every n-th video. `log` has all answers afterwards."""
    state = PartialState()
    todo = [example for example in examples if log.unanswered(example)]
    state.wait_for_everyone()  # every process has read the log before any of them writes
    if todo:
        generator = Generator(arguments.model, settings=generation_settings(arguments), device=state.device)
        places, _ = media.split(examples)
        mine = todo[state.process_index :: state.num_processes]
        jobs = (
            (example, log.unanswered(example)) for example in tqdm(mine, unit="video", disable=state.process_index > 0)
        )
        for answered in generator.answer(jobs, open_media=lambda example: media.open(example, places)):
            if isinstance(answered, Unreadable):
                log.write_unreadable(answered.video_id, answered.reason)
            else:
                log.write(answered)
    state.wait_for_everyone()


def generation_settings(arguments: argparse.Namespace) -> GenerationSettings:
    return GenerationSettings(
        max_new_tokens=arguments.max_new_tokens,
        num_beams=arguments.num_beams,
        batch_size=arguments.batch_size,
        num_workers=arguments.num_workers,
        audio_interleaving_rate=arguments.rate,
        interleaving=arguments.interleaving,
        dtype=arguments.dtype,
    )


def run_settings(arguments: argparse.Namespace, task: Task) -> dict:
    """All that the answers depend on; the protocol and the number of processes are not among it."""
    return {
        "task": task.name,
        "model": str(arguments.model),
        "model_hash": model_hash(arguments.model),
        "annotations_sha256": fingerprint(arguments.annotations),
        "subset": arguments.subset or task.default_subset,
        "prompts_sha256": prompts_hash(task.prompts),
        "media": "features" if arguments.features else "files",
        "sound": arguments.sound,
        "rate": arguments.rate,
        "interleaving": arguments.interleaving,
        "max_new_tokens": arguments.max_new_tokens,
        "num_beams": arguments.num_beams,
        "dtype": arguments.dtype,
    }


def result_of(score: Score, arguments: argparse.Namespace, settings: dict, *, counts: dict, seconds: float) -> dict:
    """The content of results.json. `name` holds all that makes two figures incomparable."""
    parts = [settings["task"], score.protocol]
    parts += [f"sound-{arguments.sound}"] if arguments.sound != "original" else []
    parts += [f"rate-{arguments.rate:g}"] if arguments.rate is not None else []
    parts += [f"interleaving-{arguments.interleaving}"] if arguments.interleaving is not None else []
    parts += [f"first-{arguments.limit}"] if arguments.limit else []
    return {
        "task": settings["task"],
        "name": "/".join(part for part in parts if part),
        "protocol": {
            "name": score.protocol,
            "label": arguments.label,
            "score": arguments.score,
            "encoder": arguments.encoder if arguments.label == "embedding" else None,
        },
        "dataset": {"name": settings["task"], "split": settings["subset"]},
        "model": settings["model"],
        "metrics": score.metrics,
        **counts,
        "counts": score.counts,
        "prompts_sha256": settings["prompts_sha256"],
        "judge": None,
        "settings": settings,
        "git_commit": git_commit(),
        "seconds": seconds,
        "versions": package_versions(PACKAGES),
    }


def draw_examples(examples: Sequence[Example], score: Score, arguments: argparse.Namespace) -> list[Path]:
    """A time line of each of the first videos, with the labels and scores that were scored."""
    paths = []
    for example in examples[: arguments.timelines]:
        if example.video_id in score.drawn:
            path = arguments.output / "timelines" / f"{example.video_id}.png"
            prediction: Sequence[Event] = score.drawn[example.video_id]
            truth, title = example.events, f"{example.video_id}  ({score.protocol})"
            duration = example.duration or max(event.end for event in (*truth, *prediction))
            draw_timeline(path, truth=truth, prediction=prediction, duration=duration, title=title)
            paths.append(path)
    return paths


def main(arguments: Sequence[str] | None = None) -> None:
    arguments, began = parse_arguments(arguments), time.time()
    task, state = TASKS[arguments.task], start_processes()
    settings = run_settings(arguments, task)
    examples = task.read(arguments.annotations, settings["subset"])[: arguments.limit]
    media = MediaSource(media_dir=arguments.media_dir, features_dir=arguments.features, sound=arguments.sound)
    places, missing = media.split(examples)
    present = [example for example in examples if example.video_id in places]
    if not present:
        where = arguments.media_dir or arguments.features
        raise ValueError(f"none of the {len(examples)} videos of {task.name} is in {where}; the first: {missing[:3]}")
    log = AnswerLog(arguments.output, rank=state.process_index)
    if state.is_main_process:
        log.check_settings(settings)
    answer_all(log, present, media, arguments)
    if not state.is_main_process:
        return
    log.join([question.id for example in examples for question in example.questions])
    answered = [example for example in present if example.video_id not in log.unreadable]
    if not answered:
        raise ValueError(
            f"none of {len(present)} videos can be read; the first: {dict([*log.unreadable.items()][:1])}"
        )
    protocol = Protocol(label=arguments.label, score=arguments.score, encoder=arguments.encoder)
    score = task.score(answered, log.answers, protocol)
    counts = {"num_examples": len(answered), "num_expected": len(examples), "missing": missing}
    counts["unreadable"] = log.unreadable
    result = result_of(score, arguments, settings, counts=counts, seconds=round(time.time() - began, 1))
    write_json(arguments.output / "results.json", result)
    pictures = draw_examples(answered, score, arguments)
    report(result, [arguments.output / "results.json", arguments.output / "predictions.jsonl", *pictures])


def report(result: dict, paths: Sequence[Path]) -> None:
    """Prints the figures, what they stand on, and where everything lies."""
    print(f"{result['name']}: {result['num_examples']} of {result['num_expected']} videos, {result['seconds']} s")
    for kind in ("missing", "unreadable"):
        if result[kind]:
            print(f"  media {kind} for {len(result[kind])} videos, not scored; listed in results.json")
    for name, value in result["metrics"].items():
        print(f"  {name:<20} {value:6.2f}")
    for path in paths:
        print(f"  {path}")


if __name__ == "__main__":
    main()
