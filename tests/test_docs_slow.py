"""Everything that the pages show, typed into a shell as it stands there but for `SHORTER`: `make test-slow`, about half an hour.

tests/test_docs.py runs most of it within seconds in one process. Here nothing is shared between two commands but files, and
what takes minutes is run, too: all stages, both studies, lmms-eval, the demo.
"""

import os
import subprocess
import sys

import pytest

from tests.documentation import PROJECT, snippets
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


def test_make_docs_documents_every_module(tmp_path):
    modules = f"modules:\n\t@echo $(MODULES)\ninclude {PROJECT / 'Makefile'}\n"
    told = subprocess.run(["make", "-f", "-"], input=modules, cwd=PROJECT, capture_output=True, text=True, check=True)
    command = [sys.executable, "-m", "pdoc", "--docformat", "google", "--output-directory", str(tmp_path)]
    done = subprocess.run(
        [*command, *told.stdout.split()], cwd=PROJECT, env=dict(os.environ), capture_output=True, text=True
    )
    assert done.returncode == 0 and "Warn" not in done.stderr, done.stderr[-3000:]
    pages = {".".join(page.relative_to(tmp_path).with_suffix("").parts) for page in tmp_path.rglob("*.html")}
    assert set(told.stdout.split()) <= pages and len(pages) > 100
