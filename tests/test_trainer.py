"""Evaluation during training: its metrics, and a training that ends when they meet a criterion."""

import json

import pytest
import torch
from datasets import Dataset

from tests.train_fixtures import run_stage, workshop  # noqa: F401
from train.arguments import parse_arguments
from train.checkpoint import load_model, load_processor
from train.collator import AVicunaCollator
from train.media_rows import CachedMedia
from train.summary import SUMMARY_FILE
from train.time_accuracy import PLACES, digit_tokens, time_places


EVALUATION = {"eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 4}


def summary_of(folder):
    return json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8"))


def places_of(text: str) -> list[str]:
    """`time_places` of a text in which every character is a token and "|" separates answers, in order."""
    labels = [-100 if character == "|" else ord(character) for character in text]
    return list(time_places(labels, set(map(ord, "0123456789"))).values())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("|From 03 to 17, a dog barks.", PLACES),
        ("|dog 0317 cat No bell 4055", PLACES * 2),
        ("|From 03 to 17 and from 40 to 55.", PLACES * 2),
        ("|From 03|From 40 to 55.", PLACES[:2] + PLACES),
        ("|No event.", ()),
        ("|2 dogs bark 100 times from 03 to 17.", PLACES),
    ],
)
def test_digits_of_times_are_found_in_any_form_of_answer(text, expected):
    assert places_of(text) == list(expected)


def test_evaluation_reports_teacher_forced_accuracy(workshop, tmp_path):  # noqa: F811
    """Held against the logits of the whole batch: a learning rate of 0 keeps the checkpoint as it is."""
    rows = workshop.rows("video")
    output = run_stage(
        workshop, "video", tmp_path, trainable="vision_adapter", eval_datasets=rows, learning_rate=0.0, **EVALUATION
    )
    processor, model = load_processor(str(output)), load_model(str(output)).eval()
    media = CachedMedia([str(workshop.features)], processor=processor)
    batch = AVicunaCollator(processor, media=media)(list(Dataset.from_parquet(str(rows))))
    with torch.no_grad():
        result = model(**batch)
    is_correct = result.logits[:, :-1].argmax(-1) == batch["labels"][:, 1:]
    found = {place: [] for place in PLACES}
    for labels, correct in zip(batch["labels"][:, 1:].tolist(), is_correct.tolist()):
        for index, place in time_places(labels, digit_tokens(processor.tokenizer)).items():
            found[place].append(correct[index])
    assert [len(values) for values in found.values()] == [6, 6, 6, 6]
    log = summary_of(output)["eval_log"]
    assert len(log) == 2 and summary_of(output)["eval"]["rows_per_source"] == {"unav100": 6}
    for entry in log:
        for place, values in found.items():
            assert entry[f"eval_{place}_accuracy"] == pytest.approx(sum(values) / 6)


@pytest.mark.parametrize(
    ("criteria", "steps"),
    [
        (["loss <= 100"], 1),
        (["start_tens_accuracy >= 0", "eval_loss <= 100"], 1),
        (["start_tens_accuracy >= 0", "loss <= 0.001"], 3),
    ],
)
def test_training_ends_when_all_criteria_are_met(workshop, tmp_path, criteria, steps):  # noqa: F811
    options = {"eval_datasets": workshop.rows("video"), "stop_when": criteria, "max_steps": 3, **EVALUATION}
    output = run_stage(workshop, "video", tmp_path, trainable="vision_adapter", **options)
    assert summary_of(output)["steps"] == steps
    assert (output / "model.safetensors").exists()


def test_an_unknown_metric_is_named_with_the_known_ones(workshop, tmp_path):  # noqa: F811
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
def test_a_criterion_that_cannot_be_checked_is_refused(line, words):
    base = ["--trainable", "vision_adapter", "--bf16", "false", "--output_dir", "/nowhere"]
    with pytest.raises(ValueError, match=words):
        parse_arguments([*base, *line])
