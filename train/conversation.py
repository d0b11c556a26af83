"""Converts rows of `dataset_builders.schema` to messages for the chat template.

The model's time codec replaces the placeholders of times; media slots become content blocks. Media are not opened and
text is not tokenized here.
"""

import re

from dataset_builders.sources.text_cleaning import TIME_PLACEHOLDER
from modeling_avicuna.prompt_avicuna import AUDIO_TOKEN, IMAGE_TOKEN, VIDEO_TOKEN
from modeling_avicuna.timestamp_avicuna import TimeCodec


SLOT_TYPES = {VIDEO_TOKEN: "video", AUDIO_TOKEN: "audio", IMAGE_TOKEN: "image"}
SLOT = re.compile("(" + "|".join(map(re.escape, SLOT_TYPES)) + ")")


def write_times(text: str, *, seconds: dict[str, float], duration: float | None, codec: TimeCodec) -> str:
    """Replaces "<s0>", "<e0>", ... with the codec's text.

    Raises:
        ValueError: a placeholder without a time, or times in a row without a duration.
    """

    def write(match: re.Match) -> str:
        name = match.group()
        if name not in seconds:
            raise ValueError(f"no time for placeholder {name}; the row has {sorted(seconds)}")
        if duration is None:
            raise ValueError(f"placeholder {name} in a row without a duration")
        return codec.encode(seconds[name], duration)

    return TIME_PLACEHOLDER.sub(write, text)


def split_slots(text: str) -> list[dict]:
    """Text with "<video>", "<audio>", "<image>" slots as content blocks in order, without empty text blocks."""
    pieces = [piece for piece in SLOT.split(text) if piece]
    return [{"type": SLOT_TYPES[p]} if p in SLOT_TYPES else {"type": "text", "text": p} for p in pieces]


def build_messages(row: dict, *, codec: TimeCodec) -> list[dict]:
    """The messages of one row: `[{"role", "content": [{"type": "text", "text"}, {"type": "video"}, ...]}]`.

    Raises:
        ValueError: no assistant message, an empty answer, or a placeholder without a time; the message names the row.
    """
    seconds = {time["name"]: time["seconds"] for time in row["times"]}
    messages = []
    for message in row["messages"]:
        try:
            text = write_times(message["content"], seconds=seconds, duration=row["duration"], codec=codec)
        except ValueError as error:
            raise ValueError(f"row {row['id']!r} of {row['source']!r}: {error}") from error
        if message["role"] == "assistant" and not text.strip():
            raise ValueError(f"row {row['id']!r} of {row['source']!r} has an empty answer")
        messages.append({"role": message["role"], "content": split_slots(text)})
    if not any(message["role"] == "assistant" for message in messages):
        raise ValueError(f"row {row['id']!r} of {row['source']!r} has no assistant message")
    return messages
