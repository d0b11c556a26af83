"""Kills `eval.run` and `eval.judge` at random moments, starts them again, and compares with undisturbed runs.

    python -m benchmarks.killed_evaluation --num-kills 100

A tiny random model answers narrations of cached features, and a stand-in judge gives verdicts. Each command runs in a
forked process that gets SIGKILL at a random moment and is started again in the same folder until it ends by itself.
The predictions must be equal byte by byte, the metrics and the cached verdicts equal, and no temporary file may
remain.
"""

import hashlib
import json
import multiprocessing
import os
import random
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import torch

from benchmarks.conditions import RESULTS, describe_conditions, write_results
from dataset_builders.atomic_files import write_json
from dataset_builders.command_line import one_line_errors, parse_options
from dataset_builders.features.feature_store import FeatureWriter
from dataset_builders.input_settings import check_range
from eval import judge, run
from eval.metrics import load_metric
from train.initialize import build_tiny


PROGRAM = "python -m benchmarks.killed_evaluation"
LABELS = ("dog barking", "rain", "bell ringing", "car passing")
NUM_VIDEOS, NUM_QUESTIONS = 60, 120


@dataclass
class KillOptions:
    """Options of `python -m benchmarks.killed_evaluation`."""

    num_kills: int = field(default=100, metadata={"help": "Kills of each command."})
    seed: int = field(default=0, metadata={"help": "Of the moments."})
    output: Path = field(default=RESULTS / "killed_evaluation.json", metadata={"help": "File for the figures."})

    def __post_init__(self):
        check_range(self, 1, "num_kills")


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_options(KillOptions, arguments, program=PROGRAM, description=__doc__.splitlines()[0])
    conditions = describe_conditions(["torch", "transformers"], **asdict(options))
    torch.set_num_threads(1)  # a forked process has no worker threads of its parent
    with tempfile.TemporaryDirectory() as name:
        folder, moments = Path(name), random.Random(options.seed)
        evaluation = prepare_evaluation(folder)
        results = {"eval.run": compare(evaluation, run_files, folder / "run", options.num_kills, moments)}
        judging = prepare_judging(folder)
        results["eval.judge"] = compare(judging, judge_files, folder / "judge", options.num_kills, moments)
    write_results(options.output, conditions=conditions, results=results)


def compare(
    command: Callable[[Path], None], read: Callable[[Path], dict], folder: Path, num_kills: int, moments: random.Random
) -> dict:
    """Runs a command undisturbed, then with kills until there were `num_kills`; ValueError where a result differs.

    Args:
        command: does its work in a folder.
        read: what must be equal, by file.
    """
    began = time.perf_counter()
    start(command, folder / "undisturbed").join()
    seconds, expected = time.perf_counter() - began, read(folder / "undisturbed")
    kills, runs = 0, 0
    while kills < num_kills:
        output, done = folder / f"killed_{runs}", False
        while not done:
            process = start(command, output)
            process.join(moments.uniform(0.0, 0.7 * seconds) if kills < num_kills else None)
            done = process.exitcode is not None
            if not done:
                process.kill()  # SIGKILL
                process.join()
                kills += 1
            elif process.exitcode:
                raise ValueError(f"started again in {output}, the command ended with status {process.exitcode}")
        runs += 1
        found = read(output)
        for name, content in expected.items():
            if found[name] != content:
                raise ValueError(f"{name} of {output} differs from the undisturbed run's")
    return {"kills": kills, "finished_runs": runs, "equal": True, "seconds_undisturbed": round(seconds, 2)}


def start(command: Callable[[Path], None], output: Path) -> BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=_quietly, args=(command, output))
    process.start()
    return process


def _quietly(command: Callable[[Path], None], output: Path) -> None:
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
        command(output)


def prepare_evaluation(folder: Path) -> Callable[[Path], None]:
    """The model, the annotations and the features of the evaluation, and the command as a function of its output."""
    model, processor = build_tiny([f"a caption about {label}" for label in LABELS], num_av_tokens=20)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and "tower" not in name:
            parameter.data.normal_(0.0, 0.25)  # wide weights: answers that differ between videos
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    annotations = [{"segment": [0.0, 9.0], "label": label, "label_id": n} for n, label in enumerate(LABELS)]
    video = {"duration": 30.0, "subset": "test", "annotations": annotations}
    write_json(folder / "annotations.json", {"database": {f"v{n}": video for n in range(NUM_VIDEOS)}})
    rng = np.random.default_rng(0)
    with FeatureWriter(folder / "features") as writer:
        for n in range(NUM_VIDEOS):
            rows = {"video": rng.standard_normal((20, 64)), "audio": rng.standard_normal((7, 64))}
            writer.add(f"v{n}", **rows, duration=30.0)
    words = ["--task", "sandbox", "--model", str(folder / "model"), "--features-dir", str(folder / "features")]
    words += ["--annotations", str(folder / "annotations.json"), "--max-new-tokens", "64", "--batch-size", "4"]
    words += ["--timelines", "0"]
    load_metric("event_localization")  # imported once, here, and not in each process
    return lambda output: run.main([*words, "--output", str(output)])


def run_files(output: Path) -> dict:
    result = json.loads((output / "results.json").read_text(encoding="utf-8"))
    return {
        "predictions.jsonl": (output / "predictions.jsonl").read_bytes(),
        "results.json": {name: value for name, value in result.items() if name != "seconds"},
        "file names": sorted(path.name for path in output.iterdir()),
    }


def prepare_judging(folder: Path) -> Callable[[Path], None]:
    """A finished run of questions, a judge, and the command as a function of the run's folder."""
    records = [
        {"id": n, "video_id": f"v{n}", "question": f"what is number {n}?", "answer": f"answer {n}"}
        for n in range(NUM_QUESTIONS)
    ]
    write_json(folder / "questions.json", records)
    settings = {"annotations_sha256": run.fingerprint([folder / "questions.json"])}
    result: dict = {
        "task": "msvd_qa",
        "name": "msvd_qa/text",
        "model": "m",
        "metrics": {},
        "judge": None,
        "conditions": [],
    }
    result |= {"dataset": {"name": "msvd_qa", "split": "test"}, "settings": settings}
    answers = [
        {"question_id": str(n), "video_id": f"v{n}", "duration": 1.0, "text": f"answer {n % 7}", "events": []}
        for n in range(NUM_QUESTIONS)
    ]
    server = ThreadingHTTPServer(("127.0.0.1", 0), StandInJudge)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    words = ["--endpoint", f"http://127.0.0.1:{server.server_port}/v1", "--judge-model", "stand-in"]
    words += ["--annotations", str(folder / "questions.json"), "--num-workers", "4"]

    def command(output: Path) -> None:
        if not (output / "results.json").exists():
            output.mkdir(parents=True, exist_ok=True)
            lines = [json.dumps(answer) + "\n" for answer in answers]
            (output / "predictions.jsonl").write_text("".join(lines), encoding="utf-8")
            write_json(output / "results.json", result)
        judge.main([*words, "--run", str(output)])

    return command


class StandInJudge(BaseHTTPRequestHandler):
    """Gives the same verdict to the same question, after some time."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][1]["content"]
        time.sleep(0.03)
        score = hashlib.sha256(asked.encode()).digest()[0] % 6
        verdict = json.dumps({"pred": "yes" if score > 2 else "no", "score": score})
        usage = {"prompt_tokens": 100, "completion_tokens": 10}
        reply = json.dumps({"model": "stand-in", "choices": [{"message": {"content": verdict}}], "usage": usage})
        try:
            self.send_response(200)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply.encode())
        except (BrokenPipeError, ConnectionResetError):
            pass  # the asking process was killed

    def log_message(self, *arguments: object) -> None:
        pass


def judge_files(output: Path) -> dict:
    result = json.loads((output / "results_judge.json").read_text(encoding="utf-8"))
    lines = (output / "judge_cache.jsonl").read_text(encoding="utf-8").split("\n")
    replies = [line for line in lines if line.endswith("}")]  # a killed process may leave half a line
    return {
        "results_judge.json": {name: result[name] for name in ("name", "metrics", "counts", "refused")},
        "judge_cache.jsonl": sorted(set(replies)),
        "file names": sorted(path.name for path in output.iterdir()),
    }


if __name__ == "__main__":
    with one_line_errors(PROGRAM):
        main()
