"""Is the sound used? The same questions with the sound as it is, removed, swapped with another video's, and shifted.

    python -m eval.sound_use --output DIR -- --task sandbox --model DIR --annotations FILE --media-dir DIR

Everything after `--` goes to `eval.run`, four times, each into a folder of its own under the output (resumable). A model that
listens loses by each change; one that does not, answers the same. Swapping keeps a plausible sound, so it tells more than removing.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from accelerate import PartialState

from . import run
from .figures import draw_bars
from .media import SOUNDS
from .records import read_answers, write_json


def changed_share(before: Path, after: Path) -> float:
    """Share of questions, in percent, whose answer's text is another one; over the questions that both runs answered."""
    texts = [{answer.question_id: answer.text for answer in read_answers(path)} for path in (before, after)]
    both = texts[0].keys() & texts[1].keys()
    if not both:
        raise ValueError(f"{before} and {after} have no question in common")
    return 100.0 * sum(texts[0][key] != texts[1][key] for key in both) / len(both)


def main(arguments: Sequence[str] | None = None) -> None:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if "--" not in arguments:
        raise ValueError(
            "give the evaluation's arguments after `--`, as in: --output DIR -- --task sandbox --model ..."
        )
    own, passed = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
    parser = argparse.ArgumentParser(prog="python -m eval.sound_use", description=__doc__.splitlines()[0])
    parser.add_argument("--output", required=True, type=Path)
    output = parser.parse_args(own).output
    if "--output" in passed or "--sound" in passed:
        raise ValueError("--output and --sound of the evaluation are set here: leave them out after `--`")
    results = {}
    for sound in SOUNDS:
        run.main([*passed, "--sound", sound, "--output", str(output / sound)])
        if not PartialState().is_main_process:
            continue
        results[sound] = json.loads((output / sound / "results.json").read_text(encoding="utf-8"))
    if not results:
        return  # one process of several: the main one has them all
    changed = {s: changed_share(*(output / name / "predictions.jsonl" for name in ("original", s))) for s in SOUNDS}
    rows = [{"sound": s, "metrics": results[s]["metrics"], "answers_changed": changed[s]} for s in SOUNDS]
    original = results["original"]
    standing = {key: original[key] for key in ("model", "num_examples", "num_expected", "git_commit")}
    write_json(output / "sound_use.json", {"name": f"{original['name']}/sound-use", **standing, "rows": rows})
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
        told = f"{first} {row['metrics'][first]:6.2f}, {row['answers_changed']:5.1f} % of the answers changed"
        print(f"{row['sound']:<10} {told}")
    print(f"  {output / 'sound_use.json'}\n  {output / 'sound_use.png'}")


if __name__ == "__main__":
    main()
