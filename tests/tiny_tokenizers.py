"""Two tiny tokenizers for the processor tests: byte-level BPE and sentencepiece-like BPE."""

import string

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from modeling_avicuna.prompt_avicuna import SYSTEM_PROMPT


SPECIAL_TOKENS = ["<unk>", "<s>", "</s>"]
CORPUS = [
    SYSTEM_PROMPT,
    "USER: What happens in the video? ASSISTANT: From 03 to 17, a dog barks.",
    "At which intervals in the video can we identify rain? From 00 to 99.\nA man plays the guitar.",
]


def _train(tokenizer: Tokenizer, **settings) -> PreTrainedTokenizerFast:
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL_TOKENS, show_progress=False, **settings)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )


def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    """Encodes any text without unknown tokens; a token may start with a space."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _train(tokenizer, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())


def sentencepiece_tokenizer(prepend_scheme: str = "first") -> PreTrainedTokenizerFast:
    """Built as transformers builds LLaMA's: "first" for legacy=False, "always" for legacy=True."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    # split at spaces for training, so that no token spans one, as in LLaMA's vocabulary
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend_scheme)
    tokenizer.decoder = decoders.Metaspace()
    trained = _train(tokenizer, initial_alphabet=list(string.printable))
    trained.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend_scheme, split=False)
    return trained
