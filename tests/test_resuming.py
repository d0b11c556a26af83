"""Resuming an interrupted stage: from the newest complete checkpoint, with the same number of processes."""

import shutil

import pytest

from tests.train_fixtures import changed_names, run_stage, workshop  # noqa: F401
from train.resuming import check_num_processes, newest_checkpoint, resume_point


STEPS = {"max_steps": 4, "save_strategy": "steps", "save_steps": 1, "trainable": "vision_adapter"}


@pytest.fixture(scope="module")
def whole(workshop, tmp_path_factory):  # noqa: F811
    """A finished stage of four steps with a checkpoint after each."""
    return run_stage(workshop, "video", tmp_path_factory.mktemp("whole"), **STEPS)


def cut_file(name: str):
    def cut(folder):
        path = folder / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return cut


def remove_file(name: str):
    return lambda folder: (folder / name).unlink()


DAMAGES = {
    "no state": remove_file("trainer_state.json"),
    "cut state": cut_file("trainer_state.json"),
    "cut weights": cut_file("model.safetensors"),
    "cut optimizer": cut_file("optimizer.pt"),
    "cut scheduler": cut_file("scheduler.pt"),
    "empty": lambda folder: [path.unlink() for path in folder.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_incomplete_checkpoint_is_skipped_and_named(whole, tmp_path, caplog, damage):
    for step in (2, 3):
        shutil.copytree(whole / f"checkpoint-{step}", tmp_path / f"checkpoint-{step}")
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-3"
    DAMAGES[damage](tmp_path / "checkpoint-3")
    assert resume_point("true", str(tmp_path)) == str(tmp_path / "checkpoint-2")
    assert "checkpoint-3 is incomplete" in caplog.text
    with pytest.raises(ValueError, match="checkpoint-3: it is missing or incomplete"):
        resume_point(str(tmp_path / "checkpoint-3"), str(tmp_path))


def test_a_run_resumed_from_an_earlier_checkpoint_is_bit_exact(workshop, whole, tmp_path):  # noqa: F811
    for step in (2, 3):
        shutil.copytree(whole / f"checkpoint-{step}", tmp_path / f"checkpoint-{step}")
    cut_file("model.safetensors")(tmp_path / "checkpoint-3")
    run_stage(workshop, "video", tmp_path, resume_from_checkpoint="true", **STEPS)
    assert changed_names(whole, tmp_path) == set()


@pytest.mark.parametrize("prefix", ["zero_pp_rank", "bf16_zero_pp_rank"])
def test_a_deepspeed_checkpoint_of_another_number_of_processes_is_an_error(tmp_path, monkeypatch, prefix):
    folder = tmp_path / "checkpoint-2" / "global_step2"
    folder.mkdir(parents=True)
    for rank in range(4):
        (folder / f"{prefix}_{rank}_mp_rank_00_optim_states.pt").touch()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="saved by 4 processes and cannot be resumed by 2"):
        check_num_processes(tmp_path / "checkpoint-2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    check_num_processes(tmp_path / "checkpoint-2")
