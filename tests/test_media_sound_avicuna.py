"""Audio on the time axis of the video: start times, gaps, rates, channels, and spans read by seeking."""

import resource
import time
from fractions import Fraction

import av
import numpy as np
import pytest

from modeling_avicuna import MediaError, load_audio
from modeling_avicuna.media_avicuna import MediaFile, Sound, decode_audio, resample, scale_samples
from tests.media_files import cut_without_encoding, encode_sound, pictures, tone, write_media, write_ramp


RATE = 48_000
CONTAINERS = {  # file: video codec, audio codec, frames per second
    "a.mp4": ("libx264", "aac", 10),
    "a.mov": ("libx264", "aac", 10),
    "a.3gp": ("libx264", "aac", 10),
    "a.mkv": ("libx264", "aac", 10),
    "flac.mkv": ("libx264", "flac", 10),
    "a.webm": ("libvpx", "libopus", 10),
    "a.ts": ("libx264", "aac", 10),
    "mp2.ts": ("mpeg2video", "mp2", 25),
    "a.mpg": ("mpeg2video", "mp2", 25),
    "a.flv": ("libx264", "aac", 10),
}


def beep_start(waveform: np.ndarray) -> float:
    """Start of the beep in seconds."""
    return float(np.flatnonzero(np.abs(waveform) > 0.1)[0]) / RATE


def pitch(waveform: np.ndarray, second: float) -> int:
    part = waveform[round(second * RATE) : round((second + 0.5) * RATE)]
    return int(np.abs(np.fft.rfft(part)).argmax()) * 2


@pytest.mark.parametrize("start", [-2.0, 1.5])
@pytest.mark.parametrize("name", CONTAINERS)
def test_audio_that_starts_before_or_after_the_video_is_synchronous(tmp_path, name, start):
    """The beep is 14 s into the audio, which starts `start` seconds after the video."""
    codec, audio_codec, fps = CONTAINERS[name]
    path = write_ramp(tmp_path / name, codec=codec, audio_codec=audio_codec, fps=fps, seconds=16, sound_start=start)
    assert beep_start(load_audio(path)) == pytest.approx(14.0 + start, abs=0.04)
    assert beep_start(decode_audio(path, sampling_rate=RATE)[0]) == pytest.approx(14.0 + start, abs=0.04)


@pytest.mark.parametrize("name", [name for name in CONTAINERS if name != "a.3gp"])
def test_a_gap_in_the_audio_is_silent_in_both_readers(tmp_path, name):
    codec, audio_codec, fps = CONTAINERS[name]
    path = write_ramp(tmp_path / name, codec=codec, audio_codec=audio_codec, fps=fps, seconds=16, silence=(2.0, 12.0))
    for waveform in (load_audio(path), decode_audio(path, sampling_rate=RATE, num_channels=1)[0]):
        assert beep_start(waveform) == pytest.approx(14.0, abs=0.04)
        assert len(waveform) / RATE == pytest.approx(16.0, abs=0.1)


@pytest.mark.parametrize("suffix", [".mkv", ".flv", ".mp4"])
def test_a_time_stamp_hours_ahead_is_an_error_and_not_hours_of_silence(tmp_path, suffix):
    source = write_media(tmp_path / f"good{suffix}", waveform=tone(2.0))
    path = tmp_path / f"damaged{suffix}"
    with av.open(str(source)) as good, av.open(str(path), "w") as damaged:
        stream = damaged.add_stream_from_template(good.streams.audio[0])
        for packet in good.demux(good.streams.audio[0]):
            if packet.pts is None:
                continue
            if packet.pts * packet.time_base > 1:
                packet.pts += round(20_000 / packet.time_base)
                packet.dts = packet.pts
            packet.stream = stream
            damaged.mux(packet)
    with pytest.raises(MediaError, match=rf"damaged\{suffix}: damaged time stamps .*a gap of 20000 s"):
        load_audio(path)


def test_audio_of_a_cut_without_encoding_is_synchronous(tmp_path):
    ramp = write_ramp(
        tmp_path / "ramp.mp4", options={"x264-params": "scenecut=0:keyint=25:bframes=2"}, audio_codec="aac"
    )
    path = cut_without_encoding(ramp, tmp_path / "cut.mp4", start=12.0, end=18.0)
    assert beep_start(load_audio(path)) == pytest.approx(2.0, abs=0.03)


@pytest.mark.parametrize("rate", [44_101, 11_127, 7_919, 44_100, 22_050, 96_000])
def test_resampling_needs_little_time_and_memory(tmp_path, rate):
    path = write_media(
        tmp_path / "a.wav",
        waveform=tone(1.0, frequency=880.0, sampling_rate=rate),
        sampling_rate=rate,
        audio_codec="pcm_s16le",
    )
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    waveform = load_audio(path)
    assert len(waveform) == RATE
    assert time.process_time() - begin < 1.0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024
    np.testing.assert_allclose(waveform[2000:-2000], tone(1.0, frequency=880.0)[2000:-2000], atol=2e-3)


@pytest.mark.parametrize("parts", [(44_100, 22_050), (22_050, 44_100), (48_000, 32_000, 48_000)])
def test_a_changing_sampling_rate_keeps_pitch_and_time(tmp_path, parts):
    content = b""
    for number, rate in enumerate(parts):
        sound = tone(5.0, frequency=440.0 * (number + 1), sampling_rate=rate)
        part = write_media(tmp_path / "part.mp3", waveform=sound, sampling_rate=rate, audio_codec="libmp3lame")
        content += part.read_bytes()
    (tmp_path / "joined.mp3").write_bytes(content)
    waveform = load_audio(tmp_path / "joined.mp3")
    assert [pitch(waveform, 5 * n + 2.0) for n in range(len(parts))] == [440 * (n + 1) for n in range(len(parts))]
    assert len(waveform) / RATE == pytest.approx(5 * len(parts), abs=0.2)


def write_channels(path, layout: str, *, frequency: float = 440.0, codec: str = "aac"):
    with av.open(str(path), "w") as container:
        audio = container.add_stream(codec, rate=RATE, layout=layout)
        num_channels = audio.layout.nb_channels
        fifo = av.AudioFifo()
        samples = np.stack([tone(2.0, frequency=frequency)] * num_channels)
        packed = np.ascontiguousarray(samples.T.reshape(1, -1))
        frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=layout)
        frame.sample_rate = RATE
        converter = av.AudioResampler(format=audio.codec_context.format, layout=layout, rate=RATE)
        for part in converter.resample(frame):
            fifo.write(part)
        while (part := fifo.read(audio.codec_context.frame_size or 1024)) is not None:
            container.mux(audio.encode(part))
        container.mux(audio.encode(None))
    return path


@pytest.mark.parametrize("layouts", [("mono", "stereo"), ("stereo", "mono"), ("mono", "5.1")])
def test_a_changing_channel_layout_is_mixed(tmp_path, layouts):
    content = b""
    for number, layout in enumerate(layouts):
        content += write_channels(tmp_path / "part.aac", layout, frequency=440.0 * (number + 1)).read_bytes()
    (tmp_path / "joined.aac").write_bytes(content)
    waveform = load_audio(tmp_path / "joined.aac")
    assert (pitch(waveform, 0.5), pitch(waveform, 2.7)) == (440, 880)
    assert decode_audio(tmp_path / "joined.aac", sampling_rate=RATE).shape[0] == 2


@pytest.mark.parametrize(
    ("name", "layout", "codec"),
    [
        ("a.m4a", "7.1", "aac"),
        ("a.flac", "7.1", "flac"),
        ("a.wav", "hexadecagonal", "pcm_s16le"),
        ("a.m4a", "5.1", "aac"),
    ],
)
def test_many_channels_are_averaged(tmp_path, name, layout, codec):
    waveform = load_audio(write_channels(tmp_path / name, layout, codec=codec))
    # AAC removes high frequencies from the low-frequency channel
    np.testing.assert_allclose(waveform[5000:90_000], tone(2.0)[5000:90_000], atol=0.2 if codec == "aac" else 1e-3)


@pytest.mark.parametrize("kind", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "f4", "f8"])
def test_samples_of_every_type_keep_their_level(kind):
    """Within 0.01 dB (0.1 dB for eight bits)."""
    dtype, wave = np.dtype(kind), tone(0.1).astype(np.float64)
    if dtype.kind == "f":
        samples = wave.astype(dtype)
    else:
        half = 2.0 ** (8 * dtype.itemsize - 1)
        samples = (np.round(wave * (half - 1)) + (half if dtype.kind == "u" else 0)).astype(dtype)
    scaled = scale_samples(samples)
    assert scaled.dtype == np.float32
    decibels = 20 * np.log10(np.sqrt(np.mean(scaled**2)) / np.sqrt(np.mean(wave**2)))
    assert abs(decibels) < (0.1 if dtype.itemsize == 1 else 0.01)


@pytest.mark.parametrize("kind", ["?", "c8", "U3", "O"])
def test_samples_of_other_types_are_an_error(kind):
    with pytest.raises(ValueError, match="samples must be integers or floats"):
        scale_samples(np.zeros(3, kind))


def move_time_stamp(source, path, *, packet_number: int, seconds: float):
    """Writes the packets of `source` as FLV, with a later time stamp of one audio packet."""
    with av.open(str(source)) as given, av.open(str(path), "w") as made:
        streams = {stream.index: made.add_stream_from_template(stream) for stream in given.streams}
        packets = [packet for packet in given.demux() if packet.size]
        for packet in packets:
            packet.stream = streams[packet.stream.index]
            made.mux(packet)
    content, starts = bytearray(path.read_bytes()), []
    position = 13
    while position < len(content) - 11:  # FLV tags: kind, size (3 bytes), milliseconds (3 bytes and the highest one)
        if content[position] == 8:
            starts.append(position)
        position += 15 + int.from_bytes(content[position + 1 : position + 4], "big")
    tag = starts[packet_number]
    time = int.from_bytes(content[tag + 4 : tag + 7], "big") + round(seconds * 1000)
    content[tag + 4 : tag + 7], content[tag + 7] = (time & 0xFFFFFF).to_bytes(3, "big"), time >> 24
    path.write_bytes(content)
    return path


def noise(seconds: float, rate: int) -> np.ndarray:
    rng, times = np.random.default_rng(0), np.arange(round(seconds * rate)) / rate
    sweep = 0.3 * np.sin(2 * np.pi * (200 + 20 * times) * times)
    return (sweep + 0.1 * rng.standard_normal(len(times))).astype(np.float32)


SPANS = {  # file: audio codec, sampling rate
    "a.mp4": ("aac", 44_100),
    "a.mkv": ("aac", 44_100),
    "opus.mkv": ("libopus", 48_000),
    "flac.mkv": ("flac", 44_100),
    "a.ts": ("aac", 48_000),
    "a.mp3": ("libmp3lame", 44_100),
    "a.aac": ("aac", 44_100),
    "a.ogg": ("libopus", 48_000),
    "a.flac": ("flac", 48_000),
    "a.wav": ("pcm_s16le", 44_101),
    "a.avi": ("libmp3lame", 44_100),
    "a.flv": ("aac", 44_100),
}


def check_spans(path, *, max_share: float = 0.3, length_tolerance: int = 0) -> list[np.ndarray]:
    """Spans must equal the whole audio, with at most `max_share` of the file's packets decoded for them.

    The length known before decoding must equal that of the whole audio, within `length_tolerance` samples.
    """
    spans = [(round(second * RATE), round((second + 2) * RATE)) for second in (0.5, 13.3, 37.25)]
    with MediaFile(path) as media:
        whole = Sound(media, sampling_rate=RATE).read_all()
    with MediaFile(path) as media:
        sound, num_blocks = Sound(media, sampling_rate=RATE), []
        decode = sound._decode
        sound._decode = lambda *part: (num_blocks.append(block) or block for block in decode(*part))
        parts = sound.read(spans)
        assert len(num_blocks) <= len(sound.table) * max_share
        assert abs(sound.num_samples - whole.shape[1]) <= length_tolerance
    for part, (first, last) in zip(parts, spans):
        expected = np.pad(whole[:, first:last], ((0, 0), (0, max(0, last - whole.shape[1]))))
        np.testing.assert_allclose(part, expected, atol=1e-5)
    return parts


@pytest.mark.parametrize("name", SPANS)
def test_spans_equal_those_of_the_whole_audio_and_only_they_are_decoded(tmp_path, name):
    codec, rate = SPANS[name]
    path = write_media(tmp_path / name, waveform=noise(40, rate), sampling_rate=rate, audio_codec=codec)
    parts = check_spans(path)
    np.testing.assert_array_equal(load_audio(path, start=13.3, end=15.3), parts[1][0])


@pytest.mark.parametrize("has_index", [True, False])
def test_spans_of_an_mp3_file_with_a_variable_bit_rate(tmp_path, has_index):
    waveform = noise(40, 44_100)
    waveform[np.arange(len(waveform)) % (4 * 44_100) < 75_000] *= 1e-3
    with av.open(str(tmp_path / "a.mp3"), "w") as container:
        audio = container.add_stream("libmp3lame", rate=44_100, layout="mono", options={"q": "4"})
        for packet in encode_sound(audio, waveform):
            container.mux(packet)
    if not has_index:  # the first frame holds the table of seek positions
        content = (tmp_path / "a.mp3").read_bytes()
        sync = content.index(b"\xff\xfb")
        (tmp_path / "a.mp3").write_bytes(content[content.index(content[sync : sync + 2], sync + 100) :])
    check_spans(tmp_path / "a.mp3")


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.flv"])
def test_spans_of_audio_with_a_gap_that_starts_late(tmp_path, name):
    path = write_ramp(tmp_path / name, audio_codec="aac", seconds=40, silence=(9.0, 31.0), sound_start=1.3)
    # Matroska rounds the time stamp after the gap to 1 ms
    check_spans(path, length_tolerance=RATE // 1000 if name == "a.mkv" else 0)


def test_spans_of_a_cut_without_encoding(tmp_path):
    options = {"x264-params": "scenecut=0:keyint=25:bframes=2"}
    ramp = write_ramp(tmp_path / "ramp.mp4", options=options, audio_codec="aac", seconds=50)
    check_spans(cut_without_encoding(ramp, tmp_path / "cut.mp4", start=3.0, end=45.0))


def test_spans_of_audio_without_usable_time_stamps_need_one_pass(tmp_path):
    ramp = write_ramp(tmp_path / "ramp.mp4", audio_codec="aac", seconds=40)
    check_spans(move_time_stamp(ramp, tmp_path / "a.flv", packet_number=300, seconds=2.0), max_share=1.0)


def test_a_part_after_the_end_is_silent_or_none(tmp_path):
    path = write_media(tmp_path / "a.wav", waveform=tone(2.0), audio_codec="pcm_s16le")
    assert load_audio(path, start=1.5).shape == (RATE // 2,)
    assert load_audio(path, start=5.0, end=6.0) is None
    with MediaFile(path) as media:
        assert not Sound(media, sampling_rate=RATE).read([(5 * RATE, 6 * RATE)])[0].any()


def test_an_audio_stream_that_ffmpeg_does_not_select_is_read(tmp_path):
    """FFmpeg selects no best audio stream if it saw no packet of one while it opened the file."""
    path = write_ramp(tmp_path / "a.ts", audio_codec="aac", seconds=16, sound_start=-3.0)
    with MediaFile(path) as media:
        assert media.sound is not None
    assert beep_start(load_audio(path)) == pytest.approx(11.0, abs=0.04)


def test_undecodable_audio_is_an_error_that_names_the_file(tmp_path):
    path = write_media(tmp_path / "a.mp4", frames=pictures(10), waveform=tone(1.0))
    content = path.read_bytes()
    with av.open(str(path)) as container:
        for packet in container.demux(audio=0):
            if packet.size:
                content = content[: packet.pos] + b"\xff" * packet.size + content[packet.pos + packet.size :]
    path.write_bytes(content)
    with pytest.raises(MediaError, match="a.mp4: unreadable audio stream"):
        load_audio(path)


@pytest.mark.parametrize(
    ("from_rate", "to_rate"), [(44_101, 48_000), (48_000, 44_100), (8_000, 48_000), (48_000, 48_000)]
)
def test_resampling_keeps_length_and_shape(from_rate, to_rate):
    samples = np.stack([tone(0.5, sampling_rate=from_rate)] * 2)
    resampled = resample(samples, from_rate, to_rate)
    assert resampled.shape == (2, -(-samples.shape[1] * Fraction(to_rate, from_rate) // 1))
    assert resample(samples[0], from_rate, to_rate).shape == resampled.shape[1:]


@pytest.mark.parametrize("packet_number", [35, 36, -1, -2])
@pytest.mark.parametrize("jump", [2.0, 67_000.0])
def test_a_damaged_time_stamp_adds_no_silence(tmp_path, packet_number, jump):
    """The time stamp of one packet is seconds or hours later than those around it."""
    ramp = write_ramp(tmp_path / "ramp.mp4", audio_codec="aac", seconds=16)
    path = move_time_stamp(ramp, tmp_path / "a.flv", packet_number=packet_number, seconds=jump)
    waveform = load_audio(path)
    assert len(waveform) / RATE == pytest.approx(16.0, abs=2.1 if packet_number < 0 else 0.1)
    assert beep_start(waveform) == pytest.approx(14.0, abs=0.05)


def test_nan_and_infinite_samples_are_replaced(tmp_path):
    path = write_media(tmp_path / "a.wav", waveform=tone(1.0), audio_codec="pcm_f32le")
    content = bytearray(path.read_bytes())
    content[-40_000:-39_996] = np.float32(np.nan).tobytes()
    content[-20_000:-19_996] = np.float32(np.inf).tobytes()
    path.write_bytes(content)
    assert np.isfinite(load_audio(path)).all()
