"""Every number of the card comes from a file, and what has no file shows as not run."""

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import save_file

from model_card.write import EXPECTED_TASKS, count_parameters, main, write_model_card


RESULT = {
    "task": "unav100",
    "name": "unav100/narration-exact-constant",
    "dataset": {"name": "UnAV-100", "split": "test"},
    "metrics": {"mAP@0.5": 12.3456, "average_mAP": 23.4567},
    "num_examples": 2160,
    "num_expected": 2167,
    "missing": ["a", "b", "c", "d", "e", "f", "g"],
    "judge": None,
}
JUDGED = {
    "task": "activitynet_qa",
    "name": "activitynet_qa/judged",
    "dataset": {"name": "ActivityNet-QA", "split": "test"},
    "metrics": {"accuracy": 41.5},
    "num_examples": 8000,
    "num_expected": 8000,
    "missing": [],
    "judge": {"model": "judge-model", "version": "2026-01-01", "prompt_sha256": "0123456789abcdef"},
}
SUMMARY = {
    "stage": "stage3_time_event",
    "recipe": {"use_peft": True, "trainable": [], "learning_rate": 1e-4},
    "num_rows": 114081,
    "dropped": {"missing clip": 17},
    "steps": 1783,
    "effective_batch_size": 128,
    "first_loss": 3.21,
    "final_loss": 0.98,
    "seconds": 4321.0,
    "world_size": 8,
    "precision": "bf16",
    "versions": {"torch": "2.11.0"},
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    config = {
        "num_av_tokens": 100,
        "audio_interleaving_rate": 0.25,
        "interleaving": "uniform",
        "time_unit": "relative",
        "num_time_bins": 100,
        "vision_config": None,
        "audio_config": None,
        "text_config": {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2},
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_file(
        {
            "model.vision_adapter.weight": torch.zeros(64, 768),
            "model.language_model.embed_tokens.weight": torch.zeros(100, 64),
            "lm_head.weight": torch.zeros(100, 64),
        },
        folder / "model.safetensors",
    )
    return folder


def test_parameters_are_counted_per_part_from_the_weights(checkpoint):
    counts, dtypes = count_parameters(checkpoint)
    assert (counts["vision_adapter"], counts["language_model"], counts["lm_head"]) == (64 * 768, 6400, 6400)
    assert counts["vision_tower"] == 0
    assert dtypes == {"F32"}


def test_a_weight_of_no_known_part_is_an_error_that_names_it(checkpoint):
    save_file({"model.stray.weight": torch.zeros(1)}, checkpoint / "model-2.safetensors")
    with pytest.raises(ValueError, match="model.stray.weight"):
        count_parameters(checkpoint)


def test_results_stand_in_the_text_and_in_the_metadata(checkpoint):
    text = write_model_card(checkpoint, repo_id="user/avicuna", results=[RESULT, JUDGED], summaries=[SUMMARY])
    for expected in (
        "12.35",
        "23.46",
        "2160 of 2167",
        "judge-model (2026-01-01), prompt 0123456789ab",
        "7 videos were missing",
    ):
        assert expected in text
    for expected in (
        "| stage3_time_event | LoRA | 114081 | 17 | 1783 | 128 | 0.0001 | 3.210 | 0.980 | 4321 |",
        "8 process(es) in bf16",
    ):
        assert expected in text
    evaluated = {
        (entry.dataset_type, entry.metric_type): entry.metric_value for entry in ModelCard(text).data.eval_results
    }
    assert evaluated[("unav100", "average_mAP")] == 23.4567
    assert evaluated[("activitynet_qa", "accuracy")] == 41.5


def test_what_has_no_file_shows_as_not_run(checkpoint):
    text = write_model_card(checkpoint, repo_id="user/avicuna", results=[], summaries=[])
    assert all(f"* {task}: not run" in text for task in EXPECTED_TASKS)
    assert "Training log: not run." in text
    assert ModelCard(text).data.eval_results is None


def test_the_licence_follows_the_base_model(checkpoint):
    shared = {"repo_id": "user/avicuna", "results": [], "summaries": []}
    vicuna = write_model_card(checkpoint, base_model="lmsys/vicuna-7b-v1.5", **shared)
    assert ModelCard(vicuna).data.license == "llama2" and "Llama 2 Community License" in vicuna
    assert ModelCard(write_model_card(checkpoint, **shared)).data.license == "other"


def test_the_code_sample_of_the_card_is_python(checkpoint):
    text = write_model_card(checkpoint, repo_id="user/avicuna", results=[], summaries=[])
    sample = text.split("```python\n")[1].split("```")[0]
    compile(sample, "card", "exec")
    assert '"user/avicuna"' in sample


def test_a_missing_result_file_is_named(checkpoint, tmp_path):
    with pytest.raises(ValueError, match="absent.json does not exist"):
        main(
            [
                "--model",
                str(checkpoint),
                "--results",
                str(tmp_path / "absent.json"),
                "--output",
                str(tmp_path / "card.md"),
            ]
        )


def test_a_checkpoint_without_weights_is_an_error(checkpoint):
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="no safetensors"):
        write_model_card(checkpoint, repo_id="user/avicuna", results=[], summaries=[])
