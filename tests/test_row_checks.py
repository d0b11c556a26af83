"""Checks of conversations: what a builder writes passes; test_training_rows.py has what does not."""

import pytest

from train.row_checks import find_problem


def turns(question="<video>\nWhen?", answer="From <s0> to <e0>."):
    return [("user", question), ("assistant", answer)]


@pytest.mark.parametrize(
    ("messages", "media", "duration"),
    [
        (turns(), {"video"}, 9.0),
        ([("system", ""), *turns()], {"video", "audio"}, 9.0),
        (turns("<audio>\nWhat?", "Rain."), {"audio"}, None),
        (turns("What?", "Rain."), set(), None),
        (turns("", "Rain <b>falls</b>."), set(), None),
    ],
)
def test_a_usable_conversation_has_no_problem(messages, media, duration):
    assert (
        find_problem(messages, duration=duration, times={"<s0>": 1.0, "<e0>": 9.3, "<s1>": 99.0}, media=media) is None
    )
