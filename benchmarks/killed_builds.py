"""Kill builds of PU-VALOR at random moments, start them again, and compare the bytes with those of undisturbed builds.

    python -m benchmarks.killed_builds --num-kills 100 --output outputs/killed_builds

Each kill is `kill -9` of the command alone, with two workers; the workers have to end by themselves. Virtual and
rendered builds take turns. Exits with an error if a byte differs or a process is left behind.
"""

import random
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from dataset_builders.command_line import one_line_errors, parse_options
from dataset_builders.sandbox.world import make_world


PROGRAM = "python -m benchmarks.killed_builds"
OPTIONS = [
    "--clustering",
    "none",
    "--coherence-threshold",
    "none",
    "--ambiguity-threshold",
    "none",
    "--num-workers",
    "2",
]
BUILDS = {
    "virtual": ["--num-videos", "4000", "--videos-per-shard", "200"],
    "rendered": ["--media", "rendered", "--num-videos", "8", "--videos-per-shard", "2", "--render-size", "96", "96"],
}


@dataclass
class KilledBuildsOptions:
    """Command line of this benchmark."""

    output: str = field(default="outputs/killed_builds", metadata={"help": "folder for the builds"})
    num_kills: int = field(default=100, metadata={"help": "kills in all"})
    seed: int = field(default=0, metadata={"help": "of the moments"})


def main(arguments: list[str] | None = None) -> None:
    options = parse_options(KilledBuildsOptions, arguments, program=PROGRAM, description=__doc__.splitlines()[0])
    output, rng = Path(options.output), random.Random(options.seed)
    make_world(output / "world", num_clips=24, seed=options.seed)
    expected, seconds = {}, {}
    for kind in BUILDS:
        started = time.monotonic()
        build(output, kind, folder="whole").wait()
        expected[kind], seconds[kind] = read_bytes(output / f"{kind}_whole"), time.monotonic() - started
    num_killed = 0
    for number in range(options.num_kills):
        kind = list(BUILDS)[number % len(BUILDS)]
        shutil.rmtree(output / f"{kind}_killed", ignore_errors=True)
        process = build(output, kind, folder="killed")
        time.sleep(rng.uniform(0, seconds[kind]))
        workers = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        num_killed += process.poll() is None
        process.kill()
        process.wait()
        alive = psutil.wait_procs(workers, timeout=30)[1]
        if alive:
            raise ValueError(f"kill {number} of a {kind} build left {len(alive)} processes behind")
        if build(output, kind, folder="killed").wait():
            raise ValueError(f"kill {number}: the {kind} build could not be continued")
        if read_bytes(output / f"{kind}_killed") != expected[kind]:
            raise ValueError(f"kill {number}: the continued {kind} build has other bytes")
        print(f"kill {number + 1}: {kind} build continued to the same bytes", flush=True)
    print(f"{options.num_kills} builds, {num_killed} of them killed before their end: the same bytes, no process left")


def build(output: Path, kind: str, *, folder: str) -> subprocess.Popen:
    """Start the build of one kind in `output/<kind>_<folder>`."""
    world = output / "world"
    command = [sys.executable, "-m", "dataset_builders.build", "--output", str(output / f"{kind}_{folder}")]
    inputs = ["--captions-file", str(world / "captions.json"), "--clips-dir", str(world / "clips")]
    return subprocess.Popen(
        [*command, *inputs, *OPTIONS, *BUILDS[kind]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def read_bytes(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but the card, which names the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "README.md")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


if __name__ == "__main__":
    with one_line_errors(PROGRAM):
        main()
