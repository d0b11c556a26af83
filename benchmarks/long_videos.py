"""Long videos in windows: accuracy against short videos, cost, memory, and how often a file is decoded.

    python -m benchmarks.long_videos
    python -m benchmarks.long_videos --parts reading memory

Accuracy: 60 sandbox videos of a minute with sparse events, and one video of an hour that shows the same events at the
same distances, asked about every class in windows of a minute that begin every 45 s. Memory: the peak of a process
that locates one class in 1, 10 and 60 minutes. Reading: CPU seconds to read an hour of 640 x 360 pixels as windows,
against decoding every frame and every sample once. Question: one question about a minute and about an hour of 640 x
360 pixels as a whole, beside a bare PyAV loop that seeks 100 frames and decodes no sound. HTTP: the same videos, and
the hour of 640 x 360 pixels, located by `examples/ask_server.py --window` with a random tiny Llama that vLLM serves
(`make serve-env`).
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import torch

from benchmarks.conditions import RESULTS, describe_conditions, write_results
from benchmarks.serving import serve, write_tiny_llama
from dataset_builders.atomic_files import write_json
from dataset_builders.command_line import one_line_errors, parse_options
from dataset_builders.input_settings import check_range
from dataset_builders.media_writer import MediaWriter
from dataset_builders.release.provenance import model_hash
from dataset_builders.sandbox import make_world
from dataset_builders.sandbox.classes import EVENT_CLASSES
from dataset_builders.sandbox.world import SAMPLING_RATE, TimeLine, annotate, draw_frames, mix_samples, open_video
from dataset_builders.sandbox.world import plan_untrimmed_video as plan_video
from eval.run import main as evaluate
from examples.ask_server import ClientOptions
from examples.ask_server import locate as ask_server
from modeling_avicuna.media_avicuna import probe
from modeling_avicuna.media_slots_avicuna import OWN_SOUND, MediaSlot
from modeling_avicuna.prompt_avicuna import GROUNDING_PROMPT
from modeling_avicuna.slot_encoding_avicuna import SlotEncoder
from modeling_avicuna.window_reading_avicuna import encode_windows
from modeling_avicuna.windows_avicuna import plan_windows
from train.initialize import build_tiny


PROGRAM = "python -m benchmarks.long_videos"
PARTS = ("accuracy", "memory", "reading", "question", "http")
SPARSE = TimeLine(event_seconds=(4.0, 12.0), video_seconds=(60, 60), gap_seconds=(10.0, 50.0))
QUERY = "dog barking"
REPEATED = 60.2  # s from one copy of the minute to the next: the codecs' first packets begin before 0


@dataclass
class LongVideoOptions:
    """Options of `python -m benchmarks.long_videos`."""

    model: str = field(
        default="examples/sandbox_checkpoint", metadata={"help": "A checkpoint that knows the sandbox."}
    )
    parts: list[str] = field(default_factory=lambda: list(PARTS), metadata={"help": f"Some of {', '.join(PARTS)}."})
    minutes: int = field(default=60, metadata={"help": "Length of the long video, and number of the short ones."})
    window: float = field(default=60.0, metadata={"help": "Seconds of a window."})
    seed: int = field(default=300, metadata={"help": "Of the sandbox."})
    output: Path = field(default=RESULTS / "long_videos.json", metadata={"help": "File for the figures."})
    worker: Path | None = field(default=None, metadata={"help": "Used by the benchmark: measures the peak memory."})

    def __post_init__(self):
        check_range(self, 1, "minutes")
        if unknown := sorted(set(self.parts) - set(PARTS)):
            raise ValueError(f"unknown parts {unknown}: some of {PARTS}")


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_options(LongVideoOptions, arguments, program=PROGRAM, description=__doc__.splitlines()[0])
    torch.set_num_threads(1)
    if options.worker is not None:
        print(json.dumps(locate_once(options.worker, options)))
        return
    measure = {
        "accuracy": measure_accuracy,
        "memory": measure_memory,
        "reading": measure_reading,
        "question": measure_question,
        "http": measure_http,
    }
    results = {}
    conditions = describe_conditions(
        ["torch", "transformers", "av"],
        **{**asdict(options), "device": "cpu, 1 thread", "model_hash": model_hash(options.model)},
    )
    with tempfile.TemporaryDirectory() as folder:
        for part in options.parts:
            results[part] = measure[part](Path(folder), options)
    write_results(options.output, conditions=conditions, results=results)


def measure_accuracy(folder: Path, options: LongVideoOptions) -> dict[str, Any]:
    """mAP by presence of the long video in windows, and of as many videos of a minute as it has minutes."""
    make_world(folder / "short", num_clips=0, num_test_videos=options.minutes, seed=options.seed, time_line=SPARSE)
    write_long_video(folder / "long", minutes=options.minutes, seed=options.seed)
    runs = {"minutes": ("short", []), "hour_in_windows": ("long", ["--window", str(options.window)])}
    results = {}
    for name, (world, more) in runs.items():
        began = time.process_time()
        evaluate(
            f"--task sandbox_query --model {options.model} --annotations {folder}/{world}/annotations.json "
            f"--media-dir {folder}/{world}/test --output {folder}/{name} --batch-size 28 --max-new-tokens 40 "
            "--score presence --timelines 0".split()
            + more
        )
        result = json.loads((folder / name / "results.json").read_text())
        results[name] = {
            "cpu_seconds": round(time.process_time() - began, 1),
            "num_annotated": sum(
                len(video["annotations"])
                for video in json.loads((folder / world / "annotations.json").read_text())["database"].values()
            ),
            "metrics": result["metrics"],
            "counts": result["counts"],
        }
    return results


def write_long_video(folder: Path, *, minutes: int, seed: int) -> Path:
    """The events of the first sandbox videos of a minute, one after the other in one video, with its annotations."""
    takes, duration = [], 60.0 * minutes
    for minute in range(minutes):
        _, _, own = plan_video(minute, seed=seed, num_classes=len(EVENT_CLASSES), time_line=SPARSE)
        takes += [replace(take, start=60 * minute + take.start, end=60 * minute + take.end) for take in own]
    path = folder / "test" / "long.mp4"
    path.parent.mkdir(parents=True)
    samples = mix_samples(takes, duration, rng=np.random.default_rng((seed, 1)))
    with open_video(path) as writer:
        for minute in range(minutes):
            begin = 60.0 * minute
            shown = [take for take in takes if take.end > begin and take.start < begin + 60]
            shown = [replace(take, start=take.start - begin, end=take.end - begin) for take in shown]
            for frame in draw_frames(shown, 60.0, rng=np.random.default_rng((seed, 2))):
                writer.write_frame(frame)
            writer.write_audio(samples[None, round(begin * SAMPLING_RATE) : round((begin + 60) * SAMPLING_RATE)])
    database = {path.stem: {"duration": duration, "annotations": annotate(takes), "subset": "test"}}
    write_json(folder / "annotations.json", {"version": "sandbox-1", "database": database})
    return path


def lengths(options: LongVideoOptions) -> list[int]:
    """Minutes of the videos of one part: that of the long video, and shorter ones."""
    return sorted({min(minutes, options.minutes) for minutes in (1, 10, options.minutes)})


def measure_memory(folder: Path, options: LongVideoOptions) -> list[dict[str, Any]]:
    """Peak resident memory and time of a process that locates one class in `lengths` minutes."""
    rows = []
    for minutes in lengths(options):
        path = write_long_video(folder / f"memory{minutes}", minutes=minutes, seed=options.seed)
        measured = run_worker(path, ["--parts", "memory", "--window", str(options.window)], options)
        rows.append({"minutes": minutes, "file_bytes": path.stat().st_size, **measured})
    return rows


def measure_question(folder: Path, options: LongVideoOptions) -> list[dict[str, Any]]:
    """Time and peak memory of a process that asks one question about a whole video, and the time of a bare loop that
    decodes as many frames."""
    rows = []
    for minutes in sorted({1, options.minutes}):
        path = write_360p(folder / f"question{minutes}.mp4", minutes=minutes)
        measured = run_worker(path, ["--parts", "question"], options)
        began = time.process_time()
        seek_frames(path, num_frames=100)
        bare = round(time.process_time() - began, 2)
        rows.append({"minutes": minutes, "file_bytes": path.stat().st_size, "cpu_seconds_of_seeks": bare, **measured})
    return rows


def run_worker(path: Path, arguments: list[str], options: LongVideoOptions) -> dict[str, Any]:
    """What `locate_once` measures in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.long_videos", "--worker", str(path), "--model", options.model]
    done = subprocess.run([*command, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def seek_frames(path: Path, *, num_frames: int) -> None:
    """Decodes frames at equal distances, each from the key frame before it, and converts them to RGB."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        for index in range(num_frames):
            stamp = stream.start_time + round((index + 0.5) / num_frames * stream.duration)
            container.seek(stamp, stream=stream)
            frame = next(frame for frame in container.decode(stream) if frame.pts + frame.duration > stamp)
            frame.to_ndarray(format="rgb24")


def locate_once(path: Path, options: LongVideoOptions) -> dict[str, Any]:
    """Peak memory before and after one call of the pipeline, in windows or as a whole, and the times of the call."""
    from transformers import pipeline

    locate = pipeline(task="audio-visual-event-localization", model=options.model, trust_remote_code=True)
    windows = 0

    def counted(block: dict, **plan: Any) -> Any:
        nonlocal windows
        for window in prepare(block, **plan):
            windows += 1
            yield window

    prepare, locate.processor.prepare_windows = locate.processor.prepare_windows, counted
    before, cpu, wall = peak_bytes(), time.process_time(), time.perf_counter()
    window = None if options.parts == ["question"] else options.window
    events = locate(str(path), query=QUERY, window=window, score="presence")
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    of_windows = {"num_windows": windows, "cpu_seconds_per_window": round(cpu / windows, 3)} if windows else {}
    return {
        "cpu_seconds": round(cpu, 2),
        "wall_seconds": round(wall, 2),
        **of_windows,
        "peak_bytes_of_loaded_model": before,
        "peak_bytes": peak_bytes(),
        "num_events": len(events),
    }


def peak_bytes() -> int:
    """Largest resident memory of this program. `getrusage` would count that of the process that started it too."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def measure_reading(folder: Path, options: LongVideoOptions) -> dict[str, Any]:
    """CPU seconds to decode all of a file once, to read its windows, and to prepare them for the towers as well."""
    path = write_360p(folder / "hour.mp4", minutes=options.minutes)
    _, processor = build_tiny([QUERY])
    results: dict[str, Any] = {"file_bytes": path.stat().st_size, "minutes": options.minutes}
    for name, function in (
        ("decode_once", lambda: decode_once(path)),
        ("read_windows", lambda: read_windows(path, processor, options, prepared=False)),
        ("read_and_prepare_windows", lambda: read_windows(path, processor, options, prepared=True)),
    ):
        cpu, wall = time.process_time(), time.perf_counter()
        counted = function()
        results[name] = {
            "cpu_seconds": round(time.process_time() - cpu, 1),
            "wall_seconds": round(time.perf_counter() - wall, 1),
            "counted": counted,
        }
    once = results["decode_once"]["cpu_seconds"]
    results["ratio_of_cpu_seconds"] = round(results["read_windows"]["cpu_seconds"] / once, 3)
    return results


def write_360p(path: Path, *, minutes: int) -> Path:
    """A moving picture of 640 x 360 pixels at 25 fps with stereo sound at 44.1 kHz: one minute, repeated by copying
    its packets."""
    minute = path.with_name("minute.mp4")
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, size=(400, 700, 3), dtype=np.uint8)
    noise = np.repeat(np.repeat(noise[::8, ::8], 8, 0), 8, 1)[:400, :700]
    with MediaWriter(minute, width=640, height=360, fps=25, sampling_rate=44_100, num_channels=2) as writer:
        for number in range(60 * 25):
            x, y = round(30 + 29 * np.sin(number / 40)), round(20 + 19 * np.cos(number / 55))
            writer.write_frame(noise[y : y + 360, x : x + 640])
        writer.write_audio((0.1 * rng.standard_normal((2, 60 * 44_100))).astype(np.float32))
    with av.open(str(path), "w") as target:
        outputs: dict[int, Any] = {}
        for repeat in range(minutes):
            with av.open(str(minute)) as source:
                for stream in source.streams:
                    if stream.index not in outputs:
                        outputs[stream.index] = target.add_stream_from_template(stream)
                for packet in source.demux():
                    if packet.size and packet.pts is not None:
                        shift = round(REPEATED * repeat / packet.time_base)
                        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                        packet.stream = outputs[packet.stream_index]
                        target.mux(packet)
    minute.unlink()
    return path


def decode_once(path: Path) -> dict[str, int]:
    """Every frame and every block of samples, in file order, and nothing else."""
    counted = {"video": 0, "audio": 0}
    with av.open(str(path)) as container:
        for stream in container.streams:
            stream.thread_type = "AUTO"
        for packet in container.demux():
            counted[packet.stream.type] += len(packet.decode())
    return counted


def read_windows(path: Path, processor: Any, options: LongVideoOptions, *, prepared: bool) -> dict[str, int]:
    """The windows of a file; without `prepared`, as RGB frames (of which a few pixels are kept) and samples."""
    video_processor, extractor = processor.video_processor, processor.feature_extractor
    if not prepared:
        video_processor.preprocess_frames = lambda frames: torch.from_numpy(frames[:, ::64, ::64].copy())
        extractor.analyse_windows = lambda windows: torch.zeros(len(windows))
    encoder = SlotEncoder(video_processor, extractor, 100, processor.interleaving, processor.alignment)
    slot = MediaSlot("video", picture=path, sound=OWN_SOUND)
    windows = encode_windows(encoder, slot, rate=0.25, window=options.window)
    counted = [(len(window.pictures), len(window.sounds)) for window in windows]
    for part, name in ((video_processor, "preprocess_frames"), (extractor, "analyse_windows")):
        vars(part).pop(name, None)
    return {"windows": len(counted), "frames": sum(n for n, _ in counted), "sounds": sum(n for _, n in counted)}


def measure_http(folder: Path, options: LongVideoOptions) -> dict[str, Any]:
    """Time of a client that asks vLLM about all windows of a video, then asks again, and memory of the server."""
    videos = {
        f"{minutes} min, 96 x 96": write_long_video(folder / f"http{minutes}", minutes=minutes, seed=options.seed)
        for minutes in lengths(options)
    }
    videos[f"{options.minutes} min, 640 x 360"] = write_360p(folder / "http360p.mp4", minutes=options.minutes)
    write_tiny_llama(folder / "model", texts=[GROUNDING_PROMPT.format(query=QUERY)])
    rows = []
    with serve(folder / "model", media=folder, log=folder / "log.txt") as address:
        request = {"address": address, "window": options.window, "max_new_tokens": 16}
        warmed = next(iter(videos.values()))
        ask_server(ClientOptions(warmed.as_uri(), query=["the first request"], **{**request, "window": 20.0}))
        for name, path in videos.items():
            num_windows = len(plan_windows(probe(str(path)).duration, window=options.window))
            row = {"video": name, "file_bytes": path.stat().st_size, "num_windows": num_windows}
            for turn in ("first", "again"):
                cpu, wall = server_seconds(), time.perf_counter()
                ask_server(ClientOptions(path.as_uri(), query=[QUERY], **request))
                row[f"{turn}_wall_seconds"] = round(time.perf_counter() - wall, 2)
                row[f"{turn}_cpu_seconds_of_server"] = round(server_seconds() - cpu, 2)
            rows.append({**row, "server_bytes": server_bytes()})
    return {"videos": rows}


def server_seconds() -> float:
    """CPU seconds of the processes that this one started."""
    times = [process.cpu_times() for process in psutil.Process().children(recursive=True)]
    return sum(time.user + time.system for time in times)


def server_bytes() -> int:
    """Memory that the processes that this one started do not share."""
    return sum(process.memory_full_info().uss for process in psutil.Process().children(recursive=True))


if __name__ == "__main__":
    with one_line_errors(PROGRAM):
        main()
