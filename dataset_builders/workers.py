"""Run jobs in this process or in worker processes, with a progress bar. Workers exit when their parent exits."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing.connection import wait
from typing import TypeVar

from tqdm import tqdm


Result = TypeVar("Result")
START_METHOD = "spawn"  # a forked child would inherit the threads of other libraries in an unknown state


def run_jobs(
    function: Callable[..., Result], jobs: Sequence[tuple], *, num_workers: int, name: str, unit: str
) -> Iterator[Result]:
    """
    Calls `function(*job)` for every job.

    Args:
        function, jobs: must be picklable, since workers are started by spawning.
        num_workers: processes; 1 runs the jobs here, in order.
        name, unit: of the progress bar.

    Returns:
        The results in order of completion.

    Raises:
        ValueError: fewer than one worker.
    """
    if num_workers < 1:
        raise ValueError(f"there must be at least 1 worker, got {num_workers}")
    with tqdm(total=len(jobs), desc=name, unit=unit) as progress:
        if num_workers == 1 or len(jobs) < 2:
            for job in jobs:
                yield function(*job)
                progress.update()
            return
        context = multiprocessing.get_context(START_METHOD)
        num_workers = min(num_workers, len(jobs))
        with ProcessPoolExecutor(num_workers, mp_context=context, initializer=end_with_parent) as pool:
            for task in as_completed([pool.submit(function, *job) for job in jobs]):
                yield task.result()
                progress.update()


def end_with_parent() -> None:
    """Exit this process as soon as its parent is gone for any reason (including `kill -9` and out of memory)."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_wait_and_exit, args=[parent.sentinel], daemon=True).start()


def _wait_and_exit(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
