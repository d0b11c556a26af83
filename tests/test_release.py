"""Published files, and checks that name the problem and the file."""

import json
from pathlib import Path

import pytest

from model_card.release.model_release import PUBLISHED_PATTERNS, assemble_release, find_problems, matches


CARD = {"README.md": "# card\n"}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A training output: files of the model and training state."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for name in (
        "config.json",
        "processor_config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ):
        (folder / name).write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "modeling_avicuna.py").write_text('"""Model."""\n')
    for name in ("optimizer.pt", "training_args.bin", "trainer_state.json", "rng_state_0.pth"):
        (folder / name).write_bytes(b"state")
    (folder / "training_summary.json").write_text('{"recipe": {"data_dir": "/home/me/data/valor"}}')
    (folder / "global_step4").mkdir()
    (folder / "global_step4" / "mp_rank_00_model_states.pt").write_bytes(b"state")
    return folder


def test_a_release_has_the_model_files_without_training_state(checkpoint, tmp_path):
    assemble_release(checkpoint, output=tmp_path / "release", texts=CARD)
    assert {path.name for path in (tmp_path / "release").iterdir()} == {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "modeling_avicuna.py",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "training_summary.json",
    }
    assert json.loads((tmp_path / "release/training_summary.json").read_text()) == {"recipe": {"data_dir": "valor"}}
    assert find_problems(tmp_path / "release") == []


def test_an_existing_release_folder_is_an_error(checkpoint, tmp_path):
    (tmp_path / "release").mkdir()
    with pytest.raises(FileExistsError, match="release"):
        assemble_release(checkpoint, output=tmp_path / "release", texts=CARD)


def test_a_folder_without_configuration_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json"):
        assemble_release(tmp_path, output=tmp_path / "release", texts=CARD)


def test_each_kind_of_problem_is_found_with_its_file(checkpoint, tmp_path):
    release = tmp_path / "release"
    assemble_release(checkpoint, output=release, texts={"README.md": "trained in /home/someone/runs\n"})
    (release / "weights.bin").write_bytes(b"pickle")
    (release / "trainer_state.json").write_text("{}")
    (release / "config.json").write_text(json.dumps({"auto_map": {"AutoModel": "missing_avicuna.AVicunaModel"}}))
    (release / "processor_config.json").unlink()
    (release / "generation_config.json").unlink()
    (release / "tokenizer_config.json").write_text(json.dumps({"token": "hf_" + "a" * 34}))
    problems = " | ".join(find_problems(release))
    for expected in (
        "processor_config.json is missing",
        "generation_config.json is missing",
        "tokenizer_config.json contains what looks like an access token: hf_aaa...",
        "weights.bin is a pickle",
        "trainer_state.json is training state",
        "README.md contains a local path: /home/someone/runs",
        "missing_avicuna.py is missing",
    ):
        assert expected in problems


@pytest.mark.parametrize("name", ["model-00001-of-00002.safetensors", "pipeline_avicuna.py", "tokenizer.model"])
def test_sharded_weights_remote_code_and_tokenizers_are_published(name):
    assert matches(name, PUBLISHED_PATTERNS)
