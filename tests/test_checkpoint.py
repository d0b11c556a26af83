"""Loading models under DeepSpeed; tests/test_sft.py checks the saved folders."""

import os
from unittest import mock

import pytest
from transformers import BertConfig, BertModel
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from train.arguments import name_single_process, parse_arguments
from train.checkpoint import whole_models


@pytest.fixture
def environment():
    """The environment without the variables of a launcher; restores it and unsets the DeepSpeed configuration."""
    with mock.patch.dict(os.environ):
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            os.environ.pop(name, None)
        yield os.environ
    unset_hf_deepspeed_config()


def arguments(project_dir, tmp_path, *more: str):
    line = ["--use_peft", "--bf16", "false", "--use_cpu", "true", "--output_dir", str(tmp_path), *more]
    return parse_arguments(line)[2]


def test_a_model_loaded_by_a_builder_is_not_partitioned_under_zero3(project_dir, tmp_path, environment):
    """The recipe of stage III builds PU-VALOR with a sentence encoder."""
    tiny = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=11, **tiny)).save_pretrained(tmp_path / "encoder")
    training = arguments(project_dir, tmp_path, "--deepspeed", str(project_dir / "ds_config.json"))
    assert is_deepspeed_zero3_enabled()
    with whole_models(training):
        encoder = BertModel.from_pretrained(tmp_path / "encoder")
    assert encoder.embeddings.word_embeddings.weight.shape == (11, 8)
    assert is_deepspeed_zero3_enabled(), "the trained model must be partitioned"


def test_distributed_variables_are_set_without_a_launcher(project_dir, tmp_path, environment):
    """Without them DeepSpeed requires MPI; `accelerate launch` sets none for one process."""
    arguments(project_dir, tmp_path)
    assert "RANK" not in environment
    arguments(project_dir, tmp_path, "--deepspeed", str(project_dir / "ds_config.json"))
    assert (environment["RANK"], environment["WORLD_SIZE"]) == ("0", "1") and int(environment["MASTER_PORT"]) > 0


def test_the_variables_of_a_launcher_are_kept(environment):
    launched = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_PORT": "1234"}
    environment |= launched
    name_single_process()
    assert launched.items() <= environment.items() and "MASTER_ADDR" not in environment
