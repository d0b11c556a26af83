"""Worker processes for jobs, and other processes that exit when the process that started them is gone.

They exit for any reason of its end, including `kill -9` and a lack of memory: a process that is left behind holds
memory and devices, and writes into the folder that the restarted command uses. The pool's workers watch their parent.
A command of this project that another one starts watches the process named in its environment, since a launcher
(`accelerate launch`) between the two would let it continue.
"""

import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from typing import TypeVar

from tqdm import tqdm


Result = TypeVar("Result")
STARTER = "AVICUNA_STARTER"  # environment variable, "host:process id"
SECONDS_BETWEEN_CHECKS = 1.0
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
        ChildProcessError: a worker was killed.
        Exception: the first error of a job. Running jobs end first, and no other one is started.
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
            try:
                for task in as_completed([pool.submit(function, *job) for job in jobs]):
                    yield task.result()
                    progress.update()
            except BrokenProcessPool as error:
                raise ChildProcessError(
                    f"{name}: one of {num_workers} worker processes was killed, perhaps for lack of memory"
                ) from error
            finally:
                pool.shutdown(wait=False, cancel_futures=True)  # after an error, no other job is started


def end_with_parent() -> None:
    """Ends this worker when its parent is gone, and at once on Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_wait_and_exit, args=[parent], daemon=True).start()


def _wait_and_exit(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


def supervised_environment(**changes: str) -> dict[str, str]:
    """The environment, with changes, of a command of this project that is to end when this process is gone."""
    return {**os.environ, **changes, STARTER: f"{socket.gethostname()}:{os.getpid()}"}


def end_with_starter() -> None:
    """Ends this process when the one that started it with `supervised_environment` on this host is gone."""
    host, _, process_id = os.environ.get(STARTER, "").rpartition(":")
    if host == socket.gethostname():
        threading.Thread(target=_poll_and_exit, args=[int(process_id)], daemon=True).start()


def _poll_and_exit(process_id: int) -> None:
    import psutil  # a dependency of Accelerate, which every command that starts others needs

    try:
        process = psutil.Process(process_id)
        while process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(SECONDS_BETWEEN_CHECKS)
    except psutil.NoSuchProcess:
        pass
    os._exit(1)
