"""Evaluates a model on one task: generates and stores the answers to all questions, then scores them.

    python -m eval.run --task sandbox --model DIR --annotations DIR/annotations.json --media-dir DIR/test --output DIR
    accelerate launch -m eval.run --task unav100_query --model DIR --annotations FILE --features-dir DIR --output DIR

A second run with the same output asks only the questions without an answer. If all answers exist it only scores them,
so another protocol needs no generation. Questions and metrics are in `tasks/`, protocols in `task.py`.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState
from tqdm import tqdm

from dataset_builders.atomic_files import write_json
from dataset_builders.command_line import one_line_errors, parse_options
from dataset_builders.input_settings import check_positive, check_range
from dataset_builders.pretrained import name_model
from dataset_builders.release.provenance import git_commit, model_hash, package_versions
from dataset_builders.sources.annotation_files import fingerprint
from modeling_avicuna.interleaving_avicuna import INTERLEAVING_RULES
from modeling_avicuna.timestamp_avicuna import Event

from .generation import GenerationSettings, Generator, Unreadable
from .media import SOUNDS, MediaSource
from .prompts import prompts_hash
from .records import AnswerLog
from .task import Example, Protocol, Score, ScoreKind, Task, read_examples
from .tasks import TASKS
from .timeline import draw_timeline


PROGRAM = "python -m eval.run"
PACKAGES = ("torch", "transformers", "evaluate", "datasets", "numpy", "sentence-transformers")
WAIT = timedelta(days=2)  # processes wait for the slowest one; the default is some minutes


@dataclass
class RunOptions:
    """Options of `python -m eval.run`."""

    task: str = field(metadata={"choices": sorted(TASKS), "help": "Benchmark."})
    model: str = field(metadata={"help": "Checkpoint folder or Hub id."})
    annotations: list[Path] = field(metadata={"help": "Annotation file or files of the task."})
    output: Path = field(metadata={"help": "Folder of the run; an interrupted run is resumed."})
    subset: str | None = field(default=None, metadata={"help": "Part of the annotation file. Default: the task's."})
    media_dir: Path | None = field(default=None, metadata={"help": "Folder with the videos."})
    features_dir: list[Path] = field(
        default_factory=list,
        metadata={"aliases": ["--features"], "help": "Folders of cached tower outputs, in place of --media-dir."},
    )
    sound: str = field(default="original", metadata={"choices": SOUNDS, "help": "Change of the sound."})
    limit: int | None = field(
        default=None, metadata={"help": "Only the first videos; the name of the result contains the number."}
    )
    label: Literal["exact", "embedding"] = field(default=Protocol.label, metadata={"help": "Class of a text."})
    score: ScoreKind = field(default=Protocol.score, metadata={"help": "Score of an event, for the ranking."})
    encoder: str = field(default=Protocol.encoder, metadata={"help": "Sentence encoder of --label embedding."})
    meteor_jar: Path | None = field(
        default=None, metadata={"help": "meteor-1.5.jar, for the official METEOR of dense captioning; needs Java."}
    )
    batch_size: int | None = field(
        default=None,
        metadata={"help": "Questions answered together; by default 8, and 128 if they are about one video."},
    )
    num_workers: int = field(default=1, metadata={"help": "Threads that decode the next videos."})
    max_new_tokens: int = field(default=256, metadata={"help": "Longest answer, in tokens."})
    num_beams: int = field(default=1, metadata={"help": "1 is greedy decoding."})
    audio_interleaving_rate: float | None = field(
        default=None, metadata={"help": "Share of audio tokens, 0 to 1. Default: the checkpoint's."}
    )
    interleaving: str | None = field(
        default=None,
        metadata={"choices": INTERLEAVING_RULES, "help": "Rule of the token order. Default: the checkpoint's."},
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = field(
        default="auto", metadata={"help": "Data type of the weights; auto: as saved."}
    )
    window: float | None = field(
        default=None,
        metadata={"help": "Seconds of the overlapping windows in which long videos are looked at. Default: whole."},
    )
    well_formed_times: bool = field(
        default=True, metadata={"help": "Constrain time spans to be complete and not to end before they start."}
    )
    timelines: int = field(default=1, metadata={"help": "Number of videos to draw; localization tasks only."})

    def __post_init__(self):
        check_range(self, 1, "limit", "batch_size", "num_workers", "max_new_tokens", "num_beams")
        check_range(self, 0, "timelines")
        check_range(self, 0, "audio_interleaving_rate", high=1)
        check_positive(self, "window")
        if self.window is not None and self.features_dir:
            raise ValueError(f"--window {self.window} needs --media-dir")

    @property
    def generation(self) -> GenerationSettings:
        return GenerationSettings(
            max_new_tokens=self.max_new_tokens,
            num_beams=self.num_beams,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            audio_interleaving_rate=self.audio_interleaving_rate,
            interleaving=self.interleaving,
            dtype=self.dtype,
            window=self.window,
            well_formed_times=self.well_formed_times,
        )

    @property
    def protocol(self) -> Protocol:
        return Protocol(label=self.label, score=self.score, encoder=self.encoder, meteor_jar=self.meteor_jar)

    @property
    def conditions(self) -> list[str]:
        """Parts of the result's name: all settings that differ from the default and affect comparability."""
        named = {
            "subset": self.subset if self.subset != TASKS[self.task].default_subset else None,
            "encoder": Path(self.encoder).name
            if self.label == "embedding" and self.encoder != Protocol.encoder
            else None,
            "sound": self.sound if self.sound != "original" else None,
            "rate": self.audio_interleaving_rate,
            "interleaving": self.interleaving,
            "beams": self.num_beams if self.num_beams != GenerationSettings.num_beams else None,
            "window": self.window,
            "well-formed-times": None if self.well_formed_times else "false",
            "first": self.limit,
        }
        return [f"{name}-{value}" for name, value in named.items() if value is not None]


def main(arguments: Sequence[str] | None = None) -> None:
    began = time.time()
    options = parse_options(RunOptions, arguments, program=PROGRAM, description=__doc__.splitlines()[0])
    task, state = TASKS[options.task], start_processes()
    every_example = read_examples(task, options.annotations, options.subset)
    media = MediaSource(
        every_example, media_dir=options.media_dir, features_dir=options.features_dir, sound=options.sound
    )
    examples = every_example[: options.limit]
    present = examples_with_media(examples, media)

    settings = run_settings(options, task, media)
    with name_model(options.model):
        pass  # a folder that is not a model is an error before anything is written
    log = AnswerLog(options.output, rank=state.process_index)
    if state.is_main_process:
        log.begin(settings)
    answer_all(log, present, media, options)
    if not state.is_main_process:
        return
    log.join([question.id for example in every_example for question in example.questions])

    answered = [example for example in present if example.video_id not in log.unreadable]
    if not answered:
        raise ValueError(
            f"none of {len(present)} videos can be read; the first: {dict([*log.unreadable.items()][:1])}"
        )
    score = task.score(answered, log.answers, options.protocol)
    counts = {
        "num_examples": len(answered),
        "num_expected": len(every_example),
        "missing": [example.video_id for example in examples if example.video_id not in media.locations],
        "unreadable": log.unreadable,
        "sound_shifts": media.shifts,
    }
    result = result_of(score, options, settings, counts=counts, seconds=round(time.time() - began, 1))
    write_json(options.output / "results.json", result)
    pictures = draw_examples(answered, score, options)
    report(result, [options.output / "results.json", options.output / "predictions.jsonl", *pictures])


def start_processes() -> PartialState:
    """The state of this process. Without an accelerator, several processes are recognised only with `cpu=True`."""
    return PartialState(cpu=not torch.accelerator.is_available(), timeout=WAIT)


def examples_with_media(examples: Sequence[Example], media: MediaSource) -> list[Example]:
    """The examples with media. ValueError, naming the folder, if there is none."""
    present = [example for example in examples if example.video_id in media.locations]
    if not present:
        raise ValueError(
            f"none of the {len(examples)} videos is in {', '.join(map(str, media.folders))}; "
            f"the first: {[example.video_id for example in examples[:3]]}"
        )
    return present


def run_settings(options: RunOptions, task: Task, media: MediaSource) -> dict[str, Any]:
    """The settings that the answers depend on, without the protocol and the number of processes."""
    return {
        "task": task.name,
        "model": str(options.model),
        "model_hash": model_hash(options.model),
        "annotations_sha256": fingerprint(options.annotations),
        "subset": options.subset or task.default_subset,
        "prompts_sha256": prompts_hash(task.prompts),
        **media.settings,
        "audio_interleaving_rate": options.audio_interleaving_rate,
        "interleaving": options.interleaving,
        "max_new_tokens": options.max_new_tokens,
        "num_beams": options.num_beams,
        "dtype": options.dtype,
        "window": options.window,
        "well_formed_times": options.well_formed_times,
    }


def answer_all(log: AnswerLog, examples: Sequence[Example], media: MediaSource, options: RunOptions) -> None:
    """Generates the missing answers; each process handles every n-th video."""
    state = PartialState()
    todo = [example for example in examples if log.unanswered(example)]
    state.wait_for_everyone()  # every process has read the log before one of them writes
    if todo:
        generator = Generator(options.model, settings=options.generation, device=state.device)
        media.check(generator.model, generator.processor)
        mine = todo[state.process_index :: state.num_processes]
        jobs = (
            (example, log.unanswered(example)) for example in tqdm(mine, unit="video", disable=state.process_index > 0)
        )
        for answered in generator.answer(jobs, open_media=media.open):
            if isinstance(answered, Unreadable):
                log.write_unreadable(answered.video_id, answered.reason)
            else:
                log.write(answered)
    state.wait_for_everyone()


def result_of(
    score: Score, options: RunOptions, settings: dict[str, Any], *, counts: dict[str, Any], seconds: float
) -> dict[str, Any]:
    """The content of results.json."""
    return {
        "task": options.task,
        "name": "/".join(part for part in (options.task, score.protocol, *options.conditions) if part),
        "conditions": options.conditions,
        "limit": options.limit,
        "protocol": {
            "name": score.protocol,
            "label": options.label,
            "score": options.score,
            "encoder": options.encoder if options.label == "embedding" else None,
        },
        "dataset": {"name": options.task, "split": settings["subset"]},
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


def draw_examples(examples: Sequence[Example], score: Score, options: RunOptions) -> list[Path]:
    """Draws time lines of the first videos; returns the files."""
    paths = []
    for example in examples[: options.timelines]:
        if example.video_id in score.drawn:
            path = options.output / "timelines" / f"{example.video_id.replace('/', '_')}.png"
            prediction: Sequence[Event] = score.drawn[example.video_id]
            truth, title = example.events, f"{example.video_id}  ({score.protocol})"
            duration = example.duration or max((event.end for event in (*truth, *prediction)), default=1.0)
            draw_timeline(path, truth=truth, prediction=prediction, duration=duration, title=title)
            paths.append(path)
    return paths


def report(result: dict[str, Any], paths: Sequence[Path]) -> None:
    """Prints the metrics, the number of videos, and the files."""
    print(f"{result['name']}: {result['num_examples']} of {result['num_expected']} videos, {result['seconds']} s")
    for kind in ("missing", "unreadable"):
        if result[kind]:
            print(f"  media {kind} for {len(result[kind])} videos, not scored; listed in results.json")
    for name, value in result["metrics"].items():
        print(f"  {name:<20} {value:6.2f}")
    for path in paths:
        print(f"  {path}")


if __name__ == "__main__":
    with one_line_errors(PROGRAM):
        main()
