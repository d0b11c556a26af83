"""Runs a module on two processes of this machine's CPU, and never longer than it may. Not a test itself.

`accelerate launch --cpu --num_processes 2` starts one process and says nothing, so torchrun starts them here.
"""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


PROJECT = Path(__file__).parents[1]
# DeepSpeed compiles its CPU communication once: per checkout, so that no other project's lock can stop these tests
EXTENSIONS = PROJECT / "outputs" / "torch_extensions"
TIMEOUT = 400.0


def run_on_two_processes(module: str, *arguments: str, timeout: float = TIMEOUT, succeeds: bool = True) -> str:
    """What the processes of `python -m module arguments` wrote; a failed start is an error with all of it.

    Args:
        timeout: seconds after which all of them are ended, and the test fails.
        succeeds: whether the run must end with status 0, or must not.
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
            process.terminate()  # torchrun ends its workers then; killed, it would leave them behind
            output, _ = process.communicate(timeout=60)
            raise AssertionError(f"{module} did not end within {timeout:.0f} s:\n{output[-6000:]}") from None
    assert (process.returncode == 0) == succeeds, f"status {process.returncode}:\n{output[-8000:]}"
    return output


@contextmanager
def without_stale_locks(extensions: Path) -> Iterator[None]:
    """A compilation that was killed leaves torch's lock, which the next one would wait for without end.

    Where nobody else runs from this folder, a lock there is nobody's; the kernel forgets who runs when they are
    killed.
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
