"""The trainer: evaluation, stopping criteria, divergence, and losses."""

import json
import sys
import types

import pytest
import torch
import trl.trainer.utils
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoProcessor

from benchmarks.full_size import build_full_size
from tests.train_fixtures import run_stage, workshop  # noqa: F401
from train import trainer
from train.arguments import parse_arguments
from train.checkpoint import load_model
from train.collator import AVicunaCollator
from train.media_rows import CachedMedia
from train.summary import SUMMARY_FILE
from train.time_accuracy import DIGITS, digit_tokens, find_time_digits


EVALUATION = {"eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 4}


def summary_of(folder):
    return json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8"))


def digits_of(text: str) -> list[str]:
    """`find_time_digits` of a text in which each character is a token and "|" separates answers."""
    labels = [-100 if character == "|" else ord(character) for character in text]
    return list(find_time_digits(labels, set(map(ord, "0123456789"))).values())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("|From 03 to 17, a dog barks.", DIGITS),
        ("|dog 0317 cat No bell 4055", DIGITS * 2),
        ("|From 03 to 17 and from 40 to 55.", DIGITS * 2),
        ("|From 03|From 40 to 55.", DIGITS[:2] + DIGITS),
        ("|No event.", ()),
        ("|2 dogs bark 100 times from 03 to 17.", DIGITS),
    ],
)
def test_digits_of_times_are_found_in_all_formats_of_answers(text, expected):
    assert digits_of(text) == list(expected)


def test_evaluation_reports_teacher_forced_accuracy(workshop, tmp_path):  # noqa: F811
    """Compared with the logits of the whole batch; a learning rate of 0 does not change the checkpoint."""
    rows = workshop.rows("video")
    output = run_stage(
        workshop, "video", tmp_path, trainable="vision_adapter", eval_datasets=rows, learning_rate=0.0, **EVALUATION
    )
    processor, model = AutoProcessor.from_pretrained(str(output)), load_model(str(output)).eval()
    media = CachedMedia([str(workshop.features)], processor=processor)
    batch = AVicunaCollator(processor, media=media)(list(Dataset.from_parquet(str(rows))))
    with torch.no_grad():
        result = model(**batch)
    is_correct = result.logits[:, :-1].argmax(-1) == batch["labels"][:, 1:]
    found = {digit: [] for digit in DIGITS}
    for labels, correct in zip(batch["labels"][:, 1:].tolist(), is_correct.tolist()):
        for index, digit in find_time_digits(labels, digit_tokens(processor.tokenizer)).items():
            found[digit].append(correct[index])
    assert [len(values) for values in found.values()] == [6, 6, 6, 6]
    log = summary_of(output)["eval_log"]
    assert len(log) == 2 and summary_of(output)["eval"]["rows_per_source"] == {"unav100": 6}
    for entry in log:
        for digit, values in found.items():
            assert entry[f"eval_{digit}_accuracy"] == pytest.approx(sum(values) / 6)


@pytest.mark.parametrize(
    ("criteria", "steps"),
    [
        (["loss <= 100"], 1),
        (["start_tens_accuracy >= 0", "eval_loss <= 100"], 1),
        (["start_tens_accuracy >= 0", "loss <= 0.001"], 3),
    ],
)
def test_training_stops_when_all_criteria_are_met(workshop, tmp_path, criteria, steps):  # noqa: F811
    options = {"eval_datasets": workshop.rows("video"), "stop_when": criteria, "max_steps": 3, **EVALUATION}
    output = run_stage(workshop, "video", tmp_path, trainable="vision_adapter", **options)
    assert summary_of(output)["steps"] == steps
    assert (output / "model.safetensors").exists()


def test_an_unknown_metric_is_an_error_that_lists_the_metrics(workshop, tmp_path):  # noqa: F811
    options = {"eval_datasets": workshop.rows("image"), "stop_when": ["start_tens_accuracy >= 0.5"], **EVALUATION}
    with pytest.raises(ValueError, match=r"no metric 'start_tens_accuracy' in this evaluation; it has \['entropy'"):
        run_stage(workshop, "image", tmp_path, trainable="vision_adapter", **options)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["--stop_when", "loss<=0.5"], "stop_when needs evaluations"),
        (["--stop_when", "loss is low", "--eval_strategy", "steps"], "got 'loss is low'"),
    ],
)
def test_an_invalid_criterion_is_an_error(line, words):
    base = ["--trainable", "vision_adapter", "--bf16", "false", "--output_dir", "/nowhere"]
    with pytest.raises(ValueError, match=words):
        parse_arguments([*base, *line])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_steps": 1, "learning_rate": 1e38}, "holds values that are not finite"),
        ({"max_steps": 4, "learning_rate": 1e30}, "loss was not finite"),
        ({"max_steps": 4, "learning_rate": 1e30, "logging_steps": 50}, "loss was not finite"),
        (
            {"max_steps": 4, "learning_rate": 1e30, "logging_steps": 50, "save_strategy": "steps", "save_steps": 3},
            "loss was not finite",
        ),
    ],
)
def test_a_diverging_training_is_an_error_and_saves_nothing(workshop, tmp_path, options, words):  # noqa: F811
    with pytest.raises(FloatingPointError, match=words):
        run_stage(workshop, "video", tmp_path, trainable="language_model", **options)
    assert not list(tmp_path.rglob("*.safetensors")) and not (tmp_path / SUMMARY_FILE).exists()


def test_label_smoothing_excludes_the_placeholders(workshop, tmp_path):  # noqa: F811
    """The loss equals that of torch on the logits without the two placeholders."""
    options = {"label_smoothing_factor": 0.1, "learning_rate": 0.0, "per_device_train_batch_size": 6}
    output = run_stage(workshop, "video", tmp_path, trainable="vision_adapter", effective_batch_size=6, **options)
    processor, model = AutoProcessor.from_pretrained(str(output)), load_model(str(output)).eval()
    media = CachedMedia([str(workshop.features)], processor=processor)
    batch = AVicunaCollator(processor, media=media)(list(Dataset.from_parquet(str(workshop.rows("video")))))
    placeholders = {processor.video_token_id, processor.audio_token_id}
    with torch.no_grad():
        logits, labels = model(**batch).logits[:, :-1], batch["labels"][:, 1:]
    kept = [i for i in range(logits.shape[-1]) if i not in placeholders]
    is_label = labels != -100
    targets = torch.tensor([kept.index(int(label)) for label in labels[is_label]])
    expected = torch.nn.functional.cross_entropy(logits[is_label][:, kept], targets, label_smoothing=0.1)
    assert summary_of(output)["first_loss"] == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("flatten", [False, True])
def test_samples_without_a_supervised_token_are_counted(workshop, tmp_path, flatten):  # noqa: F811
    """40 tokens contain the media and the question, but no answer."""
    options = {"chat_template": "vicuna", "trainable": "audio_adapter", "flatten": flatten, "max_steps": 2}
    whole = run_stage(workshop, "audio", tmp_path / "whole", **options)
    cut = run_stage(workshop, "audio", tmp_path / "cut", max_length=40, **options)
    assert summary_of(whole)["samples_without_labels"] == 0
    assert summary_of(cut)["samples_without_labels"] == 5


def test_a_cpu_scores_only_labelled_positions_with_the_same_loss(workshop, tmp_path, monkeypatch):  # noqa: F811
    """The number of rows of the input of the head is the number of scored positions."""
    scored, losses = [], []
    apply = trl.trainer.utils._ChunkedLogProbFunction.apply
    monkeypatch.setattr(
        trl.trainer.utils._ChunkedLogProbFunction,
        "apply",
        lambda hidden, *rest: scored.append(len(hidden)) or apply(hidden, *rest),
    )
    for name in ("ours", "theirs"):
        output = run_stage(workshop, "video", tmp_path / name, trainable="vision_adapter", max_steps=1)
        losses.append(summary_of(output)["first_loss"])
        monkeypatch.setattr("train.trainer.score_labelled_positions", lambda: None)
        monkeypatch.setattr(trl.trainer.utils, "_use_triton", lambda device: False)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert scored[0] < scored[-1] / 2


@pytest.mark.parametrize("peft", [False, True])
def test_liger_kernels_reach_the_language_model(monkeypatch, peft):
    model = build_full_size("tiny", device="cpu", dtype=torch.float32, towers=False)[0]
    applied = []
    monkeypatch.setattr(trainer, "apply_liger_kernel", lambda language_model, settings: applied.append(language_model))
    monkeypatch.setattr(trainer, "is_liger_kernel_available", lambda: False)
    wrapped = get_peft_model(model, LoraConfig(target_modules=["q_proj"])) if peft else model
    trainer.apply_liger_to_language_model(wrapped, {})
    assert applied == [model.model.language_model]


def test_a_language_model_that_liger_does_not_know_is_an_error(monkeypatch):
    model, _ = build_full_size("tiny", device="cpu", dtype=torch.float32, towers=False)
    known = types.ModuleType("liger_kernel.transformers.monkey_patch")
    known.MODEL_TYPE_TO_APPLY_LIGER_FN = {"gemma": None}
    for name in ("liger_kernel", "liger_kernel.transformers"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, known.__name__, known)
    monkeypatch.setattr(trainer, "is_liger_kernel_available", lambda: True)
    with pytest.raises(ValueError, match="no kernels for language models of type 'llama'"):
        trainer.apply_liger_to_language_model(
            build_full_size("tiny", device="cpu", dtype=torch.float32, towers=False)[0], {}
        )
