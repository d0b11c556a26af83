"""Where the media files of an annotation file lie.

Annotations name media by id; folders hold them under several spellings and suffixes. `MediaFolder` finds them by exact
relative path or by stem, and remembers what it did not find. It opens no media file.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from ..release.curation_report import CurationReport


class MediaFolder:
    """The media files under one folder, or, without a folder, the bare file names that rows shall carry.

    Bare names serve training from cached features, which are found by the stem of the name.

    Args:
        folder: searched with its sub-folders, once; paths are this folder joined with what was found. None: `find`
            answers with the first name and `suffix`, unchecked.
        suffix: added to a bare name that has no suffix of a media file.
    """

    def __init__(self, folder: str | Path | None, *, suffix: str = ".mp4"):
        if folder is not None and not Path(folder).is_dir():
            raise ValueError(f"no such media folder: {folder}")
        self.folder = None if folder is None else str(folder)
        self.suffix = suffix
        self.num_sought = 0
        self.missing: list[str] = []
        self._by_name: dict[str, str] = {}
        if self.folder is not None:
            self._index()

    def _index(self) -> None:
        for root, folders, names in os.walk(self.folder, followlinks=True):
            folders.sort()
            for name in sorted(names):
                path = os.path.join(root, name)
                self._by_name.setdefault(os.path.relpath(path, self.folder), path)
                self._by_name.setdefault(name, path)
                self._by_name.setdefault(os.path.splitext(name)[0], path)

    def locate(self, names: Sequence[str]) -> str | None:
        """The path for the first of `names` that is in the folder, or None. Without a folder, None."""
        for name in names:
            stem, suffix = os.path.splitext(name)
            spellings = (
                (name, name.rstrip("."), stem) if suffix.lower() in MEDIA_SUFFIXES else (name, name.rstrip("."))
            )
            path = next((self._by_name[one] for one in spellings if one in self._by_name), None)
            if path is not None:
                return path
        return None

    def find(self, names: Sequence[str]) -> str | None:
        """`locate`, counted; None, remembered as missing, if none is there. Without a folder, a bare file name."""
        self.num_sought += 1
        if self.folder is None:
            name = names[0]
            return name if os.path.splitext(name)[1].lower() in MEDIA_SUFFIXES else f"{name.rstrip('.')}{self.suffix}"
        path = self.locate(names)
        if path is None:
            self.missing.append(names[0])
        return path

    def find_or_drop(self, names: Sequence[str], *, source: str, report: CurationReport, num: int = 1) -> str | None:
        """`find`, with what is missing told to `report` as "missing_media" of `num` records."""
        path = self.find(names)
        if path is None:
            report.drop(source, names[0], "missing_media", detail=list(names), num=num)
        return path

    def check(self, *, max_missing: float) -> None:
        """ValueError if more than the share `max_missing` (0-1) of what was sought is missing."""
        if len(self.missing) > max_missing * self.num_sought:
            raise ValueError(
                f"{len(self.missing)} of {self.num_sought} media files are missing in {self.folder}, more than "
                f"max_missing={max_missing:g} allows; the first: {self.missing[:5]}"
            )


MEDIA_SUFFIXES = frozenset(
    ".mp4 .mkv .webm .avi .mov .m4v .3gp .mpg .mpeg .wmv .mts .flv .wav .flac .mp3 .m4a .ogg .opus .aac".split()
    + ".jpg .jpeg .png .webp .bmp .gif".split()
)
