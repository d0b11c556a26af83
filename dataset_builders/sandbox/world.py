"""Generate the sandbox: clips with one event each, and untrimmed test videos with several, with captions and
annotations.

Each file is planned from the seed (`Take`: event, time and position), then drawn and synthesised. Equal seeds give
equal plans, captions, annotations, pixels and samples on any machine with the same numpy. The mp4 bytes are also equal
if the x264 and AAC builds bundled with PyAV and the type of processor are the same.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..atomic_files import write_json
from ..media_writer import MediaWriter
from ..sources.annotation_files import read_json
from ..workers import run_jobs
from .classes import EVENT_CLASSES, HEARD, PLACES, SEEN, SEEN_AND_HEARD, EventClass
from .pictures import blend, draw_mask
from .sounds import fade_ends, synthesise


FRAME_SIZE = 96  # pixels: three patches of 32, six of 16
FPS = 8
SAMPLING_RATE = 48_000  # CLAP's sampling rate, so that the default data are never resampled
CLIP_SECONDS = 10.0  # VALOR's clips
EVENT_LEVEL, ROOM_LEVEL = 0.5, 0.004  # peak of an event's sound, standard deviation of the room noise
FADE_SECONDS = 0.02
BACKGROUND = (86.0, 88.0, 96.0)  # mean red, green, blue of the backgrounds of the videos
ID_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
CLIPS, TEST, TRAIN, BACKGROUNDS = 0, 1, 2, 3  # the random streams of a seed
UNTRIMMED = {"test": TEST, "train": TRAIN}  # subset, and folder of its videos: stream


@dataclass(frozen=True)
class TimeLine:
    """Timing of the untrimmed videos of the sandbox. The defaults are the harder of our two variants; the easier
    one has `event_seconds=(4, 12)` and `video_seconds=(20, 40)`.

    Args:
        event_seconds (`tuple(float, float)`): shortest and longest event; the last one of a video may be cut to
            3/4 of the shortest.
        video_seconds (`tuple(int, int)`): shortest and longest video, whole seconds.
        gap_seconds (`tuple(float, float)`): shortest and longest gap before an event that does not overlap.
        overlap_share (`float`): probability that an event begins before the previous one has ended.

    Raises:
        ValueError: a range that is empty or begins below 0, or a share outside 0 to 1.
    """

    event_seconds: tuple[float, ...] = (2.0, 12.0)
    video_seconds: tuple[int, ...] = (20, 60)
    gap_seconds: tuple[float, ...] = (0.5, 5.0)
    overlap_share: float = 0.25

    def __post_init__(self):
        for name, least in (("event_seconds", 0.5), ("video_seconds", 1), ("gap_seconds", 0)):
            pair = getattr(self, name)
            if len(pair) != 2 or not least <= pair[0] <= pair[1] < math.inf:
                raise ValueError(f"{name} must be (shortest, longest) with {least} <= shortest <= longest, got {pair}")
        if not 0 <= self.overlap_share <= 1:
            raise ValueError(f"overlap_share must be between 0 and 1, got {self.overlap_share}")


@dataclass(frozen=True)
class Take:
    """One event in a video: times in seconds, displacement of its shape, small variations of colour, pitch and
    phase."""

    event: EventClass
    start: float
    end: float
    x: float
    y: float
    tint: tuple[float, float, float]
    detune: float
    phase: float


def make_world(
    output: str | Path,
    *,
    num_clips: int,
    num_background_clips: int = 0,
    num_test_videos: int = 0,
    num_train_videos: int = 0,
    seed: int = 0,
    num_classes: int | None = None,
    time_line: TimeLine = TimeLine(),
    num_proc: int = 1,
) -> None:
    """Write `clips/`, `captions.json`, `short_captions.json` (the event's label, and the tracks that carry it),
    `backgrounds.json`, `test/`, `train/` and `annotations.json` below a folder.

    Args:
        output (`Path`): folder, created if needed.
        num_clips (`int`): 10-s clips; the classes are used in turn, so their counts differ by at most one.
        num_background_clips (`int`): 10-s clips without an event, also in `clips/` but without a caption; their ids
            are in `backgrounds.json`. They fill the gaps of pseudo-untrimmed videos.
        num_test_videos, num_train_videos (`int`): untrimmed videos, by subset; no video is in both.
        seed (`int`): random seed of all draws.
        num_classes (`int`, *optional*): use only the first classes of the list; all by default.
        time_line (`TimeLine`): lengths of the untrimmed videos and of their events, gaps and overlaps.
        num_proc (`int`): number of processes; the output does not depend on it.

    Raises:
        ValueError: a negative count, fewer than one process, `num_classes` beyond the list, or a folder with captions
            or annotations of something else.
    """
    num_classes = len(EVENT_CLASSES) if num_classes is None else num_classes
    counts = (num_clips, num_background_clips, num_test_videos, num_train_videos)
    if min(counts) < 0 or num_proc < 1:
        raise ValueError(
            f"bad count: {num_clips=}, {num_background_clips=}, {num_test_videos=}, {num_train_videos=} (at least 0), "
            f"{num_proc=} (at least 1)"
        )
    if not 1 <= num_classes <= len(EVENT_CLASSES):
        raise ValueError(f"num_classes must be between 1 and {len(EVENT_CLASSES)}, got {num_classes}")
    output = Path(output)
    jobs, captions, short_captions, backgrounds, database = [], [], [], [], {}
    for index in range(num_clips):
        video_id, caption, take = plan_clip(index, seed=seed, num_classes=num_classes)
        jobs.append((output / "clips" / f"{video_id}.mp4", [take], CLIP_SECONDS, (seed, CLIPS, index, 1)))
        captions.append({"video_id": video_id, "desc": caption})
        short_captions.append({"video_id": video_id, "desc": take.event.label, "tracks": take.event.tracks})
    for index in range(num_background_clips):
        video_id = _draw_clip_id(_rng(seed, BACKGROUNDS, index, 0))
        jobs.append((output / "clips" / f"{video_id}.mp4", [], CLIP_SECONDS, (seed, BACKGROUNDS, index, 1)))
        backgrounds.append(video_id)
    for subset, num_videos in (("test", num_test_videos), ("train", num_train_videos)):
        for index in range(num_videos):
            video_id, duration, takes = plan_untrimmed_video(
                index, subset=subset, seed=seed, num_classes=num_classes, time_line=time_line
            )
            key = (seed, UNTRIMMED[subset], index, 1)
            jobs.append((output / subset / f"{video_id}.mp4", takes, duration, key))
            database[video_id] = {"duration": duration, "annotations": annotate(takes), "subset": subset}
    files = {
        "captions.json": captions,
        "short_captions.json": short_captions,
        "backgrounds.json": backgrounds,
        "annotations.json": {"version": "sandbox-1", "database": database},
    }
    for name, content in files.items():
        if (output / name).exists() and read_json(output / name) != json.loads(json.dumps(content)):
            raise ValueError(f"{output} holds another {name}: choose a new folder")
    for _ in run_jobs(_write_job, jobs, num_workers=num_proc, name="sandbox", unit="video"):
        pass
    for name, content in files.items():  # written last: a folder that has captions is complete
        write_json(output / name, content)


def plan_clip(index: int, *, seed: int, num_classes: int) -> tuple[str, str, Take]:
    """The id (VALOR's format), the caption and the one event of a clip."""
    rng = _rng(seed, CLIPS, index, 0)
    event = EVENT_CLASSES[index % num_classes]
    video_id = _draw_clip_id(rng)
    return video_id, _draw_caption(event, rng), _draw_take(event, 0.0, CLIP_SECONDS, rng)


def plan_untrimmed_video(
    index: int, *, subset: str = "test", seed: int, num_classes: int, time_line: TimeLine = TimeLine()
) -> tuple[str, float, list[Take]]:
    """The id, the duration in seconds and the events of an untrimmed video, by start.

    An event begins after the previous one and a gap, or, with probability `overlap_share`, before the previous one has
    ended. One event in four repeats a class that the video already has. Two events of one class never overlap.
    """
    rng = _rng(seed, UNTRIMMED[subset], index, 0)
    shortest, longest = time_line.event_seconds
    first, last = time_line.video_seconds
    shortest_gap, longest_gap = time_line.gap_seconds
    video_id, duration = _draw_id(rng), int(rng.integers(first * FPS, last * FPS + 1)) / FPS
    takes: list[Take] = []
    ends: dict[str, float] = {}
    cursor = rng.uniform(0.0, 4.0)
    while cursor < duration - shortest:
        repeated = bool(takes) and rng.uniform() < 1 / 4
        event = takes[rng.integers(len(takes))].event if repeated else EVENT_CLASSES[rng.integers(num_classes)]
        start = max(cursor, ends.get(event.label, 0.0) + 0.5)
        end = start + rng.uniform(shortest, longest)
        start, end = round(start, 2), min(round(end, 2), duration)
        if end - start < 0.75 * shortest:
            break
        takes.append(_draw_take(event, start, end, rng))
        ends[event.label] = end
        if rng.uniform() < time_line.overlap_share:
            cursor = start + (end - start) * rng.uniform(0.3, 0.8)
        else:
            cursor = end + rng.uniform(shortest_gap, longest_gap)
    return video_id, duration, sorted(takes, key=lambda take: take.start)


def open_video(path: Path) -> MediaWriter:
    """The writer of a video of the sandbox."""
    return MediaWriter(
        path,
        width=FRAME_SIZE,
        height=FRAME_SIZE,
        fps=FPS,
        sampling_rate=SAMPLING_RATE,
        num_channels=1,
        crf=26,
        preset="superfast",
        audio_bit_rate=64_000,
    )


def write_video(path: Path, takes: list[Take], duration: float, *, rng: np.random.Generator) -> None:
    """Draw, synthesise and encode one video. Without an audible event the sound track is faint room noise."""
    frames = draw_frames(takes, duration, rng=rng)
    samples = mix_samples(takes, duration, rng=rng)
    with open_video(path) as writer:
        for frame in frames:
            writer.write_frame(frame)
        writer.write_audio(samples[None])


def draw_frames(takes: list[Take], duration: float, *, rng: np.random.Generator) -> np.ndarray:
    """RGB frames of shape `(num_frames, FRAME_SIZE, FRAME_SIZE, 3)`, uint8.

    The background is a dull gradient, different in each video, with a faint grey shape that drifts across it. Captions
    and annotations do not mention them.
    """
    times = np.arange(round(duration * FPS), dtype=np.float32) / FPS
    ramp = np.linspace(0.0, 1.0, FRAME_SIZE, dtype=np.float32)[:, None, None]
    # similar in all videos, so that a tiny encoder distinguishes events rather than backgrounds
    top, bottom = (BACKGROUND + rng.uniform(-12, 12, size=(2, 3))).astype(np.float32)
    canvas = np.empty((len(times), FRAME_SIZE, FRAME_SIZE, 3), dtype=np.float32)
    canvas[:] = top + (bottom - top) * ramp
    drift = np.hypot(
        np.linspace(-1, 1, FRAME_SIZE, dtype=np.float32)[None, None, :]
        - np.sin(times * 0.4 + rng.uniform(0, 6))[:, None, None],
        np.linspace(-1, 1, FRAME_SIZE, dtype=np.float32)[None, :, None] - np.cos(times * 0.3)[:, None, None] * 0.7,
    )
    blend(canvas, np.clip(1.2 - 4 * drift, 0.0, 0.35).astype(np.float32), (128.0, 128.0, 128.0))
    for take in takes:
        if take.event.picture is not None:
            shown = slice(*np.searchsorted(times, [take.start, take.end]))
            mask = draw_mask(
                take.event.picture, times[shown] - take.start, size=FRAME_SIZE, phase=take.phase, x=take.x, y=take.y
            )
            colour = tuple(np.clip(np.add(take.event.picture.colour, take.tint), 0, 255))
            blend(canvas[shown], mask, colour)
    return (canvas + np.float32(0.5)).astype(np.uint8)


def mix_samples(takes: list[Take], duration: float, *, rng: np.random.Generator) -> np.ndarray:
    """Mono samples of shape `(round(duration * SAMPLING_RATE),)`, float32."""
    num_samples = round(duration * SAMPLING_RATE)
    samples = rng.standard_normal(num_samples, dtype=np.float32) * np.float32(ROOM_LEVEL)
    for take in takes:
        if take.event.sound is not None:
            first, last = round(take.start * SAMPLING_RATE), min(round(take.end * SAMPLING_RATE), num_samples)
            sound = synthesise(
                take.event.sound, last - first, sampling_rate=SAMPLING_RATE, rng=rng, detune=take.detune
            )
            samples[first:last] += EVENT_LEVEL * fade_ends(sound, num_fade=round(FADE_SECONDS * SAMPLING_RATE))
    return np.clip(samples, -1.0, 1.0)


def _draw_take(event: EventClass, start: float, end: float, rng: np.random.Generator) -> Take:
    x, y = rng.uniform(-0.3, 0.3, size=2)
    red, green, blue = (float(value) for value in rng.uniform(-18, 18, size=3))
    return Take(
        event, start, end, float(x), float(y), (red, green, blue), float(rng.uniform(0.95, 1.05)), float(rng.uniform())
    )


def _draw_caption(event: EventClass, rng: np.random.Generator) -> str:
    templates: tuple[str, ...]
    if event.picture is None:
        templates = HEARD
    elif event.sound is None:
        templates = SEEN
    else:
        templates = SEEN_AND_HEARD
    place, template = PLACES[rng.integers(len(PLACES))], templates[rng.integers(len(templates))]
    return template.format(place=place, phrase=event.phrase, look=event.look, noise=event.noise)


def _draw_id(rng: np.random.Generator) -> str:
    return "".join(ID_ALPHABET[i] for i in rng.integers(len(ID_ALPHABET), size=11))


def _draw_clip_id(rng: np.random.Generator) -> str:
    """An id in VALOR's format: id of the whole video, start and end of the clip in it."""
    start = float(rng.integers(0, 300))
    return f"{_draw_id(rng)}_{start:.3f}_{start + CLIP_SECONDS:.3f}"


def annotate(takes: list[Take]) -> list[dict]:
    """The events of a video in UnAV-100's form."""
    labels = [event.label for event in EVENT_CLASSES]
    return [
        {"segment": [take.start, take.end], "label": take.event.label, "label_id": labels.index(take.event.label)}
        for take in takes
    ]


def _write_job(path: Path, takes: list[Take], duration: float, key: tuple[int, ...]) -> None:
    write_video(path, takes, duration, rng=_rng(*key))


def _rng(*key: int) -> np.random.Generator:
    return np.random.default_rng(key)
