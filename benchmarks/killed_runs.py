"""Kills extract_features and run_stages at random moments (kill -9), starts them again, and compares the results.

    python -m benchmarks.killed_runs --kills 100 --output outputs/killed_runs

In each trial a command is killed up to five times and then runs to its end. Its files must be those of an undisturbed
run (features: every byte of the folder; stages: weights and losses), and no process may be left after a kill. Writes
benchmarks/results/killed_runs.json.
"""

import hashlib
import json
import os
import random
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from benchmarks.conditions import RESULTS, describe_conditions, write_results
from dataset_builders.command_line import one_line_errors, parse_options


PROGRAM = "python -m benchmarks.killed_runs"
PROJECT = Path(__file__).resolve().parents[1]
RESULT = RESULTS / "killed_runs.json"
KILLS_PER_TRIAL = 5
SECONDS_TO_END = 15.0  # for the processes of a killed command
MARK = "AVICUNA_KILLED_RUN"
RECIPE = """\
trainable: [vision_adapter, language_model]
chat_template: plain
datasets: [{path: image_text, options: {captions_file: captions.json}}]
max_steps: 6
learning_rate: 1.0e-3
effective_batch_size: 8
save_strategy: steps
save_steps: 1
bf16: false
use_cpu: true
gradient_checkpointing: false
logging_steps: 1
"""


@dataclass
class Options:
    """Command line."""

    output: str = field(default="outputs/killed_runs", metadata={"help": "Working folder."})
    kills: int = field(default=100, metadata={"help": "Kills of each command."})
    commands: list[str] = field(
        default_factory=lambda: ["extract_features", "run_stages"], metadata={"help": "Which commands to kill."}
    )
    num_clips: int = field(default=24, metadata={"help": "Clips of the sandbox world."})
    seed: int = field(default=0, metadata={"help": "Of the moments."})


@dataclass(frozen=True)
class Case:
    """One command: its words for an output folder, and a digest of what it wrote there."""

    words: Callable[[Path], list[str]]
    digest: Callable[[Path], str]


def digest_of(parts: list[bytes]) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:16]


def digest_features(output: Path) -> str:
    files = sorted(path for path in output.rglob("*") if path.is_file())
    return digest_of([part for path in files for part in (str(path.relative_to(output)).encode(), path.read_bytes())])


def digest_stages(output: Path) -> str:
    parts = []
    for stage in sorted(output.iterdir()):
        summary = json.loads((stage / "training_summary.json").read_text(encoding="utf-8"))
        losses = [entry["loss"] for entry in summary["log"]]
        parts += [(stage / "model.safetensors").read_bytes(), json.dumps(losses).encode()]
    return digest_of(parts)


def run_words(*words: str | int | Path) -> None:
    subprocess.run([sys.executable, *map(str, words)], cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)


def prepare(folder: Path, *, num_clips: int) -> dict[str, Case]:
    """A world, a checkpoint and features, and the two commands on them."""
    world, start, features, recipes = (folder / name for name in ("world", "stage0", "features", "recipes"))
    if not features.exists():
        run_words(
            "-m", "dataset_builders.sandbox", "--output", world, "--num-clips", num_clips, "--num-test-videos", 0
        )
        run_words("-m", "train.initialize", "--size", "tiny", "--captions", world / "captions.json", "--output", start)
        run_words(
            "-m", "train.extract_features", "--model", start, "--media-dir", world / "clips", "--output", features
        )
    recipes.mkdir(exist_ok=True)
    for name in ("stage1", "stage2"):
        (recipes / f"{name}.yaml").write_text(RECIPE, encoding="utf-8")
    extract = ["train.extract_features", "--model", start, "--media-dir", world / "clips", "--media-per-part", 3]
    stages = ["train.run_stages", "--model", start, "--recipes-dir", recipes, "--data-dir", world]
    stages += ["--features-dir", features, "--launcher", f"{sys.executable} -m accelerate.commands.launch --cpu"]

    def words_of(module_and_options: list) -> Callable[[Path], list[str]]:
        return lambda output: [sys.executable, "-m", *map(str, module_and_options), "--output", str(output)]

    return {
        "extract_features": Case(words_of(extract), digest_features),
        "run_stages": Case(words_of(stages), digest_stages),
    }


def processes_of(mark: str) -> list[psutil.Process]:
    """The running processes that inherited the mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def start(words: list[str], mark: str) -> subprocess.Popen:
    environment = {**os.environ, MARK: mark, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, cwd=PROJECT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill_after(words: list[str], seconds: float) -> tuple[bool, int]:
    """Starts a command and kills it after a time.

    Returns:
        Whether it was killed (and not finished before), and how many processes it left.
    """
    mark = uuid.uuid4().hex
    process = start(words, mark)
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        deadline = time.monotonic() + SECONDS_TO_END
        while (left := processes_of(mark)) and time.monotonic() < deadline:
            time.sleep(0.2)
        for survivor in left:
            survivor.kill()
        return True, len(left)
    return False, 0


def measure(case: Case, folder: Path, *, kills: int, rng: random.Random) -> dict:
    """Kills a command `kills` times in trials and compares each trial's result with an undisturbed run's."""
    began = time.monotonic()
    if status := start(case.words(folder / "undisturbed"), "undisturbed").wait():
        raise ValueError(f"the undisturbed run ended with status {status}: {case.words(folder / 'undisturbed')}")
    seconds, expected = time.monotonic() - began, case.digest(folder / "undisturbed")
    result = {"kills": 0, "trials": 0, "different": 0, "failed": 0, "processes_left": 0}
    while result["kills"] < kills:
        output = folder / f"trial{result['trials']}"
        for _ in range(min(KILLS_PER_TRIAL, kills - result["kills"])):
            was_killed, left = kill_after(case.words(output), rng.uniform(0, seconds))
            result["kills"] += was_killed
            result["processes_left"] += left
            if not was_killed:
                break
        result["trials"] += 1
        if start(case.words(output), "last").wait():
            result["failed"] += 1
        elif case.digest(output) != expected:
            result["different"] += 1
        print(result, flush=True)
    return {**result, "undisturbed_seconds": round(seconds, 1)}


def main(arguments: list[str] | None = None):
    options = parse_options(Options, arguments, program=PROGRAM, description=__doc__.splitlines()[0])
    folder = Path(options.output).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    cases = prepare(folder, num_clips=options.num_clips)
    if unknown := set(options.commands) - set(cases):
        raise ValueError(f"unknown command {min(unknown)!r}; known: {sorted(cases)}")
    results = json.loads(RESULT.read_text(encoding="utf-8"))["results"] if RESULT.exists() else {}
    for name in options.commands:
        own = folder / name / uuid.uuid4().hex[:8]
        own.mkdir(parents=True)
        results[name] = measure(cases[name], own, kills=options.kills, rng=random.Random(options.seed))
        conditions = describe_conditions(**{**asdict(options), "output": folder.name})
        write_results(RESULT, conditions=conditions, results=results)


if __name__ == "__main__":
    with one_line_errors(PROGRAM):
        main()
