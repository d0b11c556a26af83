"""Stops a stage when the `run_stages` process that started it has exited for any reason, including `kill -9`.

The launcher between them (`accelerate launch`) would let the stage continue. `run_stages` passes its process id in the
environment, and each process of the stage polls it.
"""

import os
import socket
import threading
import time

import psutil


VARIABLE = "AVICUNA_RUN_STAGES"  # "host:process id"
SECONDS_BETWEEN_CHECKS = 1.0


def supervised_environment() -> dict[str, str]:
    """The environment of a stage that is to stop with this process."""
    return {**os.environ, VARIABLE: f"{socket.gethostname()}:{os.getpid()}"}


def end_with_run_stages() -> None:
    """Starts a thread that polls the `run_stages` process of this stage, if there is one on this host."""
    host, _, process_id = os.environ.get(VARIABLE, "").rpartition(":")
    if host == socket.gethostname():
        threading.Thread(target=_watch, args=[int(process_id)], daemon=True).start()


def _watch(process_id: int) -> None:
    try:
        process = psutil.Process(process_id)
        while process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(SECONDS_BETWEEN_CHECKS)
    except psutil.NoSuchProcess:
        pass
    os._exit(1)
