"""Conversations of planned videos: every time has its seconds, every answer is what the plan says."""

import re

import numpy as np
import pytest

from dataset_builders import wordings
from dataset_builders.pseudo_untrimmed.conversations import draw_turns, write_conversation


CAPTIONS = ["A dog barks.", "A bell rings twice", "A dog barks.", "The sea is calm."]
SPANS = [(0.0, 6.0), (6.0, 20.5), (20.5, 30.0), (30.0, 44.0)]
EVENTS = [0, 1, 0, 2]
DRAWS = draw_turns(np.arange(600), max_turns=3, seed=0).tolist()


def conversations(**options):
    return [write_conversation(CAPTIONS, SPANS, EVENTS, draws, **options) for draws in DRAWS]


def texts(conversation, role):
    return [content for speaker, content in conversation.messages if speaker == role]


def test_every_placeholder_has_its_seconds_and_the_reverse():
    for conversation in conversations():
        written = re.findall(r"<[se]\d+>", " ".join(content for _, content in conversation.messages))
        named = [name for name, _ in conversation.times]
        assert sorted(written) == sorted(named) and len(set(named)) == len(named)
        spans = [(start, end) for (_, start), (_, end) in zip(conversation.times[::2], conversation.times[1::2])]
        assert set(spans) <= set(SPANS)


def test_turns_alternate_and_the_video_stands_once_at_the_head():
    for conversation in conversations():
        roles = [role for role, _ in conversation.messages]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert conversation.messages[0][1].startswith("<video>\n")
        assert sum(content.count("<video>") for _, content in conversation.messages) == 1


def test_a_narration_tells_every_segment_in_order():
    for conversation in conversations(conversation_types=("T1",)):
        assert len(conversation.messages) == 2
        assert [seconds for _, seconds in conversation.times] == [time for span in SPANS for time in span]
        answer = texts(conversation, "assistant")[0]
        assert answer == (
            "From <s0> to <e0>, a dog barks. From <s1> to <e1>, a bell rings twice. "
            "From <s2> to <e2>, a dog barks. From <s3> to <e3>, the sea is calm."
        )


def test_grounding_gives_every_span_of_an_event():
    seen = set()
    for conversation in conversations(conversation_types=("T2",), max_turns=1):
        question, answer = texts(conversation, "user")[0], texts(conversation, "assistant")[0]
        spans = [time for _, time in conversation.times]
        if "A dog barks" in question:
            assert answer == "From <s0> to <e0> and from <s1> to <e1>." and spans == [0.0, 6.0, 20.5, 30.0]
        else:
            assert answer == "From <s0> to <e0>."
            assert spans == ([6.0, 20.5] if "A bell rings twice" in question else [30.0, 44.0])
        seen.add(answer)
    assert len(seen) == 2


def test_a_segment_question_is_answered_by_the_caption_there():
    shown = set()
    for conversation in conversations(conversation_types=("T3",), max_turns=1):
        (_, start), (_, end) = conversation.times
        place = SPANS.index((start, end))
        assert texts(conversation, "assistant")[0].rstrip(".") == CAPTIONS[place].rstrip(".")
        shown.add(place)
    assert shown == {0, 1, 2, 3}  # also the second occurrence of an event


def test_later_turns_are_about_other_events():
    lengths = set()
    for conversation in conversations(conversation_types=("T2", "T3")):
        lengths.add(len(conversation.messages) // 2)
        content = " ".join(content for _, content in conversation.messages).lower()
        assert all(content.count(caption.rstrip(".").lower()) <= 1 for caption in CAPTIONS)
    assert lengths == {1, 2, 3}


@pytest.mark.parametrize(
    ("family", "stems"),
    [
        ("T1", wordings.NARRATION_QUESTIONS),
        ("T2", wordings.GROUNDING_QUESTIONS),
        ("T3", wordings.SEGMENT_QUESTIONS),
    ],
)
def test_every_wording_of_a_family_is_used_about_as_often(family, stems):
    assert len(stems) >= 5
    heads = [re.split(r"\{", stem)[0] for stem in stems]
    asked = [texts(conversation, "user")[0] for conversation in conversations(conversation_types=(family,))]
    counts = [sum(question.removeprefix("<video>\n").startswith(head) for question in asked) for head in heads]
    assert min(counts) > 600 / len(stems) / 2


def test_families_are_drawn_alike():
    firsts = [conversation.messages[1][1] for conversation in conversations()]
    narrations = sum(answer.count("<s") == 4 for answer in firsts)
    segments = sum("<s" not in answer for answer in firsts)
    assert abs(narrations - 200) < 40 and abs(segments - 200) < 40
