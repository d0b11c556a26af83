"""Times rendering against the encoder alone on the same frames and samples, and two processes against one:

    python -m benchmarks.rendering --clips-dir ../shared/data/valor_clips

Figures are CPU seconds of the process (decoding, fitting, stretching and encoding run in it, on one thread) and wall
seconds, which depend on other work on the machine; its load is recorded with them.
"""

import multiprocessing
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.conditions import RESULTS, describe_conditions, write_results
from dataset_builders.command_line import one_line_errors, parse_options
from dataset_builders.input_settings import check_range
from dataset_builders.media_writer import MediaWriter
from dataset_builders.pseudo_untrimmed import rendering
from dataset_builders.pseudo_untrimmed.planning import Segment
from dataset_builders.pseudo_untrimmed.rendering import render_video
from dataset_builders.pseudo_untrimmed.time_line import read_spans
from dataset_builders.sources.clip_files import ClipFile
from modeling_avicuna.media_avicuna import decode_audio, decode_video, probe


SCALES = (0.6, 1.9, 1.0)  # the range's ends and its middle, over the clips in turn
PRESETS = ("veryfast", "medium")  # the default of `render_video`, and x264's own
FORMAT = {"width": 480, "height": 360, "fps": 25}
SNR_DB = 25.0
NUM_JOBS = 4  # videos of the scaling test


def measure(*runs: Callable[[], object], repeats: int) -> list[dict[str, float]]:
    """
    CPU and wall seconds of each function. They run in turn, so that other work on the machine affects all of them; of
    the repeats the one with the least CPU seconds counts.
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
) -> dict:
    """One video rendered, and its finished frames and samples given to the same encoder from memory."""
    output = folder / "video.mp4"
    files = {clip_id: ClipFile(path) for clip_id, path in clip_paths.items()}
    spans = read_spans([vars(segment) for segment in segments])
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
        size = (FORMAT["width"], FORMAT["height"])
        for _ in rendering._compose_frames(segments, spans, files, rendered.num_frames, FORMAT["fps"], *size):
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
    """The same videos by one process and by two, in turn, so that other work on the machine affects both."""
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
        # the speed-up on two free cores, where the CPU seconds grow only because caches and memory are shared
        "speed_up_cpu_bound": round(2 * min(cpu[1]) / min(cpu[2]), 2),
    }


@dataclass
class Options:
    """Options of the command."""

    clips_dir: Path = field(metadata={"help": "folder of mp4 clips, all of which are used"})
    output: Path = field(default=RESULTS / "rendering.json", metadata={"help": "JSON file to write"})
    repeats: int = field(default=3, metadata={"help": "measurements of each part; the one with least CPU time counts"})

    def __post_init__(self):
        check_range(self, 1, "repeats")


def main(arguments: list[str] | None = None) -> None:
    options = parse_options(
        Options, arguments, program="python -m benchmarks.rendering", description=__doc__.splitlines()[0]
    )
    clip_paths = {path.stem: path for path in sorted(options.clips_dir.glob("*.mp4"))}
    if not clip_paths:
        raise ValueError(f"no mp4 clips in {options.clips_dir}")
    infos = {clip_id: probe(path) for clip_id, path in clip_paths.items()}
    if without := [str(clip_paths[clip_id]) for clip_id, info in infos.items() if info.fps is None]:
        raise ValueError(f"{without[0]} has no video stream")
    conditions = describe_conditions(
        ["av"],
        clips={name: f"{i.width}x{i.height} at {i.fps:.2f}, {i.duration:.2f} s" for name, i in infos.items()},
        scales=SCALES,
        format=FORMAT | {"background_noise_snr_db": SNR_DB},
        threads="one per process, encoder and decoders included",
    )
    results: dict[str, Any] = {}
    segments = plan(clip_paths)
    with tempfile.TemporaryDirectory() as folder:
        for preset in PRESETS:
            results[f"preset_{preset}"] = compare_with_encoder(
                segments, clip_paths, Path(folder), preset, options.repeats
            )
        results["scaling"] = measure_scaling(segments, clip_paths, Path(folder))
    default, usual = results["preset_veryfast"], results["preset_medium"]
    results["ratio_cpu_of_default_rendering_to_bare_encoder_at_its_default_preset"] = round(
        default["render"]["cpu_seconds"] / usual["bare_encoder"]["cpu_seconds"], 2
    )
    write_results(options.output, conditions=conditions, results=results)


if __name__ == "__main__":
    with one_line_errors("python -m benchmarks.rendering"):
        main()
