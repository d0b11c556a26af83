"""Comparing a free answer with the expected one: one normalisation, applied identically to both.

Pure functions over strings, without a library. `eval/judge.py` asks a judge model.
"""

import re
import unicodedata
from collections.abc import Sequence

from .words import LETTER, UNSPACED


_QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "-"})
_OUTER = " \t\n\r.,;:!?\"'`()[]"
_WORDS = re.compile(rf"(?:{LETTER})+(?:'(?:{LETTER})+)*|{UNSPACED}")


def normalize_answer(text: str) -> str:
    """Lower case, NFKC, plain quotes, single blanks, no punctuation at either end.

    Articles and number words are kept: data sets contain answers that differ in nothing else, and the published
    ActivityNet-QA figures compare whole strings.

    Example:

    >>> normalize_answer("  The  Living Room. ")
    'the living room'
    """
    text = unicodedata.normalize("NFKC", text).translate(_QUOTES).lower()
    return " ".join(text.split()).strip(_OUTER)


def is_exact_match(prediction: str, reference: str) -> bool:
    """Whether both are the same after `normalize_answer`."""
    return normalize_answer(prediction) == normalize_answer(reference)


def is_contained(prediction: str, reference: str) -> bool:
    """Whether the reference's words occur in the prediction as whole words, one after the other.

    Example:

    >>> is_contained("I think it is a piano.", "piano"), is_contained("pianos", "piano"), is_contained("yes", "")
    (True, False, False)
    """
    if not _WORDS.search(normalize_answer(reference)):
        return is_exact_match(prediction, reference)
    return find_words(prediction, reference) is not None


def find_words(prediction: str, reference: str) -> int | None:
    """The number of words before the first occurrence of the reference's words in the prediction; None if they do not
    occur.

    Example:

    >>> find_words('It is a "piano".', "piano"), find_words("It is a piano.", "cello")
    (3, None)
    """
    words, wanted = _WORDS.findall(normalize_answer(prediction)), _WORDS.findall(normalize_answer(reference))
    places = range(len(words) - len(wanted) + 1) if wanted else ()
    return next((at for at in places if words[at : at + len(wanted)] == wanted), None)


def score_answers(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Percentages of answers that match.

    Args:
        predictions: one answer per question.
        references: the expected answers, in the same order.

    Returns:
        `{"exact_match": ..., "contained": ...}` in 0-100.

    Raises:
        ValueError: no answers, or lists of unequal length.
    """
    if len(predictions) != len(references) or not references:
        raise ValueError(
            f"{len(predictions)} predictions for {len(references)} references: equal, positive counts needed"
        )
    pairs = list(zip(predictions, references))
    return {
        "exact_match": 100.0 * sum(is_exact_match(*pair) for pair in pairs) / len(pairs),
        "contained": 100.0 * sum(is_contained(*pair) for pair in pairs) / len(pairs),
    }
