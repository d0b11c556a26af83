"""Cleans the texts of annotation files for training, and defines when two captions are the same.

A cleaned text contains nothing that could be parsed as one of our placeholders or as a control token of a tokenizer.
"""

import re
import unicodedata
from html import unescape


TIME_PLACEHOLDER = re.compile(r"<[se]\d+>")
MEDIA_PLACEHOLDER = re.compile(r"<(?:video|audio|image)>")
# Control tokens of language models: Llama, Vicuna, Mistral, Qwen, Gemma, Phi, GPT-2, BERT, DeepSeek (with full-width
# bars), GLM, StarCoder, Nemotron, Seed-OSS, Persimmon.
CONTROL_TOKEN = re.compile(
    r"</?(?:s|unk|pad|bos|eos|eod|sop|cls|sep|mask|start_of_turn|end_of_turn|start_of_image|end_of_image|sys|inst)>"
    r"|<\|[^<>|]{1,40}\|>|<\uff5c[^<>\uff5c]{1,40}\uff5c>|<0x[0-9a-f]{2}>|<(?:unused|extra_id_|SPECIAL_)\d+>"
    r"|<(?:fim_(?:prefix|middle|suffix|pad)|seed:\w{1,40})>|\|ENDOFTEXT\|"
    r"|\[/?(?:inst|system_prompt|available_tools|tool_calls|cls|sep|pad|mask|[gs]mask)\]",
    re.IGNORECASE,
)
CONTROL_CHARACTER = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u202a-\u202e\u2066-\u2069\ufeff]")
# letters of scripts without spaces between words: Thai, Lao, Myanmar, Khmer, Kana, Han
UNSPACED_LETTER = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
)
TYPOGRAPHY = str.maketrans({
    "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "-", "\u2026": "...",
    "\u00a0": " ", "\u200b": None,
})  # fmt: skip


def clean_text(text: str) -> str:
    """A text on one line, without control tokens, control characters and placeholders.

    >>> clean_text("  The coach\\n helps. </s>")
    'The coach helps.'
    """
    return " ".join(without_placeholders(without_control_tokens(text)).split())


def clean_lines(text: str) -> str:
    """`clean_text` for each line: the paragraphs of an answer are kept, media placeholders are removed.

    >>> clean_lines("<image>\\nWhat is it?  ")
    'What is it?'
    """
    lines = MEDIA_PLACEHOLDER.sub(" ", text).strip().split("\n")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(clean_text(line) for line in lines)).strip()


def without_control_tokens(text: str) -> str:
    """The text with each control token and control character replaced by a space; newlines and tabs are kept.

    >>> without_control_tokens("A dog.<|im_end|>[INST] bark </S>")
    'A dog.   bark  '
    """
    return CONTROL_TOKEN.sub(" ", CONTROL_CHARACTER.sub(" ", text))


def without_placeholders(text: str) -> str:
    """The text with the brackets of each placeholder removed.

    >>> without_placeholders("Press <s0> on the <video> player")
    'Press s0 on the video player'
    """
    return MEDIA_PLACEHOLDER.sub(lambda hit: hit[0][1:-1], TIME_PLACEHOLDER.sub(lambda hit: hit[0][1:-1], text))


def detokenize(text: str) -> str:
    """Tokenized lower-case text converted to normal spacing and capitals.

    >>> detokenize("no , he isn 't . i can 't tell what it 's ( the box ) .")
    "No, he isn't. I can't tell what it's (the box)."
    """
    text = clean_text(text)
    text = re.sub(r" (?=[.,!?;:%)]|'(?:s|t|m|re|d|ve|ll)\b)", "", text)
    text = re.sub(r"\( ", "(", text)
    text = re.sub(r"\bi\b(?=$|[ ,.!?;']|'m\b)", "I", text)
    return re.sub(r"(^|[.!?] )([a-z])", lambda hit: hit[1] + hit[2].upper(), text)


def normalize_caption(caption: str) -> str:
    """A caption on one line, with plain quotes, an initial capital and final punctuation.

    >>> normalize_caption(" a dog barks ,then \\u201cwoof\\u201d")
    'A dog barks, then "woof".'
    """
    text = clean_text(unescape(caption).translate(TYPOGRAPHY))
    text = re.sub(r"\s*([,;])\s*(?=[^\d\s])", r"\1 ", text).rstrip(" ,;:-")
    text = text[:1].upper() + text[1:]
    return text if not text or text.endswith((".", "!", "?")) else f"{text}."


def split_words(text: str) -> list[str]:
    """The words of a text; a letter of a script without spaces is one.

    >>> split_words("A dog, \u72d7\u53eb")
    ['A', 'dog,', '\u72d7', '\u53eb']
    """
    return UNSPACED_LETTER.sub(r" \g<0> ", text).split()


def caption_key(caption: str) -> str:
    """A key that is equal for captions with the same letters and digits; it defines "the same caption".

    >>> caption_key("A dog barks.") == caption_key("a dog  barks")
    True
    """
    text = caption.casefold()
    if not text.isascii():  # \w does not match combining marks, which are part of a letter
        words = "".join(letter if unicodedata.category(letter)[0] in "LMN" else " " for letter in text).split()
    else:
        words = re.findall(r"[^\W_]+", text)
    return " ".join(words or text.split())
