"""Converts media of lmms-eval's tasks to content blocks, and answers to the format of the tasks.

This module does not import lmms-eval.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torchaudio

from modeling_avicuna.timestamp_avicuna import TimeCodec, read_events


SAMPLING_RATE = 48_000  # Hz, of the feature extractor


def content_blocks(text: str, visuals: Any) -> list[dict]:
    """The content of a user message.

    Args:
        text: the task's question; its media slots are replaced by content blocks.
        visuals: one or a list of: path (a video with its sound), PIL picture, `{"array", "sampling_rate"}` (a sound).
    """
    visuals = visuals if isinstance(visuals, (list, tuple)) else [visuals]
    blocks = [_block(visual) for visual in visuals if visual is not None]
    return [*blocks, {"type": "text", "text": re.sub("<(?:image|video|audio)>", "", text).strip()}]


def cut_at(text: str, stops: Sequence[str]) -> str:
    """The text before the first of the stop strings.

    >>> cut_at("yes. And no.", ["\\n", "."])
    'yes'
    """
    ends = [text.find(stop) for stop in stops if stop and stop in text]
    return text[: min(ends)].rstrip() if ends else text


def with_seconds(text: str, duration: float, *, codec: TimeCodec) -> str:
    """The text with every time converted from the model's unit to seconds with one decimal.

    >>> with_seconds("From 10 to 50, a dog barks.", 20.0, codec=TimeCodec())
    'From 2.0 to 10.0, a dog barks.'
    """
    reading = read_events(text, duration, codec=codec)
    changes: dict[tuple[int, int], float] = {}
    for event, (start, end) in zip(reading.events, reading.places):
        changes |= {start: event.start, end: event.end}  # a reversed span is written in order
    for (begin, stop), seconds in sorted(changes.items(), reverse=True):
        text = f"{text[:begin]}{seconds:.1f}{text[stop:]}"
    return text


def _block(visual: Any) -> dict:
    if isinstance(visual, str):
        return {"type": "video", "path": visual}
    if isinstance(visual, dict) and "array" in visual:
        samples = torch.as_tensor(np.asarray(visual["array"], np.float32))
        samples = samples.mean(dim=0 if samples.shape[0] < samples.shape[-1] else -1) if samples.ndim > 1 else samples
        resampled = torchaudio.functional.resample(samples, int(visual["sampling_rate"]), SAMPLING_RATE)
        return {"type": "audio", "audio": resampled.numpy()}
    return {"type": "image", "image": np.asarray(visual.convert("RGB"))}
