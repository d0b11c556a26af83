"""Writing, probing and sequential decoding, on generated and on unusual real files."""

import os
import pickle
from fractions import Fraction

import numpy as np
import pytest

from dataset_builders.media_writer import MediaWriter
from modeling_avicuna import load_audio, load_video_frames
from modeling_avicuna.media_avicuna import MediaError, decode_audio, decode_video, probe
from tests.media_files import pictures, tone, write_media


RATE = 48_000


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(np.float64) - other) ** 2)))


def smooth_frames(num_frames: int, height: int = 48, width: int = 64) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack(
        [np.stack([x * 3, y * 4, (x + y + 4 * k) % 200], axis=-1).astype(np.uint8) for k in range(num_frames)]
    )


def test_written_frames_and_samples_are_read_back(tmp_path):
    frames, samples = smooth_frames(30), np.stack([tone(3, frequency=440), tone(3, frequency=660)])
    with MediaWriter(tmp_path / "v.mp4", width=64, height=48, fps=10, sampling_rate=RATE, crf=8) as writer:
        for frame in frames:
            writer.write_frame(frame)
        for block in np.array_split(samples, 7, axis=1):
            writer.write_audio(block)
    info = probe(tmp_path / "v.mp4")
    assert (info.duration, info.width, info.height, info.fps) == (3.0, 64, 48, 10.0)
    assert (info.sampling_rate, info.num_channels, info.has_video, info.has_audio) == (RATE, 2, True, True)
    decoded = list(decode_video(tmp_path / "v.mp4"))
    assert [round(timed.time, 3) for timed in decoded] == [round(k / 10, 3) for k in range(30)]
    for timed, frame in zip(decoded, frames, strict=True):
        assert psnr(timed.frame.to_ndarray(format="rgb24"), frame) > 30
    read = decode_audio(tmp_path / "v.mp4", sampling_rate=RATE)[:, : samples.shape[1]]
    # aligned sample by sample: the delay of the encoder is removed
    assert 10 * np.log10(np.mean(samples**2) / np.mean((read - samples) ** 2)) > 20
    assert os.listdir(tmp_path) == ["v.mp4"]


def test_writing_is_deterministic_and_without_samples_there_is_no_audio_stream(tmp_path):
    for name in ("1.mp4", "2.mp4"):
        with MediaWriter(tmp_path / name, width=64, height=48, fps=Fraction(30000, 1001)) as writer:
            for frame in smooth_frames(5):
                writer.write_frame(frame)
    assert (tmp_path / "1.mp4").read_bytes() == (tmp_path / "2.mp4").read_bytes()
    assert not probe(tmp_path / "1.mp4").has_audio
    assert decode_audio(tmp_path / "1.mp4", sampling_rate=RATE) is None


def test_the_bytes_do_not_depend_on_the_contents_of_freed_memory(tmp_path):
    """x264's AVX-512 code gave up to six different files in six runs at this width."""
    size, rng = 224, np.random.default_rng(0)
    blocks = rng.integers(0, 255, (24, size // 8, size // 8, 3), np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    found = set()
    for number in range(5):
        freed = [rng.bytes(length) for length in rng.integers(1_000, 300_000, 40)]
        del freed
        with MediaWriter(tmp_path / f"{number}.mp4", width=size, height=size, fps=4) as writer:
            for frame in blocks:
                writer.write_frame(frame)
        found.add((tmp_path / f"{number}.mp4").read_bytes())
    assert len(found) == 1


@pytest.mark.parametrize("num_frames", [0, 1])
def test_an_error_while_writing_is_raised_and_leaves_no_file(tmp_path, num_frames):
    with pytest.raises(RuntimeError, match="raised here"):
        with MediaWriter(tmp_path / "v.mp4", width=64, height=48, fps=10, sampling_rate=RATE) as writer:
            for frame in smooth_frames(num_frames or 1)[:num_frames]:
                writer.write_frame(frame)
            raise RuntimeError("raised here")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("arguments", [{"width": 63}, {"height": 0}, {"num_channels": 6}])
def test_an_unsupported_format_is_an_error(tmp_path, arguments):
    with pytest.raises(ValueError, match=str(*arguments.values())):
        MediaWriter(tmp_path / "v.mp4", **({"width": 64, "height": 48, "fps": 10} | arguments))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("channels, expected", [(1, [0.5, 0.5]), (2, [0.5, 0.25])])
def test_converting_between_mono_and_stereo_keeps_the_level(tmp_path, channels, expected):
    samples = np.stack([tone(1, frequency=500), 0.5 * tone(1, frequency=500)])[:channels]
    with MediaWriter(
        tmp_path / "v.mp4", width=64, height=48, fps=5, sampling_rate=RATE, num_channels=channels
    ) as writer:
        for frame in smooth_frames(5):
            writer.write_frame(frame)
        writer.write_audio(samples)
    stereo = decode_audio(tmp_path / "v.mp4", sampling_rate=RATE)
    mono = decode_audio(tmp_path / "v.mp4", sampling_rate=RATE, num_channels=1)
    middle = slice(RATE // 4, 3 * RATE // 4)
    assert np.abs(stereo[:, middle]).max(axis=1) == pytest.approx(expected, rel=0.05)
    assert np.abs(mono[:, middle]).max() == pytest.approx(np.mean(expected), rel=0.05)


FACTS = {  # file: seconds, displayed width and height, frames, sampling rate, channels
    "clips/fire2.mp4": (2.38, 1280, 720, 25, 48_000, 1),
    "clips/bitmap.mp4": (5.0, 1, 1, 5, None, None),
    "clips/video_0.mov": (0.1, 568, 320, 3, None, None),
    "clips/video_90.mov": (0.1, 320, 568, 3, None, None),
    "clips/video_180.mov": (0.1, 568, 320, 3, None, None),
    "clips/h265_video.mp4": (1.0, 128, 128, 10, None, None),
    "clips/h264_10bits.mp4": (1.0, 200, 200, 30, None, None),
    "clips/big_buck_bunny_432_433.webm": (1.0, 1280, 720, 24, 44_100, 2),
    "clips/no_duration.webm": (4.94, 1280, 720, 74, 48_000, 2),
    "clips/small_bunny_1080p_60fps.mp4": (2.0, 1920, 1080, 120, 48_000, 6),
    "clips/mma_test.avi": (6.56, 320, 240, 164, 44_100, 2),
    "valor_clips/-uGHAvfqs2I_30.000_40.000.mp4": (10.0, 1280, 720, 300, 44_100, 2),
    "valor_clips/Sv9fcuRfk2o_70.000_80.000.mp4": (10.0, 192, 144, 300, 44_100, 2),
}


@pytest.mark.parametrize("name", FACTS)
def test_properties_and_frames_of_real_files(data_dir, name):
    seconds, width, height, num_frames, sampling_rate, num_channels = FACTS[name]
    info = probe(data_dir / name)
    assert info.duration == pytest.approx(seconds, abs=0.01)
    assert (info.width, info.height, info.sampling_rate, info.num_channels) == (
        width,
        height,
        sampling_rate,
        num_channels,
    )
    times = [timed.time for timed in decode_video(data_dir / name)]
    assert len(times) == num_frames and times[0] == pytest.approx(0, abs=0.05)
    assert (np.diff(times) > 0).all() and times[-1] < seconds + 0.05
    sound = decode_audio(data_dir / name, sampling_rate=16_000)
    if num_channels is None:
        assert sound is None
    else:
        assert sound.shape[0] == 2 and sound.dtype == np.float32
        assert sound.shape[1] / 16_000 == pytest.approx(seconds, abs=0.15)


def test_times_of_variable_and_constant_frame_rates(data_dir):
    fire = np.diff([timed.time for timed in decode_video(data_dir / "clips" / "fire2.mp4")])
    assert fire.min() < 0.085 < 0.095 < fire.max()
    avi = np.diff([timed.time for timed in decode_video(data_dir / "clips" / "mma_test.avi")])
    assert avi == pytest.approx(np.full(len(avi), 0.04))


def test_an_audio_file_can_be_probed_and_read(data_dir):
    path = data_dir / "clips" / "sine_mono_s32_8000.wav"
    info = probe(path)
    assert (info.duration, info.has_video, info.sampling_rate, info.num_channels) == (4.0, False, 8000, 1)
    assert decode_audio(path, sampling_rate=RATE).shape == (2, 4 * RATE)
    with pytest.raises(MediaError, match="no video stream"):
        next(decode_video(path))


READERS = {
    "decode_video": lambda path: list(decode_video(path)),
    "load_video_frames": load_video_frames,
    "load_audio": load_audio,
}


@pytest.mark.parametrize("reader", READERS)
def test_an_unreadable_file_is_an_error_with_name_and_reason(tmp_path, reader):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("not a film\n" * 50)
    whole = write_media(tmp_path / "whole.mp4", frames=pictures(30), waveform=tone(3)).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    for path, reason in (
        (tmp_path / "missing.mp4", "no such file"),
        (tmp_path, "is a folder, not a media file"),
        (tmp_path / "empty.mp4", "an empty file"),
        (tmp_path / "text.mp4", "not a readable media file"),
        (tmp_path / "cut.mp4", "not a readable media file"),
        (None, "is neither a path, a URL, bytes nor a binary file object"),
    ):
        with pytest.raises(MediaError) as caught:
            READERS[reader](path)
        assert caught.value.reason == reason
        assert str(caught.value).startswith(f"{path}: {reason}")


def test_a_corrupted_picture_is_an_error_where_all_pictures_are_read(data_dir):
    path = data_dir / "clips" / "corrupted.mp4"
    with pytest.raises(MediaError, match="corrupted.mp4: unreadable video stream"):
        list(decode_video(path))
    frames, duration = load_video_frames(path, 4)  # from the pictures that can be decoded
    assert frames.shape[0] == 4 and duration > 0


def test_a_media_error_can_be_pickled():
    error = MediaError("a/b.mp4", "no such file", "gone")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.name, copy.reason, copy.detail) == (str(error), "a/b.mp4", "no such file", "gone")


def test_unusual_file_names_are_written_and_read(tmp_path):
    for name in ("-starts-with-dash.mp4", "with:colon.mp4", "with space %03d.mp4"):
        with MediaWriter(tmp_path / name, width=64, height=48, fps=10) as writer:
            for frame in smooth_frames(3):
                writer.write_frame(frame)
        assert probe(tmp_path / name).duration == pytest.approx(0.3)
    assert len(os.listdir(tmp_path)) == 3


def test_a_relative_name_that_starts_with_a_dash_is_written_and_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with MediaWriter("-x.mp4", width=64, height=48, fps=10) as writer:
        writer.write_frame(smooth_frames(1)[0])
    assert probe("-x.mp4").width == 64
    assert load_video_frames("-x.mp4", 1)[0].shape == (1, 48, 64, 3)
