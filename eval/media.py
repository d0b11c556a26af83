"""Where an example's picture and sound come from: files in a folder, or cached tower outputs; and what is missing.

Also the one home of what "is audio used?" does to the sound before the model hears it: removed, swapped, shifted. Nothing
is decoded here but a sound that has to be changed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dataset_builders.features.feature_store import FeatureStore
from dataset_builders.sources.media_folder import MediaFolder
from modeling_avicuna.media_avicuna import load_audio, probe

from .task import Example


# "swapped": the sound of the next example's video; "shifted": moved by half its length, the end comes first.
SOUNDS = ("original", "removed", "swapped", "shifted")


@dataclass(frozen=True)
class Media:
    """What the processor takes for one video: a path or cached rows, and the sound to go with it.

    video: path of a file, or `np.ndarray` of shape `(num_rows, vision_feature_size)`.
    audio: True for the file's own sound; None for silence; samples `(num_samples,)` at 48 kHz for a file, or rows
        `(num_windows, audio_feature_size)` beside cached ones.
    duration (`float`): s, as annotated, or else the file's or the cached media's own.
    """

    video: Any
    audio: Any
    duration: float

    @property
    def is_cached(self) -> bool:
        return isinstance(self.video, np.ndarray)


class MediaSource:
    """Finds the media of examples in a folder of files or in a feature store: exactly one of the two.

    Args:
        media_dir: folder with the video files, searched with its sub-folders.
        features_dir: folder that `train/extract_features.py` wrote.
        sound: one of `SOUNDS`.

    Raises:
        ValueError: both or none given, or an unknown `sound`.
    """

    def __init__(
        self, *, media_dir: Path | None = None, features_dir: Path | None = None, sound: str = "original"
    ) -> None:
        if (media_dir is None) == (features_dir is None):
            raise ValueError(f"give either a media folder or cached features, got {media_dir} and {features_dir}")
        if sound not in SOUNDS:
            raise ValueError(f"unknown sound {sound!r}: one of {SOUNDS}")
        self.sound = sound
        self._folder = None if media_dir is None else MediaFolder(media_dir)
        self._store = None if features_dir is None else FeatureStore(features_dir)

    def locate(self, example: Example) -> str | None:
        """The path or media id of an example, or None where nothing has one of its names."""
        if self._folder is not None:
            return self._folder.find(example.media_names)
        stems = [Path(name).stem if "." in name else name for name in example.media_names]
        return next((name for name in (*example.media_names, *stems) if name in self._store), None)

    def split(self, examples: Sequence[Example]) -> tuple[dict[str, str], list[str]]:
        """`{video_id: place}` of the examples whose media are there, and the ids of those whose media are missing."""
        places = {example.video_id: self.locate(example) for example in examples}
        found = {key: place for key, place in places.items() if place is not None}
        return found, [key for key, place in places.items() if place is None]

    def open(self, example: Example, places: dict[str, str]) -> Media:
        """The media of one example among all that were found (its neighbour's sound is needed for "swapped").

        Raises:
            MediaError: the file, or the file whose sound is wanted, cannot be used.
        """
        place = places[example.video_id]
        sound_of = _next_value(places, example.video_id) if self.sound == "swapped" else place
        if self._store is not None:
            rows = self._store.audio(sound_of)
            audio = _changed(rows, self.sound) if len(rows) and self.sound != "removed" else None
            return Media(self._store.video(place), audio, example.duration or self._store.duration(place))
        duration = example.duration or probe(place).duration
        if self.sound == "original":
            return Media(place, True, duration)
        samples = None if self.sound == "removed" else load_audio(sound_of)
        return Media(place, None if samples is None else _changed(samples, self.sound), duration)


def _next_value(places: dict[str, str], key: str) -> str:
    keys = list(places)
    return places[keys[(keys.index(key) + 1) % len(keys)]]


def _changed(sound: np.ndarray, change: str) -> np.ndarray:
    return np.roll(sound, len(sound) // 2, axis=0) if change == "shifted" else sound
