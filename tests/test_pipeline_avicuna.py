"""The pipeline: from a video file to events in seconds, also loaded from a checkpoint without the project."""

import io
import json
import os
import subprocess
import sys

import pytest
import torch
from transformers import LogitsProcessor, pipeline

import modeling_avicuna  # noqa: F401  (registers the task)
from modeling_avicuna.media_avicuna import MediaError
from modeling_avicuna.pipeline_avicuna import AVicunaPipeline
from modeling_avicuna.prompt_avicuna import GROUNDING_PROMPT, NARRATION_PROMPT, SEGMENT_CAPTION_PROMPT
from tests.media_files import count_opens, pictures, tone, write_media
from tests.time_fixtures import SpanBias, tiny_model_for, tiny_processor


TASK = "audio-visual-event-localization"


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


@pytest.fixture(scope="module")
def model(processor):
    return tiny_model_for(processor)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    write_media(folder / "sound.mp4", frames=pictures(40), fps=10, waveform=tone(4.0))
    write_media(folder / "-silent.mp4", frames=pictures(30)[::-1], fps=10)
    write_media(folder / "audio.wav", waveform=tone(13.0), audio_codec="pcm_s16le")
    return folder


@pytest.fixture(scope="module")
def pipe(model, processor):
    """A pipeline that generates time spans, so that there are events."""
    return pipeline(
        task=TASK, model=model, processor=processor, device="cpu", max_new_tokens=24, do_sample=False,
        logits_processor=[SpanBias(processor.tokenizer)],
    )  # fmt: skip


@pytest.fixture
def asked(pipe, monkeypatch):
    """The questions passed to the model."""
    questions = []
    from modeling_avicuna import pipeline_avicuna

    for name in ("answer_questions", "answer_batch"):
        original = getattr(pipeline_avicuna, name)

        def recorded(*args, original=original, **kwargs):
            questions.extend(kwargs["questions"])
            return original(*args, **kwargs)

        monkeypatch.setattr(pipeline_avicuna, name, recorded)
    return questions


def check_events(events: list[dict], *, duration: float):
    assert events
    for event in events:
        assert list(event) == ["start", "end", "label", "score"]
        assert 0.0 <= event["start"] <= event["end"] <= duration and 0.0 < event["score"] < 1.0


def test_the_default_is_a_narration_of_all_events(pipe, videos, asked):
    events = pipe(videos / "sound.mp4")
    check_events(events, duration=4.0)
    assert asked == [NARRATION_PROMPT]


class Repeating(LogitsProcessor):
    """Writes "From 03 to 17, rain rain rain ..." without end, or a full stop if it must, and then another event."""

    def __init__(self, tokenizer):
        self.tokenizer, self.prompt = tokenizer, None

    def __call__(self, input_ids, scores):
        self.prompt = input_ids.shape[1] if self.prompt is None else self.prompt
        encode = lambda text: self.tokenizer(text, add_special_tokens=False).input_ids  # noqa: E731
        (stop,) = encode(".")
        scores[:, stop] += 50
        for row, ids in enumerate(input_ids[:, self.prompt :].tolist()):
            planned = encode(" From 03 to 17," + len(ids) * " rain")
            if stop in ids:
                planned = [*ids[: ids.index(stop) + 1], *encode(" From 40 to 52, a dog."), self.tokenizer.eos_token_id]
            scores[row, planned[len(ids)]] += 100
        return scores


@pytest.mark.parametrize("names", [["sound.mp4"], ["sound.mp4", "-silent.mp4"]])
def test_a_narration_that_repeats_itself_is_continued_if_asked_for(pipe, videos, names):
    def ask(**settings) -> list[list[str]]:
        repeating = {"logits_processor": [Repeating(pipe.processor.tokenizer)], "max_new_tokens": 48}
        answers = pipe([videos / name for name in names], batch_size=2, **repeating, **settings)
        return [[event["label"] for event in events] for events in answers]

    assert ask(end_repetition=True) == [["rain rain rain", "a dog"]] * len(names)
    for settings in ({}, {"end_repetition": False}):
        assert all(label.count("rain") > 5 for (label,) in ask(**settings))


def test_a_query_gives_events_labelled_with_it(pipe, videos, asked):
    events = pipe(str(videos / "sound.mp4"), query="dog barking")
    check_events(events, duration=4.0)
    assert {event["label"] for event in events} == {"dog barking"}
    assert asked == [GROUNDING_PROMPT.format(query="dog barking")]


@pytest.mark.parametrize("batch_size", [None, 2])
def test_several_queries_equal_single_queries(pipe, videos, batch_size):
    queries = ["dog barking", "rain", "a {curly} man", "a very long description of something that never happens"]
    together = pipe(videos / "sound.mp4", query=queries, batch_size=batch_size)
    assert list(together) == queries
    for query in queries:
        separate = pipe(videos / "sound.mp4", query=query)
        assert [{**event, "score": None} for event in separate] == [
            {**event, "score": None} for event in together[query]
        ]
        for event, other in zip(separate, together[query]):
            assert event["score"] == pytest.approx(other["score"], rel=1e-3)


def test_an_interval_gives_the_event_in_it(pipe, videos, asked):
    event = pipe(videos / "sound.mp4", interval=(1.0, 3.0))
    assert list(event) == ["start", "end", "label", "score"]
    assert (event["start"], event["end"], event["score"]) == (1.0, 3.0, None) and event["label"]
    assert asked == [SEGMENT_CAPTION_PROMPT.format(start="25", end="75")]
    several = pipe(videos / "sound.mp4", interval=[(1.0, 3.0), (0.0, 4.0)])
    assert pipe(videos / "sound.mp4", interval=[1.0, 3.0]) == event
    assert several[0] == event and [item["end"] for item in several] == [3.0, 4.0]


def test_the_duration_is_that_of_the_video_stream(pipe, tmp_path, asked):
    """4 s of video and 8 s of audio: 2 s are half of the duration, as in the processor and the model card."""
    path = write_media(tmp_path / "longer_sound.mp4", frames=pictures(40), fps=10, waveform=tone(8.0))
    check_events(pipe(path), duration=4.0)
    pipe(path, interval=(1.0, 2.0))
    assert asked[-1] == SEGMENT_CAPTION_PROMPT.format(start="25", end="50")
    pipe({"path": path, "start": 1.0, "end": 3.0}, interval=(1.5, 2.0))
    assert asked[-1] == SEGMENT_CAPTION_PROMPT.format(start="25", end="50")
    assert pipe({"video": path}) == pipe(path)


@pytest.mark.parametrize("asked_for", [{}, {"query": ["rain", "dog"]}, {"interval": (1.0, 2.0)}])
def test_a_file_is_opened_once_for_its_events(pipe, videos, asked_for):
    with count_opens(videos / "sound.mp4") as num_opens:
        pipe(videos / "sound.mp4", **asked_for)
    assert num_opens == [1]


def test_a_question_gives_text(pipe, videos, asked):
    answer = pipe(videos / "sound.mp4", question="What is it?")
    assert isinstance(answer, str) and answer
    assert pipe(videos / "sound.mp4", question=["What is it?", "Why?"])[0] == answer
    assert asked == ["What is it?", "What is it?", "Why?"]


def test_a_file_object_equals_its_path(pipe, videos):
    content = (videos / "sound.mp4").read_bytes()
    expected = pipe(videos / "sound.mp4", query="rain")
    assert pipe(io.BytesIO(content), query="rain") == expected
    with open(videos / "sound.mp4", "rb") as file:
        assert pipe(file, query="rain") == expected


def test_lists_of_videos_equal_single_videos(pipe, videos):
    paths = [videos / "sound.mp4", videos / "-silent.mp4", videos / "sound.mp4"]
    separate = [pipe(path) for path in paths]
    for together in (
        pipe(paths),
        pipe(paths, batch_size=3),
        pipe(paths, batch_size=2),
        list(pipe(path for path in paths)),
    ):
        assert len(together) == 3
        for events, expected in zip(together, separate):
            assert [(event["start"], event["end"], event["label"]) for event in events] == [
                (event["start"], event["end"], event["label"]) for event in expected
            ]
    assert separate[0] != separate[1]
    several = pipe(paths, query=["rain", "dog"])
    assert [list(result) for result in several] == [["rain", "dog"]] * 3
    assert several[1] == pipe(paths[1], query=["rain", "dog"])


def test_a_batch_size_of_the_constructor_applies_to_every_call(model, processor, videos):
    paths = [videos / "sound.mp4", videos / "-silent.mp4"]
    settings = {"task": TASK, "model": model, "processor": processor, "device": "cpu", "max_new_tokens": 8}
    batched, plain = pipeline(**settings, batch_size=2), pipeline(**settings)
    expected = [plain(path, question="What?") for path in paths]
    assert batched(paths, question="What?") == list(batched((path for path in paths), question="What?")) == expected


def test_sound_changes_the_answer_and_audio_files_are_accepted(pipe, videos):
    with_sound = pipe(videos / "sound.mp4", question="What?")
    assert with_sound != pipe({"path": videos / "sound.mp4", "audio": False}, question="What?")
    events = pipe({"type": "audio", "path": videos / "audio.wav"}, query="a tone")
    check_events(events, duration=13.1)


def test_features_give_the_answer_of_the_file(pipe, videos, model, processor):
    messages = [{"role": "user", "content": [{"type": "video", "path": videos / "sound.mp4"}]}]
    inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True)
    with torch.no_grad():
        video = model.model.encode_video(inputs["pixel_values_videos"]).pooler_output[0]
        audio = model.model.encode_audio(inputs["input_features"]).pooler_output[0]
    block = {"video_features": video, "audio_features": audio, "duration": 4.0}
    assert pipe(block, question="What?") == pipe(videos / "sound.mp4", question="What?")


@pytest.mark.parametrize(
    "asked", [{"query": ["rain", "dog"]}, {"query": "rain"}, {}, {"question": "What is it?"}], ids=str
)
def test_cache_and_output_settings_of_generate_do_not_change_the_answer(pipe, videos, asked):
    video = videos / "sound.mp4"
    expected = pipe(video, **asked)
    assert pipe(video, **asked, output_logits=True, return_dict_in_generate=True) == expected
    without_cache = pipe(video, **asked, use_cache=False)
    assert repr(without_cache)[:30] == repr(expected)[:30]  # scores may differ in their last digits
    for found, event in zip(events_of(without_cache), events_of(expected), strict=True):
        assert {**found, "score": None} == {**event, "score": None}
        assert found["score"] == pytest.approx(event["score"], rel=1e-3)


def events_of(answer) -> list[dict]:
    if isinstance(answer, str):
        return []
    return [event for events in (answer.values() if isinstance(answer, dict) else [answer]) for event in events]


@pytest.mark.parametrize("asked", [{"query": ["rain", "dog"]}, {"query": "rain"}], ids=str)
def test_scores_follow_the_protocol(pipe, videos, asked):
    video = videos / "sound.mp4"
    scores = {kind: [event["score"] for event in events_of(pipe(video, **asked, score=kind))]
              for kind in ("time_tokens", "presence", "constant")}  # fmt: skip
    assert set(scores["constant"]) == {1.0}
    assert len(set(scores["presence"])) <= 2 and all(0 < score < 1 for score in scores["presence"])
    assert scores["time_tokens"] == [event["score"] for event in events_of(pipe(video, **asked))]
    with pytest.raises(ValueError, match="'certainty'"):
        pipe(video, **asked, score="certainty")


class ForcedText(LogitsProcessor):
    """Forces a model to generate one text."""

    def __init__(self, tokenizer, text: str):
        self.ids = [*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        self.prompt_length = None

    def __call__(self, input_ids, scores):
        self.prompt_length = self.prompt_length or input_ids.shape[1]
        forced = torch.full_like(scores, -float("inf"))
        forced[:, self.ids[min(input_ids.shape[1] - self.prompt_length, len(self.ids) - 1)]] = 0.0
        return forced


def test_an_event_that_does_not_occur_gives_an_empty_list(model, processor, videos):
    plain = AVicunaPipeline(model=model, processor=processor, task=TASK, device=-1, do_sample=False)
    for text in ("No event.", "It does not happen in the video."):
        for query, expected in (("rain", []), (["rain", "dog"], {"rain": [], "dog": []})):
            forced = [ForcedText(processor.tokenizer, text)]
            assert plain(videos / "sound.mp4", query=query, logits_processor=forced) == expected


def test_events_of_a_part_of_a_video_have_times_of_the_file(model, processor, videos, asked):
    """In a part from 1.5 to 3.5 s, "From 25 to 50" is 2.0 to 2.5 s of the file."""
    plain = AVicunaPipeline(model=model, processor=processor, task=TASK, device=-1, do_sample=False)
    video = str(videos / "sound.mp4")
    block = {"path": video, "start": 1.5, "end": 3.5}
    aliases = {"path": video, "video_start": 1.5, "video_end": 3.5}
    prepared = plain.processor.prepare_media({"type": "video", **block})
    for part, given in (({"start": 1.5, "end": 3.5}, video), ({}, block), ({}, aliases), ({}, prepared)):
        forced = [ForcedText(processor.tokenizer, "From 25 to 50.")]
        (event,) = plain(given, query="rain", logits_processor=forced, **part)
        assert (event["start"], event["end"]) == pytest.approx((2.0, 2.5), abs=0.02)
        found = plain(given, interval=(2.0, 2.5), max_new_tokens=3, **part)
        assert (found["start"], found["end"]) == (2.0, 2.5)
        assert asked[-1] == SEGMENT_CAPTION_PROMPT.format(start="25", end="50")
        with pytest.raises(ValueError, match=r"\(0.5, 2.0\) is not within the video, 1.500 to 3.500 s"):
            plain(given, interval=(0.5, 2.0), **part)
    with pytest.raises(ValueError, match="start is given twice"):
        plain({"path": video, "start": 1.0}, start=2.0)


def test_wrong_arguments_are_errors_that_name_them(pipe, videos):
    video = videos / "sound.mp4"
    with pytest.raises(ValueError, match="one of query, interval and question"):
        pipe(video, query="a", question="b")
    with pytest.raises(ValueError, match=r"interval \(3.0, 2.0\) is not within the video, 0.000 to 4.000 s"):
        pipe(video, interval=(3.0, 2.0))
    with pytest.raises(ValueError, match=r"interval \(1.0, 99.0\) is not within the video, 0.000 to 4.000 s"):
        pipe(video, interval=(1.0, 99.0))
    with pytest.raises(ValueError, match="one answer per question, got num_return_sequences=2"):
        pipe(video, query="a", num_beams=2, num_return_sequences=2)
    with pytest.raises(ValueError, match="expected a str or a list of them, got 5"):
        pipe(video, query=5)
    with pytest.raises(ValueError, match="empty list"):
        pipe(video, query=[])
    with pytest.raises(MediaError, match="missing.mp4"):
        pipe(videos / "missing.mp4")
    with pytest.raises(MediaError, match="no video stream"):
        pipe(videos / "audio.wav")
    with pytest.raises(ValueError, match="duration in seconds"):
        pipe({"video_features": torch.zeros(3, 24)})
    check_events(pipe({"path": video, "duration": 4.4}), duration=4.0)  # rounded, as annotation files have it
    with pytest.raises(ValueError, match="placeholder '<video>'"):
        pipe(video, question="What is <video>?")
    rows = torch.zeros(3, 24)
    for block, message in (
        ({"path": video, "duration": 100.0}, "duration=100.0 is given for a medium of 4.000 s"),
        ({"video_features": rows[:, :5], "duration": 4.0}, "video_features have 5 columns, .* gives 24"),
        ({"video_features": rows / 0, "duration": 4.0}, r"video_features of shape \(3, 24\) hold NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            pipe(block)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"query": ""}, "a question is empty: ''"),
        ({"query": ["rain", " "]}, "a question is empty: ' '"),
        ({"question": ""}, "a question is empty"),
        ({"interval": ("1", "2")}, r"an interval is a pair of numbers .*\('1', '2'\)"),
        ({"interval": (1, 2, 3)}, "an interval is a pair of numbers"),
        ({"interval": [(1, 2), (3,)]}, "an interval is a pair of numbers"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"batch_size": -1}, "batch_size must be"),
        ({"batch_size": "2"}, "batch_size must be"),
        ({"query": "a", "window": "60"}, "window must be a positive number of seconds, got '60'"),
        ({"query": "a", "window": 2.0, "min_presence": 2}, "min_presence must be from 0 to 1, got 2"),
        ({"query": "a", "window": 2.0, "min_presence": float("nan")}, "min_presence must be"),
    ],
)
def test_an_option_out_of_range_is_an_error_that_names_it(pipe, videos, options, message):
    with pytest.raises(ValueError, match=message):
        pipe([videos / "sound.mp4"], **options)


WITHOUT_PROJECT = """
import json, sys
sys.modules["modeling_avicuna"] = None  # the project is not installed
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoProcessor, pipeline

folder, video, task = sys.argv[1:]
options = {"device": "cpu", "max_new_tokens": 12}
try:
    pipeline(task="audio-visual-event-localization", model=folder, **options)
except ValueError as error:
    assert "trust_remote_code" in str(error)
else:
    raise AssertionError("loaded without trust_remote_code")
pipelines = [pipeline(task=task or None, model=folder, trust_remote_code=True, **options)]
plain = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
lora = LoraConfig(r=2, target_modules=r"model\\.language_model\\..*\\.q_proj")
for model in (plain, get_peft_model(plain, lora)):  # the LoRA starts at zero
    pipelines.append(pipeline("audio-visual-event-localization", model=model, processor=processor, **options))
results = []
for pipe in pipelines:
    answers = [pipe(video, query=["rain", "dog"], do_sample=False), pipe(video, question="What?", do_sample=False)]
    results.append([type(pipe).__name__, type(pipe).__module__.split(".")[0], *answers])
print()  # ends the line of transformers' question about trust
print(json.dumps(results))
"""


@pytest.mark.parametrize("saved_by", ["model and processor", "pipeline"])
def test_a_checkpoint_works_as_pipeline_without_the_project(model, processor, videos, tmp_path, saved_by):
    """Loaded by the pipeline, and from a loaded model and its LoRA, as for quantised and PEFT models."""
    plain = AVicunaPipeline(model=model, processor=processor, task=TASK, device=-1, max_new_tokens=12, do_sample=False)
    folder = tmp_path / "checkpoint"
    if saved_by == "pipeline":
        plain.save_pretrained(folder)
    else:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    video = str(videos / "sound.mp4")
    expected = [plain(video, query=["rain", "dog"]), plain(video, question="What?")]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PROJECT, folder, video, TASK if saved_by == "pipeline" else ""],
        cwd=tmp_path, env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "PYTHONPATH": ""},
        capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(done.stdout.strip().splitlines()[-1])
    assert results == [["AVicunaPipeline", "transformers_modules", *expected]] * 3
