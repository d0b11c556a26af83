"""Conversion between times and text: the published codec, round trips of events, and answers of models."""

import json
import math
import re
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_builders.wordings import grounding_answer
from modeling_avicuna.timestamp_avicuna import Event, FrameCodec, TimeCodec, format_events, parse_events, read_events
from modeling_avicuna.written_events_avicuna import names_absence
from train.conversation import write_times


CODECS = [TimeCodec(), TimeCodec(num_bins=1000), TimeCodec(num_bins=24), TimeCodec(unit="seconds")]
TRICKY_LABELS = [
    "",
    " ",
    "a dog barks",
    "A dog barks.",
    "who is it?",
    "Dr. Smith speaks. Then, he leaves",
    "from 03 to 17",
    "X, from 03 to 17. Y",
    "From 03 to 17, X. From 40 to 52, Y.",
    "between 10 and 15 people",
    "10 to 15 people march",
    "2-3 dogs",
    "and from 40 to 52",
    "x. from 20",
    "dogs 5",
    "X. 2",
    '"quoted"',
    'she says "hi',
    '["',
    '"]',
    '[{"event": "x", "timestamps": "from 00 to 29"}]',
    "[3, 17]",
    "back\\slash",
    "two\nlines",
    "\u72d7\u5728\u53eb",
    "caf\u00e9 \u2615 \u2014 \u201cparty\u201d",
    "ends with and",
    "and begins",
    "No event.",
    "\x85line\u2028breaks",
    "seconds",
    "% of it",
]

labels = st.one_of(
    st.sampled_from(TRICKY_LABELS),
    st.text(max_size=20),
    st.lists(
        st.sampled_from([*"\"'[]{},.;:!?-\n 5", "from 3 to 9", "From 40", "and", " to ", "a", "17"]), max_size=8
    ).map("".join),
)


@st.composite
def durations_and_events(draw):
    duration = draw(st.floats(0.1, 1e5))
    times = st.floats(0.0, duration)
    pairs = draw(st.lists(st.tuples(times, times, labels), max_size=5))
    return duration, [Event(min(a, b), max(a, b), label) for a, b, label in pairs]


def test_time_tokens_equal_the_published_ones_except_for_negative_times(golden_dir):
    """Intended difference: the published code writes negative times ("-10"); ours clamps them to "00"."""
    table = json.loads((golden_dir / "time_tokens" / "time_tokens.json").read_text())["table"]
    differing = [row for row in table if TimeCodec().encode(row["seconds"], row["duration"]) != row["token"]]
    assert len(table) == 307
    assert all(row["seconds"] < 0 and row["token"].startswith("-") for row in differing)
    assert len(differing) == sum(row["token"].startswith("-") for row in table)
    assert {TimeCodec().encode(row["seconds"], row["duration"]) for row in differing} <= {"00"}


def test_times_are_inserted_into_texts_as_published_for_names_in_brackets(golden_dir):
    """Intended difference: the published code replaces any string, so that "s1" also replaces the start of "s10"
    ("100"); ours replaces only names such as "<s1>" and "<e1>"."""
    cases = json.loads((golden_dir / "time_tokens" / "time_tokens.json").read_text())["replacement"]
    for case in cases:
        bracketed = all(name.startswith("<") for name in case["token"])
        expected = case["values_out"] if bracketed else case["values_in"]
        for before, after in zip(case["values_in"], expected, strict=True):
            written = write_times(before, seconds=case["token"], duration=case["duration"], codec=TimeCodec())
            assert written == after
    assert len(cases) == 4


def test_a_duration_of_zero_is_an_error_that_names_it(golden_dir):
    """Intended difference: the published code raises a ZeroDivisionError."""
    golden = json.loads((golden_dir / "time_tokens" / "time_tokens.json").read_text())["zero_duration"]
    assert golden["error"].startswith("ZeroDivisionError")
    with pytest.raises(ValueError, match="duration must be a positive number of seconds, got 0"):
        TimeCodec().encode(golden["seconds"], golden["duration"])


WITHOUT_TORCH = """
import sys
from importlib.abc import MetaPathFinder

class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "numpy"):
            raise ModuleNotFoundError(name)

import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name in ("torch", "transformers") else found(name)
sys.meta_path.insert(0, Absent())
from modeling_avicuna.timestamp_avicuna import parse_events
from modeling_avicuna import *
print(parse_events("From 03 to 17, a dog barks.", 100.0), interleave_order(3, 1))
"""


def test_texts_can_be_parsed_without_torch_and_transformers(project_dir):
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], cwd=project_dir, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[Event(start=3.0, end=17.0, label='a dog barks', score=None)]")


@pytest.mark.parametrize("duration", [0, -1.0, math.nan, math.inf])
def test_an_invalid_duration_is_an_error(duration):
    for call in (
        lambda: TimeCodec().decode("03", duration),
        lambda: format_events([Event(0, 1, "x")], duration),
        lambda: parse_events("From 03 to 17.", duration),
    ):
        with pytest.raises(ValueError, match="duration"):
            call()


def test_wrong_settings_and_times_are_errors_that_name_them():
    with pytest.raises(ValueError, match="'percent'"):
        TimeCodec(unit="percent")
    with pytest.raises(ValueError, match="got 1$"):
        TimeCodec(num_bins=1)
    with pytest.raises(ValueError, match="nan"):
        TimeCodec().encode(math.nan, 10)
    with pytest.raises(ValueError, match="'soon'"):
        TimeCodec().decode("soon", 10)
    with pytest.raises(ValueError, match="start=5, end=3"):
        format_events([Event(5, 3, "x")], 10)


@pytest.mark.parametrize("codec", CODECS, ids=str)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_time_is_decoded_within_the_resolution(codec, data):
    duration = data.draw(st.floats(0.1, 1e5))
    seconds = data.draw(st.floats(-10.0, 2e5))
    decoded = codec.decode(codec.encode(seconds, duration), duration)
    clamped = min(max(seconds, 0.0), duration)
    assert 0.0 <= decoded <= duration
    assert abs(decoded - clamped) <= codec.resolution(duration) * (1 + 1e-6)


@pytest.mark.parametrize("codec", CODECS, ids=str)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_completions_agree_with_encoded_times(codec, data):
    """The largest completion of a prefix of a time is at least that time, and that of the whole time equals it."""
    duration = data.draw(st.floats(1.0, 9e4))
    text = codec.encode(data.draw(st.floats(0.0, duration)), duration)
    assert codec.is_complete(text) and codec.largest_completion(text) == float(text)
    for stop in range(len(text)):
        assert not codec.is_complete(text[:stop])
        assert codec.largest_completion(text[:stop]) >= float(text)
    for extra in "09.":
        assert codec.largest_completion(text + extra) is None


@pytest.mark.parametrize("codec", CODECS, ids=str)
@settings(max_examples=250, deadline=None)
@given(durations_and_events())
def test_formatted_events_are_read_back(codec, given_events):
    duration, events = given_events
    text = format_events(events, duration, codec=codec)
    read = read_events(text, duration, codec=codec)
    assert read.unread == []
    assert [event.label for event in read.events] == [event.label for event in events]
    tolerance = codec.resolution(duration) * (1 + 1e-6)
    for before, after in zip(events, read.events):
        assert abs(before.start - after.start) <= tolerance and abs(before.end - after.end) <= tolerance
    # formatting again gives the same text
    assert format_events(read.events, duration, codec=codec) == text


def test_pairs_of_tricky_labels_are_read_back():
    for first in TRICKY_LABELS:
        for second in TRICKY_LABELS:
            events = [Event(3.0, 17.0, first), Event(40.0, 52.0, second), Event(60.0, 61.0, "rain")]
            assert parse_events(format_events(events, 100), 100) == events


def test_the_wording_is_the_published_one():
    events = [Event(1.0, 5.55, "a dog barks"), Event(6, 10, "rain")]
    assert format_events(events, 10) == "From 10 to 55, a dog barks. From 60 to 99, rain."
    assert format_events([Event(0.3, 1.7, ""), Event(4.0, 5.2, "")], 10) == "From 03 to 17 and from 40 to 52."
    assert format_events([Event(0.3, 2.7, "")], 10) == "From 03 to 27."


@pytest.mark.parametrize("num_spans", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_training_answers_and_format_events_have_the_same_spans(num_spans, codec):
    duration = 100.0
    events = [Event(10.0 * i + 1, 10.0 * i + 7.5, "") for i in range(num_spans)]
    seconds = {f"<{name}{i}>": getattr(event, field) for i, event in enumerate(events)
               for name, field in (("s", "start"), ("e", "end"))}  # fmt: skip
    trained = write_times(grounding_answer(range(num_spans)), seconds=seconds, duration=duration, codec=codec)
    assert trained == format_events(events, duration, codec=codec)
    read = read_events(trained, duration, codec=codec)
    assert read.unread == [] and format_events(read.events, duration, codec=codec) == trained


@pytest.mark.parametrize("label", ["", *TRICKY_LABELS])
def test_several_spans_of_one_label_are_read_back(label):
    events = [Event(float(i), i + 2.0, label) for i in range(3, 90, 20)]
    assert parse_events(format_events(events, 100), 100) == events


def spans(text, duration=100.0):
    return [(event.start, event.end, event.label) for event in parse_events(text, duration)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("From 03 to 17, X.", [(3, 17, "X")]),
        ("X, from 03 to 17.", [(3, 17, "X")]),
        ("The man claps from 03 to 17 and from 40 to 52.", [(3, 17, "The man claps"), (40, 52, "The man claps")]),
        ("from 03 to 17, 20 to 30, and 40 to 52", [(3, 17, ""), (20, 30, ""), (40, 52, "")]),
        ("dog barking from 03 to 27, rain from 46 to 99.", [(3, 27, "dog barking"), (46, 99, "rain")]),
        ("From 03 to 17 a dog and from 20 to 30 a cat.", [(3, 17, "a dog"), (20, 30, "a cat")]),
        ("Between 03 and 17, a dog barks", [(3, 17, "a dog barks")]),
        ("It starts at 03 and ends at 17.", [(3, 17, "It")]),
        ("**From 03 to 17**: X\n**From 20 to 30**: Y", [(3, 17, "X"), (20, 30, "Y")]),
        ("Event 1: dog\nTime: from 03 to 17\n\nEvent 2: cat\nTime: from 20 to 30", [(3, 17, "dog"), (20, 30, "cat")]),
        ("Time: 03 - 17\nEvent: dog\n\nTime: 20 - 30\nEvent: cat", [(3, 17, "dog"), (20, 30, "cat")]),
        ("X from 1 minute 5 seconds to 1 min 30 s.", [(65, 90, "X")]),
        ("1m5s - 1m30s", [(65, 90, "")]),
        ("From 1 to 1.5 minutes, X.", [(60, 90, "X")]),
        ("00:01:05.500 --> 00:01:30.000", [(65.5, 90, "")]),
        ("From second 3 to second 17, X.", [(3, 17, "X")]),
        ("From 0% to 100%, X.", [(0, 100, "X")]),
        ("From frame 03 to frame 17, X.", [(3, 17, "X")]),
        ("X. Start: 03, end: 17", [(3, 17, "")]),
        ("Start time: 3 end time: 17", [(3, 17, "")]),
        ("[00:12 - 00:24] dog", [(12, 24, "dog")]),
        ("00 to 29", [(0, 29, "")]),
        ("03 - 17: dog\n20 - 30: cat", [(3, 17, "dog"), (20, 30, "cat")]),
        ("1. From 03 to 17, X. 2. From 20 to 30, Y.", [(3, 17, "X"), (20, 30, "Y")]),
        ("- X (03 to 17)\n- Y (20 to 30)", [(3, 17, "X"), (20, 30, "Y")]),
        ("Sure! From 03 to 17, A. B from 20 to 30.", [(3, 17, "A"), (20, 30, "B")]),
        ("From 40 to the end, rain.", [(40, 99, "rain")]),
        ("From 90 to 117, X.", [(90, 99, "X")]),
        ("From -5 to 17, X.", [(0, 17, "X")]),
        ("From 17 to 03, X.", [(3, 17, "X")]),
        ("From 17 to 17, X.", [(17, 17, "X")]),
        ("From 40, rain. From 50 to 60, wind.", [(50, 60, "wind")]),
        ("From 40 to, rain. From 50 to 60, wind.", [(50, 60, "wind")]),
        ('[{"event": "A.", "timestamps": "from 00 to 29"}, {"event": "B"}]', [(0, 29, "A")]),
        ('[{"label": "A", "start": 3, "end": 17.5}]', [(3, 17.5, "A")]),
        ('{"dog": [[3, 17], [40, 52]], "cat": "20-30"}', [(3, 17, "dog"), (40, 52, "dog"), (20, 30, "cat")]),
        ("[{'event': 'the man\\'s dog', 'timestamp': [3, 17]}]", [(3, 17, "the man's dog")]),
        ('[{"event": "a", "timestamps": "from 00 to 29"}, {"event": "b", "timesta', [(0, 29, "a")]),
        ("[[3, 17], [40, 52]]", [(3, 17, ""), (40, 52, "")]),
        ("", []),
        ("No event.", []),
        ("[]", []),
        ("There is no dog in 2024.", []),
    ],
)
def test_answers_of_models_are_read(text, expected):
    assert spans(text) == expected


def test_a_unit_after_the_last_span_counts_for_all_spans_of_the_answer():
    assert spans("From 3 to 17 and from 40 to 52 seconds.", 200.0) == [(3, 17, ""), (40, 52, "")]
    assert spans("From 3 to 17 and from 0:40 to 0:52.", 200.0) == [(6, 34, ""), (40, 52, "")]


@pytest.mark.parametrize(
    "text",
    ["From frame 50 to frame 250.", "frames 50-250", "Frame 50 - Frame 250", "[50, 250]", "50 to 250 frames"]
    + ['{"start_frame": 50, "end_frame": 250}', "from 2 s to 10 s", "from 0:02 to 0:10", "from 5% to 25%"],
)
def test_frame_numbers_are_read_by_the_frames_per_second(text):
    reading = read_events(text, 40.0, codec=FrameCodec(fps=25.0))
    assert [(event.start, event.end) for event in reading.events] == [(2.0, 10.0)] and not reading.unread


@pytest.mark.parametrize("fps", [0, -1, math.nan])
def test_frames_per_second_must_be_positive(fps):
    with pytest.raises(ValueError, match="fps must be a positive number"):
        FrameCodec(fps=fps)


ABSENT = [
    "No event.", "no", "None", "None.", "N/A", "Nothing.", "[]", "{}", "```json\n[]\n```", "not present", "does not occur",  # noqa: E501
    "It does not happen.", "The event does not occur in the video.", "There is no dog barking in the video.",
    "The dog isn't visible in the video.", "It doesn\u2019t appear.", "No such event is found in the video.",
    "The sound of rain cannot be heard.", "A dog barking never happens.", "There isn't any dog in this video.",
    "No, the event does not take place in this video.", "Sorry, I could not find any matching event.",
    "No dog is present in the video.", "There are no time spans in which it occurs.", "It has not happened.",
    "I cannot find this event.",
    "The video does not contain a barking dog.", "I don't see a dog there; the event is absent.",
]  # fmt: skip
UNREADABLE = ["I hear nothing.", "No idea.", "A man is walking.", "I do not know.", "I cannot see it clearly.", "..."]


@pytest.mark.parametrize("text", ABSENT)
def test_answers_about_absent_events_give_no_events(text):
    reading = read_events(text, 100)
    assert reading.events == [] and reading.unread == []


@pytest.mark.parametrize("text", UNREADABLE)
def test_other_texts_without_spans_are_unread(text):
    assert [piece.reason for piece in read_events(text, 100).unread] == ["no time span"]


@pytest.mark.parametrize(
    "text", ["There is no cat. A dog barks from 03 to 17.", "It does not occur before 02. From 03 to 17, a dog barks."]
)
def test_a_span_is_read_next_to_a_negation(text):
    assert [(start, end) for start, end, _ in spans(text)] == [(3, 17)]


def test_any_number_of_json_lines_is_read():
    lines = "\n".join(json.dumps({"event": f"event {i}", "start": i, "end": i + 1}) for i in range(90))
    assert spans(lines) == [(i, i + 1, f"event {i}") for i in range(90)]


def test_units_in_the_text_are_applied():
    assert spans("90.0 - 102.0 seconds, spread butter. 114 - 127 seconds, eat.", 200) == [
        (90, 102, "spread butter"),
        (114, 127, "eat"),
    ]
    assert spans("From 0:10 to 1:05, X.", 200) == [(10, 65, "X")]
    assert spans("from 3% to 17%", 200) == [(6, 34, "")]
    assert parse_events("From 3 to 17, X.", 200, codec=TimeCodec(unit="seconds")) == [Event(3, 17, "X")]


def test_all_answers_of_a_real_log_are_read(data_dir):
    """Grounding answers with one span per line, and narrations as JSON after a sentence."""
    lines = [
        json.loads(line)
        for line in (data_dir / "vtimellm" / "example_log.txt").read_text().splitlines()
        if line.strip()
    ]
    assert len(lines) == 8
    for line in lines:
        reading = read_events(line["answer"], 100)
        assert reading.unread == []
        assert len(reading.events) == (3 if line["task"] == "captioning" else 1)
        assert all(event.label and not re.search("[0-9]", event.label) for event in reading.events)
    first = parse_events(lines[0]["answer"], 100)
    assert [(event.start, event.end) for event in first] == [(0, 29), (29, 71), (71, 99)]
    assert (
        first[0].label == "A man is seen talking to the camera while a group of men are seen standing in front of him"
    )
    assert spans(lines[1]["answer"]) == [(17, 34, "The three men are standing on a mat")]


def test_published_predictions_of_timechat_are_read_without_an_error(data_dir):
    """Each entry as JSON text; some have empty or reversed time stamps."""
    files = sorted((data_dir / "timechat_eval").rglob("*pred*.json"))
    if not files:
        pytest.skip("the files of timechat_eval are absent")
    for file in files:
        content = json.loads(file.read_text(encoding="utf-8"))
        for entry in content.values() if isinstance(content, dict) else content:
            for event in parse_events(json.dumps(entry), 1e4, codec=TimeCodec(unit="seconds")):
                assert 0.0 <= event.start <= event.end <= 1e4


def test_unread_parts_have_a_reason():
    reasons = {text: [piece.reason for piece in read_events(text, 100).unread] for text in (
        "I hear nothing.", "From 40, rain.", "From 17 to 03, X.", '[{"event": "B"}, [3, 17]]', "From 03 to 17.", "No event.",  # noqa: E501
    )}  # fmt: skip
    assert list(reasons.values()) == [
        ["no time span"],
        ["no end of the span"],
        ["end before start, swapped"],
        ["no time span"],
        [],
        [],
    ]


def test_places_are_the_positions_of_the_times():
    for text in (
        "From 03 to 17 and from 40 to 52, X. Y from 60 to the end.",
        'So: [{"event": "3 dogs", "timestamps": "from 03 to 17"}, {"event": "b", "start": 40, "end": 52}]',
    ):
        reading = read_events(text, 100)
        written = [tuple(text[begin:stop] for begin, stop in place) for place in reading.places]
        assert written[:2] == [("03", "17"), ("40", "52")]
        assert len(written) == len(reading.events)


PIECES = ["From 03 to 17", "from 4", " to ", "and", "[", "]", "{", "}", '"', "'", ":", ",", ".", "\n", "1e9", "-", "9" * 400, '"event"', "timestamps", "[3, 17]", "NaN", "\\", "the end", "%", "\u0663", "\ud800"]  # fmt: skip  # noqa: E501


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.text(max_size=200), st.lists(st.sampled_from(PIECES), max_size=40).map("".join)))
def test_no_text_raises_an_error(text):
    reading = read_events(text, 12.5)
    for event, place in zip(reading.events, reading.places, strict=True):
        assert 0.0 <= event.start <= event.end <= 12.5
        assert all(0 <= begin <= stop <= len(text) for begin, stop in place)
    assert reading.events or reading.unread or not text.strip() or names_absence(text)


@pytest.mark.parametrize(
    "text",
    [
        '{"event": "x", "start": 1} ' * 1500, "{'event': 'x', 'start': 1, 'end': 2}\n" * 1000, "[1, 2] " * 5000,
        "does not " * 5000, "['" * 10000, "[" * 5000, '{"a":' * 5000, "from 1 " * 5000, "- " * 20000, "9" * 20000, "'" * 20000, "from 1 to 2 " * 3000,  # noqa: E501
    ],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_long_malformed_texts_are_read_in_little_time(text):
    begin = time.process_time()
    parse_events(text, 10)
    assert time.process_time() - begin < 2.0
