"""Checks the streams and the video duration of a media file with `modeling_avicuna.media_avicuna.probe`.

That module loads torch, which takes seconds, so it is imported inside the function.
"""

from typing import Literal

from .records import UnusableRecord


def check_media(path: str, needs: Literal["picture", "sound"]) -> float:
    """
    Duration in seconds of a file that has the stream `needs`.

    Raises:
        UnusableRecord: "unreadable_media", "no_picture" or "no_sound"; the detail is the path.
    """
    from modeling_avicuna.media_avicuna import MediaError, probe

    try:
        info = probe(path)
    except MediaError as error:
        raise UnusableRecord(path, "unreadable_media") from error
    if not (info.has_video if needs == "picture" else info.has_audio):
        raise UnusableRecord(path, f"no_{needs}")
    return info.duration
