"""How long PU-VALOR takes at the paper's full size, and how much memory: 114,081 videos, with the embeddings cached.

    python -m benchmarks.curation_full_size --captions-file FILE --text-encoder all-MiniLM-L6-v2 --output DIR

Runs the build command in fresh processes: once to embed (a few videos), then at full size for each number of workers.
Memory is the largest sum of the resident sets of the process and its children, sampled ten times a second.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.conditions import RESULTS, describe_conditions, write_results
from dataset_builders.command_line import one_line_errors, parse_options
from dataset_builders.input_settings import check_range


PROGRAM = "python -m benchmarks.curation_full_size"
TARGET = {"seconds": 120, "gigabytes": 2.0}


@dataclass
class CurationOptions:
    """Options of `python -m benchmarks.curation_full_size`."""

    captions_file: Path = field(metadata={"help": "Captions, as for dataset_builders.build."})
    text_encoder: str = field(metadata={"help": "Sentence encoder: a folder or a Hub id."})
    output: Path = field(metadata={"help": "Scratch folder."})
    results: Path = field(default=RESULTS / "curation_full_size.json", metadata={"help": "File for the figures."})
    num_videos: int = field(default=114_081, metadata={"help": "Videos of the full size."})
    num_workers: list[int] = field(default_factory=lambda: [1, 2, 4], metadata={"help": "Numbers of workers to try."})

    def __post_init__(self):
        check_range(self, 1, "num_videos")


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_options(CurationOptions, arguments, program=PROGRAM, description=__doc__.splitlines()[0])
    options.output.mkdir(parents=True, exist_ok=True)
    conditions = describe_conditions(["pyarrow"], captions_file=options.captions_file)
    common = ["--captions-file", str(options.captions_file), "--text-encoder", options.text_encoder]
    common += ["--embeddings-dir", str(options.output / "embeddings")]
    figures = {"embedding_and_64_videos": measure(options.output / "small", [*common, "--num-videos", "64"])}
    for num_workers in options.num_workers:
        words = [*common, "--num-videos", str(options.num_videos), "--num-workers", str(num_workers)]
        figures[f"{num_workers}_workers"] = measure(options.output / f"workers_{num_workers}", words)
    hashes = {name: facts.pop("sha256") for name, facts in figures.items()}
    full = {hashes[f"{num_workers}_workers"] for num_workers in options.num_workers}
    results = {**figures, "byte_identical": len(full) == 1, "target": TARGET}
    write_results(options.results, conditions=conditions, results=results)


def measure(folder: Path, arguments: list[str]) -> dict:
    """Build a folder in a fresh process; seconds, CPU seconds, peak memory, and a hash over its Parquet files."""
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "dataset_builders.build", "--output", str(folder), *arguments]
    started = time.monotonic()
    process = psutil.Popen(command, cwd=Path(__file__).parents[1], stdout=subprocess.DEVNULL)
    peak, cpu = 0, {}
    while process.poll() is None:
        resident = 0
        for member in family(process):
            try:
                resident += member.memory_info().rss
                cpu[member.pid] = sum(member.cpu_times()[:2])
            except psutil.NoSuchProcess:
                continue
        peak = max(peak, resident)
        time.sleep(0.1)
    if process.returncode:
        raise ValueError(f"{' '.join(command)} ended with {process.returncode}")
    digest = hashlib.sha256()
    files = sorted((folder / "data").iterdir())
    for path in files:
        digest.update(path.read_bytes())
    return {
        "seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(sum(cpu.values()), 1),
        "peak_gigabytes": round(peak / 1e9, 2),
        "parquet_megabytes": round(sum(path.stat().st_size for path in files) / 1e6, 1),
        "rows": json.loads((folder / "report.json").read_text())["num_rows"],
        "sha256": digest.hexdigest(),
    }


def family(process: psutil.Popen) -> list[psutil.Process]:
    """The process and its descendants that are still running."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


if __name__ == "__main__":
    with one_line_errors(PROGRAM):
        main()
