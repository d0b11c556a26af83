"""Caches what the two towers say about media files, so that training need not decode or encode anything.

    accelerate launch -m train.extract_features --model outputs/stage0 --media_dir clips --output features

Each process takes its share of the files and writes parts of its own, and a list of what failed and why; run again,
on any number of processes, it does what is missing. Rows are those that the processor would make for training from the
file itself. It caches no adapter output: adapters train.
"""

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from transformers import HfArgumentParser, PreTrainedModel, ProcessorMixin
from transformers.utils import logging

from dataset_builders.features.feature_store import FeatureWriter, replace_file
from dataset_builders.sources.media_folder import MEDIA_SUFFIXES
from modeling_avicuna.media_avicuna import MediaError, probe
from train.checkpoint import load_model, load_processor
from train.media_rows import IMAGE_SUFFIXES


logger = logging.get_logger(__name__)

# The fastest process may wait so long for the slowest: shares of a large collection differ by hours, not by days.
PATIENCE = timedelta(days=7)


@dataclass
class ExtractionArguments:
    """Command line of `python -m train.extract_features`."""

    model: str = field(metadata={"help": "AVicuna checkpoint whose towers run."})
    output: str = field(metadata={"help": "Folder of the cache; an unfinished one is continued."})
    media_dir: str | None = field(default=None, metadata={"help": "Every media file below this folder is taken."})
    media: list[str] = field(default_factory=list, metadata={"help": "Single media files."})
    dtype: str = field(default="float32", metadata={"help": "float32 or float16 on disk."})
    compute_dtype: str = field(default="auto", metadata={"help": "Data type that the towers compute in."})
    num_workers: int = field(default=2, metadata={"help": "Decoding threads of each process."})
    media_per_part: int = field(default=512, metadata={"help": "Media in one file of the cache."})
    max_missing: float = field(default=1.0, metadata={"help": "Share of files that may fail before this is an error."})


def list_media(media_dir: str | None, files: list[str]) -> list[Path]:
    """Media files, sorted by id.

    Raises:
        ValueError: no files, no such folder, or two files of one id: the cache could not tell them apart.
    """
    if media_dir is not None and not Path(media_dir).is_dir():
        raise ValueError(f"no such media folder: {media_dir}")
    found = (
        []
        if media_dir is None
        else sorted(p for p in Path(media_dir).rglob("*") if p.suffix.lower() in MEDIA_SUFFIXES)
    )
    paths = [*found, *map(Path, files)]
    if not paths:
        raise ValueError(f"no media files to extract: media_dir={media_dir!r}, media={files}")
    by_id = {}
    for path in paths:
        other = by_id.setdefault(path.stem, path)
        if other != path:
            raise ValueError(f"two media files have the id {path.stem!r}: {other} and {path}")
    return [by_id[media_id] for media_id in sorted(by_id)]


def read_media(path: Path, *, processor: ProcessorMixin) -> tuple[dict[str, torch.Tensor], float | None]:
    """A media file as the processor's tensors, and its duration in seconds (None for a picture).

    Raises:
        MediaError: the file cannot be used; the message names it.
    """
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return processor(text="<image>", images=[str(path)]), None
    info = probe(path)
    if info.has_video:
        return processor(text="<video>", videos=[str(path)]), info.duration
    return processor(text="<audio>", audio=[str(path)]), info.duration


@torch.no_grad()
def encode_media(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Tower outputs of one medium: visual rows `(num_rows, vision_feature_size)`, audio rows `(num_windows,
    audio_feature_size)`; no rows where the medium has no picture or no sound."""
    video = torch.zeros(0, model.config.vision_feature_size)
    audio = torch.zeros(0, model.config.audio_feature_size)
    if "pixel_values_videos" in inputs:
        video = model.model.encode_video(inputs["pixel_values_videos"].to(model.device)).pooler_output[0]
    if "input_features" in inputs:
        audio = model.model.encode_audio(inputs["input_features"].to(model.device)).pooler_output[0]
    return video.float().cpu().numpy(), audio.float().cpu().numpy()


def encode_silence(model: PreTrainedModel, processor: ProcessorMixin) -> np.ndarray:
    """What the audio tower answers to ten seconds of silence, `(audio_feature_size,)`."""
    extractor = processor.feature_extractor
    num_samples = round(extractor.window_seconds * extractor.sampling_rate)
    windows = extractor.extract_windows(np.zeros(num_samples, np.float32))
    return encode_media(model, {"input_features": windows[None]})[1][0]


def tower_fingerprint(model: PreTrainedModel) -> str:
    """A hash of the towers' weights: features of other towers must not land in the same cache."""
    digest = hashlib.sha256()
    for tower in (model.model.vision_tower, model.model.audio_tower):
        for name, tensor in [] if tower is None else sorted(tower.state_dict().items()):
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            digest.update(tensor.flatten()[:64].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def read_ahead(paths: list[Path], *, processor: ProcessorMixin, num_workers: int) -> Iterator[tuple[Path, object]]:
    """Decodes in threads while the towers run: (path, `read_media`'s result or the error it raised), in order."""

    def attempt(path: Path):
        try:
            return path, read_media(path, processor=processor)
        except MediaError as error:
            return path, error

    with ThreadPoolExecutor(num_workers) as pool:
        pending, rest = [], iter(paths)
        for path in islice(rest, 2 * num_workers):  # so many decoded media are held in memory at most
            pending.append(pool.submit(attempt, path))
        while pending:
            result = pending.pop(0).result()
            pending += [pool.submit(attempt, path) for path in islice(rest, 1)]
            yield result


def extract(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    paths: list[Path],
    *,
    writer: FeatureWriter,
    num_workers: int = 2,
) -> list[dict]:
    """Adds what is not yet in the cache to it; returns what failed: `[{"media_id", "path", "reason"}]`."""
    failed = []
    paths = [path for path in paths if path.stem not in writer]
    for number, (path, result) in enumerate(read_ahead(paths, processor=processor, num_workers=num_workers), 1):
        if isinstance(result, ValueError):
            failed.append({"media_id": path.stem, "path": str(path), "reason": str(result)})
            continue
        inputs, duration = result
        video, audio = encode_media(model, inputs)
        writer.add(path.stem, video=video, audio=audio, duration=duration)
        if number % 100 == 0:
            logger.warning("%d of %d media", number, len(paths))
    return failed


def write_failures(folder: str, failed: list[dict], *, rank: int):
    """Writes one process's list, `failed-<rank>.jsonl`, empty where nothing failed."""
    lines = "".join(json.dumps(entry) + "\n" for entry in failed)
    replace_file(failures_path(folder, rank), lambda path: Path(path).write_text(lines, encoding="utf-8"))


def read_failures(folder: str, *, num_processes: int) -> list[dict]:
    """What failed in this run, on all processes; removes the lists of an earlier run with more of them."""
    ours = [failures_path(folder, rank) for rank in range(num_processes)]
    for path in set(Path(folder).glob("failed-*.jsonl")) - set(ours):
        path.unlink()
    return [json.loads(line) for path in ours for line in path.read_text(encoding="utf-8").splitlines()]


def failures_path(folder: str, rank: int) -> Path:
    return Path(folder) / f"failed-{rank:04d}.jsonl"


def main(arguments: list[str] | None = None):
    (args,) = HfArgumentParser(ExtractionArguments).parse_args_into_dataclasses(arguments)
    # without cpu=True the processes of a machine without accelerator do not see each other: each would do everything
    state = PartialState(cpu=not torch.accelerator.is_available(), timeout=PATIENCE)
    paths = list_media(args.media_dir, args.media)
    processor = load_processor(args.model)
    model = load_model(args.model, dtype=args.compute_dtype).eval()
    model.model.language_model = None  # towers alone: a 7B language model would only take memory
    model.to(state.device)
    settings = {
        "towers": tower_fingerprint(model),
        "num_av_tokens": processor.num_av_tokens,
        "audio_interleaving_rate": processor.audio_interleaving_rate,
        **processor.feature_settings,
    }
    with FeatureWriter(
        args.output,
        rank=state.process_index,
        media_per_part=args.media_per_part,
        dtype=args.dtype,
        settings=settings,
    ) as writer:
        if state.is_main_process and model.model.audio_tower is not None:
            writer.write_silence(encode_silence(model, processor))
        share = paths[state.process_index :: state.num_processes]
        failed = extract(model, processor, share, writer=writer, num_workers=args.num_workers)
    write_failures(args.output, failed, rank=state.process_index)
    print(f"process {state.process_index}: {len(share) - len(failed)} media in {args.output}, {len(failed)} failed")
    state.wait_for_everyone()
    if state.is_main_process:
        failed = read_failures(args.output, num_processes=state.num_processes)
        if len(failed) > args.max_missing * len(paths):
            raise ValueError(
                f"{len(failed)} of {len(paths)} media failed, see {args.output}/failed-*.jsonl; the first: {failed[0]}"
            )


if __name__ == "__main__":
    main()
