"""Where the media of a training row come from: cached tower outputs, or the media files themselves.

Between rows and collator. Both classes answer the same two questions: which media of a row are missing, and what stands
in its slots. Nothing is ever swapped for another medium; what the model does with rows is not decided here.
"""

from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel, ProcessorMixin

from dataset_builders.features.feature_store import FeatureStore
from dataset_builders.pseudo_untrimmed.composing import compose_features
from dataset_builders.schema import MEDIA_KINDS
from modeling_avicuna.interleaving_avicuna import num_modality_tokens
from modeling_avicuna.media_avicuna import probe
from modeling_avicuna.video_processing_avicuna import load_video_frames


IMAGE_SUFFIXES = frozenset(".jpg .jpeg .png .webp .bmp .gif".split())


def open_media(features_dirs: list[str], *, media_dir: str | None, processor: ProcessorMixin):
    """`CachedMedia` where feature folders are named, `MediaFiles` otherwise."""
    if features_dirs:
        return CachedMedia(features_dirs, processor=processor)
    return MediaFiles(media_dir, processor=processor)


def media_names(row: dict) -> list[str]:
    """Every medium that a row needs: the clips of a composition, or the files of `media`."""
    if row["segments"]:
        return list(dict.fromkeys(segment["clip_id"] for segment in row["segments"]))
    return [row["media"][kind] for kind in MEDIA_KINDS if row["media"][kind] is not None]


class CachedMedia:
    """Tower outputs from one or more folders of `train/extract_features.py`; virtual rows are composed here.

    Args:
        folders: searched in order; media are found by id, which is the stem of their file name.
        processor: says how many visual and audio tokens a composed video gets.
    """

    def __init__(self, folders: list[str], *, processor: ProcessorMixin):
        self.stores = [FeatureStore(folder) for folder in folders]
        for store in self.stores:
            store.check_settings(processor.feature_settings)
        self.num_av_tokens = processor.num_av_tokens
        self.rate = processor.audio_interleaving_rate

    def missing(self, row: dict) -> list[str]:
        return [name for name in media_names(row) if name not in self]

    def fill(self, row: dict, messages: list[dict]):
        """Writes the tower outputs into the row's content blocks, in place: `video_features` of shape `(num_rows,
        vision_feature_size)`, `audio_features` of shape `(num_windows, audio_feature_size)` or None for silence.

        Raises:
            ValueError: the row has no medium for one of its slots, or it is not in the folders.
        """
        for block in media_blocks(messages):
            if block["type"] == "video":
                video, audio = self._compose(row) if row["segments"] else self._read_video(row)
                block |= {"video_features": video, "audio_features": audio if len(audio) else None}
            elif block["type"] == "image":
                # the processor shows the row in the middle, where the "image" is a clip
                block["video_features"] = self.video(medium_of(row, "image"))
            else:
                block["audio_features"] = self.audio(medium_of(row, "audio"))

    def video(self, name: str) -> np.ndarray:
        """Visual rows of a medium, `(num_rows, vision_feature_size)`."""
        store, media_id = self._found(name)
        return store.video(media_id)

    def audio(self, name: str) -> np.ndarray:
        """Audio rows of a medium, `(num_windows, audio_feature_size)`."""
        store, media_id = self._found(name)
        return store.audio(media_id)

    def silence(self) -> np.ndarray | None:
        return next((row for row in (store.silence() for store in self.stores) if row is not None), None)

    def __contains__(self, name: str) -> bool:
        return self._find(name) is not None

    def _read_video(self, row: dict) -> tuple[np.ndarray, np.ndarray]:
        name = medium_of(row, "video")
        return self.video(name), self.audio(row["media"]["audio"] or name)  # a sound track in a file of its own wins

    def _compose(self, row: dict) -> tuple[np.ndarray, np.ndarray]:
        num_video, num_audio = num_modality_tokens(self.num_av_tokens, self.rate)
        segments = row["segments"]
        video, audio = compose_features(segments, self, num_video_tokens=num_video, num_audio_tokens=num_audio)
        if not len(audio):  # a silent video fills all tokens with pictures
            video, audio = compose_features(segments, self, num_video_tokens=self.num_av_tokens)
        return video, audio

    def _find(self, name: str) -> tuple[FeatureStore, str] | None:
        for media_id in (name, Path(name).stem):
            for store in self.stores:
                if media_id in store:
                    return store, media_id
        return None

    def _found(self, name: str) -> tuple[FeatureStore, str]:
        found = self._find(name)
        if found is None:
            raise ValueError(f"no features of {name!r} in {[str(store.folder) for store in self.stores]}")
        return found


class MediaFiles:
    """Media files, decoded by the processor on the fly. Virtual rows have no file: cache features, or render them."""

    def __init__(self, media_dir: str | None, *, processor: ProcessorMixin):
        self.media_dir = media_dir
        self.alignment = processor.alignment
        self.num_av_tokens = processor.num_av_tokens
        self.rate = processor.audio_interleaving_rate

    def missing(self, row: dict) -> list[str]:
        if row["segments"] and row["media"]["video"] is None:
            raise ValueError(
                f"row {row['id']!r} of {row['source']!r} is a virtual composition: it needs features_dir "
                '(python -m train.extract_features), or build the data with media="rendered"'
            )
        return [name for name in media_names(row) if not self.path(name).is_file()]

    def path(self, name: str) -> Path:
        return Path(self.media_dir or ".", name)

    def fill(self, row: dict, messages: list[dict]):
        """Writes paths into the row's content blocks, in place.

        Raises:
            ValueError: the row has no medium for one of its slots.
        """
        for block in media_blocks(messages):
            path = self.path(medium_of(row, block["type"]))
            if block["type"] == "image" and path.suffix.lower() not in IMAGE_SUFFIXES:
                block["image"] = self._middle_frame(path)
            else:
                block["path"] = str(path)
            if block["type"] == "video" and row["media"]["audio"] is not None:
                block["audio"] = str(self.path(row["media"]["audio"]))

    def _middle_frame(self, path: Path) -> np.ndarray:
        """Of the frames that the video's visual tokens would show, the one in the middle: what the cache would give."""
        num_frames = self.num_av_tokens
        if probe(path).has_audio:
            num_frames, _ = num_modality_tokens(self.num_av_tokens, self.rate)
        frames, _ = load_video_frames(path, num_frames=num_frames, alignment=self.alignment)
        return frames[len(frames) // 2]


def unused_media(model: PreTrainedModel, *, processor: ProcessorMixin) -> dict[str, torch.Tensor]:
    """An empty frame and a silent window, `(1, 1, ...)`, by name of the model's input, for the towers that it has.

    ZeRO-3 gathers a layer's weights from all processes when it runs, so all must run the same towers in every step. A
    batch without pictures, or without sound, gets these with a length of 0.
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
    name = row["media"][kind]
    if name is None:
        raise ValueError(f"row {row['id']!r} of {row['source']!r} has a <{kind}> slot but no {kind} in its media")
    return name
