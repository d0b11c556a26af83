"""Who belongs to which slot: pairs the media of a call, or of a conversation, with the slots in the text.

Stands before any decoding in the processor: pure functions on strings and lists that never open a file.
"""

import dataclasses
from typing import Any

import numpy as np
import torch

from .prompt_avicuna import SLOT_PATTERN


# In a list of sounds: the sound track of the video itself.
OWN_SOUND = True

_MEDIA_KEYS = {"video": ("path", "video", "url"), "audio": ("path", "audio", "url"), "image": ("path", "image", "url")}
# dimensions of one entry; an array with one more is a batch of them
_ENTRY_DIMS = {"videos": 4, "images": 3, "audio": 1, "video_features": 2, "audio_features": 2}


@dataclasses.dataclass
class MediaSlot:
    """
    One slot of a text: its `kind` ("video", "audio" or "image") and what fills it.

    `picture` is a file, an array of frames, or (with `picture_is_features`) cached rows of the vision tower; `sound` is a
    file, a waveform, cached rows of the audio tower, `OWN_SOUND`, or None for silence.
    """

    kind: str
    picture: Any = None
    picture_is_features: bool = False
    sound: Any = None
    sound_is_features: bool = False


def as_entries(name: str, value: Any) -> list:
    """One entry, a list of entries, or one list per text -> a flat list of entries."""
    if value is None:
        return []
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return [value] if value.ndim <= _ENTRY_DIMS[name] else list(value)
    if not isinstance(value, (list, tuple)):
        return [value]
    return [entry for item in value for entry in (item if isinstance(item, (list, tuple)) else [item])]


def fill_slots(
    texts: list[str],
    *,
    videos: Any = None,
    images: Any = None,
    audio: Any = None,
    video_features: Any = None,
    audio_features: Any = None,
) -> list[list[MediaSlot]]:
    """
    Pairs each slot of each text with its media, in reading order over the whole batch.

    Args:
        videos, video_features: one entry per `<video>` and `<image>` slot (per `<video>` slot where `images` is given).
        images: one entry per `<image>` slot.
        audio, audio_features: one entry per `<video>` and `<audio>` slot (None or False: silent; True: the video's own
            sound), or one per `<audio>` slot, and each video has its own sound.

    Returns:
        a list of slots per text.

    Raises:
        ValueError: media and slots do not match in number, or both forms of one modality are given.
    """
    for raw, features in (
        (("videos", videos), ("video_features", video_features)),
        (
            ("audio", audio),
            ("audio_features", audio_features),
        ),
    ):
        if raw[1] is not None and features[1] is not None:
            raise ValueError(f"give either {raw[0]} or {features[0]}, not both")
    slots = [[MediaSlot(kind=match.group()[1:-1]) for match in SLOT_PATTERN.finditer(text)] for text in texts]
    flat = [slot for row in slots for slot in row]
    _fill_pictures(flat, videos=videos, images=images, video_features=video_features)
    _fill_sounds(flat, audio=audio, audio_features=audio_features)
    return slots


def _fill_pictures(slots: list[MediaSlot], *, videos: Any, images: Any, video_features: Any):
    name = "videos" if video_features is None else "video_features"
    entries = as_entries(name, videos if video_features is None else video_features)
    wanted = [slot for slot in slots if slot.kind == "video" or (slot.kind == "image" and images is None)]
    if len(wanted) != len(entries):
        kinds = "<video>" if images is not None else "<video> and <image>"
        raise ValueError(f"the text has {len(wanted)} {kinds} slots, but {name} has {len(entries)} entries")
    for slot, entry in zip(wanted, entries):
        slot.picture, slot.picture_is_features = entry, video_features is not None
    image_slots, image_entries = [slot for slot in slots if slot.kind == "image"], as_entries("images", images)
    if images is not None and len(image_slots) != len(image_entries):
        raise ValueError(f"the text has {len(image_slots)} <image> slots, but images has {len(image_entries)} entries")
    for slot, entry in zip(image_slots, image_entries):
        slot.picture = entry


def _fill_sounds(slots: list[MediaSlot], *, audio: Any, audio_features: Any):
    name = "audio" if audio_features is None else "audio_features"
    entries = as_entries(name, audio if audio_features is None else audio_features)
    with_sound = [slot for slot in slots if slot.kind in ("video", "audio")]
    alone = [slot for slot in slots if slot.kind == "audio"]
    for slot in with_sound:
        slot.sound = OWN_SOUND if slot.kind == "video" and not slot.picture_is_features else None
    if len(entries) not in (len(with_sound), len(alone)):
        expected = " or ".join(str(n) for n in sorted({len(with_sound), len(alone)}))
        raise ValueError(
            f"the text has {len(with_sound) - len(alone)} <video> and {len(alone)} <audio> slots, so {name} must have "
            f"{expected} entries, got {len(entries)}"
        )
    for slot, entry in zip(with_sound if len(entries) == len(with_sound) else alone, entries):
        if isinstance(entry, bool):
            entry = OWN_SOUND if entry else None
        slot.sound, slot.sound_is_features = entry, audio_features is not None and entry is not None


def check_conversation(messages: list[dict]):
    """
    Raises:
        ValueError: a message's text holds a literal slot such as "<video>" (media are content blocks, text is text), or a
            content block has no known type. An opening assistant turn is not looked at: the template drops it.
    """
    for number, message in enumerate(messages):
        if message["role"] == "assistant" and all(earlier["role"] == "system" for earlier in messages[:number]):
            continue
        content = message.get("content") or ""
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for block in blocks:
            if block.get("type") not in ("text", *_MEDIA_KEYS):
                raise ValueError(f"unknown type in the content block {block}: expected text, video, audio or image")
            if block["type"] == "text" and not isinstance(block.get("text"), str):
                raise ValueError(f"the content block {block} of message {number} has no text")
            if block["type"] == "text" and (literal := SLOT_PATTERN.search(block["text"])):
                raise ValueError(
                    f"the text of message {number} holds the placeholder {literal.group()!r}: give media as content "
                    f'blocks ({{"type": "video", "path": ...}}), and write the word in another way in text'
                )


def media_of_conversations(conversations: list[list[dict]]) -> dict[str, list]:
    """
    The media of content blocks, as arguments of `fill_slots`.

    A block carries `path` (or `video` / `audio` / `image`: a path or an array) or `video_features` / `audio_features`. A video
    block's `audio` is its sound: absent or True for its own, False or None for silence, or a path or waveform.

    Returns:
        keyword arguments; empty where no block carries any media (they come with the call then).

    Raises:
        ValueError: some blocks carry media and others do not, or some carry raw media and others cached features.
    """
    blocks = [
        block
        for messages in conversations
        for message in messages
        if isinstance(message.get("content"), (list, tuple))
        for block in message["content"]
        if block["type"] in _MEDIA_KEYS
    ]
    filled = [block for block in blocks if _source(block) is not None or _features(block)]
    if not filled:
        return {}
    if len(filled) != len(blocks):
        empty = next(block for block in blocks if not any(block is other for other in filled))
        raise ValueError(f"the content block {empty} has neither a path nor features, but others have")
    pictures = [block for block in blocks if block["type"] != "audio"]
    sounds = [block for block in blocks if block["type"] != "image"]
    media = {}
    if any("video_features" in block for block in pictures):
        media["video_features"] = [_required(block, "video_features") for block in pictures]
    else:
        media["videos"] = [_source(block) for block in pictures]
    if any("audio_features" in block for block in sounds):
        # a video block without this key would lose its own sound without a word
        media["audio_features"] = [_required(block, "audio_features", or_silent=True) for block in sounds]
    else:
        own = "videos" in media
        media["audio"] = [block.get("audio", own) if block["type"] == "video" else _source(block) for block in sounds]
    return media


def _source(block: dict) -> Any:
    for key in _MEDIA_KEYS[block["type"]]:
        if block.get(key) is not None:
            return block[key]
    return None


def _features(block: dict) -> bool:
    return block.get("audio_features" if block["type"] == "audio" else "video_features") is not None


def _required(block: dict, key: str, *, or_silent: bool = False) -> Any:
    if or_silent and (block.get("audio", True) in (False, None) or (key in block and block[key] is None)):
        return None
    if block.get(key) is None:
        raise ValueError(f"the content block of type {block['type']!r} has no {key}, but others have")
    return block[key]
