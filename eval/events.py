"""Scores anybody's predictions of timed events: texts or spans, of any model, without torch.

    python -m eval.events --task unav100 --annotations unav100_annotations.json --predictions predictions.jsonl

Each line of the predictions answers one query: `{"video_id": ..., "query": ..., "text": "From 03 to 17."}`, or
`{..., "spans": [[start, end], ...]}` in seconds. `events_reading` states the forms, `events_scoring` the protocols.
It needs numpy and scipy alone; nltk or Java for METEOR, matplotlib for the figure.
"""

import argparse
import importlib.util
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from .events_reading import NUM_EXAMPLES, TASKS, UNITS, Predictions, Query, TextForm, read_predictions, read_queries
from .events_scoring import bootstrap, prepare, video_indices
from .metrics.dense_captioning.captions import JavaMeteor, NltkMeteor


class OneLineParser(argparse.ArgumentParser):
    """Errors are one line. `dataset_builders.command_line` has the same for commands that may import transformers."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = OneLineParser(prog="python -m eval.events", description=__doc__.splitlines()[0], allow_abbrev=False)
    forms = "; ".join(f"{name}: {form}" for name, form in TASKS.items())
    parser.add_argument("--task", required=True, choices=TASKS, help=f"form of the annotations. {forms}")
    parser.add_argument("--annotations", required=True, nargs="+", type=Path)
    parser.add_argument("--predictions", required=True, type=Path, help="JSON lines, one per query or video")
    parser.add_argument("--subset", default="test", help="of a file in UnAV-100's form")
    parser.add_argument("--unit", choices=UNITS, default="relative", help="of a number without a unit in a text")
    parser.add_argument("--fps", type=float, help="frames per second, for --unit frames")
    parser.add_argument("--meteor-jar", "--meteor_jar", type=Path, help="meteor-1.5.jar; needs Java")
    parser.add_argument("--num-resamples", "--num_resamples", type=int, default=1000, help="of the bootstrap; 0: none")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    parser.add_argument(
        "--output", type=Path, help="folder for values.json (with counts, what was not read), table.md"
    )
    parser.add_argument("--figure", action="store_true", help="also values.png in the folder; needs matplotlib")
    words = list(sys.argv[1:] if arguments is None else arguments)
    if any(not word.strip() or (word.startswith("--") and word.endswith("=")) for word in words):
        parser.error("the value of an option is empty")
    options = parser.parse_args(words)
    if options.num_resamples < 0 or options.seed < 0:
        parser.error(f"--num-resamples and --seed must be at least 0, got {options.num_resamples}, {options.seed}")
    if options.fps is not None and not 0 < options.fps < math.inf:
        parser.error(f"--fps must be positive and finite, got {options.fps}")
    if (options.unit == "frames") != (options.fps is not None):
        parser.error("--unit frames and --fps belong together")
    if options.output is not None and options.output.exists() and not options.output.is_dir():
        parser.error(f"--output {options.output} is a file, not a folder to write to")
    if options.figure and options.output is None:
        parser.error("--figure needs --output")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    if options.figure and importlib.util.find_spec("matplotlib") is None:
        raise ValueError("--figure needs matplotlib: pip install matplotlib")
    queries = read_queries(options.task, options.annotations, options.subset)
    said = read_predictions(options.predictions, queries, form=TextForm(options.unit, options.fps))
    num_videos = len(video_indices(queries))
    meteor, meteor_name = choose_meteor(options.meteor_jar)
    score = prepare(options.task, queries, said, meteor=meteor)
    if isinstance(meteor, JavaMeteor):
        meteor.close()
    values = score(np.ones(num_videos, int))
    intervals = bootstrap(score, num_videos=num_videos, num_resamples=options.num_resamples, seed=options.seed)
    protocol = {
        "times_in_texts": "frames, fps " + str(options.fps) if options.fps else options.unit,
        "missing_prediction": "counts as an answer without a span",
        "text_not_read": "counts with the spans that were read, with none as an answer without a span",
        "intervals": f"95 %, {options.num_resamples} resamples of videos, seed {options.seed}",
    }
    if options.task == "activitynet_captions":
        protocol["meteor"] = meteor_name
    counts = count(queries, said, num_videos)
    result = {"task": options.task, "values": values, "intervals": intervals, "counts": counts, "protocol": protocol}
    result |= {
        "not_read": {r: {"count": len(p), "examples": p[:NUM_EXAMPLES]} for r, p in said.not_read.items()},
        "unknown_queries": said.unknown[:NUM_EXAMPLES],
        "labels_without_class": said.without_class[:NUM_EXAMPLES],
    }
    print(table := as_table(values, intervals))
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "values.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        (options.output / "table.md").write_text(table + "\n", encoding="utf-8")
    if options.figure:
        from .figures import draw_intervals

        title = f"{options.task}, 95 % intervals"
        draw_intervals(options.output / "values.png", values=values, intervals=intervals, title=title)
    report(result)


def choose_meteor(jar: Path | None) -> tuple[NltkMeteor | JavaMeteor | None, str]:
    """The METEOR of dense captioning, and how it is named in the protocol."""
    if jar is not None:
        return JavaMeteor(jar), "1.5"
    if importlib.util.find_spec("nltk") is None:
        return None, "none: METEOR and SODA_c need nltk (pip install nltk) or --meteor-jar"
    return NltkMeteor(), "nltk"


def count(queries: Sequence[Query], said: Predictions, num_videos: int) -> dict[str, int]:
    """How much was scored, and how much of the predictions was not used."""
    return {
        "num_videos": num_videos,
        "num_queries": len(queries),
        "num_absent_queries": sum(not query.spans for query in queries),
        "num_without_prediction": sum(query.key not in said.events for query in queries),
        "num_predictions_of_unknown_queries": len(said.unknown),
        "num_events_without_class": len(said.without_class),
        "num_pieces_of_text_not_read": sum(map(len, said.not_read.values())),
    }


def as_table(values: dict[str, float], intervals: dict[str, tuple[float, float]]) -> str:
    """The values as a Markdown table."""
    lines = [f"| {'metric':<19} | value  | 95 % interval   |", f"|{'-' * 21}|-------:|-----------------|"]
    for name, value in values.items():
        interval = "[{:.2f}, {:.2f}]".format(*intervals[name]) if name in intervals else ""
        lines.append(f"| {name:<19} | {value:6.2f} | {interval:<15} |")
    return "\n".join(lines)


def report(result: dict[str, Any]) -> None:
    """Prints the counts, and examples of what was not read."""
    for name, number in result["counts"].items():
        print(f"{name:<36} {number}")
    for reason, pieces in result["not_read"].items():
        print(f"not read, {reason} ({pieces['count']}): {pieces['examples'][0]}")
    if "none" in result["protocol"].get("meteor", ""):
        print(f"METEOR: {result['protocol']['meteor']}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.stderr.write(f"python -m eval.events: error: {' '.join(str(error).split())}\n")
        sys.exit(2)
