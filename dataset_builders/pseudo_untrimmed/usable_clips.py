"""Read the clips of a PU-VALOR build and drop those that cannot be used, each with its reason (step 1 of the paper).

Captions are read by `sources.captions`; this module checks the media files, divides the clips into splits, and divides
the number of videos among the splits. Clustering and planning are in other modules.
"""

import dataclasses
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from tqdm import tqdm

from ..builder_base import check_split_name
from ..sources.captions import SOURCE, Clip, read_clips
from ..sources.clip_files import locate_clip
from ..sources.clip_ids import split_clip_id
from ..sources.excluded_ids import read_excluded_ids
from ..sources.media_folder import MediaFolder
from ..sources.record_report import RecordReport
from ..sources.records import UnusableRecord
from .rendering import CLIP_TOLERANCE
from .settings import CurationSettings


BACKGROUNDS = "backgrounds"
CLIPS_AT_ONCE = 10_000  # measured in threads before the next ones; bounds the memory


def read_usable_clips(settings: CurationSettings, report: RecordReport) -> tuple[list[Clip], list[Clip]]:
    """The clips that videos are composed of, and the clips without an event that fill gaps.

    Raises:
        ValueError: no clip is left.
    """
    clips = read_clips(
        settings.files("captions_file"),
        report=report,
        exclude_ids_file=settings.files("exclude_ids_file"),
        clip_duration=settings.clip_duration,
        min_clip_duration=settings.min_clip_duration,
        min_caption_words=settings.min_caption_words,
        caption_field=settings.caption_field,
    )
    backgrounds = read_backgrounds(settings, report)
    if settings.overlay and not backgrounds:
        raise ValueError(
            f"{settings.backgrounds_file} has no clip of at least {settings.min_clip_duration:g} s: overlay needs one"
        )
    folder = settings.folder("clips_dir")
    if folder is not None:
        clips = measure_clips(clips, folder, source=SOURCE, report=report)
        backgrounds = measure_clips(backgrounds, folder, source=BACKGROUNDS, report=report)
    return clips, backgrounds


def read_backgrounds(settings: CurationSettings, report: RecordReport) -> list[Clip]:
    """The clips listed in `backgrounds_file`, in the order of their ids."""
    backgrounds = []
    for path in settings.files("backgrounds_file"):
        for clip_id in sorted(read_excluded_ids(path, with_training=True)):
            _, start, end = split_clip_id(clip_id)
            duration = settings.clip_duration if start is None or end is None else round(end - start, 6)
            report.read(BACKGROUNDS)
            if duration < settings.min_clip_duration:
                report.drop(BACKGROUNDS, clip_id, "clip_too_short")
                continue
            report.keep(BACKGROUNDS)
            backgrounds.append(Clip(clip_id, "", duration))
    return backgrounds


def measure_clips(clips: list[Clip], clips_dir: str, *, source: str, report: RecordReport) -> list[Clip]:
    """Clips whose file, or whose part of a video's file, exists and can be read, with its own length; the others are
    dropped by reason."""
    media = MediaFolder(clips_dir, kind="video")
    kept = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for first in range(0, len(clips), CLIPS_AT_ONCE):
            chunk = clips[first : first + CLIPS_AT_ONCE]
            for clip, found in zip(chunk, pool.map(partial(measure_clip, media), chunk)):
                if isinstance(found, UnusableRecord):
                    report.drop(source, clip.clip_id, found.reason, detail=found.detail)
                else:
                    kept.append(dataclasses.replace(clip, duration=found))
    report.num_kept[source] = len(kept)
    if clips and not kept:
        raise ValueError(f"{clips_dir} has no usable media file for any of {len(clips)} clips: {report.counts()}")
    return kept


def measure_clip(media: MediaFolder, clip: Clip) -> float | UnusableRecord:
    """Seconds of a clip's file, or of its part of a video's file; or why it cannot be used."""
    from modeling_avicuna.media_avicuna import MediaError, probe

    file = locate_clip(media, clip.clip_id)
    if file is None:
        return UnusableRecord(None, "no_media_file")
    try:
        info = probe(file.path)
    except MediaError as error:
        return UnusableRecord(str(error), "unreadable_media_file")
    if not info.has_video:
        return UnusableRecord(None, "no_video_stream")
    duration = round(file.measure(info.duration), 3)
    if file.end is not None and duration < file.end - (file.start or 0.0) - CLIP_TOLERANCE:
        return UnusableRecord(f"{info.duration:.2f} s of file", "ends_after_its_file")
    return duration


class DecodedClips:
    """Decodes each clip completely, once and in parallel with others, and records failures.

    A file with a readable header may be damaged later in the stream. A plan with such a clip is rejected and redrawn,
    so that the rendered set does not lose the row.
    """

    def __init__(self, clips_dir: str):
        self._media = MediaFolder(clips_dir, kind="video")
        self.errors: dict[str, str | None] = {}  # clip id -> defect, or None

    def __call__(self, clip_ids: Sequence[str]) -> list[bool]:
        """For each clip, whether its video or audio cannot be decoded."""
        new = [clip_id for clip_id in dict.fromkeys(clip_ids) if clip_id not in self.errors]
        if new:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                found = tqdm(pool.map(self._find_error, new), total=len(new), desc="decoding clips", unit="clip")
                self.errors.update(zip(new, found))
        return [self.errors[clip_id] is not None for clip_id in clip_ids]

    def _find_error(self, clip_id: str) -> str | None:
        from modeling_avicuna.media_avicuna import MediaError, decode_audio, decode_video

        file = locate_clip(self._media, clip_id)
        if file is None:
            return f"no file of clip {clip_id!r}"
        try:
            for timed in decode_video(file.path):
                if file.end is not None and timed.time > file.end:
                    break
            decode_audio(file.path, sampling_rate=48_000, start=file.start, end=file.end)
        except MediaError as error:
            return str(error)
        return None


def divide_clips(clips: list[Clip], settings: CurationSettings, report: RecordReport) -> dict[str, np.ndarray]:
    """Positions of each split's clips. Splits with too few clips for one video are dropped and counted.

    Raises:
        ValueError: no split has enough clips, or the name of a split is invalid.
    """
    names = np.array([clip.split for clip in clips])
    fewest = settings.clips_per_video[0]
    splits = {}
    for split in dict.fromkeys(names.tolist()):
        check_split_name(split)
        members = np.flatnonzero(names == split)
        if len(members) >= fewest:
            splits[split] = members
            continue
        report.num_kept[SOURCE] -= len(members)
        for member in members:
            report.drop(SOURCE, clips[member].clip_id, "too_few_clips_in_split")
    if not splits:
        raise ValueError(f"{len(clips)} usable clips do not make one video of {fewest} clips: {report.counts()}")
    return splits


def share_videos(num_videos: int, num_clips: dict[str, int]) -> dict[str, int]:
    """Videos of each split in proportion to its clips; the rest goes to the largest remainders.

    ```python
    >>> share_videos(10, {"train": 2, "test": 1})
    {'train': 7, 'test': 3}

    ```
    """
    total = sum(num_clips.values())
    shares = {split: num_videos * count // total for split, count in num_clips.items()}
    by_remainder = sorted(num_clips, key=lambda split: -(num_videos * num_clips[split] % total))
    for split in by_remainder[: num_videos - sum(shares.values())]:
        shares[split] += 1
    return shares
