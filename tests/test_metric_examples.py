"""Runs the examples in the descriptions of the metrics, which are not docstrings."""

import doctest

import evaluate
import pytest


METRICS = ("event_localization", "temporal_grounding", "dense_captioning", "open_ended_qa")


@pytest.mark.parametrize("name", METRICS)
def test_the_example_of_a_metric_runs(name, project_dir, monkeypatch):
    monkeypatch.chdir(project_dir)
    description = evaluate.load(f"eval/metrics/{name}").inputs_description
    examples = doctest.DocTestParser().get_doctest(description, {"evaluate": evaluate}, name, None, 0)
    runner = doctest.DocTestRunner()
    runner.run(examples)
    assert runner.tries > 1 and runner.failures == 0
