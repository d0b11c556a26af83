"""Windows of long videos: their times, their frames and sound, and the events joined from their answers."""

import json
import subprocess
import sys

import av
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eval.generation import GenerationSettings, Generator
from eval.media import Media
from eval.run import main as evaluate
from eval.task import Example, Question
from modeling_avicuna import (
    AVicunaPipeline,
    Event,
    MediaError,
    media_file_avicuna,
    media_index_avicuna,
)
from modeling_avicuna.media_avicuna import MediaFile, Sound
from modeling_avicuna.prompt_avicuna import GROUNDING_PROMPT
from modeling_avicuna.window_reading_avicuna import SequentialFile, SequentialFrames, SequentialSound
from modeling_avicuna.windows_avicuna import join_windows, plan_windows
from tests.media_files import pictures, tone, write_media, write_ramp
from tests.time_fixtures import SpanBias, tiny_model_for, tiny_processor


MINUTE = [(0.0, 60.0), (45.0, 105.0), (90.0, 150.0)]


# times of the windows


@example(start=0.0, length=156.0, window=155.9999999999999, share=None)
@given(
    start=st.floats(0, 1e4),
    length=st.floats(0.1, 1e4),
    window=st.floats(10.0, 600),
    share=st.none() | st.floats(0, 0.9),
)
def test_windows_cover_the_part_and_overlap_and_have_equal_lengths(start, length, window, share):
    overlap = None if share is None else share * window
    end = start + length
    windows = plan_windows(end, start=start, window=window, overlap=overlap)
    assert windows[0][0] == start and windows[-1][1] == end
    if length <= window:
        assert windows == [(start, end)]
        return
    assert all(stop - begin == pytest.approx(window, abs=1e-6) for begin, stop in windows)
    for (begin, stop), (following, _) in zip(windows, windows[1:]):
        assert begin < following and stop - following >= (window / 4 if overlap is None else overlap) - 1e-6
    stride = window - (window / 4 if overlap is None else overlap)
    assert len(windows) <= np.ceil((length - window) / stride) + 1


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"end": 10.0, "window": 0.0}, "window must be a positive number"),
        ({"end": 10.0, "window": float("nan")}, "window must be a positive number"),
        ({"end": 10.0, "window": 5.0, "overlap": 5.0}, "overlap must be at least 0 and less than the window"),
        ({"end": 10.0, "window": 5.0, "overlap": -1.0}, "overlap must be at least 0"),
        ({"end": 3.0, "start": 3.0, "window": 5.0}, "the part from 3.0 to 3.0 s is empty"),
    ],
)
def test_invalid_windows_raise(part, message):
    with pytest.raises(ValueError, match=message):
        plan_windows(**part)


# joining


@pytest.mark.parametrize(
    ("events", "joined"),
    [
        # one event across a boundary; one event inside both windows; one event in three windows
        ([[(50, 59.4)], [(50, 70)], []], [(50, 70)]),
        ([[(48, 55)], [(48.6, 55.2)], []], [(48.0, 55.0)]),
        ([[(50, 59.4)], [(45, 104.4)], [(90, 110)]], [(50, 110)]),
        # two events in one window are not merged
        ([[(10, 12), (13, 15)], [], []], [(10, 12), (13, 15)]),
        ([[(46, 50), (51, 55)], [(46.2, 50), (51, 55.3)], []], [(46, 50), (51, 55)]),
        # an event in the overlap counts only if the window with the more central view of it names it
        ([[(55, 58)], [], []], []),
        ([[(47, 50)], [], []], [(47, 50)]),
        ([[], [(47, 50)], []], []),
        ([[], [], []], []),
    ],
)
def test_spans_of_neighbouring_windows_are_joined(events, joined):
    rows = [[Event(float(start), float(end), "rain") for start, end in window] for window in events]
    found = join_windows(MINUTE, rows, resolution=0.6)
    assert [(event.start, event.end) for event in found] == [(float(start), float(end)) for start, end in joined]


def test_events_cut_at_the_boundary_of_adjacent_windows_are_joined():
    windows = [(0.0, 60.0), (60.0, 120.0)]
    rows = [[Event(50.0, 59.4, "rain")], [Event(60.0, 70.0, "Rain ")]]
    assert join_windows(windows, rows, resolution=0.6) == [Event(50.0, 70.0, "rain")]
    assert len(join_windows(windows, [rows[0], [Event(62.0, 70.0, "rain")]], resolution=0.6)) == 2
    assert len(join_windows(windows, [rows[0], [Event(60.0, 70.0, "thunder")]], resolution=0.6)) == 2


def test_a_joined_event_has_the_highest_score_and_the_outer_boundaries():
    rows = [[Event(50.0, 59.4, "rain", 0.9)], [Event(51.0, 70.0, "rain", 0.4)], []]
    assert join_windows(MINUTE, rows, resolution=0.6) == [Event(50.0, 70.0, "rain", 0.9)]


@given(
    lengths=st.lists(st.tuples(st.floats(4.0, 40.0), st.floats(1.0, 90.0)), min_size=1, max_size=12),
    labels=st.lists(st.sampled_from(["rain", "dog barking", "siren"]), min_size=12, max_size=12),
)
def test_a_narration_in_windows_has_every_event_once(lengths, labels):
    """Each window names what it shows, cut at its edges."""
    events, end = [], 0.0
    for (gap, length), label in zip(lengths, labels):
        events.append(Event(end + gap, end + gap + length, label))
        end += gap + length
    windows = plan_windows(end + 5.0, window=60.0)
    narrated = [
        [
            Event(max(event.start, start), min(event.end, stop), event.label)
            for event in events
            if event.start < stop and event.end > start
        ]
        for start, stop in windows
    ]
    assert join_windows(windows, narrated, resolution=0.6) == events


def test_windows_are_planned_and_joined_without_torch():
    script = (
        "import sys\nsys.modules.update(dict.fromkeys(['torch', 'transformers', 'numpy']))\n"
        "from modeling_avicuna.windows_avicuna import join_windows, plan_windows\n"
        "print(len(plan_windows(3600, window=60)), join_windows([], [], resolution=1))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["80", "[]"], done.stderr


# reading


@pytest.fixture(scope="module")
def processor():
    return tiny_processor(num_av_tokens=16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twenty seconds in several containers and codecs, with a beep from 14 to 15 s."""
    folder = tmp_path_factory.mktemp("videos")
    write_ramp(folder / "h264.mp4", audio_codec="aac")
    write_ramp(folder / "h264_late_sound.mkv", audio_codec="aac", sound_start=1.5, options={"g": "30", "bf": "3"})
    write_ramp(folder / "hevc.mp4", codec="libx265", audio_codec="aac", options={"x265-params": "log-level=0"})
    write_ramp(folder / "hole.mp4", audio_codec="aac", silence=(6.0, 9.0))
    write_ramp(folder / "vp9.webm", codec="libvpx-vp9", audio_codec="libopus")
    write_ramp(folder / "mpeg4.avi", codec="mpeg4", audio_codec="mp3")
    write_ramp(folder / "silent.mp4")
    write_media(folder / "sound.wav", waveform=tone(30.0), audio_codec="pcm_s16le")
    return folder


VIDEOS = ("h264.mp4", "h264_late_sound.mkv", "hevc.mp4", "hole.mp4", "vp9.webm", "mpeg4.avi", "silent.mp4")


@pytest.mark.parametrize(
    ("name", "alignment"), [*((name, "published") for name in VIDEOS), ("h264_late_sound.mkv", "centred")]
)
def test_a_window_equals_the_same_part_read_directly(folder, name, alignment):
    processor = tiny_processor(num_av_tokens=16, alignment=alignment)
    windows = list(processor.prepare_windows({"type": "video", "path": folder / name}, window=8.0, overlap=3.0))
    assert len(windows) == 4
    for window in windows:
        block = {"type": "video", "path": folder / name, "start": window.start, "end": window.start + window.duration}
        part = processor.prepare_media(block)
        assert (window.kind, window.order, window.sound_rows) == (part.kind, part.order, part.sound_rows)
        assert window.duration == pytest.approx(part.duration) and window.start == part.start
        assert window.metadata.frames_indices == part.metadata.frames_indices
        # decord converts colours by the same library with another rounding: at most two of 255 levels
        assert (window.pictures - part.pictures).abs().max() < 2 / 255 / 0.26 + 1e-3
        assert (window.sounds is None) == (part.sounds is None)


@pytest.mark.parametrize("name", [name for name in VIDEOS if name != "silent.mp4"] + ["sound.wav"])
def test_the_sound_of_windows_equals_the_sound_of_the_whole_file(folder, name):
    with MediaFile(folder / name) as media:
        whole = Sound(media, sampling_rate=48_000).read_all()[0]
    with SequentialFile(folder / name) as media:
        media.begin(has_picture=False, has_sound=True)
        sound = SequentialSound(media, sampling_rate=48_000)
        for first in range(0, len(whole) - 8 * 48_000, 5 * 48_000):
            sound.forget(first / 48_000)
            (read,) = sound.read([(first, first + 8 * 48_000)])
            np.testing.assert_allclose(read[0], whole[first : first + 8 * 48_000], atol=2e-6)


def counting(packets, counted):
    for packet in packets:
        counted.append(packet.pts)
        yield packet


def test_a_file_is_opened_once_and_its_packets_are_read_twice(folder, processor, monkeypatch):
    """Once for the times of the packets, without decoding, and once for the windows."""
    opened, packets = [], []
    open_media, demux = media_file_avicuna.open_media, MediaFile.demux
    monkeypatch.setattr(media_index_avicuna, "_remembered", {})
    monkeypatch.setattr(media_file_avicuna, "open_media", lambda source: opened.append(source) or open_media(source))
    monkeypatch.setattr(MediaFile, "demux", lambda self, *streams: counting(demux(self, *streams), packets))
    list(processor.prepare_windows({"type": "video", "path": folder / "h264.mp4"}, window=4.0))
    assert opened == [folder / "h264.mp4"]
    with av.open(str(folder / "h264.mp4")) as container:
        num_packets = sum(1 for _ in container.demux())
    # plus a second of sound, read to find its length
    assert 2 * num_packets <= len(packets) < 2.3 * num_packets


def test_only_the_frames_and_samples_of_a_window_and_its_overlap_are_kept(folder, processor, monkeypatch):
    kept = []
    read_window, read = SequentialFrames.read_window, SequentialSound.read

    def read_and_count(self):
        shown = read_window(self)
        kept.append(len(self._rows))
        return shown

    def read_sound_and_count(self, spans):
        samples = read(self, spans)
        kept_seconds.append(sum(block[2].shape[1] for block in self._kept) / 48_000)
        return samples

    kept_seconds = []
    monkeypatch.setattr(SequentialFrames, "read_window", read_and_count)
    monkeypatch.setattr(SequentialSound, "read", read_sound_and_count)
    windows = list(processor.prepare_windows({"type": "video", "path": folder / "h264.mp4"}, window=4.0, overlap=1.0))
    assert len(windows) == 7 and max(kept) <= 2 * 12  # frames of a window
    assert max(kept_seconds) < 4.0 + 1.0 + 2.5


def test_windows_of_a_part_of_a_sound_of_a_separate_sound_and_of_arrays(folder, processor):
    def spans(block, **plan):
        windows = list(processor.prepare_windows(block, **plan))
        return [(round(window.start, 3), round(window.duration, 3), window.order) for window in windows]

    part = {"type": "video", "path": folder / "h264.mp4", "start": 5.0, "end": 15.0}
    assert [row[:2] for row in spans(part, window=8.0, overlap=2.0)] == [(5.0, 8.0), (7.0, 8.0)]
    sound = spans({"type": "audio", "path": folder / "sound.wav"}, window=15.0, overlap=0.0)
    assert [row[:2] for row in sound] == [(0.0, 15.0), (15.0, 15.0)] and sound[0][2] == ["audio"] * 16
    silent = {"type": "video", "path": folder / "silent.mp4"}
    assert "audio" not in spans(silent, window=10.0)[0][2]
    assert "audio" in spans({**silent, "audio": folder / "sound.wav"}, window=10.0)[0][2]
    assert "audio" in spans({**silent, "audio": tone(20.0), "sampling_rate": 48_000}, window=10.0)[0][2]
    frames = {"type": "video", "video": pictures(100), "fps": 10}
    assert [row[:2] for row in spans(frames, window=5.0, overlap=0.0)] == [(0.0, 5.0), (5.0, 5.0)]
    assert spans({"type": "video", "path": (folder / "h264.mp4").read_bytes()}, window=10.0)[0][:2] == (0.0, 10.0)


@pytest.mark.parametrize(
    ("block", "error", "message"),
    [
        ({"type": "video", "video_features": np.zeros((4, 24), np.float32)}, ValueError, "not from this video"),
        ({"type": "image", "path": "picture.png"}, ValueError, "not from this image"),
        ({"type": "video", "video": pictures(9)}, ValueError, "need their fps"),
        ({"type": "video", "path": "/no/such.mp4"}, MediaError, "no such file"),
        ({"type": "video"}, ValueError, "has no medium"),
        ({"type": "audio", "path": "silent.mp4"}, ValueError, "without sound"),
    ],
)
def test_media_that_cannot_be_split_into_windows_raise(folder, processor, block, error, message):
    if block.get("path") == "silent.mp4":
        block = {**block, "path": folder / "silent.mp4"}
    with pytest.raises(error, match=message):
        list(processor.prepare_windows(block, window=5.0))


# the pipeline


@pytest.fixture(scope="module")
def pipe(processor):
    model = tiny_model_for(processor)
    span_bias = SpanBias(processor.tokenizer)
    return AVicunaPipeline(
        model=model, processor=processor, device=-1, max_new_tokens=16, do_sample=False, logits_processor=[span_bias]
    )


def test_a_window_longer_than_the_video_gives_the_answer_about_the_video(pipe, folder):
    path = folder / "mpeg4.avi"  # read without decord in both cases
    for asked in ({"query": "rain"}, {}):
        whole = sorted(pipe(path, **asked), key=lambda event: (event["start"], event["end"]))
        windowed = pipe(path, window=60.0, **asked)
        assert whole and [e["label"] for e in windowed] == [e["label"] for e in whole]
        for name in ("start", "end", "score"):
            assert [e[name] for e in windowed] == pytest.approx([e[name] for e in whole], rel=1e-4)


def test_times_count_from_the_start_of_the_file_and_queries_are_answered_independently(pipe, folder):
    queries = ["rain", "a dog barking"]
    together = pipe(folder / "h264.mp4", query=queries, window=8.0)
    assert list(together) == queries
    for query in queries:
        single = pipe(folder / "h264.mp4", query=query, window=8.0)
        assert [(e["start"], e["end"]) for e in single] == [(e["start"], e["end"]) for e in together[query]]
        assert max(e["end"] for e in single) > 8.0 and all(0 <= e["start"] <= e["end"] <= 20.0 for e in single)
        assert {e["label"] for e in single} == {query}
    part = pipe(folder / "h264.mp4", query="rain", window=8.0, start=8.0, end=18.0)
    assert part and all(8.0 <= e["start"] <= e["end"] <= 18.0 for e in part)
    several = pipe([folder / "h264.mp4", folder / "silent.mp4"], query="rain", window=8.0)
    assert several[0] == pipe(folder / "h264.mp4", query="rain", window=8.0)


def test_answers_below_min_presence_give_no_events(pipe, folder):
    assert pipe(folder / "h264.mp4", query="rain", window=8.0, min_presence=0.0)
    assert pipe(folder / "h264.mp4", query="rain", window=8.0, min_presence=1.0) == []


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"window": 5.0, "question": "Why?"}, "window applies to queries"),
        ({"window": 5.0, "interval": (1.0, 2.0)}, "window applies to queries"),
        ({"overlap": 5.0}, "overlap=5.0 is given without window"),
        ({"min_presence": 0.5}, "min_presence=0.5 is given without window"),
        ({"window": -1.0, "query": "rain"}, "window must be a positive number"),
    ],
)
def test_settings_that_do_not_apply_raise(pipe, folder, asked, message):
    with pytest.raises(ValueError, match=message):
        pipe(folder / "h264.mp4", **asked)


def test_an_evaluation_with_windows_records_the_window_and_lists_unreadable_files(pipe, folder, tmp_path):
    pipe.model.save_pretrained(tmp_path / "model")
    pipe.processor.save_pretrained(tmp_path / "model")
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "video.mp4").write_bytes((folder / "h264.mp4").read_bytes())
    (tmp_path / "media" / "broken.mp4").write_bytes(b"not a video")
    rows = [{"segment": [2.0, 9.0], "label": label, "label_id": n} for n, label in enumerate(("rain", "thunder"))]
    database = {name: {"duration": 20.0, "subset": "test", "annotations": rows} for name in ("video", "broken")}
    (tmp_path / "annotations.json").write_text(json.dumps({"version": "test", "database": database}))
    words = (
        f"--task sandbox_query --model {tmp_path}/model --annotations {tmp_path}/annotations.json --media-dir "
        f"{tmp_path}/media --output {tmp_path}/out --max-new-tokens 8 --window 8 --score presence --timelines 0"
    )
    evaluate(words.split())
    result = json.loads((tmp_path / "out" / "results.json").read_text())
    assert "window-8.0" in result["conditions"] and result["settings"]["window"] == 8.0
    assert list(result["unreadable"]) == ["broken"]
    answers = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert len(answers) == 2 and all(answer["text"].count(" s: ") == 3 for answer in answers)
    with pytest.raises(ValueError, match="--window .* needs --media-dir|window must be above 0"):
        evaluate([*words.split(), "--window", "0"])


def test_times_of_an_annotated_part_count_from_its_beginning(pipe, folder, tmp_path):
    pipe.model.save_pretrained(tmp_path)
    pipe.processor.save_pretrained(tmp_path)
    generator = Generator(str(tmp_path), settings=GenerationSettings(max_new_tokens=16, window=6.0))
    generator._time_constraint.append(SpanBias(pipe.processor.tokenizer))
    question = Question("q", GROUNDING_PROMPT.format(query="rain"), "spans", "rain")
    example = Example("v", ("mpeg4",), None, (question,), start=8.0, end=18.0)
    media = Media(folder / "mpeg4.avi", True, None, 8.0, 18.0)
    ((answer,),) = generator.answer([(example, [question])], open_media=lambda _: media)
    assert answer.duration == pytest.approx(10.0)
    assert answer.events and all(0.0 <= event.start <= event.end <= 10.0 for event in answer.events)
