"""Adds the placeholder tokens to a fast tokenizer and keeps the published ids; tokenizes the processor's texts.

`add_placeholder_tokens` is used when a checkpoint is made (by `build_processor`). Its result is saved as an ordinary
tokenizer.json. This file trains no tokenizer and does not replace slots by placeholders.
"""

import json

import torch
from transformers import PreTrainedTokenizerFast

from .prompt_avicuna import AUDIO_TOKEN, VIDEO_TOKEN


PAD_TOKEN = "<pad>"
_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")
_WORD_START = "\u2581"  # sentencepiece's visible space


def add_placeholder_tokens(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    r"""
    Adds the special tokens `<video>` and `<audio>` (in this order), a separate padding token and left padding to a
    tokenizer. With sentencepiece vocabularies (LLaMA, Vicuna) the result gives the ids of the published code.

    The published code splits the prompt at the placeholder and tokenizes the pieces with the slow tokenizer, so that
    the piece after a placeholder begins with a word-start token. Byte-level tokenizers need no change. The padding
    token is never the unknown token: the published `pad = unk` also masks real unknown tokens.

    Args:
        tokenizer (`PreTrainedTokenizerFast`): any tokenizer backed by `tokenizers`; it is not modified. One that needs
            no change is returned itself.

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
    """The part of a description that decides how text is split, for comparison."""
    return json.dumps([description["normalizer"], description["pre_tokenizer"]])


def _added_token(token_id: int, *, content: str) -> dict:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": token_id, "content": content, **flags}


def _steps(description: dict | None, name: str) -> list[dict]:
    """The normalizers or pre-tokenizers of a `tokenizers` description, as a list."""
    if description is None:
        return []
    return description[name] if description["type"] == "Sequence" else [description]


def _prefix_scheme(description: dict) -> str | None:
    """
    Where a sentencepiece tokenizer adds a word start: `"first"`, `"always"` or `"never"`; None for other tokenizers.
    """
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
    Rewrites the description so that pieces begin as with the slow tokenizer of transformers 4.31.

    legacy=True ("always"): every piece gets a word start, the one after `</s>` too.
    legacy=False ("first"): the piece after a placeholder gets a word start, the piece after `</s>` does not. There the
    slow tokenizer tokenizes "_USER" and strips the word start from the first token, which gives "US" + "ER".

    Returns:
        whether special tokens are split off before the normalizer runs.
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
    Repairs the order of merges that transformers 5.23 makes from a bare tokenizer.model: the order of ids, in which
    LLaMA's pieces of spaces alone come first, although sentencepiece scores them last.
    """
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model.get("merges", [])]
    if merges and merges[0] == [_WORD_START, _WORD_START]:
        model["merges"] = sorted(merges, key=lambda merge: set("".join(merge)) == {_WORD_START})


def tokenize_padded(
    tokenizer: PreTrainedTokenizerFast,
    texts: list[str],
    *,
    padding: bool | str = True,
    padding_side: str | None = None,
    truncation: bool = False,
    max_length: int | None = None,
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """
    Texts with placeholder tokens -> padded `input_ids` and `attention_mask` `(batch, length)`, and the characters that
    each token covers, `(batch, length, 2)`.

    Each text begins with one beginning-of-sequence token, whether it holds one already or not.

    Raises:
        ValueError: a text is longer than `max_length` and `truncation` is off, or cutting it would cut a placeholder.
    """
    bos, placeholders = tokenizer.bos_token, set(tokenizer.convert_tokens_to_ids([VIDEO_TOKEN, AUDIO_TOKEN]))
    ids, offsets = [], []
    for number, text in enumerate(texts):
        has_bos = bos is not None and text.startswith(bos)
        row = tokenizer(text, add_special_tokens=not has_bos, return_offsets_mapping=True)
        if max_length is not None and len(row["input_ids"]) > max_length and not truncation:
            raise ValueError(
                f"text {number} has {len(row['input_ids'])} tokens, media included, more than "
                f"max_length={max_length}; shorten it, lower num_av_tokens, or set truncation=True to cut its end"
            )
        if max_length is not None and placeholders & set(row["input_ids"][max_length:]):
            raise ValueError(f"cutting text {number} to max_length={max_length} tokens would cut its media")
        ids.append(row["input_ids"][:max_length])
        offsets.append(row["offset_mapping"][:max_length])
    padded = tokenizer.pad(
        {"input_ids": ids},
        padding=padding,
        padding_side=padding_side,
        max_length=max_length if padding == "max_length" else None,
        return_tensors="pt",
    )
    width, is_left = padded["input_ids"].shape[1], (padding_side or tokenizer.padding_side) == "left"
    empty = [[(0, 0)] * (width - len(row)) for row in offsets]
    offsets = [pad + row if is_left else row + pad for pad, row in zip(empty, offsets)]
    return dict(padded), torch.tensor(offsets)


def mark_spans(
    offsets: torch.Tensor, spans: list[list[tuple[int, int]]], expansions: list[list[tuple[int, int, int]]]
) -> torch.Tensor:
    """
    A mask `(batch, length)`: 1 at tokens that overlap a span of characters.

    Args:
        offsets: characters of each token in the texts with placeholders, `(batch, length, 2)`.
        spans: spans of characters of each text before its slots were replaced by placeholders.
        expansions: start, end and new length of each slot of each text, see `expand_slots`.
    """
    masks = torch.zeros(offsets.shape[:2], dtype=torch.long)
    for mask, row, row_spans, slots in zip(masks, offsets, spans, expansions):
        for start, end in row_spans:
            grown = sum(length - (stop - begin) for begin, stop, length in slots if stop <= start)
            inside = sum(length - (stop - begin) for begin, stop, length in slots if start < stop <= end)
            mask |= ((row[:, 0] < end + grown + inside) & (row[:, 1] > start + grown)).long()
    return masks
