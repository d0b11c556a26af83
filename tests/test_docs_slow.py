"""Everything that the pages show, typed into a shell as it stands there but for `SHORTER` (`make test-slow`).

tests/test_docs.py runs most of it within seconds in one process. Here nothing is shared between two commands but
files, and
what takes minutes is run, too: all stages, both studies, lmms-eval, the demo. About a quarter of an hour.
"""

import pytest

from tests.documentation import snippets
from tests.reader import Reader


SNIPPETS = [snippet for snippet in snippets() if snippet.place != "nowhere"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]


@pytest.fixture(scope="module")
def reader(tmp_path_factory, sentence_encoder_dir):
    with Reader(tmp_path_factory.mktemp("reader"), sentence_encoder=sentence_encoder_dir, in_shell=True) as somebody:
        yield somebody


@pytest.mark.parametrize("snippet", SNIPPETS, ids=str)
def test_typed_into_a_shell_it_leaves_what_it_should(snippet, reader):
    """The tests of this module follow one another: each goes on with what those before it have left."""
    reader.run(snippet)
    reader.raise_what_went_wrong(snippet)
    reader.check_effect(snippet)
