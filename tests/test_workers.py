"""Jobs in several processes: the same results as in one, errors are passed on. Processes end with their starter."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from dataset_builders.workers import run_jobs


SLEEP = "import os, time; open(os.environ['RUNNING'], 'a').write('1'); time.sleep(60)"
COMMAND = f"from dataset_builders.command_line import one_line_errors\nwith one_line_errors('command'): {SLEEP}"
LAUNCHER = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {COMMAND!r}])"
STARTERS = {  # by kind: the program, how many processes it starts at least, and how many of them sleep
    "pool of workers": (
        "from dataset_builders.workers import run_jobs\n"
        "if __name__ == '__main__':\n"
        f"    list(run_jobs(exec, [({SLEEP!r},)] * 4, num_workers=2, name='jobs', unit='job'))",
        2,
        2,
    ),
    "command with a launcher": (
        "import subprocess, sys; from dataset_builders.workers import supervised_environment\n"
        f"subprocess.run([sys.executable, '-c', {LAUNCHER!r}], env=supervised_environment())",
        2,
        1,
    ),
    "check of a release": (
        "from pathlib import Path; from model_card.release.fresh_process import run_in_fresh_process\n"
        f"run_in_fresh_process({SLEEP!r}, Path())",
        1,
        1,
    ),
}


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


def fail_or_append(number, path):
    if number == 0:
        raise ZeroDivisionError
    time.sleep(0.2)
    with open(path, "a", encoding="utf-8") as file:
        file.write("1")


@pytest.mark.parametrize("num_workers", [1, 2])
def test_after_an_error_no_other_job_is_started(tmp_path, num_workers):
    jobs = [(number, str(tmp_path / "done")) for number in range(40)]
    with pytest.raises(ZeroDivisionError):
        list(run_jobs(fail_or_append, jobs, num_workers=num_workers, name="jobs", unit="job"))
    done = tmp_path / "done"
    assert not done.exists() or done.stat().st_size < 20


def test_a_killed_worker_is_an_error():
    with pytest.raises(ChildProcessError, match="numbers: one of 2 worker processes was killed"):
        list(run_jobs(os._exit, [(1,), (1,)], num_workers=2, name="numbers", unit="job"))


INTERRUPTED = """
from dataset_builders.command_line import one_line_errors
from dataset_builders.workers import run_jobs
if __name__ == "__main__":
    with one_line_errors("python -m command"):
        list(run_jobs(exec, [({sleep!r},)] * 6, num_workers={num_workers}, name="jobs", unit="job"))
"""


@pytest.mark.parametrize("num_workers", [1, 2])
def test_ctrl_c_ends_a_command_and_its_workers_in_one_line(tmp_path, num_workers):
    script, running = tmp_path / "command.py", tmp_path / "running"
    script.write_text(INTERRUPTED.format(sleep=SLEEP, num_workers=num_workers), encoding="utf-8")
    running.touch()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "RUNNING": str(running)}
    command = psutil.Popen(
        [sys.executable, str(script)],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # a test run in the background of a script would pass on that the signal is ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_for_jobs(command, running, num_workers)
    children = command.children(recursive=True)
    os.killpg(command.pid, signal.SIGINT)  # as a terminal does
    _, errors = command.communicate(timeout=30)
    assert command.returncode == 130
    assert errors.rstrip().endswith("python -m command: interrupted") and "Traceback" not in errors
    assert not psutil.wait_procs(children, timeout=20)[1]


def wait_for_jobs(process, running, number):
    """Waits until `number` jobs of SLEEP are running."""
    deadline = time.monotonic() + 120
    while running.stat().st_size < number:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("kind", STARTERS)
def test_processes_end_when_their_starter_is_killed(kind, tmp_path):
    program, num_started, num_sleeping = STARTERS[kind]
    script, running = tmp_path / "starter.py", tmp_path / "running"
    script.write_text(program, encoding="utf-8")
    running.touch()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "RUNNING": str(running)}
    starter = psutil.Popen([sys.executable, str(script)], env=environment, stderr=subprocess.DEVNULL)
    wait_for_jobs(starter, running, num_sleeping)
    children = starter.children(recursive=True)
    starter.kill()
    starter.wait()
    _, alive = psutil.wait_procs(children, timeout=20)
    left = [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    for process in left:
        process.kill()
    assert len(children) >= num_started and not left
