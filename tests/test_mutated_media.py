"""A short run of benchmarks/mutated_media.py: reproducible damage and a complete report."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.media_files import pictures, tone, write_media


PROJECT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_damaged_files_give_a_correct_result_or_an_error_that_names_them(tmp_path):
    for name in ("a.mp4", "a.mkv"):
        write_media(tmp_path / name, frames=pictures(20), waveform=tone(2.0))
    output = tmp_path / "results.json"
    command = [sys.executable, "-m", "benchmarks.mutated_media", "--media-dir", str(tmp_path), "--output", str(output)]
    reports = []
    for _ in range(2):
        subprocess.run([*command, "--num-files", "40"], cwd=PROJECT, check=True, capture_output=True, timeout=600)
        reports.append(json.loads(output.read_text())["results"])
    assert set(reports[0]["outcomes"]) <= {"right result", "MediaError"} and reports[0]["failures"] == []
    assert sum(reports[0]["outcomes"].values()) == 40 == reports[0]["num_files"]
    assert reports[0]["outcomes_by_damage"] == reports[1]["outcomes_by_damage"]
