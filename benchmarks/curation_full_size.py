"""How long PU-VALOR takes at the paper's full size, and how much memory: 114,081 videos, with the embeddings cached.

    python benchmarks/curation_full_size.py --captions-file captions.jsonl.gz --text-encoder all-MiniLM-L6-v2 --output DIR

Runs the build command in fresh processes: once to embed (a few videos), then at full size for each number of workers.
Memory is the largest sum of the resident sets of the process and its children, sampled ten times a second.
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow


TARGET = {"seconds": 120, "gigabytes": 2.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--captions-file", required=True)
    parser.add_argument("--text-encoder", required=True)
    parser.add_argument("--output", required=True, help="scratch folder")
    parser.add_argument("--results", default=str(Path(__file__).parent / "results" / "curation_full_size.json"))
    parser.add_argument("--num-videos", type=int, default=114081)
    parser.add_argument("--num-workers", type=int, nargs="+", default=[1, 2, 4])
    options = parser.parse_args()
    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    load_at_start = os.getloadavg()[0]
    common = ["--captions-file", options.captions_file, "--text-encoder", options.text_encoder]
    common += ["--embeddings-dir", str(output / "embeddings")]
    figures = {"embedding_and_64_videos": measure(output / "small", [*common, "--num-videos", "64"])}
    for num_workers in options.num_workers:
        arguments = [*common, "--num-videos", str(options.num_videos), "--num-workers", str(num_workers)]
        figures[f"{num_workers}_workers"] = measure(output / f"workers_{num_workers}", arguments)
    hashes = {name: facts.pop("sha256") for name, facts in figures.items()}
    full = {hashes[f"{num_workers}_workers"] for num_workers in options.num_workers}
    figures.update(byte_identical=len(full) == 1, target=TARGET, conditions=describe_conditions(load_at_start))
    text = json.dumps(figures, indent=1) + "\n"
    Path(options.results).write_text(text, encoding="utf-8")
    print(text)


def describe_conditions(load_at_start: float) -> dict:
    """What the figures depend on beside the code."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "date": time.strftime("%Y-%m-%d"),
        "git_commit": commit.stdout.strip(),
        "num_cores": os.cpu_count(),
        "load_average_at_start": round(load_at_start, 2),
        "load_average_at_end": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "pyarrow": pyarrow.__version__,
    }


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
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
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
    """The process and its descendants, as far as they still live."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


if __name__ == "__main__":
    main()
