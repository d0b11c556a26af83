"""The media of a training row: cached tower outputs, or the media files.

Both classes list the missing media of a row, and fill the content blocks of its conversation. A row with `media.start`
or `media.end` uses that part of its files.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from transformers import PreTrainedModel, ProcessorMixin
from transformers.integrations import is_deepspeed_zero3_enabled

from dataset_builders.features.feature_store import FeatureFolders, FeatureStore, media_key
from dataset_builders.pseudo_untrimmed.composing import compose_features
from dataset_builders.schema import MEDIA_KINDS
from dataset_builders.sources.clip_ids import IMAGE_SUFFIXES
from modeling_avicuna.interleaving_avicuna import num_modality_tokens
from modeling_avicuna.media_avicuna import probe
from modeling_avicuna.video_processing_avicuna import load_video_frames


def open_media(
    features_dirs: list[str], *, media_dir: str | None, processor: ProcessorMixin, composition: str = "even"
) -> "CachedMedia | MediaFiles":
    """`CachedMedia` if there are folders of features, otherwise `MediaFiles`."""
    if features_dirs:
        return CachedMedia(features_dirs, processor=processor, composition=composition)
    if media_dir is not None and not Path(media_dir).is_dir():
        raise ValueError(f"no such media folder: {media_dir}")
    return MediaFiles(media_dir, processor=processor)


def part_of(row: dict) -> dict[str, float | None]:
    """The part of its files that a row uses, in seconds of the file (None: its beginning, its end)."""
    return {"start": row["media"]["start"], "end": row["media"]["end"]}


def media_names(row: dict) -> list[str]:
    """Every medium that a row needs: the clips of a composition, or the files of `media`."""
    if row["segments"]:
        return list(dict.fromkeys(segment["clip_id"] for segment in row["segments"]))
    return media_files(row)


def media_files(row: dict) -> list[str]:
    """The files of a row; a rendered composition has both files and clips."""
    return [row["media"][kind] for kind in MEDIA_KINDS if row["media"][kind] is not None]


class CachedMedia:
    """Tower outputs from folders of `train/extract_features.py`, from which virtual rows are composed.

    Args:
        folders: searched in order; the id of a medium is its file name without the suffix.
        processor: of the model that is trained; it determines the number of visual and audio tokens of a composition.
        composition: the `rule` of `compose_features`.

    Raises:
        ValueError: a folder whose features were made with other settings than the processor's.
    """

    def __init__(self, folders: list[str], *, processor: ProcessorMixin, composition: str = "even"):
        self.folders = FeatureFolders(folders)
        self.composition = composition
        self.settings = processor.feature_settings
        for store in self.folders.stores:
            store.check_settings(self.settings)
        self.num_av_tokens = processor.num_av_tokens
        self.rate = processor.audio_interleaving_rate
        settings = processor.feature_settings
        # the published alignment composes as the published code does
        self.windows = (
            (settings["window_seconds"], settings["stride_seconds"]) if settings["alignment"] == "centred" else None
        )

    def check_towers(self, model: PreTrainedModel):
        """Raises ValueError if the features were made with other towers than the model's."""
        with whole_towers(model):
            self.folders.check(model, self.settings)

    def missing(self, row: dict) -> list[str]:
        """Names of the row's media that are in none of the folders; parts of files are cached separately."""
        part = {} if row["segments"] else part_of(row)
        return [media_key(name, **part) for name in media_names(row) if self.folders.find([name], **part) is None]

    def fill(self, row: dict, messages: list[dict]):
        """Adds `video_features` of shape `(num_rows, vision_feature_size)` and `audio_features` of shape
        `(num_windows, audio_feature_size)`, or None for silence, to the content blocks.

        Raises:
            ValueError: the row has no medium for one of its slots, or it is not in the folders.
        """
        for block in media_blocks(messages):
            if block["type"] == "video":
                video, audio = self._compose(row) if row["segments"] else self._read_video(row)
                block |= {"video_features": video, "audio_features": audio if len(audio) else None}
            elif block["type"] == "image":
                # if the "image" is a clip, the processor uses the row in the middle
                block["video_features"] = self.video(medium_of(row, "image"), **part_of(row))
            else:
                block["audio_features"] = self.audio(medium_of(row, "audio"), **part_of(row))

    def video(self, name: str, start: float | None = None, end: float | None = None) -> np.ndarray:
        """Visual rows of a medium or a part of it, `(num_rows, vision_feature_size)`."""
        store, key = self._found(name, start, end)
        return store.video(key)

    def audio(self, name: str, start: float | None = None, end: float | None = None) -> np.ndarray:
        """Audio rows of a medium or a part of it, `(num_windows, audio_feature_size)`."""
        store, key = self._found(name, start, end)
        return store.audio(key)

    def silence(self) -> np.ndarray | None:
        return next((row for row in (store.silence() for store in self.folders.stores) if row is not None), None)

    def darkness(self) -> np.ndarray | None:
        return next((row for row in (store.darkness() for store in self.folders.stores) if row is not None), None)

    def __contains__(self, name: str) -> bool:
        return self.folders.find([name]) is not None

    def _read_video(self, row: dict) -> tuple[np.ndarray, np.ndarray]:
        name, part = medium_of(row, "video"), part_of(row)
        # a separate audio file replaces the video's sound track
        return self.video(name, **part), self.audio(row["media"]["audio"] or name, **part)

    def _compose(self, row: dict) -> tuple[np.ndarray, np.ndarray]:
        num_video, num_audio = num_modality_tokens(self.num_av_tokens, self.rate)
        segments = row["segments"]
        store = cast(FeatureStore, self)  # with the methods that composing calls
        how: dict[str, Any] = {"rule": self.composition, "windows": self.windows}
        video, audio = compose_features(segments, store, num_video_tokens=num_video, num_audio_tokens=num_audio, **how)
        if not len(audio):  # all tokens of a silent video are visual
            video, audio = compose_features(segments, store, num_video_tokens=self.num_av_tokens, **how)
        return video, audio

    def _found(self, name: str, start: float | None, end: float | None) -> tuple[FeatureStore, str]:
        found = self.folders.find([name], start, end)
        if found is None:
            key = media_key(name, start, end)
            raise ValueError(f"no features of {key!r} in {[str(store.folder) for store in self.folders.stores]}")
        return found


@contextmanager
def whole_towers(model: PreTrainedModel) -> Iterator[None]:
    """In the body, every process has the complete parameters of both towers, also under ZeRO-3."""
    if not is_deepspeed_zero3_enabled():
        yield
        return
    import deepspeed

    towers = [tower for tower in (model.model.vision_tower, model.model.audio_tower) if tower is not None]
    with deepspeed.zero.GatheredParameters([p for tower in towers for p in tower.parameters()]):
        yield


class MediaFiles:
    """Media files, decoded by the processor during training. Virtual rows have no files: use cached features.

    Args:
        media_dir: base folder of relative paths; None: the working directory.
        processor: of the model that is trained.
    """

    def __init__(self, media_dir: str | None, *, processor: ProcessorMixin):
        self.media_dir = media_dir
        self.alignment = processor.alignment
        self.num_av_tokens = processor.num_av_tokens
        self.rate = processor.audio_interleaving_rate

    def check_towers(self, model: PreTrainedModel):
        """Does nothing: the model's own towers run."""

    def missing(self, row: dict) -> list[str]:
        """Names of the row's media whose files do not exist.

        Raises:
            ValueError: a virtual composition.
        """
        if row["segments"] and row["media"]["video"] is None:
            raise ValueError(
                f"row {row['id']!r} of {row['source']!r} is a virtual composition: it needs features_dir "
                '(python -m train.extract_features), or data built with media="rendered"'
            )
        return [name for name in media_files(row) if not self.path(name).is_file()]

    def path(self, name: str) -> Path:
        return Path(self.media_dir or ".", name)

    def fill(self, row: dict, messages: list[dict]):
        """Adds paths, and the part of the file, to the content blocks.

        Raises:
            ValueError: the row has no medium for one of its slots.
        """
        part = {name: seconds for name, seconds in part_of(row).items() if seconds is not None}
        for block in media_blocks(messages):
            path = self.path(medium_of(row, block["type"]))
            if block["type"] == "image" and path.suffix.lower() not in IMAGE_SUFFIXES:
                block["image"] = self._middle_frame(path, **part)
            elif block["type"] == "image":
                block["path"] = str(path)
            else:
                block |= {"path": str(path), **part}
            if block["type"] == "video" and row["media"]["audio"] is not None:
                block["audio"] = str(self.path(row["media"]["audio"]))

    def _middle_frame(self, path: Path, start: float | None = None, end: float | None = None) -> np.ndarray:
        """The middle one of the video's frames, as in the cache."""
        num_frames = self.num_av_tokens
        if probe(path).has_audio:
            num_frames, _ = num_modality_tokens(self.num_av_tokens, self.rate)
        frames, _ = load_video_frames(path, num_frames=num_frames, start=start, end=end, alignment=self.alignment)
        return frames[len(frames) // 2]


def unused_media(model: PreTrainedModel, *, processor: ProcessorMixin) -> dict[str, torch.Tensor]:
    """An empty frame and a silent window, `(1, 1, ...)`, by the name of the model's input, for the existing towers.

    ZeRO-3 gathers a layer's weights from all processes when the layer runs, so all processes must run the same towers
    in every step. A batch without pictures, or without sound, contains these inputs with a length of 0.
    """
    unused = {}
    if model.config.vision_config is not None:
        frames = processor(text="<image>", images=[np.zeros((32, 32, 3), np.uint8)])["pixel_values_videos"]
        unused["pixel_values_videos"] = torch.zeros_like(frames)
    if model.config.audio_config is not None:
        extractor = processor.feature_extractor
        num_samples = round(extractor.window_seconds * extractor.sampling_rate)
        unused["input_features"] = extractor.extract_windows(np.zeros(num_samples, np.float32))[None]
    return unused


def media_blocks(messages: list[dict]) -> list[dict]:
    """The content blocks of a conversation that hold a medium, in order."""
    return [block for message in messages for block in message["content"] if block["type"] != "text"]


def medium_of(row: dict, kind: str) -> str:
    """The row's medium of a kind ("video", "audio", "image"). ValueError, naming the row, if it has none."""
    name = row["media"][kind]
    if name is None:
        raise ValueError(f"row {row['id']!r} of {row['source']!r} has a <{kind}> slot but no {kind} in its media")
    return name
