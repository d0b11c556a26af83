"""The content blocks of a conversation: checked, brought to one form, and turned into media slots.

The first step of `processor.apply_chat_template`. Takes the forms of transformers, qwen-vl-utils and OpenAI, refuses
unknown keys by name, and opens no file.
"""

import base64
import binascii
import io
from typing import Any

from .media_slots_avicuna import OWN_SOUND, MediaSlot
from .prompt_avicuna import SLOT_PATTERN


# Types of blocks (OpenAI's and vLLM's included) and what each one is: a text, or a kind of slot.
_KINDS = {
    "text": "text",
    "video": "video",
    "audio": "audio",
    "image": "image",
    "video_url": "video",
    "audio_url": "audio",
    "input_audio": "audio",
    "image_url": "image",
}
# Keys that hold the medium of a block. "base64" and OpenAI's "input_audio" hold encoded bytes.
_SOURCE_KEYS = {
    "video": ("path", "url", "video", "video_url", "base64"),
    "audio": ("path", "url", "audio", "audio_url", "input_audio", "base64"),
    "image": ("path", "url", "image", "image_url", "base64"),
}
# Further keys. `<kind>_start` and `<kind>_end` are the names of `start` and `end` in qwen-vl-utils and
# qwen-omni-utils.
_OTHER_KEYS = {
    "video": (
        *("start", "end", "video_start", "video_end", "fps"),
        *("audio", "sampling_rate", "video_features", "audio_features"),
    ),
    "audio": ("start", "end", "audio_start", "audio_end", "sampling_rate", "audio_features"),
    "image": ("video_features",),
}


def read_conversations(
    conversations: list[list[dict]], *, own_sound: bool = True
) -> tuple[list[list[dict]], list[list[MediaSlot]] | None]:
    """
    Checks conversations and reads the media of their content blocks.

    An opening assistant turn is passed through unread, because the template drops it.

    Args:
        own_sound (`bool`, defaults to `True`): whether a video block without "audio" has the sound of its file.

    Returns:
        the messages, with "video", "audio" or "image" as the type of each media block, and a list of slots per
        conversation; None instead where no block carries a medium (the media then come with the call).

    Raises:
        ValueError: a conversation without messages or a message without content; a text that holds a literal slot such
            as "<video>"; a block with an unknown type, an unknown key or two media; blocks with a medium beside blocks
            without one, or cached features beside files.
    """
    checked = [_check_messages(messages) for messages in conversations]
    blocks = [
        [block for message, is_read in messages if is_read for block in _media_blocks(message)] for messages in checked
    ]
    slots = [[_slot_of_block(block, own_sound=own_sound) for block in row] for row in blocks]
    flat_blocks, flat = sum(blocks, []), sum(slots, [])
    is_filled = [slot.picture is not None or (slot.kind == "audio" and slot.sound is not None) for slot in flat]
    messages = [[message for message, _ in conversation] for conversation in checked]
    if not any(is_filled):
        return messages, None
    if not all(is_filled):
        empty = flat_blocks[is_filled.index(False)]
        raise ValueError(f"{_named(empty)} has neither a medium nor features, but others have")
    _check_features(flat_blocks, flat)
    return messages, slots


def _check_messages(messages: list[dict]) -> list[tuple[dict, bool]]:
    """The messages of one conversation with checked blocks, and whether each one is read."""
    if not messages:
        raise ValueError("the conversation is empty")
    checked, is_opening = [], True
    for number, message in enumerate(messages):
        is_message = isinstance(message, dict) and "role" in message
        if not is_message or not isinstance(message.get("content"), (str, list, tuple)):
            raise ValueError(
                f"message {number} must have a role and a content (text or a list of blocks), got {message!r:.200}"
            )
        is_dropped = is_opening and message["role"] == "assistant"
        is_opening &= message["role"] == "system"
        if is_dropped:
            checked.append((message, False))
        elif isinstance(message["content"], str):
            _check_text(message["content"], number)
            checked.append((message, True))
        else:
            content = [_check_block(block, number) for block in message["content"]]
            checked.append(({**message, "content": content}, True))
    return checked


def _check_text(text: str, number: int) -> None:
    if literal := SLOT_PATTERN.search(text):
        raise ValueError(
            f"the text of message {number} holds the placeholder {literal.group()!r}: give media as content "
            f'blocks ({{"type": "video", "path": ...}}), and write the word in another way in text'
        )


def _check_block(block: dict, number: int) -> dict:
    """The block with one of the types "text", "video", "audio" and "image"."""
    if not isinstance(block, dict):
        raise ValueError(f"a content block of message {number} must be a dict, got {block!r:.80}")
    kind = _KINDS.get(str(block.get("type")))
    if kind is None:
        raise ValueError(f"{_named(block)} of message {number} has an unknown type; known are {', '.join(_KINDS)}")
    known = {"type", "text"} if kind == "text" else {"type", *_SOURCE_KEYS[kind], *_OTHER_KEYS[kind]}
    if unknown := sorted(set(block) - known):
        raise ValueError(f"{_named(block)} of message {number} has unknown keys {unknown}; known are {sorted(known)}")
    if kind == "text":
        if not isinstance(block.get("text"), str):
            raise ValueError(f"{_named(block)} of message {number} has no text")
        _check_text(block["text"], number)
    return {**block, "type": kind}


def _media_blocks(message: dict) -> list[dict]:
    content = message["content"]
    return [] if isinstance(content, str) else [block for block in content if block["type"] != "text"]


def _slot_of_block(block: dict, *, own_sound: bool) -> MediaSlot:
    kind = block["type"]
    slot = MediaSlot(kind, fps=block.get("fps"), sampling_rate=block.get("sampling_rate"))
    for name in ("start", "end"):
        values = [block[key] for key in (name, f"{kind}_{name}") if block.get(key) is not None]
        if len(values) > 1:
            raise ValueError(f"{_named(block)} has both {name} and {kind}_{name}")
        setattr(slot, name, values[0] if values else None)
    features = "audio_features" if kind == "audio" else "video_features"
    keys = [key for key in (*_SOURCE_KEYS[kind], features) if block.get(key) is not None]
    if len(keys) > 1:
        raise ValueError(f"{_named(block)} has more than one medium: {keys}")
    medium = _unwrap(keys[0], block[keys[0]]) if keys else None
    if kind == "audio":
        slot.sound, slot.sound_is_features = medium, keys == [features]
        return slot
    slot.picture, slot.picture_is_features = medium, keys == [features]
    if kind == "video":
        _add_sound_of_block(slot, block, own_sound=own_sound)
    return slot


def _add_sound_of_block(slot: MediaSlot, block: dict, *, own_sound: bool) -> None:
    """The sound of a video block: cached features, its "audio", or that of its own file."""
    if "audio_features" in block:
        slot.sound, slot.sound_is_features = block["audio_features"], block["audio_features"] is not None
        return
    sound = block.get("audio", own_sound and not slot.picture_is_features)
    slot.sound = sound if not isinstance(sound, bool) else OWN_SOUND if sound else None


def _check_features(blocks: list[dict], slots: list[MediaSlot]) -> None:
    """Cached features and files cannot share a batch, and no video may lose its own sound unnoticed."""
    cached_pictures = any(slot.picture_is_features for slot in slots)
    cached_sounds = any(slot.sound_is_features for slot in slots)
    for block, slot in zip(blocks, slots):
        is_silent = slot.sound is None and ("audio" in block or "audio_features" in block)
        if cached_pictures and slot.kind != "audio" and not slot.picture_is_features:
            raise ValueError(f"{_named(block)} has no video_features, but others have")
        if cached_sounds and slot.kind != "image" and not slot.sound_is_features and not is_silent:
            raise ValueError(f"{_named(block)} has no audio_features, but others have")


def _unwrap(key: str, value: Any) -> Any:
    """A medium as it can be opened: OpenAI's nested forms taken apart, base64 decoded."""
    if key.endswith("_url") and isinstance(value, dict):
        if "url" not in value or set(value) - {"url", "detail"} or value.get("detail", "auto") != "auto":
            raise ValueError(f"{key} must be a URL or {{'url': URL}}, got {value!r:.200}")
        return value["url"]
    if key == "input_audio":
        if not isinstance(value, dict) or not {"data"} <= set(value) <= {"data", "format"}:
            raise ValueError(f"input_audio must be {{'data': base64, 'format': name}}, got {value!r:.80}")
        value = value["data"]
    if key in ("input_audio", "base64"):
        try:
            return io.BytesIO(base64.b64decode(value, validate=True))
        except (binascii.Error, TypeError, ValueError) as error:
            raise ValueError(f"{key} does not hold base64 ({error}): {value!r:.40}") from error
    return value


def _named(block: dict) -> str:
    """A block as errors name it, long values cut."""
    fields = {
        key: value if isinstance(value, (bool, int, float)) else f"{value!s:.60}" for key, value in block.items()
    }
    return f"the content block {fields}"
