"""The parts of benchmarks/on_gpu.sh at tiny size on the CPU, and the options that the script gives them."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import feature_extraction, gpu_learning, gpu_queries, gpu_training
from dataset_builders.command_line import parse_options
from train.packed_attention import runs_varlen


SCRIPT = Path(__file__).parents[1] / "benchmarks" / "on_gpu.sh"
OPTIONS = {
    "benchmarks.gpu_training": gpu_training.TrainingOptions,
    "benchmarks.gpu_queries": gpu_queries.QueryOptions,
    "benchmarks.gpu_learning": gpu_learning.LearningOptions,
    "benchmarks.feature_extraction": feature_extraction.ExtractionOptions,
}


def read_results(path):
    return json.loads(path.read_text())["results"]


def test_training_of_every_form_and_stage(tmp_path):
    path = tmp_path / "training.json"
    gpu_training.main(
        f"--device cpu --size tiny --steps 1 --batch-size 2 --large-batch-size 3 --output {path}".split()
    )
    results = read_results(path)
    assert len(results) == 11 and not any("failed" in figures for figures in results.values())
    for stage in ("I", "III"):
        losses = [
            figures["training_loss"]
            for name, figures in results.items()
            if name.startswith(f"stage {stage},") and "large batch" not in name
        ]
        assert losses == pytest.approx(losses[:1] * len(losses), abs=1e-3)
    # the estimate behind MFU; the operations of padding and of recomputation are not in it
    counted = {name: figures["counted_by_estimated_matmul_flops"] for name, figures in results.items()}
    assert counted["stage I, flattened"] == pytest.approx(1, abs=0.1)
    assert counted["stage III, flattened"] == pytest.approx(1, abs=0.1)
    assert counted["stage I, flattened, gradient checkpointing"] > 1.2
    assert counted["stage III, padded"] >= counted["stage III, flattened"]


def test_queries_about_one_video(tmp_path):
    path = tmp_path / "queries.json"
    gpu_queries.main(
        f"--device cpu --size tiny --minutes 0.1 --num-queries 4 --num-separate 2 --batch-sizes 4 --rounds 1 "
        f"--output {path}".split()
    )
    results = read_results(path)
    assert results["queries"]["together, 4 at once"]["share_of_equal_answers"] == 1
    assert results["by_length"]["0.1 min"]["seconds"] > 0


def test_feature_extraction(tmp_path):
    path = tmp_path / "features.json"
    feature_extraction.main(f"--num-clips 1 --rounds 1 --output {path}".split())
    assert {"decode", "decode_and_prepare", "extract"} <= set(read_results(path))


@pytest.mark.parametrize("device, size", [("cuda", "7b"), ("cpu", "tiny")])
def test_the_script_calls_every_part_with_known_options(device, size, tmp_path):
    record = tmp_path / "python"
    record.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n')
    record.chmod(0o755)
    parts = "training queries four_bit liger features learning"
    environment = {**os.environ, "PYTHON": str(record), "DEVICE": device, "SIZE": size, "PARTS": parts}
    subprocess.run(["bash", SCRIPT, tmp_path / "out", tmp_path], env=environment, check=True, timeout=60)
    calls = [line.split() for line in (tmp_path / "calls").read_text().splitlines()]
    assert len(calls) == 8  # of which two are gpu_learning
    for _, module, *words in calls:
        parse_options(OPTIONS[module], words, program=module, description=module)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_script_on_the_cpu(tmp_path):
    four_bit = importlib.util.find_spec("bitsandbytes") is not None  # optional
    parts = "training queries features learning" + " four_bit" * four_bit
    environment = {**os.environ, "PYTHON": sys.executable, "DEVICE": "cpu", "SIZE": "tiny", "PARTS": parts}
    subprocess.run(["bash", SCRIPT, tmp_path], env=environment, check=True, timeout=1800)
    assert "failed" not in str(read_results(tmp_path / "training.json"))
    assert read_results(tmp_path / "learning.json")["stage III by LoRA"]["scores"]
    assert (tmp_path / "queries.json").exists() and (tmp_path / "features.json").exists()
    assert (tmp_path / "queries_4bit.json").exists() == four_bit


def test_the_kernel_for_samples_of_different_lengths_is_for_gpus_only():
    assert not runs_varlen(torch.zeros(1, 2, 3, 4, dtype=torch.bfloat16), dropout=0.0)
