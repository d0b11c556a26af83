"""Chat templates: text, supervised tokens, and the published prompts, ids and labels (golden/labels)."""

import functools
import json

import jinja2
import numpy as np
import pytest
from transformers import AutoTokenizer
from transformers.utils.chat_template_utils import render_jinja_template

from dataset_builders import wordings
from modeling_avicuna import build_processor
from modeling_avicuna.prompt_avicuna import (
    GROUNDING_PROMPT,
    LISTING_CHAT_TEMPLATE,
    NARRATION_PROMPT,
    PLAIN_CHAT_TEMPLATE,
    SEGMENT_CAPTION_PROMPT,
    SYSTEM_PROMPT,
    VICUNA_CHAT_TEMPLATE,
)
from tests.golden_conversations import INTENDED_DIFFERENCES, collapse, read_labels, to_messages
from tests.tiny_tokenizers import byte_level_tokenizer


TEMPLATES = {"v1": VICUNA_CHAT_TEMPLATE, "plain": PLAIN_CHAT_TEMPLATE}
V1_CASES = [
    *("single_video", "two_turn", "three_turn_meta", "image_placeholder", "audio_placeholder", "unicode", "gpt_first"),
    *("whitespace", "video_at_end", "two_videos", "no_video", "literal_later_audio", "empty_answer", "contains_sep"),
    *("contains_eos_text", "long_answer"),
]
PLAIN_CASES = [
    *("single_video", "image_placeholder", "audio_placeholder", "unicode", "whitespace", "video_at_end"),
    *("long_answer", "empty_answer", "two_turn", "no_video"),
]
CASES = [("v1", name) for name in V1_CASES] + [("plain", name) for name in PLAIN_CASES]


def render(messages, template=VICUNA_CHAT_TEMPLATE, **variables):
    """The text of a conversation and its supervised parts."""
    texts, spans = render_jinja_template(
        conversations=[messages],
        chat_template=template,
        return_assistant_tokens_mask=not variables.get("add_generation_prompt"),
        eos_token="</s>",
        **variables,
    )
    return texts[0], [texts[0][start:end] for start, end in (spans[0] if spans else [])]


def user(*content):
    return {"role": "user", "content": list(content) if len(content) > 1 else content[0]}


def text(words):
    return {"type": "text", "text": words}


VIDEO, AUDIO, IMAGE = ({"type": kind} for kind in ("video", "audio", "image"))


def test_frozen_text_of_a_conversation():
    messages = [user(VIDEO, text("What?")), {"role": "assistant", "content": "Rain."}, user("And then?")]
    assert render(messages, add_generation_prompt=True)[0] == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "  # noqa: E501
        "and polite answers to the user's questions. USER: <video>\nWhat? ASSISTANT: Rain.</s>USER: And then? ASSISTANT:"  # noqa: E501
    )


def test_frozen_questions_are_the_first_wordings_of_training():
    assert NARRATION_PROMPT == wordings.NARRATION_QUESTIONS[0] == "List the events of this video with their times."
    assert GROUNDING_PROMPT == wordings.GROUNDING_QUESTIONS[0]
    assert GROUNDING_PROMPT == 'When does "{query}" happen?'
    assert SEGMENT_CAPTION_PROMPT == wordings.SEGMENT_QUESTIONS[0] == "What happens from {start} to {end}?"


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        ([VIDEO, text("What?")], "<video>\nWhat?"),
        ([VIDEO, text("\nWhat?")], "<video>\nWhat?"),
        ([text("What?"), VIDEO], "What?\n<video>"),
        ([text("What?\n"), VIDEO], "What?\n<video>"),
        ([VIDEO, AUDIO, IMAGE], "<video>\n<audio>\n<image>"),
        ([text("a"), text("b")], "ab"),
        ([VIDEO], "<video>"),
    ],
)
def test_media_are_on_separate_lines(blocks, expected):
    assert render([{"role": "user", "content": blocks}], add_generation_prompt=True)[0] == (
        f"{SYSTEM_PROMPT} USER: {expected} ASSISTANT:"
    )


def test_a_system_message_replaces_the_system_sentence():
    messages = [{"role": "system", "content": "Be brief."}, user("Hi"), {"role": "assistant", "content": "Hi."}]
    assert render(messages) == ("Be brief. USER: Hi ASSISTANT: Hi.</s>", [" Hi.</s>"])


def test_only_answers_and_their_end_tokens_are_supervised():
    messages = [
        user("a"),
        {"role": "assistant", "content": "b"},
        user("c"),
        {"role": "assistant", "content": [text("d")]},
    ]
    assert render(messages)[1] == [" b</s>", " d</s>"]


def test_an_opening_assistant_turn_is_dropped():
    messages = [{"role": "assistant", "content": "Ready."}, user("a"), {"role": "assistant", "content": "b"}]
    assert render(messages) == (f"{SYSTEM_PROMPT} USER: a ASSISTANT: b</s>", [" b</s>"])


@pytest.mark.parametrize(
    "messages", [[{"role": "assistant", "content": "Ready."}], [user("a"), {"role": "tool", "content": "b"}]]
)
def test_an_invalid_conversation_is_an_error(messages):
    with pytest.raises(jinja2.TemplateError, match="no user turn|unknown role tool"):
        render(messages)


def test_plain_template_drops_the_question():
    messages = [user(text("Describe."), AUDIO), {"role": "assistant", "content": "a dog barks"}]
    assert render(messages, PLAIN_CHAT_TEMPLATE) == ("<audio>\na dog barks\n", ["a dog barks\n"])
    assert render(messages[:1], PLAIN_CHAT_TEMPLATE, add_generation_prompt=True)[0] == "<audio>\n"


def test_listing_template_puts_each_time_immediately_after_its_event():
    turns = [("user", "<video>\ndog barking"), ("assistant", "1240"), ("user", "rain"), ("assistant", "No")]
    text, supervised = render([{"role": r, "content": c} for r, c in turns], LISTING_CHAT_TEMPLATE)
    assert text == f"{SYSTEM_PROMPT} USER: <video>\ndog barking1240 rain No"
    assert supervised == ["1240", " No"]


@functools.cache
def llama_processor(shared_golden_dir, legacy):
    tokenizer = AutoTokenizer.from_pretrained(shared_golden_dir / "llama_tokenizer", legacy=bool(legacy))
    return build_processor(tokenizer, num_av_tokens=8)


@functools.cache
def byte_level_processor():
    return build_processor(byte_level_tokenizer(), num_av_tokens=8)


def our_ids_and_labels(processor, conversation, template, **kwargs):
    """Ids with each run of placeholders as one -200, and labels from the assistant mask."""
    messages = to_messages(conversation)
    slots = str(messages).count("{'type': 'video'}")
    batch = processor.apply_chat_template(
        messages,
        chat_template=template,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
        processor_kwargs={"video_features": [np.ones((3, 4))] * slots, "audio_features": [np.ones((2, 3))] * slots},
    )
    ids, mask = batch["input_ids"][0].tolist(), batch["assistant_masks"][0].tolist()
    ids, mask = collapse(ids, mask, {processor.video_token_id, processor.audio_token_id})
    return ids, [token_id if keep else -100 for token_id, keep in zip(ids, mask)]


@pytest.mark.parametrize(("family", "name"), CASES)
def test_prompts_and_supervised_text_equal_the_published_ones(golden_dir, family, name):
    cases = json.loads((golden_dir / "labels" / "supervised_text.json").read_text(encoding="utf-8"))[family]
    assert set(cases) == {case for kind, case in CASES if kind == family}, "a golden conversation has no test"
    case, template = cases[name], TEMPLATES[family]
    conversation = [{"from": role, "value": words} for role, words in case["conversation"]]
    processor = byte_level_processor()
    if "error" in INTENDED_DIFFERENCES.get((family, name), ""):
        with pytest.raises((ValueError, jinja2.TemplateError), match="<audio>|plain template"):
            our_ids_and_labels(processor, conversation, template)
        return
    prompt, supervised = case["prompt"], case["supervised"]
    if (family, name) in INTENDED_DIFFERENCES:
        assert supervised == [], "published: no supervised token, so the loss is NaN"
        answer = conversation[-1]["value"]
        prompt, supervised = (prompt, [f" {answer}</s>"]) if answer else (f"{prompt}</s>", ["</s>"])
    assert render(to_messages(conversation), template) == (prompt, supervised)
    _, labels = our_ids_and_labels(processor, conversation, template)
    assert processor.tokenizer.decode([token_id for token_id in labels if token_id != -100]) == "".join(supervised)


@pytest.mark.parametrize("legacy", [0, 1])
@pytest.mark.parametrize(("family", "name"), [case for case in CASES if case not in INTENDED_DIFFERENCES])
def test_ids_and_labels_equal_the_published_ones(shared_golden_dir, family, name, legacy):
    case, processor = read_labels(shared_golden_dir, legacy)[family][name], llama_processor(shared_golden_dir, legacy)
    conversation = case["conversation_after_placeholder_and_time_tokens"]
    assert our_ids_and_labels(processor, conversation, TEMPLATES[family]) == (case["input_ids"], case["labels"])


@pytest.mark.parametrize("legacy", [0, 1])
@pytest.mark.parametrize("name", ["empty_answer", "contains_sep", "contains_eos_text"])
def test_the_whole_answer_is_supervised_where_no_published_token_is(shared_golden_dir, name, legacy):
    case, processor = read_labels(shared_golden_dir, legacy)["v1"][name], llama_processor(shared_golden_dir, legacy)
    conversation = case["conversation_after_placeholder_and_time_tokens"]
    ids, labels = our_ids_and_labels(processor, conversation, VICUNA_CHAT_TEMPLATE)
    assert case["n_supervised"] == 0, "published: no supervised token, so the loss is NaN"
    answer = processor.tokenizer(f"{conversation[-1]['value']}</s>", add_special_tokens=False).input_ids
    assert [token_id for token_id in labels if token_id != -100] == answer
    end = [processor.tokenizer.eos_token_id] if name == "empty_answer" else []  # not in the published ids
    assert ids == case["input_ids"] + end


@pytest.mark.parametrize("legacy", [0, 1])
@pytest.mark.parametrize("name", ["q1", "q2", "q3", "q4", "multi_turn"])
def test_generation_prompts_equal_the_published_ones(shared_golden_dir, name, legacy):
    case = read_labels(shared_golden_dir, legacy)["generation_prompts"][name]
    turns = case.get("messages") or [["USER", case["query"]]]
    roles = {"USER": "human", "ASSISTANT": "gpt"}
    messages = to_messages([{"from": roles[role], "value": words} for role, words in turns if words is not None])
    processor = llama_processor(shared_golden_dir, legacy)
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    assert prompt == case["prompt"]
    ids = processor.tokenizer(prompt).input_ids
    assert collapse(ids, ids, {processor.video_token_id})[0] == case["input_ids"]


def test_batches_equal_the_published_ones_except_for_padding(shared_golden_dir):
    """The default is left padding with a separate token; padding_side="right" pads as published."""
    golden, processor = read_labels(shared_golden_dir, 0), llama_processor(shared_golden_dir, 0)
    conversations = [
        to_messages(golden["v1"][name]["conversation_after_placeholder_and_time_tokens"])
        for name in golden["collator"]["samples"]
    ]
    for side in ("left", "right"):
        batch = processor.apply_chat_template(
            conversations,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
            processor_kwargs={"video_features": [np.ones((3, 4))] * 3, "padding_side": side},
        )
        for row in range(3):
            keep = batch["attention_mask"][row].bool()
            assert (keep[-1] if side == "left" else keep[0]).item()
            assert batch["assistant_masks"][row][~keep].sum() == 0
            ids, mask = batch["input_ids"][row][keep].tolist(), batch["assistant_masks"][row][keep].tolist()
            ids, mask = collapse(ids, mask, {processor.video_token_id})
            length = sum(golden["collator"]["attention_mask"][row])
            assert ids == golden["collator"]["input_ids"][row][:length]
            labels = [token_id if kept else -100 for token_id, kept in zip(ids, mask)]
            assert labels == golden["collator"]["labels"][row][:length]
