"""Several questions about one video: the same answers as separately, with one encoding of the video."""

import copy
import inspect
import weakref

import numpy as np
import pytest
import torch
from accelerate import cpu_offload

from modeling_avicuna import build_processor
from modeling_avicuna.answering_avicuna import answer_batch, answer_questions, generate_shared
from modeling_avicuna.generation_avicuna import TimeSpanLogitsProcessor, generated_ids
from modeling_avicuna.prompt_avicuna import PLAIN_CHAT_TEMPLATE, VICUNA_CHAT_TEMPLATE
from tests.time_fixtures import SpanBias, tiny_model_for, tiny_processor, tiny_tokenizer
from tests.tiny_tokenizers import byte_level_tokenizer, sentencepiece_tokenizer


QUESTIONS = [
    "At which intervals in the video can we identify a dog barking?",
    "At which intervals in the video can we identify rain?",
    "What happens in the video from 12 to 90?",
    "?",
    "At which intervals in the video can we identify a man who speaks to another man while rain falls on a pipe?",
]
STRATEGIES = [{"do_sample": False}, {"num_beams": 3}, {"do_sample": False, "repetition_penalty": 1.3}]


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


@pytest.fixture(scope="module")
def model(processor):
    return tiny_model_for(processor)


def media(seed: int = 0, num_video: int = 30, num_audio: int = 5) -> dict:
    generator = torch.Generator().manual_seed(seed)
    block = {"type": "video", "video_features": torch.randn(num_video, 24, generator=generator)}
    block["audio_features"] = torch.randn(num_audio, 20, generator=generator) if num_audio else None
    return block


def answer_separately(model, processor, block, questions, **kwargs):
    return [
        answer_batch(model, processor=processor, media=[block], questions=[question], durations=[50.0], **kwargs)[0]
        for question in questions
    ]


@pytest.mark.parametrize("batch_size", [1, 2, 16])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_answers_equal_those_to_single_questions(model, processor, strategy, batch_size):
    settings = {"max_new_tokens": 20, **strategy}
    shared = answer_questions(
        model,
        processor=processor,
        media=media(),
        questions=QUESTIONS,
        duration=50.0,
        batch_size=batch_size,
        **settings,
    )
    separate = answer_separately(model, processor, media(), QUESTIONS, **settings)
    assert [answer.text for answer in shared] == [answer.text for answer in separate]
    assert len({answer.text for answer in shared}) == len(QUESTIONS)


OTHER_TEXT = {
    "plain attention": {"model_type": "mistral", "sliding_window": None},
    "sliding window": {"model_type": "mistral", "sliding_window": 24},
    "short convolutions": {"model_type": "lfm2", "layer_types": ["conv", "full_attention"], "conv_L_cache": 3},
    "qwen3": {"model_type": "qwen3", "head_dim": 8},
    "learned positions": {"model_type": "biogpt"},
    "GPT-2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 2048},
    "soft cap": {"model_type": "gemma2", "head_dim": 8, "final_logit_softcapping": 3.0, "sliding_window": 24},
}


@pytest.mark.parametrize("kind", OTHER_TEXT)
def test_shared_tokens_and_logits_equal_those_of_generate(processor, kind):
    """Equal ids and close logits of every step, for several kinds of caches."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2} if kind != "GPT-2" else {}  # fmt: skip
    text = {**sizes, "pad_token_id": 0, **OTHER_TEXT[kind]}
    model = tiny_model_for(processor, text_config=text)
    conversations = [
        [{"role": "user", "content": [media(), {"type": "text", "text": question}]}] for question in QUESTIONS
    ]
    encoded = [
        processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
        for messages in ([conversation] for conversation in conversations)
    ]
    features = {name: value for name, value in encoded[0].items() if name not in ("input_ids", "attention_mask")}
    settings = {"max_new_tokens": 12, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    prompts = [inputs["input_ids"][0] for inputs in encoded]
    outputs = list(generate_shared(model, prompts=prompts, media=features, batch_size=3, **settings))
    rows = {number: (output, row) for numbers, output in outputs for row, number in enumerate(numbers)}
    assert sorted(rows) == list(range(len(QUESTIONS)))
    if kind in ("plain attention", "qwen3"):
        assert [len(numbers) for numbers, _ in outputs] == [3, 2]
    for number, inputs in enumerate(encoded):
        output, row = rows[number]
        separate = model.generate(**inputs, **settings)
        count = len(separate.logits)
        assert torch.equal(generated_ids(separate)[0], generated_ids(output)[row, :count])
        for step in range(count):
            torch.testing.assert_close(separate.logits[step][0], output.logits[step][row], atol=2e-4, rtol=1e-4)


TOKENIZERS = {
    "digits": tiny_tokenizer,
    "byte-level": byte_level_tokenizer,
    "legacy=False": sentencepiece_tokenizer,
    "legacy=True": lambda: sentencepiece_tokenizer("always"),
}
BLOCKS = """\
{%- for message in messages -%}{%- for block in message['content'] -%}
{{- block['text'] if block['type'] == 'text' else 'before<' ~ block['type'] ~ '>after' -}}
{%- endfor -%}{%- endfor -%}"""
TEMPLATES = {
    "Vicuna": VICUNA_CHAT_TEMPLATE,
    "plain": PLAIN_CHAT_TEMPLATE,
    "text around the medium": BLOCKS,
    "spaces around the medium": BLOCKS.replace("before", "  ").replace("after", "  "),
    "medium last": BLOCKS.replace("message['content']", "message['content'] | reverse"),
}
MEDIA = {
    "video with sound": lambda: media(),
    "video without sound": lambda: media(num_audio=0),
    "audio": lambda: {"type": "audio", "audio_features": torch.zeros(5, 20)},
    "image": lambda: {"type": "image", "image": np.zeros((32, 32, 3), np.uint8)},
}
TEXTS = ["When does a dog bark?", "<s> At the front", " a", "", "\nUSER: a  b", "ER: 12 \u2581", "</s>"]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_prompts_of_several_questions_have_the_ids_of_single_ones(model, monkeypatch, tokenizer, template):
    processor = build_processor(
        TOKENIZERS[tokenizer](), image_size=32, num_av_tokens=7, chat_template=TEMPLATES[template]
    )
    found = []
    monkeypatch.setattr(
        "modeling_avicuna.answering_avicuna.generate_shared",
        lambda model, *, prompts, **kwargs: found.append([ids.tolist() for ids in prompts]) or iter(()),
    )
    for make in MEDIA.values():
        block = make()
        conversations = [[{"role": "user", "content": [block, {"type": "text", "text": text}]}] for text in TEXTS]
        singles = [
            processor.apply_chat_template([one], add_generation_prompt=True, tokenize=True)[0].tolist()
            for one in conversations
        ]
        with pytest.raises(KeyError):  # no answers
            answer_questions(model, processor=processor, media=block, questions=TEXTS, duration=1.0)
        assert found.pop() == singles


def test_an_offloaded_model_gives_the_same_answers(processor, model):
    offloaded = cpu_offload(copy.deepcopy(model), execution_device=torch.device("cpu"))
    assert offloaded.device.type == "meta"
    pictures = np.random.default_rng(0).integers(0, 255, (6, 32, 32, 3), np.uint8)
    raw = {"type": "video", "video": pictures, "fps": 1.0, "audio": np.zeros(48_000 * 3, np.float32)}
    for block in (media(), raw):
        asked = {"processor": processor, "media": block, "questions": QUESTIONS, "duration": 6.0, "max_new_tokens": 4}
        expected, answers = (answer_questions(each, do_sample=False, **asked) for each in (model, offloaded))
        assert [answer.text for answer in answers] == [answer.text for answer in expected]
        assert (
            answer_separately(offloaded, processor, block, QUESTIONS[:1], max_new_tokens=4)[0].text == expected[0].text
        )


@pytest.mark.parametrize("batch_size", [1, 128])
def test_several_questions_can_be_asked_with_assisted_decoding(processor, model, batch_size):
    asked = {"processor": processor, "media": media(), "questions": QUESTIONS, "duration": 50.0, "max_new_tokens": 12}
    asked |= {"do_sample": False, "batch_size": batch_size}
    expected = answer_questions(model, **asked)
    assistant = tiny_model_for(processor, seed=1)
    for settings in ({"prompt_lookup_num_tokens": 3}, {"assistant_model": assistant}):
        answers = answer_questions(model, **asked, **settings)
        assert [answer.text for answer in answers] == [answer.text for answer in expected]


def test_hooks_keep_the_signature_of_forward(model):
    """accelerate gives a module with a hook another forward, and libraries bind arguments by its signature."""
    offloaded = cpu_offload(copy.deepcopy(model), execution_device=torch.device("cpu"))
    assert inspect.signature(offloaded.forward) == inspect.signature(model.forward)
    inspect.signature(offloaded.forward).bind(input_ids=torch.zeros(1, 1))


@pytest.mark.parametrize("most", [0, 1, 2, 4])
def test_questions_that_do_not_fit_the_memory_are_asked_in_smaller_batches(processor, model, monkeypatch, most):
    expected = answer_separately(model, processor, media(), QUESTIONS, max_new_tokens=4, do_sample=False)
    original, sizes = model.generate, []

    def limited(input_ids, **kwargs):
        sizes.append(len(input_ids))
        if len(input_ids) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(input_ids=input_ids, **kwargs)

    monkeypatch.setattr(model, "generate", limited)
    asked = {"media": media(), "questions": QUESTIONS, "duration": 50.0, "max_new_tokens": 4, "do_sample": False}
    if most == 0:
        with pytest.raises(torch.OutOfMemoryError):
            answer_questions(model, processor=processor, **asked)
        return
    answers = answer_questions(model, processor=processor, **asked)
    assert [answer.text for answer in answers] == [answer.text for answer in expected]
    assert sizes == {1: [5, 2, 1, 1, 1, 1, 1], 2: [5, 2, 2, 1], 4: [5, 2, 2, 1]}[most]


def test_the_logits_of_a_batch_are_freed_before_the_next(processor, model, monkeypatch):
    original, logits = model.generate, []

    def watched(**kwargs):
        assert [kept() for kept in logits] == [None] * len(logits)
        outputs = original(**kwargs)
        logits.append(weakref.ref(outputs.logits[0]))
        return outputs

    monkeypatch.setattr(model, "generate", watched)
    asked = {"media": media(), "questions": QUESTIONS, "duration": 50.0, "batch_size": 2, "max_new_tokens": 4}
    answer_questions(model, processor=processor, do_sample=False, **asked)
    assert len(logits) == 3


def test_the_video_is_encoded_and_prefilled_once(processor, model, monkeypatch):
    lengths = []
    original = model.model.language_model.forward

    def counted(*args, inputs_embeds=None, **kwargs):
        lengths.append(tuple(inputs_embeds.shape[:2]))
        return original(*args, inputs_embeds=inputs_embeds, **kwargs)

    monkeypatch.setattr(model.model.language_model, "forward", counted)
    encoded = []
    monkeypatch.setattr(model.model, "merge_features", _spy(model.model.merge_features, encoded))
    answer_questions(
        model, processor=processor, media=media(), questions=QUESTIONS, duration=50.0, batch_size=5, max_new_tokens=2,
        do_sample=False,
    )  # fmt: skip
    assert len(encoded) == 2  # one call for video, one for audio
    (prefix_batch, prefix), (rest_batch, rest), *steps = lengths
    assert (prefix_batch, rest_batch) == (1, len(QUESTIONS)) and prefix > processor.num_av_tokens
    assert rest < 80 and all(step == (len(QUESTIONS), 1) for step in steps)


def _spy(function, calls: list):
    def called(*args, **kwargs):
        calls.append(args)
        return function(*args, **kwargs)

    return called


def test_a_batch_of_different_videos_equals_single_videos(model, processor):
    blocks = [media(1), media(2, num_audio=0), media(3, num_video=7, num_audio=40)]
    questions = QUESTIONS[:3]
    together = answer_batch(
        model, processor=processor, media=blocks, questions=questions, durations=[50.0] * 3, max_new_tokens=20
    )
    for block, question, answer in zip(blocks, questions, together):
        separate = answer_separately(model, processor, block, [question], max_new_tokens=20)[0]
        assert (answer.text, answer.events) == (separate.text, separate.events)
        assert answer.presence == pytest.approx(separate.presence, abs=1e-5)
    assert len({answer.text for answer in together}) == 3


def test_events_have_scores(model, processor):
    """Spans are made likely in a random model: each event is within the video and has a probability."""
    settings = {"max_new_tokens": 30, "do_sample": False, "logits_processor": [SpanBias(processor.tokenizer)]}
    settings["logits_processor"].append(TimeSpanLogitsProcessor(processor.tokenizer, codec=processor.time_codec))
    shared = answer_questions(
        model, processor=processor, media=media(), questions=QUESTIONS, duration=50.0, batch_size=2, **settings
    )
    separate = answer_separately(model, processor, media(), QUESTIONS, **settings)
    for answer, expected in zip(shared, separate):
        assert answer.text == expected.text
        for event, other in zip(answer.events, expected.events, strict=True):
            assert 0.0 <= event.start <= event.end <= 50.0 and 0.0 < event.score < 1.0
            assert event.score == pytest.approx(other.score, rel=1e-3)
    assert sum(len(answer.events) for answer in shared) >= len(QUESTIONS)


def test_prompts_without_a_common_prefix_are_an_error(model, processor):
    first, second = (
        torch.tensor([1, processor.video_token_id, 5, 6]),
        torch.tensor([3, processor.video_token_id, 5, 7]),
    )
    with pytest.raises(ValueError, match="share only their first 0 tokens"):
        list(generate_shared(model, prompts=[first, second], media={}))
    with pytest.raises(ValueError, match="no prompts"):
        list(generate_shared(model, prompts=[], media={}))
    assert answer_questions(model, processor=processor, media=media(), questions=[], duration=1.0) == []
    with pytest.raises(ValueError, match="placeholder '<video>'"):
        answer_questions(model, processor=processor, media=media(), questions=["a", "b <video>"], duration=1.0)
