"""Assigns the media of a call to the slots of its texts: the first step of `processor(text, videos=..., ...)`.

`content_blocks_avicuna` makes the same slots from a conversation. `slot_encoding_avicuna` opens the files and counts
the tokens.
"""

import dataclasses
import math
from typing import Any

import numpy as np
import torch

from .prompt_avicuna import SLOT_PATTERN


try:
    import PIL.Image
except ImportError:
    PIL = None


# In place of a sound: the sound track of the video itself.
OWN_SOUND = True

# Dimensions of one entry of an argument; an array with one more is a batch of entries.
_ENTRY_DIMS = {"videos": 4, "images": 3, "audio": 1, "video_features": 2, "audio_features": 2}


_PART = "it is a part of a video or sound in a file or an array, not of an image or of cached features"
_PROPERTY_RULES = {
    "start": _PART,
    "end": _PART,
    "fps": "it is the rate of frames in an array or a list (a file has its own, and num_av_tokens limits its frames)",
    "sampling_rate": "it is the rate of a waveform array (a file has its own)",
}


@dataclasses.dataclass
class MediaSlot:
    """
    One slot of a text and its medium.

    Args:
        kind (`str`): "video", "audio" or "image".
        picture: a media file (path, URL, bytes or binary file object), an array of frames, a list of pictures, what
            `prepare_media` returned, or, with `picture_is_features`, cached rows of the vision tower.
        sound: a media file, a waveform, `OWN_SOUND`, what `prepare_media` returned, None for silence, or, with
            `sound_is_features`, cached rows of the audio tower.
        start, end (`float`, *optional*): the part to show, in seconds of the file.
        fps (`float`, *optional*): frames per second of an array or a list of frames.
        sampling_rate (`int`, *optional*): of a waveform, in Hz; None for the feature extractor's.
    """

    kind: str
    picture: Any = None
    picture_is_features: bool = False
    sound: Any = None
    sound_is_features: bool = False
    start: float | None = None
    end: float | None = None
    fps: float | None = None
    sampling_rate: int | None = None

    def can_have(self, name: str) -> bool:
        """Whether a property means something for this medium: files have their own rates, cached features no parts."""
        if name == "fps":
            return isinstance(self.picture, (np.ndarray, torch.Tensor, list, tuple)) and not self.picture_is_features
        if name == "sampling_rate":
            return isinstance(self.sound, (np.ndarray, torch.Tensor)) and not self.sound_is_features
        return self.kind != "image" and not (self.picture_is_features or self.sound_is_features)

    def check(self) -> None:
        """
        Raises:
            ValueError: a number that is not positive, an empty part, or a property that the medium cannot have.
        """
        for name in ("start", "end", "fps", "sampling_rate"):
            value = getattr(self, name)
            if value is None:
                continue
            if not _is_positive(value, or_zero=name == "start"):
                raise ValueError(f"{name} of a medium must be a positive number, got {value!r}")
            if not self.can_have(name):
                raise ValueError(f"{name}={value} does not apply to this {self.kind}: {_PROPERTY_RULES[name]}")
        if self.start is not None and self.end is not None and self.end <= self.start:
            raise ValueError(f"the part from start={self.start} to end={self.end} s is empty")


def _is_positive(value: Any, *, or_zero: bool) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        return False
    return bool(math.isfinite(value) and (value > 0 or (or_zero and value == 0)))


def fill_slots(
    texts: list[str],
    *,
    videos: Any = None,
    images: Any = None,
    audio: Any = None,
    video_features: Any = None,
    audio_features: Any = None,
    **properties: Any,
) -> list[list[MediaSlot]]:
    """
    Pairs each slot of each text with its media, in reading order over the whole batch.

    Args:
        videos, video_features: one entry per `<video>` and `<image>` slot (per `<video>` slot with `images`).
        images: one entry per `<image>` slot.
        audio, audio_features: one entry per `<video>` and `<audio>` slot (None or False: silent; True: the video's own
            sound), or one per `<audio>` slot, and each video has its own sound.
        properties: `start`, `end`, `fps` and `sampling_rate` of `MediaSlot`: a list with one value per `<video>` and
            `<audio>` slot, or one value for all of them that can have it.

    Returns:
        a list of slots per text.

    Raises:
        ValueError: media and slots do not match in number, or both forms of one modality are given.
    """
    for raw, features, raw_name in ((videos, video_features, "videos"), (audio, audio_features, "audio")):
        if raw is not None and features is not None:
            raise ValueError(f"give either {raw_name} or {raw_name.rstrip('s')}_features, not both")
    slots = [[MediaSlot(kind=match.group()[1:-1]) for match in SLOT_PATTERN.finditer(text)] for text in texts]
    flat = [slot for row in slots for slot in row]
    _fill_pictures(flat, videos=videos, images=images, video_features=video_features)
    _fill_sounds(flat, audio=audio, audio_features=audio_features)
    _set_properties([slot for slot in flat if slot.kind != "image"], properties)
    return slots


def _fill_pictures(slots: list[MediaSlot], *, videos: Any, images: Any, video_features: Any) -> None:
    name = "videos" if video_features is None else "video_features"
    entries = as_entries(name, videos if video_features is None else video_features)
    wanted = [slot for slot in slots if slot.kind == "video" or (slot.kind == "image" and images is None)]
    if len(wanted) != len(entries):
        kinds = "<video>" if images is not None else "<video> and <image>"
        frames = "; the frames of one video are a list inside this list" if any(map(_is_picture, entries)) else ""
        raise ValueError(f"the text has {len(wanted)} {kinds} slots, but {name} has {len(entries)} entries{frames}")
    for slot, entry in zip(wanted, entries):
        slot.picture, slot.picture_is_features = entry, video_features is not None
    image_slots, image_entries = [slot for slot in slots if slot.kind == "image"], as_entries("images", images)
    if images is not None and len(image_slots) != len(image_entries):
        raise ValueError(f"the text has {len(image_slots)} <image> slots, but images has {len(image_entries)} entries")
    for slot, entry in zip(image_slots, image_entries):
        slot.picture = entry


def _fill_sounds(slots: list[MediaSlot], *, audio: Any, audio_features: Any) -> None:
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


def _set_properties(slots: list[MediaSlot], properties: dict[str, Any]) -> None:
    for name, value in properties.items():
        if value is None:
            continue
        if isinstance(value, (list, tuple)):
            if len(value) != len(slots):
                kinds = "<video> and <audio> slots"
                raise ValueError(f"the text has {len(slots)} {kinds}, but {name} has {len(value)} values")
            wanted, values = slots, value
        else:
            wanted = [slot for slot in slots if slot.can_have(name)]
            values = [value] * len(wanted)
            if not wanted:
                raise ValueError(f"{name}={value} is given, but applies to none of the media")
        for slot, entry in zip(wanted, values):
            setattr(slot, name, entry)


def as_entries(name: str, value: Any) -> list:
    """
    One entry, a list of entries, or one list per text, as a flat list; a list of pictures is one entry of `videos`.
    """
    if value is None:
        return []
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return [value] if value.ndim <= _ENTRY_DIMS[name] else list(value)
    if not isinstance(value, (list, tuple)):
        return [value]
    entries: list = []
    for item in value:
        is_one = not isinstance(item, (list, tuple)) or (
            name == "videos" and len(item) and all(map(_is_picture, item))
        )
        entries += [item] if is_one else item
    return entries


def _is_picture(item: Any) -> bool:
    """Whether this is one decoded picture: an array of three dimensions or a PIL image."""
    if isinstance(item, (np.ndarray, torch.Tensor)):
        return item.ndim == 3
    return PIL is not None and isinstance(item, PIL.Image.Image)
