"""A training stage in one process: changed tensors, saved files, resuming, errors."""

import json
import shutil

import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModel, AutoProcessor, TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from dataset_builders.schema import FEATURES
from tests.train_fixtures import CAPTIONS, changed_names, run_stage, saved_weights, workshop  # noqa: F401
from train.checkpoint import ADAPTER_FOLDER, load_model
from train.collator import AVicunaCollator
from train.initialize import build_tiny
from train.media_rows import CachedMedia
from train.summary import SUMMARY_FILE


ADAPTER_TENSORS = {f"model.{kind}_adapter.{name}" for kind in ("vision", "audio") for name in ("weight", "bias")}


def language_tensors(folder, *, linear_only: bool) -> set[str]:
    names = {n for n in saved_weights(folder) if n.startswith(("model.language_model.", "lm_head."))}
    return {n for n in names if n.endswith("_proj.weight")} if linear_only else names


STAGES = {
    "stage I": ("image", {"trainable": "vision_adapter", "chat_template": "plain"}),
    "stage II": ("audio", {"trainable": "audio_adapter", "chat_template": "plain"}),
    "stage III": ("composed", {"use_peft": True, "lora_r": 4, "lora_alpha": 8}),
    "stage III in full": ("composed", {"trainable": ["language_model", "vision_adapter"]}),
    "stage IV": ("video", {"use_peft": True, "lora_r": 4, "trainable": "audio_adapter"}),
}


@pytest.fixture(scope="module", params=list(STAGES))
def trained(request, workshop, tmp_path_factory):  # noqa: F811
    """The name of a stage and its output after two steps."""
    kind, overrides = STAGES[request.param]
    return request.param, run_stage(workshop, kind, tmp_path_factory.mktemp("stage"), **overrides)


def expected_changes(name: str, folder) -> set[str]:
    return {
        "stage I": {n for n in ADAPTER_TENSORS if "vision" in n},
        "stage II": {n for n in ADAPTER_TENSORS if "audio" in n},
        "stage III": language_tensors(folder, linear_only=True),
        "stage III in full": language_tensors(folder, linear_only=False)
        | {n for n in ADAPTER_TENSORS if "vision" in n},
        "stage IV": language_tensors(folder, linear_only=True) | {n for n in ADAPTER_TENSORS if "audio" in n},
    }[name]


def test_only_the_trained_tensors_change(trained, workshop):  # noqa: F811
    name, output = trained
    assert changed_names(workshop.checkpoint, output) == expected_changes(name, output)


def test_the_output_folder_loads(trained, workshop):  # noqa: F811
    _, output = trained
    model = AutoModel.from_pretrained(output)
    assert AutoProcessor.from_pretrained(output).num_av_tokens == 8
    loaded = model.state_dict()
    assert all(torch.equal(loaded[n], t) for n, t in saved_weights(output).items())


def test_the_summary_records_the_stage(trained):
    _, output = trained
    summary = json.loads((output / SUMMARY_FILE).read_text(encoding="utf-8"))
    assert summary["steps"] == 2 and summary["effective_batch_size"] == 4 and summary["world_size"] == 1
    assert summary["num_rows"] == sum(summary["rows_per_source"].values())
    assert summary["first_loss"] > 0 and summary["final_loss"] > 0


def test_the_merged_model_equals_base_and_adapter(workshop, tmp_path):  # noqa: F811
    output = run_stage(workshop, "composed", tmp_path / "out", use_peft=True, lora_r=4, lora_alpha=64)
    processor = AutoProcessor.from_pretrained(str(output))
    media = CachedMedia([str(workshop.features)], processor=processor)
    batch = AVicunaCollator(processor, media=media)(list(Dataset.from_parquet(str(workshop.rows("composed"))))[:3])
    base = load_model(str(workshop.checkpoint)).eval()
    with torch.no_grad():
        before = base(**batch).logits.clone()
        adapted = PeftModel.from_pretrained(base, str(output / ADAPTER_FOLDER)).eval()(**batch).logits
        merged = load_model(str(output)).eval()(**batch).logits
    torch.testing.assert_close(merged, adapted, rtol=1e-5, atol=1e-5)
    assert (merged - before).abs().max() > 1e-3


@pytest.mark.parametrize(
    "overrides",
    [
        {"use_peft": True, "lora_r": 4},
        {"trainable": "language_model"},
        {"trainable": ["language_model", "vision_adapter"], "use_muon": True, "adapter_learning_rate": 0.03},
        {"use_peft": True, "lora_r": 4, "trainable": "audio_adapter", "use_muon": True, "adapter_learning_rate": 0.03},
    ],
)
def test_interrupted_and_resumed_training_is_bit_exact(workshop, tmp_path, overrides):  # noqa: F811
    steps = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = run_stage(workshop, "composed", tmp_path / "whole", **steps, **overrides)
    resumed = tmp_path / "resumed"
    resumed.mkdir()
    shutil.copytree(whole / "checkpoint-2", resumed / "checkpoint-2")  # as after a kill
    run_stage(workshop, "composed", resumed, resume_from_checkpoint="true", **steps, **overrides)
    assert changed_names(whole, resumed) == set()
    assert changed_names(workshop.checkpoint, resumed)
    log = [json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8")) for folder in (whole, resumed)]
    assert log[0]["final_loss"] == log[1]["final_loss"]


@pytest.mark.parametrize("kind", ["adapter of a finished stage", "checkpoint of an interrupted stage"])
def test_a_stage_starts_from_lora_merged_into_its_base(workshop, tmp_path, kind):  # noqa: F811
    lora = {"use_peft": True, "lora_r": 4, "trainable": "audio_adapter"}
    saving = {"save_strategy": "steps", "save_steps": 2}
    first = run_stage(workshop, "composed", tmp_path / "first", **lora, **saving)
    start = first / (ADAPTER_FOLDER if "finished" in kind else "checkpoint-2")
    again = {"trainable": "vision_adapter", "max_steps": 1}
    from_lora = run_stage(workshop, "video", tmp_path / "from_lora", model_name_or_path=start, **again)
    from_merged = run_stage(workshop, "video", tmp_path / "from_merged", model_name_or_path=first, **again)
    assert changed_names(from_lora, from_merged) == set()
    anew = {"use_peft": True, "lora_r": 2, "max_steps": 1}
    second = run_stage(workshop, "video", tmp_path / "second", model_name_or_path=start, **anew)
    assert (
        changed_names(second, run_stage(workshop, "video", tmp_path / "merged", model_name_or_path=first, **anew))
        == set()
    )
    summary = json.loads((from_lora / SUMMARY_FILE).read_text(encoding="utf-8"))
    assert len(summary["started_from"]["stages"]) == ("finished" in kind)


def test_gradient_checkpointing_changes_no_bit(workshop, tmp_path):  # noqa: F811
    plain = run_stage(workshop, "composed", tmp_path / "plain", trainable="language_model")
    saving = run_stage(
        workshop, "composed", tmp_path / "saving", trainable="language_model", gradient_checkpointing=True
    )
    assert changed_names(plain, saving) == set()


def test_losses_are_reported_to_the_integration(workshop, tmp_path, monkeypatch):  # noqa: F811
    logged = []

    class Recorder(TrainerCallback):
        def on_log(self, arguments, state, control, *, logs, **kwargs):
            logged.append(logs)

    monkeypatch.setitem(INTEGRATION_TO_CALLBACK, "recorder", Recorder)
    output = run_stage(workshop, "video", tmp_path, trainable="vision_adapter", report_to="recorder")
    summary = json.loads((output / SUMMARY_FILE).read_text(encoding="utf-8"))
    losses = [entry["loss"] for entry in logged if "loss" in entry]
    assert [losses[0], losses[-1]] == [summary["first_loss"], summary["final_loss"]]


def test_flattened_training_has_the_losses_of_padded_training(workshop, tmp_path):  # noqa: F811
    outputs = {
        flatten: run_stage(
            workshop, "video", tmp_path / str(flatten), use_peft=True, lora_dropout=0.0, flatten=flatten
        )
        for flatten in (False, True)
    }
    padded, flat = (json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8")) for folder in outputs.values())
    assert flat["first_loss"] == pytest.approx(padded["first_loss"], rel=1e-5)
    assert flat["final_loss"] == pytest.approx(padded["final_loss"], rel=1e-4)  # rounding adds up over a step


def test_flattened_training_of_short_convolutions_is_an_error(workshop, tmp_path):  # noqa: F811
    model, processor = build_tiny(CAPTIONS, vocab_size=400, num_av_tokens=8, language_model="lfm2")
    model.save_pretrained(tmp_path / "lfm2")
    processor.save_pretrained(tmp_path / "lfm2")
    stage = {"model_name_or_path": tmp_path / "lfm2", "trainable": "vision_adapter", "flatten": True}
    with pytest.raises(ValueError, match="flatten: true cannot train a language model of type 'lfm2'"):
        run_stage(workshop, "video", tmp_path / "out", **stage)


def test_bf16_trains(workshop, tmp_path):  # noqa: F811
    output = run_stage(workshop, "composed", tmp_path, use_peft=True, lora_r=4, bf16=True, dtype="bfloat16")
    summary = json.loads((output / SUMMARY_FILE).read_text(encoding="utf-8"))
    assert summary["precision"] == "bf16" and summary["final_loss"] > 0
    assert saved_weights(output)["model.language_model.layers.0.mlp.up_proj.weight"].dtype == torch.bfloat16


def test_rows_without_media_are_an_error_or_counted(workshop, tmp_path):  # noqa: F811
    rows = list(Dataset.from_parquet(str(workshop.rows("video"))))
    rows[2]["media"]["video"] = "gone.mp4"
    path = tmp_path / "rows.parquet"
    Dataset.from_list(rows, features=FEATURES).to_parquet(str(path))
    with pytest.raises(ValueError, match=r"1 of 6 rows lack media.*max_missing.*gone\.mp4"):
        run_stage(workshop, "video", tmp_path / "out", trainable="vision_adapter", datasets=path)
    output = run_stage(
        workshop, "video", tmp_path / "out", trainable="vision_adapter", datasets=path, max_missing="20%"
    )
    summary = json.loads((output / SUMMARY_FILE).read_text(encoding="utf-8"))
    assert summary["dropped"] == {"missing_media": 1} and summary["num_rows"] == 5
    # the same ids in a second source: rows are counted, not ids
    with pytest.raises(ValueError, match="2 of 12 rows lack media"):
        twice = {"datasets": [path, path], "max_missing": "10%"}
        run_stage(workshop, "video", tmp_path / "out", trainable="vision_adapter", **twice)


def test_an_invalid_start_is_an_error_that_names_it(workshop, tmp_path):  # noqa: F811
    line = {"trainable": "vision_adapter"}
    with pytest.raises(ValueError, match="model_name_or_path is not set"):
        run_stage(workshop, "video", tmp_path, model_name_or_path=None, **line)
    empty = tmp_path / "empty"
    shutil.copytree(workshop.checkpoint, empty)
    (empty / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="empty"):
        run_stage(workshop, "video", tmp_path, model_name_or_path=empty, **line)
    with pytest.raises(ValueError, match="nothing to resume"):
        run_stage(workshop, "video", tmp_path / "none", resume_from_checkpoint="true", **line)
    with pytest.raises(ValueError, match="virtual composition.*features_dir"):
        run_stage(workshop, "composed", tmp_path, features_dir=None, **line)
