"""Video frames and images: frame selection, both decoders, CLIP's preprocessing, and unreadable files."""

import gc
import io
import json

import numpy as np
import pytest
import torch
from transformers import AutoVideoProcessor, CLIPImageProcessor

from modeling_avicuna import AVicunaVideoProcessor, MediaError, load_video_frames
from modeling_avicuna import media_pictures_avicuna as media_pictures
from modeling_avicuna.interleaving_avicuna import resample_rows
from modeling_avicuna.video_processing_avicuna import frame_indices, load_image, read_video
from tests.media_files import pictures, tone, write_media


def constant_times(num_frames: int, *, fps: float = 25.0) -> np.ndarray:
    begins = np.arange(num_frames) / fps
    return np.stack([begins, begins + 1 / fps], axis=1)


def test_frames_equal_the_published_ones(golden_dir):
    """All rows of inference_frames in golden/resample, with and without a split in seconds."""
    rows = json.loads((golden_dir / "resample" / "resample.json").read_text())["inference_frames"]
    assert sum(row["split"] is None for row in rows) == 27 and len(rows) == 30
    for row in rows:
        times = constant_times(row["total_frames"], fps=row.get("fps", 25.0))
        start, end = row["split"] or (None, None)
        assert frame_indices(times, row["N"], start=start, end=end).tolist() == row["index"], row["split"]


def test_frames_of_a_part_equal_the_published_ones():
    """Published: from int(fps * start) to min(int(fps * end), last)."""
    for start, end in ((0.0, 1.0), (0.5, 2.02), (3.999, 7.3), (9.0, 60.0)):
        first, last = int(25 * start), min(int(25 * end), 249)
        ours = frame_indices(constant_times(250), 10, start=start, end=end)
        assert ours.tolist() == np.linspace(first, last, 10, dtype=np.int32).tolist()


@pytest.mark.parametrize(("num_total", "num_frames"), [(250, 75), (250, 100), (10, 75), (7, 3), (1, 2)])
def test_centred_frames_show_the_middle_of_their_interval(num_total, num_frames):
    """With a constant frame rate the frames are those of `resample_rows(..., "centred")`."""
    indices = frame_indices(constant_times(num_total), num_frames, alignment="centred")
    assert indices.tolist() == resample_rows(num_total, num_frames, "centred")
    part = frame_indices(
        constant_times(num_total + 50), num_frames, start=1.0, end=1.0 + num_total / 25, alignment="centred"
    )
    assert (part - 25).tolist() == indices.tolist()


def test_frames_of_a_variable_frame_rate_are_selected_by_time():
    """Ten frames in the first second and ten in the next five."""
    begins = np.array([0.1 * k for k in range(10)] + [1.0 + 0.5 * k for k in range(10)])
    times = np.stack([begins, np.append(begins[1:], 6.0)], axis=1)
    indices = frame_indices(times, 12)
    moments = np.linspace(0, begins[-1], 12)
    assert all(begins[i] <= t + 1e-3 and (i == 19 or begins[i + 1] > t) for i, t in zip(indices, moments))
    assert indices[0] == 0 and indices[-1] == 19 and (np.diff(indices) >= 0).all()


@pytest.mark.parametrize(
    ("num_frames", "start", "end"), [(0, None, None), (4, 5.0, 5.0), (4, 3.0, 2.0), (4, 11.0, 12.0)]
)
def test_an_empty_selection_is_an_error(num_frames, start, end):
    with pytest.raises(ValueError, match="num_frames must be|the interval from"):
        frame_indices(constant_times(250), num_frames, start=start, end=end)


def test_a_file_gives_frames_and_its_duration(tmp_path):
    path = write_media(tmp_path / "-a b.mp4", frames=pictures(20), fps=10)
    frames, duration = load_video_frames(path, 5)
    assert frames.shape == (5, 48, 64, 3) and frames.dtype == np.uint8
    assert duration == pytest.approx(2.0, abs=0.01)
    np.testing.assert_allclose(frames.mean(axis=(1, 2, 3)), [0, 53, 120, 187, 255], atol=6)
    part, duration = load_video_frames(path, 2, start=1.0, end=1.5)
    assert duration == pytest.approx(0.5)
    np.testing.assert_allclose(part.mean(axis=(1, 2, 3)), [10 * 255 / 19, 15 * 255 / 19], atol=6)


def test_both_decoders_accept_file_objects(tmp_path, monkeypatch):
    path = write_media(tmp_path / "a.mp4", frames=pictures(10), waveform=tone(1.0))
    stream = io.BytesIO(path.read_bytes())
    expected = load_video_frames(path, 4)[0]
    np.testing.assert_array_equal(load_video_frames(stream, 4)[0], expected)
    monkeypatch.setattr(media_pictures, "decord", None)
    np.testing.assert_array_equal(load_video_frames(stream, 4)[0], expected)


@pytest.mark.parametrize("ending", ["frames", "decord fails", "transform fails", "bad interval"])
def test_decoders_are_freed_with_the_call(tmp_path, monkeypatch, ending):
    """A decoder that is freed later, in a forked process, would wait for threads that do not exist there."""
    path, alive, options = write_media(tmp_path / "a.mp4", frames=pictures(20)), [], {}
    open_reader = media_pictures.decord.VideoReader

    class Reader(open_reader):
        def __init__(self, *arguments, **keywords):
            super().__init__(*arguments, **keywords)
            alive.append(id(self))

        def __del__(self):
            super().__del__()
            alive.remove(id(self))

    def fail(self, indices):
        raise media_pictures.DECORDError("damaged")

    def refuse(chunk):
        raise ValueError("no such size")

    monkeypatch.setattr(media_pictures.decord, "VideoReader", Reader)
    if ending == "decord fails":
        monkeypatch.setattr(media_pictures._DecordReader, "read", fail)
    if ending == "transform fails":
        options = {"transform": refuse}
    if ending == "bad interval":
        options = {"start": 5.0, "end": 4.0}
    gc.disable()
    try:
        if options:
            with pytest.raises(ValueError) as raised:
                read_video(path, num_frames=4, **options)
            assert raised.value.__traceback__ is not None  # the traceback still refers to its frames
        else:
            assert len(read_video(path, num_frames=4)[0]) == 4
        assert alive == []
    finally:
        gc.enable()


def test_a_short_video_repeats_frames(tmp_path):
    frames, _ = load_video_frames(write_media(tmp_path / "a.mp4", frames=pictures(1)), 3)
    assert frames.shape[0] == 3 and (frames[0] == frames[2]).all()


def test_av1_is_decoded_without_decord(tmp_path):
    path = write_media(tmp_path / "a.mkv", frames=pictures(12, width=128, height=96), video_codec="libsvtav1")
    frames, duration = load_video_frames(path, 3)
    assert duration == pytest.approx(1.2, abs=0.01)
    np.testing.assert_allclose(frames.mean(axis=(1, 2, 3)), [0, 5 * 255 / 11, 255], atol=8)


def test_a_file_with_a_variable_frame_rate(tmp_path):
    times = [0.1 * k for k in range(10)] + [1.0 + 0.5 * k for k in range(10)]
    path = write_media(tmp_path / "vfr.mp4", frames=pictures(20), frame_times=times)
    frames, duration = load_video_frames(path, 12)
    shown = [np.searchsorted(times, t + 1e-3, side="right") - 1 for t in np.linspace(0, times[-1], 12)]
    assert duration == pytest.approx(5.6, abs=0.5)
    np.testing.assert_allclose(frames.mean(axis=(1, 2, 3)), [index * 255 / 19 for index in shown], atol=8)


@pytest.mark.parametrize("name", ["video_0.mov", "video_90.mov", "video_180.mov", "fire2.mp4"])
def test_rotation_is_the_same_in_both_decoders(data_dir, monkeypatch, name):
    ours = load_video_frames(data_dir / "clips" / name, 3)
    monkeypatch.setattr(media_pictures, "decord", None)
    other = load_video_frames(data_dir / "clips" / name, 3)
    assert ours[0].shape == other[0].shape == ((3, 568, 320, 3) if "90" in name else ours[0].shape)
    np.testing.assert_allclose(ours[0].astype(int), other[0].astype(int), atol=2)
    assert ours[1] == pytest.approx(other[1], abs=0.01)


@pytest.mark.parametrize(
    ("name", "shape", "seconds"),
    [
        ("clips/corrupted.mp4", (720, 1280), 5.0),
        ("clips/no_duration.webm", (720, 1280), 4.94),
        ("clips/bitmap.mp4", (1, 1), 5.0),
        ("clips/h265_video.mp4", (128, 128), 1.0),
        ("clips/h264_10bits.mp4", (200, 200), 1.0),
        ("clips/mma_test.avi", (240, 320), 6.56),
        ("clips/big_buck_bunny_432_433.webm", (720, 1280), 1.0),
        ("clips/small_bunny_1080p_60fps.mp4", (1080, 1920), 2.0),
        ("msrvtt/video7013.mp4", (240, 320), 14.0),
        ("valor_clips/-uGHAvfqs2I_30.000_40.000.mp4", (720, 1280), 10.0),
        ("valor_clips/Sv9fcuRfk2o_70.000_80.000.mp4", (144, 192), 10.0),
        ("valor_clips/_xdYMgoI2rY_30.000_40.000.mp4", (240, 352), 10.01),
    ],
)
def test_frames_of_real_files(data_dir, name, shape, seconds):
    frames, duration = load_video_frames(data_dir / name, 4)
    assert frames.shape == (4, *shape, 3)
    assert duration == pytest.approx(seconds, abs=0.01)


def test_a_file_without_a_video_stream_is_an_error_that_names_it(tmp_path):
    write_media(tmp_path / "sound.mp4", waveform=tone(0.5))
    with pytest.raises(MediaError, match="sound.mp4: no video stream"):
        load_video_frames(tmp_path / "sound.mp4", 2)


def test_preprocessing_equals_clip(tmp_path):
    """Bit-equal to the CLIP image processor of transformers, at once or in chunks."""
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 256, (20, 90, 120, 3), dtype=np.uint8)
    expected = CLIPImageProcessor()(list(frames), return_tensors="pt")["pixel_values"]
    processor = AVicunaVideoProcessor()
    torch.testing.assert_close(processor.preprocess_frames(frames), expected, rtol=0, atol=0)
    path = write_media(tmp_path / "a.mp4", frames=frames)
    chunked, _ = processor.load(path, num_frames=20)
    torch.testing.assert_close(chunked, processor.preprocess_frames(load_video_frames(path, 20)[0]), rtol=0, atol=0)


def test_the_video_processor_accepts_paths_and_arrays(tmp_path):
    processor = AVicunaVideoProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    path = write_media(tmp_path / "a.mp4", frames=pictures(10))
    assert processor(str(path), return_tensors="pt")["pixel_values_videos"].shape == (1, 75, 3, 32, 32)
    assert processor.load(pictures(10), num_frames=4)[0].shape == (4, 3, 32, 32)
    first = torch.from_numpy(pictures(10)).permute(0, 3, 1, 2)
    assert torch.equal(processor.load(first, num_frames=4)[0], processor.load(pictures(10), num_frames=4)[0])
    for wrong in (np.zeros((2, 8, 8), np.uint8), np.zeros((2, 8, 8, 3), np.float32), np.zeros((0, 8, 8, 3), np.uint8)):
        with pytest.raises(ValueError, match="must be uint8 of shape"):
            processor.load(wrong)


def test_a_saved_video_processor_loads_with_its_settings(tmp_path):
    AVicunaVideoProcessor(num_frames=7, size={"shortest_edge": 32}).save_pretrained(tmp_path)
    loaded = AutoVideoProcessor.from_pretrained(tmp_path, trust_remote_code=True)
    assert (loaded.num_frames, dict(loaded.size)) == (7, {"shortest_edge": 32})


def test_an_image_of_a_video_is_its_middle_frame(tmp_path):
    from PIL import Image

    red = np.zeros((6, 8, 3), np.uint8)
    red[..., 0] = 255
    Image.fromarray(red).save(tmp_path / "red.png")
    np.testing.assert_array_equal(load_image(tmp_path / "red.png"), red[None])
    video = write_media(tmp_path / "a.mp4", frames=pictures(11))
    assert load_image(video).mean() == pytest.approx(127, abs=6)
    with pytest.raises(MediaError, match="gone.png"):
        load_image(tmp_path / "gone.png")


RAMP = np.linspace(0, 1, 64 * 48).reshape(48, 64)


@pytest.mark.parametrize(
    "mode", ["I;16", "I;16B", "I", "L", "LA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "P", "1"]
)
@pytest.mark.parametrize("form", ["image", "png", "tiff"])
def test_images_of_all_modes_keep_their_brightness(tmp_path, mode, form):
    """A ramp from black to white has a mean of about 127 in 1, 8, 16 and 32 bits."""
    from PIL import Image

    if mode.startswith("I"):
        dtype = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}[mode]
        picture = Image.frombytes(mode, (64, 48), (RAMP * 65_535).astype(dtype).tobytes())
    else:
        picture = Image.fromarray((RAMP * 255).astype(np.uint8)).convert("RGB" if mode in ("HSV", "P") else "L")
        picture = picture.convert(mode)
    source = picture
    if form != "image":
        source = tmp_path / f"a.{form}"
        try:
            picture.save(source)
            Image.open(source).load()
        except (OSError, KeyError, ValueError):
            pytest.skip(f"PIL cannot write or read {mode} as {form}")
    rgb = load_image(source)
    assert rgb.shape == (1, 48, 64, 3) and rgb.dtype == np.uint8
    assert rgb.mean() == pytest.approx(127, abs=3)


def test_images_without_a_defined_range_are_an_error(tmp_path):
    from PIL import Image

    Image.fromarray(RAMP.astype(np.float32)).save(tmp_path / "float.tiff")
    Image.fromarray((RAMP * 2_000_000).astype(np.int32)).save(tmp_path / "wide.tiff")
    for name, reason in (("float.tiff", "floating-point"), ("wide.tiff", "exceed 16 bits")):
        with pytest.raises(MediaError, match=reason) as error:
            load_image(tmp_path / name)
        assert name in str(error.value)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "bmp", "tiff"])
def test_a_truncated_image_is_an_error_that_names_it(tmp_path, suffix):
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / f"a.{suffix}")
    content = (tmp_path / f"a.{suffix}").read_bytes()
    for share in (0.1, 0.5, 0.9):
        (tmp_path / f"cut.{suffix}").write_bytes(content[: int(len(content) * share)])
        with pytest.raises(MediaError, match=f"cut.{suffix}"):
            load_image(tmp_path / f"cut.{suffix}")
