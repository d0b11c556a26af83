"""Each docstring example of the annotation readers and builders runs."""

import doctest
import importlib

import pytest


MODULES_WITH_EXAMPLES = (
    "card_facts",
    "curation_report",
    "mixture",
    "wordings",
    "sources.audio_captions",
    "sources.audio_selection",
    "sources.questions",
    "sources.rows",
    "sources.timed_events",
)


@pytest.mark.parametrize("name", MODULES_WITH_EXAMPLES)
def test_the_examples_of_the_docstrings_hold(name):
    result = doctest.testmod(importlib.import_module(f"dataset_builders.{name}"))
    assert result.attempted > 0 and result.failed == 0
