"""Runs the snippets of the documentation in order, in one folder, and records the outcome of each.

A snippet runs in this process or through a shell. The Hub and the judge are local servers; the commands of Slurm run
their tasks on this machine, one after another.
"""

import importlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from unittest import mock

import datasets
import pytest
from huggingface_hub import HfApi, constants

from model_card import push as push_module
from tests.documentation import PROJECT, Snippet, module_and_arguments
from tests.hub_server import TOKEN, serve_hub
from tests.published_files import (
    HUB_MODELS,
    charades_repository,
    read_folder,
    write_published_annotations,
    write_published_captions,
    write_published_weights,
)
from tests.test_judge import JudgeServer
from tests.two_processes import EXTENSIONS, without_stale_locks


SENTENCE_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"  # the default, here the name of a local folder
# program: file in its output folder
OUTPUT_FILES = {
    "dataset_builders.build": "data/*.parquet",
    "dataset_builders.sandbox": "annotations.json",
    "eval.comparison": "comparison.md",
    "eval.events": "values.png",
    "eval.run": "results.json",
    "eval.sound_use": "sound_use.json",
    "eval.study": "study.json",
    "modeling_avicuna.convert_avicuna_to_hf": "model.safetensors",
    "train.extract_features": "part-*.safetensors",
    "train.initialize": "model.safetensors",
    "train.run_stages": "stage4/model.safetensors",
    "train/sft.py": "training_summary.json",
}
# programs without an output folder: `SnippetRunner.check_other_effect`
OTHER_PROGRAMS = ("eval.judge", "lmms_eval", "make", "model_card.push", "model_card.write", "pip")
# errors that are recorded and raised in the test of the snippet
FAILURES = (
    *(AssertionError, AttributeError, ImportError, LookupError, NameError, OSError, RuntimeError),
    *(StopIteration, SyntaxError, TypeError, ValueError),
)
# sbatch runs all tasks of an array at once, from `--wrap` or from a script with `#SBATCH --array=`
SBATCH = """#!/bin/bash
set -e
for word in "$@"; do
    case $word in
        --array=*) array=${word#--array=} ;;
        --export=*) export "${word##*,}" ;;
        --*) ;;
        *) given=$word ;;
    esac
done
if [ -f "$given" ]; then
    array=$(sed -n 's/^#SBATCH --array=//p' "$given")
    command="bash $given"
else
    command=$given
fi
range=${array:-0-0}
export SLURM_JOB_ID=1 SLURM_ARRAY_JOB_ID=1 SLURM_NODELIST=localhost
for SLURM_ARRAY_TASK_ID in $(seq "${range%%-*}" "$(echo "${range#*-}" | cut -d% -f1)"); do
    export SLURM_ARRAY_TASK_ID
    bash -c "$command" >&2
done
echo "Submitted batch job 1"
"""
SCONTROL = """#!/bin/bash
echo localhost
"""
SRUN = """#!/bin/bash
while [ "$1" != launch_pickled_pipeline ]; do shift; done
exec "$@"
"""


class SnippetRunner:
    """Runs snippets in `folder` against local servers.

    Args:
        folder: an empty folder.
        sentence_encoder: the folder of all-MiniLM-L6-v2.
        in_shell: whether all snippets run through a shell.
    """

    def __init__(self, folder: Path, *, sentence_encoder: Path, in_shell: bool = False):
        self.folder, self.in_shell = folder, in_shell
        self.errors: dict[Snippet, BaseException | None] = {}
        self.output: dict[Snippet, str] = {}
        for name in ("ds_config.json", "eval", "examples", "train"):
            (folder / name).symlink_to(PROJECT / name)
        (folder / SENTENCE_ENCODER).parent.mkdir()
        (folder / SENTENCE_ENCODER).symlink_to(sentence_encoder)
        (folder / "bin").mkdir()
        for name, text in (("sbatch", SBATCH), ("scontrol", SCONTROL), ("srun", SRUN)):
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)
        write_published_captions(folder)
        write_published_weights(folder / "weights")

    def __enter__(self) -> "SnippetRunner":
        self._stack = ExitStack()
        self.hub = self._stack.enter_context(serve_hub())
        for repo_id, name in HUB_MODELS.items():
            self.hub.repos["models", repo_id] = read_folder(self.folder / "weights" / name)
        self.judge = JudgeServer()
        self._stack.callback(self.judge.server.shutdown)
        patch = self._stack.enter_context(pytest.MonkeyPatch.context())
        patch.chdir(self.folder)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", self.folder / "datasets_cache")
        for name, value in (
            ("HF_HUB_OFFLINE", False),
            ("HF_HUB_DISABLE_XET", True),
            ("HF_HOME", str(self.folder / "home")),
        ):
            patch.setattr(constants, name, value)
        patch.setattr(push_module, "HfApi", lambda: HfApi(endpoint=self.hub.address, token=TOKEN))
        return self

    def __exit__(self, *failure) -> None:
        self._stack.close()

    def run_through(self, last: Snippet, snippets: list[Snippet]) -> None:
        """Run all snippets up to `last` that have not been run."""
        for snippet in snippets[: snippets.index(last) + 1]:
            if snippet not in self.errors:
                self.run(snippet)

    def run(self, snippet: Snippet) -> None:
        """Run a snippet and record its error, if any."""
        self.errors[snippet] = None
        try:
            if snippet.place in ("shell", "slow") or self.in_shell:
                self.run_in_shell(snippet)
            else:
                self.run_here(snippet)
        except SystemExit as end:
            self.errors[snippet] = end if end.code else None
        except FAILURES as error:
            self.errors[snippet] = error
        self.link_expected_names()

    def run_here(self, snippet: Snippet) -> None:
        """Run the code, or the module that the command starts, in this process."""
        text = snippet.shortened(self.judge.url)
        with redirect_stdout(io.StringIO()) as output:
            if snippet.language == "python":
                exec(compile(text, snippet.page, "exec"), {"__name__": "__main__"})
            else:
                name, arguments = module_and_arguments(snippet.words(text))
                with mock.patch.object(sys, "argv", [name, *arguments]):
                    program(name).main()
        self.output[snippet] = output.getvalue()

    def run_in_shell(self, snippet: Snippet) -> None:
        """Run the snippet in a new process with the programs of this environment on PATH."""
        text = snippet.shortened(self.judge.url)
        command = [sys.executable, "-c", text] if snippet.language == "python" else ["bash", "-c", text]
        binaries = os.pathsep.join([str(self.folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = {
            **self.hub.environment(self.folder / "home"),
            "PATH": binaries,
            "PYTHONPATH": f"{PROJECT}{os.pathsep}{self.folder / 'site'}",
            "DS_ACCELERATOR": "cpu",
            "TORCH_EXTENSIONS_DIR": str(EXTENSIONS),
        }
        with without_stale_locks(EXTENSIONS):
            done = subprocess.run(
                command, cwd=self.folder, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
            )
        self.output[snippet] = done.stdout
        if done.returncode:
            raise RuntimeError(f"status {done.returncode}:\n{text}\n{done.stdout[-1000:]}\n{done.stderr[-4000:]}")

    def link_expected_names(self) -> None:
        """Provide the outputs of `make demo` and of earlier stages under the names that the pages use."""
        outputs, world = self.folder / "outputs", self.folder / "outputs/world"
        if (world / "annotations.json").exists() and not (self.folder / "data/valor").exists():
            write_published_annotations(self.folder, world)
            self.hub.repos["datasets", "lmms-eval/charades_sta"] = charades_repository(world)
        demo = outputs / "demo/stage4"
        if not demo.exists():  # copied, because publishing writes a card into the folder
            shutil.copytree(PROJECT / "examples/sandbox_checkpoint", demo)
        names = {
            "outputs/demo/eval": outputs / "eval",
            "outputs/stage2": outputs / "vicuna_stage0",
            "outputs/stage2_audio_text": outputs / "vicuna_stage0",
            "outputs/stage3": outputs / "stage3_time_event",
            "outputs/stage4": outputs / "avicuna-7b",
            "captions.json": world / "captions.json",
            "video.mp4": next(iter(sorted(world.glob("test/*.mp4"))), self.folder / "none"),
        }
        for name, target in names.items():
            if target.exists() and not (self.folder / name).exists():
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / name).symlink_to(target)
        stage2 = outputs / "vicuna_stage0"
        if (stage2 / "config.json").exists() and ("models", "user/avicuna-stage2") not in self.hub.repos:
            self.hub.repos["models", "user/avicuna-stage2"] = read_folder(stage2)

    def raise_error(self, snippet: Snippet) -> None:
        if self.errors[snippet] is not None:
            raise AssertionError(f"{snippet.page}:\n{snippet.text}") from self.errors[snippet]

    def read_json(self, name: str) -> dict:
        return json.loads((self.folder / name).read_text(encoding="utf-8"))

    def check_effect(self, snippet: Snippet) -> None:
        """Assert that the outputs which a snippet names exist and hold the files of its program."""
        if snippet.language == "python":
            named = re.findall(r'"(?:\./)?(outputs/[^"]+)"', snippet.text)
            assert [name for name in named if not (self.folder / name).exists()] == []
            assert self.output[snippet].strip() or "print(" not in snippet.text
            return
        words = shlex.split(snippet.shortened(self.judge.url).replace("'", " "))
        (kind,) = {word for word in words if word in (*OUTPUT_FILES, *OTHER_PROGRAMS)}
        if kind in OTHER_PROGRAMS:
            self.check_other_effect(snippet, words)
            return
        outputs = [words[k + 1] for k, word in enumerate(words) if word in ("--output", "--output_dir")]
        for output in outputs:
            assert list((self.folder / output).glob(OUTPUT_FILES[kind])), f"{output} has no {OUTPUT_FILES[kind]}"
        if kind == "eval.run":
            assert self.read_json(f"{outputs[0]}/results.json")["metrics"]
        if kind == "eval.study":
            assert len(self.read_json(f"{outputs[0]}/study.json")["rows"]) >= 3

    def check_other_effect(self, snippet: Snippet, words: list[str]) -> None:
        """Assert the effect of a program without an output folder."""
        option = {word: words[k + 1] for k, word in enumerate(words[:-1]) if word.startswith("--")}
        repo_id = option.get("--repo-id")
        if "eval.judge" in words:
            assert self.read_json(f"{option['--run']}/results_judge.json")["metrics"]["accuracy"] == 100.0
        if "model_card.write" in words:
            assert repo_id in (self.folder / (option.get("--model") or option["--dataset"]) / "README.md").read_text()
        if "model_card.push" in words:
            kind = "datasets" if "--dataset" in words else "models"
            is_dry = "--dry-run" in words
            assert ("dry run: nothing was sent" if is_dry else "published: ") in self.output[snippet]
            main, branch = (kind, repo_id), (kind, repo_id, option.get("--revision"))
            files = self.hub.branches.get(branch) or self.hub.repos.get(main, {})
            assert is_dry or "README.md" in files
        if "lmms_eval" in words:
            assert "charades_sta_mIOU" in self.output[snippet]
        if "pip" in words:
            assert list((self.folder / "site").glob("lmms_eval-*.dist-info"))
        if "make" in words:
            assert self.read_json("outputs/made/eval/results.json")["metrics"]


def program(name: str):
    """The module that `python -m name` starts."""
    module = importlib.import_module(name)
    return importlib.import_module(f"{name}.__main__") if hasattr(module, "__path__") else module
