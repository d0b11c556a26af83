"""Separates the answer of a reasoning model from its thoughts, for the judge's replies and for `eval.events`."""

import re


_BEGIN = re.compile(r"<think(?:ing)?>|\[THINK\]", re.IGNORECASE)
_END = re.compile(r"</think(?:ing)?>|\[/THINK\]", re.IGNORECASE)


def without_thoughts(text: str) -> str | None:
    """The text after the last end of thoughts, whose beginning may be part of the prompt; None if they have no end.

    >>> without_thoughts("From 3 to 5? </think>From 3 to 17."), without_thoughts("<think>From 3 to 5?")
    ('From 3 to 17.', None)
    """
    answer = _END.split(text)[-1]
    return None if _BEGIN.search(answer) else answer
