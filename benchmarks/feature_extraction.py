"""Frames per second of caching tower outputs, against decoding the same files alone, side by side in one run.

    python -m benchmarks.feature_extraction                                        # rendered clips of the sandbox
    python -m benchmarks.feature_extraction --media_dir ../shared/data/valor_clips # real clips

Tiny random towers: the figures are what reading, preparing and writing cost. A CLIP ViT-L/14 and a CLAP of full size
come on top, and run while the threads of `read_ahead` decode the next files.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from dataset_builders.features.feature_store import FeatureStore, FeatureWriter
from dataset_builders.release.provenance import git_commit
from dataset_builders.sandbox.world import make_world
from modeling_avicuna.interleaving_avicuna import num_modality_tokens
from modeling_avicuna.media_avicuna import load_audio, probe
from modeling_avicuna.video_processing_avicuna import load_video_frames
from train.extract_features import Medium, extract, list_media, read_ahead
from train.initialize import build_tiny


RESULT = Path(__file__).parent / "results" / "feature_extraction.json"


def timed(run: Callable[[], object]) -> dict[str, float]:
    """Wall and CPU seconds of one call; the CPU's are those of all threads of this process."""
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    return {"wall_seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}


def make_runs(paths: list[Path], *, num_workers: int, folders: Iterator[Path]) -> dict[str, Callable[[], object]]:
    """Three ways through the same files: decode; decode and prepare for the towers; extract, which is all of it."""
    model, processor = build_tiny(["a caption"])
    model.eval()
    with_sound, _ = num_modality_tokens(processor.num_av_tokens, processor.audio_interleaving_rate)
    media = [Medium(path) for path in paths]
    num_frames = {path: with_sound if probe(path).has_audio else processor.num_av_tokens for path in paths}

    def decode_file(path: Path):
        load_video_frames(path, num_frames=num_frames[path])
        load_audio(path)

    def decode():
        with ThreadPoolExecutor(num_workers) as pool:
            list(pool.map(decode_file, paths))

    def prepare():
        for _, result in read_ahead(media, processor=processor, num_workers=num_workers):
            if isinstance(result, ValueError):
                raise result

    def extract_all():
        with FeatureWriter(next(folders)) as writer:
            if failed := extract(model, processor, media, writer=writer, num_workers=num_workers):
                raise ValueError(f"failed: {failed}")

    return {"decode": decode, "decode_and_prepare": prepare, "extract": extract_all}


def compare(paths: list[Path], *, num_workers: int, rounds: int) -> dict:
    """Rounds turn about, so that all meet the same other load; of each way the round that took least CPU counts."""
    with tempfile.TemporaryDirectory() as folder:
        folders = (Path(folder, str(number)) for number in range(rounds + 1))
        runs = make_runs(paths, num_workers=num_workers, folders=folders)
        figures = {name: [] for name in runs}
        for _ in range(rounds + 1):
            for name, run in runs.items():
                figures[name].append(timed(run))
        store = FeatureStore(Path(folder, "0"))
        num_frames = sum(len(store.video(path.stem)) for path in paths)
        num_windows = sum(len(store.audio(path.stem)) for path in paths)
    best = {name: min(times[1:], key=lambda figure: figure["cpu_seconds"]) for name, times in figures.items()}
    speed = {
        name: {
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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--media_dir", help="folder of video files; default: clips of the sandbox, rendered first")
    parser.add_argument("--num_clips", type=int, default=8, help="clips of the sandbox")
    parser.add_argument("--num_workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    conditions = {
        "date": time.strftime("%Y-%m-%d"),
        "git_commit": git_commit(),
        "media": "the sandbox's clips" if arguments.media_dir is None else Path(arguments.media_dir).name,
        "towers": "tiny and random, on the CPU; a ViT-L/14 and a CLAP of full size cost more",
        "decoding_threads": arguments.num_workers,
        "rounds": arguments.rounds,
        "num_cores": os.cpu_count(),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "load_average_at_start": [round(value, 2) for value in os.getloadavg()],
    }
    with tempfile.TemporaryDirectory() as world:
        media_dir = arguments.media_dir
        if media_dir is None:
            make_world(Path(world), num_clips=arguments.num_clips, num_test_videos=0, seed=0)
            media_dir = Path(world, "clips")
        paths = [path for path in list_media(str(media_dir), []) if probe(path).has_video]
        conditions["files"] = len(paths)
        results = compare(paths, num_workers=arguments.num_workers, rounds=arguments.rounds)
    conditions["load_average_at_end"] = [round(value, 2) for value in os.getloadavg()]
    text = json.dumps({"conditions": conditions, "results": results}, indent=1) + "\n"
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
