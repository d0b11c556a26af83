"""Accuracy of the digits of times under teacher forcing: no text is generated.

`train/trainer.py` counts it during evaluation. Digits are recognised by their tokens, and start and end by their order
in the answer.
"""

from itertools import groupby

import torch
from transformers import PreTrainedTokenizerBase

from train.collator import IGNORED


DIGITS = ("start_tens", "start_ones", "end_tens", "end_ones")
WORD_STARTS = "\u2581\u0120"  # how SentencePiece and byte-level BPE write the space before a token


def digit_tokens(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids of the tokens that are a single digit."""
    return {i for token, i in tokenizer.get_vocab().items() if token.lstrip(WORD_STARTS) in set("0123456789")}


def find_time_digits(labels: list[int], digits: set[int]) -> dict[int, str]:
    """The labels that are digits of a time: index in `labels` -> one of `DIGITS`.

    A time is two digits (`TimeCodec` with 100 bins). In each answer the first, third, ... time is a start and the
    others are ends, whether they are written separately ("From 03 to 17") or together ("0317"). Other runs of digits
    are not times.

    Args:
        labels: one sequence of token ids; -100 separates the answers.
        digits: ids of the digits.

    Example:
        >>> find_time_digits([-100, 7, 10, 13, 7, 11, 17, -100, 12], {10, 11, 12, 13, 17})
        {2: 'start_tens', 3: 'start_ones', 5: 'end_tens', 6: 'end_ones'}
    """
    found: dict[int, str] = {}
    num_digits = 0  # in this answer
    for kind, group in groupby(range(len(labels)), key=lambda i: (labels[i] == IGNORED, labels[i] in digits)):
        indices = list(group)
        if kind == (True, False):
            num_digits = 0
        elif kind == (False, True) and len(indices) in (2, 4):
            found |= {index: DIGITS[(num_digits + k) % 4] for k, index in enumerate(indices)}
            num_digits += len(indices)
    return found


class TimeAccuracy:
    """Counts over the batches of one evaluation."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.digits = digit_tokens(tokenizer)
        self.reset()

    def reset(self):
        self.counts = torch.zeros(len(DIGITS), 2)  # correct, all

    def add(self, labels: torch.Tensor, is_correct: torch.Tensor):
        """Counts one batch: `labels`, -100 outside the answers, and whether the most probable token is the label;
        both of shape `(batch_size, length)`."""
        for row, correct in zip(labels.tolist(), is_correct.tolist()):
            for index, digit in find_time_digits(row, self.digits).items():
                self.counts[DIGITS.index(digit)] += torch.tensor([float(correct[index]), 1.0])

    def shares(self, counts: torch.Tensor) -> dict[str, float]:
        """Metric name -> share of correct digits from 0 to 1, for the digits that occur."""
        return {f"{p}_accuracy": float(c / n) for p, (c, n) in zip(DIGITS, counts.tolist()) if n}
