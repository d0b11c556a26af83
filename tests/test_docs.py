"""Each command and snippet of README.md and docs/ is run, in the order of the pages, and leaves what the page says it
leaves.

A reader with a folder of his own does so: `outputs/` is what his commands made, `data/` and `weights/` are small files
in the published forms, the Hub and the judge are stand-ins on this machine. `SHORTER` in tests/documentation.py lists
all that is changed in a command. Most run in this process (an import of the libraries costs seconds), those of
`IN_A_SHELL` as they are typed. What takes minutes is left to `make test-slow`, in which everything is typed into a
shell (tests/test_docs_slow.py).
"""

import re

import pytest

from tests.documentation import NOWHERE, PAGES, PROJECT, fences, snippets
from tests.reader import Reader


SNIPPETS = snippets()
RUN = [snippet for snippet in SNIPPETS if snippet.place in ("here", "shell")]


@pytest.fixture(scope="module")
def reader(tmp_path_factory, sentence_encoder_dir):
    with Reader(tmp_path_factory.mktemp("reader"), sentence_encoder=sentence_encoder_dir) as somebody:
        yield somebody


@pytest.mark.parametrize("snippet", RUN, ids=str)
def test_it_runs_and_leaves_what_it_should(snippet, reader):
    reader.run_as_far_as(snippet, RUN)
    reader.raise_what_went_wrong(snippet)
    reader.check_effect(snippet)


def test_every_snippet_is_run_by_a_test():
    """By this file, by tests/test_docs_slow.py, or, `make test` alone, by whoever runs this."""
    places = {snippet: snippet.place for snippet in SNIPPETS}
    assert set(places.values()) == {"here", "shell", "slow", "nowhere"}
    assert [snippet.text.split()[:2] for snippet, place in places.items() if place == "nowhere"] == [
        words.split() for words in NOWHERE
    ]
    assert len([place for place in places.values() if place == "slow"]) <= len(SNIPPETS) / 6
    assert (PROJECT / ".ci/run").read_text(encoding="utf-8").splitlines()[-1] == "make test"


def test_builds_on_one_machine_under_slurm_and_under_datatrove_are_the_same_bytes(reader):
    folders = [reader.folder / "outputs" / f"pu_valor_{engine}" for engine in ("full", "slurm", "datatrove")]
    shards = [{path.name: path.read_bytes() for path in (folder / "data").iterdir()} for folder in folders]
    assert len(shards[0]) == 2 and shards[0] == shards[1] == shards[2]


def test_the_published_recipe_was_run_as_it_is_on_the_model_of_the_hub(reader):
    summary = reader.read_json("outputs/stage3_time_event/training_summary.json")
    assert summary["stage"] == "stage3_time_event" and summary["precision"] == "bf16"
    assert summary["world_size"] == 2
    assert summary["recipe"]["deepspeed"] == "ds_config.json" and summary["recipe"]["use_peft"] is True
    assert summary["started_from"]["origin"]["parts"]["language_model"] == "lmsys/vicuna-7b-v1.5"
    assert set(summary["rows_per_source"]) == {"pseudo-valor", "vtimellm"}


def test_what_was_published_is_on_the_hub(reader):
    hub = reader.hub
    model = hub.branches["models", "user/avicuna", "v1"]
    assert b'revision="v1"' in model["README.md"] and "model.safetensors" in model
    assert ("models", "user/avicuna") in hub.private
    adapter = hub.repos["models", "user/avicuna-lora"]
    assert b"license: llama2" in adapter["README.md"] and "adapter_model.safetensors" in adapter
    assert "data/train-00000-of-00001.parquet" in hub.repos["datasets", "user/pu_valor"]
    assert ("datasets", "user/pu_valor_small") in hub.private


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_short_ascii_and_says_what_language_its_blocks_are(page):
    text = (PROJECT / page).read_text(encoding="utf-8")
    assert text.isascii() and len(text.splitlines()) <= 150
    assert {language for language, _ in fences(page)} <= {"bash", "python"}
    if page.startswith("docs/"):
        assert [line for line in text.splitlines() if len(line) > 119 and not line.startswith("|")] == []


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md"])
def test_links_lead_somewhere(page):
    text = (PROJECT / page).read_text(encoding="utf-8")
    targets = [target for target in re.findall(r"\]\(([^)#]+)", text) if not target.startswith("http")]
    assert [target for target in targets if not (PROJECT / page).parent.joinpath(target).exists()] == []


def test_every_page_is_read_here():
    assert {f"docs/{path.name}" for path in (PROJECT / "docs").iterdir()} == {
        p for p in PAGES if p.startswith("docs/")
    }


def test_the_reference_is_generated_from_the_docstrings(tmp_path):
    pdoc = pytest.importorskip("pdoc", reason="pdoc is not installed: the extra `docs`")
    from pdoc import render

    render.configure(docformat="google")
    pdoc.pdoc("modeling_avicuna.timestamp_avicuna", "model_card.release.fresh_process", output_directory=tmp_path)
    page = (tmp_path / "modeling_avicuna" / "timestamp_avicuna.html").read_text(encoding="utf-8")
    assert "parse_events" in page and "TimeCodec" in page
    page = (tmp_path / "model_card" / "release" / "fresh_process.html").read_text(encoding="utf-8")
    assert "Load a release with its remote code" in page
