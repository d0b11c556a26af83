"""Choose the questions about a planned video: type, event and wording.

`turns.py` writes the chosen questions and their answers. Every choice is a function of the random numbers of the row.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from ..turns import ABSENT, CONVERSATION_TYPES, FORMER, LISTING, UNION, Conversation, Span
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
    former: Sequence[Span] | None = None,
    lost: Mapping[str, Sequence[Span]] | None = None,
    conversation_types: tuple[str, ...] = CONVERSATION_TYPES,
    min_turns: int = 1,
    max_turns: int = 3,
) -> Conversation:
    """Write the conversation about one video.

    Args:
        captions, spans, events:
            Of the segments, in order: text, (start, end) in seconds, and an event number that is equal for two
            segments with the same event. The answer to a question about an event lists all its spans.
        draws (`list[float]`):
            One row of `draw_turns`.
        absent (`list[str | None]`):
            For each turn the caption of an event that does not occur; a grounding or listing turn asks about it.
        former, lost (*optional*):
            Where each event would be if no sound had been changed, and the spans of the events that have lost their
            sound, by caption. If given, grounding turns get a rejected answer where one is known.
        conversation_types (`tuple(str)`):
            The type of the first turn is drawn from these. A narration is the only turn, since it answers every other
            question. After another type, more turns of these types may follow, each about a different event.
        min_turns, max_turns (`int`):
            Minimum and maximum number of turns of a conversation without narration. It has fewer turns if the video
            has too few events.
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
            if former is None or not spans:
                continue
            before = [former[index] for index in indices] or list((lost or {}).get(caption, ()))
            if before != times:
                conversation.reject(FORMER, before)
            elif not times:
                conversation.reject(ABSENT, [spans[int(chosen * len(spans))]])
            elif len(times) > 1:
                conversation.reject(UNION, [(min(start for start, _ in times), max(end for _, end in times))])
        else:
            span = spans[indices[int(where * len(indices))]]
            here = [caption for caption, other in zip(captions, spans) if other == span]  # two if a sound was swapped
            conversation.ask_what(here, span, question=choose(SEGMENT_QUESTIONS, wording))
    return conversation


def choose(wordings: tuple[str, ...], draw: float) -> str:
    """The wording selected by a number in [0, 1)."""
    return wordings[int(draw * len(wordings))]
