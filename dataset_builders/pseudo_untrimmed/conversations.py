"""Turn a planned video into questions and answers: dense narration (T1), grounding (T2), segment caption (T3).

The wordings stand in `wordings.py`. Times stay placeholders ("<s0>") with their seconds beside them; the model's codec
writes them as text at training time. Pure.
"""

from dataclasses import dataclass

import numpy as np

from ..wordings import (
    GROUNDING_QUESTIONS,
    NARRATION_QUESTIONS,
    SEGMENT_QUESTIONS,
    grounding_answer,
    narration_sentence,
)
from .planning import draw_uniform


VIDEO = "<video>\n"
FIRST_SLOT = 200  # the slots below belong to planning
DRAWS_PER_TURN = 4  # family, event, wording, occurrence


@dataclass(frozen=True)
class Conversation:
    """`messages` as (role, content) pairs, `times` as (placeholder, seconds) pairs."""

    messages: list[tuple[str, str]]
    times: list[tuple[str, float]]


def draw_turns(rows: np.ndarray, *, max_turns: int, seed: int) -> np.ndarray:
    """Numbers in [0, 1) for each row: one for the number of turns, then `DRAWS_PER_TURN` for each turn."""
    slots = range(FIRST_SLOT, FIRST_SLOT + 1 + DRAWS_PER_TURN * max_turns)
    return np.stack([draw_uniform(rows, 0, slot, seed=seed) for slot in slots], axis=1)


def write_conversation(
    captions: list[str],
    spans: list[tuple[float, float]],
    events: list[int],
    draws: list[float],
    *,
    conversation_types: tuple[str, ...] = ("T1", "T2", "T3"),
    max_turns: int = 3,
) -> Conversation:
    """Write the conversation about one video.

    Args:
        captions, spans, events:
            Of the segments, in order: text, (start, end) in seconds, and a number that is equal where two segments show
            the same event. A question about an event is answered with all its spans.
        draws (`list[float]`):
            One row of `draw_turns`.
        conversation_types (`tuple(str)`):
            The first turn's family is drawn from these. A narration stays alone, since it answers every other question;
            after a T2 or T3 turn others of these two may follow, each about another event.
        max_turns (`int`):
            Most T2 and T3 turns.
    """
    first = conversation_types[int(draws[1] * len(conversation_types))]
    if first == "T1":
        return narrate(captions, spans, draws[3])
    families = [name for name in conversation_types if name != "T1"]
    occurrences: dict[int, list[int]] = {}
    for place, event in enumerate(events):
        occurrences.setdefault(event, []).append(place)
    remaining = list(occurrences.values())
    messages, times = [], []
    for turn in range(min(1 + int(draws[0] * max_turns), len(remaining))):
        which, event, wording, where = draws[1 + DRAWS_PER_TURN * turn : 1 + DRAWS_PER_TURN * (turn + 1)]
        places = remaining.pop(int(event * len(remaining)))
        family = first if turn == 0 else families[int(which * len(families))]
        if family == "T2":
            question, answer = ask_when(captions[places[0]], len(times) // 2, len(places), wording)
        else:
            places = [places[int(where * len(places))]]
            question, answer = ask_what(captions[places[0]], len(times) // 2, wording)
        for place in places:
            times += name_times(len(times) // 2, spans[place])
        messages += [("user", question if turn else VIDEO + question), ("assistant", answer)]
    return Conversation(messages, times)


def narrate(captions: list[str], spans: list[tuple[float, float]], wording: float) -> Conversation:
    """T1: every segment with its span, in order."""
    answer = " ".join(narration_sentence(index, caption) for index, caption in enumerate(captions))
    times = [entry for index, span in enumerate(spans) for entry in name_times(index, span)]
    return Conversation([("user", VIDEO + choose(NARRATION_QUESTIONS, wording)), ("assistant", answer)], times)


def ask_when(caption: str, first_index: int, num_spans: int, wording: float) -> tuple[str, str]:
    """T2: the question quotes the caption, the answer gives one span or several."""
    question = choose(GROUNDING_QUESTIONS, wording).format(query=caption.rstrip(". "))
    return question, grounding_answer(range(first_index, first_index + num_spans))


def ask_what(caption: str, index: int, wording: float) -> tuple[str, str]:
    """T3: the question gives a span, the answer is the caption."""
    question = choose(SEGMENT_QUESTIONS, wording).format(start=f"<s{index}>", end=f"<e{index}>")
    return question, caption if caption.endswith((".", "!", "?", '"')) else f"{caption}."


def name_times(index: int, span: tuple[float, float]) -> list[tuple[str, float]]:
    return [(f"<s{index}>", span[0]), (f"<e{index}>", span[1])]


def choose(wordings: tuple[str, ...], draw: float) -> str:
    return wordings[int(draw * len(wordings))]
