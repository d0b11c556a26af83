"""Finds the media of a clip: a file of its own, or a part of the video that it is from."""

from dataclasses import dataclass
from pathlib import Path

from .clip_ids import split_clip_id
from .media_folder import MediaFolder


@dataclass(frozen=True)
class ClipFile:
    """A media file, or its part from `start` to `end` seconds (None: the whole file)."""

    path: str | Path
    start: float | None = None
    end: float | None = None

    def measure(self, duration: float) -> float:
        """Seconds of the part, for a file of `duration` seconds."""
        return max(0.0, min(duration, duration if self.end is None else self.end) - (self.start or 0.0))


def locate_clip(folder: MediaFolder, clip_id: str) -> ClipFile | None:
    """The file that is named like the clip; otherwise the part of the video that the times of the id name; or None.

    `<video id>_<start>_<end>` is a part of the file `<video id>`. ActivityNet's `v_` at the beginning may be missing
    in the name of the file.
    """
    path = folder.locate((clip_id,))
    if path is not None:
        return ClipFile(path)
    video_id, start, end = split_clip_id(clip_id)
    if start is None:
        return None
    path = folder.locate(video_names(video_id))
    return None if path is None else ClipFile(path, start, end)


def video_names(video_id: str) -> tuple[str, str]:
    """The names that the file of a video may have, without suffix."""
    return video_id, video_id.removeprefix("v_")
