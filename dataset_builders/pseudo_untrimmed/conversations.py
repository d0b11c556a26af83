"""Choose the questions about a planned video: which kind, about which event, in which wording.

`turns.py` writes the chosen questions and their answers. Pure: every choice is read from numbers drawn for the row.
"""

from collections.abc import Sequence

import numpy as np

from ..turns import CONVERSATION_TYPES, LISTING, Conversation, Span
from ..wordings import GROUNDING_QUESTIONS, NARRATION_QUESTIONS, SEGMENT_QUESTIONS
from .planning import draw_uniform, slot


DRAWS_PER_TURN = 4  # kind, event, wording, occurrence


def draw_turns(rows: np.ndarray, *, max_turns: int, seed: int) -> np.ndarray:
    """Numbers in [0, 1) for each row: one for the number of turns, then `DRAWS_PER_TURN` for each turn."""
    numbers = range(1 + DRAWS_PER_TURN * max_turns)
    return np.stack([draw_uniform(rows, 0, slot("turn", number), seed=seed) for number in numbers], axis=1)


def write_conversation(
    captions: Sequence[str],
    spans: Sequence[Span],
    events: Sequence[int],
    draws: Sequence[float],
    *,
    absent: Sequence[str | None] = (),
    conversation_types: tuple[str, ...] = CONVERSATION_TYPES,
    min_turns: int = 1,
    max_turns: int = 3,
) -> Conversation:
    """Write the conversation about one video.

    Args:
        captions, spans, events:
            Of the segments, in order: text, (start, end) in seconds, and a number that is equal where two segments
            show the same event. A question about an event is answered with all its spans.
        draws (`list[float]`):
            One row of `draw_turns`.
        absent (`list[str | None]`):
            For each turn the caption of an event that does not occur; a grounding or listing turn asks about it.
        conversation_types (`tuple(str)`):
            The first turn's kind is drawn from these. A narration is the only turn, since it answers every other
            question; after another kind more turns of these kinds may follow, each about another event.
        min_turns, max_turns (`int`):
            Fewest and most turns of a conversation without narration. It is shorter where the video has too few events
            to ask about.
    """
    conversation = Conversation()
    first = conversation_types[int(draws[1] * len(conversation_types))]
    if first == "narration":
        conversation.narrate(list(zip(captions, spans)), question=choose(NARRATION_QUESTIONS, draws[3]))
        return conversation
    kinds = [name for name in conversation_types if name != "narration"]
    occurrences: dict[int, list[int]] = {}
    for index, event in enumerate(events):
        occurrences.setdefault(event, []).append(index)
    remaining = list(occurrences.values())
    for turn in range(min_turns + int(draws[0] * (max_turns - min_turns + 1))):
        which, chosen, wording, where = draws[1 + DRAWS_PER_TURN * turn : 1 + DRAWS_PER_TURN * (turn + 1)]
        kind = first if turn == 0 else kinds[int(which * len(kinds))]
        missing = absent[turn] if turn < len(absent) else None
        if kind in ("grounding", LISTING) and missing is not None:
            caption, indices = missing, []
        elif remaining:
            indices = remaining.pop(int(chosen * len(remaining)))
            caption = captions[indices[0]]
        else:
            continue
        if kind == LISTING:
            conversation.list_when(caption, [spans[index] for index in indices])
        elif kind == "grounding":
            times = [spans[index] for index in indices]
            conversation.ask_when(caption, times, question=choose(GROUNDING_QUESTIONS, wording))
        else:
            index = indices[int(where * len(indices))]
            conversation.ask_what(captions[index], spans[index], question=choose(SEGMENT_QUESTIONS, wording))
    return conversation


def choose(wordings: tuple[str, ...], draw: float) -> str:
    """The wording that a number in [0, 1) stands for."""
    return wordings[int(draw * len(wordings))]
