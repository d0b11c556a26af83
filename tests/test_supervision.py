"""A stage ends when the process that started it is killed, also through a launcher."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil


PROJECT = Path(__file__).parents[1]
STAGE = "import time; from train.supervision import end_with_run_stages; end_with_run_stages(); print(1, flush=True); time.sleep(60)"  # noqa: E501
LAUNCHER = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {STAGE!r}])"
RUNNER = (
    "import subprocess, sys; from train.supervision import supervised_environment; "
    f"subprocess.run([sys.executable, '-c', {LAUNCHER!r}], env=supervised_environment())"
)


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_the_stage_of_a_killed_run_ends():
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    runner = subprocess.Popen([sys.executable, "-u", "-c", RUNNER], env=environment, stdout=subprocess.PIPE)
    assert runner.stdout is not None and runner.stdout.read(1) == b"1"  # the stage is running
    processes = psutil.Process(runner.pid).children(recursive=True)
    assert len(processes) == 2
    runner.kill()
    runner.wait()
    deadline = time.monotonic() + 20
    while any(map(is_alive, processes)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(is_alive, processes))
