"""Turns any fast tokenizer into one that knows the placeholder tokens and gives the published ids.

Used when a checkpoint is made (converter, train/initialize.py through `build_processor`); the result is saved as an ordinary
tokenizer.json, so loading needs nothing of this file. It trains no tokenizer and does not expand slots.
"""

import json

from transformers import PreTrainedTokenizerFast

from .prompt_avicuna import AUDIO_TOKEN, VIDEO_TOKEN


PAD_TOKEN = "<pad>"
_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")
_WORD_START = "\u2581"  # sentencepiece's visible space


def add_placeholder_tokens(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    r"""
    Returns a tokenizer with `<video>` and `<audio>` as special tokens (in this order), a padding token of its own, left
    padding, and, for sentencepiece vocabularies (LLaMA, Vicuna), the ids that the published code gives.

    The published code cuts the prompt at the placeholder and tokenizes the pieces one by one with the slow tokenizer, so
    the piece after a placeholder begins with a word-start token. Byte-level tokenizers need no such care. Padding is
    never the unknown token (the published `pad = unk` hides real unknown tokens).

    Args:
        tokenizer (`PreTrainedTokenizerFast`): any tokenizer backed by `tokenizers`; it is not changed. One that is as
            described already is returned as it is.

    Raises:
        ValueError: the tokenizer is not backed by `tokenizers` (assistant masks need character offsets).
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(f"AVicuna needs a tokenizer backed by `tokenizers`, got {type(tokenizer).__name__}")
    description = json.loads(tokenizer.backend_tokenizer.to_str())
    pieces = _pieces(description)
    cut_before_normalizing = _follow_published_pieces(description) if _is_sentencepiece(description) else True
    vocabulary = tokenizer.get_vocab()
    if {VIDEO_TOKEN, AUDIO_TOKEN} <= vocabulary.keys() and _pieces(description) == pieces:
        return tokenizer
    description["truncation"] = description["padding"] = None
    special = {
        name: str(tokenizer.special_tokens_map[name]) for name in _SPECIAL if name in tokenizer.special_tokens_map
    }
    if tokenizer.pad_token is None or tokenizer.pad_token == tokenizer.unk_token:
        special["pad_token"] = PAD_TOKEN
    next_id = max(vocabulary.values()) + 1
    for content in (VIDEO_TOKEN, AUDIO_TOKEN, special["pad_token"]):
        if content not in vocabulary:
            description["added_tokens"].append(_added_token(next_id, content=content))
            next_id += 1
    for token in description["added_tokens"]:
        if token["content"] in (VIDEO_TOKEN, AUDIO_TOKEN):
            token["normalized"] = not cut_before_normalizing
    return PreTrainedTokenizerFast(
        tokenizer_object=type(tokenizer.backend_tokenizer).from_str(json.dumps(description)),
        model_max_length=tokenizer.model_max_length,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        **special,
    )


def _pieces(description: dict) -> str:
    """What decides how text is cut into pieces, to compare two descriptions."""
    return json.dumps([description["normalizer"], description["pre_tokenizer"]])


def _added_token(token_id: int, *, content: str) -> dict:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": token_id, "content": content, **flags}


def _steps(description: dict | None, name: str) -> list[dict]:
    """The normalizers or pre-tokenizers of a `tokenizers` description, a sequence of them taken apart."""
    if description is None:
        return []
    return description[name] if description["type"] == "Sequence" else [description]


def _prefix_scheme(description: dict) -> str | None:
    """`"first"`, `"always"` or `"never"`: where a sentencepiece tokenizer puts a word start of its own; None: no sentencepiece."""
    for step in _steps(description["pre_tokenizer"], "pretokenizers"):
        if step["type"] == "Metaspace":
            return step["prepend_scheme"]
    for step in _steps(description["normalizer"], "normalizers"):
        if step["type"] == "Prepend" and step["prepend"] == _WORD_START:
            return "always"
    return None


def _is_sentencepiece(description: dict) -> bool:
    return _prefix_scheme(description) in ("first", "always")


def _follow_published_pieces(description: dict) -> bool:
    """
    Rewrites the description so that pieces begin as the slow tokenizer of transformers 4.31 begins them; returns whether
    special tokens are cut out before normalizing.

    legacy=True ("always"): each piece, also the one after `</s>`, gets a word start.
    legacy=False ("first"): the piece after a placeholder gets one, the piece after `</s>` does not; there the slow
    tokenizer takes the pieces of "_USER" and strips the word start of the first: "US" + "ER", not "USER".
    """
    for token in description["added_tokens"]:
        token["normalized"] = False
    _merge_spaces_last(description["model"])
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": _WORD_START}
    if _prefix_scheme(description) == "always":
        prepend = {"type": "Prepend", "prepend": _WORD_START}
        description["normalizer"] = {"type": "Sequence", "normalizers": [prepend, spaces]}
        description["pre_tokenizer"] = None
        return True
    after_placeholder = f"(?<={VIDEO_TOKEN}|{AUDIO_TOKEN})(?!{VIDEO_TOKEN}|{AUDIO_TOKEN}|\\z)"
    description["normalizer"] = {"type": "Replace", "pattern": {"Regex": after_placeholder}, "content": _WORD_START}
    next_turn = {"type": "Split", "pattern": {"Regex": r"\AUS(?=ER: )"}, "behavior": "Isolated", "invert": False}
    word_starts = {"type": "Metaspace", "replacement": _WORD_START, "prepend_scheme": "first", "split": False}
    description["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [next_turn, word_starts]}
    return False


def _merge_spaces_last(model: dict):
    """
    Repairs the order of merges where transformers took it from a bare tokenizer.model (seen in 5.23): there it is the order
    of ids, so that LLaMA's pieces of nothing but spaces come first, although sentencepiece scores them last.
    """
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model.get("merges", [])]
    if merges and merges[0] == [_WORD_START, _WORD_START]:
        model["merges"] = sorted(merges, key=lambda merge: set("".join(merge)) == {_WORD_START})
