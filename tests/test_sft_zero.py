"""ZeRO-2 and ZeRO-3 in two processes give the results of one: losses, evaluations, files, logits, resumed runs.

Everything runs in fp32 on the CPU with `stage3_param_persistence_threshold` 0, because tiny parameters would otherwise
not be partitioned. All jobs of one ZeRO stage run one after the other in the same two processes, because starting
processes takes longer than a tiny stage. A resumed run is therefore a new call of `sft.main`, not a new process.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from PIL import Image

from dataset_builders.schema import FEATURES
from dataset_builders.sources.rows import make_row
from tests.hub_server import serve_hub
from tests.media_files import tone, write_media
from tests.train_fixtures import (
    CAPTIONS,
    changed_names,
    run_stage,
    saved_weights,
    stage_arguments,
    workshop,  # noqa: F401
)
from tests.two_processes import run_on_two_processes, without_stale_locks
from train.checkpoint import ADAPTER_FOLDER, load_model


PROJECT = Path(__file__).parents[1]
# the batch of one process, divided between two: the same samples in every step
SPLIT = {"per_device_train_batch_size": 2}
SPLIT_RAW = {"per_device_train_batch_size": 1}
STEPS = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
KINDS = {
    "full": {
        "trainable": ["language_model", "vision_adapter", "audio_adapter"],
        "adapter_learning_rate": 0.02,
        "eval_strategy": "steps",
        "eval_steps": 2,
    },
    "lora": {"use_peft": True, "lora_r": 4, "lora_dropout": 0.0, "gradient_checkpointing": True},
    "adapters": {"trainable": "vision_adapter"},
}
CONFIGS = {2: PROJECT / "train" / "recipes" / "ds_zero2.json", 3: PROJECT / "ds_config.json"}

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("c++") is None,
    reason="DeepSpeed compiles its CPU communication, and there is no C++ compiler",
)


def zero_config(stage: int, folder: Path) -> Path:
    """The DeepSpeed file of the recipe, changed to partition tiny parameters."""
    config = json.loads(CONFIGS[stage].read_text(encoding="utf-8"))
    assert config["zero_optimization"]["stage"] == stage
    if stage == 3:
        config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    path = folder / f"zero{stage}.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


def losses(folder: Path) -> list[float]:
    state = json.loads((folder / "checkpoint-4" / "trainer_state.json").read_text(encoding="utf-8"))
    names = ("loss", "eval_loss", "eval_start_tens_accuracy", "eval_end_tens_accuracy")
    return [entry[name] for entry in state["log_history"] for name in names if name in entry]


@pytest.fixture(scope="module")
def mixed_media(workshop, tmp_path_factory):  # noqa: F811
    """A stage on an image file and an audio file: each of the two processes runs a different tower."""
    folder = tmp_path_factory.mktemp("media")
    Image.new("RGB", (40, 30), "red").save(folder / "picture.png")
    write_media(folder / "sound.wav", waveform=tone(2.0), audio_codec="pcm_s16le")
    turns = [("What is this?", CAPTIONS[0])]
    rows = [
        make_row("picture", source="s", turns=turns, image="picture.png"),
        make_row("sound", source="s", turns=turns, audio="sound.wav"),
    ]
    Dataset.from_list(rows, features=FEATURES).to_parquet(str(folder / "rows.parquet"))
    return {
        "model_name_or_path": workshop.checkpoint,
        "datasets": folder / "rows.parquet",
        "media_dir": folder,
        "trainable": ["vision_adapter", "audio_adapter"],
        "per_device_train_batch_size": 2,
        "effective_batch_size": 2,
    }


@pytest.fixture(scope="module")
def single(workshop, tmp_path_factory):  # noqa: F811
    """Each kind of stage in one process."""
    folder = tmp_path_factory.mktemp("single")
    held_out = {"eval_datasets": workshop.rows("composed")}
    return {
        kind: run_stage(workshop, "composed", folder / kind, **STEPS, **held_out, **what)
        for kind, what in KINDS.items()
    }


@pytest.fixture(scope="module")
def hub():
    with serve_hub() as server:
        yield server


@pytest.fixture(scope="module", params=[2, 3], ids=["zero2", "zero3"])
def sharded(request, workshop, mixed_media, hub, tmp_path_factory):  # noqa: F811
    """The same stages in two processes, and two of them resumed in these processes from their second step."""
    folder = tmp_path_factory.mktemp(f"zero{request.param}")
    shared = {**STEPS, **SPLIT, "deepspeed": zero_config(request.param, folder)}
    held_out = {"eval_datasets": workshop.rows("composed")}
    jobs = [
        stage_arguments(workshop, "composed", folder / kind, **shared, **held_out, **what)
        for kind, what in KINDS.items()
    ]
    if request.param == 3:
        jobs.append(stage_arguments(None, "mixed media", folder / "raw", **{**shared, **mixed_media, **SPLIT_RAW}))
        jobs[list(KINDS).index("lora")] += ["--push_to_hub", "true", "--hub_model_id", "user/avicuna"]
    for kind in ("full", "lora"):
        line = {**shared, **held_out, **KINDS[kind], "resume_from_checkpoint": str(folder / kind / "checkpoint-2")}
        jobs.append(stage_arguments(workshop, "composed", folder / f"{kind}-resumed", **line))
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in hub.environment(folder / "hf_home").items():
            patch.setenv(name, value)
        patch.delenv("HF_HUB_OFFLINE", raising=False)
        run_on_two_processes("tests.zero_worker", str(folder / "jobs.json"))
    return folder


def test_only_a_lock_without_a_running_process_is_removed(tmp_path):
    lock = tmp_path / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir()
    lock.touch()
    with without_stale_locks(tmp_path):
        assert not lock.exists()
        lock.touch()
        with without_stale_locks(tmp_path):  # a second run while the first one compiles
            assert lock.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_evaluations_equal_those_of_one_process(single, sharded, kind):
    assert losses(sharded / kind) == pytest.approx(losses(single[kind]), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_tensors_have_the_names_shapes_and_values_of_one_process(single, sharded, kind):
    one, two = saved_weights(single[kind]), saved_weights(sharded / kind)
    assert {name: tensor.shape for name, tensor in one.items()} == {name: tensor.shape for name, tensor in two.items()}
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=2e-4, msg=name)


def test_the_same_tensors_change_as_in_one_process(workshop, single, sharded):  # noqa: F811
    for kind in KINDS:
        changed = changed_names(workshop.checkpoint, sharded / kind)
        assert changed == changed_names(workshop.checkpoint, single[kind]) != set()


def test_the_adapter_is_complete_and_gives_the_merged_model(workshop, single, sharded):  # noqa: F811
    one = saved_weights(single["lora"] / ADAPTER_FOLDER, "adapter_model.safetensors")
    two = saved_weights(sharded / "lora" / ADAPTER_FOLDER, "adapter_model.safetensors")
    assert {n: t.shape for n, t in one.items()} == {n: t.shape for n, t in two.items()}
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        base = load_model(str(workshop.checkpoint)).eval()
        adapted = PeftModel.from_pretrained(base, str(sharded / "lora" / ADAPTER_FOLDER)).eval()
        merged = load_model(str(sharded / "lora")).eval()
        torch.testing.assert_close(merged(ids).logits, adapted(ids).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sharded", [3], indirect=True, ids=["zero3"])
def test_a_partitioned_training_publishes_a_model_without_training_state(sharded, hub):
    files = hub.repos["models", "user/avicuna"]
    assert files["model.safetensors"] == (sharded / "lora" / "model.safetensors").read_bytes()
    assert b"| LoRA | pseudo-valor 8 | 0 | 4 |" in files["README.md"]
    assert b"Trained on 2 processes" in files["README.md"]
    assert {"config.json", "processor_config.json", "example.mp4"} <= set(files)
    assert not [name for name in files if "/" in name or "adapter_model" in name or name.startswith("optimizer")]


@pytest.mark.parametrize("sharded", [3], indirect=True, ids=["zero3"])
def test_processes_may_run_different_towers(mixed_media, sharded, tmp_path):
    one = run_stage(None, "mixed media", tmp_path, **{**STEPS, **mixed_media})
    assert losses(sharded / "raw") == pytest.approx(losses(one), rel=1e-5)
    changed = changed_names(mixed_media["model_name_or_path"], sharded / "raw")
    assert changed == changed_names(mixed_media["model_name_or_path"], one) != set()


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_resumed_run_is_bit_exact(sharded, kind):
    assert changed_names(sharded / kind, sharded / f"{kind}-resumed") == set()
