"""Checks the streams and the video duration of a media file with `modeling_avicuna.media_avicuna.probe`.

That module loads torch, which takes seconds, so it is imported inside the functions.
"""

from typing import Literal


def find_media_defect(path: str, needs: Literal["picture", "sound"]) -> str | None:
    """The defect of a file: "unreadable_media", "no_picture" or "no_sound"; None if it can."""
    from modeling_avicuna.media_avicuna import MediaError, probe

    try:
        info = probe(path)
    except MediaError:
        return "unreadable_media"
    return None if (info.has_video if needs == "picture" else info.has_audio) else f"no_{needs}"


def picture_duration(path: str) -> float:
    """
    Duration of a file's video stream in seconds.

    Raises:
        ValueError: the file is not readable (the reason and the path are in the message), or has no picture.
    """
    from modeling_avicuna.media_avicuna import probe

    info = probe(path)
    if not info.has_video:
        raise ValueError(f"{path}: no picture")
    return info.duration
