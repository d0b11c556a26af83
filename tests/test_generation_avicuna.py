"""Constrained time spans under all decoding strategies, and event scores equal to the probabilities of the model."""

import math
import re

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, LogitsProcessor
from transformers.modeling_outputs import ModelOutput

from modeling_avicuna.generation_avicuna import (
    RepetitionLogitsProcessor,
    TimeSpanLogitsProcessor,
    presence_scores,
    score_events,
    token_log_probabilities,
)
from modeling_avicuna.timestamp_avicuna import TimeCodec
from tests.time_fixtures import SpanBias, tiny_tokenizer
from tests.tiny_models import draw_large_weights


CODECS = [TimeCodec(), TimeCodec(num_bins=1000), TimeCodec(num_bins=24), TimeCodec(unit="seconds")]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def llama_tokenizer(shared_golden_dir):
    return AutoTokenizer.from_pretrained(shared_golden_dir / "llama_tokenizer")


@pytest.fixture(scope="module")
def language_model(tokenizer):
    """A random Llama: these functions work for any causal language model."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    draw_large_weights(model, std=0.3)
    return model


def malformed_spans(text: str, codec: TimeCodec, *, cut: bool = True) -> list[str]:
    """Spans of a text that are not `from <time> to <time>` with end >= start; ignores one cut off at the end."""
    digits = r"[0-9]+\.[0-9]" if codec.unit == "seconds" else rf"[0-9]{{{codec.num_digits}}}"
    malformed = []
    for opening in re.finditer(r"(?<![A-Za-z0-9_])from\s+-?[0-9]", text, re.IGNORECASE):
        rest = text[opening.start() :]
        span = re.match(rf"from\s+({digits}) to ({digits})(?![0-9])", rest, re.IGNORECASE)
        if span is None and cut and len(rest) < 24:
            continue
        if span is None or float(span[2]) < float(span[1]) or codec.largest_completion(span[2]) is None:
            malformed.append(rest[:30])
    return malformed


def generate(model, tokenizer, prompts, *processors, **kwargs):
    inputs = tokenizer(prompts, return_tensors="pt", padding=True)
    inputs.pop("token_type_ids", None)
    return model.generate(
        **inputs, logits_processor=list(processors), return_dict_in_generate=True, output_logits=True, **kwargs
    )


PROMPTS = ["When? From", "At which intervals does it rain?", "x ", "What happens from 3 to 1 ? From 9"]


@pytest.mark.parametrize("codec", CODECS, ids=str)
@pytest.mark.parametrize(
    "strategy",
    [
        {"do_sample": False},
        {"num_beams": 3, "num_return_sequences": 2},
        {"do_sample": True, "num_return_sequences": 4, "temperature": 1.5},
        {"num_beams": 2, "do_sample": True},
    ],
    ids=["greedy", "beams", "sampling", "beam sampling"],
)
def test_every_span_is_well_formed_in_a_batch(language_model, tokenizer, codec, strategy):
    torch.manual_seed(1)
    constraint, span_bias = TimeSpanLogitsProcessor(tokenizer, codec=codec), SpanBias(tokenizer)
    outputs = generate(language_model, tokenizer, PROMPTS, span_bias, constraint, max_new_tokens=60, **strategy)
    texts = tokenizer.batch_decode(outputs.sequences[:, -60:], skip_special_tokens=True)
    spans = sum(len(re.findall(r"from +[0-9.]+ to [0-9]", text, re.IGNORECASE)) for text in texts)
    assert spans >= 3, texts
    assert [malformed_spans(text, codec) for text in texts] == [[]] * len(texts)


def test_the_same_model_generates_malformed_spans_without_the_constraint(language_model, tokenizer):
    """Shows that the test above can fail."""
    torch.manual_seed(1)
    outputs = generate(language_model, tokenizer, PROMPTS, SpanBias(tokenizer), max_new_tokens=60, do_sample=True)
    texts = tokenizer.batch_decode(outputs.sequences[:, -60:], skip_special_tokens=True)
    assert any(malformed_spans(text, TimeCodec()) for text in texts)


# text, its most probable continuation, and the continuation with the constraint, of those, "." and "</s>"
REPETITIONS = {
    "a fourth word": ("From 03 to 17, rain rain rain", " rain", "."),
    "a fourth phrase": ("x, dog barks a dog barks a dog barks a", " dog", "."),
    "a fourth sentence": (" From 03 to 17, rain. From 03 to 17, rain. From 03 to 17, rain.", " From", "</s>"),
    "a third word": ("From 03 to 17, rain rain", " rain", " rain"),
    "another word": ("From 03 to 17, rain rain rain", " from", " from"),
    "a fourth syllable of one word": ("From 03 to 17, rainrainrain", "rain", "rain"),
    "sentences with other times": ("From 03 to 17, rain. From 17 to 31, rain. From 31 to 45, rain.", " From", " From"),
    "times": ("From 11 to 11 and from 11 to 11 and from 11 to 11", ".", "."),
}


def wanted(tokenizer, text: str, next_text: str) -> tuple[list[int], torch.Tensor]:
    """The ids of a text, and scores `(vocab_size,)` by which `next_text`, "." and "</s>" are most probable."""
    scores = torch.zeros(len(tokenizer))
    for score, token in ((1.0, tokenizer.eos_token), (2.0, "."), (3.0, next_text)):
        scores[tokenizer(token, add_special_tokens=False).input_ids[0]] = score
    return tokenizer(text, add_special_tokens=False).input_ids, scores


@pytest.mark.parametrize("case", REPETITIONS)
def test_a_sentence_ends_where_words_would_follow_for_the_fourth_time(tokenizer, case):
    text, next_text, expected = REPETITIONS[case]
    ids, scores = wanted(tokenizer, text, next_text)
    constrained = RepetitionLogitsProcessor(tokenizer)(torch.tensor([ids]), scores[None])[0]
    assert int(constrained.argmax()) == tokenizer(expected, add_special_tokens=False).input_ids[0]
    if expected == next_text:
        assert torch.equal(constrained, scores)


def test_a_repetition_in_one_row_does_not_affect_the_other_rows(tokenizer):
    (first, scores), (second, others) = (wanted(tokenizer, *REPETITIONS[case][:2]) for case in list(REPETITIONS)[:2])
    length = max(len(first), len(second))
    ids = torch.tensor([[1] * (length - len(row)) + row for row in (first, second, [*first[:-1], 5])])
    rows = torch.stack([scores, others, scores])
    constraint = RepetitionLogitsProcessor(tokenizer)
    together = constraint(ids, rows)
    assert torch.equal(together, torch.cat([constraint(ids[k : k + 1], rows[k : k + 1]) for k in range(3)]))
    assert torch.isinf(together).any(1).tolist() == [True, True, False]


def test_a_repetition_does_not_cut_a_span_off(tokenizer):
    """Within a span only its continuation is allowed, and there is no full stop."""
    ids, scores = wanted(tokenizer, "to 49. From 20 to 49. From 20 to 49. From 20 to 49. From 20", " to")
    ids, scores = torch.tensor([ids]), scores[None]
    constrained = TimeSpanLogitsProcessor(tokenizer)(ids, scores)
    assert torch.equal(RepetitionLogitsProcessor(tokenizer)(ids, constrained), constrained)
    assert torch.isinf(RepetitionLogitsProcessor(tokenizer)(ids, scores)).any()


def test_a_batch_is_constrained_like_single_rows(tokenizer):
    """The constraint depends only on the ids of a row, not on other rows or earlier calls."""
    constraint = TimeSpanLogitsProcessor(tokenizer)
    tails = [
        "From",
        "From ",
        "From 0",
        "From 03",
        "From 03 ",
        "From 03 to",
        "From 03 to 1",
        "From 97 to ",
        "a tap",
        "From 03 to 17",
    ]
    rows = [tokenizer(tail, add_special_tokens=False).input_ids for tail in tails]
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    scores = torch.randn(len(rows), len(tokenizer), generator=torch.Generator().manual_seed(0))
    together = constraint(ids, scores)
    for order in (range(len(rows)), reversed(range(len(rows)))):
        for row in order:
            assert torch.equal(constraint(ids[row : row + 1], scores[row : row + 1])[0], together[row])
    finite = [sorted(tokenizer.decode([i]) for i in row.isfinite().nonzero().flatten().tolist()) for row in together]
    assert finite[0] == [" "] and finite[1] == list("0123456789")
    assert finite[2] == list("0123456789")
    assert finite[3] == [" ", " t", " to"]
    assert finite[4] == ["t"] and finite[5] == [" "]
    assert finite[6] == list("0123456789") and finite[7] == ["9"]
    assert len(finite[8]) == len(tokenizer)
    assert not any(text[:1].isdigit() for text in finite[9]) and len(finite[9]) == len(tokenizer) - 10
    assert together[together.isfinite()].equal(scores[together.isfinite()])


def test_a_time_must_follow_from_at_the_start_of_a_sentence_only(tokenizer):
    """A label may contain the word."""
    constraint = TimeSpanLogitsProcessor(tokenizer)

    def allowed(text: str) -> list[str]:
        ids = torch.tensor([tokenizer(text, add_special_tokens=False).input_ids])
        finite = constraint(ids, torch.zeros(1, len(tokenizer)))[0].isfinite().nonzero().flatten().tolist()
        return sorted(tokenizer.decode([token_id]) for token_id in finite)

    for text in ("From", "USER: When? ASSISTANT: From", "</s>From", "From 03 to 17, a dog. From"):
        assert allowed(text) == [" "]
        assert allowed(text + " ") == list("0123456789")
    for text in ("water from", "A man From", "From a", "from"):
        assert len(allowed(text)) > len(tokenizer) - 11


def test_the_end_is_never_before_the_start(tokenizer):
    constraint = TimeSpanLogitsProcessor(tokenizer)
    for start in range(100):
        for tens in range(10):
            ids = torch.tensor([tokenizer(f"From {start:02d} to {tens}", add_special_tokens=False).input_ids])
            if tens < start // 10:
                continue  # excluded by the constraint on the tens
            allowed = constraint(ids, torch.zeros(1, len(tokenizer)))[0].isfinite().nonzero().flatten().tolist()
            ends = sorted(10 * tens + int(tokenizer.decode([token_id])) for token_id in allowed)
            assert ends == list(range(max(start, 10 * tens), 10 * tens + 10))


@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_the_llama_tokenizer_with_its_lone_space_token(llama_tokenizer, codec):
    """LLaMA encodes "from 03" as "_from", "_", "0", "3". The scores are random, without a model."""
    constraint, span_bias = TimeSpanLogitsProcessor(llama_tokenizer, codec=codec), SpanBias(llama_tokenizer)
    generator = torch.Generator().manual_seed(0)
    ids = torch.tensor([llama_tokenizer("When? ASSISTANT: From").input_ids] * 4)
    for _ in range(60):
        scores = 2.0 * torch.randn(4, len(llama_tokenizer), generator=generator)
        scores = constraint(ids, span_bias(ids, scores))
        ids = torch.cat([ids, scores.softmax(-1).multinomial(1, generator=generator)], 1)
    texts = llama_tokenizer.batch_decode(ids, skip_special_tokens=True)
    assert sum(len(re.findall(r"from +[0-9.]+ to [0-9]", text, re.IGNORECASE)) for text in texts) > 4
    assert [malformed_spans(text, codec) for text in texts] == [[]] * len(texts)


def test_a_tokenizer_without_digit_tokens_is_an_error():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"a": 0, "from": 1, "to": 2, "7": 3, "[UNK]": 4}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(ValueError, match="no tokens to write"):
        TimeSpanLogitsProcessor(PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]"))


class ForcedTexts(LogitsProcessor):
    """Forces the model to generate the first text; further texts have slightly lower scores, for other beams."""

    def __init__(self, tokenizer, prompt_length: int, *texts: str):
        self.rows = [[*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id] for text in texts]
        self.prompt_length = prompt_length

    def __call__(self, input_ids, scores):
        step = input_ids.shape[1] - self.prompt_length
        forced = torch.full_like(scores, -50.0)
        for row, ids in enumerate(input_ids[:, self.prompt_length :].tolist()):
            for rank, text in enumerate(self.rows):
                if text[:step] == ids and step < len(text):
                    forced[row, text[step]] = max(-0.1 - rank, float(forced[row, text[step]]))
        return forced


FORCED_TEXT = "From 03 to 17, a dog. Rain from 40 to 52"


def reference_score(model, tokenizer, prompt: str, text: str, span: str) -> float:
    """The geometric mean of the probabilities of the digits, from a second forward pass over the whole text."""
    prompt_ids = tokenizer(prompt).input_ids
    text_ids = tokenizer(text, add_special_tokens=False).input_ids
    with torch.no_grad():
        logits = model(torch.tensor([prompt_ids + text_ids])).logits[0].log_softmax(-1)
    begin = text.index(span)
    position, log_probabilities = 0, []
    for index, token_id in enumerate(text_ids):
        length = len(tokenizer.decode([token_id]))
        if begin <= position < begin + len(span) and tokenizer.decode([token_id]).strip().isdigit():
            log_probabilities.append(float(logits[len(prompt_ids) + index - 1, token_id]))
        position += length
    assert len(log_probabilities) == 4
    return math.exp(sum(log_probabilities) / 4)


@pytest.mark.parametrize(
    "strategy", [{"do_sample": False}, {"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}], ids=str
)
def test_scores_equal_the_probabilities_of_the_model(language_model, tokenizer, strategy):
    prompts = ["When?", "When? A longer question"]
    length = max(len(tokenizer(prompt).input_ids) for prompt in prompts)
    forced = ForcedTexts(tokenizer, length, FORCED_TEXT, "From 03 to 18, a cat. Wind from 41 to 52 and more")
    outputs = generate(language_model, tokenizer, prompts, forced, max_new_tokens=40, **strategy)
    per_prompt = strategy.get("num_return_sequences", 1)
    scored = score_events(outputs, tokenizer=tokenizer, durations=[100.0] * 2 * per_prompt)
    assert len(scored) == 2 * per_prompt
    for number, prompt in enumerate(prompts):
        dog, rain = scored[number * per_prompt]
        assert (dog.start, dog.end, dog.label, rain.start, rain.end, rain.label) == (3, 17, "a dog", 40, 52, "Rain")
        assert dog.score == pytest.approx(
            reference_score(language_model, tokenizer, prompt, FORCED_TEXT, "03 to 17"), rel=1e-3
        )
        assert rain.score == pytest.approx(
            reference_score(language_model, tokenizer, prompt, FORCED_TEXT, "40 to 52"), rel=1e-3
        )
        assert 0.0 < dog.score < 1.0 and dog.score != rain.score
    if per_prompt == 2:
        text = "From 03 to 18, a cat. Wind from 41 to 52 and more"
        cat, _ = scored[1]
        assert cat.score == pytest.approx(
            reference_score(language_model, tokenizer, prompts[0], text, "03 to 18"), rel=1e-3
        )


@pytest.mark.parametrize(
    "strategy", [{"do_sample": False}, {"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}], ids=str
)
@pytest.mark.parametrize("answer", ["From 03 to 17.", " From 03 to 17.", "No event.", " No event."])
def test_presence_is_the_share_of_from_against_no_at_the_first_token(language_model, tokenizer, answer, strategy):
    """This tokenizer encodes "From" and " From" as one token, "No" as "N", "o" and " No" as " ", "N", "o"."""
    prompt = tokenizer("When?").input_ids
    forced = ForcedTexts(tokenizer, len(prompt), answer, answer)
    outputs = generate(language_model, tokenizer, ["When?"], forced, max_new_tokens=20, **strategy)
    with torch.no_grad():
        chances = language_model(torch.tensor([prompt])).logits[0, -1].softmax(-1)
    present, absent = (
        float(chances[tokenizer.convert_tokens_to_ids(tokens)].sum())
        for tokens in (["From", "\u0120From"], ["N", "\u0120"])
    )
    presence = presence_scores(outputs, tokenizer=tokenizer)
    num_sequences = strategy.get("num_return_sequences", 1)
    assert presence == [pytest.approx(present / (present + absent), rel=1e-3)] * num_sequences
    scored = score_events(outputs, tokenizer=tokenizer, durations=[100.0] * num_sequences, kind="presence")
    for events, score in zip(scored, presence, strict=True):
        assert [event.score for event in events] == ([score] if "From" in answer else [])


def test_presence_is_read_after_a_shared_leading_space():
    tokenizer = tiny_tokenizer(["a b c"])  # " From" is " ", "F", ..., and " No" is " ", "N", ...
    space, f, n = tokenizer.convert_tokens_to_ids(["\u0120", "F", "N"])
    logits = torch.full((2, 1, len(tokenizer)), -50.0)
    logits[0, 0, space], logits[1, 0, f], logits[1, 0, n] = 1.0, math.log(0.3), math.log(0.1)
    outputs = ModelOutput(sequences=torch.tensor([[1, space, f]]), logits=tuple(logits))
    assert presence_scores(outputs, tokenizer=tokenizer) == [pytest.approx(0.75)]


def test_token_log_probabilities_equal_the_transition_scores_of_transformers(language_model, tokenizer):
    outputs = generate(language_model, tokenizer, ["When?", "x"], num_beams=3, max_new_tokens=12)
    expected = language_model.compute_transition_scores(
        outputs.sequences, outputs.logits, outputs.beam_indices, normalize_logits=True
    )
    torch.testing.assert_close(token_log_probabilities(outputs)[:, : expected.shape[1]], expected)


def test_scores_need_the_logits_and_a_duration_for_each_sequence(language_model, tokenizer):
    inputs = tokenizer(["x"], return_tensors="pt")
    outputs = language_model.generate(**inputs, max_new_tokens=2, return_dict_in_generate=True)
    with pytest.raises(ValueError, match="output_logits=True"):
        score_events(outputs, tokenizer=tokenizer, durations=[1.0])
    outputs = language_model.generate(**inputs, max_new_tokens=2, return_dict_in_generate=True, output_logits=True)
    assert score_events(outputs, tokenizer=tokenizer, durations=[1.0], kind="constant") is not None
    with pytest.raises(ValueError, match="'certainty'"):
        score_events(outputs, tokenizer=tokenizer, durations=[1.0], kind="certainty")
    with pytest.raises(ValueError, match="2 durations for 1 sequences"):
        score_events(outputs, tokenizer=tokenizer, durations=[1.0, 2.0])
