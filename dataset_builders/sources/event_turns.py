"""Converts timed events to rows of questions and answers: dense narration, grounding and segment captions.

One row per video and question type. The questions of one type are turns of one conversation, so that the video is
processed once. Times are placeholders with values in seconds; the wordings are in `wordings.py`.
"""

import hashlib
from collections.abc import Iterator, Sequence

from ..turns import CONVERSATION_TYPES, Conversation, read_conversation_types
from ..wordings import GROUNDING_QUESTIONS, NARRATION_QUESTIONS, SEGMENT_QUESTIONS, choose_wording
from .published_events import AnnotatedEvent
from .rows import Row, make_row
from .text_cleaning import caption_key
from .timed_events import TimedVideo


QUESTIONS = {"narration": NARRATION_QUESTIONS, "grounding": GROUNDING_QUESTIONS, "segment": SEGMENT_QUESTIONS}


def event_rows(
    video: TimedVideo,
    *,
    source: str,
    media: str,
    conversation_types: Sequence[str] = CONVERSATION_TYPES,
    absent: Sequence[str] = (),
    max_turns: int = 10,
    seed: int = 0,
) -> Iterator[Row]:
    """The rows of one video, `conversation_types` in order; none for a video without events.

    Args:
        media: path of the video.
        absent: events that do not occur but are asked about; the answer is that there is none.
        max_turns: maximum questions per row; the remaining ones go in additional rows of the same video (our choice:
            10).
        seed: chooses the wordings, independently of the order of the videos.
    """
    for kind in read_conversation_types(conversation_types) if video.events else ():
        groups: list[list[AnnotatedEvent] | str] = [*GROUPINGS[kind](video.events)]
        if kind == "grounding" and absent:
            groups = _shuffle([*groups, *absent], key=f"{seed}-{video.video_id}")
        for number in range(0, len(groups), max_turns):
            row_id = f"{source}-{video.video_id}-{kind}" + (f"-{number // max_turns}" if number else "")
            yield _row(row_id, kind, groups[number : number + max_turns], video, source=source, media=media, seed=seed)


def _whole(events: Sequence[AnnotatedEvent]) -> list[list[AnnotatedEvent]]:
    return [list(events)]


def _by_text(events: Sequence[AnnotatedEvent]) -> list[list[AnnotatedEvent]]:
    """Occurrences grouped by event: an event that occurs three times is one question with three spans."""
    groups: dict[str, list[AnnotatedEvent]] = {}
    for event in events:
        groups.setdefault(caption_key(event.text), []).append(event)
    return list(groups.values())


def _by_span(events: Sequence[AnnotatedEvent]) -> list[list[AnnotatedEvent]]:
    """Events grouped by span: a question about a span has one answer, which lists all its events."""
    groups: dict[tuple[float, float], list[AnnotatedEvent]] = {}
    for event in events:
        groups.setdefault((event.start, event.end), []).append(event)
    return list(groups.values())


def absent_labels(video: TimedVideo, vocabulary: Sequence[str], *, num: int, seed: int = 0) -> list[str]:
    """`num` labels of `vocabulary` (fewer if it has no more) that do not occur in the video, selected by a hash."""
    present = {event.text for event in video.events}

    def rank(label: str) -> bytes:
        return hashlib.sha256(f"{seed}\0{video.video_id}\0{label}".encode()).digest()

    return sorted(set(vocabulary) - present, key=rank)[:num]


def _shuffle(groups: list[list[AnnotatedEvent] | str], *, key: str) -> list[list[AnnotatedEvent] | str]:
    """Groups and absent events (as bare text) in an order chosen by a hash: the position reveals nothing about the
    answer."""
    digests = [hashlib.sha256(f"{key}-{number}".encode()).digest() for number in range(len(groups))]
    return [groups[number] for number in sorted(range(len(groups)), key=digests.__getitem__)]


GROUPINGS = {"narration": _whole, "grounding": _by_text, "segment": _by_span}


def _row(
    row_id: str,
    kind: str,
    groups: list[list[AnnotatedEvent] | str],
    video: TimedVideo,
    *,
    source: str,
    media: str,
    seed: int,
) -> Row:
    conversation = Conversation()
    for number, group in enumerate(groups):
        question = choose_wording(QUESTIONS[kind], f"{row_id}-{number}", seed=seed)
        if isinstance(group, str):
            conversation.ask_when(group, [], question=question)
        elif kind == "narration":
            conversation.narrate([(event.text, (event.start, event.end)) for event in group], question=question)
        elif kind == "grounding":
            spans = list(dict.fromkeys((event.start, event.end) for event in group))
            conversation.ask_when(group[0].text, spans, question=question)
        else:
            caption = ", and ".join(event.text.rstrip(". ") for event in group)
            span = (group[0].start, group[0].end)
            conversation.ask_what([f"{caption[:1].upper()}{caption[1:]}."], span, question=question)
    return make_row(
        row_id,
        source=source,
        turns=conversation.turns,
        video=media,
        end=video.media_end,
        duration=video.duration,
        times=dict(conversation.times),
    )
