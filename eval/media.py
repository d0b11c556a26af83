"""The media of evaluation examples: files in a folder, or cached tower outputs.

The sound can be removed, swapped, shifted or moved, to measure whether the model uses it. Only changed sound is
decoded here.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from transformers import PreTrainedModel, ProcessorMixin

from dataset_builders.features.feature_store import FeatureFolders, FeatureStore
from dataset_builders.sources.media_folder import MediaFolder
from modeling_avicuna.media_avicuna import load_audio

from .task import Example


# "swapped": the sound of another video; "shifted": rotated by half its length; "moved": rotated by some seconds, the
# amount is drawn for each video
SOUNDS = ("original", "removed", "swapped", "shifted", "moved")
MOVE_SECONDS = (1.0, 5.0)  # least and most
SAMPLING_RATE = 48_000  # Hz, as the feature extractor takes it
CachedLocation = tuple[FeatureStore, str]  # the store and the key of cached features
Location = str | CachedLocation  # or the path of a file


@dataclass(frozen=True)
class Media:
    """The inputs of the processor for one video.

    video: path of a file, or cached rows, `np.ndarray` of shape `(num_rows, vision_feature_size)`.
    audio: True for the sound of the file; None for silence; samples `(num_samples,)` at 48 kHz for a file, or cached
        rows `(num_windows, audio_feature_size)`.
    duration (`float`, *optional*): seconds, as annotated or cached; None: that of the decoded file.
    start, end (`float`, *optional*): the part of the file to use, in seconds.
    """

    video: Any
    audio: Any
    duration: float | None
    start: float | None = None
    end: float | None = None

    @property
    def is_cached(self) -> bool:
        return isinstance(self.video, np.ndarray)

    @property
    def block(self) -> dict[str, Any]:
        """The content block of a file."""
        part = {name: value for name, value in (("start", self.start), ("end", self.end)) if value is not None}
        return {"type": "video", "path": self.video, "audio": self.audio, **part}


class MediaSource:
    """The media of all examples of a task, in a folder of files or in folders of cached features.

    Args:
        examples: all examples of the annotation file, so that the partner of a swapped sound does not depend on
            `--limit`.
        media_dir: folder with the video files, searched with its sub-folders.
        features_dir: folders of `train.extract_features`, searched in this order.
        sound: one of `SOUNDS`.

    Raises:
        ValueError: both or neither of the folders given, an unknown `sound`, or no second video to swap sound with.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        media_dir: Path | None = None,
        features_dir: Sequence[Path] = (),
        sound: str = "original",
    ) -> None:
        if (media_dir is None) == (not features_dir):
            raise ValueError(
                "give either a media folder or cached features: "
                f"media_dir is {media_dir}, features_dir is {list(map(str, features_dir))}"
            )
        if sound not in SOUNDS:
            raise ValueError(f"unknown sound {sound!r}: one of {SOUNDS}")
        self.sound = sound
        self.folders = [media_dir] if media_dir is not None else list(features_dir)
        self._folder = None if media_dir is None else MediaFolder(media_dir)
        self.cache = FeatureFolders(features_dir)
        self._examples = {example.video_id: example for example in examples}
        locations = {example.video_id: self._locate(example) for example in examples}
        self.locations = {key: location for key, location in locations.items() if location is not None}
        self._partners = _partners(self.locations) if sound == "swapped" else {}
        self.shifts = {key: self._shift(key) for key in self.locations} if sound == "moved" else {}

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that the answers depend on, in addition to the files."""
        partners = json.dumps(sorted(self._partners.items())).encode()
        return {
            "media": "features" if self.cache.stores else "files",
            "features": [store.settings for store in self.cache.stores],
            "sound": self.sound,
            "sound_partners_sha256": hashlib.sha256(partners).hexdigest() if self._partners else None,
        }

    def check(self, model: PreTrainedModel, processor: ProcessorMixin) -> None:
        """Raises ValueError if cached features were made with other towers or settings than those of the model."""
        self.cache.check(model, processor.feature_settings)

    def open(self, example: Example) -> Media:
        """The media of one example.

        Raises:
            MediaError: the file, or the file of a swapped sound, cannot be read.
        """
        location = self.locations[example.video_id]
        partner = self._examples[self._partners[example.video_id]] if self.sound == "swapped" else example
        sound_of = self.locations[partner.video_id]
        if isinstance(location, tuple):
            return self._open_cached(example, location, cast(CachedLocation, sound_of))
        audio: Any = True if self.sound == "original" else None
        if self.sound in ("swapped", "shifted", "moved"):
            samples = load_audio(
                cast(str, sound_of), sampling_rate=SAMPLING_RATE, start=partner.start, end=partner.end
            )
            if samples is not None:
                # the processor cuts the sound to the same part as the picture
                before = np.zeros(round((example.start or 0.0) * SAMPLING_RATE), samples.dtype)
                moved_by = round(self.shifts.get(example.video_id, 0.0) * SAMPLING_RATE)
                audio = np.concatenate([before, _changed(samples, self.sound, moved_by)])
        return Media(location, audio, example.duration, example.start, example.end)

    def _open_cached(self, example: Example, location: CachedLocation, sound_of: CachedLocation) -> Media:
        (store, key), (other, sound_key) = location, sound_of
        rows = other.audio(sound_key)
        moved_by = round(self.shifts.get(example.video_id, 0.0) / store.settings["stride_seconds"])
        heard = _changed(rows, self.sound, moved_by) if len(rows) and self.sound != "removed" else None
        return Media(store.video(key), heard, example.duration or store.duration(key))

    def _locate(self, example: Example) -> Location | None:
        """The path of an example, or its location in the cache; None if neither has one of its names."""
        if self._folder is not None:
            return self._folder.locate(example.media_names)
        return self.cache.find(example.media_names, example.start, example.end)

    def _shift(self, video_id: str) -> float:
        """Seconds by which "moved" delays a sound; cached sounds move by whole windows."""
        drawn, location = draw_shift(video_id), self.locations[video_id]
        if not isinstance(location, tuple):
            return drawn
        stride = location[0].settings["stride_seconds"]
        return math.copysign(max(1, round(abs(drawn) / stride)) * stride, drawn)


def draw_shift(video_id: str) -> float:
    """Seconds by which the sound of a video is moved, earlier (negative) or later; the same in every run."""
    generator = np.random.default_rng(list(hashlib.sha256(video_id.encode()).digest()))
    return float(generator.uniform(*MOVE_SECONDS) * generator.choice([-1, 1]))


def _partners(locations: dict[str, Location]) -> dict[str, str]:
    """For each video, the next one with another media file, whose sound replaces its own."""
    keys = list(locations)
    partners = {}
    for index, key in enumerate(keys):
        others = (keys[(index + step) % len(keys)] for step in range(1, len(keys)))
        partner = next((other for other in others if locations[other] != locations[key]), None)
        if partner is None:
            raise ValueError(f"the sound of {key!r} cannot be swapped: there is no other video to take a sound from")
        partners[key] = partner
    return partners


def _changed(sound: np.ndarray, change: str, moved_by: int) -> np.ndarray:
    """What leaves at one end comes back at the other."""
    amount = {"shifted": len(sound) // 2, "moved": moved_by}.get(change, 0)
    return np.roll(sound, amount, axis=0)
