"""Virtual videos: each token shows the planned clip and moment; the published rule gives the published numbers."""

import json

import numpy as np
import pytest

from dataset_builders.pseudo_untrimmed.composing import compose_features, missing_clips, truncated_linspace
from dataset_builders.pseudo_untrimmed.planning import Segment
from dataset_builders.pseudo_untrimmed.rendering import render_video
from modeling_avicuna import AVicunaFeatureExtractor, build_processor
from modeling_avicuna.media_avicuna import decode_audio
from tests.media_files import tone, write_media
from tests.tiny_tokenizers import byte_level_tokenizer


def numbered(clip, num_rows, width=3):
    """Rows `[clip, row number, number of rows]`."""
    return np.array([[clip, row, num_rows] for row in range(num_rows)], np.float32).reshape(num_rows, width)


def make_case(scales, *, num_rows=10, num_windows=1, seconds=10.0):
    segments, features, position = [], {}, 0.0
    for clip, scale in enumerate(scales):
        name = f"clip{clip}"
        segments.append(Segment(name, position, position + scale * seconds, scale, "A dog barks."))
        features[name] = (numbered(clip, num_rows), numbered(clip, num_windows))
        position += scale * seconds
    return segments, features


@pytest.mark.parametrize("scales", [(0.6, 1.9, 1.0), (1.0,), (0.6,) * 3, (1.9,) * 8, (1.23, 0.87, 1.5, 0.61)])
@pytest.mark.parametrize("num_tokens", [75, 100, 25, 7])
def test_each_token_shows_the_planned_clip_and_moment(scales, num_tokens):
    segments, features = make_case(scales)
    video, audio = compose_features(segments, features, num_video_tokens=num_tokens)
    assert video.shape == (num_tokens, 3) and audio.shape == (25, 3)
    duration = segments[-1].end
    for token, (clip, row, _) in enumerate(video):
        moment = (token + 0.5) / num_tokens * duration
        segment = segments[int(clip)]
        assert segment.start <= moment <= segment.end
        share = (moment - segment.start) / (segment.end - segment.start)
        assert abs(share * 10 - (row + 0.5)) <= 0.5 + 1e-9
    for token, (clip, _, _) in enumerate(audio):
        moment = (token + 0.5) / 25 * duration
        assert segments[int(clip)].start <= moment <= segments[int(clip)].end


def test_no_token_of_a_short_video_is_zero():
    segments, features = make_case((0.6, 0.6, 0.6))
    features = {name: (video + 1, audio + 1) for name, (video, audio) in features.items()}
    video, audio = compose_features(segments, features)
    assert (video != 0).all() and (audio != 0).all()


def test_segments_may_be_dicts_of_a_dataset_row():
    segments, features = make_case((1.0, 1.5))
    rows = [
        {"clip_id": s.clip_id, "start": np.float32(s.start), "end": np.float32(s.end), "scale": s.scale, "caption": ""}
        for s in segments
    ]
    for one, other in zip(compose_features(segments, features), compose_features(rows, features)):
        assert np.array_equal(one, other)


def test_overlapping_clips_show_the_later_one_and_average_the_sound():
    segments = [Segment("clip0", 0, 10, 1.0), Segment("clip1", 6, 12, 0.6), Segment("clip2", 12, 20, 0.8)]
    features = make_case((1.0,) * 3)[1]
    video, audio = compose_features(segments, features, num_video_tokens=20, num_audio_tokens=20)
    assert video[:, 0].tolist() == [0] * 6 + [1] * 6 + [2] * 8
    assert audio[:, 0].tolist() == [0] * 6 + [0.5] * 4 + [1] * 2 + [2] * 8
    features["clip1"] = (features["clip1"][0], np.zeros((0, 3), np.float32))  # silent: not part of the mean
    audio = compose_features(segments, features, num_audio_tokens=20, silence=np.full(3, 7))[1]
    assert audio[:, 0].tolist() == [0] * 10 + [7] * 2 + [2] * 8


def test_a_clip_inside_another_covers_it_only_while_it_lasts():
    segments = [Segment("clip0", 0, 10, 1.0), Segment("clip1", 4, 6, 0.2)]
    video = compose_features(segments, make_case((1.0, 1.0))[1], num_video_tokens=10)[0]
    assert video[:, 0].tolist() == [0] * 4 + [1] * 2 + [0] * 4
    assert video[[3, 6], 1].tolist() == [3, 6]  # the outer clip continues at its own time


def test_a_gap_without_a_background_clip_needs_the_rows_of_darkness_and_silence():
    segments, features = [Segment("clip0", 0, 10, 1.0), Segment("clip1", 12, 20, 0.8)], make_case((1.0, 1.0))[1]
    known = {"darkness": np.full(3, 8), "silence": np.full(3, 9)}
    for name, message in (("darkness", "no picture from 10 to 12 s, and"), ("silence", "no sound at 10.* s, and")):
        with pytest.raises(ValueError, match=f"{message} no row of {name} is known"):
            compose_features(segments, features, **{other: row for other, row in known.items() if other != name})
    streams = compose_features(segments, features, num_video_tokens=20, num_audio_tokens=20, **known)
    assert [rows[:, 0].tolist() for rows in streams] == [[0] * 10 + [own] * 2 + [1] * 8 for own in (8, 9)]


def test_a_stretch_of_darkness_or_silence_hides_the_background_and_no_event():
    segments = [
        Segment("clip0", 0, 10, 1.0, tracks="background"),
        Segment("clip0", 2, 5, 0.3, tracks="silence"),
        Segment("clip0", 4, 7, 0.3, tracks="darkness"),
        Segment("clip1", 6, 8, 0.2, "A dog barks.", tracks="both"),
    ]
    known = {"darkness": np.full(3, 8), "silence": np.full(3, 9)}
    video, audio = compose_features(
        segments, make_case((1.0, 1.0))[1], num_video_tokens=10, num_audio_tokens=10, **known
    )
    assert video[:, 0].tolist() == [0] * 4 + [8] * 2 + [1] * 2 + [0] * 2
    assert audio[:, 0].tolist() == [0] * 2 + [9] * 3 + [0] + [1] * 2 + [0] * 2


def test_a_missing_clip_is_an_error_that_names_it():
    segments, features = make_case((1.0, 1.0, 1.0))
    del features["clip1"]
    assert missing_clips(segments, features) == ["clip1"]
    with pytest.raises(ValueError, match="clip1"):
        compose_features(segments, features)
    with pytest.raises(ValueError, match="clip1"):
        compose_features(segments, features, rule="published")


def test_silent_clips_need_a_feature_of_silence_unless_all_clips_are_silent():
    segments, features = make_case((1.0, 1.0))
    silent = np.zeros((0, 3), np.float32)
    features["clip1"] = (features["clip1"][0], silent)
    with pytest.raises(ValueError, match="no sound at .* s, and no row of silence"):
        compose_features(segments, features)
    audio = compose_features(segments, features, silence=np.array([7, 7, 7]))[1]
    assert (audio[:12, 0] == 0).all() and (audio[13:] == 7).all()
    features["clip0"] = (features["clip0"][0], silent)
    assert compose_features(segments, features)[1].shape == (0, 3)


@pytest.mark.parametrize("rule", ["even", "published"])
def test_features_without_pictures_make_videos_of_sound_alone(rule):
    """A checkpoint with an interleaving rate of 1 stores no visual rows."""
    segments, features = make_case((1.0, 1.0))
    expected = compose_features(segments, features, num_audio_tokens=100, rule=rule)[1]
    features = {name: (np.zeros((0, 3), np.float32), audio) for name, (_, audio) in features.items()}
    video, audio = compose_features(segments, features, num_video_tokens=0, num_audio_tokens=100, rule=rule)
    assert video.shape == (0, 3)
    assert np.array_equal(audio, expected)


def test_an_invalid_composition_is_an_error():
    segments, features = make_case((1.0, 1.0))
    with pytest.raises(ValueError, match="'centre'"):
        compose_features(segments, features, rule="centre")
    with pytest.raises(ValueError, match="at least one"):
        compose_features([], features)
    with pytest.raises(ValueError, match="no picture from 0.0 to 10.0 s"):
        compose_features(segments[1:], features)
    with pytest.raises(ValueError, match="segment 1 from 0.0 to 10.0 s must .* not before the segment before it"):
        compose_features(segments[::-1], features)
    features["clip0"] = (np.zeros((0, 3)), features["clip0"][1])
    with pytest.raises(ValueError, match="without a visual row.*clip0"):
        compose_features(segments, features)


def test_the_published_rule_gives_the_published_rows(golden_dir):
    cases = json.loads((golden_dir / "resample" / "resample.json").read_text())["pseudo"]
    compared = 0
    for case in cases:
        if None in case["sub_lens"]:
            continue  # a missing clip: zeros there, an error here
        segments, features, position = [], {}, 0.0
        shapes = zip(case["scales"], case["sub_lens"], case["audio_rows_per_sub"])
        for clip, (scale, num_rows, num_windows) in enumerate(shapes):
            segments.append(Segment(f"clip{clip}", position, position + 10 * scale, scale, ""))
            features[f"clip{clip}"] = (numbered(clip, num_rows) + 1, numbered(clip, num_windows) + 1)
            position += 10 * scale
        video, audio = compose_features(segments, features, rule="published")
        assert (video[:, :2] - 1).tolist() == case["image_sub_and_index"]
        assert (audio[:, :2] - 1).tolist() == case["audio_sub_and_index"]
        compared += 1
    assert compared == 10


def test_the_published_linspace_is_reproduced_exactly(golden_dir):
    tables = np.load(golden_dir / "resample" / "linspace_long_10_to_m.npz")
    for name in tables.files:
        for num_picked in range(1, 101):
            first = num_picked * (num_picked - 1) // 2
            expected = tables[name][first : first + num_picked]
            assert np.array_equal(truncated_linspace(int(name[1:]), num_picked), expected)
    examples = json.loads((golden_dir / "resample" / "resample.json").read_text())["linspace_diff_examples"]
    for num_rows, num_picked, differing in examples:
        exact = np.arange(num_picked) * (num_rows - 1) // (num_picked - 1)
        assert np.flatnonzero(truncated_linspace(num_rows, num_picked) != exact).tolist() == differing


def write_ramp(path, *, number):
    """A 10-s clip whose brightness and pitch increase with time, in a different range for each clip."""
    times = np.arange(250) / 25
    levels = (25 + 70 * number + 6 * times).astype(np.uint8)
    seconds = np.arange(480_000) / 48_000
    pitch = 600 + 1100 * number + 80 * seconds  # Hz
    sound = 0.5 * np.sin(2 * np.pi * np.cumsum(pitch) / 48_000)
    frames = np.broadcast_to(levels[:, None, None, None], (250, 64, 64, 3))
    return write_media(path, frames=frames, fps=25, waveform=sound.astype(np.float32))


def read_ramps(processor, path):
    """Grey level of each frame, `(V, 1)`, and mean pitch of each audio window, `(M, 1)`."""
    batch = processor("<video>", videos=path)
    grey = batch["pixel_values_videos"][0].mean(dim=(1, 2, 3)).numpy()
    power = 10 ** (batch["input_features"][0].numpy() / 10)  # [M, frames, mels]
    pitch = power.sum(axis=1) @ np.arange(64) / power.sum(axis=(1, 2))
    return grey[:, None], pitch[:, None]


def source_seconds(rows, clips):
    """Inverts the ramps: from rows of a composition to clip number * 10 + seconds in that clip."""
    known = np.concatenate([rows_of_clip[:, 0] for rows_of_clip in clips])
    times = [10 * n + (np.arange(len(c)) + 0.5) / len(c) * 10 for n, c in enumerate(clips)]
    return np.interp(rows[:, 0], known, np.concatenate(times))


@pytest.fixture(scope="module")
def rendered_ramps(tmp_path_factory):
    """Three ramps as segments, their paths, and the rendered video."""
    folder, segments, paths, position = tmp_path_factory.mktemp("ramps"), [], {}, 0.0
    for number, scale in enumerate((0.8, 1.7, 1.4)):
        paths[f"clip{number}"] = write_ramp(folder / f"clip{number}.mp4", number=number)
        segments.append(Segment(f"clip{number}", position, position + 10 * scale, scale, "A ramp."))
        position += 10 * scale
    return segments, paths, render_video(segments, paths, folder / "rendered.mp4", width=64, height=64, crf=5).path


@pytest.mark.parametrize(("alignment", "windows"), [("centred", (2.0, 1.0)), ("published", (10.0, 4.0))])
def test_composed_features_match_those_of_the_rendered_file(rendered_ramps, alignment, windows):
    """
    Centred with 2-s windows, the times shown by a token differ by at most 0.5 s (video; 0.1 s on average, less than
    one row of the clip, 0.22 s) and 1 s (audio, half a window). With the published alignment both differ by more.
    """
    segments, paths, rendered = rendered_ramps
    processor = build_processor(
        byte_level_tokenizer(),
        image_size=32,
        num_av_tokens=60,
        alignment=alignment,
        feature_extractor=AVicunaFeatureExtractor(window_seconds=windows[0], stride_seconds=windows[1]),
    )
    clips = {name: read_ramps(processor, path) for name, path in paths.items()}
    composed = compose_features(segments, clips, num_video_tokens=45, num_audio_tokens=15)
    video, audio = read_ramps(processor, rendered)
    shown = processor("<video>", video_features=[video], audio_features=[audio])
    picture, sound = (
        np.abs(source_seconds(ours, rows_of_clips) - source_seconds(theirs[0].numpy(), rows_of_clips))
        for ours, theirs, rows_of_clips in zip(
            composed, (shown["video_features"], shown["audio_features"]), zip(*clips.values())
        )
    )
    if alignment == "centred":
        assert picture.max() <= 0.5 and picture.mean() <= 0.1 and sound.max() <= 1.0
    else:
        assert picture.mean() > 0.2 and sound.max() > 4.0


def write_scene(path, *, level, frequency):
    """A 10-s clip of one grey level and one tone."""
    frames = np.full((100, 64, 64, 3), level, np.uint8)
    return write_media(path, frames=frames, fps=10, waveform=tone(10.0, frequency=frequency))


SCENES = {"room": (40, 400), "dog": (100, 1200), "bell": (160, 3000), "rain": (220, 7000)}  # grey level, Hz
EDGES = (0, 800, 2000, 5000, 20000)  # Hz, between the tones


def read_scene(processor, path):
    """Video rows `(V, 1)`, the grey level of each frame, and audio rows `(M, 4)`, the shares of the tones in each
    window."""
    batch = processor("<video>", videos=path)
    grey = batch["pixel_values_videos"][0].mean(dim=(1, 2, 3)).numpy()
    extractor = processor.feature_extractor
    top = extractor.frequency_max
    mel = 2595 * np.log10(1 + np.array([50, *np.minimum(EDGES[1:], top)]) / 700)
    bands = np.clip(np.round((mel - mel[0]) / (mel[-1] - mel[0]) * 64).astype(int), 0, 64)
    power = 10 ** (batch["input_features"][0].numpy() / 10)  # [M, frames, mels]
    shares = np.stack([power[:, :, a:b].max(axis=2).mean(axis=1) for a, b in zip(bands, bands[1:])], axis=1)
    return grey[:, None], shares / shares.sum(axis=1, keepdims=True), batch["audio_row_ids"][0].numpy()


def test_a_composition_over_a_background_matches_the_rendered_file(tmp_path):
    """
    An event with audio only keeps the picture of the background, one with video only its sound. Composed and extracted
    rows differ by at most 4 of 255 grey levels, and the shares of the tones in a window by 0.1, overlaps included.
    """
    paths = {
        name: write_scene(tmp_path / f"{name}.mp4", level=level, frequency=frequency)
        for name, (level, frequency) in SCENES.items()
    }
    segments = [
        Segment("room", 0.0, 9.0, 0.9, tracks="background"),
        Segment("dog", 3.3, 8.3, 0.5, "A dog barks.", tracks="audio"),
        Segment("bell", 6.1, 12.1, 0.6, "A bell is shown.", tracks="video"),
        Segment("room", 9.0, 18.0, 0.9, tracks="background"),
        Segment("rain", 10.6, 15.6, 0.5, "Rain falls."),
        Segment("dog", 13.0, 16.0, 0.3, "A dog barks.", tracks="audio"),
        Segment("room", 16.0, 18.0, 0.2, tracks="silence"),
        Segment("room", 16.5, 18.0, 0.15, tracks="darkness"),
    ]
    rendered = render_video(segments, paths, tmp_path / "rendered.mp4", width=64, height=64, crf=5, fps=10).path
    processor = build_processor(
        byte_level_tokenizer(),
        image_size=32,
        num_av_tokens=60,
        alignment="centred",
        feature_extractor=AVicunaFeatureExtractor(window_seconds=2.0, stride_seconds=1.0),
    )
    clips = {}
    for name, path in paths.items():
        video, audio, _ = read_scene(processor, path)
        clips[name] = (video, audio)
    black = processor("<image>", images=[np.zeros((64, 64, 3), np.uint8)])["pixel_values_videos"][0].mean().numpy()
    video, audio = compose_features(
        segments,
        clips,
        num_video_tokens=45,
        num_audio_tokens=15,
        windows=(2.0, 1.0),
        darkness=black[None],
        silence=np.full(4, 0.25),  # the shares are equal at the floor of the spectrogram
    )
    shown, heard, row_ids = read_scene(processor, rendered)
    # within 0.1 s of a cut, the distance of two frames, the file may show the previous frame
    cuts = [time for segment in segments for time in (segment.start, segment.end)]
    moments = (np.arange(45) + 0.5) / 45 * 18.0
    inside = np.abs(moments[:, None] - np.array(cuts)).min(axis=1) > 0.1
    assert inside.sum() > 35 and np.abs(video - shown)[inside].max() < 4 / 255 / 0.26
    is_silent = (audio == 0.25).all(axis=1)  # the shares of what is left by the codec are arbitrary: its level is read
    assert is_silent.tolist() == [False] * 14 + [True]
    assert np.abs(audio - heard[row_ids])[~is_silent].max() < 0.1
    samples = decode_audio(rendered, sampling_rate=16_000)
    assert np.abs(samples[:, 16_000 * 16 + 1600 : 16_000 * 18 - 1600]).max() < 1e-3 < np.abs(samples).max()
    only_heard = (moments > 3.5) & (moments < 6.0)
    assert np.allclose(video[only_heard], clips["room"][0][0], atol=0.01)
