"""Jobs in several processes: the same results as in one, errors are passed on, and workers end with their parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from dataset_builders.workers import run_jobs


PARENT = """
import sys, time
from dataset_builders.workers import run_jobs

if __name__ == "__main__":
    for _ in run_jobs(time.sleep, [(60,)] * 4, num_workers=2, name="jobs", unit="job"):
        pass
"""


def divide(number, divisor):
    return number // divisor


@pytest.mark.parametrize("num_workers", [1, 2])
def test_all_jobs_are_run(num_workers):
    jobs = [(number, 2) for number in range(10)]
    results = run_jobs(divide, jobs, num_workers=num_workers, name="jobs", unit="job")
    assert sorted(results) == [number // 2 for number in range(10)]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_error_of_a_job_is_raised(num_workers):
    with pytest.raises(ZeroDivisionError):
        list(run_jobs(divide, [(1, 1), (1, 0)], num_workers=num_workers, name="jobs", unit="job"))
    with pytest.raises(ValueError, match="at least 1 worker, got 0"):
        list(run_jobs(divide, [(1, 1)], num_workers=0, name="jobs", unit="job"))


def test_workers_end_when_their_parent_is_killed(tmp_path):
    (tmp_path / "parent.py").write_text(PARENT, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    parent = psutil.Popen([sys.executable, str(tmp_path / "parent.py")], env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(children := parent.children(recursive=True)) < 3:  # two workers and the resource tracker
        assert parent.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(2)  # the workers run their jobs
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    _, alive = psutil.wait_procs(children, timeout=20)
    for process in alive:
        process.kill()
    assert not alive
