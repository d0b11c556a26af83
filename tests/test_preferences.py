"""Pairs of a preferred and a rejected answer: what is rejected, and that trl reads the pairs."""

import json
from collections import Counter

import pytest
from datasets import Video, load_dataset

from dataset_builders.schema import TRACKED_FEATURES, with_rejected
from dataset_builders.sources.preferences import list_pairs, write_preferences

from .curation_fixtures import load_pu_valor, make_captions
from .tiny_tokenizers import byte_level_tokenizer


OPTIONS = {
    "overlay": True,
    "gap_share": 0.9,
    "gap_seconds": (1, 4),
    "recurrence": 0.4,
    "max_repeats": 1,
    "absent_share": 0.3,
    "conversation_types": ("T2",),
    "min_turns": 3,
    "max_turns": 3,
    "shifted_sound_share": 0.4,
    "muted_sound_share": 0.2,
    "swapped_sound_share": 0.2,
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The same rows without and with rejected answers."""
    folder = tmp_path_factory.mktemp("preferences")
    (folder / "backgrounds.json").write_text('["quiet_0.000_10.000"]', encoding="utf-8")
    records = make_captions(60)
    for number, record in enumerate(records):
        record["tracks"] = ("audio", "video", "both")[number % 3]
    (folder / "desc.json").write_text(json.dumps(records), encoding="utf-8")
    options = {**OPTIONS, "backgrounds_file": str(folder / "backgrounds.json"), "cache_dir": folder / "cache"}
    return [
        load_pu_valor(folder / "desc.json", preferences=preferences, **options)["train"]
        for preferences in (False, True)
    ]


def spans_of(entry, times):
    seconds = [time["seconds"] for time in times if time["name"] in entry]
    return list(zip(seconds[::2], seconds[1::2]))


def test_rejected_answers_are_an_additional_column(built):
    plain, rows = built
    assert rows.features == with_rejected(TRACKED_FEATURES) and plain.features == TRACKED_FEATURES
    assert rows.remove_columns("rejected")[:] == plain[:]


def test_the_rejected_answer_is_the_former_time_a_time_for_an_absent_event_or_the_union(built):
    counts = Counter()
    for row in built[1]:
        events = [s for s in row["segments"] if s["caption"] is not None]
        for rejected in row["rejected"]:
            question, answer = (row["messages"][2 * rejected["turn"] + place]["content"] for place in (0, 1))
            right, wrong = spans_of(answer, row["times"]), spans_of(rejected["content"], rejected["times"])
            reason = rejected["reason"]
            counts[reason, bool(right)] += 1
            assert wrong and wrong != right and all(0 <= a < b <= row["duration"] + 1e-3 for a, b in wrong)
            if reason == "union":
                assert len(right) > 1 and wrong == [(min(a for a, _ in right), max(b for _, b in right))]
            elif reason == "absent_event":
                assert answer == "No event." and len(wrong) == 1
                assert not any(s["caption"].rstrip(".") in question for s in events)
            elif right:  # moved: all sounds by the same amount; what is only seen stays
                moves = {round(b[0] - a[0], 2) for a, b in zip(wrong, right)} - {0.0}
                assert len(wrong) == len(right) and len(moves) == 1 and 1 <= abs(moves.pop()) <= 5.01
            else:  # the sound is muted or replaced
                assert answer == "No event."
    assert min(counts.values()) >= 3 and len(counts) == 4  # former_time both with and without a right span


def test_pairs_are_read_by_trl(built, tmp_path):
    trl, torch = pytest.importorskip("trl"), pytest.importorskip("torch")
    from transformers import LlamaConfig, LlamaForCausalLM

    rows = built[1]
    num_pairs = write_preferences(rows, tmp_path / "pairs.jsonl")
    pairs = load_dataset("json", data_files=str(tmp_path / "pairs.jsonl"), cache_dir=str(tmp_path / "cache"))["train"]
    assert len(pairs) == num_pairs > 40 and trl.is_conversational(pairs[0])
    assert all(pair["prompt"][0]["content"].count("<video>") == 1 for pair in pairs)
    assert pairs[0]["segments"] == rows.filter(lambda row: row["id"] == pairs[0]["id"].split("/")[0])[0]["segments"]
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }}:{{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(tmp_path / "model")
    arguments = trl.DPOConfig(
        str(tmp_path / "dpo"), max_steps=1, per_device_train_batch_size=2, use_cpu=True, bf16=False, report_to="none"
    )
    trainer = trl.DPOTrainer(
        str(tmp_path / "model"), args=arguments, train_dataset=pairs.select(range(4)), processing_class=tokenizer
    )
    prepared = trainer.train_dataset[0]
    texts = [tokenizer.decode(prepared[name]) for name in ("prompt_ids", "chosen_ids", "rejected_ids")]
    assert texts[0].startswith("user:<video>\n") and texts[0].endswith("assistant:")
    assert texts[1:] == [pairs[0][name][0]["content"] + "\n" for name in ("chosen", "rejected")]
    assert trainer.train().training_loss > 0


def test_times_are_digits_or_seconds_and_equal_texts_are_left_out():
    row = {
        "id": "a",
        "duration": 100.0,
        "media": {},
        "segments": [],
        "messages": [{"content": "<video>\nWhen?"}, {"content": "From <s0> to <e0>."}],
        "times": [{"name": "<s0>", "seconds": 10.0}, {"name": "<e0>", "seconds": 20.0}],
        "rejected": [
            {
                "turn": 0,
                "reason": "former_time",
                "content": "From <s0> to <e0>.",
                "times": [{"name": "<s0>", "seconds": start}, {"name": "<e0>", "seconds": 20.0}],
            }
            for start in (10.05, 15.0)
        ],
    }
    said = [
        [(pair["chosen"][0]["content"], pair["rejected"][0]["content"]) for pair in list_pairs(row, times=times)]
        for times in ("digits", "seconds")
    ]
    assert said[0] == [("From 10 to 20.", "From 15 to 20.")]
    assert said[1][1] == ("From 10.0 s to 20.0 s.", "From 15.0 s to 20.0 s.")


def test_rows_without_rejected_answers_are_an_error_and_leave_no_file(built, tmp_path):
    for rows, times, message in (
        (built[0], "digits", "has no column 'rejected'"),
        ([{"id": "a", "rejected": [], "messages": [], "times": [], "duration": 1.0}], "digits", "no row has"),
        (built[1], "frames", "times must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            write_preferences(rows, tmp_path / "pairs.jsonl", times=times)
        assert not (tmp_path / "pairs.jsonl").exists()


def test_other_columns_are_not_read(built, tmp_path):
    rows = built[1].add_column("video", ["absent.mp4"] * len(built[1])).cast_column("video", Video())
    with pytest.raises((OSError, RuntimeError, ImportError)):
        rows[0]
    assert write_preferences(rows, tmp_path / "pairs.jsonl") == write_preferences(built[1], tmp_path / "plain.jsonl")
    assert (tmp_path / "pairs.jsonl").read_bytes() == (tmp_path / "plain.jsonl").read_bytes()
