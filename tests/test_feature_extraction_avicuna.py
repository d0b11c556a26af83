"""Audio: decoding on the time axis of the file, windows and log-mel features of CLAP."""

import io
import json
import wave

import numpy as np
import pytest
import torch
from transformers import ClapFeatureExtractor

from modeling_avicuna import AVicunaFeatureExtractor, load_audio
from modeling_avicuna.feature_extraction_avicuna import split_windows
from tests.media_files import pictures, tone, write_media


WINDOW = 480_000


def test_windows_equal_the_published_ones(golden_dir):
    """All rows of golden/clap_windows; intended difference: audio of at most one second is one padded window."""
    golden = json.loads((golden_dir / "clap_windows" / "clap_windows.json").read_text())
    for case in golden["cases"]:
        ours = split_windows(case["n_samples"])
        if case["n_samples"] <= 48_000:
            assert case["segments"] == [{"start": None, "end": None, "n_real": 0, "n_pad": 0, "length": 0}]
            assert ours == [(0, case["n_samples"])]
        else:
            assert ours == [(segment["start"], segment["end"]) for segment in case["segments"]], case["seconds"]


def test_windows_cover_the_audio_in_order():
    for num_samples in range(1, 60 * 48_000, 7919):
        spans = split_windows(num_samples)
        assert spans[0][0] == 0
        assert all(0 < end - start <= WINDOW for start, end in spans)
        assert [start for start, _ in spans] == [192_000 * k for k in range(len(spans))]
        # not covered: a remainder of at most a second, and at most one stride
        assert num_samples - spans[-1][1] <= 48_000 + 192_000


def test_empty_audio_has_no_window():
    assert split_windows(0) == []


@pytest.mark.parametrize(("mel_scale", "truncation"), [("htk", "fusion"), ("slaney", "rand_trunc")])
def test_log_mel_equals_that_of_transformers_on_real_audio(data_dir, mel_scale, truncation):
    """
    torchaudio computes the filters in single precision, transformers in double: they differ by 5e-4 dB in most bins,
    by 0.02 dB in bins below -60 dB next to loud ones. The input of CLAP spans about 100 dB.
    """
    ours = AVicunaFeatureExtractor(mel_scale=mel_scale)
    reference = ClapFeatureExtractor(frequency_min=50, frequency_max=14_000, truncation=truncation)
    waveform = load_audio(data_dir / "clips" / "manifesto.mp4")[: 14 * 48_000]
    ours_mel = ours.extract_windows(waveform).numpy()
    assert ours_mel.shape == (3, 1001, 64) and ours_mel.dtype == np.float32
    for (start, end), mel in zip(ours.split_windows(len(waveform)), ours_mel):
        window = np.pad(waveform[start:end], (0, WINDOW - (end - start)))
        expected = reference(window, sampling_rate=48_000, return_tensors="np")["input_features"][0, 0]
        assert np.abs(mel - expected).mean() < 1e-4
        assert np.abs(mel - expected)[expected > -60].max() < 5e-3
        assert np.abs(mel - expected).max() < 0.02


def test_a_batch_is_padded_and_has_its_lengths():
    extractor = AVicunaFeatureExtractor()
    batch = extractor([tone(0.5), tone(13.0)], sampling_rate=48_000)
    assert batch["input_features"].shape == (2, 3, 1001, 64)
    assert batch["audio_lengths"].tolist() == [1, 3]
    assert torch.equal(batch["input_features"][0, :1], extractor.extract_windows(tone(0.5)))
    assert not batch["input_features"][0, 1:].any()


def test_integer_samples_are_scaled_by_their_range():
    extractor, sound = AVicunaFeatureExtractor(), tone(1.0)
    ours = extractor([np.round(sound * 32768).astype(np.int16)])["input_features"]
    expected = extractor([sound])["input_features"]
    loud = expected > expected.max() - 20
    assert (ours - expected)[loud].abs().max() < 0.01  # dB


def test_wrong_waveforms_are_named():
    extractor = AVicunaFeatureExtractor()
    with pytest.raises(ValueError, match=r"\(2, 5\)"):
        extractor(np.zeros((2, 5)))
    with pytest.raises(ValueError, match=r"\(0,\)"):
        extractor(np.zeros(0))
    with pytest.raises(ValueError, match="48000 Hz, got 44100 Hz"):
        extractor(np.zeros(5), sampling_rate=44_100)
    with pytest.raises(ValueError, match="'bark'"):
        AVicunaFeatureExtractor(mel_scale="bark")


def test_audio_is_resampled(tmp_path):
    path = write_media(
        tmp_path / "-tone.wav", waveform=tone(2.0, sampling_rate=16_000), sampling_rate=16_000, audio_codec="pcm_s16le"
    )
    waveform = load_audio(path)
    assert waveform.dtype == np.float32 and waveform.shape == (96_000,)
    middle = slice(4_800, 91_200)
    np.testing.assert_allclose(waveform[middle], tone(2.0)[middle], atol=2e-3)


def test_a_file_object_gives_the_same_audio_as_its_path(tmp_path):
    path = write_media(tmp_path / "a.mp4", frames=pictures(10), waveform=tone(1.0))
    stream = io.BytesIO(path.read_bytes())
    stream.read(10)
    np.testing.assert_array_equal(load_audio(stream), load_audio(path))


def test_audio_is_on_the_time_axis_of_the_video(tmp_path):
    """The priming samples of AAC are removed: a click at 0.5 s is found at 0.5 s."""
    click = np.zeros(48_000, np.float32)
    click[24_000:24_048] = 0.9
    path = write_media(tmp_path / "click.mp4", frames=pictures(10), waveform=click)
    assert abs(int(np.abs(load_audio(path)).argmax()) - 24_024) < 100


def test_a_video_without_audio_stream_gives_none(tmp_path):
    assert load_audio(write_media(tmp_path / "silent.mp4", frames=pictures(5))) is None


@pytest.mark.parametrize(
    ("name", "seconds"),
    [
        ("clips/ZASFX_ADSR_no_sustain.u8.wav", 0.325),
        ("clips/ZASFX_ADSR_no_sustain.s24.wav", 0.325),
        ("clips/ZASFX_ADSR_no_sustain.f32.wav", 0.325),
        ("clips/sine_mono_s32_8000.wav", 4.0),
        ("clips/small_bunny_1080p_60fps.mp4", 2.005),  # six channels
        ("clips/gs-16b-2c-44100hz_audio_only.mp4", 15.836),
        ("clips/no_duration.webm", 4.875),
        ("clips/mma_test.avi", 6.557),
        ("llamafactory_demo/4.mp3", 5.0),
        ("valor_clips/-uGHAvfqs2I_30.000_40.000.mp4", 10.008),
        ("msrvtt/video7013.mp4", None),
        ("clips/h265_video.mp4", None),
    ],
)
def test_audio_of_real_files(data_dir, name, seconds):
    waveform = load_audio(data_dir / name)
    if seconds is None:
        assert waveform is None
    else:
        assert len(waveform) / 48_000 == pytest.approx(seconds, abs=0.05)
        assert np.isfinite(waveform).all()


def test_channels_are_averaged(data_dir):
    path = data_dir / "vggsound" / "FwVYUHKoLtQ_000034.wav"
    with wave.open(str(path)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16).reshape(-1, file.getnchannels())
        rate = file.getframerate()
    np.testing.assert_allclose(load_audio(path, sampling_rate=rate), samples.mean(axis=1) / 32768, atol=1e-4)
