"""Questions about a long video to events in seconds of the file: every question is asked about every window.

`window_reading_avicuna` decodes the windows, `answering_avicuna` answers about each one, `windows_avicuna` joins.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

from transformers import PreTrainedModel, ProcessorMixin

from .answering_avicuna import QUESTIONS_AT_ONCE, Answer, answer_batch, answer_questions
from .windows_avicuna import join_windows


# Windows that are decoded at once where there is one question; our choice: the frames of four windows of 224 x 224
# pixels take 180 MB.
WINDOWS_AT_A_TIME = 4


def answer_windows(
    model: PreTrainedModel,
    *,
    processor: ProcessorMixin,
    windows: Iterable[Any],
    questions: list[str],
    min_presence: float = 0.0,
    batch_size: int = QUESTIONS_AT_ONCE,
    **settings: Any,
) -> list[Answer]:
    """Answers each question about all windows of a video. A window is decoded and encoded once for all questions.

    Args:
        model, processor: as in `answer_batch`.
        windows (`Iterable[EncodedSlot]`): of `AVicunaProcessor.prepare_windows`; read as they are needed.
        questions (`list[str]`): questions whose answers name events.
        min_presence (`float`): an answer about a window whose `Answer.presence` is lower counts as "No event.".
        batch_size (`int`): questions about one window that are answered together.
        settings: `score` and generation settings, as in `answer_batch`.

    Returns:
        one `Answer` per question: the joined events in seconds of the file, the highest presence of all windows, and
        the answers of the windows as text, one line each.
    """
    if not questions:
        return []
    spans: list[tuple[float, float]] = []
    answers: list[list[Answer]] = []
    for group in _grouped(windows, WINDOWS_AT_A_TIME if len(questions) == 1 else 1):
        media = [{"type": window.kind, window.kind: window} for window in group]
        spans += [(window.start, window.start + window.duration) for window in group]
        if len(questions) == 1:
            durations = [window.duration for window in group]
            answered = answer_batch(
                model,
                processor=processor,
                media=media,
                questions=questions * len(group),
                durations=durations,
                **settings,
            )
            answers += [[answer] for answer in answered]
        else:
            answers.append(
                answer_questions(
                    model,
                    processor=processor,
                    media=media[0],
                    questions=questions,
                    duration=group[0].duration,
                    batch_size=batch_size,
                    **settings,
                )
            )
    resolution = processor.time_codec.resolution(spans[0][1] - spans[0][0])
    return [
        _join(spans, list(of_question), resolution=resolution, min_presence=min_presence)
        for of_question in zip(*answers)
    ]


def _grouped(windows: Iterable[Any], size: int) -> Iterator[list[Any]]:
    remaining = iter(windows)
    while group := list(islice(remaining, size)):
        yield group


def _join(
    spans: list[tuple[float, float]], answers: list[Answer], *, resolution: float, min_presence: float
) -> Answer:
    """One answer from those about the windows."""
    events = [
        [replace(event, start=start + event.start, end=start + event.end) for event in answer.events]
        if answer.presence >= min_presence
        else []
        for (start, _), answer in zip(spans, answers)
    ]
    lines = [f"{start:.3f}-{end:.3f} s: {answer.text.strip()}" for (start, end), answer in zip(spans, answers)]
    joined = join_windows(spans, events, resolution=resolution)
    return Answer("\n".join(lines), joined, max(answer.presence for answer in answers))
