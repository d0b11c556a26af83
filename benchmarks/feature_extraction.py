"""Frames per second of caching tower outputs, against decoding the same files alone, side by side in one run.

    python -m benchmarks.feature_extraction                         # rendered clips of the sandbox
    python -m benchmarks.feature_extraction --media-dir FOLDER      # other clips
    python -m benchmarks.feature_extraction --size 7b --device cuda --num-workers 16 --output FILE    # on a GPU

By default tiny random towers on the CPU: the figures are what reading, preparing and writing cost. With `--size 7b`
the towers are those of the published checkpoint (CLIP ViT-L/14, CLAP HTSAT fused) with random weights. They run while
the threads of `read_ahead` decode the next files.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.conditions import RESULTS, describe_conditions, write_results
from benchmarks.full_size import SIZES, build_full_size, device_conditions
from dataset_builders.command_line import one_line_errors, parse_options
from dataset_builders.features.feature_store import FeatureStore, FeatureWriter
from dataset_builders.input_settings import check_range
from dataset_builders.sandbox.world import make_world
from modeling_avicuna.interleaving_avicuna import num_modality_tokens
from modeling_avicuna.media_avicuna import load_audio, probe
from modeling_avicuna.video_processing_avicuna import load_video_frames
from train.extract_features import Medium, extract, list_media, read_ahead


PROGRAM = "python -m benchmarks.feature_extraction"


@dataclass
class ExtractionOptions:
    """Options of `python -m benchmarks.feature_extraction`."""

    media_dir: Path | None = field(
        default=None, metadata={"help": "Folder of video files. Default: clips of the sandbox, rendered first."}
    )
    size: str = field(default="tiny", metadata={"choices": sorted(SIZES), "help": "7b: towers of full size."})
    device: str = field(default="cpu", metadata={"choices": ["cuda", "cpu"], "help": "Where the towers run."})
    num_clips: int = field(default=8, metadata={"help": "Clips of the sandbox."})
    num_workers: int = field(default=2, metadata={"help": "Decoding threads."})
    rounds: int = field(default=3, metadata={"help": "Measurements of each way; the one with least CPU time counts."})
    output: Path = field(default=RESULTS / "feature_extraction.json", metadata={"help": "File for the figures."})

    def __post_init__(self):
        check_range(self, 1, "num_clips", "num_workers", "rounds")


def timed(run: Callable[[], object]) -> dict[str, float]:
    """Wall and CPU seconds of one call; the CPU's are those of all threads of this process."""
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    return {"wall_seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}


def make_runs(
    paths: list[Path], options: ExtractionOptions, *, folders: Iterator[Path]
) -> dict[str, Callable[[], object]]:
    """Three ways to process the same files: decode; decode and prepare for the towers; extract, which has both."""
    num_workers = options.num_workers
    dtype = torch.float32 if options.device == "cpu" else torch.bfloat16
    model, processor = build_full_size(options.size, device=options.device, dtype=dtype, language_model=False)
    with_sound, _ = num_modality_tokens(processor.num_av_tokens, processor.audio_interleaving_rate)
    media = [Medium(path) for path in paths]
    num_frames = {path: with_sound if probe(path).has_audio else processor.num_av_tokens for path in paths}

    def decode_file(path: Path) -> None:
        load_video_frames(path, num_frames=num_frames[path])
        load_audio(path)

    def decode() -> None:
        with ThreadPoolExecutor(num_workers) as pool:
            list(pool.map(decode_file, paths))

    def prepare() -> None:
        for _, result in read_ahead(media, processor=processor, num_workers=num_workers):
            if isinstance(result, ValueError):
                raise result

    def extract_all() -> None:
        with FeatureWriter(next(folders)) as writer:
            if failed := extract(model, processor, media, writer=writer, num_workers=num_workers):
                raise ValueError(f"failed: {failed}")

    return {"decode": decode, "decode_and_prepare": prepare, "extract": extract_all}


def compare(paths: list[Path], options: ExtractionOptions) -> dict:
    """The ways are measured in turn, so that other load affects all of them; the round with least CPU time counts."""
    with tempfile.TemporaryDirectory() as folder:
        folders = (Path(folder, str(number)) for number in range(options.rounds + 1))
        runs = make_runs(paths, options, folders=folders)
        figures: dict[str, list] = {name: [] for name in runs}
        for _ in range(options.rounds + 1):
            for name, run in runs.items():
                figures[name].append(timed(run))
        store = FeatureStore(Path(folder, "0"))
        num_frames = sum(len(store.video(path.stem)) for path in paths)
        num_windows = sum(len(store.audio(path.stem)) for path in paths)
    best = {name: min(times[1:], key=lambda figure: figure["cpu_seconds"]) for name, times in figures.items()}
    speed = {
        name: {
            "files_per_second": round(len(paths) / figure["wall_seconds"], 2),
            "frames_per_second": round(num_frames / figure["wall_seconds"], 1),
            "frames_per_cpu_second": round(num_frames / figure["cpu_seconds"], 1),
            **{unit: round(value, 3) for unit, value in figure.items()},
        }
        for name, figure in best.items()
    }
    return {
        "num_frames": num_frames,
        "num_audio_windows": num_windows,
        "ratio_of_extraction_to_decoding": {
            unit: round(speed["extract"][unit] / speed["decode"][unit], 3)
            for unit in ("frames_per_second", "frames_per_cpu_second")
        },
        **speed,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_options(ExtractionOptions, arguments, program=PROGRAM, description=__doc__.splitlines()[0])
    conditions = describe_conditions(
        ["torch"],
        **device_conditions(options.device),
        media="the sandbox's clips" if options.media_dir is None else options.media_dir.name,
        towers=f"{options.size}, random",
        decoding_threads=options.num_workers,
        rounds=options.rounds,
        torch_threads=torch.get_num_threads(),
    )
    with tempfile.TemporaryDirectory() as world:
        media_dir = options.media_dir
        if media_dir is None:
            make_world(Path(world), num_clips=options.num_clips, num_test_videos=0, seed=0)
            media_dir = Path(world, "clips")
        paths = [path for path in list_media(str(media_dir), []) if probe(path).has_video]
        conditions["files"] = len(paths)
        results = compare(paths, options)
    write_results(options.output, conditions=conditions, results=results)


if __name__ == "__main__":
    with one_line_errors(PROGRAM):
        main()
