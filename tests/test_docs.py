"""Runs each command and snippet of README.md and docs/ in the order of the pages and checks its output.

All run in one folder: `outputs/` is the output of earlier commands, `data/` and `weights/` are small files in the
published formats, the Hub and the judge are local servers. `AT_MOST` and `SHORTER` in tests/documentation.py list all
changes of a command. Most run in this process, because importing the libraries takes seconds; those of `IN_A_SHELL`
run through a shell. tests/test_docs_slow.py (`make test-slow`) runs everything through a shell, including the snippets
that take minutes.
"""

import re

import pytest

from tests.documentation import NOWHERE, PAGES, PROJECT, fences, snippets
from tests.snippet_runner import SnippetRunner


SNIPPETS = snippets()
RUN = [snippet for snippet in SNIPPETS if snippet.place in ("here", "shell")]


@pytest.fixture(scope="module")
def runner(tmp_path_factory, sentence_encoder_dir):
    with SnippetRunner(tmp_path_factory.mktemp("docs"), sentence_encoder=sentence_encoder_dir) as snippet_runner:
        yield snippet_runner


@pytest.mark.parametrize("snippet", RUN, ids=str)
def test_a_snippet_runs_and_has_its_effect(snippet, runner):
    runner.run_through(snippet, RUN)
    runner.raise_error(snippet)
    runner.check_effect(snippet)


def test_every_snippet_is_run_by_a_test():
    """In this file or in tests/test_docs_slow.py; `make test` runs these tests."""
    places = {snippet: snippet.place for snippet in SNIPPETS}
    assert set(places.values()) == {"here", "shell", "slow", "nowhere"}
    nowhere = [" ".join(snippet.text.split()[:2]) for snippet, place in places.items() if place == "nowhere"]
    assert list(dict.fromkeys(nowhere)) == list(NOWHERE)
    assert len([place for place in places.values() if place == "slow"]) <= len(SNIPPETS) / 6
    assert (PROJECT / ".ci/run").read_text(encoding="utf-8").splitlines()[-1] == "make test"


def test_builds_by_one_machine_slurm_and_datatrove_are_identical(runner):
    folders = [runner.folder / "outputs" / f"pu_valor_{engine}" for engine in ("full", "slurm", "datatrove")]
    shards = [{path.name: path.read_bytes() for path in (folder / "data").iterdir()} for folder in folders]
    assert len(shards[0]) == 2 and shards[0] == shards[1] == shards[2]


def test_the_published_recipe_trained_the_model_of_the_hub(runner):
    summary = runner.read_json("outputs/stage3_time_event/training_summary.json")
    assert summary["stage"] == "stage3_time_event" and summary["precision"] == "bf16"
    assert summary["world_size"] == 2
    assert summary["recipe"]["deepspeed"] == "ds_config.json" and summary["recipe"]["use_peft"] is True
    assert summary["started_from"]["origin"]["parts"]["language_model"] == "lmsys/vicuna-7b-v1.5"
    assert set(summary["rows_per_source"]) == {"pseudo-valor", "vtimellm"}


def test_the_snippets_published_models_and_datasets(runner):
    hub = runner.hub
    model = hub.branches["models", "user/avicuna", "v1"]
    assert b'revision="v1"' in model["README.md"] and "model.safetensors" in model
    assert ("models", "user/avicuna") in hub.private
    adapter = hub.repos["models", "user/avicuna-lora"]
    assert b"license: llama2" in adapter["README.md"] and "adapter_model.safetensors" in adapter
    assert "data/train-00000-of-00001.parquet" in hub.repos["datasets", "user/pu_valor"]
    assert ("datasets", "user/pu_valor_small") in hub.private


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_short_ascii_with_a_language_for_each_block(page):
    text = (PROJECT / page).read_text(encoding="utf-8")
    assert text.isascii() and len(text.splitlines()) <= 150
    assert {language for language, _ in fences(page)} <= {"bash", "json", "python"}
    if page.startswith("docs/"):
        assert [line for line in text.splitlines() if len(line) > 119 and not line.startswith("|")] == []


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md"])
def test_link_targets_exist(page):
    text = (PROJECT / page).read_text(encoding="utf-8")
    targets = [target for target in re.findall(r"\]\(([^)#]+)", text) if not target.startswith("http")]
    assert [target for target in targets if not (PROJECT / page).parent.joinpath(target).exists()] == []


def test_all_pages_are_listed():
    assert {f"docs/{path.name}" for path in (PROJECT / "docs").glob("*.md")} == {
        p for p in PAGES if p.startswith("docs/")
    }


def test_the_api_reference_is_generated_from_the_docstrings(tmp_path):
    pdoc = pytest.importorskip("pdoc", reason="pdoc is not installed: the extra `docs`")
    from pdoc import render

    render.configure(docformat="google")
    pdoc.pdoc("modeling_avicuna.timestamp_avicuna", "model_card.release.fresh_process", output_directory=tmp_path)
    page = (tmp_path / "modeling_avicuna" / "timestamp_avicuna.html").read_text(encoding="utf-8")
    assert "parse_events" in page and "TimeCodec" in page
    page = (tmp_path / "model_card" / "release" / "fresh_process.html").read_text(encoding="utf-8")
    assert "Load a release with its remote code" in page
