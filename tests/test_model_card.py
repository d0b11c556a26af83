"""The model card: all numbers come from files, and a task without a result is "not run"."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import DatasetCard, ModelCard
from safetensors.torch import save_file

from dataset_builders.a5_222k import A5222KConfig
from dataset_builders.atomic_files import write_json
from dataset_builders.command_line import parse_options
from dataset_builders.release.a5_222k_folder import write_folder
from dataset_builders.release.provenance import model_hash
from dataset_builders.release.pu_valor_folder import build_folder
from eval import run
from eval.task import Score
from model_card.code_samples import model_sample
from model_card.facts import count_parameters, describe_time
from model_card.lineage import Lineage, read_lineage
from model_card.write import EXPECTED_TASKS, dataset_card, main, write_adapter_card, write_model_card
from modeling_avicuna.origin_avicuna import RANDOM, write_origin
from tests.curation_fixtures import quick_settings, write_captions
from tests.media_files import pictures, tone, write_media
from tests.train_fixtures import run_stage, workshop  # noqa: F401
from train.checkpoint import ADAPTER_FOLDER
from train.initialize import build_tiny
from train.summary import SUMMARY_FILE


RESULT = {
    "task": "unav100",
    "name": "unav100/narration-exact-constant",
    "dataset": {"name": "UnAV-100", "split": "test"},
    "metrics": {"mAP@0.5": 12.3456, "average_mAP": 23.4567},
    "num_examples": 2160,
    "num_expected": 2167,
    "missing": ["a", "b", "c", "d", "e", "f", "g"],
    "judge": None,
    "model": "outputs/model",
    "settings": {"model_hash": "user/avicuna"},  # the id, because it was evaluated from the Hub
}
JUDGED = {
    "task": "activitynet_qa",
    "name": "activitynet_qa/judged",
    "dataset": {"name": "ActivityNet-QA", "split": "test"},
    "metrics": {"accuracy": 41.5, "score": 2.5},
    "num_examples": 8000,
    "num_expected": 8000,
    "missing": [],
    "judge": {"model": "judge-model", "version": "2026-01-01", "prompt_sha256": "0123456789abcdef"},
    "model": "user/avicuna",
    "settings": {"model_hash": "user/avicuna"},
}
SUMMARY = {
    "stage": "stage3_time_event",
    "recipe": {"use_peft": True, "trainable": [], "learning_rate": 1e-4},
    "num_rows": 114081,
    "rows_per_source": {"pseudo-valor": 114081},
    "dropped": {"missing clip": 17},
    "steps": 1783,
    "effective_batch_size": 128,
    "first_loss": 3.21,
    "final_loss": 0.98,
    "seconds": 4321.0,
    "world_size": 8,
    "device": "NVIDIA H100",
    "precision": "bf16",
    "hub_datasets": ["user/pu_valor"],
    "git_commit": "0123456789",
    "versions": {"torch": "2.11.0"},
}


def origin_of(language_model: str, vision_tower: str | None) -> Lineage:
    parts = {"language_model": language_model, "vision_tower": vision_tower, "vision_adapter": "random weights"}
    return Lineage(origin={"made_by": "train.initialize", "parts": parts, "merged": []})


def card_of(checkpoint: Path, *, repo_id="user/avicuna", results=(), stages=(), **options) -> str:
    lineage = options.pop("lineage", Lineage(stages=list(stages)))
    return write_model_card(checkpoint, repo_id=repo_id, results=list(results), lineage=lineage, **options)[
        "README.md"
    ]


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
        "vision_feature_size": 768,
        "audio_feature_size": 512,
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


def test_a_weight_of_an_unknown_part_is_an_error_that_names_it(checkpoint):
    save_file({"model.stray.weight": torch.zeros(1)}, checkpoint / "model-2.safetensors")
    with pytest.raises(ValueError, match="model.stray.weight"):
        count_parameters(checkpoint)


def test_results_are_in_the_text_and_in_the_metadata(checkpoint):
    text = card_of(checkpoint, results=[RESULT, JUDGED], stages=[SUMMARY])
    for expected in (
        "12.35",
        "23.46",
        "2160 of 2167",
        "judge-model (2026-01-01), prompt 0123456789ab",
        "videos missing and therefore not scored: 7",
        "| score (0 to 5) | 2.50 |",
    ):
        assert expected in text
    for expected in (
        "| stage3_time_event | LoRA | pseudo-valor 114,081 | 17 | 1783 | 128 | 0.0001 | 3.210 | 0.980 | 4321 |",
        "8 processes, NVIDIA H100, in bf16",
    ):
        assert expected in text
    evaluated = {
        (entry.dataset_type, entry.metric_type): entry.metric_value for entry in ModelCard(text).data.eval_results
    }
    assert evaluated[("unav100", "average_mAP")] == 23.4567
    assert evaluated[("activitynet_qa", "accuracy")] == 41.5


def test_tasks_without_a_result_are_not_run(checkpoint):
    text = card_of(checkpoint)
    assert all(f"* {task}: not run" in text for task in EXPECTED_TASKS)
    assert "Training log: not run." in text
    assert ModelCard(text).data.eval_results is None


@pytest.mark.parametrize(
    ("lineage", "base_models"),
    [
        (Lineage(base="lmsys/vicuna-7b-v1.5"), ["lmsys/vicuna-7b-v1.5"]),
        (origin_of("lmsys/vicuna-7b-v1.5", "openai/clip"), ["lmsys/vicuna-7b-v1.5", "openai/clip"]),
        (origin_of("vicuna-7b-v1.5", "openai/clip"), ["openai/clip"]),
        (origin_of("meta-llama/Llama-2-7b-hf", None), ["meta-llama/Llama-2-7b-hf"]),
    ],
    ids=["stage on the Hub", "assembled", "assembled from a folder", "llama 2"],
)
def test_the_licence_of_llama_2_is_inherited(checkpoint, lineage, base_models):
    files = write_model_card(checkpoint, repo_id="user/avicuna", results=[], lineage=lineage)
    metadata = ModelCard(files["README.md"]).data
    assert metadata.license == "llama2" and metadata.base_model == base_models
    assert metadata.base_model_relation == "finetune"
    assert "Llama 2 Community License" in files["README.md"] and "Llama 2 is licensed under" in files["Notice"]
    with pytest.raises(ValueError, match="their licence is llama2, not mit"):
        card_of(checkpoint, lineage=lineage, license="mit")


def test_without_llama_2_the_licence_is_an_option(checkpoint):
    data = ModelCard(card_of(checkpoint)).data
    assert (data.license, data.license_name, data.base_model) == ("other", "see-licences", None)
    files = write_model_card(checkpoint, repo_id="user/avicuna", results=[], lineage=Lineage())
    assert files[data.license_link].startswith("# Licences\n\nThe code is Apache-2.0.")
    assert "not recorded" in files["README.md"]
    mine = origin_of("Qwen/Qwen3-8B", None)
    text = card_of(checkpoint, lineage=mine, license="cc-by-4.0")
    assert ModelCard(text).data.license == "cc-by-4.0" and "They derive from Qwen/Qwen3-8B" in text
    assert "Notice" not in write_model_card(checkpoint, repo_id="u/m", results=[], lineage=mine)


def test_the_metadata_list_the_training_data_on_the_hub(checkpoint):
    assert ModelCard(card_of(checkpoint, stages=[SUMMARY])).data.datasets == ["user/pu_valor"]
    assert ModelCard(card_of(checkpoint, stages=[SUMMARY], datasets=["me/mine"])).data.datasets == ["me/mine"]


def test_the_results_are_written_next_to_the_card(checkpoint):
    files = write_model_card(checkpoint, repo_id="user/avicuna", results=[RESULT, JUDGED], lineage=Lineage())
    assert json.loads(files["evaluation_results.json"]) == [RESULT, JUDGED]
    assert "evaluation_results.json" not in write_model_card(
        checkpoint, repo_id="user/avicuna", results=[], lineage=Lineage()
    )


def test_the_time_format_is_described():
    assert describe_time({})[0] == "2 digits, 0 to 99 of the video's length"
    assert describe_time({"num_time_bins": 1000}) == (
        "3 digits, 0 to 999 of the video's length",
        "1/1000 of the video's length",
    )
    assert describe_time({"time_unit": "seconds"})[0] == "seconds with one decimal"


def test_a_result_of_another_model_is_an_error(checkpoint):
    result = {**RESULT, "settings": {"model_hash": model_hash(str(checkpoint))}}
    assert "23.46" in card_of(checkpoint, results=[result])
    (checkpoint / "README.md").write_text("not part of the model")
    assert "23.46" in card_of(checkpoint, results=[result])
    (checkpoint / "config.json").write_text((checkpoint / "config.json").read_text().replace("0.25", "0.5"))
    with pytest.raises(ValueError, match="narration-exact-constant was evaluated on another model"):
        card_of(checkpoint, results=[result])


def test_a_missing_result_file_is_named(checkpoint, tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.json"):
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
        card_of(checkpoint)


@pytest.fixture(scope="module")
def stages(workshop, tmp_path_factory):  # noqa: F811
    """Two stages of training, the second from the first; the first is too short to log a loss."""
    folder = tmp_path_factory.mktemp("stages")
    start = folder / "start"
    shutil.copytree(workshop.checkpoint, start)
    write_origin(start, made_by="train.initialize", language_model=RANDOM, vision_tower="openai/clip")
    begin = {"model_name_or_path": start, "trainable": "vision_adapter", "logging_steps": 50}
    first = run_stage(workshop, "image", folder / "first", **begin)
    lora = {"use_peft": True, "lora_r": 4, "model_name_or_path": first}
    return first, run_stage(workshop, "composed", folder / "second", **lora)


def test_the_lineage_of_a_stage_needs_only_its_own_folder(stages, tmp_path):
    first, second = (json.loads((folder / SUMMARY_FILE).read_text()) for folder in stages)
    last_stage = tmp_path / "last_stage"
    shutil.copytree(stages[1], last_stage, ignore=shutil.ignore_patterns("checkpoint-*"))
    lineage = read_lineage(last_stage)
    for summary, recorded in zip((first, second), lineage.stages, strict=True):
        assert {**recorded, "started_from": None} == {**summary, "started_from": None}
    assert lineage.origin["parts"]["vision_tower"] == "openai/clip"
    text = card_of(last_stage, lineage=lineage)
    assert "| no recipe | vision_adapter | images 6 | 0 | 2 | 4 | 0.01 | - | - |" in text
    assert f"| LoRA | pseudo-valor 8 | 0 | 2 | 4 | 0.01 | {second['first_loss']:.3f} |" in text
    assert f"at commit `{second['git_commit']}`" in text and f"trl {second['versions']['trl']}" in text
    assert "| openai/clip |" in text and "Assembled by `train.initialize` from openai/clip." in text
    assert [entry["step"] for entry in second["log"]] == [1, 2]


def test_an_unknown_summary_file_is_an_error_that_names_it(tmp_path):
    (tmp_path / SUMMARY_FILE).write_text("{}")
    with pytest.raises(ValueError, match=f"{SUMMARY_FILE} has no `started_from`"):
        read_lineage(tmp_path)


def test_the_card_of_an_adapter_names_its_base(stages):
    adapter = stages[1] / ADAPTER_FOLDER
    lineage = read_lineage(stages[1])
    text = write_adapter_card(adapter, repo_id="user/lora", base_model="user/avicuna", lineage=lineage)["README.md"]
    metadata = ModelCard(text).data
    assert (metadata.base_model, metadata.library_name) == ("user/avicuna", "peft")
    assert "Rank 4, alpha 128" in text and "pseudo-valor 8" in text and str(stages[0]) not in text
    assert "images 6" not in text, "the earlier stage belongs to the base"


def test_the_code_sample_for_features_runs_without_the_project(stages, tmp_path):
    """With a tiny checkpoint from which the towers are removed."""
    folder = tmp_path / "model"
    shutil.copytree(stages[1], folder, ignore=shutil.ignore_patterns("checkpoint-*", ADAPTER_FOLDER))
    config = json.loads((folder / "config.json").read_text())
    sizes = {"vision_feature_size": 64, "audio_feature_size": 64}
    (folder / "config.json").write_text(json.dumps({**config, "vision_config": None, "audio_config": None, **sizes}))
    card = card_of(folder, repo_id=str(folder))
    sample = card.split("```python\n")[1].split("```")[0].replace("max_new_tokens=128", "max_new_tokens=4")
    environment = {**os.environ, "PYTHONPATH": "", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = subprocess.run(
        [sys.executable, "-c", sample], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().endswith("]")  # the list of events


def test_the_code_sample_for_files_uses_the_duration_of_the_video_stream(tmp_path, monkeypatch):
    """4 s of video and 8 s of audio: the duration is 4 s, as in the pipeline."""
    durations = []
    model, processor = build_tiny(["a caption"], vocab_size=400, num_av_tokens=8)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    write_media(tmp_path / "example.mp4", frames=pictures(40), fps=10, waveform=tone(8.0))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        type(processor), "post_process_events", lambda _, texts, seconds: durations.extend(seconds) or [[]]
    )
    exec(model_sample(model.config.to_dict(), repo_id=str(tmp_path)), {})
    assert durations == [pytest.approx(4.0, abs=0.01)]


def test_a_card_for_a_local_folder_downloads_nothing(tmp_path):
    config = {"vision_config": {"hidden_size": 1}, "audio_config": {"hidden_size": 1}}
    assert "hf_hub_download" in model_sample(config, repo_id="user/avicuna")
    assert "hf_hub" not in model_sample(config, repo_id=str(tmp_path))


def test_a_result_file_of_eval_run_is_shown_in_the_card(checkpoint, tmp_path):
    """Written by `result_of` and `write_json` as in eval.run, with synthetic values."""
    output = tmp_path / "eval"
    line = ["--task", "sandbox", "--model", str(checkpoint), "--annotations", "a.json", "--output", str(output)]
    options = parse_options(run.RunOptions, [*line, "--score", "constant"], program="eval.run")
    output.mkdir()
    score = Score(metrics={"mAP@0.5": 31.25, "average_mAP": 20.125}, protocol="narration-exact-constant")
    settings = {"task": "sandbox", "subset": "test", "model": str(checkpoint), "prompts_sha256": "0" * 64}
    settings["model_hash"] = model_hash(str(checkpoint))
    counts = {"num_examples": 3, "num_expected": 5, "missing": ["a"], "unreadable": {"b": "no video stream"}}
    write_json(output / "results.json", run.result_of(score, options, settings, counts=counts, seconds=1.0))
    main(["--model", str(checkpoint), "--repo-id", "user/avicuna", "--results", str(output / "results.json")])
    text = (checkpoint / "README.md").read_text()
    assert "| sandbox/narration-exact-constant | 3 of 5 | mAP@0.5 | 31.25 |" in text
    assert "videos missing and therefore not scored: 1" in text
    assert "videos unreadable and therefore not scored: 1" in text
    entry = next(entry for entry in ModelCard(text).data.eval_results if entry.metric_type == "mAP@0.5")
    assert (entry.dataset_name, entry.dataset_split, entry.metric_value) == ("sandbox", "test", 31.25)


def test_the_card_of_pu_valor_is_written_from_its_report(tmp_path):
    captions = write_captions(tmp_path / "desc.json")
    folder = build_folder(quick_settings(captions, num_videos=7), tmp_path / "pu_valor")
    written = (folder / "README.md").read_text()
    (folder / "README.md").unlink()
    captions.unlink()
    main(["--dataset", str(folder), "--repo-id", "user/pu_valor"])
    card = (folder / "README.md").read_text()
    assert 'load_dataset("user/pu_valor"' in card and "| train | 7 |" in card
    lines = {True: set(card.splitlines()), False: set(written.splitlines())}
    assert all("load_dataset" in line for line in lines[True] ^ lines[False])
    assert DatasetCard(card).data.pretty_name == "PU-VALOR"


def test_the_card_of_a5_222k_is_written_from_its_report(tmp_path):
    captions = write_captions(tmp_path / "desc.json", num_clips=12)
    folder = write_folder(A5222KConfig(captions_file=str(captions), num_pairs=None), tmp_path / "a5")
    card = dataset_card(folder, name="user/a5_222k")
    assert 'load_dataset("user/a5_222k"' in card and "\n12 pairs of a sound" in card
    assert DatasetCard(card).data.pretty_name == "A5-222K"


def test_a_folder_without_a_known_report_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="report.json"):
        dataset_card(tmp_path, name="x")
    (tmp_path / "report.json").write_text('{"settings": {}}')
    with pytest.raises(ValueError, match="neither PU-VALOR nor A5-222K"):
        dataset_card(tmp_path, name="x")
