"""Runs all snippets of the pages through a shell, each in a new process (`make test-slow`, about 15 minutes).

Unlike tests/test_docs.py this includes the snippets that take minutes: all stages, both studies, lmms-eval, the demo.
"""

import pytest

from tests.documentation import snippets
from tests.snippet_runner import SnippetRunner


SNIPPETS = [snippet for snippet in snippets() if snippet.place != "nowhere"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]


@pytest.fixture(scope="module")
def runner(tmp_path_factory, sentence_encoder_dir):
    folder = tmp_path_factory.mktemp("docs")
    with SnippetRunner(folder, sentence_encoder=sentence_encoder_dir, in_shell=True) as snippet_runner:
        yield snippet_runner


@pytest.mark.parametrize("snippet", SNIPPETS, ids=str)
def test_a_snippet_runs_in_a_shell_and_has_its_effect(snippet, runner):
    """These tests depend on the outputs of the earlier ones."""
    runner.run(snippet)
    runner.raise_error(snippet)
    runner.check_effect(snippet)
