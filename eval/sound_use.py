"""Is the sound used? The same questions with the sound as it is, removed, swapped, shifted, and moved by some seconds.

    python -m eval.sound_use --output DIR -- --task sandbox_query --model DIR --annotations FILE --media-dir DIR

Everything after `--` goes to `eval.run`, once per kind of sound (`media.SOUNDS`), each run in its own folder below the
output (resumable). A model that uses the sound loses accuracy with each change; one that does not gives the same
answers. For `sandbox_query`, where the modality of each class is known, the answers under the moved sound also give
the share of audio-only events whose predicted spans move with the sound.
"""

import math
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState

from dataset_builders.atomic_files import write_json
from dataset_builders.command_line import one_line_errors, parse_options
from dataset_builders.sandbox.classes import AUDIO_ONLY, VISUAL_ONLY

from . import run
from .events_scoring import bootstrap
from .figures import draw_bars
from .media import SOUNDS
from .metrics.temporal_grounding.spans import union_iou
from .records import read_answers, read_result
from .task import Answer, Example, Question, read_examples


PROGRAM = "python -m eval.sound_use"
HEARD_ALONE, SEEN_ALONE = ({event.label for event in events} for events in (AUDIO_ONLY, VISUAL_ONLY))
NUM_RESAMPLES = 1000  # of the bootstrap over videos


@dataclass
class SoundUseOptions:
    """Options of `python -m eval.sound_use`, before `--`."""

    output: Path = field(metadata={"help": "Folder with one run per kind of sound, and the comparison."})
    sounds: list[str] = field(
        default_factory=lambda: list(SOUNDS), metadata={"help": f"Kinds of sound beside the original: {SOUNDS[1:]}."}
    )

    def __post_init__(self):
        if unknown := [sound for sound in self.sounds if sound not in SOUNDS]:
            raise ValueError(f"unknown sounds {unknown}: {SOUNDS}")
        self.sounds = ["original", *(sound for sound in self.sounds if sound != "original")]


def main(arguments: Sequence[str] | None = None) -> None:
    own, passed = split_arguments(sys.argv[1:] if arguments is None else arguments)
    options = parse_options(SoundUseOptions, own, program=PROGRAM, description=__doc__.splitlines()[0])
    output, sounds = options.output, options.sounds
    if not passed:
        raise ValueError("give the options of eval.run after `--`, as in: --output DIR -- --task sandbox --model ...")
    if taken := [word for word in passed if word.split("=")[0] in ("--output", "--sound")]:
        raise ValueError(f"{taken[0]} of the evaluation is set here: leave it out after `--`")
    evaluation = parse_options(run.RunOptions, [*passed, "--output", str(output)], program=PROGRAM)
    for sound in sounds:
        run.main([*passed, "--sound", sound, "--output", str(output / sound)])
    if not PartialState().is_main_process:
        return
    results = {sound: read_result(output / sound / "results.json") for sound in sounds}
    changed = {s: changed_share(*(output / name / "predictions.jsonl" for name in ("original", s))) for s in sounds}
    rows = [{"sound": s, "metrics": results[s]["metrics"], "answers_changed": changed[s]} for s in sounds]
    original = results["original"]
    facts = {key: original[key] for key in ("model", "num_examples", "num_expected", "git_commit")}
    moved: dict[str, Any] | None = None
    if evaluation.task == "sandbox_query" and "moved" in sounds:
        examples = read_examples(run.TASKS[evaluation.task], evaluation.annotations, evaluation.subset)
        answers = {sound: read_answers(output / sound / "predictions.jsonl") for sound in ("original", "moved")}
        moved = score_moved(examples, **answers, shifts=results["moved"]["sound_shifts"])
    result = {"name": f"{original['name']}/sound-use", **facts, "rows": rows, "moved_sound": moved}
    write_json(output / "sound_use.json", result)
    main_metrics = [name for name in original["metrics"] if "/" not in name]
    draw_bars(
        output / "sound_use.png",
        groups=main_metrics,
        series={s: [results[s]["metrics"][name] for name in main_metrics] for s in sounds},
        unit="metric",
        title=f"Is the sound used? {original['name']}",
        highlight="original",
    )
    for row in rows:
        first = "average_mAP" if "average_mAP" in main_metrics else main_metrics[0]
        figures = f"{first} {row['metrics'][first]:6.2f}, {row['answers_changed']:5.1f} % of the answers changed"
        print(f"{row['sound']:<10} {figures}")
    if moved is not None:
        for name, value in moved["values"].items():
            print("{:<24} {:6.2f}  [{:.2f}, {:.2f}]".format(name, value, *moved["intervals"][name]))
    print(f"  {output / 'sound_use.json'}\n  {output / 'sound_use.png'}")


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words before `--` and the words after it.

    >>> split_arguments(["--output", "o", "--", "--task", "sandbox"])
    (['--output', 'o'], ['--task', 'sandbox'])
    """
    words = list(arguments)
    at = words.index("--") if "--" in words else len(words)
    return words[:at], words[at + 1 :]


def changed_share(before: Path, after: Path) -> float:
    """Percentage of questions whose answer text differs, among the questions that both runs answered."""
    texts = [{answer.question_id: answer.text for answer in read_answers(path)} for path in (before, after)]
    both = texts[0].keys() & texts[1].keys()
    if not both:
        raise ValueError(f"{before} and {after} have no question in common")
    return 100.0 * sum(texts[0][key] != texts[1][key] for key in both) / len(both)


def score_moved(
    examples: Sequence[Example], *, original: Sequence[Answer], moved: Sequence[Answer], shifts: Mapping[str, float]
) -> dict[str, Any]:
    """What the answers do when the sound moves, in percent of the events that occur, with 95 % intervals.

    An event is a class of a video with all its spans. It counts if its spans are inside the video before and after the
    shift. Overlap is the IoU of the unions of all spans.

    Args:
        examples: the questions, with the annotated events.
        original, moved: the answers with the sound as it is, and with the moved sound.
        shifts: seconds by which each video's sound comes later; negative: earlier.

    Returns:
        `values`, in 0-100, and their `intervals`: `audio_only_followed`: spans that overlap the moved event more than
        the event at its old place; `audio_only_followed@0.5`: that, and by at least 0.5; `audio_only_found@0.5`: spans
        that overlap the event by at least 0.5 with the sound as it is; `visual_only_stayed`: spans of an event without
        sound that overlap its place more than a place moved by the same amount. `counts`: events of both kinds.
    """
    said = [{a.question_id: [(e.start, e.end) for e in a.events] for a in side} for side in (original, moved)]
    found: dict[str, list[tuple[int, bool]]] = defaultdict(list)  # name -> (video, whether it holds) of each event
    for video, example in enumerate(examples):
        shift = shifts.get(example.video_id, 0.0)
        for question in example.questions if shift else ():
            here = [(event.start, event.end) for event in example.events if event.label == question.label]
            there = [(start + shift, end + shift) for start, end in here]
            inside = all(0 <= start and end <= (example.duration or 0.0) for start, end in there)
            # a question without an answer: the media of the video could not be read
            if here and inside and question.id in said[1]:
                moves = _moves(question, here, there, said[0].get(question.id, []), said[1][question.id])
                for name, holds in moves.items():
                    found[name].append((video, holds))
    columns = {name: np.array(pairs).T for name, pairs in found.items()}  # [2, num_events]

    def score(weights: np.ndarray) -> dict[str, float]:
        return {
            name: 100.0 * float(np.average(holds, weights=weights[videos])) if weights[videos].any() else math.nan
            for name, (videos, holds) in columns.items()
        }

    return {
        "values": score(np.ones(len(examples))),
        "intervals": bootstrap(score, num_videos=len(examples), num_resamples=NUM_RESAMPLES, seed=0),
        "counts": {name: len(pairs) for name, pairs in found.items()},
    }


def _moves(question: Question, here: list, there: list, before: list, after: list) -> dict[str, bool]:
    """What holds for one event; `before` and `after` are the answered spans without and with the moved sound."""
    stays, follows = union_iou(after, here), union_iou(after, there)
    if question.label in SEEN_ALONE:
        return {"visual_only_stayed": stays > follows}
    if question.label not in HEARD_ALONE:
        return {}
    return {
        "audio_only_followed": follows > stays,
        "audio_only_followed@0.5": follows > stays and follows >= 0.5,
        "audio_only_found@0.5": union_iou(before, here) >= 0.5,
    }


if __name__ == "__main__":
    with one_line_errors(PROGRAM):
        main()
