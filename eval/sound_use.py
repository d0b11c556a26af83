"""Is the sound used? The same questions with the sound as it is, removed, swapped with another video's, and shifted.

    python -m eval.sound_use --output DIR -- --task sandbox --model DIR --annotations FILE --media-dir DIR

Everything after `--` goes to `eval.run`, once per kind of sound, each run in its own folder below the output
(resumable). A model that uses the sound loses accuracy with each change; one that does not gives the same answers. A
swapped sound is still a plausible one, so it is the stronger test.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import PartialState

from dataset_builders.atomic_files import write_json
from dataset_builders.command_line import one_line_errors, parse_options

from . import run
from .figures import draw_bars
from .media import SOUNDS
from .records import read_answers, read_result


PROGRAM = "python -m eval.sound_use"


@dataclass
class SoundUseOptions:
    """Options of `python -m eval.sound_use`, before `--`."""

    output: Path = field(metadata={"help": "Folder with one run per kind of sound, and the comparison."})


def main(arguments: Sequence[str] | None = None) -> None:
    own, passed = split_arguments(sys.argv[1:] if arguments is None else arguments)
    output = parse_options(SoundUseOptions, own, program=PROGRAM, description=__doc__.splitlines()[0]).output
    if not passed:
        raise ValueError("give the options of eval.run after `--`, as in: --output DIR -- --task sandbox --model ...")
    if taken := [word for word in passed if word.split("=")[0] in ("--output", "--sound")]:
        raise ValueError(f"{taken[0]} of the evaluation is set here: leave it out after `--`")
    for sound in SOUNDS:
        run.main([*passed, "--sound", sound, "--output", str(output / sound)])
    if not PartialState().is_main_process:
        return
    results = {sound: read_result(output / sound / "results.json") for sound in SOUNDS}
    changed = {s: changed_share(*(output / name / "predictions.jsonl" for name in ("original", s))) for s in SOUNDS}
    rows = [{"sound": s, "metrics": results[s]["metrics"], "answers_changed": changed[s]} for s in SOUNDS]
    original = results["original"]
    facts = {key: original[key] for key in ("model", "num_examples", "num_expected", "git_commit")}
    write_json(output / "sound_use.json", {"name": f"{original['name']}/sound-use", **facts, "rows": rows})
    main_metrics = [name for name in original["metrics"] if "/" not in name]
    draw_bars(
        output / "sound_use.png",
        groups=main_metrics,
        series={s: [results[s]["metrics"][name] for name in main_metrics] for s in SOUNDS},
        unit="metric",
        title=f"Is the sound used? {original['name']}",
        highlight="original",
    )
    for row in rows:
        first = main_metrics[-1] if "average_mAP" in main_metrics else main_metrics[0]
        figures = f"{first} {row['metrics'][first]:6.2f}, {row['answers_changed']:5.1f} % of the answers changed"
        print(f"{row['sound']:<10} {figures}")
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


if __name__ == "__main__":
    with one_line_errors(PROGRAM):
        main()
