"""Caches the tower outputs of media files, so that training does not decode media or run the towers.

    accelerate launch -m train.extract_features --model outputs/stage0 --media-dir clips --output features

Each process writes separate parts and a list of the media that failed, with reasons. A second run, on any number of
processes, extracts only what is missing. The features equal those computed from the files during training. With
--datasets, the parts of files that rows use (`media.start`, `media.end`) are cached as well.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import torch
from accelerate import PartialState
from transformers import PreTrainedModel, ProcessorMixin
from transformers.utils import logging

from dataset_builders.atomic_files import remove_partial_files, write_text
from dataset_builders.command_line import one_line_errors, parse_options
from dataset_builders.features.feature_store import FeatureWriter, media_key
from dataset_builders.features.towers import tower_settings
from dataset_builders.input_settings import check_range
from dataset_builders.pretrained import load_processor
from dataset_builders.schema import MEDIA_KINDS
from dataset_builders.sources.clip_files import locate_clip
from dataset_builders.sources.clip_ids import IMAGE_SUFFIXES, MEDIA_SUFFIXES
from dataset_builders.sources.media_folder import MediaFolder, list_files
from modeling_avicuna.media_avicuna import MediaError, probe
from train.arguments import read_share
from train.checkpoint import load_model
from train.data_sources import read_data_source
from train.training_rows import load_source


logger = logging.get_logger(__name__)

PROGRAM = "python -m train.extract_features"
# how long the fastest process waits for the slowest: their shares of a large collection may differ by hours
TIMEOUT = timedelta(days=7)


@dataclass
class ExtractionOptions:
    """Command line of `python -m train.extract_features`."""

    model: str = field(metadata={"help": "AVicuna checkpoint whose towers run."})
    output: str = field(metadata={"help": "Folder of the cache; an unfinished one is continued."})
    media_dir: str | None = field(default=None, metadata={"help": "Folder of media files, with sub-folders."})
    media: list[str] = field(default_factory=list, metadata={"help": "Single media files."})
    datasets: list[str] = field(
        default_factory=list,
        metadata={"help": "Rows, as in a recipe; the parts of files that they use are cached as well."},
    )
    dtype: str = field(
        default="float32", metadata={"choices": ["float32", "float16"], "help": "Data type of the cached features."}
    )
    compute_dtype: str = field(
        default="auto",
        metadata={"choices": ["auto", "float32", "bfloat16", "float16"], "help": "Data type of the towers."},
    )
    num_workers: int = field(default=2, metadata={"help": "Decoding threads of each process."})
    media_per_part: int = field(default=512, metadata={"help": "Media in one file of the cache."})
    max_missing: str = field(
        default="100%", metadata={"help": "Share of the media that may fail before this is an error."}
    )

    def __post_init__(self):
        read_share(self.max_missing)
        check_range(self, 1, "num_workers", "media_per_part")


@dataclass(frozen=True)
class Medium:
    """A media file, or the part of it from `start` to `end` seconds (None: its beginning, its end)."""

    path: Path
    start: float | None = None
    end: float | None = None

    @property
    def key(self) -> str:
        """Its id in the cache."""
        return media_key(self.path.stem, self.start, self.end)


def list_media(media_dir: str | None, files: list[str]) -> list[Path]:
    """Media files, sorted by id.

    Raises:
        ValueError: no files, no such folder or file, or two files with the same id.
    """
    if media_dir is not None and not Path(media_dir).is_dir():
        raise ValueError(f"no such media folder: {media_dir}")
    if missing := [path for path in files if not Path(path).is_file()]:
        raise ValueError(f"no such media file: {missing[0]}")
    found = [] if media_dir is None else list_files(media_dir, MEDIA_SUFFIXES)
    paths = [Path(path) for path in (*found, *files)]
    if not paths:
        raise ValueError(f"no media files to extract: media_dir={media_dir!r}, media={files}")
    by_id: dict[str, Path] = {}
    for path in paths:
        other = by_id.setdefault(path.stem, path)
        if other != path:
            raise ValueError(f"two media files have the id {path.stem!r}: {other} and {path}")
    return [by_id[media_id] for media_id in sorted(by_id)]


def list_parts(datasets: list[str], *, media_dir: str | None) -> list[Medium]:
    """The parts of files that rows use, or of which their clips are, without duplicates, sorted by id.

    Args:
        datasets: entries as in a recipe's `datasets`.
        media_dir: base folder of relative paths in the rows, and of the videos that clips are parts of.
    """
    parts, folder = set(), None if media_dir is None else MediaFolder(media_dir)
    for entry in datasets:
        table = load_source(read_data_source(entry)).data
        clip_ids = pc.unique(pc.struct_field(pc.list_flatten(table.column("segments")), "clip_id")).to_pylist()
        files = [] if folder is None else [locate_clip(folder, clip_id) for clip_id in clip_ids]
        parts |= {Medium(Path(f.path), f.start, f.end) for f in files if f is not None and f.start is not None}
        media = table.column("media")
        start, end = (pc.is_valid(pc.struct_field(media, name)) for name in ("start", "end"))
        for row in media.filter(pc.or_(start, end)).to_pylist():
            names = [row[kind] for kind in MEDIA_KINDS if row[kind] is not None]
            parts |= {Medium(Path(media_dir or ".", name), row["start"], row["end"]) for name in names}
    return sorted(parts, key=lambda part: part.key)


def read_media(
    path: Path, *, processor: ProcessorMixin, start: float | None = None, end: float | None = None
) -> tuple[dict[str, torch.Tensor], float | None]:
    """A media file, or a part of it, as the processor's tensors.

    Returns:
        The tensors, and the duration in seconds (None for a picture).

    Raises:
        MediaError: the file cannot be used; the message names it.
    """
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return processor(text="<image>", images=[str(path)]), None
    info = probe(path)
    part = {name: seconds for name, seconds in (("start", start), ("end", end)) if seconds is not None}
    duration = min(info.duration, info.duration if end is None else end) - (start or 0.0)
    if info.has_video:
        return processor(text="<video>", videos=[str(path)], **part), duration
    return processor(text="<audio>", audio=[str(path)], **part), duration


@torch.no_grad()
def encode_media(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Visual rows `(num_rows, vision_feature_size)` and audio rows `(num_windows, audio_feature_size)` of one medium;
    no rows if it has no picture or no sound."""
    video = torch.zeros(0, model.config.vision_feature_size)
    audio = torch.zeros(0, model.config.audio_feature_size)
    if "pixel_values_videos" in inputs:
        video = model.model.encode_video(inputs["pixel_values_videos"].to(model.device)).pooler_output[0]
    if "input_features" in inputs:
        audio = model.model.encode_audio(inputs["input_features"].to(model.device)).pooler_output[0]
    return video.float().cpu().numpy(), audio.float().cpu().numpy()


def encode_silence(model: PreTrainedModel, processor: ProcessorMixin) -> np.ndarray:
    """The audio tower's output for one window of silence, `(audio_feature_size,)`."""
    extractor = processor.feature_extractor
    num_samples = round(extractor.window_seconds * extractor.sampling_rate)
    windows = extractor.extract_windows(np.zeros(num_samples, np.float32))
    return encode_media(model, {"input_features": windows[None]})[1][0]


def encode_darkness(model: PreTrainedModel, processor: ProcessorMixin) -> np.ndarray:
    """The vision tower's output for a black frame, `(vision_feature_size,)`."""
    frame = np.zeros((32, 32, 3), np.uint8)  # of any size: the processor resizes it
    return encode_media(model, processor(text="<image>", images=[frame]))[0][0]


def read_ahead(
    media: list[Medium], *, processor: ProcessorMixin, num_workers: int
) -> Iterator[tuple[Medium, tuple[dict[str, torch.Tensor], float | None] | MediaError]]:
    """Decodes media in threads ahead of the towers; yields each with the result or the error of `read_media`."""

    def attempt(medium: Medium):
        try:
            return medium, read_media(medium.path, processor=processor, start=medium.start, end=medium.end)
        except MediaError as error:
            return medium, error

    with ThreadPoolExecutor(num_workers) as pool:
        rest = iter(media)
        pending = [pool.submit(attempt, medium) for medium in islice(rest, 2 * num_workers)]  # bounds the memory
        while pending:
            result = pending.pop(0).result()
            pending += [pool.submit(attempt, medium) for medium in islice(rest, 1)]
            yield result


def extract(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    media: list[Medium],
    *,
    writer: FeatureWriter,
    num_workers: int = 2,
) -> list[dict]:
    """Caches the media that are missing; returns those that failed: `[{"media_id", "path", "reason"}]`."""
    failed = []
    media = [medium for medium in media if medium.key not in writer]
    for number, (medium, result) in enumerate(read_ahead(media, processor=processor, num_workers=num_workers), 1):
        if isinstance(result, MediaError):
            failed.append({"media_id": medium.key, "path": str(medium.path), "reason": str(result)})
            continue
        inputs, duration = result
        video, audio = encode_media(model, inputs)
        writer.add(medium.key, video=video, audio=audio, duration=duration)
        if number % 100 == 0:
            logger.warning("%d of %d media", number, len(media))
    return failed


def failures_path(folder: str, rank: int) -> Path:
    """The list of media that failed on one process."""
    return Path(folder) / f"failed-{rank:04d}.jsonl"


def read_failures(folder: str) -> list[dict]:
    """The media that failed on all processes."""
    paths = sorted(Path(folder).glob("failed-*.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]


def main(arguments: list[str] | None = None):
    options = parse_options(ExtractionOptions, arguments, program=PROGRAM, description=__doc__.splitlines()[0])
    # without cpu=True the processes of a machine without accelerator do not see each other: each would do everything
    state = PartialState(cpu=not torch.accelerator.is_available(), timeout=TIMEOUT)
    files = [Medium(path) for path in list_media(options.media_dir, options.media)]
    media = [*files, *list_parts(options.datasets, media_dir=options.media_dir)]
    keys = {medium.key for medium in media}
    earlier = [entry for entry in read_failures(options.output) if entry["media_id"] not in keys]
    state.wait_for_everyone()  # all processes have read the earlier lists before one of them writes
    processor = load_processor(options.model)
    model = load_model(options.model, dtype=options.compute_dtype).eval()
    model.model.language_model = None  # not used here, and large
    model.to(state.device)
    settings = {
        **tower_settings(model),
        **processor.feature_settings,
        "num_av_tokens": processor.num_av_tokens,
        "audio_interleaving_rate": processor.audio_interleaving_rate,
    }
    with state.main_process_first():  # it writes the settings, and the others compare theirs
        writer = FeatureWriter(
            options.output,
            rank=state.process_index,
            media_per_part=options.media_per_part,
            dtype=options.dtype,
            settings=settings,
        )
    with writer:
        if state.is_main_process and model.model.audio_tower is not None:
            writer.write_silence(encode_silence(model, processor))
        if state.is_main_process and model.model.vision_tower is not None:
            writer.write_darkness(encode_darkness(model, processor))
        share = media[state.process_index :: state.num_processes]
        failed = extract(model, processor, share, writer=writer, num_workers=options.num_workers)
    kept = [entry for entry in earlier if entry["media_id"] not in writer] if state.is_main_process else []
    lines = "".join(json.dumps(entry) + "\n" for entry in (*kept, *failed))
    write_text(failures_path(options.output, state.process_index), lines)
    print(f"process {state.process_index}: {len(share) - len(failed)} media in {options.output}, {len(failed)} failed")
    state.wait_for_everyone()
    if state.is_main_process:
        remove_partial_files(options.output)
        current = {failures_path(options.output, rank) for rank in range(state.num_processes)}
        for path in set(Path(options.output).glob("failed-*.jsonl")) - current:  # of an earlier run on more processes
            path.unlink()
        failed = [entry for entry in read_failures(options.output) if entry["media_id"] in keys]
        # a run of which nothing is left is an error with every share
        if failed and len(failed) > min(read_share(options.max_missing) * len(media), len(media) - 1):
            raise ValueError(
                f"{len(failed)} of {len(media)} media failed, see {options.output}/failed-*.jsonl; the first: "
                f"{failed[0]}"
            )


if __name__ == "__main__":
    with one_line_errors(PROGRAM):
        main()
