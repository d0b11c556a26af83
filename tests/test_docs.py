"""Each command and snippet of README.md and docs/ runs on a tiny world; what needs published data is held to its parser."""

import argparse
import ast
import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
from transformers import HfArgumentParser

from tests.documentation import PAGES, PROJECT, Snippet, fences, module_and_arguments, snippets
from train.arguments import parse_arguments


SNIPPETS = snippets()
COMMANDS = [snippet for snippet in SNIPPETS if snippet.language == "bash"]
PYTHON = [snippet for snippet in SNIPPETS if snippet.language == "python"]
RUN = [snippet for snippet in SNIPPETS if snippet.obstacle is None]
OPTIONAL_PACKAGES = {"datatrove", "lmms_eval"}
# so much is enough to see a command work
AT_MOST = {"--num-clips": 24, "--num-train-videos": 2, "--num-test-videos": 2, "--num-videos": 12, "--num-workers": 1}
SHORT_STAGE = ["--max_steps", "1", "--per_device_train_batch_size", "2", "--effective_batch_size", "2"]
MORE = {"train.sft": SHORT_STAGE, "train.run_stages": SHORT_STAGE}
MORE |= {"eval.run": ["--max-new-tokens", "2"], "eval.sound_use": ["--max-new-tokens", "2", "--limit", "2"]}
SENTENCE_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"  # the default; a folder of this name stands in for the Hub


class Parsed(Exception):
    """Raised in place of a program's work, when its arguments have been read."""


def read_arguments(name: str, arguments: list[str], monkeypatch) -> None:
    """Let the program's own parser read its arguments; it exits, or raises, for one that it does not know."""
    if name == "train.sft":
        # no GPU and no launcher are needed to read a recipe
        parse_arguments([*arguments, "--bf16", "false", "--deepspeed", "", "--effective_batch_size", "0"])
        return
    if "--" in arguments:
        split = arguments.index("--")
        read_arguments("eval.run", [*arguments[split + 1 :], "--model", "m", "--output", "o"], monkeypatch)
    for parser, method in ((argparse.ArgumentParser, "parse_args"), (HfArgumentParser, "parse_args_into_dataclasses")):
        read = getattr(parser, method)

        def stop(self, *values, read=read, **options):
            raise Parsed(read(self, *values, **options))

        monkeypatch.setattr(parser, method, stop)
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    with pytest.raises(Parsed) as parsed:
        program(name).main()
    monkeypatch.undo()
    if name == "train.run_stages":
        stages, others = parsed.value.args[0]
        for recipe in Path(stages.recipes_dir).glob("stage*.yaml"):
            read_arguments("train.sft", ["--config", str(recipe), *others], monkeypatch)
    if name == "eval.study":
        passed = parsed.value.args[0].train_arguments
        parse_arguments(
            ["--trainable", "vision_adapter", "--output_dir", "o", "--bf16", "false", *shlex.split(passed)]
        )


def program(name: str):
    """The module that `python -m name` starts."""
    module = importlib.import_module(name)
    return importlib.import_module(f"{name}.__main__") if hasattr(module, "__path__") else module


def make_shorter(arguments: list[str]) -> list[str]:
    """The arguments with the counts of `AT_MOST`."""
    return [
        str(min(int(value), AT_MOST[option])) if option in AT_MOST else value
        for option, value in zip(["", *arguments], arguments)
    ]


def run_command(snippet: Snippet) -> None:
    """Run what the launcher would start, in this process."""
    name, arguments = module_and_arguments(snippet.words)
    arguments = [*make_shorter(arguments), *MORE.get(name, [])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *arguments])
        program(name).main()


def give_names(folder: Path) -> None:
    """After each snippet: what `make demo` and the reader have, under the names that the pages call them by."""
    names = {
        "outputs/demo/stage4": folder / "outputs/sandbox/stage1",
        "outputs/demo/eval": folder / "outputs/eval",
        "captions.json": folder / "outputs/world/captions.json",
        "video.mp4": next(iter(sorted((folder / "outputs/world").glob("test/*.mp4"))), folder / "none"),
    }
    for name, target in names.items():
        if target.exists() and not (folder / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(target)


@pytest.fixture(scope="module")
def reader(tmp_path_factory, sentence_encoder_dir) -> tuple[Path, dict[Snippet, BaseException | None]]:
    """Somebody who reads the pages in order and runs what can be run: his folder; what went wrong, by snippet."""
    folder, told = tmp_path_factory.mktemp("reader"), {}
    for name in ("ds_config.json", "eval", "train"):
        (folder / name).symlink_to(PROJECT / name)
    (folder / SENTENCE_ENCODER).parent.mkdir()
    (folder / SENTENCE_ENCODER).symlink_to(sentence_encoder_dir)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "datasets_cache")
        for snippet in RUN:
            told[snippet] = attempt(snippet)
            give_names(folder)
    return folder, told


def attempt(snippet: Snippet) -> BaseException | None:
    """Run a snippet; what it raised, for the test of that snippet to show."""
    try:
        if snippet.language == "bash":
            run_command(snippet)
        else:
            exec(compile(snippet.text, snippet.page, "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        return end if end.code else None
    except (
        OSError,
        RuntimeError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        ImportError,
        StopIteration,
    ) as error:
        return error
    return None


@pytest.mark.parametrize("snippet", RUN, ids=str)
def test_it_runs(snippet, reader):
    _, told = reader
    if told[snippet] is not None:
        raise AssertionError(f"{snippet.page}:\n{snippet.text}") from told[snippet]


@pytest.mark.parametrize("snippet", [c for c in COMMANDS if c.words[0] in ("python", "accelerate", "sbatch")], ids=str)
def test_a_command_has_the_options_it_is_given(snippet, monkeypatch, project_dir):
    words = snippet.words
    if words[0] == "sbatch":
        words = shlex.split(words[words.index("--wrap") + 1].replace("$SLURM_ARRAY_TASK_ID", "0"))
    if "lmms_eval" in words:
        pytest.importorskip("lmms_eval", reason="lmms-eval is not installed: its own options cannot be checked")
        return
    monkeypatch.chdir(project_dir)
    read_arguments(*module_and_arguments(words), monkeypatch)


@pytest.mark.parametrize("snippet", SNIPPETS, ids=str)
def test_the_files_of_the_project_that_it_names_are_there(snippet):
    ours = {path.name for path in PROJECT.iterdir() if path.is_dir()} - {"outputs"}
    named = [word for word in re.findall(r"[\w./-]+", snippet.text) if "/" in word and word.split("/")[0] in ours]
    assert [word for word in named if not (PROJECT / word).exists()] == []


@pytest.mark.parametrize("snippet", [c for c in COMMANDS if c.words[0] == "make"], ids=str)
def test_make_knows_the_target(snippet):
    assert re.search(rf"^{snippet.words[1]}:", (PROJECT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("snippet", PYTHON, ids=str)
def test_what_a_snippet_imports_is_there(snippet):
    for node in ast.walk(ast.parse(snippet.text)):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            modules = [node.module]
        for name in modules:
            try:
                module = importlib.import_module(name)
            except ModuleNotFoundError as error:
                if error.name.split(".")[0] in OPTIONAL_PACKAGES:
                    continue  # of an extra that is not installed here
                raise
            if isinstance(node, ast.ImportFrom):
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


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


def test_most_of_what_is_shown_is_really_run():
    assert len(RUN) > len(SNIPPETS) / 2


def test_the_reference_is_generated_from_the_docstrings(tmp_path):
    pdoc = pytest.importorskip("pdoc", reason="pdoc is not installed: the extra `docs`")
    from pdoc import render

    render.configure(docformat="google")
    pdoc.pdoc("modeling_avicuna.timestamp_avicuna", "model_card.release", output_directory=tmp_path)
    page = (tmp_path / "modeling_avicuna" / "timestamp_avicuna.html").read_text(encoding="utf-8")
    assert "parse_events" in page and "TimeCodec" in page
    assert "Load the release with remote code" in (tmp_path / "model_card" / "release.html").read_text(
        encoding="utf-8"
    )


@pytest.mark.slow
def test_make_docs_documents_every_module(tmp_path):
    pytest.importorskip("pdoc", reason="pdoc is not installed: the extra `docs`")
    modules = f"modules:\n\t@echo $(MODULES)\ninclude {PROJECT / 'Makefile'}\n"
    told = subprocess.run(["make", "-f", "-"], input=modules, cwd=PROJECT, capture_output=True, text=True, check=True)
    command = [sys.executable, "-m", "pdoc", "--docformat", "google", "--output-directory", str(tmp_path)]
    done = subprocess.run([*command, *told.stdout.split()], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0 and "Warn" not in done.stderr, done.stderr[-3000:]
    pages = {".".join(page.relative_to(tmp_path).with_suffix("").parts) for page in tmp_path.rglob("*.html")}
    assert set(told.stdout.split()) <= pages and len(pages) > 100


@pytest.mark.slow
def test_all_stages_run_by_the_launcher(reader):
    """`train.run_stages` as it stands, in the folder where the other commands have been run."""
    (snippet,) = (snippet for snippet in COMMANDS if "run_stages" in snippet.text)
    folder, _ = reader
    name, arguments = module_and_arguments(snippet.words)
    environment = {
        **os.environ,
        "PYTHONPATH": str(PROJECT),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    done = subprocess.run([sys.executable, "-m", name, *arguments, *SHORT_STAGE], cwd=folder, env=environment)
    assert done.returncode == 0
    assert (folder / "outputs/sandbox/stage4/model.safetensors").is_file()
