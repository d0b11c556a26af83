"""Command lines of the benchmarks, and the conditions that they record."""

import importlib
import json

import pytest

from benchmarks.conditions import describe_conditions, write_results


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
        "two_workers",
    ],
)
def test_a_wrong_option_of_a_benchmark_is_one_line(name, capsys):
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"benchmarks.{name}").main(["--wrong-option", "1"])
    assert ended.value.code == 2 and capsys.readouterr().err.count("\n") == 1


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
