"""Video frames of many containers: the frames that a player shows at the requested times."""

import av
import numpy as np
import pytest
from PIL import Image

from modeling_avicuna import MediaError, load_video_frames
from modeling_avicuna import media_pictures_avicuna as media_pictures
from modeling_avicuna.media_avicuna import MediaFile, decode_video, probe
from modeling_avicuna.media_file_avicuna import Orientation
from modeling_avicuna.media_pictures_avicuna import decode_frames
from tests.media_files import cut_without_encoding, pictures, set_display_matrix, tone, write_media, write_ramp


B_FRAMES = {"x264-params": "scenecut=0:keyint=12:bframes=2:b-adapt=0"}
OPEN_GROUPS = {"x264-params": "scenecut=0:keyint=12:bframes=3:b-adapt=0:open-gop=1"}
PLAIN = {"g": "12"}
BOTH = {"bf": "2", "g": "12"}
CONTAINERS = {  # file: codec, options, frames per second, whether decord reads it
    "h264.mp4": ("libx264", B_FRAMES, 10, True),
    "h264.mov": ("libx264", B_FRAMES, 10, True),
    "h264.mkv": ("libx264", B_FRAMES, 10, True),
    "h264.3gp": ("libx264", B_FRAMES, 10, True),
    "vp8.webm": ("libvpx", PLAIN, 10, True),
    "vp9.webm": ("libvpx-vp9", PLAIN, 10, True),
    "open_groups.mp4": ("libx264", OPEN_GROUPS, 10, False),
    "hevc_open_groups.mp4": ("libx265", {"x265-params": "keyint=12:log-level=none"}, 10, False),
    "h264.ts": ("libx264", B_FRAMES, 10, False),
    "h264.mts": ("libx264", B_FRAMES, 10, False),
    "h264.flv": ("libx264", B_FRAMES, 10, False),
    "h264.avi": ("libx264", B_FRAMES, 10, False),
    "mpeg4.avi": ("mpeg4", BOTH, 10, False),
    "mjpeg.avi": ("mjpeg", {}, 10, False),
    "mpeg2.ts": ("mpeg2video", BOTH, 25, False),
    "mpeg2.mpg": ("mpeg2video", BOTH, 25, False),
    "mpeg1.mpg": ("mpeg1video", BOTH, 25, False),
    "flv1.flv": ("flv", PLAIN, 10, False),
    "wmv2.wmv": ("wmv2", PLAIN, 10, False),
    "wmv2.asf": ("wmv2", PLAIN, 10, False),
    "vp8.ogv": ("libvpx", PLAIN, 10, False),
}


def shown_times(frames: np.ndarray) -> list[float]:
    """Seconds that the frames of a ramp show."""
    return ((frames[:, :, :, 1].mean((1, 2)) - 16) / 10).round(1).tolist()


@pytest.mark.parametrize("name", CONTAINERS)
def test_selected_frames_equal_those_of_sequential_decoding(tmp_path, monkeypatch, name):
    codec, options, fps, by_decord = CONTAINERS[name]
    pixel_format = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = write_ramp(tmp_path / name, codec=codec, options=options, fps=fps, pixel_format=pixel_format)
    opened = []
    open_reader = media_pictures.decord.VideoReader
    monkeypatch.setattr(
        media_pictures.decord, "VideoReader", lambda *a, **k: opened.append(name) or open_reader(*a, **k)
    )
    frames, duration = load_video_frames(path, 11)
    assert bool(opened) == by_decord
    assert duration == pytest.approx(20.0, abs=0.01)
    np.testing.assert_allclose(shown_times(frames), np.linspace(0, 20, 11), atol=0.3)
    one_by_one = [timed.frame.to_ndarray(format="rgb24") for timed in decode_video(path)]
    wanted = [one_by_one[index] for index in np.linspace(0, 20 * fps - 1, 11, dtype=int)]
    np.testing.assert_allclose(frames.astype(int), np.stack(wanted).astype(int), atol=3)


@pytest.mark.parametrize("limit", ["DECORD_BYTES", "DECORD_PIXELS"])
def test_large_files_and_pictures_are_decoded_by_pyav_to_the_same_frames(tmp_path, monkeypatch, limit):
    path = write_ramp(tmp_path / "a.mp4", options=B_FRAMES)
    expected = load_video_frames(path, 11)
    monkeypatch.setattr(media_pictures, limit, 1000)
    monkeypatch.setattr(media_pictures.decord, "VideoReader", None)
    frames, duration = load_video_frames(path, 11)
    np.testing.assert_array_equal(frames, expected[0])
    assert duration == expected[1]


def test_few_frames_of_a_long_video_are_decoded_by_seeking(tmp_path, monkeypatch):
    path = write_ramp(tmp_path / "long.ts", options=B_FRAMES, seconds=20, fps=50)
    decoded, decode = [], media_pictures.decode_packet

    def count(packet):
        decoded.extend(frames := decode(packet))
        return frames

    monkeypatch.setattr(media_pictures, "decode_packet", count)
    frames, _ = load_video_frames(path, 5)
    np.testing.assert_allclose(shown_times(frames), np.linspace(0, 20, 5), atol=0.3)
    assert len(decoded) < 250


def test_frames_are_decoded_from_the_start_after_an_inexact_seek(tmp_path, monkeypatch):
    path = write_ramp(tmp_path / "ramp.ts", options=B_FRAMES, fps=25)
    with MediaFile(path) as media:
        container = media.container

        class InexactSeek:
            def __getattr__(self, name):
                return getattr(container, name)

            def seek(self, offset, **options):
                container.seek(offset + 5 * 90_000, **options)

        media.times  # noqa: B018  reads the whole file once
        monkeypatch.setattr(media, "rewind", lambda: container.seek(0))
        container = media.container
        media.container = InexactSeek()
        frames = np.concatenate(list(decode_frames(media, np.array([0, 150, 300]))))
    np.testing.assert_allclose(shown_times(frames), [0, 6, 12], atol=0.1)


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_the_edit_list_of_a_cut_without_encoding_is_applied(tmp_path, suffix):
    ramp = write_ramp(
        tmp_path / "ramp.mp4", options={"x264-params": "scenecut=0:keyint=25:bframes=2"}, audio_codec="aac"
    )
    path = cut_without_encoding(ramp, tmp_path / f"cut{suffix}", start=12.0, end=18.0)
    frames, duration = load_video_frames(path, 60)
    assert duration == probe(path).duration == pytest.approx(6.0)
    np.testing.assert_allclose(shown_times(frames), np.arange(12, 18, 0.1), atol=0.15)
    assert [round(timed.time, 3) for timed in decode_video(path)] == [round(k / 10, 3) for k in range(60)]


@pytest.mark.parametrize("name", ["longer_sound.mp4", "longer_sound.mkv", "longer_sound.ts"])
def test_the_duration_is_that_of_the_video_stream(tmp_path, name):
    path = write_media(tmp_path / name, frames=pictures(40), waveform=np.zeros(8 * 48_000, np.float32))
    assert load_video_frames(path, 2)[1] == probe(path).duration == pytest.approx(4.0, abs=0.01)


MATRICES = {  # name: matrix [a b; c d] and the displayed picture
    "upright": ((1, 0, 0, 1), lambda p: p),
    "turned by 90": ((0, 1, -1, 0), lambda p: np.rot90(p, -1)),
    "turned by 180": ((-1, 0, 0, -1), lambda p: np.rot90(p, 2)),
    "turned by 270": ((0, -1, 1, 0), lambda p: np.rot90(p, 1)),
    "mirrored left-right": ((-1, 0, 0, 1), lambda p: p[:, ::-1]),
    "mirrored top-bottom": ((1, 0, 0, -1), lambda p: p[::-1]),
    "transposed": ((0, 1, 1, 0), lambda p: p.transpose(1, 0, 2)),
    "transposed on the other diagonal": ((0, -1, -1, 0), lambda p: p.transpose(1, 0, 2)[::-1, ::-1]),
}


@pytest.mark.parametrize("name", MATRICES)
def test_a_display_matrix_is_applied_as_in_ffmpeg(tmp_path, name):
    (a, b, c, d), expected = MATRICES[name]
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :16] = 255
    path = write_media(tmp_path / "a.mp4", frames=np.stack([picture] * 5))
    set_display_matrix(path, a=a, b=b, c=c, d=d)
    frames, _ = load_video_frames(path, 2)
    np.testing.assert_allclose(frames[0].astype(int), expected(picture).astype(int), atol=40)
    info = probe(path)
    assert (info.height, info.width) == frames.shape[1:3]


class UnknownSideData:
    """A frame with side data of a type that PyAV has no name for, as EXIF in a camera's MJPEG."""

    def __init__(self, frame):
        self.rotation = frame.rotation

    @property
    def side_data(self):
        raise ValueError("31 is not a valid Type")


@pytest.mark.parametrize("matrix", [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)])
def test_a_turn_is_applied_beside_side_data_without_a_name(tmp_path, matrix):
    path = write_media(tmp_path / "a.mp4", frames=pictures(3))
    set_display_matrix(path, **dict(zip("abcd", matrix)))
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    assert Orientation.of(UnknownSideData(frame)) == Orientation.of(frame)


def test_a_picture_with_exif_is_read_as_a_video(tmp_path):
    """A TIFF file always has EXIF side data."""
    Image.new("RGB", (64, 48), (120, 120, 120)).save(tmp_path / "a.tiff")
    frames, _ = load_video_frames(tmp_path / "a.tiff", 2)
    assert frames.shape[1:] == (48, 64, 3) and (frames == 120).all()


@pytest.mark.parametrize("name", ["av1.mkv", "h264.ts", "h264.mkv"])
def test_frames_of_a_changing_size_are_scaled_to_the_first_size(tmp_path, name):
    import av

    codec = "libsvtav1" if "av1" in name else "libx264"
    with av.open(str(tmp_path / name), "w") as container:
        streams = []
        for width, grey in ((128, 50), (192, 200)):
            part = write_media(
                tmp_path / f"{width}.{'mkv' if 'av1' in name else 'ts'}",
                frames=np.full((10, 96, width, 3), grey, np.uint8),
                video_codec=codec,
            )
            with av.open(str(part)) as given:
                if not streams:
                    streams = [container.add_stream(codec, rate=10)]
                    streams[0].width, streams[0].height, streams[0].pix_fmt = width, 96, "yuv420p"
                for packet in given.demux(given.streams.video[0]):
                    if packet.size:
                        shift = round((width > 128) / packet.time_base)
                        packet.pts += shift
                        packet.dts = packet.pts if packet.dts is None else packet.dts + shift
                        packet.stream = streams[0]
                        container.mux(packet)
    frames, _ = load_video_frames(tmp_path / name, 4)
    assert frames.shape == (4, 96, 128, 3)
    assert frames[0].mean() == pytest.approx(50, abs=8) and frames[-1].mean() == pytest.approx(200, abs=8)


@pytest.mark.parametrize(("suffix", "codec"), [(".mp3", "libmp3lame"), (".mp4", "aac"), (".flac", "flac")])
def test_cover_art_is_not_a_video(tmp_path, suffix, codec):
    import av

    path = tmp_path / f"song{suffix}"
    with av.open(str(path), "w") as container:
        audio, cover = container.add_stream(codec, rate=48_000, layout="mono"), container.add_stream("mjpeg")
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 48_000
        fitting = av.AudioResampler(format=audio.codec_context.format, layout="mono", rate=48_000)
        picture = av.VideoFrame.from_ndarray(pictures(2)[1], format="rgb24").reformat(format="yuvj420p")
        packets = [packet for frame in fitting.resample(sound) for packet in audio.encode(frame)]
        for packet in [*packets, *audio.encode(None), *cover.encode(picture), *cover.encode(None)]:
            container.mux(packet)
    assert not probe(path).has_video and probe(path).has_audio
    with pytest.raises(MediaError, match=f"song{suffix}: no video stream"):
        load_video_frames(path, 4)


def test_undecodable_frames_repeat_the_previous_frame(tmp_path):
    path = write_ramp(tmp_path / "ramp.avi", codec="mjpeg", pixel_format="yuvj420p", options={})
    content = path.read_bytes()
    frames = [at for at in range(len(content)) if content.startswith(b"\xff\xd8\xff", at)]
    for at in frames[100:110]:
        content = content[:at] + bytes(200) + content[at + 200 :]
    path.write_bytes(content)
    frames, duration = load_video_frames(path, 11)
    assert len(frames) == 11 and duration == pytest.approx(20.0, abs=0.1)


@pytest.mark.parametrize("form", ["path", "bytes"])
def test_a_packet_beyond_the_end_of_the_file_does_not_crash_the_decoder(tmp_path, form):
    """decord's own reader of bytes reads memory that is not the file's."""
    path = write_media(tmp_path / "a.mp4", frames=pictures(40), waveform=tone(4.0))
    content = bytearray(path.read_bytes())
    table = content.rindex(b"stco") + 12
    content[table + 80 : table + 84] = (2**25).to_bytes(4, "big")
    path.write_bytes(content)
    frames, duration = load_video_frames(path if form == "path" else bytes(content), 5)
    assert frames.shape == (5, 48, 64, 3) and duration > 0


def test_a_false_number_of_frames_in_the_header_reserves_no_memory(tmp_path):
    """decord ends the process when it cannot reserve memory for the number in the header."""
    path = write_media(tmp_path / "a.mp4", frames=pictures(20))
    content = bytearray(path.read_bytes())
    count = content.index(b"stts") + 12
    content[count : count + 4] = b"\xff" * 4
    path.write_bytes(content)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 2**32 - 1
    frames, _ = load_video_frames(path, 5)
    assert frames.shape == (5, 48, 64, 3)


@pytest.fixture
def decoded(monkeypatch):
    """The frames that were decoded."""
    frames, decode = [], media_pictures.decode_packet
    monkeypatch.setattr(media_pictures, "decord", None)
    monkeypatch.setattr(media_pictures, "decode_packet", lambda packet: frames.extend(new := decode(packet)) or new)
    return frames


@pytest.mark.parametrize("name", ["h264.mp4", "h264.mov", "h264.mkv", "h264.ts", "h264.flv"])
def test_a_seek_ends_at_the_key_frame_before_the_wanted_frame(tmp_path, monkeypatch, decoded, name):
    """With frames out of order, the time at which a packet is decoded is before the time at which it is shown."""
    options = {"x264-params": "scenecut=0:keyint=80:bframes=3:b-adapt=0"}
    path = write_ramp(tmp_path / name, options=options, seconds=24)
    monkeypatch.setattr(media_pictures, "SKIPPING_CODECS", ())
    with MediaFile(path) as media:
        assert media.first_frame
        decoded.clear()
        frames = np.concatenate(list(decode_frames(media, np.array([100, 200]))))
    assert shown_times(frames) == [10.0, 20.0]
    assert len(decoded) < 20 + 40 + 30  # and the frames in flight


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_unreferenced_frames_are_not_decoded_and_the_others_do_not_change(tmp_path, monkeypatch, decoded, codec):
    path = write_ramp(tmp_path / "video.mp4", codec=codec, options={"x265-params": "log-level=none"})
    read, num_decoded = [], []
    for codecs in (media_pictures.SKIPPING_CODECS, ()):
        monkeypatch.setattr(media_pictures, "SKIPPING_CODECS", codecs)
        decoded.clear()
        with MediaFile(path) as media:
            read.append(np.concatenate(list(decode_frames(media, np.arange(7, 200, 20)))))
        num_decoded.append(len(decoded))
    np.testing.assert_array_equal(*read)
    assert num_decoded[0] < 0.8 * num_decoded[1]
