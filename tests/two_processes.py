"""Runs a module in two CPU processes with a time limit.

`accelerate launch --cpu --num_processes 2` starts one process without a warning, so torchrun is used.
"""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


PROJECT = Path(__file__).parents[1]
# DeepSpeed compiles its CPU communication once, which takes minutes on a busy machine; in the checkout, so that no
# lock of another project blocks the tests
EXTENSIONS = PROJECT / "outputs" / "torch_extensions"
TIMEOUT = 800.0


def run_on_two_processes(module: str, *arguments: str, timeout: float = TIMEOUT, succeeds: bool = True) -> str:
    """Run `python -m module arguments` in two processes and return their output.

    Args:
        timeout: seconds after which the processes are terminated and the test fails.
        succeeds: whether the exit status must be 0.
    """
    environment = {
        **os.environ,
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "TORCH_EXTENSIONS_DIR": str(EXTENSIONS),
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--rdzv_backend", "c10d"]
    command += ["--rdzv_endpoint", "127.0.0.1:0", "-m", module, *arguments]
    with without_stale_locks(EXTENSIONS):
        process = subprocess.Popen(
            command,
            cwd=PROJECT,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.terminate()  # torchrun then ends its workers, which it does not when killed
            output, _ = process.communicate(timeout=60)
            raise AssertionError(f"{module} did not end within {timeout:.0f} s:\n{output[-6000:]}") from None
    assert (process.returncode == 0) == succeeds, f"status {process.returncode}:\n{output[-8000:]}"
    return output


@contextmanager
def without_stale_locks(extensions: Path) -> Iterator[None]:
    """Remove the lock files of killed compilations, on which the next compilation would wait forever.

    A file lock (flock) shows whether another process uses this folder; the kernel releases it when a process dies.
    """
    extensions.mkdir(parents=True, exist_ok=True)
    with open(extensions / "in_use", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            for lock in extensions.glob("*/lock"):
                lock.unlink()
        fcntl.flock(file, fcntl.LOCK_SH)
        yield
