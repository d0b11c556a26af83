"""The benchmarks: command lines, recorded conditions, and each one at its smallest size."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import rendering, reproduce
from benchmarks.conditions import RESULTS, describe_conditions, write_results
from dataset_builders.command_line import one_line_errors
from dataset_builders.sandbox.world import make_world
from tests.curation_fixtures import write_captions
from tests.media_files import pictures, tone, write_media


PROJECT = Path(__file__).parents[1]
# Module -> options of a run of seconds; each writes one file of figures, {output}.
SMALLEST = {
    "curation_full_size": "--captions-file {captions} --text-encoder {encoder} --output {work} --num-videos 20 "
    "--num-workers 1 --results {output}",
    "curation_scaling": "--num-captions 500 --results {output}",
    "event_localization": "--num-predictions 50 --rounds 1 --output {output}",
    "feature_extraction": "--num-clips 1 --rounds 1 --output {output}",
    "killed_commands": "--commands build_virtual --num-kills 1 --output {output}",
    "long_videos": "--parts accuracy memory reading question --minutes 1 --output {output}",
    "multi_query": "--num-queries 2 --max-new-tokens 2 --rounds 1 --output {output}",
    "mutated_annotations": "--data-dir {data} --num-files 1 --output {output}",
    "mutated_media": "--media-dir {clips} --num-files 4 --output {output}",
    "mutated_texts": "--num-texts 100 --output {output}",
    "narration": "--num-videos 1 --max-new-tokens 8 --output {output}",
    "protocols": "--unav100 {data}/unav100/unav100_annotations.json.gz --output {output}",
    "rendering": "--clips-dir {clips} --repeats 1 --output {output}",
    "side_by_side": "--earlier . --tokenizer {golden}/llama_tokenizer --sizes tiny --num-queries 2 --rounds 1 "
    "--output {output}",
    "train_throughput": "--batch-size 2 --num-batches 1 --rounds 1 --output {output}",
    "two_workers": "--text-encoder {encoder} --num-clips 12 --num-videos 16 --num-steps 1 --output {output}",
    "virtual_rendered": "--world {world} --num-videos 1 --results {output}",
}
NOT_RUN = {
    "authors_metrics": "needs clones of the authors' repositories",
    "gpu_learning": "needs a GPU; tests/test_gpu_benchmarks.py runs it on the CPU",
    "gpu_queries": "needs a GPU; tests/test_gpu_benchmarks.py runs it on the CPU",
    "gpu_training": "needs a GPU; tests/test_gpu_benchmarks.py runs it on the CPU",
    "reproduce": "takes hours; tests/test_sandbox_recipe.py reads its plan",
    "serving": "needs vLLM",
    "side_ours": "started by side_by_side",
    "side_published": "started by side_by_side; needs the published code",
}


@pytest.mark.parametrize(
    "name",
    [
        "curation_full_size",
        "event_localization",
        "feature_extraction",
        "long_videos",
        "multi_query",
        "narration",
        "rendering",
        "serving",
        "side_by_side",
        "train_throughput",
        "two_workers",
    ],
)
def test_a_wrong_option_of_a_benchmark_is_one_line(name, capsys):
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"benchmarks.{name}").main(["--wrong-option", "1"])
    assert ended.value.code == 2 and capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("event_localization", "--num-predictions 0"),
        ("killed_commands", "--start-method foo"),
        ("multi_query", "--language-model foo"),
        ("multi_query", "--seconds 0"),
        ("mutated_annotations", "--num-files 0"),
        ("mutated_texts", "--num-texts 0"),
        ("rendering", "--clips-dir . --repeats 0"),
        ("train_throughput", "--num-batches 0"),
    ],
)
def test_a_wrong_value_of_a_benchmark_is_one_line(tmp_path, name, options, capsys):
    """They ran with nothing to measure, ended in a traceback, or took another value in silence."""
    output = tmp_path / "figures.json"
    with pytest.raises(SystemExit) as ended, one_line_errors("benchmark"):
        importlib.import_module(f"benchmarks.{name}").main([*options.split(), "--output", str(output)])
    assert ended.value.code == 2 and capsys.readouterr().err.count("\n") == 1 and not output.exists()


def test_a_clip_without_pictures_is_named(tmp_path):
    write_media(tmp_path / "sound.mp4", waveform=tone(1))
    with pytest.raises(ValueError, match=r"sound\.mp4 has no video stream"):
        rendering.main(["--clips-dir", str(tmp_path), "--output", str(tmp_path / "figures.json")])


def test_results_are_written_with_their_conditions(tmp_path):
    conditions = describe_conditions(["numpy"], rounds=3, captions_file=tmp_path / "captions.json")
    write_results(tmp_path / "results" / "x.json", conditions=conditions, results={"seconds": 1.0})
    written = json.loads((tmp_path / "results" / "x.json").read_text())
    assert written["results"] == {"seconds": 1.0} and written["conditions"]["captions_file"] == "captions.json"
    assert {"date", "git_commit", "num_cores", "python", "numpy", "load_average_at_end"} <= set(written["conditions"])


def test_side_by_side_says_what_it_skips(capsys):
    """Without the published code, UnAV's and a tokenizer."""
    importlib.import_module("benchmarks.side_by_side").main([])
    output = capsys.readouterr().out
    assert "answers and training are skipped" in output and "the mAP of UnAV-100 is skipped" in output


@pytest.mark.parametrize(
    ("result", "expected", "is_equal"),
    [
        ([" a b.", "\ufffdc"], ["a b .", "c"], True),
        (["a"], ["b"], False),
        ([1, 2], [1, 2], True),
        ([1, 2], [1, 3], False),
        (2.00001, 2.0, True),
        (2.1, 2.0, False),
    ],
)
def test_sides_agree_if_ids_texts_and_losses_are_equal(result, expected, is_equal):
    from benchmarks.side_by_side import agree

    assert agree(result, expected) is is_equal


def write_clips(folder: Path, *, seconds: int = 1) -> Path:
    folder.mkdir()
    for number in range(3):
        sound = tone(seconds, frequency=440.0 * (number + 1))
        write_media(folder / f"clip{number}.mp4", frames=pictures(10 * seconds), waveform=sound)
    return folder


def test_every_benchmark_has_a_smallest_size_or_a_reason():
    programs = {
        path.stem for path in (PROJECT / "benchmarks").glob("*.py") if "__main__" in path.read_text(encoding="utf-8")
    }
    assert programs == SMALLEST.keys() | NOT_RUN.keys()


def test_rendering_is_compared_with_the_encoder(tmp_path, monkeypatch):
    monkeypatch.setattr(rendering, "FORMAT", {"width": 64, "height": 48, "fps": 10})
    monkeypatch.setattr(rendering, "NUM_JOBS", 2)
    output = tmp_path / "rendering.json"
    rendering.main(["--clips-dir", str(write_clips(tmp_path / "clips")), "--repeats", "1", "--output", str(output)])
    results = json.loads(output.read_text())["results"]
    for preset in rendering.PRESETS:
        figures = results[f"preset_{preset}"]
        assert figures["video_seconds"] == pytest.approx(sum(rendering.SCALES), abs=0.2)
        assert figures["ratio_cpu"] > 0 and figures["bytes"] > 0
    assert results["scaling"]["num_videos"] == 2


def test_reproduction_without_a_finished_row_keeps_the_results(tmp_path):
    results = tmp_path / "results.json"
    with pytest.raises(ValueError, match="no row is finished"):
        reproduce.main(["--collect", "true", "--output", str(tmp_path / "none"), "--results", str(results)])
    assert not results.exists()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, sentence_encoder_dir, shared_dir) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("inputs")
    make_world(folder / "world", num_clips=12, num_background_clips=2)
    return {
        "captions": write_captions(folder / "captions.json"),
        "clips": write_clips(folder / "clips"),
        "data": shared_dir / "data",
        "encoder": sentence_encoder_dir,
        "golden": shared_dir / "golden",
        "world": folder / "world",
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLEST)
def test_a_benchmark_runs_at_its_smallest_size(tmp_path, inputs, name):
    output = tmp_path / "figures.json"
    options = SMALLEST[name].format(**inputs, output=output, work=tmp_path / "work").split()
    before = {path: path.read_bytes() for path in RESULTS.iterdir()}
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "HF_DATASETS_CACHE": str(tmp_path / "datasets")}
    command = [sys.executable, "-m", f"benchmarks.{name}", *options]
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    written = json.loads(output.read_text(encoding="utf-8"))
    assert written and written.get("results", True)
    assert {path: path.read_bytes() for path in RESULTS.iterdir()} == before
