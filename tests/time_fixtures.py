"""A tiny tokenizer, processor and model (random weights) for the tests of generation, answering and the pipeline."""

import math
import re

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LogitsProcessor, PreTrainedTokenizerFast

from modeling_avicuna import AVicunaForConditionalGeneration, AVicunaProcessor, build_processor
from tests.tiny_models import TINY_TEXT, tiny_model


TEXTS = [
    "USER: At which intervals in the video can we identify a dog barking? ASSISTANT: From 03 to 17 and from 40 to 52.",
    "Describe the events in the video one by one, each with the time when it happens.",
    "What happens in the video from 12 to 90? From 56 to 78, a man speaks. From 90 to 99, rain from a pipe.",
    "A chat between a curious user and an artificial intelligence assistant.",
    "The assistant gives helpful, detailed, and polite answers to the user's questions.",
]


def tiny_tokenizer(texts: list[str] = TEXTS) -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on `texts`, every digit one token, `<pad>` `<s>` `</s>` as 0, 1, 2."""
    tokenizer = Tokenizer(models.BPE())
    digits = pre_tokenizers.Split(Regex("[0-9]"), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<pad>", "<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", padding_side="left"
    )


def tiny_processor(**settings) -> AVicunaProcessor:
    """A processor with `tiny_tokenizer`, 32-pixel frames and 12 audio-visual tokens."""
    return build_processor(tiny_tokenizer(), image_size=32, **{"num_av_tokens": 12, **settings})


def tiny_model_for(processor: AVicunaProcessor, *, seed: int = 0, **overrides) -> AVicunaForConditionalGeneration:
    """A `tiny_model` with the vocabulary and the token settings of a processor."""
    text = overrides.pop("text_config", TINY_TEXT)
    return tiny_model(
        seed,
        num_av_tokens=processor.num_av_tokens,
        video_token_id=processor.video_token_id,
        audio_token_id=processor.audio_token_id,
        time_unit=processor.time_unit,
        num_time_bins=processor.num_time_bins,
        text_config={**text, "vocab_size": len(processor.tokenizer), "max_position_embeddings": 2048},
        **overrides,
    )


class SpanBias(LogitsProcessor):
    """Makes a random model generate mostly "from", digits and "to", in valid and invalid order."""

    FOLLOWERS = {"from": r" ", "space": r"[0-9]", "digit": r"[0-9]| to| From| from|,", "word": r" ?[Ff]rom"}

    def __init__(self, tokenizer):
        self.texts = [
            tokenizer.decode([38, token_id]).removeprefix(tokenizer.decode([38])) for token_id in range(len(tokenizer))
        ]
        self.bias = {}
        for state, pattern in self.FOLLOWERS.items():
            self.bias[state] = torch.tensor([12.0 if re.fullmatch(pattern, text) else 0.0 for text in self.texts])
            self.bias[state][tokenizer.eos_token_id] = -math.inf

    def __call__(self, input_ids, scores):
        return scores + torch.stack([self.bias[self.state(self.texts[i])] for i in input_ids[:, -1].tolist()])

    def state(self, text: str) -> str:
        if text.strip().lower() in ("from", "to"):
            return "from"
        return "space" if text == " " else "digit" if text.isdigit() else "word"
