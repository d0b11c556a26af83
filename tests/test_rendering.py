"""Rendering, measured on the finished mp4: times, pitch, frames, noise, joins, and errors."""

import itertools
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from dataset_builders.media_writer import MediaWriter
from dataset_builders.pseudo_untrimmed import rendering
from dataset_builders.pseudo_untrimmed.planning import Segment
from dataset_builders.pseudo_untrimmed.rendering import Letterbox, render_video, select_frames
from modeling_avicuna.media_avicuna import MediaError, Orientation, TimedFrame, decode_audio, decode_video, probe
from tests.media_files import tone, write_ramp


RATE = 48_000
FLASH_SECONDS = 0.1
MARKS = (1.0, 2.6, 5.4, 8.6)  # seconds of flash and beep in the clips; at 20, 25 and 30 fps a frame starts there
FORMAT = {"width": 64, "height": 48, "fps": 25}


def chain(*pieces: tuple[str, float, float]) -> list[Segment]:
    """Contiguous segments of (clip id, source seconds, scale)."""
    segments, start = [], 0.0
    for clip_id, seconds, scale in pieces:
        segments.append(Segment(clip_id, start, start + seconds * scale, scale, "a caption"))
        start += seconds * scale
    return segments


def write_clip(path: Path, *, seconds: float, fps: int, pixels, samples: np.ndarray | None, size=(64, 48)) -> Path:
    """A clip whose frame at time t is filled with `pixels(t)`."""
    sampling_rate = None if samples is None else RATE
    num_channels = 2 if samples is None else samples.shape[0]
    width, height = size
    with MediaWriter(
        path, width=width, height=height, fps=fps, sampling_rate=sampling_rate, num_channels=num_channels, crf=12
    ) as writer:
        for index in range(round(seconds * fps)):
            writer.write_frame(np.broadcast_to(np.uint8(round(pixels(index / fps))), (height, width, 3)))
        if samples is not None:
            writer.write_audio(samples)
    return path


def gate(seconds: float, marks) -> np.ndarray:
    time = np.arange(round(seconds * RATE)) / RATE
    return sum(((time >= mark) & (time < mark + FLASH_SECONDS)).astype(np.float32) for mark in marks)


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> dict[str, Path]:
    """Clips with flashes and beeps at known times at three frame rates, two tones, and a silent clip."""
    folder = tmp_path_factory.mktemp("clips")

    def flash(time):
        return 255 if any(mark - 1e-6 <= time < mark + FLASH_SECONDS - 1e-6 for mark in MARKS) else 16

    beep = (tone(10, frequency=1000) * gate(10, MARKS))[None]
    paths = {
        f"-flash{fps}": write_clip(folder / f"-flash{fps}.mp4", seconds=10, fps=fps, pixels=flash, samples=beep)
        for fps in (20, 25, 30)
    }
    tones = {"tone": tone(10, frequency=1000)[None], "low": tone(10, frequency=440)[None], "silent": None}
    for name, samples in tones.items():
        paths[name] = write_clip(folder / f"{name}.mp4", seconds=10, fps=10, pixels=lambda t: 90, samples=samples)
    return paths


def find_rises(level: np.ndarray, *, threshold: float, gap: int) -> list[int]:
    """Indices at which a level rises above a threshold, at least `gap` apart."""
    rises: list[int] = []
    for index in np.flatnonzero((level[1:] > threshold) & (level[:-1] <= threshold)) + 1:
        if not rises or index - rises[-1] > gap:
            rises.append(int(index))
    return rises


def loudness(samples: np.ndarray, seconds: float = 0.002) -> np.ndarray:
    width = round(seconds * RATE)
    return np.convolve(np.abs(samples), np.ones(width) / width, "same")


def peak_frequency(samples: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), n=1 << 20))
    return float(np.argmax(spectrum)) * RATE / (1 << 20)


@pytest.mark.parametrize("scale", [0.6, 1.9])
def test_flashes_and_beeps_of_six_clips_are_synchronous_and_as_planned(clips, tmp_path, scale):
    names = ["-flash30", "-flash25", "-flash20"] * 2
    segments = chain(*[(name, 10, scale) for name in names])
    rendered = render_video(segments, clips, tmp_path / "six.mp4", **FORMAT)
    planned = np.array([segment.transfer_time(mark) for segment in segments for mark in MARKS])

    brightness = np.array([timed.frame.to_ndarray(format="gray").mean() for timed in decode_video(rendered.path)])
    flashes = np.array(find_rises(brightness, threshold=128, gap=10)) / FORMAT["fps"]
    level = loudness(decode_audio(rendered.path, sampling_rate=RATE)[0])
    beeps = np.array(find_rises(level, threshold=0.1 * level.max(), gap=RATE // 4)) / RATE

    assert len(flashes) == len(beeps) == len(planned)
    assert np.abs(flashes - planned).max() <= 0.040
    assert np.abs(beeps - planned).max() <= 0.040
    assert np.abs(flashes - beeps).max() <= 0.040


def test_overlapping_clips_show_the_later_one_and_mix_the_sound(clips, tmp_path):
    bright = write_clip(tmp_path / "bright.mp4", seconds=10, fps=10, pixels=lambda t: 200, samples=None)
    paths = {**clips, "bright": bright}
    segments = [Segment("low", 1, 7, 0.6), Segment("tone", 4, 9, 0.5), Segment("bright", 11, 14, 0.3)]
    rendered = render_video(segments, paths, tmp_path / "overlap.mp4", **FORMAT, duration=16)
    assert rendered.duration == probe(rendered.path).duration == 16
    brightness = np.array([timed.frame.to_ndarray(format="gray").mean() for timed in decode_video(rendered.path)])
    dark, grey, white = (np.flatnonzero(np.abs(brightness - level) < 12) / 25 for level in (0, 90, 200))
    expected = [*np.arange(25) / 25, *np.arange(225, 275) / 25, *np.arange(350, 400) / 25]
    assert np.allclose(dark, expected) and len(grey) == 200 and np.allclose(white, np.arange(275, 350) / 25)
    samples = decode_audio(rendered.path, sampling_rate=RATE)[0]

    def power(frequency, start, end):
        piece = samples[round(start * RATE) : round(end * RATE)]
        return np.abs(np.exp(-2j * np.pi * frequency * np.arange(len(piece)) / RATE) @ piece) / len(piece)

    heard = [
        (power(440, start, end) > 0.1, power(1000, start, end) > 0.1) for start, end in ((2, 3), (5, 6), (8, 8.9))
    ]
    assert heard == [(True, False), (True, True), (False, True)]
    for start, end in ((0, 0.9), (9.2, 10.8), (14.2, 15.8)):
        assert np.abs(samples[round(start * RATE) : round(end * RATE)]).max() < 1e-3


def test_mixed_scales_cause_no_drift(clips, tmp_path):
    segments = chain(*[("-flash30", 10, scale) for scale in (0.61, 1.87, 0.73, 1.0, 1.33, 0.89)])
    rendered = render_video(segments, clips, tmp_path / "mixed.mp4", **FORMAT)
    planned = [segment.transfer_time(mark) for segment in segments for mark in MARKS]
    level = loudness(decode_audio(rendered.path, sampling_rate=RATE)[0])
    beeps = np.array(find_rises(level, threshold=0.1 * level.max(), gap=RATE // 3)) / RATE
    error = beeps - planned
    assert np.abs(error).max() <= 0.040
    assert abs(error[-4:].mean() - error[:4].mean()) <= 0.010


@pytest.mark.parametrize("scale", [0.6, 1.9])
def test_a_tone_keeps_its_pitch_and_purity(clips, tmp_path, scale):
    rendered = render_video(chain(("tone", 10, scale)), clips, tmp_path / "tone.mp4", **FORMAT)
    samples = decode_audio(rendered.path, sampling_rate=RATE)[0][RATE : 5 * RATE]
    assert peak_frequency(samples) == pytest.approx(1000, rel=0.01)
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2
    near = slice(round(990 * len(samples) / RATE), round(1010 * len(samples) / RATE))
    assert spectrum[near].sum() / spectrum.sum() > 0.995  # encoding without scaling gives 0.9987


@pytest.mark.parametrize("fps", [10, 25, 30, 29.97])
def test_the_duration_is_as_planned_within_a_frame(clips, tmp_path, fps):
    segments = chain(("-flash30", 10, 0.613), ("silent", 10, 0.777), ("tone", 9.7, 0.61))
    rendered = render_video(segments, clips, tmp_path / "v.mp4", width=64, height=48, fps=fps)
    info = probe(rendered.path)
    for duration in (
        info.duration,
        rendered.duration,
        decode_audio(rendered.path, sampling_rate=RATE).shape[1] / RATE,
    ):
        assert duration == pytest.approx(segments[-1].end, abs=1 / fps)
    assert info.fps == pytest.approx(fps, rel=1e-3)
    assert (info.width, info.height, info.sampling_rate, info.num_channels) == (64, 48, RATE, 2)
    assert sum(1 for _ in decode_video(rendered.path)) == rendered.num_frames


@pytest.mark.parametrize("snr_db", [5, 20])
def test_background_noise_has_the_requested_ratio(clips, tmp_path, snr_db):
    segments = chain(("tone", 10, 0.6), ("silent", 10, 0.6), ("low", 10, 1.0))
    common = dict(FORMAT, seed=3)
    clean = render_video(segments, clips, tmp_path / "clean.mp4", **common)
    noisy = render_video(segments, clips, tmp_path / "noisy.mp4", background_noise_snr_db=snr_db, **common)
    signal = decode_audio(clean.path, sampling_rate=RATE)
    track = decode_audio(noisy.path, sampling_rate=RATE)
    gain = np.sum(track * signal) / np.sum(signal**2)  # a track that would clip is attenuated as a whole
    measured = 10 * np.log10(gain**2 * np.mean(signal**2) / np.mean((track - gain * signal) ** 2))
    assert measured == pytest.approx(snr_db, abs=0.5)


def test_a_silent_clip_between_tones_is_silent(clips, tmp_path):
    segments = chain(("tone", 5, 1.0), ("silent", 5, 1.0), ("tone", 5, 1.0))
    samples = decode_audio(render_video(segments, clips, tmp_path / "v.mp4", **FORMAT).path, sampling_rate=RATE)[0]
    level = [
        np.sqrt(np.mean(samples[round(a * RATE) : round(b * RATE)] ** 2)) for a, b in ((1, 4), (5.1, 9.9), (11, 14))
    ]
    assert level[0] > 0.3 and level[2] > 0.3 and level[1] < 1e-3


def test_joins_have_no_clicks(clips, tmp_path):
    # the tones meet at different phases: a hard cut would jump by up to twice the amplitude
    segments = chain(*[("tone", seconds, 1.0) for seconds in (1.00025, 1.00075, 1.0005, 1.00033)])
    samples = decode_audio(render_video(segments, clips, tmp_path / "v.mp4", **FORMAT).path, sampling_rate=RATE)[0]
    steepest = 0.5 * 2 * np.pi * 1000 / RATE
    for segment in segments[1:]:
        around = samples[round((segment.start - 0.02) * RATE) : round((segment.start + 0.02) * RATE)]
        assert np.abs(np.diff(around)).max() < 1.5 * steepest
        assert np.sqrt(np.mean(around**2)) > 0.2  # a cross-fade without silence


def test_the_same_seed_gives_the_same_bytes(clips, tmp_path):
    segments = chain(("-flash30", 4, 0.7), ("tone", 4, 1.3))
    one, two, other = (
        render_video(
            segments, clips, tmp_path / name, background_noise_snr_db=20, seed=seed, **FORMAT
        ).path.read_bytes()
        for name, seed in (("1.mp4", 5), ("2.mp4", 5), ("3.mp4", 6))
    )
    assert one == two != other


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, np.mean((one.astype(np.float64) - other) ** 2))))


REAL = (
    "valor_clips/-uGHAvfqs2I_30.000_40.000.mp4",  # 1280x720 at 30
    "valor_clips/Sv9fcuRfk2o_70.000_80.000.mp4",  # 192x144 at 30
    "valor_clips/_xdYMgoI2rY_30.000_40.000.mp4",  # 352x240 at 29.97
    "vggsound/M1pPtg6a_g8_000230.mp4",  # 480x360 at 30
    "vggsound/nLKEdmVu3FY_000040.mp4",  # 320x240 at 30
)


@pytest.mark.parametrize("names, scales", [(REAL[:3], (0.6, 1.9, 1.0)), (REAL[3:], (1.27, 0.83))])
def test_real_clips_give_one_video_with_the_planned_frames(data_dir, tmp_path, names, scales):
    paths = {Path(name).stem: data_dir / name for name in names}
    segments = chain(*[(clip_id, 10, scale) for clip_id, scale in zip(paths, scales)])
    rendered = render_video(segments, paths, tmp_path / "pseudo.mp4", width=320, height=240, fps=25)
    info = probe(rendered.path)
    assert info.duration == pytest.approx(sum(10 * scale for scale in scales), abs=0.04)
    assert (info.fps, info.sampling_rate, info.num_channels) == (25, RATE, 2)
    sound = decode_audio(rendered.path, sampling_rate=RATE)

    shown = list(decode_video(rendered.path))
    for segment in segments:
        letterbox = Letterbox(width=320, height=240)
        indices = range(int(segment.start * 25) + 2, int(segment.end * 25) - 2, 11)
        times = [((index + 0.5) / 25 - segment.start) / segment.scale for index in indices]
        sources = decode_video(paths[segment.clip_id])
        values = [
            psnr(shown[index].frame.to_ndarray(format="rgb24"), letterbox.fit(source).to_ndarray(format="rgb24"))
            for index, source in zip(indices, select_frames(sources, times))
        ]
        assert min(values) >= 25, (segment, min(values))
        # the sound has the level of the source
        heard = sound[:, round(segment.start * RATE) + 4800 : round(segment.end * RATE) - 4800]
        source_sound = decode_audio(paths[segment.clip_id], sampling_rate=RATE)
        assert heard.std() == pytest.approx(source_sound.std(), rel=0.25)


def test_frames_are_shown_at_their_time(clips, tmp_path):
    """Brightness encodes the source time; at random times it differs by at most half a frame of each video."""
    path = write_clip(tmp_path / "ramp.mp4", seconds=10, fps=30, pixels=lambda t: 16 + 22 * t, samples=None)
    segments = chain(("ramp", 10, 0.6), ("ramp", 10, 1.9), ("ramp", 10, 1.0))
    rendered = render_video(segments, {"ramp": path}, tmp_path / "v.mp4", width=64, height=48, fps=25, crf=4)
    shown = [timed.frame.to_ndarray(format="rgb24").mean() for timed in decode_video(rendered.path)]
    for moment in np.random.default_rng(0).uniform(0, 34.9, size=200):
        segment = next(s for s in segments if s.start <= moment < s.end)
        source_time = (moment - segment.start) / segment.scale
        seen = (shown[int(moment * 25)] - 16) / 22
        slack = 0.5 / 25 / segment.scale + 1 / 30 + 0.1  # half a rendered frame, a source frame, two grey levels
        if segment.start + 0.04 < moment < segment.end - 0.04:
            assert abs(seen - source_time) <= slack


def test_a_frame_is_shown_until_the_next_one():
    frames = [TimedFrame(None, time, Orientation(), Fraction(1)) for time in (0.5, 1.0, 1.1, 4.0)]
    times = (0.0, 0.7, 0.9995, 1.05, 1.2, 3.9, 4.0, 9.0)
    assert [timed.time for timed in select_frames(iter(frames), times)] == [0.5, 0.5, 1.0, 1.0, 1.1, 1.1, 4.0, 4.0]


@pytest.mark.parametrize("orientation", [Orientation(*bits) for bits in itertools.product((False, True), repeat=3)])
def test_letterboxing_applies_the_orientation_and_keeps_the_aspect_ratio(orientation):
    """A grey 64x32 frame with a white top left quarter, fitted into 100x100, for all orientations."""
    pixels = np.full((32, 64, 3), 128, dtype=np.uint8)
    pixels[:16, :32] = 255
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
    timed = TimedFrame(frame, 0.0, orientation, Fraction(1))
    fitted = Letterbox(width=100, height=100).fit(timed).to_ndarray(format="rgb24").astype(int)
    assert fitted.shape == (100, 100, 3)
    rows, columns = np.flatnonzero(fitted.mean((1, 2)) > 60), np.flatnonzero(fitted.mean((0, 2)) > 60)
    assert (len(rows), len(columns)) == ((100, 50) if orientation.transpose else (50, 100))
    assert abs(rows[0] + rows[-1] - 99) <= 2 and abs(columns[0] + columns[-1] - 99) <= 2

    def brightest_quarter(picture: np.ndarray) -> tuple:
        height, width = picture.shape[:2]
        return np.unravel_index(np.argmax(picture.reshape(2, height // 2, 2, width // 2, 3).mean((1, 3, 4))), (2, 2))

    inner = fitted[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert brightest_quarter(inner) == brightest_quarter(orientation.turn(pixels))


def test_letterboxing_supports_wide_pixels_and_odd_sizes():
    timed = TimedFrame(av.VideoFrame(45, 33, "yuv420p"), 0.0, Orientation(), Fraction(4, 3))
    fitted = Letterbox(width=60, height=60).fit(timed)
    assert (fitted.width, fitted.height) == (60, 60)
    assert rendering.fit_size(Fraction(60), Fraction(33), width=60, height=60) == (60, 32)
    assert rendering.fit_size(Fraction(1), Fraction(1000), width=60, height=60) == (2, 60)


ODD = {  # file of data/clips: seconds to use
    "fire2.mp4": 2.3,  # variable frame rate, rotated by 180 degrees, mono
    "video_90.mov": 0.1,
    "video_180.mov": 0.1,
    "h265_video.mp4": 1.0,
    "h264_10bits.mp4": 1.0,
    "big_buck_bunny_432_433.webm": 1.0,
    "no_duration.webm": 4.8,
    "small_bunny_1080p_60fps.mp4": 2.0,  # 5.1 sound
    "bitmap.mp4": 5.0,  # 1x1 pixel at 1 frame per second
    "mma_test.avi": 6.5,  # decreasing time stamps
    "dog_barking.mp4": 7.0,
}


def test_unusual_files_are_rendered_into_one_format(data_dir, tmp_path):
    paths = {name: data_dir / "clips" / name for name in ODD}
    segments = chain(*[(name, seconds, 1.1) for name, seconds in ODD.items()])
    rendered = render_video(segments, paths, tmp_path / "odd.mp4", width=128, height=96, fps=10)
    assert probe(rendered.path).duration == pytest.approx(segments[-1].end, abs=0.1)
    shown = [timed.frame.to_ndarray(format="gray") for timed in decode_video(rendered.path)]
    assert len(shown) == rendered.num_frames
    sound = decode_audio(rendered.path, sampling_rate=RATE)
    for segment in segments:
        middle = shown[min(len(shown) - 1, int((segment.start + segment.end) / 2 * 10))]
        assert middle.max() > 20 or segment.clip_id == "no_duration.webm"  # entirely black
        has_sound = probe(paths[segment.clip_id]).has_audio and segment.clip_id != "no_duration.webm"
        level = sound[:, round(segment.start * RATE) + 480 : round(segment.end * RATE) - 480].std()
        assert (level > 1e-4) == has_sound, segment


def test_a_rotated_clip_is_shown_as_by_decord(data_dir):
    decord = pytest.importorskip("decord")
    for name in ("video_90.mov", "video_180.mov"):
        path = data_dir / "clips" / name
        upright = decord.VideoReader(str(path))[0].asnumpy()
        height, width = upright.shape[:2]
        fitted = Letterbox(width=width, height=height).fit(next(decode_video(path)))
        assert psnr(fitted.to_ndarray(format="rgb24"), upright) > 30


@pytest.mark.parametrize("name", ["dog_barking.mp4", "big_buck_bunny_432_433.webm"])
def test_colours_are_kept_when_the_matrix_changes(data_dir, tmp_path, name):
    """One file is tagged BT.709 and one BT.601."""
    path = data_dir / "clips" / name
    info = probe(path)
    rendered = render_video(
        chain((name, 0.5, 1.0)), {name: path}, tmp_path / "v.mp4", width=info.width, height=info.height, fps=24, crf=10
    )
    for ours, theirs in zip(decode_video(rendered.path), decode_video(path)):
        ours, theirs = (timed.frame.to_ndarray(format="rgb24").astype(float) for timed in (ours, theirs))
        assert np.abs((ours - theirs).mean(axis=(0, 1))).max() < 4
        assert psnr(ours, theirs) > 35


@pytest.mark.parametrize(
    "name, seconds, reason",
    [
        ("corrupted.mp4", 5.0, "unreadable video stream"),
        ("gs-16b-2c-44100hz_audio_only.mp4", 5.0, "no video stream"),
        ("sine_mono_s32_8000.wav", 4.0, "no video stream"),
        ("h265_video.mp4", 9.0, "shorter than planned"),
        ("no_such_clip.mp4", 9.0, "no such file"),
    ],
)
def test_an_unusable_clip_is_an_error_that_names_it_and_leaves_no_file(data_dir, tmp_path, name, seconds, reason):
    path = data_dir / "clips" / name
    good = data_dir / "clips" / "fire2.mp4"
    with pytest.raises(MediaError, match=name) as caught:
        render_video(
            chain(("good", 2.0, 1.0), ("bad", seconds, 1.0)), {"good": good, "bad": path}, tmp_path / "v.mp4", **FORMAT
        )
    assert caught.value.reason == reason
    assert caught.value.name == str(path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "segments, message",
    [
        ([], "at least one segment"),
        ([{"clip_id": "tone", "start": -1.0, "end": 2.0, "scale": 1.0, "caption": ""}], "begin at 0 or later"),
        ([{"clip_id": "tone", "start": 0.0, "end": -2.0, "scale": 1.0, "caption": ""}], "end after it begins"),
        ([{"clip_id": "tone", "start": 0.0, "end": 2.0, "scale": 0.0, "caption": ""}], "positive scale"),
        ([{"clip_id": "elsewhere", "start": 0.0, "end": 2.0, "scale": 1.0, "caption": ""}], "'elsewhere'"),
    ],
)
def test_an_invalid_plan_is_an_error_before_writing(clips, tmp_path, segments, message):
    with pytest.raises(ValueError, match=message):
        render_video(segments, clips, tmp_path / "v.mp4", **FORMAT)
    assert os.listdir(tmp_path) == []


def test_an_interrupted_rendering_keeps_the_old_file(clips, tmp_path, monkeypatch):
    output = tmp_path / "v.mp4"
    output.write_bytes(b"the old file")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Letterbox, "fit", interrupt)
    with pytest.raises(KeyboardInterrupt):
        render_video(chain(("tone", 2, 1.0)), clips, output, **FORMAT)
    assert os.listdir(tmp_path) == ["v.mp4"] and output.read_bytes() == b"the old file"


@pytest.mark.parametrize("name", ["hole.mp4", "hole.mkv", "hole.ts"])
def test_sound_after_a_gap_in_a_clip_is_synchronous(tmp_path, name):
    """The clip has a beep at 14 s, after a gap from 2 to 12 s, and so has the rendered video."""
    clip = write_ramp(tmp_path / name, audio_codec="aac", seconds=16, silence=(2.0, 12.0))
    rendered = render_video(chain(("clip", 16.0, 1.0)), {"clip": clip}, tmp_path / "v.mp4", **FORMAT)
    sound = decode_audio(rendered.path, sampling_rate=RATE)[0]
    assert np.flatnonzero(np.abs(sound) > 0.1)[0] / RATE == pytest.approx(14.0, abs=0.04)
