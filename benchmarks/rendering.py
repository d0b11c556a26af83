"""Time rendering against the bare encoder on the same frames and samples, and two processes against one:

python benchmarks/rendering.py --clips-dir ../shared/data/valor_clips --output benchmarks/results/rendering.json

Figures are CPU seconds of the process (decoding, fitting, stretching and encoding all run in it, on one thread) beside
wall seconds, which other work on the machine disturbs; the load of the machine is written down with them.
"""

import argparse
import json
import multiprocessing
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av

from dataset_builders.media_writer import MediaWriter
from dataset_builders.pseudo_untrimmed import rendering
from dataset_builders.pseudo_untrimmed.planning import Segment
from dataset_builders.pseudo_untrimmed.rendering import render_video
from modeling_avicuna.media_avicuna import decode_audio, decode_video, probe


SCALES = (0.6, 1.9, 1.0)  # the range's ends and its middle, over the clips in turn
PRESETS = ("veryfast", "medium")  # the default of `render_video`, and x264's own
FORMAT = {"width": 480, "height": 360, "fps": 25}
SNR_DB = 25.0
NUM_JOBS = 4  # videos of the scaling test


def measure(*runs: Callable[[], object], repeats: int) -> list[dict[str, float]]:
    """CPU and wall seconds of each function, run turn about so that all meet the same other load.

    Of the repeats the one that took the least CPU counts: the one that was disturbed least.
    """
    figures: list[list[tuple[float, float]]] = [[] for _ in runs]
    for _ in range(repeats):
        for run, times in zip(runs, figures):
            cpu, wall = time.process_time(), time.perf_counter()
            run()
            times.append((time.process_time() - cpu, time.perf_counter() - wall))
    return [{"cpu_seconds": round(min(times)[0], 3), "wall_seconds": round(min(times)[1], 3)} for times in figures]


def plan(clip_paths: dict[str, Path]) -> list[Segment]:
    segments, start = [], 0.0
    for index, (clip_id, path) in enumerate(clip_paths.items()):
        scale = SCALES[index % len(SCALES)]
        length = min(10.0, probe(path).duration) * scale
        segments.append(Segment(clip_id, start, start + length, scale, ""))
        start += length
    return segments


def compare_with_encoder(
    segments: list[Segment], clip_paths: dict[str, Path], folder: Path, preset: str, repeats: int
):
    """One video rendered, and its finished frames and samples given to the same encoder from memory."""
    output = folder / "video.mp4"
    rendered = render_video(
        segments, clip_paths, output, background_noise_snr_db=SNR_DB, preset=preset, crf=10, **FORMAT
    )
    frames = [timed.frame for timed in decode_video(output)]
    samples = decode_audio(output, sampling_rate=48_000)

    def encode() -> None:
        with MediaWriter(folder / "bare.mp4", sampling_rate=48_000, preset=preset, **FORMAT) as writer:
            for frame in frames:
                writer.write_frame(frame)
            writer.write_audio(samples)

    def decode() -> None:
        for segment in segments:
            for _ in decode_video(clip_paths[segment.clip_id]):
                pass

    def compose_frames() -> None:
        for _ in rendering._compose_frames(
            segments, clip_paths, rendered.num_frames, FORMAT["fps"], FORMAT["width"], FORMAT["height"]
        ):
            pass

    def render() -> None:
        render_video(segments, clip_paths, output, background_noise_snr_db=SNR_DB, preset=preset, **FORMAT)

    full, bare, decoding, composing = measure(render, encode, decode, compose_frames, repeats=repeats)
    return {
        "render": full,
        "bare_encoder": bare,
        "ratio_cpu": round(full["cpu_seconds"] / bare["cpu_seconds"], 2),
        "parts": {"decode_clips": decoding, "decode_and_fit": composing},
        "video_seconds": rendered.duration,
        "bytes": output.stat().st_size,
    }


def _render_job(job: tuple) -> float:
    segments, clip_paths, output = job
    cpu = time.process_time()
    render_video(segments, clip_paths, output, background_noise_snr_db=SNR_DB, **FORMAT)
    return time.process_time() - cpu


def measure_scaling(segments: list[Segment], clip_paths: dict[str, Path], folder: Path) -> dict:
    """The same videos by one process and by two, turn about, so that both meet the same other load."""
    jobs = [(segments, clip_paths, folder / f"job{index}.mp4") for index in range(NUM_JOBS)]
    wall, cpu = {1: [], 2: []}, {1: [], 2: []}
    with multiprocessing.Pool(1) as one, multiprocessing.Pool(2) as two:
        for _ in range(2):
            for num_processes, pool in ((1, one), (2, two)):
                begin = time.perf_counter()
                cpu[num_processes].append(sum(pool.imap_unordered(_render_job, jobs)))
                wall[num_processes].append(time.perf_counter() - begin)
    return {
        "num_videos": NUM_JOBS,
        "one_process": {"cpu_seconds": round(min(cpu[1]), 3), "wall_seconds": round(min(wall[1]), 3)},
        "two_processes": {"cpu_seconds": round(min(cpu[2]), 3), "wall_seconds": round(min(wall[2]), 3)},
        "speed_up_wall": round(min(wall[1]) / min(wall[2]), 2),
        # what two free cores would give: the work may grow by sharing caches and memory, and that is all it may lose
        "speed_up_cpu_bound": round(2 * min(cpu[1]) / min(cpu[2]), 2),
    }


def describe_conditions(clip_paths: dict[str, Path]) -> dict:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "date": time.strftime("%Y-%m-%d"),
        "git_commit": commit.stdout.strip(),
        "num_cores": os.cpu_count(),
        "load_average_at_start": [round(value, 2) for value in os.getloadavg()],
        "python": platform.python_version(),
        "av": av.__version__,
        "clips": {
            clip_id: f"{info.width}x{info.height} at {info.fps:.2f}, {info.duration:.2f} s"
            for clip_id, info in ((clip_id, probe(path)) for clip_id, path in clip_paths.items())
        },
        "scales": SCALES,
        "format": FORMAT | {"background_noise_snr_db": SNR_DB},
        "threads": "one per process, encoder and decoders included",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips-dir", type=Path, required=True, help="folder of mp4 clips, all of which are used")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "rendering.json")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    clip_paths = {path.stem: path for path in sorted(arguments.clips_dir.glob("*.mp4"))}
    results = {"conditions": describe_conditions(clip_paths)}
    segments = plan(clip_paths)
    with tempfile.TemporaryDirectory() as folder:
        for preset in PRESETS:
            results[f"preset_{preset}"] = compare_with_encoder(
                segments, clip_paths, Path(folder), preset, arguments.repeats
            )
        results["scaling"] = measure_scaling(segments, clip_paths, Path(folder))
    default, usual = results["preset_veryfast"], results["preset_medium"]
    results["ratio_cpu_of_default_rendering_to_bare_encoder_at_its_default_preset"] = round(
        default["render"]["cpu_seconds"] / usual["bare_encoder"]["cpu_seconds"], 2
    )
    results["conditions"]["load_average_at_end"] = [round(value, 2) for value in os.getloadavg()]
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
