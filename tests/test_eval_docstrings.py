"""Each example in a docstring of the evaluation room runs and gives what it says."""

import doctest
import importlib

import evaluate
import pytest


MODULES = (
    "eval.judge_client",
    "eval.lmms_plugin.content",
    "eval.metrics.dense_captioning.captions",
    "eval.metrics.event_localization.average_precision",
    "eval.metrics.open_ended_qa.answers",
    "eval.metrics.temporal_grounding.spans",
    "eval.metrics.temporal_iou",
    "eval.tasks.question_answering",
)
METRICS = ("event_localization", "temporal_grounding", "dense_captioning", "open_ended_qa")


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_a_module(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0 and result.failed == 0


@pytest.mark.parametrize("name", METRICS)
def test_the_example_of_a_metric_runs_from_the_checkout_as_it_stands(name, project_dir, monkeypatch):
    monkeypatch.chdir(project_dir)
    description = evaluate.load(f"eval/metrics/{name}").inputs_description
    examples = doctest.DocTestParser().get_doctest(description, {"evaluate": evaluate}, name, None, 0)
    runner = doctest.DocTestRunner()
    runner.run(examples)
    assert runner.tries > 1 and runner.failures == 0
