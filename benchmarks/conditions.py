"""What the figures of a benchmark depend on beside the code, and the result file that holds both."""

import os
import platform
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dataset_builders.atomic_files import write_json
from dataset_builders.release.provenance import git_commit, package_versions


RESULTS = Path(__file__).parent / "results"


def describe_conditions(packages: Iterable[str] = (), **more: Any) -> dict[str, Any]:
    """Date, commit, processor, cores, load and versions at the start of a measurement.

    Args:
        packages: distributions whose versions matter.
        more: settings of the measurement; paths are reduced to their last part.
    """
    settings = {name: value.name if isinstance(value, Path) else value for name, value in more.items()}
    return {
        "date": time.strftime("%Y-%m-%d"),
        "git_commit": git_commit(),
        "processor": processor_name(),
        "num_cores": os.cpu_count(),
        "load_average_at_start": load_average(),
        "python": platform.python_version(),
        **package_versions(packages),
        **settings,
    }


def write_results(path: Path, *, conditions: dict[str, Any], results: Any) -> None:
    """Writes `{"conditions", "results"}` as JSON, with the load at the end of the measurement, and prints the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"conditions": {**conditions, "load_average_at_end": load_average()}, "results": results})
    print(path.read_text(encoding="utf-8"), end="")
    print(f"written to {path}")


def load_average() -> list[float]:
    """Of the last 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


def processor_name() -> str:
    """The model of the processor, as Linux reports it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
