"""The lmms-eval plugin: its translation between two vocabularies, and, where lmms-eval is installed, a run of a task.

lmms-eval pins old versions of packages that this project uses, so it is not among the project's dependencies; the last test
runs in an environment that has it and skips, saying so, in others.
"""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from eval.lmms_plugin import models
from eval.lmms_plugin.content import content_blocks, cut_at, with_seconds
from modeling_avicuna.timestamp_avicuna import TimeCodec


def test_what_a_task_shows_becomes_content_blocks():
    sound = {"array": np.ones((2, 8000)), "sampling_rate": 16_000}
    blocks = content_blocks("<video> What is it? <image>", ["a.mp4", Image.new("L", (4, 2)), sound, None])
    assert [block["type"] for block in blocks] == ["video", "image", "audio", "text"]
    assert blocks[0] == {"type": "video", "path": "a.mp4"} and blocks[3]["text"] == "What is it?"
    assert blocks[1]["image"].shape == (2, 4, 3) and blocks[2]["audio"].shape == (24_000,)
    assert content_blocks("Hello", None) == [{"type": "text", "text": "Hello"}]


def test_an_answer_ends_at_the_first_stop_string():
    assert cut_at("one\ntwo. three", [". ", "\n"]) == "one"
    assert cut_at("one", ["", "x"]) == "one"


@pytest.mark.parametrize(
    "said, told",
    [
        ("From 10 to 50.", "From 2.0 to 10.0."),
        ("It happens from 10 to 50 and from 60 to 70.", "It happens from 2.0 to 10.0 and from 12.0 to 14.0."),
        ("From 50 to 10, rain.", "From 2.0 to 10.0, rain."),
        ("From 0:05 to 0:07, rain.", "From 5.0 to 7.0, rain."),
        ("There are 2 dogs.", "There are 2 dogs."),
        ("No event.", "No event."),
    ],
)
def test_times_are_told_in_seconds_and_other_numbers_stay(said, told):
    assert with_seconds(said, 20.0, codec=TimeCodec()) == told


def test_the_names_that_lmms_eval_looks_up_exist(project_dir):
    folder = project_dir / "eval/lmms_plugin"
    for module, name in models.AVAILABLE_MODELS.items():
        assert f"class {name}(lmms):" in (folder / "models" / f"{module}.py").read_text()
    assert (folder / "tasks" / "__init__.py").is_file()


@pytest.mark.skipif(importlib.util.find_spec("lmms_eval") is None, reason="lmms-eval is not installed here")
def test_a_task_of_lmms_eval_runs_offline(project_dir, tmp_path):
    """Its Charades-STA task on two sandbox clips; only the place of the annotations is ours."""
    from dataset_builders.sandbox.world import make_world
    from train.initialize import build_tiny

    videos = tmp_path / "hub" / "charades_sta" / "Charades_v1_480"
    make_world(tmp_path / "world", num_clips=2)
    videos.mkdir(parents=True)
    rows = []
    for path in sorted((tmp_path / "world" / "clips").iterdir()):
        path.rename(videos / path.name)
        rows.append({"video": path.name, "caption": "a dog barks", "timestamp": [1.0, 6.0]})
    (tmp_path / "test.json").write_text(json.dumps(rows))
    task = os.path.join(
        os.path.dirname(importlib.util.find_spec("lmms_eval").origin), "tasks/charades_sta/charades.yaml"
    )
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "local.yaml").write_text(
        f"include: {task}\ntask: local_charades\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path}/test.json}}}}\ngeneration_kwargs: {{max_new_tokens: 6}}\n"
    )
    model, processor = build_tiny(["a dog barks"], num_av_tokens=8)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    command = [sys.executable, "-m", "lmms_eval", "--model", "avicuna", "--batch_size", "2", "--log_samples"]
    command += ["--model_args", f"pretrained={tmp_path}/model,device=cpu,times=seconds", "--tasks", "local_charades"]
    command += ["--include_path", str(tmp_path / "tasks"), "--output_path", str(tmp_path / "out")]
    settings = {"HF_HOME": str(tmp_path / "hub"), "LMMS_EVAL_PLUGINS": "eval.lmms_plugin", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(command, cwd=project_dir, env={**os.environ, **settings}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    (results,) = (tmp_path / "out").rglob("*_results.json")
    assert "charades_sta_mIOU,none" in json.loads(results.read_text())["results"]["local_charades"]
