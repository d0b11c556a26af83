"""Conversations about planned videos: times and answers agree with the plan."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dataset_builders import wordings
from dataset_builders.pseudo_untrimmed.conversations import draw_turns, write_conversation
from modeling_avicuna.timestamp_avicuna import join_spans


CAPTIONS = ["A dog barks.", "A bell rings twice", "A dog barks.", "The sea is calm."]
SPANS = [(0.0, 6.0), (6.0, 20.5), (20.5, 30.0), (30.0, 44.0)]
EVENTS = [0, 1, 0, 2]
DRAWS = draw_turns(np.arange(600), max_turns=3, seed=0).tolist()


def conversations(**options):
    return [write_conversation(CAPTIONS, SPANS, EVENTS, draws, **options) for draws in DRAWS]


def questions(conversation):
    return [question for question, _ in conversation.turns]


def answers(conversation):
    return [answer for _, answer in conversation.turns]


def test_placeholders_and_times_correspond():
    for conversation in conversations():
        written = re.findall(r"<[se]\d+>", " ".join(text for turn in conversation.turns for text in turn))
        named = [f"<{name}>" for name, _ in conversation.times]
        assert sorted(written) == sorted(named) and len(set(named)) == len(named)
        spans = [(start, end) for (_, start), (_, end) in zip(conversation.times[::2], conversation.times[1::2])]
        assert set(spans) <= set(SPANS)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_spans_are_joined_as_in_the_time_codec(count):
    spans = [wordings.span_text(index) for index in range(count)]
    assert wordings.grounding_answer(range(count)) == f"F{join_spans(spans)[1:]}."


def test_a_shard_is_built_without_torch():
    """Importing it costs each worker of a build 4 s of CPU time and half a gigabyte."""
    code = (
        "import sys; from dataset_builders.pseudo_untrimmed import shards; from dataset_builders import wordings\n"
        "assert wordings.grounding_answer([0]) and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


def test_a_narration_lists_all_segments_in_order():
    for conversation in conversations(conversation_types=("narration",)):
        assert len(conversation.turns) == 1
        assert [seconds for _, seconds in conversation.times] == [time for span in SPANS for time in span]
        answer = answers(conversation)[0]
        assert answer == (
            "From <s0> to <e0>, a dog barks. From <s1> to <e1>, a bell rings twice. "
            "From <s2> to <e2>, a dog barks. From <s3> to <e3>, the sea is calm."
        )


def test_grounding_lists_all_spans_of_an_event():
    seen = set()
    for conversation in conversations(conversation_types=("grounding",), max_turns=1):
        question, answer = questions(conversation)[0], answers(conversation)[0]
        spans = [time for _, time in conversation.times]
        if "A dog barks" in question:
            assert answer == "From <s0> to <e0> and from <s1> to <e1>." and spans == [0.0, 6.0, 20.5, 30.0]
        else:
            assert answer == "From <s0> to <e0>."
            assert spans == ([6.0, 20.5] if "A bell rings twice" in question else [30.0, 44.0])
        seen.add(answer)
    assert len(seen) == 2


def test_a_segment_question_is_answered_by_the_caption_of_the_segment():
    shown = set()
    for conversation in conversations(conversation_types=("segment",), max_turns=1):
        (_, start), (_, end) = conversation.times
        place = SPANS.index((start, end))
        assert answers(conversation)[0].rstrip(".") == CAPTIONS[place].rstrip(".")
        shown.add(place)
    assert shown == {0, 1, 2, 3}  # including the second occurrence of an event


def test_later_turns_are_about_other_events():
    lengths = set()
    for conversation in conversations(conversation_types=("grounding", "segment")):
        lengths.add(len(conversation.turns))
        content = " ".join(text for turn in conversation.turns for text in turn).lower()
        assert all(content.count(caption.rstrip(".").lower()) <= 1 for caption in CAPTIONS)
    assert lengths == {1, 2, 3}


@pytest.mark.parametrize(
    ("family", "stems"),
    [
        ("narration", wordings.NARRATION_QUESTIONS),
        ("grounding", wordings.GROUNDING_QUESTIONS),
        ("segment", wordings.SEGMENT_QUESTIONS),
    ],
)
def test_wordings_of_a_family_are_used_about_equally_often(family, stems):
    assert len(stems) >= 5
    heads = [re.split(r"\{", stem)[0] for stem in stems]
    asked = [questions(conversation)[0] for conversation in conversations(conversation_types=(family,))]
    counts = [sum(question.startswith(head) for question in asked) for head in heads]
    assert min(counts) > 600 / len(stems) / 2


def test_families_are_drawn_equally_often():
    firsts = [answers(conversation)[0] for conversation in conversations()]
    narrations = sum(answer.count("<s") == 4 for answer in firsts)
    segments = sum("<s" not in answer for answer in firsts)
    assert abs(narrations - 200) < 40 and abs(segments - 200) < 40


def test_a_grounding_turn_about_an_absent_event_has_the_absent_answer():
    absent = ["A cat purrs.", None, "Rain falls"]
    seen = set()
    for conversation in conversations(conversation_types=("grounding",), absent=absent):
        for number, (question, answer) in enumerate(conversation.turns):
            if absent[number] is not None:
                assert answer == wordings.ABSENT_ANSWER and absent[number].rstrip(".") in question
            else:
                assert answer.startswith("From <s")
            seen.add(number)
    assert seen == {0, 1, 2}
    unchanged = conversations(conversation_types=("narration", "segment"), absent=absent)
    assert unchanged == conversations(conversation_types=("narration", "segment"))


def test_a_listing_has_times_only_and_remaining_turns_about_absent_events():
    absent = ["wind", None, "rain", None, "fire", None]
    draws = draw_turns(np.arange(50), max_turns=6, seed=0).tolist()
    for row in draws:
        options = {"conversation_types": ("listing",), "min_turns": 6, "max_turns": 6, "absent": absent}
        conversation = write_conversation(["A dog.", "a cat", "A dog."], SPANS[:3], [0, 1, 0], row, **options)
        entries = dict(conversation.turns)
        assert {query: entries[query] for query in ("wind", "rain", "fire")} == dict.fromkeys(
            ["wind", "rain", "fire"], "No"
        )
        assert sorted(entries) == ["A dog", "a cat", "fire", "rain", "wind"]
        assert len(entries["a cat"]) == len("<s0><e0>") and len(entries["A dog"]) == len("<s0><e0><s1><e1>")
        assert len(conversation.times) == 6
