"""Writes small media files with PyAV for the tests: video, audio, or both."""

import ctypes
import os
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest


def tone(seconds: float, *, frequency: float = 440.0, sampling_rate: int = 48_000) -> np.ndarray:
    """A sine of amplitude 0.5, float32 of shape `(num_samples,)`."""
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * sampling_rate)) / sampling_rate)).astype(
        np.float32
    )


def pictures(num_frames: int, *, width: int = 64, height: int = 48) -> np.ndarray:
    """Frames whose brightness grows from black to white, uint8 of shape `(num_frames, height, width, 3)`."""
    levels = np.linspace(0, 255, num_frames).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (num_frames, height, width, 3)).copy()


def write_media(
    path: Path,
    *,
    frames: np.ndarray | None = None,
    fps: int = 10,
    frame_times: list[float] | None = None,
    waveform: np.ndarray | None = None,
    sampling_rate: int = 48_000,
    video_codec: str = "libx264",
    audio_codec: str = "aac",
) -> Path:
    """
    Writes a media file; the container follows from the suffix.

    Args:
        frames: uint8 `(num_frames, height, width, 3)`; None for a file without a video stream.
        frame_times: seconds at which the frames appear (variable frame rate); None for a constant `fps`.
        waveform: mono float32; None for a file without an audio stream.
    """
    with av.open(str(path), "w") as container:
        video = audio = None
        if frames is not None:
            video = container.add_stream(video_codec, rate=fps)
            video.height, video.width, video.pix_fmt = *frames.shape[1:3], "yuv420p"
            video.codec_context.time_base = Fraction(1, 1000)
        if waveform is not None:
            audio = container.add_stream(audio_codec, rate=sampling_rate, layout="mono")
        if video is not None:
            for number, picture in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                seconds = number / fps if frame_times is None else frame_times[number]
                frame.pts, frame.time_base = round(seconds * 1000), Fraction(1, 1000)
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        if audio is not None:
            for packet in encode_sound(audio, waveform):
                container.mux(packet)
    return path


def write_ramp(
    path: Path,
    *,
    codec: str = "libx264",
    audio_codec: str | None = None,
    seconds: int = 20,
    fps: int = 10,
    size: tuple[int, int] = (64, 48),
    pixel_format: str = "yuv420p",
    options: dict[str, str] | None = None,
    sound_start: float = 0.0,
    silence: tuple[float, float] | None = None,
) -> Path:
    """
    A video whose brightness encodes its time, grey 16 + 10 t, with a 1-kHz beep at 14 to 15 s of its audio.

    Args:
        sound_start: start time of the audio stream in seconds, relative to the video; may be negative.
        silence: start and end (seconds) of the audio packets that are left out, a gap in the stream.
    """
    rate, later = 48_000, max(0.0, -sound_start)
    with av.open(str(path), "w") as container:
        fast = {"deadline": "realtime", "cpu-used": "8"} if codec.startswith("libvpx") else {}
        video = container.add_stream(codec, rate=fps, options=fast | (options or {}))
        video.width, video.height, video.pix_fmt = *size, pixel_format
        packets = []
        for number in range(seconds * fps):
            grey = np.full((size[1], size[0]), min(255, 16 + 10 * number / fps), np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, format="gray").reformat(format=pixel_format)
            frame.pts, frame.time_base = number + round(later * fps), Fraction(1, fps)
            packets += video.encode(frame)
        packets += video.encode(None)
        if audio_codec is not None:
            audio = container.add_stream(audio_codec, rate=rate, layout="mono")
            samples = tone(seconds, frequency=1000.0)
            samples[: 14 * rate] = samples[15 * rate :] = 0
            for packet in encode_sound(audio, samples):
                if silence is None or not silence[0] <= packet.pts * packet.time_base < silence[1]:
                    shift = round((sound_start + later) / packet.time_base)
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    packets.append(packet)
        packets.sort(key=lambda packet: float((packet.pts if packet.dts is None else packet.dts) * packet.time_base))
        for packet in packets:
            container.mux(packet)
    return path


def encode_sound(audio: av.audio.AudioStream, samples: np.ndarray) -> list[av.Packet]:
    rate, packets, fifo = audio.codec_context.sample_rate, [], av.AudioFifo()
    sound = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
    sound.sample_rate, sound.pts, sound.time_base = rate, 0, Fraction(1, rate)
    resampler = av.AudioResampler(format=audio.codec_context.format, layout="mono", rate=rate)
    for frame in resampler.resample(sound):
        fifo.write(frame)
    size = audio.codec_context.frame_size or 1024
    while (frame := fifo.read(size)) is not None:
        packets += audio.encode(frame)
    if (frame := fifo.read(0, partial=True)) is not None:
        packets += audio.encode(frame)
    return [*packets, *audio.encode(None)]


def cut_without_encoding(source: Path, output: Path, *, start: float, end: float) -> Path:
    """Copy the packets from the key frame before `start` to `end`; `start` becomes time 0 (`ffmpeg -ss -c copy`)."""
    with av.open(str(source)) as given:
        with av.open(str(output), "w", container_options={"avoid_negative_ts": "disabled"}) as made:
            streams = {stream.index: made.add_stream_from_template(stream) for stream in given.streams}
            packets = [packet for packet in given.demux() if packet.size]
            times = [float(packet.pts * packet.time_base) for packet in packets]
            pictures = [(time, packet) for time, packet in zip(times, packets) if packet.stream.type == "video"]
            key = max(time for time, packet in pictures if packet.is_keyframe and time <= start)
            for time, packet in zip(times, packets):
                if (key if packet.stream.type == "video" else start) <= time < end:
                    shift = round(start / packet.time_base)
                    packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                    packet.stream = streams[packet.stream.index]
                    made.mux(packet)
    return output


def set_display_matrix(path: Path, *, a: int, b: int, c: int, d: int) -> Path:
    """Writes the matrix [a b; c d] into the first track header of an mp4 file."""
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 4 + 4 + (20 if content[content.index(b"tkhd") + 4] == 0 else 32) + 16
    content[place : place + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


@contextmanager
def count_opens(path: Path) -> Iterator[list[int]]:
    """
    Counts how often a file is opened inside the block, by any library: Linux reports it through inotify. The list
    holds the number after the block.
    """
    if sys.platform != "linux":
        pytest.skip("counting opens needs inotify")
    is_opened, is_read, is_closed, libc = 0x20, 0x01, 0x18, ctypes.CDLL(None, use_errno=True)
    descriptor, num_opens = libc.inotify_init1(os.O_NONBLOCK), []
    try:
        assert libc.inotify_add_watch(descriptor, os.fsencode(path), is_opened | is_read | is_closed) > 0
        yield num_opens
        events = os.read(descriptor, 2**20)  # 16 bytes each: the watch, what happened, ...
        num_opens.append(sum(bool(mask & is_opened) for _, mask, _, _ in struct.iter_unpack("=iIII", events)))
    finally:
        os.close(descriptor)
