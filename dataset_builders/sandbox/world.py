"""Make the sandbox: clips of one event each, and untrimmed test videos of many, with captions and annotations.

Everything is planned from the seed per file (`Take`: which event when and where), then drawn and synthesised. Equal seeds
give equal plans, captions, annotations, pixels and samples on any machine with the same numpy; the mp4 bytes are equal too
where PyAV's bundled x264 and aac are the same build on the same kind of processor.
"""

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..media_writer import MediaWriter
from .classes import EVENT_CLASSES, HEARD, PLACES, SEEN, SEEN_AND_HEARD, EventClass
from .pictures import blend, draw_mask
from .sounds import fade_ends, synthesise


FRAME_SIZE = 96  # pixels: three patches of 32, six of 16
FPS = 8
SAMPLING_RATE = 48_000  # what CLAP wants, so that the default world is never resampled
CLIP_SECONDS = 10.0  # VALOR's clips
EVENT_LEVEL, ROOM_LEVEL = 0.5, 0.004  # peak of an event's sound, deviation of the room's noise
FADE_SECONDS = 0.02
BACKGROUND = (86.0, 88.0, 96.0)  # red, green, blue around which each video's backdrop lies
ID_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
CLIPS, TEST, TRAIN = 0, 1, 2  # the random streams of a seed
UNTRIMMED = {"test": TEST, "train": TRAIN}  # subset, and folder of its videos: stream


@dataclass(frozen=True)
class Take:
    """One event on a time line: seconds, displacement of its shape, small differences of colour, pitch and phase."""

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
    num_test_videos: int = 0,
    num_train_videos: int = 0,
    seed: int = 0,
    num_classes: int | None = None,
    num_proc: int = 1,
) -> None:
    """Write `clips/`, `captions.json`, `short_captions.json` (the event's name alone), `test/`, `train/` and
    `annotations.json` below a folder.

    Args:
        output (`Path`): folder, made if need be; files of the same name are written over.
        num_clips (`int`): 10-s clips; the classes take turns, so their counts differ by at most one.
        num_test_videos, num_train_videos (`int`): untrimmed videos of 20 to 60 s, by subset; they share no video.
        seed (`int`): of everything.
        num_classes (`int`, *optional*): use only the first classes of the list; all by default.
        num_proc (`int`): processes that draw and encode; any number gives the same world.

    Raises:
        ValueError: a negative count, fewer than one process, or `num_classes` beyond the list.
    """
    num_classes = len(EVENT_CLASSES) if num_classes is None else num_classes
    if min(num_clips, num_test_videos, num_train_videos) < 0 or num_proc < 1:
        raise ValueError(
            f"bad count: {num_clips=}, {num_test_videos=}, {num_train_videos=} (at least 0), {num_proc=} (at least 1)"
        )
    if not 1 <= num_classes <= len(EVENT_CLASSES):
        raise ValueError(f"num_classes must lie between 1 and {len(EVENT_CLASSES)}, got {num_classes}")
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    jobs, captions, short_captions, database = [], [], [], {}
    for index in range(num_clips):
        video_id, caption, take = plan_clip(index, seed=seed, num_classes=num_classes)
        jobs.append((output / "clips" / f"{video_id}.mp4", [take], CLIP_SECONDS, (seed, CLIPS, index, 1)))
        captions.append({"video_id": video_id, "desc": caption})
        short_captions.append({"video_id": video_id, "desc": name_event(take.event)})
    for subset, num_videos in (("test", num_test_videos), ("train", num_train_videos)):
        for index in range(num_videos):
            video_id, duration, takes = plan_untrimmed_video(index, subset=subset, seed=seed, num_classes=num_classes)
            key = (seed, UNTRIMMED[subset], index, 1)
            jobs.append((output / subset / f"{video_id}.mp4", takes, duration, key))
            database[video_id] = {"duration": duration, "annotations": _annotate(takes), "subset": subset}
    with tqdm(total=len(jobs), desc="sandbox", unit="video") as progress:
        if num_proc == 1:
            for job in jobs:
                _write_job(job)
                progress.update()
        else:
            with ProcessPoolExecutor(num_proc) as pool:
                for _ in pool.map(_write_job, jobs, chunksize=4):
                    progress.update()
    # last, so that a folder with captions is a complete one
    _write_json(output / "captions.json", captions)
    _write_json(output / "short_captions.json", short_captions)
    _write_json(output / "annotations.json", {"version": "sandbox-1", "database": database})


def plan_clip(index: int, *, seed: int, num_classes: int) -> tuple[str, str, Take]:
    """The id (VALOR's form), the caption and the one event of a clip."""
    rng = _rng(seed, CLIPS, index, 0)
    event = EVENT_CLASSES[index % num_classes]
    start = float(rng.integers(0, 300))
    video_id = f"{_draw_id(rng)}_{start:.3f}_{start + CLIP_SECONDS:.3f}"
    return video_id, _draw_caption(event, rng), _draw_take(event, 0.0, CLIP_SECONDS, rng)


def plan_untrimmed_video(
    index: int, *, subset: str = "test", seed: int, num_classes: int
) -> tuple[str, float, list[Take]]:
    """The id, the duration in seconds and the events of an untrimmed video, by start.

    Events last 2 to 12 s and come one after the other with a gap, or (one in four) begin before the one before has
    ended; one in four repeats a class that the video has had. Two events of one class never overlap.
    """
    rng = _rng(seed, UNTRIMMED[subset], index, 0)
    video_id, duration = _draw_id(rng), int(rng.integers(20 * FPS, 60 * FPS + 1)) / FPS
    takes: list[Take] = []
    ends: dict[str, float] = {}
    cursor = rng.uniform(0.0, 4.0)
    while cursor < duration - 2.0:
        repeated = bool(takes) and rng.uniform() < 1 / 4
        event = takes[rng.integers(len(takes))].event if repeated else EVENT_CLASSES[rng.integers(num_classes)]
        start = max(cursor, ends.get(event.label, 0.0) + 0.5)
        end = start + rng.uniform(2.0, 12.0)
        start, end = round(start, 2), min(round(end, 2), duration)
        if end - start < 1.5:
            break
        takes.append(_draw_take(event, start, end, rng))
        ends[event.label] = end
        overlapping = rng.uniform() < 1 / 4
        cursor = start + (end - start) * rng.uniform(0.3, 0.8) if overlapping else end + rng.uniform(0.5, 5.0)
    return video_id, duration, sorted(takes, key=lambda take: take.start)


def write_video(path: Path, takes: list[Take], duration: float, *, rng: np.random.Generator) -> None:
    """Draw, synthesise and encode one video. Without an audible event the sound track is the room's noise."""
    frames = draw_frames(takes, duration, rng=rng)
    samples = mix_samples(takes, duration, rng=rng)
    with MediaWriter(
        path,
        width=FRAME_SIZE,
        height=FRAME_SIZE,
        fps=FPS,
        sampling_rate=SAMPLING_RATE,
        num_channels=1,
        crf=26,
        preset="superfast",
        audio_bit_rate=64_000,
    ) as writer:
        for frame in frames:
            writer.write_frame(frame)
        writer.write_audio(samples[None])


def draw_frames(takes: list[Take], duration: float, *, rng: np.random.Generator) -> np.ndarray:
    """RGB frames of shape `(num_frames, FRAME_SIZE, FRAME_SIZE, 3)`, uint8.

    Behind the events lies a dull gradient of the video's own with a faint grey shape drifting over it, which no caption
    and no annotation mentions.
    """
    times = np.arange(round(duration * FPS), dtype=np.float32) / FPS
    ramp = np.linspace(0.0, 1.0, FRAME_SIZE, dtype=np.float32)[:, None, None]
    # near one another from video to video: a tiny encoder should spend itself on the events
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
    tint = tuple(float(value) for value in rng.uniform(-18, 18, size=3))
    return Take(event, start, end, float(x), float(y), tint, float(rng.uniform(0.95, 1.05)), float(rng.uniform()))


def _draw_caption(event: EventClass, rng: np.random.Generator) -> str:
    if event.picture is None:
        templates = HEARD
    elif event.sound is None:
        templates = SEEN
    else:
        templates = SEEN_AND_HEARD
    place, template = PLACES[rng.integers(len(PLACES))], templates[rng.integers(len(templates))]
    return template.format(place=place, phrase=event.phrase, look=event.look, noise=event.noise)


def name_event(event: EventClass) -> str:
    """The shortest caption: "A dog barking." """
    return f"{event.phrase[0].upper()}{event.phrase[1:]}."


def _draw_id(rng: np.random.Generator) -> str:
    return "".join(ID_ALPHABET[i] for i in rng.integers(len(ID_ALPHABET), size=11))


def _annotate(takes: list[Take]) -> list[dict]:
    labels = [event.label for event in EVENT_CLASSES]
    return [
        {"segment": [take.start, take.end], "label": take.event.label, "label_id": labels.index(take.event.label)}
        for take in takes
    ]


def _write_job(job: tuple[Path, list[Take], float, tuple[int, ...]]) -> None:
    path, takes, duration, key = job
    write_video(path, takes, duration, rng=_rng(*key))


def _rng(*key: int) -> np.random.Generator:
    return np.random.default_rng(key)


def _write_json(path: Path, value) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
