"""Questions about videos to answers with timed events: a batch of videos, or many questions about one video.

Between the processor and the pipeline (and `eval`): builds the conversation, generates, reads and scores the events.
Several questions about one video share its encoding and the key-value cache of the prompt up to the question. The
caller chooses the wording of questions and the generation settings.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import BatchFeature, DynamicCache, GenerationConfig, PreTrainedModel, ProcessorMixin
from transformers.cache_utils import DynamicLayer
from transformers.generation import GenerationMode
from transformers.modeling_outputs import ModelOutput

from .generation_avicuna import decode_answer, generated_ids, presence_scores, score_events
from .language_model_avicuna import takes_position_ids
from .prompt_avicuna import SLOT_PATTERN
from .shared_cache_avicuna import repeat_cache
from .timestamp_avicuna import Event


QUESTIONS_AT_ONCE = 128  # about one video; fewer are slower (benchmarks/results/side_by_side.json, gpu_queries.json)


@dataclass(frozen=True)
class Answer:
    """An answer of the model.

    text (`str`): the answer, without special tokens.
    events (`list[Event]`): the events in it, in seconds, each with its score (`score_events`).
    presence (`float`): probability that the answer names a time span (`presence_scores`); also given for answers
        without one.
    """

    text: str
    events: list[Event]
    presence: float


def answer_batch(
    model: PreTrainedModel,
    *,
    processor: ProcessorMixin,
    media: list[dict],
    questions: list[str],
    durations: list[float],
    score: str = "time_tokens",
    **generate_kwargs: Any,
) -> list[Answer]:
    """Answers one question about each of several media, as one batch.

    Args:
        model (`AVicunaForConditionalGeneration`): in eval mode.
        processor (`AVicunaProcessor`): with left padding.
        media (`list[dict]`): one content block each, `{"type": "video", "path": ...}` or with cached features.
        durations (`list[float]`): seconds of each.
        score (`str`): how events are scored, `kind` of `score_events`. `Answer.presence` is there with each kind, and
            for answers without events: that is how an evaluation ranks the classes that a video lacks.
        generate_kwargs: as in `generate`.

    Raises:
        ValueError: `num_return_sequences` is not 1: there is one answer per question.
    """
    settings = _settings(model, generate_kwargs)
    if settings.num_return_sequences not in (None, 1):
        raise ValueError(f"there is one answer per question, got num_return_sequences={settings.num_return_sequences}")
    conversations = [_conversation(block, question) for block, question in zip(media, questions, strict=True)]
    inputs = _encode(processor, conversations).to(_device(model))
    outputs = model.generate(**inputs, **{**generate_kwargs, "return_dict_in_generate": True, "output_logits": True})
    return _answers(outputs, processor=processor, durations=durations, score=score)


def answer_questions(
    model: PreTrainedModel,
    *,
    processor: ProcessorMixin,
    media: dict,
    questions: list[str],
    duration: float,
    score: str = "time_tokens",
    batch_size: int = QUESTIONS_AT_ONCE,
    **generate_kwargs: Any,
) -> list[Answer]:
    """Answers several questions about one video, which is decoded, encoded and prefilled once.

    The answers are those of asking one by one; at most `batch_size` questions are generated together, see
    `generate_shared`. Arguments as in `answer_batch`.
    """
    if not questions:
        return []
    settings = _settings(model, generate_kwargs)
    mode = settings.get_generation_mode(generate_kwargs.get("assistant_model"))
    is_assisted = mode is GenerationMode.ASSISTED_GENERATION  # it takes one prompt at a time
    is_single = len(questions) == 1 or settings.num_return_sequences not in (None, 1)
    if is_single or is_assisted or settings.use_cache is False:
        # nothing to share, or no cache to share it in
        asked = {"durations": [duration], "score": score, **generate_kwargs}
        return [
            answer
            for question in questions
            for answer in answer_batch(model, processor=processor, media=[media], questions=[question], **asked)
        ]
    inputs = _encode(processor, [_conversation(media, questions[0])]).to(_device(model))
    first, _ = inputs.pop("input_ids")[0], inputs.pop("attention_mask")
    conversations = [_conversation(media, question) for question in questions[1:]]
    prompts = [first, *_encode_texts(processor, conversations, like=first)]
    answers: dict[int, Answer] = {}
    for numbers, outputs in generate_shared(
        model, prompts=prompts, media=inputs, batch_size=batch_size, **{**generate_kwargs, "output_logits": True}
    ):
        found = _answers(outputs, processor=processor, durations=[duration] * len(numbers), score=score)
        answers.update(zip(numbers, found))
        del outputs  # its logits would be kept while the next batch is generated
    return [answers[number] for number in range(len(questions))]


def _conversation(media: dict, question: str) -> list[dict]:
    return [{"role": "user", "content": [media, {"type": "text", "text": question}]}]


def _encode(processor: ProcessorMixin, conversations: list[list[dict]]) -> BatchFeature:
    return processor.apply_chat_template(conversations, add_generation_prompt=True, tokenize=True, return_dict=True)


def _encode_texts(
    processor: ProcessorMixin, conversations: list[list[dict]], *, like: torch.LongTensor
) -> list[torch.LongTensor]:
    """Token ids of prompts about the medium of the prompt `like`, with its placeholders."""
    if not conversations:
        return []
    texts = processor.apply_chat_template(conversations, add_generation_prompt=True)
    slots = (processor.video_token_id, processor.audio_token_id)
    placeholders = [i for i in like.tolist() if i in slots]
    # one placeholder is tokenised and then replaced by all of them: 100 texts with 125 each take five times as long
    slot = processor.tokenizer.convert_ids_to_tokens(placeholders[0])
    texts = [SLOT_PATTERN.sub(slot, text, count=1) for text in texts]
    bos = processor.tokenizer.bos_token
    encoded = []
    for text in texts:
        has_bos = bos is not None and text.startswith(bos)
        ids = processor.tokenizer(text, add_special_tokens=not has_bos).input_ids
        place = ids.index(placeholders[0])
        encoded.append(torch.tensor([*ids[:place], *placeholders, *ids[place + 1 :]]))
    return encoded


def _answers(outputs: ModelOutput, *, processor: ProcessorMixin, durations: list[float], score: str) -> list[Answer]:
    tokenizer = processor.tokenizer
    texts = [decode_answer(tokenizer, ids) for ids in generated_ids(outputs).tolist()]
    events = score_events(outputs, tokenizer=tokenizer, durations=durations, codec=processor.time_codec, kind=score)
    return [Answer(*parts) for parts in zip(texts, events, presence_scores(outputs, tokenizer=tokenizer))]


def _settings(model: PreTrainedModel, generate_kwargs: dict[str, Any]) -> GenerationConfig:
    """The generation settings that a call of `generate` with these arguments has."""
    config = copy.deepcopy(generate_kwargs.get("generation_config") or model.generation_config)
    config.update(**generate_kwargs)
    return config


def _device(model: PreTrainedModel) -> torch.device:
    """Where the model takes its inputs."""
    device = model.get_input_embeddings().weight.device
    # the weights of an offloaded model are on "meta" between its passes, and its inputs are moved by hooks
    return torch.device("cpu") if device.type == "meta" else device


def generate_shared(
    model: PreTrainedModel,
    *,
    prompts: list[torch.LongTensor],
    media: dict[str, torch.Tensor],
    batch_size: int = QUESTIONS_AT_ONCE,
    **generate_kwargs: Any,
) -> Iterator[tuple[list[int], ModelOutput]]:
    """Answers several prompts about the same media; the part that they share is computed once.

    Args:
        model: With `generate` and `forward` as `AVicunaForConditionalGeneration`.
        prompts (`list[torch.LongTensor]` of shape `(sequence_length,)` each):
            Complete prompts without padding, all with the same placeholders at the same positions.
        media (`dict[str, torch.Tensor]`):
            What `forward` takes for ONE sample besides ids and mask (`video_features` of shape `(1, V, 768)`, ...).
        batch_size (`int`): prompts that are answered together at most; the answers do not depend on it. Where they do
            not fit the memory of the GPU, half as many are.
        generate_kwargs: As in `generate`; `return_dict_in_generate` is set.

    Yields:
        For each batch the indices of its prompts (prompts of similar length are batched) and the output of `generate`,
        one row per prompt and returned sequence; see `generated_ids`.

    Raises:
        ValueError: No prompts, or placeholders after the part that all prompts share.
    """
    if not prompts:
        raise ValueError("got no prompts")
    device = _device(model)
    prompts = [prompt.cpu() for prompt in prompts]  # a batch is moved at once
    shared = _common_length(prompts)
    prefix, rests = prompts[0][None, :shared].to(device), [prompt[shared:] for prompt in prompts]  # [1, P], [R] each
    placeholders = torch.tensor([model.config.video_token_id, model.config.audio_token_id])
    if torch.isin(torch.cat(rests), placeholders).any():
        raise ValueError(f"the prompts share only their first {shared} tokens, and there are media after them")
    cache = DynamicCache(config=model.config.get_text_config())
    with torch.no_grad():
        model(input_ids=prefix, past_key_values=cache, use_cache=True, logits_to_keep=1, **media)
    config = copy.deepcopy(generate_kwargs.pop("generation_config", None) or model.generation_config)
    generate_kwargs = config.update(**{**generate_kwargs, "return_dict_in_generate": True})  # the rest
    config.cache_implementation = None  # the shared cache is used
    copies = max(config.num_beams or 1, config.num_return_sequences or 1)
    pad_id = config.pad_token_id if config.pad_token_id is not None else 0
    equal = not (_takes_padding(cache) and takes_position_ids(model.config.get_text_config()))
    lengths = [len(rest) for rest in rests]
    waiting = sorted(range(len(rests)), key=lengths.__getitem__)
    while waiting:
        numbers = _next_batch(waiting, lengths, batch_size=batch_size, equal=equal)
        padded = _left_padded([rests[number] for number in numbers], pad_id)
        ids, mask = (part.to(device) for part in padded)  # [b, R]
        try:
            outputs = model.generate(
                input_ids=torch.cat([prefix.expand(len(numbers), -1), ids], 1),
                attention_mask=torch.cat([torch.ones_like(prefix).expand(len(numbers), -1), mask], 1),
                past_key_values=repeat_cache(cache, len(numbers) * copies),
                generation_config=config,
                **generate_kwargs,
            )
        except torch.OutOfMemoryError:
            if len(numbers) == 1:
                raise
            batch_size = len(numbers) // 2
            continue
        waiting = waiting[len(numbers) :]
        outputs.past_key_values = None  # it would be kept while the next batch is generated
        yield numbers, outputs
        del outputs


def _takes_padding(cache: DynamicCache) -> bool:
    """Whether padding between the shared part and the rest has no effect. Layers with a sliding window or a recurrent
    state would count it."""
    return all(type(layer) is DynamicLayer for layer in cache.layers)


def _next_batch(waiting: list[int], lengths: list[int], *, batch_size: int, equal: bool) -> list[int]:
    """The first of `waiting`, sorted by length: at most `batch_size` and, with `equal`, of the same length."""
    batch = waiting[:batch_size]
    return [number for number in batch if not equal or lengths[number] == lengths[batch[0]]]


def _common_length(prompts: list[torch.LongTensor]) -> int:
    """Length of the prefix that all prompts share, at least one token less than the shortest prompt."""
    shortest = min(len(prompt) for prompt in prompts) - 1
    stacked = torch.stack([prompt[:shortest] for prompt in prompts])  # [N, L]
    differs = (stacked != stacked[:1]).any(0)
    return int(differs.int().argmax()) if differs.any() else shortest


def _left_padded(rows: list[torch.LongTensor], pad_id: int) -> tuple[torch.LongTensor, torch.LongTensor]:
    """Rows of different lengths as one left-padded tensor, and its mask."""
    width = max(len(row) for row in rows)
    ids = torch.stack([torch.nn.functional.pad(row, (width - len(row), 0), value=pad_id) for row in rows])
    mask = torch.stack([torch.arange(width) >= width - len(row) for row in rows])
    return ids, mask.to(ids.dtype)
