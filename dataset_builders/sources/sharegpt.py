"""Writes rows with media files in the form that LLaMA-Factory and ms-swift train on.

    {"messages": [{"role": "user" | "assistant", "content"}], "videos": [path], "audios": [path]}

Each `<video>` and `<audio>` in the text stands for one path of the list, in order. Both projects read these keys:
ms-swift without further settings, LLaMA-Factory with the entry that is written to `dataset_info.json` beside the file.
Times are written in seconds, since other models do not have this project's time tokens. `vtimellm.py` writes the form
that keeps the placeholders.
"""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from ..atomic_files import atomic_path, write_json
from ..schema import MEDIA_KINDS
from .annotation_files import read_object
from .rows import Row, write_records
from .text_cleaning import TIME_PLACEHOLDER


INFO_FILE = "dataset_info.json"
# LLaMA-Factory's description of a file of this form (its data/README.md, "sharegpt" with OpenAI's names)
INFO = {
    "formatting": "sharegpt",
    "columns": {"messages": "messages", "videos": "videos", "audios": "audios"},
    "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
}


def write_sharegpt(
    rows: Iterable[Row],
    path: str | Path,
    *,
    media_dir: str | Path | None = None,
    sounds_dir: str | Path | None = None,
) -> int:
    """Writes rows of `schema.FEATURES` as one JSON list, and their description into `dataset_info.json` beside it.

    Args:
        rows: rows with media files; other columns of a `datasets.Dataset` are not read.
        path: the file to write; its name without the suffix is the name in `dataset_info.json`, whose other entries
            are kept.
        media_dir (*optional*): folder that relative media paths of the rows start from; written paths begin with it.
        sounds_dir (*optional*): write the sound track of each video there as a wav file and list it in `audios`. None:
            `audios` has only the sounds that are separate files.

    Returns:
        The number of rows.

    Raises:
        ValueError: a virtual composition, a row about a part of a file, or a row about an image, which this form does
            not hold; the message names the row.
        MediaError: a video whose sound cannot be read.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    convert = partial(row_to_record, media_dir=media_dir, sounds_dir=sounds_dir)
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        num_rows = write_records(rows, file, convert)
    info_path = path.with_name(INFO_FILE)
    known = read_object(info_path) if info_path.exists() else {}
    write_json(info_path, {**known, path.stem: {"file_name": path.name, **INFO}})
    return num_rows


def row_to_record(row: Row, *, media_dir: str | Path | None = None, sounds_dir: str | Path | None = None) -> dict:
    """One row in the form above; see `write_sharegpt`."""
    check_row(row)
    seconds = {time["name"]: f"{time['seconds']:.1f} s" for time in row["times"]}
    media = {kind: row["media"][kind] and str(Path(media_dir or "", row["media"][kind])) for kind in MEDIA_KINDS}
    videos, audios = [], []
    messages = []
    for message in row["messages"]:
        content = TIME_PLACEHOLDER.sub(lambda match: seconds[match[0]], message["content"])
        if "<video>" in content:
            videos.append(media["video"])
            sound = media["audio"] or (sounds_dir and write_sound(media["video"], sounds_dir, name=row["id"]))
            if sound:
                audios.append(sound)
                content = content.replace("<video>", "<video><audio>", 1)
        elif "<audio>" in content:
            audios.append(media["audio"])
        messages.append({"role": message["role"], "content": content})
    return {"messages": messages, "videos": videos, "audios": audios}


def check_row(row: Row) -> None:
    """Raises ValueError for a row that this form does not hold."""
    media = row["media"]
    text = "".join(message["content"] for message in row["messages"])
    reason = None
    if media["image"] is not None or "<image>" in text:
        reason = "it is about an image"
    elif media["start"] is not None or media["end"] is not None:
        reason = "it is about a part of its file: cut the part out first"
    elif any(f"<{kind}>" in text and media[kind] is None for kind in ("video", "audio")):
        reason = "it has no media file: render the videos (media='rendered')"
    if reason is not None:
        raise ValueError(f"row {row['id']!r} cannot be written in ShareGPT form: {reason}")


def write_sound(video: str, folder: str | Path, *, name: str) -> str | None:
    """Writes the sound track of a video as `folder/name.wav` and returns its path; None for a silent video.

    The file has 16 bits, one channel and 16 kHz, the rate of common audio encoders.
    """
    import wave

    import numpy as np

    from modeling_avicuna.media_avicuna import decode_audio

    samples = decode_audio(video, sampling_rate=16_000, num_channels=1)
    if samples is None:
        return None
    Path(folder).mkdir(parents=True, exist_ok=True)
    path = Path(folder) / f"{name}.wav"
    with atomic_path(path) as temporary, wave.open(str(temporary), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes((np.clip(samples[0], -1, 1) * 32767).astype("<i2").tobytes())
    return str(path)
