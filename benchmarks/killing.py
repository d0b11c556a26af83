"""Kills a command with SIGKILL at random moments, starts it again, and compares its results with an undisturbed run's.

The command runs in a forked child of a process that has imported the modules that a first run needed. A new
interpreter would spend seconds on imports, and most kills would arrive during them. The child has its own session, so
the processes that it starts are found after the kill, which ends the child alone.
"""

import importlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path


SECONDS_TO_END = 30.0  # for the processes of a killed command, on a machine with other load


@dataclass(frozen=True)
class Command:
    """A command to kill.

    Args:
        run: does the work in a folder, or continues it there.
        read: what must equal the undisturbed run's, by name.
        begin: called in this process before the first start in a new folder.
    """

    run: Callable[[Path], object]
    read: Callable[[Path], dict[str, object]]
    begin: Callable[[Path], object] = lambda output: None


def measure(command: Command, folder: Path, *, num_kills: int, moments: random.Random) -> Iterator[dict]:
    """Runs a command undisturbed, then starts and kills it until it was killed `num_kills` times.

    A trial is a new folder in which the command is started until it ends by itself. Each start is killed at a random
    moment of the time that the undisturbed run took, unless it ends before. After the last kill, the command runs to
    its end.

    Yields:
        The figures so far, after each trial: kills, trials, trials that ended with an error or with another result,
        processes that outlived a kill, and the seconds of the undisturbed run.

    Raises:
        ValueError: the undisturbed run failed.
    """
    run_undisturbed(command, folder / "first")
    for name in (folder / "first.modules").read_text(encoding="utf-8").split():
        with suppress(ImportError):
            importlib.import_module(name)  # the later children inherit it
    seconds = run_undisturbed(command, folder / "undisturbed")
    expected = command.read(folder / "undisturbed")
    result = {"kills": 0, "trials": 0, "failed": 0, "different": 0, "processes_left": 0}
    problems: list[str] = []
    while result["kills"] < num_kills:
        output = folder / f"trial{result['trials']}"
        command.begin(output)
        while True:
            process = start(command, output)
            process.join(moments.uniform(0, seconds) if result["kills"] < num_kills else None)
            if process.exitcode is not None:
                break
            process.kill()
            process.join()
            result["kills"] += 1
            result["processes_left"] += end_session(process)
        status = process.exitcode
        result["trials"] += 1
        result["failed"] += bool(status)
        found = {} if status else command.read(output)
        differing = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        result["different"] += bool(differing) and not status
        if status or differing:
            problems.append(f"{output}: status {status}, differing: {differing[:5]}")
            print(problems[-1], file=sys.stderr, flush=True)
        else:
            shutil.rmtree(output)
        yield {**result, "undisturbed_seconds": round(seconds, 2), "problems": problems}


def run_undisturbed(command: Command, output: Path) -> float:
    """The seconds of a run without kills. ValueError if it fails."""
    began = time.monotonic()
    command.begin(output)
    process = start(command, output)
    process.join()
    if process.exitcode:
        raise ValueError(f"the undisturbed run failed: {Path(f'{output}.log').read_text(encoding='utf-8')[-2000:]}")
    return time.monotonic() - began


def start(command: Command, output: Path) -> BaseProcess:
    """A forked child that runs the command; its output is added to `<output>.log`."""
    return fork(_run, command, output)


def fork(function: Callable[..., object], *arguments: object) -> BaseProcess:
    """A forked child that calls a function; its exit code is 1 if the function raises."""
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    process.start()
    return process


def _run(command: Command, output: Path) -> None:
    os.setsid()
    with open(f"{output}.log", "a", encoding="utf-8") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    command.run(output)
    Path(f"{output}.modules").write_text("\n".join(sys.modules), encoding="utf-8")


def end_session(killed: BaseProcess) -> int:
    """How many processes that a killed one started are running after `SECONDS_TO_END`; they are then killed."""
    session = killed.pid or 0
    deadline = time.monotonic() + SECONDS_TO_END
    while (left := processes_of(session)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in left:
        os.kill(process, signal.SIGKILL)
    return len(left)


def processes_of(session: int) -> list[int]:
    """The running processes of a session, without those that have ended and were not waited for."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, its_session = path.read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
        if int(its_session) == session and state not in "ZX":
            found.append(int(path.parent.name))
    return found
