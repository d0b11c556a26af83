"""Questions and answers about timed events: all events with all spans, in text that parses back to them."""

import collections

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_builders.sources.event_turns import absent_labels, event_rows
from dataset_builders.sources.timed_events import AnnotatedEvent, TimedVideo
from dataset_builders.wordings import (
    GROUNDING_QUESTIONS,
    NARRATION_QUESTIONS,
    SEGMENT_QUESTIONS,
    choose_wording,
    lower_first,
)
from modeling_avicuna.timestamp_avicuna import TimeCodec, parse_events


def video_of(*events, duration=100.0):
    return TimedVideo("v", duration, tuple(AnnotatedEvent(*event) for event in events))


def rows_of(video, *kinds, **settings):
    return list(event_rows(video, source="test", media="v.mp4", conversation_types=kinds, **settings))


def with_times(row, content):
    """A message with relative times of two digits."""
    for time in row["times"]:
        content = content.replace(time["name"], TimeCodec().encode(time["seconds"], row["duration"]))
    return content


def test_an_event_that_occurs_three_times_is_answered_with_three_spans():
    video = video_of((3, 17, "dog barking"), (30, 36, "Dog barking."), (40, 52, "dog barking"), (5, 9, "rain"))
    (row,) = rows_of(video, "grounding")
    questions = [message["content"] for message in row["messages"][::2]]
    answers = [message["content"] for message in row["messages"][1::2]]
    assert ["dog barking" in question for question in questions] == [True, False]
    assert answers == ["From <s0> to <e0>, from <s1> to <e1> and from <s2> to <e2>.", "From <s3> to <e3>."]
    events = parse_events(with_times(row, answers[0]), row["duration"])
    assert [(event.start, event.end) for event in events] == [(3, 17), (30, 36), (40, 52)]


def test_a_narration_parses_back_to_its_events():
    video = video_of((3, 17, "A dog barks."), (30, 36, "TV noise"), (40, 52, "a man speaks to the crowd"))
    (row,) = rows_of(video, "narration")
    assert row["messages"][0]["content"].startswith("<video>\n")
    answer = with_times(row, row["messages"][1]["content"])
    assert answer == "From 03 to 17, a dog barks. From 30 to 36, TV noise. From 40 to 52, a man speaks to the crowd."
    events = parse_events(answer, row["duration"])
    assert [(event.start, event.end, event.label) for event in events] == [
        (3, 17, "a dog barks"),
        (30, 36, "TV noise"),
        (40, 52, "a man speaks to the crowd"),
    ]


def test_events_with_the_same_span_are_in_one_answer():
    (row,) = rows_of(video_of((3, 17, "dog barking"), (3, 17, "rain"), (20, 30, "wind")), "segment")
    assert [message["content"] for message in row["messages"][1::2]] == ["Dog barking, and rain.", "Wind."]
    assert "<s0>" in row["messages"][0]["content"] and "<e0>" in row["messages"][0]["content"]
    assert [time["seconds"] for time in row["times"]] == [3, 17, 20, 30]


def test_braces_and_quotes_in_a_label_are_kept():
    (row,) = rows_of(video_of((0, 9, 'a man says "{hi}"')), "grounding")
    assert 'a man says "{hi}"' in row["messages"][0]["content"]


events_strategy = st.lists(
    st.tuples(st.integers(0, 98), st.integers(1, 60), st.sampled_from(["rain", "wind", "a dog barks", "speech"])),
    min_size=1,
    max_size=30,
    unique=True,
)


@settings(max_examples=60, deadline=None)
@given(events=events_strategy, max_turns=st.integers(1, 5))
def test_no_event_is_lost_for_any_number_of_turns(events, max_turns):
    video = video_of(*((start, min(start + length, 100), text) for start, length, text in events))
    rows = rows_of(video, "grounding", "segment", max_turns=max_turns)
    spans = {"grounding": collections.Counter(), "segment": collections.Counter()}
    for row in rows:
        assert len(row["messages"]) <= 2 * max_turns
        assert row["messages"][0]["content"].startswith("<video>\n")
        assert not any("<video>" in message["content"] for message in row["messages"][1:])
        seconds = {time["name"]: time["seconds"] for time in row["times"]}
        spans[row["id"].split("-")[2]].update(
            (seconds[f"<s{number}>"], seconds[f"<e{number}>"]) for number in range(len(seconds) // 2)
        )
    # a span annotated twice with the same text is listed once
    different = {(event.start, event.end, event.text) for event in video.events}
    assert spans["grounding"] == collections.Counter((start, end) for start, end, _ in different)
    assert set(spans["segment"]) == set(spans["grounding"]) and max(spans["segment"].values()) == 1
    assert len({row["id"] for row in rows}) == len(rows)


def test_a_question_about_an_absent_event_has_a_random_position_and_no_span():
    labels = ["rain", "dog barking", *(f"sound {number}" for number in range(98))]
    places = set()
    for number in range(20):
        video = TimedVideo(str(number), 50.0, (AnnotatedEvent(0, 9, "rain"), AnnotatedEvent(3, 8, "dog barking")))
        (absent,) = absent_labels(video, labels, num=1)
        assert absent in labels and absent not in ("rain", "dog barking")
        (row,) = rows_of(video, "grounding", absent=[absent])
        asked, answers = ([message["content"] for message in row["messages"][start::2]] for start in (0, 1))
        place = answers.index("No event.")
        places.add(place)
        assert f'"{absent}"' in asked[place] and answers.count("No event.") == 1 and len(row["times"]) == 4
        assert parse_events(answers[place], row["duration"]) == []
    assert places == {0, 1, 2}
    assert len(absent_labels(video, ["rain", "wind"], num=5)) == 1


@settings(max_examples=60, deadline=None)
@given(events=events_strategy, duration=st.floats(1.0, 300.0))
def test_grounding_answers_parse_back_to_their_spans(events, duration):
    scale = duration / 160  # the latest end of the strategy is 158
    video = video_of(*((start * scale, (start + n) * scale, text) for start, n, text in events), duration=duration)
    for row in rows_of(video, "grounding"):
        seconds = {time["name"]: time["seconds"] for time in row["times"]}
        answers = [with_times(row, message["content"]) for message in row["messages"][1::2]]
        parsed = [event for text in answers for event in parse_events(text, row["duration"])]
        assert len(parsed) == len(seconds) // 2
        for number, event in enumerate(parsed):
            assert abs(event.start - seconds[f"<s{number}>"]) <= 0.0101 * video.duration
            assert abs(event.end - seconds[f"<e{number}>"]) <= 0.0151 * video.duration


def test_wordings_vary_between_rows_and_do_not_depend_on_their_order():
    videos = [TimedVideo(str(number), 50.0, (AnnotatedEvent(0, 9, "rain"),)) for number in range(200)]
    for kind, wordings in (
        ("narration", NARRATION_QUESTIONS),
        ("grounding", [question.format(query="rain") for question in GROUNDING_QUESTIONS]),
        ("segment", [question.format(start="<s0>", end="<e0>") for question in SEGMENT_QUESTIONS]),
    ):
        asked = [rows_of(video, kind)[0]["messages"][0]["content"].removeprefix("<video>\n") for video in videos]
        assert set(asked) == set(wordings)
        assert asked[::-1] == [
            rows_of(video, kind)[0]["messages"][0]["content"].removeprefix("<video>\n") for video in videos[::-1]
        ]
        assert asked != [
            rows_of(video, kind, seed=1)[0]["messages"][0]["content"].removeprefix("<video>\n") for video in videos
        ]


def test_grounding_questions_are_distinct_and_have_one_query():
    assert len(set(GROUNDING_QUESTIONS)) == len(GROUNDING_QUESTIONS) >= 5
    assert all(question.count("{query}") == 1 for question in GROUNDING_QUESTIONS)


def test_a_wrong_conversation_type_is_named():
    with pytest.raises(ValueError, match="'dialog'"):
        rows_of(video_of((0, 9, "rain")), "dialog")


def test_choose_wording_is_frozen():
    assert [choose_wording("abcdefgh", str(key), seed=7) for key in range(6)] == list("ahgbgf")


def test_names_and_acronyms_keep_their_capital():
    assert lower_first("TV noise") == "TV noise" and lower_first("A dog") == "a dog"
    assert lower_first("McDonald sings") == "McDonald sings"
