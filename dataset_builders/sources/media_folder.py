"""Finds the media file of an id, for all builders and the evaluation.

Annotations name media by id; folders hold them in subfolders with various suffixes, mixed with other files. No media
file is opened here.
"""

import os
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from .clip_ids import AUDIO_SUFFIXES, IMAGE_SUFFIXES, VIDEO_SUFFIXES, without_media_suffix
from .records import UnusableRecord


SUFFIXES = {
    "video": VIDEO_SUFFIXES,
    "audio": AUDIO_SUFFIXES | VIDEO_SUFFIXES,  # the audio track of a video file is accepted
    "image": IMAGE_SUFFIXES,
}
BARE_SUFFIX = {"video": ".mp4", "audio": ".wav", "image": ".jpg"}


class MediaFolder:
    """
    The media files of one kind under a folder; or, without a folder, bare file names for the rows.

    A name is looked up as the path below the folder, as a file name, and without its suffix; a trailing dot (DiDeMo)
    and the Unicode normal form are ignored. Empty files are ignored. Of several files with one name, the one nearest
    to the top folder is used.

    Without a folder, rows have bare names, by which cached features are looked up.

    Args:
        folder: searched once with its subfolders; symbolic links are followed. None: no search.
        kind: "video", "audio" (the sound track of a video file included) or "image".
        bare_suffix: suffix added to bare names without one; by default the usual suffix of the kind.

    Raises:
        ValueError: the folder does not exist.
    """

    def __init__(self, folder: str | Path | None, *, kind: str = "video", bare_suffix: str | None = None):
        if folder is not None and not Path(folder).is_dir():
            raise ValueError(f"no such media folder: {folder}")
        self.folder = None if folder is None else str(folder)
        self.bare_suffix = bare_suffix or BARE_SUFFIX[kind]
        self.num_sought = 0
        self.missing: list[str] = []
        self._by_name: dict[str, list[str]] = {}
        for path in () if self.folder is None else list_files(self.folder, SUFFIXES[kind]):
            relative = os.path.relpath(path, self.folder)
            name = os.path.basename(path)
            for key in {relative, without_media_suffix(relative), name, without_media_suffix(name)}:
                self._by_name.setdefault(_composed(key), []).append(path)

    def locate(self, names: Sequence[str]) -> str | None:
        """
        The path for the first of `names` that is in the folder, or None. Without a folder, None.

        Raises:
            ValueError: two different files at the same depth of the folder have the name.
        """
        for name in names:
            for paths in self._spelled(name):
                paths = [path for path in paths if os.path.getsize(path)]
                if paths:
                    return self._choose(name, paths)
        return None

    def _spelled(self, name: str) -> Iterator[list[str]]:
        """The files of each spelling of a name that occurs in the folder."""
        for spelling in (name, name.rstrip("."), without_media_suffix(name)):
            if spelling and (paths := self._by_name.get(_composed(os.path.normpath(spelling)))):
                yield paths

    def _choose(self, name: str, paths: list[str]) -> str:
        """The file nearest to the top; files of one folder that differ only in suffix count as the same media."""
        depth = min(path.count(os.sep) for path in paths)
        nearest = [path for path in paths if path.count(os.sep) == depth]
        exact = [path for path in nearest if os.path.basename(path) == os.path.basename(name)]
        nearest = exact or nearest
        for other in nearest[1:]:
            if os.path.dirname(other) != os.path.dirname(nearest[0]) and os.path.getsize(other) != os.path.getsize(
                nearest[0]
            ):
                raise ValueError(f"{name!r} is in {nearest[0]} and in {other}: two different files of one name")
        return nearest[0]

    def find(self, names: Sequence[str]) -> str:
        """
        Like `locate`, for the media of a row. Without a folder, the first name, with a suffix.

        Raises:
            UnusableRecord: "missing_media" (counted for `check`), "unreadable_media" (an empty file) or
                "unsafe_media_name" (a path outside the folder).
        """
        if any(is_unsafe(name) for name in names):
            raise UnusableRecord(list(names), "unsafe_media_name")
        self.num_sought += 1
        if self.folder is None:
            has_suffix = without_media_suffix(names[0]) != names[0]
            return names[0] if has_suffix else f"{names[0].rstrip('.')}{self.bare_suffix}"
        path = self.locate(names)
        if path is not None:
            return path
        for empty in (paths[0] for name in names for paths in self._spelled(name)):
            raise UnusableRecord(empty, "unreadable_media")
        self.missing.append(names[0])
        raise UnusableRecord(list(names), "missing_media")

    def check(self, *, max_missing: float) -> None:
        """Raises ValueError if more than the share `max_missing` (0-1) of the requested files is missing."""
        if len(self.missing) > max_missing * self.num_sought:
            raise ValueError(
                f"{len(self.missing)} of {self.num_sought} media files are missing in {self.folder}, more than "
                f"max_missing={max_missing:g} allows; the first: {self.missing[:5]}"
            )


def _composed(name: str) -> str:
    """The name with composed accents (NFC): file systems of macOS may store them decomposed."""
    return unicodedata.normalize("NFC", name)


def is_unsafe(name: str) -> bool:
    """Whether a name from an annotation file points outside the media folder, or is not a valid file name.

    >>> is_unsafe("../a.mp4"), is_unsafe("a..b/c.mp4")
    (True, False)
    """
    return not name.strip(". /\\") or ".." in name.replace("\\", "/").split("/") or "\0" in name


def list_files(folder: str | Path, suffixes: Collection[str] | None = None) -> Iterator[str]:
    """Paths of the files with one of `suffixes` (None: of all files), in the order of their names, top folder first.

    Symbolic links to folders are followed, each folder once, so a link to a parent folder causes no loop.
    """
    seen = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        if os.path.realpath(root) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(root))
        folders.sort()
        for name in sorted(names):
            path = os.path.join(root, name)
            if (suffixes is None or os.path.splitext(name)[1].lower() in suffixes) and os.path.isfile(path):
                yield path
