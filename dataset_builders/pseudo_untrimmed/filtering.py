"""Reject plans that would make poor training videos, each with its reason (step 6 of the paper: quality control).

The paper filters "incoherent sequences" but gives no rule; the rules and their thresholds are our choice:

    reason                 rejected when
    incoherent             the mean cosine over the pairs of different events is below `coherence_threshold`
    ambiguous              two events with different captions have a cosine above `ambiguity_threshold`: a question
                           about one would also match the other
    event_follows_itself   adjacent segments have the same caption: the boundary between them is not visible
    duration_out_of_range  the video is shorter or longer than `duration_range`
    unreadable_clip        a clip or a background cannot be decoded (only where videos are rendered)

The input is plans, the output reasons. `planning.py` handles rejected rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..sources.text_cleaning import caption_key
from .planning import Plan


CHUNK_ROWS = 4096  # rows whose embeddings are in memory at a time: 4096 x 8 segments x 384 floats are 50 MB


@dataclass(frozen=True)
class PlanFilter:
    """Called with a `Plan`, returns one reason per row, "" if the plan is accepted.

    Args:
        durations (`np.ndarray` of shape `(num_clips,)`):
            Seconds of each clip.
        events (`np.ndarray` of shape `(num_clips,)`):
            Equal numbers for clips with the same caption (`number_events`).
        embeddings (`np.ndarray` of shape `(num_clips, embedding_size)`, *optional*):
            Unit-length caption embeddings; None if captions were not embedded, in which case both thresholds must be
            None.
        coherence_threshold, ambiguity_threshold (`float`, *optional*):
            Cosines; None disables the rule.
        duration_range (`tuple(float, float)`, *optional*):
            Seconds; None: any duration.
        find_unreadable (callable, *optional*):
            Positions of clips -> whether each cannot be decoded. Called last, for plans that pass all other rules.

    Raises:
        ValueError: a cosine threshold without embeddings.
    """

    durations: np.ndarray
    events: np.ndarray
    embeddings: np.ndarray | None = None
    coherence_threshold: float | None = None
    ambiguity_threshold: float | None = None
    duration_range: Sequence[float] | None = None
    find_unreadable: Callable[[np.ndarray], Sequence[bool]] | None = None

    def __post_init__(self):
        thresholds = (self.coherence_threshold, self.ambiguity_threshold)
        if self.embeddings is None and thresholds != (None, None):
            raise ValueError(
                f"thresholds {thresholds} on cosines need embeddings; set them to None without clustering"
            )

    def __call__(self, plan: Plan) -> np.ndarray:
        chunks = [self.find_reasons(plan.take(slice(at, at + CHUNK_ROWS))) for at in range(0, len(plan), CHUNK_ROWS)]
        return np.concatenate(chunks)

    def find_reasons(self, plan: Plan) -> np.ndarray:
        """One reason per row; if several rules reject it, the first in the table above."""
        present = plan.clips >= 0  # [R, K]
        clips = np.maximum(plan.clips, 0)
        events = np.where(present, self.events[clips], -1 - np.arange(clips.shape[1]))
        reasons = np.full(len(plan), "", "U32")
        if self.duration_range is not None:
            totals = plan.place(self.durations)[2]
            shortest, longest = self.duration_range
            reasons[(totals < shortest) | (totals > longest)] = "duration_out_of_range"
        reasons[(events[:, 1:] == events[:, :-1]).any(axis=1)] = "event_follows_itself"
        if (self.coherence_threshold, self.ambiguity_threshold) != (None, None):
            mean, closest = self.compare_events(clips, events, present)
            if self.ambiguity_threshold is not None:
                reasons[closest > self.ambiguity_threshold] = "ambiguous"
            if self.coherence_threshold is not None:
                reasons[mean < self.coherence_threshold] = "incoherent"
        if self.find_unreadable is not None:
            passed = np.flatnonzero(reasons == "")
            used = np.concatenate([plan.clips[passed], plan.backgrounds[passed]], axis=1)
            clips = np.unique(used[used >= 0])
            unreadable = clips[np.array(self.find_unreadable(clips), bool)]
            reasons[passed[np.isin(used, unreadable).any(axis=1)]] = "unreadable_clip"
        return reasons

    def compare_events(
        self, clips: np.ndarray, events: np.ndarray, present: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean and largest cosine over pairs of segments with different events; 1 and -1 if there is no pair."""
        assert self.embeddings is not None  # checked in __post_init__
        vectors = self.embeddings[clips]  # [R, K, embedding_size]
        cosines = vectors @ vectors.transpose(0, 2, 1)  # [R, K, K]
        pairs = present[:, :, None] & present[:, None, :] & (events[:, :, None] != events[:, None, :])
        num_pairs = pairs.sum(axis=(1, 2))
        mean = np.where(pairs, cosines, 0).sum(axis=(1, 2)) / np.maximum(num_pairs, 1)
        return np.where(num_pairs > 0, mean, 1.0), np.where(pairs, cosines, -1).max(axis=(1, 2))


def number_events(captions: list[str]) -> np.ndarray:
    """Event numbers, equal for captions with the same `text_cleaning.caption_key`.

    ```python
    >>> number_events(["A dog barks.", "a dog  barks", "A cat."]).tolist()
    [0, 0, 1]

    ```
    """
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(caption_key(caption), len(numbers)) for caption in captions])
