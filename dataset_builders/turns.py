"""Questions and answers about a video with timed events: dense narration, grounding, segment caption.

Converts events to turns for both pseudo-untrimmed and annotated videos; the sentences are in `wordings.py`. Times are
placeholders ("<s0>"), with their values in seconds stored separately; the model's time codec converts them to text at
training time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .wordings import ABSENT_ANSWER, ABSENT_ENTRY, grounding_answer, listing_entry, narration_sentence


CONVERSATION_TYPES = ("narration", "grounding", "segment")
LISTING = "listing"  # shortest form of grounding, to warm up a language model that is not pretrained
PAPER_NAMES = {"T1": "narration", "T2": "grounding", "T3": "segment"}
Span = tuple[float, float]
# Why an answer is wrong: it names an event that does not occur, the time at which a sound was before it was moved or
# removed, or one span from the first to the last occurrence.
ABSENT, FORMER, UNION = REASONS = ("absent_event", "former_time", "union")


def read_conversation_types(names: Sequence[str], *, allowed: tuple[str, ...] = CONVERSATION_TYPES) -> tuple[str, ...]:
    """`conversation_types` of any builder, converted to our names; the paper's names T1, T2, T3 are accepted.

    A name may be repeated: the probability of a type is proportional to how often it is listed.

    Raises:
        ValueError: an empty list or an unknown name.

    >>> read_conversation_types(["T2", "segment"])
    ('grounding', 'segment')
    """
    known = tuple(PAPER_NAMES.get(name, name) for name in ([names] if isinstance(names, str) else names))
    unknown = [name for name in known if name not in allowed]
    if unknown or not known:
        raise ValueError(f"conversation_types must be some of {allowed} or {tuple(PAPER_NAMES)}, got {names!r}")
    return known


@dataclass(frozen=True)
class Rejection:
    """A wrong answer to the question of a turn, counted from 0: one of `REASONS`, and the spans that it names."""

    turn: int
    reason: str
    spans: tuple[Span, ...]

    def as_entry(self) -> dict[str, Any]:
        """The entry of the column `rejected` (`schema.REJECTED`)."""
        times = [
            {"name": f"<{edge}{index}>", "seconds": seconds}
            for index, span in enumerate(self.spans)
            for edge, seconds in zip("se", span)
        ]
        return {
            "turn": self.turn,
            "reason": self.reason,
            "content": grounding_answer(range(len(self.spans))),
            "times": times,
        }


@dataclass
class Conversation:
    """Turns about one video, with the value in seconds of every time they mention.

    `turns` are (question, answer) pairs; `times` are (name, seconds) pairs, the name without brackets ("s0").
    `rejections` are wrong answers to some of the questions.
    """

    turns: list[tuple[str, str]] = field(default_factory=list)
    times: list[tuple[str, float]] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)

    def narrate(self, events: Sequence[tuple[str, Span]], *, question: str) -> None:
        """Narration: every (caption, span) in order, one sentence each."""
        indices = self._add_spans([span for _, span in events])
        answer = " ".join(narration_sentence(index, caption) for index, (caption, _) in zip(indices, events))
        self.turns.append((question, answer))

    def ask_when(self, caption: str, spans: Sequence[Span], *, question: str) -> None:
        """Grounding: `question` has the caption at "{query}"; the answer lists all spans, or says that there is
        none."""
        indices = self._add_spans(spans)
        answer = grounding_answer(indices) if indices else ABSENT_ANSWER
        self.turns.append((question.format(query=caption.rstrip(". ")), answer))

    def reject(self, reason: str, spans: Sequence[Span]) -> None:
        """Add spans that are a wrong answer to the last question."""
        self.rejections.append(Rejection(len(self.turns) - 1, reason, tuple(spans)))

    def list_when(self, caption: str, spans: Sequence[Span]) -> None:
        """Listing: the question is the caption alone; the answer is the digits of the spans, or "No"."""
        indices = self._add_spans(spans)
        self.turns.append((caption.rstrip(". "), listing_entry(indices) if indices else ABSENT_ENTRY))

    def ask_what(self, captions: Sequence[str], span: Span, *, question: str) -> None:
        """Segment caption: `question` has the span at "{start}" and "{end}"; the answer is the captions."""
        (index,) = self._add_spans([span])
        answer = " ".join(text if text.endswith((".", "!", "?", '"')) else f"{text}." for text in captions)
        self.turns.append((question.format(start=f"<s{index}>", end=f"<e{index}>"), answer))

    def _add_spans(self, spans: Sequence[Span]) -> range:
        """Add the spans to `times`; returns their indices."""
        first = len(self.times) // 2
        for index, (start, end) in enumerate(spans, start=first):
            self.times += [(f"s{index}", start), (f"e{index}", end)]
        return range(first, first + len(spans))
