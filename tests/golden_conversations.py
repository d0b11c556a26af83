"""Converts the conversations of the golden labels to messages, and lists the intended differences."""

import json
from pathlib import Path


# Conversation: why its prompt or labels are not the published ones.
INTENDED_DIFFERENCES = {
    ("v1", "empty_answer"): "</s> is supervised; published: no supervised token, a NaN loss",
    ("v1", "contains_sep"): "an answer with 'ASSISTANT: ' is supervised; published: no supervised token",
    ("v1", "contains_eos_text"): "the whole answer is supervised; published: no supervised token",
    ("v1", "literal_later_audio"): "a literal <audio> in a user's text is an error; published: plain text",
    ("plain", "two_turn"): "an error with a message; published: a bare assertion",
    ("plain", "no_video"): "an error with a message; published: a bare assertion",
}


def read_labels(golden_dir: Path, legacy: int) -> dict:
    return json.loads((golden_dir / "labels" / f"llama_tokenizer_legacy{legacy}.json").read_text(encoding="utf-8"))


def to_messages(conversation: list[dict]) -> list[dict]:
    """Published turns as messages; each placeholder of a human turn becomes a video block."""
    messages = []
    for turn in conversation:
        if turn["from"] == "gpt":
            messages.append({"role": "assistant", "content": turn["value"]})
            continue
        blocks = []
        for number, text in enumerate(turn["value"].split("<video>")):
            blocks += [{"type": "video"}] if number else []
            blocks += [{"type": "text", "text": text}] if text else []
        messages.append({"role": "user", "content": blocks})
    return messages


def collapse(ids: list[int], values: list[int], placeholder_ids: set[int]) -> tuple[list[int], list[int]]:
    """Replace each run of placeholder tokens by one -200, as in the published ids; `values` alike."""
    kept_ids, kept_values = [], []
    for token_id, value in zip(ids, values):
        if token_id in placeholder_ids:
            if kept_ids and kept_ids[-1] == -200:
                continue
            token_id = -200
        kept_ids.append(token_id)
        kept_values.append(value)
    return kept_ids, kept_values
