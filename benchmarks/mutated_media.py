"""Reads damaged media files in child processes, as the processor reads them, and counts the outcomes:

    python -m benchmarks.mutated_media --media-dir ../shared/data/clips ../shared/data/valor_clips --num-files 10000

Each file is a clip with flipped bits, a cut end, a lost or repeated piece, swapped MP4 boxes or a wrong size field,
from the seed and its number alone. It is read as the processor reads a video: its frames, its windows of sound, its
length. A right result is one of the promised shapes, finite, with a positive duration; the other permitted outcome
is one `MediaError` that names the file. The figures so far are written after every 500 files.
"""

import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Queue

import numpy as np

from benchmarks.conditions import RESULTS, describe_conditions, write_results
from dataset_builders.command_line import one_line_errors, parse_options
from dataset_builders.input_settings import check_range


PROGRAM = "python -m benchmarks.mutated_media"
SUFFIXES = frozenset(".mp4 .mov .webm .mkv .avi .ts .mp3 .wav .m4a .flv".split())
REMUXED = (".mkv", ".ts", ".mov", ".flv")  # containers that one clip is put into, beside the clips themselves
MAX_BYTES = 2_000_000  # larger clips would only make the run longer
MP4_BOXES = tuple(b"moov trak mdia minf stbl stsd stts ctts stsc stsz stco stss".split())
# CPU seconds of a child, because other work on the machine may slow it down; without an answer it is stopped later.
MAX_SECONDS, MAX_WALL_SECONDS, MAX_GIGABYTES = 20.0, 120.0, 2.0
LIMITS = {"cpu_seconds": MAX_SECONDS, "wall_seconds": MAX_WALL_SECONDS, "gigabytes": MAX_GIGABYTES}
FILES_BETWEEN_REPORTS = 500


@dataclass
class Options:
    """Options of the command."""

    media_dir: list[str] = field(metadata={"help": "folders of clips, searched without their sub-folders"})
    output: Path = field(default=RESULTS / "mutated_media.json", metadata={"help": "JSON file to write"})
    num_files: int = field(default=10_000, metadata={"help": "files to make and read"})
    first: int = field(default=0, metadata={"help": "number of the first one; continue where another run ended"})
    num_workers: int = field(default=1, metadata={"help": "processes that read files"})
    seed: int = 0

    def __post_init__(self):
        check_range(self, 1, "num_files", "num_workers")


def flip_bits(content: bytearray, rng: np.random.Generator) -> bytearray:
    for place in rng.integers(0, len(content), int(10 ** rng.uniform(0, 3))):
        content[place] ^= 1 << int(rng.integers(8))
    return content


def flip_header_bits(content: bytearray, rng: np.random.Generator) -> bytearray:
    """In the first kilobytes and in the last ones, where containers keep their tables."""
    size = min(4096, len(content))
    for place in rng.integers(0, size, int(rng.integers(1, 20))):
        content[place if rng.random() < 0.5 else len(content) - 1 - place] ^= 1 << int(rng.integers(8))
    return content


def cut_end(content: bytearray, rng: np.random.Generator) -> bytearray:
    return content[: int(rng.integers(1, len(content)))]


def lose_piece(content: bytearray, rng: np.random.Generator) -> bytearray:
    begin = int(rng.integers(len(content)))
    return content[:begin] + content[begin + int(rng.integers(1, 1 + len(content) // 4)) :]


def repeat_piece(content: bytearray, rng: np.random.Generator) -> bytearray:
    begin = int(rng.integers(len(content)))
    piece = content[begin : begin + int(rng.integers(1, 65_536))]
    return content[:begin] + piece + content[begin:]


def zero_piece(content: bytearray, rng: np.random.Generator) -> bytearray:
    begin, length = int(rng.integers(len(content))), int(rng.integers(1, 1 + len(content) // 8))
    content[begin : begin + length] = bytes(len(content[begin : begin + length]))
    return content


def swap_boxes(content: bytearray, rng: np.random.Generator) -> bytearray:
    """The names of two MP4 boxes exchanged; in other containers, two pieces."""
    places = [place for name in MP4_BOXES if (place := content.find(name)) >= 0]
    if len(places) < 2:
        one, other = sorted(int(place) for place in rng.integers(0, max(1, len(content) - 64), 2))
        content[one : one + 32], content[other : other + 32] = content[other : other + 32], content[one : one + 32]
        return content
    one, other = rng.choice(places, 2, replace=False)
    content[one : one + 4], content[other : other + 4] = content[other : other + 4], content[one : one + 4]
    return content


def lie_about_size(content: bytearray, rng: np.random.Generator) -> bytearray:
    """A size or a count before or inside an MP4 box; in other containers, any four bytes of the first kilobytes."""
    places = [place for name in MP4_BOXES if (place := content.find(name)) >= 0]
    place = int(rng.choice(places)) + int(rng.choice([-4, 8, 12, 16])) if places else int(rng.integers(0, 2048))
    lie = int(rng.choice([0, 1, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1]))
    content[max(0, place) : max(0, place) + 4] = lie.to_bytes(4, "big")
    return content


MUTATIONS: tuple[Callable[[bytearray, np.random.Generator], bytearray], ...] = (
    flip_bits,
    flip_header_bits,
    cut_end,
    lose_piece,
    repeat_piece,
    zero_piece,
    swap_boxes,
    lie_about_size,
)


def collect_clips(folders: list[str], scratch: Path) -> list[Path]:
    """The clips of the folders, small ones of the sandbox, and some in other containers."""
    from dataset_builders.sandbox import make_world

    clips = [path for folder in folders for path in sorted(Path(folder).iterdir())]
    clips = [path for path in clips if path.suffix.lower() in SUFFIXES and 0 < path.stat().st_size <= MAX_BYTES]
    if not clips:
        raise ValueError(f"no clips of at most {MAX_BYTES} bytes in {folders}")
    make_world(scratch / "sandbox", num_clips=2)
    clips += sorted((scratch / "sandbox" / "clips").glob("*.mp4"))
    return clips + [remux(clips[-1], scratch / f"remuxed{suffix}") for suffix in REMUXED]


def remux(source: Path, output: Path) -> Path:
    import av

    with av.open(str(source)) as given, av.open(str(output), "w") as made:
        streams = {stream.index: made.add_stream_from_template(stream) for stream in given.streams}
        for packet in given.demux():
            if packet.size:
                packet.stream = streams[packet.stream.index]
                made.mux(packet)
    return output


def mutate(clips: list[Path], number: int, *, seed: int) -> tuple[Path, str, bytes]:
    """The clip, the kind of damage and the content of one damaged file."""
    rng = np.random.default_rng((seed, number))
    clip, mutation = clips[rng.integers(len(clips))], MUTATIONS[number % len(MUTATIONS)]
    return clip, mutation.__name__, bytes(mutation(bytearray(clip.read_bytes()), rng))


def read_media(path: Path) -> None:
    """Everything that the processor reads of a video. ValueError for a result that cannot be right."""
    from modeling_avicuna.feature_extraction_avicuna import AVicunaFeatureExtractor
    from modeling_avicuna.media_avicuna import MediaError, load_audio
    from modeling_avicuna.video_processing_avicuna import load_video_frames

    waveform = load_audio(path)
    if waveform is not None:
        if not np.isfinite(waveform).all():
            raise ArithmeticError("a waveform that is not finite")
        if len(waveform):
            AVicunaFeatureExtractor().extract_windows(waveform[: 10 * 48_000])
    try:
        frames, duration = load_video_frames(path, 8)
    except MediaError:
        if waveform is None:
            raise
        return  # a file of sound alone
    if frames.ndim != 4 or len(frames) != 8 or frames.dtype != np.uint8 or not 0 < duration < float("inf"):
        raise ArithmeticError(f"frames {frames.shape} {frames.dtype} of {duration} s")


def serve(connection: Connection) -> None:
    """A child process: reads one path after the other and answers with the outcome and its own peak memory."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 2)  # what FFmpeg and decord say of damaged files
    from modeling_avicuna.media_avicuna import MediaError

    connection.send("ready")
    while (path := connection.recv()) is not None:
        begin = time.process_time()
        try:
            read_media(Path(path))
            outcome = "right result"
        except MediaError as error:
            outcome = "MediaError" if path in str(error) else f"MediaError without the name: {error}"
        except Exception as error:  # the outcome that this script looks for
            outcome = f"{type(error).__name__}: {error}"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        connection.send((outcome, time.process_time() - begin, peak))


class Child:
    """A child process that reads files, started anew after a crash, a hang or too much memory."""

    def __init__(self) -> None:
        self.context = multiprocessing.get_context("spawn")
        self.process = None

    def start(self) -> None:
        self.connection, other = self.context.Pipe()
        self.process = self.context.Process(target=serve, args=(other,), daemon=True)
        self.process.start()
        other.close()
        self.connection.recv()  # its imports are no part of the time of the first file

    def read(self, path: Path) -> tuple[str, float, float]:
        """Outcome, CPU seconds and peak memory in gigabytes of reading one file."""
        if self.process is None:
            self.start()
        self.connection.send(str(path))
        seconds = peak = 0.0
        try:
            if self.connection.poll(MAX_WALL_SECONDS):
                outcome, seconds, peak = self.connection.recv()
            else:
                outcome = "hang"
        except EOFError:
            self.process.join()
            outcome = f"crash (exit code {self.process.exitcode})"
        if seconds > MAX_SECONDS:
            outcome = f"hang: {seconds:.0f} s"
        if peak > MAX_GIGABYTES:
            outcome = f"memory: {peak:.1f} GB"
        if outcome.startswith(("hang", "crash", "memory")):
            self.stop()
        return outcome, seconds, peak

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None


def run(options: Options) -> Iterator[dict]:
    """Reads all files and counts the outcomes, in total and by kind of damage; yields the figures so far."""
    outcomes: dict[str, Counter] = {mutation.__name__: Counter() for mutation in MUTATIONS}
    failures, slowest, peak_memory = [], 0.0, 0.0
    children: Queue[Child] = Queue()
    for _ in range(options.num_workers):
        children.put(Child())
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(options.num_workers) as pool:
        clips = collect_clips(options.media_dir, Path(scratch))

        def read_file(number: int) -> tuple[int, str, str, tuple[str, float, float]]:
            clip, kind, content = mutate(clips, number, seed=options.seed)
            path = Path(scratch) / f"{number}{clip.suffix}"
            path.write_bytes(content)
            child = children.get()
            try:
                return number, clip.name, kind, child.read(path)
            finally:
                children.put(child)
                path.unlink()

        numbers = range(options.first, options.first + options.num_files)
        for count, (number, clip, kind, (outcome, seconds, peak)) in enumerate(pool.map(read_file, numbers), start=1):
            slowest, peak_memory = max(slowest, seconds), max(peak_memory, peak)
            known = outcome in ("right result", "MediaError")
            outcomes[kind][outcome if known else outcome.split(":")[0]] += 1
            if not known:
                failures.append({"number": number, "clip": clip, "kind": kind, "outcome": outcome[:300]})
            if count % FILES_BETWEEN_REPORTS == 0 or count == options.num_files:
                yield {
                    "num_files": count,
                    "num_clips": len(clips),
                    "outcomes": dict(sum(outcomes.values(), Counter()).most_common()),
                    "outcomes_by_damage": {kind: dict(counts.most_common()) for kind, counts in outcomes.items()},
                    "failures": failures,
                    "slowest_cpu_seconds": round(slowest, 2),
                    "peak_gigabytes": round(peak_memory, 2),
                    "limits": LIMITS,
                }
        for _ in range(options.num_workers):
            children.get().stop()


def main(arguments: list[str] | None = None) -> None:
    options = parse_options(Options, arguments, program=PROGRAM, description=__doc__.splitlines()[0])
    settings = {"seed": options.seed, "first": options.first, "num_workers": options.num_workers}
    conditions = describe_conditions(["av", "decord"], **settings)
    for results in run(options):
        write_results(options.output, conditions=conditions, results=results)
        print(f"{results['num_files']} files: {results['outcomes']}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    with one_line_errors(PROGRAM):
        main()
