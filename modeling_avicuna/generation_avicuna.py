"""Generation with times: well-formed spans, sentences without endless repetition, a score for each generated event.

For `generate` of any causal language model with any tokenizer. Questions and media are handled in `answering_avicuna`,
the form of a written time in `timestamp_avicuna`.
"""

import math
import os
import re
from dataclasses import replace
from functools import lru_cache

import torch
from transformers import LogitsProcessor, PreTrainedTokenizerBase
from transformers.modeling_outputs import ModelOutput

from .timestamp_avicuna import DEFAULT_CODEC, NO_EVENTS, Event, TimeCodec, read_events


SCORE_KINDS = ("time_tokens", "presence", "constant")
_TAIL_LENGTH = 48  # tokens that can hold one span, even one character at a time
_MAX_COPIES = 3  # of a phrase in a row: "ha ha ha" is a caption; our choice
_LONGEST_PHRASE = 32  # tokens, a sentence of about 20 words; our choice
_FROM = re.compile(r"(?<![A-Za-z0-9_])from(?![A-Za-z])", re.IGNORECASE)
_SENTENCE_FROM = re.compile(r"(?:^|[.!?:;>\n][\"')\]]*\s*)From\s*$")


class TimeSpanLogitsProcessor(LogitsProcessor):
    """Makes every generated span "from <time> to <time>" well-formed: all digits are there, and end >= start.

    A digit after "from" begins a span, and a sentence that begins with "From" must begin one. Up to the last digit of
    the span only tokens that continue it are allowed, and no digit directly after it. Other words are not restricted
    ("water from a tap"). The state depends on the ids only, so batches, beams and assisted decoding work; a malformed
    span in the prompt is left as it is. `max_new_tokens` can still cut a span off.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): of the model, sentencepiece or byte-level.
        codec (`TimeCodec`, *optional*): how times are written; two digits by default.

    Raises:
        ValueError: The tokenizer cannot write every time digit by digit.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, codec: TimeCodec = DEFAULT_CODEC):
        self.codec = codec
        self._number = re.compile(r"[0-9]+(?:\.[0-9]?)?" if codec.unit == "seconds" else r"[0-9]+")
        self._texts = _token_texts(tokenizer)
        self._inside_ids = [i for i, text in enumerate(self._texts) if re.fullmatch(r"[ to0-9.]+", text)]
        self._opening_ids = [i for i, text in enumerate(self._texts) if re.match(r"\s*-?[0-9]", text)]
        self._digit_ids = [i for i, text in enumerate(self._texts) if re.match(r"[0-9]", text)]
        self._forbidden_after = lru_cache(maxsize=4096)(self._find_forbidden)
        self._allowed_after = lru_cache(maxsize=4096)(self._find_allowed)
        self._check_vocabulary()

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """`input_ids` `(batch_size * num_beams, sequence_length)`, `scores` `(batch_size * num_beams, vocab_size)`."""
        inside: list[int] = []  # rows
        allowed: list[tuple[int, int]] = []  # row and token
        forbidden: list[tuple[int, int]] = []
        for row, ids in enumerate(input_ids[:, -_TAIL_LENGTH:].tolist()):
            tail = "".join(self._texts[i] if i < len(self._texts) else "" for i in ids)
            rest = self._open_span(tail)
            if rest is None:
                continue
            if self._state(rest) == "inside" or _SENTENCE_FROM.search(tail):
                inside.append(row)
                allowed += [(row, i) for i in self._allowed_after(rest)]
            else:
                forbidden += [(row, i) for i in self._forbidden_after(rest)]
        if not inside and not forbidden:
            return scores
        # all rows at once: on a GPU each assignment is a copy and several kernels
        constrained = scores.clone()
        if inside:
            constrained[torch.tensor(inside, device=scores.device)] = -math.inf
            rows, tokens = torch.tensor(allowed, device=scores.device).T
            constrained[rows, tokens] = scores[rows, tokens]
        if forbidden:
            rows, tokens = torch.tensor(forbidden, device=scores.device).T
            constrained[rows, tokens] = -math.inf
        return constrained

    def _open_span(self, tail: str) -> str | None:
        """The text after the last "from" if it is the beginning of a span, or may become one."""
        openings = list(_FROM.finditer(tail))
        if not openings:
            return None
        rest = tail[openings[-1].end() :]
        return rest if self._state(rest) in ("open", "inside", "complete") else None

    def _state(self, rest: str) -> str:
        """State of the text after "from": no number yet ("open"), "inside" a span, "complete", "closed" by other text,
        or "broken"."""
        unspaced = rest.lstrip()
        if unspaced in ("", "-"):
            return "open"
        if re.match("-[0-9]", unspaced):
            return "broken"
        start, middle = self._take_number(unspaced)
        if not start:
            return "closed"
        if unspaced == rest or self.codec.largest_completion(start) is None:
            return "broken"
        if not middle:
            return "inside"
        if not self.codec.is_complete(start):
            return "broken"
        if " to ".startswith(middle):
            return "inside"
        end, after = self._take_number(middle.removeprefix(" to "))
        largest = self.codec.largest_completion(end)
        if not middle.startswith(" to ") or not end or largest is None or largest < float(start):
            return "broken"
        if not self.codec.is_complete(end):
            return "broken" if after else "inside"
        return "closed" if after else "complete"

    def _take_number(self, text: str) -> tuple[str, str]:
        number = self._number.match(text)
        return (number[0], text[number.end() :]) if number else ("", text)

    def _find_allowed(self, rest: str) -> list[int]:
        """Tokens that may follow inside a span, or that begin one where it must begin."""
        if not rest.strip():
            spaces = [] if rest else [i for i in self._inside_ids if self._texts[i] == " "]
            return spaces + [i for i in self._opening_ids if self._state(rest + self._texts[i]) == "inside"]
        return [i for i in self._inside_ids if self._state(rest + self._texts[i]) in ("inside", "complete", "closed")]

    def _find_forbidden(self, rest: str) -> list[int]:
        """Tokens that may not follow: before a span those that would begin a broken one, after it further digits."""
        if self._state(rest) == "complete":
            return self._digit_ids
        return [i for i in self._opening_ids if self._state(rest + self._texts[i]) == "broken"]

    def _check_vocabulary(self):
        """Every state inside a span needs an allowed token, or all scores of a step would be minus infinity."""
        for digit in "0123456789":
            number = f"{digit}.{digit}" if self.codec.unit == "seconds" else digit.rjust(self.codec.num_digits, "0")
            if self.codec.largest_completion(number) is None:
                continue
            span = f" {number} to {number}"
            reachable = {0}
            for position in range(len(span)):
                if position in reachable:
                    pieces = (self._texts[i] for i in self._inside_ids)
                    reachable |= {position + len(piece) for piece in pieces if span.startswith(piece, position)}
            if len(span) not in reachable:
                raise ValueError(f"the tokenizer has no tokens to write {span!r} with")


class RepetitionLogitsProcessor(LogitsProcessor):
    """Ends a sentence that has the same words three times in a row and would repeat them, or a repeating answer.

    Greedy decoding can write "engine revving revving revving ..." up to `max_new_tokens`, and the events after that
    sentence are lost. Where the most probable token begins a fourth copy of a word or phrase, only a full stop or the
    end of the answer is allowed; after the full stop the model can continue with the next event. Where it begins a
    fourth copy of a sentence, only the end of the answer is allowed. The state depends on the ids only. After
    `TimeSpanLogitsProcessor`, spans stay complete.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): of the model.

    Raises:
        ValueError: The tokenizer has no end-of-sequence token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        if tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has no end-of-sequence token")
        self._texts = _token_texts(tokenizer)
        self._end_ids = [tokenizer.eos_token_id]
        self._stop_ids = [i for i, text in enumerate(self._texts) if text.rstrip() == "."] + self._end_ids

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """`input_ids` `(batch_size * num_beams, sequence_length)`, `scores` `(batch_size * num_beams, vocab_size)`."""
        constrained = scores
        written = input_ids[:, -_MAX_COPIES * _LONGEST_PHRASE :].tolist()
        for row, (ids, likeliest) in enumerate(zip(written, scores.argmax(-1).tolist())):
            if not self._is_repeated(ids, likeliest):
                continue
            allowed = self._end_ids if self._text(ids[-1]).rstrip().endswith(".") else self._stop_ids
            kept = scores[row, allowed]
            if kept.max() > -math.inf:  # not within a time span
                constrained = scores.clone() if constrained is scores else constrained
                constrained[row] = -math.inf
                constrained[row, allowed] = kept
        return constrained

    def _is_repeated(self, ids: list[int], next_id: int) -> bool:
        """Whether `ids` end with three copies of a phrase and `next_id` begins another one, at the start of a word."""
        if not self._text(next_id)[:1].isspace():
            return False
        phrases = (ids[-length:] for length in range(1, _LONGEST_PHRASE + 1))
        return any(
            phrase[:1] == [next_id] and ids[-_MAX_COPIES * len(phrase) :] == _MAX_COPIES * phrase for phrase in phrases
        )

    def _text(self, token_id: int) -> str:
        return self._texts[token_id] if token_id < len(self._texts) else ""


def score_events(
    outputs: ModelOutput,
    *,
    tokenizer: PreTrainedTokenizerBase,
    durations: list[float],
    codec: TimeCodec = DEFAULT_CODEC,
    kind: str = "time_tokens",
) -> list[list[Event]]:
    """The events of each generated sequence, each with a score.

    All probabilities are the model's own (softmax of the raw logits), not those after temperature, top-k or
    `TimeSpanLogitsProcessor`, so that one threshold means the same under every decoding setting. They come from the
    logits that `generate` kept; nothing is run a second time.

    Args:
        outputs (`ModelOutput`):
            Of `generate(..., return_dict_in_generate=True, output_logits=True)`: greedy, sampling or beam search, with
            any number of returned sequences.
        tokenizer (`PreTrainedTokenizerBase`): of the model.
        durations (`list[float]`):
            Seconds of the video of each sequence.
        kind (`str`):
            "time_tokens": geometric mean of the probabilities of the event's time tokens; `None` where no token has a
            digit. "presence": that of `presence_scores`, the same for all events of a sequence. "constant": 1.0.

    Returns:
        `list[list[Event]]`, one list per sequence, in the order of its text.

    Raises:
        ValueError: `outputs` has no logits, the number of `durations` is wrong, or `kind` is unknown.
    """
    if kind not in SCORE_KINDS:
        raise ValueError(f"score must be one of {SCORE_KINDS}, got {kind!r}")
    log_probabilities = token_log_probabilities(outputs).tolist()
    generated = generated_ids(outputs).tolist()
    if len(durations) != len(generated):
        raise ValueError(f"got {len(durations)} durations for {len(generated)} sequences")
    presence = presence_scores(outputs, tokenizer=tokenizer) if kind == "presence" else [1.0] * len(generated)
    scored = []
    for ids, chances, duration, constant in zip(generated, log_probabilities, durations, presence):
        reading = read_events(decode_answer(tokenizer, ids), duration, codec=codec)
        if kind == "time_tokens" and reading.events:
            places = _digit_places(tokenizer, ids)
            scores = [_span_score(chances, places, of_event) for of_event in reading.places]
        else:
            scores = [constant] * len(reading.events)
        scored.append([replace(event, score=score) for event, score in zip(reading.events, scores)])
    return scored


def _span_score(
    log_probabilities: list[float], digits: list[tuple[int, int, int]], times: tuple[tuple[int, int], tuple[int, int]]
) -> float | None:
    """Geometric mean over the tokens that overlap one of the two times; None if there are none."""
    of_event = [
        log_probabilities[index]
        for index, begin, stop in digits
        if any(begin < time_stop and stop > time_begin for time_begin, time_stop in times)
    ]
    return math.exp(sum(of_event) / len(of_event)) if of_event else None


def presence_scores(outputs: ModelOutput, *, tokenizer: PreTrainedTokenizerBase) -> list[float]:
    """How sure the model is that the event it was asked about occurs: P("From") / (P("From") + P("No")), per sequence.

    The probabilities are those of the tokens that the two words begin with, at the first token of the answer, from the
    raw logits. They exist for every answer, "No event." and "From 03 to 17." alike, so that average precision can rank
    the classes that a video lacks last. `answer_batch` and `answer_questions` return the same number as
    `Answer.presence`.

    Args:
        outputs, tokenizer: as in `score_events`.

    Raises:
        ValueError: `outputs` has no logits, or the tokenizer encodes the two words alike.
    """
    present, absent, shared = _opening_ids(tokenizer)
    beams = _beams(outputs).clamp(min=0)
    answers = generated_ids(outputs).tolist()
    first = torch.tensor([next((step for step, i in enumerate(ids) if i not in shared), 0) for ids in answers])
    scores = torch.zeros(len(answers))
    for step in sorted(set(first.tolist())):
        of_step = first == step
        logits = outputs.logits[step][beams[of_step.to(beams.device), step]].float()  # [n, vocab_size]
        margin = logits[:, sorted(present)].logsumexp(-1) - logits[:, sorted(absent)].logsumexp(-1)
        scores[of_step] = margin.sigmoid().cpu()
    return scores.tolist()


def _opening_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[set[int], set[int], set[int]]:
    """The tokens by which answers that begin with "From" and with "No" differ first, and those before them (a lone
    space that both begin with)."""
    present, absent, shared = set(), set(), set()
    for space in ("", " "):
        words = [tokenizer(f"{space}{word}", add_special_tokens=False).input_ids for word in ("From", NO_EVENTS[:2])]
        common = len(os.path.commonprefix(words))
        if common == min(map(len, words)):
            raise ValueError('the tokenizer encodes the words "From" and "No" alike')
        present.add(words[0][common])
        absent.add(words[1][common])
        shared.update(words[0][:common])
    return present, absent, shared - present - absent


def token_log_probabilities(outputs: ModelOutput) -> torch.Tensor:
    """Log-probability of each generated token under the raw logits, `(num_sequences, num_generated)`; 0 after the end
    of a beam. ValueError if `generate` did not keep the logits."""
    beams, tokens = _beams(outputs), generated_ids(outputs)
    columns = [torch.zeros(len(tokens), 0, device=tokens.device)]
    # step by step: all steps at once would need num_sequences * num_generated * vocab_size further numbers
    for logits, token, row in zip(outputs.logits, tokens.T, beams.T):
        chosen = logits[row.clamp(min=0)].float().log_softmax(-1).gather(1, token[:, None])  # [num_sequences, 1]
        columns.append(chosen.masked_fill(row[:, None] < 0, 0.0))
    return torch.cat(columns, 1)


def _beams(outputs: ModelOutput) -> torch.LongTensor:
    """The row of `outputs.logits` that each generated token comes from, `(num_sequences, num_generated)`; -1 after the
    end of a beam."""
    if getattr(outputs, "logits", None) is None:
        raise ValueError("scores need generate(..., return_dict_in_generate=True, output_logits=True)")
    beams = getattr(outputs, "beam_indices", None)
    if beams is not None:
        return beams
    tokens = generated_ids(outputs)
    return torch.arange(len(tokens), device=tokens.device)[:, None].expand_as(tokens)


def generated_ids(outputs: ModelOutput) -> torch.LongTensor:
    """The ids after the prompt, `(num_sequences, num_generated)`, of `generate` with logits or scores kept."""
    if (beams := getattr(outputs, "beam_indices", None)) is not None:
        num_generated = beams.shape[1]  # beam search can take more steps than the best beams have tokens
    else:
        num_generated = len(outputs.logits if outputs.logits is not None else outputs.scores)
    return outputs.sequences[:, outputs.sequences.shape[1] - num_generated :]


def decode_answer(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """The text of generated ids without special tokens; spaces are left as they are."""
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def _digit_places(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[tuple[int, int, int]]:
    """(index, begin, stop) of each token that has a digit, in characters of `decode_answer(tokenizer, ids)`."""
    places = []
    for index, token in enumerate(tokenizer.convert_ids_to_tokens(ids)):
        # the beginning is decoded, not the token alone: a decoder may drop a leading space or join bytes
        if re.search("[0-9]", token):
            begin, stop = (len(decode_answer(tokenizer, ids[:count])) for count in (index, index + 1))
            places.append((index, begin, stop))
    return places


def _token_texts(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The text that each token adds after other text (alone it would lose the space that it begins with)."""
    anchor = tokenizer("a", add_special_tokens=False).input_ids[-1]
    pairs = [[anchor, token_id] for token_id in range(len(tokenizer))]
    texts = tokenizer.batch_decode(pairs, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    anchor_text = tokenizer.decode([anchor], clean_up_tokenization_spaces=False)
    return [text.removeprefix(anchor_text) for text in texts]
