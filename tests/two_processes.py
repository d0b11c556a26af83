"""Runs a module on two processes of this machine's CPU, and never longer than it may. Not a test itself.

`accelerate launch --cpu --num_processes 2` starts one process and says nothing, so torchrun starts them here.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path


PROJECT = Path(__file__).parents[1]
# DeepSpeed compiles its CPU communication once: per checkout, so that no other project's lock can stop these tests
EXTENSIONS = PROJECT / "outputs" / "torch_extensions"
TIMEOUT = 400.0


def run_on_two_processes(module: str, *arguments: str, timeout: float = TIMEOUT, succeeds: bool = True) -> str:
    """What the processes of `python -m module arguments` wrote; a failed start is an error with all of it.

    Args:
        timeout: seconds after which all of them are killed, and the test fails.
        succeeds: whether the run must end with status 0, or must not.
    """
    remove_stale_locks(EXTENSIONS)
    environment = {
        **os.environ,
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "TORCH_EXTENSIONS_DIR": str(EXTENSIONS),
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--rdzv_backend", "c10d"]
    command += ["--rdzv_endpoint", "127.0.0.1:0", "-m", module, *arguments]
    process = subprocess.Popen(
        command,
        cwd=PROJECT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        raise AssertionError(f"{module} did not end within {timeout:.0f} s:\n{output[-6000:]}") from None
    assert (process.returncode == 0) == succeeds, f"status {process.returncode}:\n{output[-8000:]}"
    return output


def remove_stale_locks(extensions: Path):
    """A compilation that was killed leaves its lock, and torch would wait for it without end."""
    for lock in extensions.glob("*/lock"):
        if time.time() - lock.stat().st_mtime > TIMEOUT:
            lock.unlink()
