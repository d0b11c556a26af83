"""Cached tower outputs on disk: written in parts by `train/extract_features.py`, read by training and composing.

A folder holds files `part-<rank>-<number>.safetensors` (the concatenated rows of the part's media), each with an index
`part-<rank>-<number>.jsonl` that maps media ids to rows. A part is valid once its index file exists, so a killed
extraction loses at most the current part. This module runs no tower and decodes no media.
"""

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from ..atomic_files import atomic_path, write_json, write_text
from ..sources.annotation_files import read_json
from ..sources.clip_files import video_names
from ..sources.clip_ids import split_clip_id, without_media_suffix
from .towers import check_towers


DTYPES = {"float16": np.float16, "float32": np.float32}
SETTINGS_FILE = "store.json"
SILENCE, DARKNESS = "silence", "darkness"  # rows of no medium, each in a file of that name
PART_TOLERANCE = 0.5  # s; a part that ends this close to the end of the media file is the whole file (our choice)
# The published settings; assumed for a folder written before settings were recorded.
PUBLISHED_SETTINGS = {"alignment": "published", "window_seconds": 10.0, "stride_seconds": 4.0, "mel_scale": "htk"}


# One medium: number of its part, seconds (not a number for an image), first and last row in each stream. An array of
# these takes a quarter of the memory of dictionaries, which matters for millions of clips in every process.
ENTRY = np.dtype([("part", np.int32), ("duration", np.float64), ("video", np.int64, 2), ("audio", np.int64, 2)])


def media_key(media_id: str, start: float | None = None, end: float | None = None) -> str:
    """The cache key of a media file, or of its part from `start` to `end` seconds.

    >>> media_key("clip"), media_key("clip", 1.5, 25.0), media_key("clip", None, 25.0)
    ('clip', 'clip@1.500-25.000', 'clip@0.000-25.000')
    >>> media_key("clip", 12.0)
    'clip@12.000-'
    """
    if start is None and end is None:
        return media_id
    return f"{media_id}@{start or 0.0:.3f}-" + ("" if end is None else f"{end:.3f}")


class FeatureStore:
    """Read-only view of a folder written by `FeatureWriter`. ValueError if it has no finished part."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._part_names: list[str] = []
        self._positions: dict[str, int] = {}  # media id -> index in `_entries`
        tables = [np.empty(0, ENTRY)]
        num_read = 0
        for number, (part, entries) in enumerate(read_parts(self.folder)):
            self._part_names.append(part)
            self._positions.update((entry["media_id"], at) for at, entry in enumerate(entries, start=num_read))
            tables.append(np.array([_as_entry(number, entry) for entry in entries], ENTRY))
            num_read += len(entries)
        self._entries = np.concatenate(tables)
        if not self._positions:
            raise ValueError(f"{self.folder} holds no cached features: no finished part-*.jsonl there")
        self._parts: dict[int, Any] = {}  # open safetensors files
        self._single_rows: dict[str, np.ndarray | None] = {}
        settings = self.folder / SETTINGS_FILE
        known = read_json(settings) if settings.exists() else {}
        self.settings = {**PUBLISHED_SETTINGS, **known}

    def __contains__(self, media_id: str) -> bool:
        return media_id in self._positions

    def find(self, media_id: str, start: float | None = None, end: float | None = None) -> str | None:
        """The key of a media file, or of its part from `start` to `end` seconds; None if the folder does not have it.

        The key of the whole file is used if the part begins at 0 and the file ends before `end`, or at most 0.5 s
        after it.
        """
        key = media_key(media_id, start, end)
        if key in self:
            return key
        if media_id in self and not start and end is not None:
            duration = self.duration(media_id)
            if duration is not None and duration <= end + PART_TOLERANCE:
                return media_id
        return None

    def __iter__(self):
        return iter(self._positions)

    def __len__(self) -> int:
        return len(self._positions)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_parts": {}}  # open files cannot be pickled for data-loading workers

    def check_settings(self, settings: dict) -> None:
        """Raise ValueError if the folder was written with other `feature_settings` of the processor."""
        for name, value in settings.items():
            if self.settings.get(name) != value:
                raise ValueError(
                    f"{self.folder} holds features made with {name}={self.settings.get(name)!r}, but the processor "
                    f"has {name}={value!r}: extract them again with this checkpoint"
                )

    def video(self, media_id: str) -> np.ndarray:
        """Visual rows `(num_rows, vision_feature_size)`, float32, evenly spaced over the duration."""
        return self._rows(media_id, "video")

    def audio(self, media_id: str) -> np.ndarray:
        """Audio rows `(num_windows, audio_feature_size)`, float32; no rows for silent media."""
        return self._rows(media_id, "audio")

    def duration(self, media_id: str) -> float | None:
        """Duration in seconds, or None for an image."""
        seconds = float(self._entry(media_id)["duration"])
        return None if math.isnan(seconds) else seconds

    def silence(self) -> np.ndarray | None:
        """The audio tower's output for silence, `(audio_feature_size,)`, or None if it was not stored."""
        return self._single_row(SILENCE)

    def darkness(self) -> np.ndarray | None:
        """The vision tower's output for a black frame, `(vision_feature_size,)`, or None if it was not stored."""
        return self._single_row(DARKNESS)

    def _single_row(self, name: str) -> np.ndarray | None:
        if name not in self._single_rows:  # every composed row asks for it
            path = self.folder / f"{name}.safetensors"
            self._single_rows[name] = load_file(path)[name].astype(np.float32) if path.exists() else None
        return self._single_rows[name]

    def _entry(self, media_id: str) -> np.void:
        if media_id not in self._positions:
            raise ValueError(f"{self.folder} holds no features of media id {media_id!r}")
        return self._entries[self._positions[media_id]]

    def _rows(self, media_id: str, stream: str) -> np.ndarray:
        entry = self._entry(media_id)
        part = int(entry["part"])
        if part not in self._parts:
            path = self.folder / f"{self._part_names[part]}.safetensors"
            self._parts[part] = safe_open(path, framework="numpy")
        rows = self._parts[part].get_slice(stream)
        first, last = entry[stream].tolist()
        # silent media at the end of a part would start beyond the last row, which safetensors rejects
        if first == last:
            return np.zeros((0, rows.get_shape()[1]), np.float32)
        return rows[first:last].astype(np.float32)


class FeatureFolders:
    """Several folders of cached tower outputs, searched in order."""

    def __init__(self, folders: Iterable[str | Path]):
        self.stores = [FeatureStore(folder) for folder in folders]

    def check(self, model: Any, settings: dict) -> None:
        """Raise ValueError if a folder was made with other towers than the model's, or with other settings."""
        for store in self.stores:
            check_towers(store.settings, model, folder=str(store.folder))
            store.check_settings(settings)

    def find(
        self, names: Iterable[str], start: float | None = None, end: float | None = None
    ) -> tuple[FeatureStore, str] | None:
        """The store and the key of the first of `names`, as given or without folders and suffix, or None.

        A clip that is not stored under its name is the part of its video that the times of the name give.
        """
        for name in names:
            for media_id in _media_ids(name):
                for store in self.stores:
                    key = store.find(media_id, start, end)
                    if key is not None:
                        return store, key
                video_id, first, last = split_clip_id(media_id)
                if first is not None and start is None and end is None:
                    found = self.find(video_names(video_id), first, last)
                    if found is not None:
                        return found
        return None


def _media_ids(name: str) -> Iterator[str]:
    """A name as given, then without folders and suffix."""
    yield name
    yield without_media_suffix(Path(name).name)


class FeatureWriter:
    """Append tower outputs to a folder; reopening the same folder continues it.

    Args:
        folder: created if needed.
        rank: number of the writing process; each process of a distributed extraction writes separate parts.
        media_per_part: media in one part (our choice: a part of 10-s clips is then about 60 MB in float16 with the
            published towers).
        dtype: `"float32"` or `"float16"` on disk.
        settings: what the rows depend on (tower names, frame rate, ...). A folder with other settings is rejected.

    Raises:
        ValueError: an unknown dtype, settings that differ from those of the folder, or an id that is already stored.

    ```python
    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> with FeatureWriter(folder) as writer:
    ...     writer.add("clip", video=np.ones((10, 768)), audio=np.ones((1, 512)), duration=10.0)
    >>> FeatureStore(folder).video("clip").shape
    (10, 768)

    ```
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        rank: int = 0,
        media_per_part: int = 512,
        dtype: str = "float32",
        settings: dict | None = None,
    ):
        if dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {sorted(DTYPES)}, got {dtype!r}")
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.rank, self.media_per_part, self.dtype = rank, media_per_part, dtype
        self._check_settings({**(settings or {}), "dtype": dtype})
        self._finished = {entry["media_id"] for _, entries in read_parts(self.folder) for entry in entries}
        numbers = [int(path.stem.split("-")[2]) for path in self.folder.glob(f"part-{rank:04d}-*.jsonl")]
        self._next_part = max(numbers, default=-1) + 1
        self._pending: dict[str, tuple[dict[str, np.ndarray], float | None]] = {}

    def __contains__(self, media_id: str) -> bool:
        return media_id in self._finished or media_id in self._pending

    def __enter__(self):
        return self

    def __exit__(self, exception_type: type[BaseException] | None, exception: object, traceback: object) -> None:
        if exception_type is None:
            self.flush()

    def add(self, media_id: str, *, video: np.ndarray, audio: np.ndarray, duration: float | None) -> None:
        """Add one media file: `video` `(num_rows, size)`, `audio` `(num_windows, size)` (0 windows: silent),
        seconds."""
        if media_id in self:
            raise ValueError(f"media id {media_id!r} is already in {self.folder}")
        for name, rows in (("video", video), ("audio", audio)):
            if np.ndim(rows) != 2:
                raise ValueError(f"{name} rows of {media_id!r} must be 2-dimensional, got shape {np.shape(rows)}")
        streams = {"video": np.asarray(video, DTYPES[self.dtype]), "audio": np.asarray(audio, DTYPES[self.dtype])}
        self._pending[media_id] = (streams, None if duration is None else float(duration))
        if len(self._pending) >= self.media_per_part:
            self.flush()

    def write_silence(self, row: np.ndarray) -> None:
        """Store the audio tower's output for silence, `(audio_feature_size,)`, for silent parts of a composition."""
        self._write_row(SILENCE, row)

    def write_darkness(self, row: np.ndarray) -> None:
        """Store the vision tower's output for a black frame, `(vision_feature_size,)`, for dark parts of one."""
        self._write_row(DARKNESS, row)

    def _write_row(self, name: str, row: np.ndarray) -> None:
        with atomic_path(self.folder / f"{name}.safetensors") as path:
            save_file({name: np.asarray(row, np.float32)}, path)

    def flush(self) -> None:
        """Write the rows added so far as one part: first the rows, then the index, each with an atomic rename."""
        if not self._pending:
            return
        while (path := self.folder / f"part-{self.rank:04d}-{self._next_part:05d}.jsonl").exists():
            self._next_part += 1  # another writer of this rank
        part = path.stem
        tensors, lines, offsets = {}, [], {"video": 0, "audio": 0}
        for media_id, (streams, duration) in self._pending.items():
            line: dict[str, Any] = {"media_id": media_id, "duration": duration}
            for name, rows in streams.items():
                line[name] = [offsets[name], offsets[name] + len(rows)]
                offsets[name] += len(rows)
            lines.append(json.dumps(line))
        for name in offsets:
            tensors[name] = stack_rows([streams[name] for streams, _ in self._pending.values()])
        with atomic_path(self.folder / f"{part}.safetensors") as path:
            save_file(tensors, path)
        write_text(self.folder / f"{part}.jsonl", "\n".join(lines) + "\n")
        self._finished.update(self._pending)
        self._pending = {}

    def _check_settings(self, settings: dict) -> None:
        path = self.folder / SETTINGS_FILE
        if not path.exists():
            write_json(path, settings, sort_keys=True)
        known = read_json(path)
        if "towers_rounded" in settings:  # missing in folders of earlier versions
            known.setdefault("towers_rounded", settings["towers_rounded"])
        if {**PUBLISHED_SETTINGS, **known} != {**PUBLISHED_SETTINGS, **settings}:
            raise ValueError(f"{self.folder} was written with settings {known}, not {settings}")


def stack_rows(arrays: list[np.ndarray]) -> np.ndarray:
    """Concatenate rows of equal width; arrays without rows may have any width."""
    filled = [array for array in arrays if len(array)]
    widths = {array.shape[1] for array in filled}
    if len(widths) > 1:
        raise ValueError(f"feature rows of one stream must have one width, got {sorted(widths)}")
    return np.concatenate(filled) if filled else arrays[0]


def read_parts(folder: str | Path) -> Iterator[tuple[str, list[dict]]]:
    """The name of every finished part, and its {"media_id", "duration", "video": [first, last], "audio": [first,
    last]}."""
    for path in sorted(Path(folder).glob("part-*.jsonl")):
        yield path.stem, [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _as_entry(part: int, entry: dict) -> tuple[int, float, list[int], list[int]]:
    duration = math.nan if entry["duration"] is None else entry["duration"]
    return part, duration, entry["video"], entry["audio"]
