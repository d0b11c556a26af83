"""Attention over concatenated samples (`flatten: true`): each sample attends to itself, with any SDPA kernel.

transformers' "sdpa" masks the attention over the whole row, which costs 8 times as much for a batch of 8. This module
splits the row at the sample boundaries and needs no mask. Flash attention does the same and is not replaced.
"""

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward


PACKED_SDPA = "packed_sdpa"
# layers whose attention is determined by the arguments of the attention function, including the window size
SPLITTABLE_LAYERS = {"full_attention", "sliding_attention"}
ATTENTION_LAYERS = SPLITTABLE_LAYERS | {"chunked_attention"}


def packed_sdpa_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    cu_seq_lens_q: torch.Tensor | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each sample, with the signature of transformers' attention functions.

    Args:
        query, key, value: `(1, num_heads, length, head_dim)`.
        attention_mask: None, since this attention function has no registered mask function.
        cu_seq_lens_q: starts of the samples, and the length of the row; `(num_samples + 1,)`.
        sliding_window: number of tokens that a token of this layer attends to, including itself.

    Returns:
        `(1, length, num_heads, head_dim)`, and None for the weights.

    Raises:
        ValueError: a batch without sample boundaries.
    """
    if cu_seq_lens_q is None:
        raise ValueError("packed attention needs cu_seq_lens_q, which AVicunaCollator(flatten=True) adds to a batch")
    lengths = cu_seq_lens_q.diff().tolist()
    outputs = []
    for sample in zip(query.split(lengths, dim=2), key.split(lengths, dim=2), value.split(lengths, dim=2)):
        length = sample[0].shape[2]
        mask = None
        if sliding_window is not None and length > sliding_window:
            mask = window_mask(length, sliding_window, device=query.device)
        outputs.append(sdpa_attention_forward(module, *sample, mask, **kwargs)[0])
    return torch.cat(outputs, dim=1), None


def window_mask(length: int, window: int, *, device: torch.device) -> torch.Tensor:
    """True where a token attends: to itself and the `window - 1` tokens before it; `(1, 1, length, length)`."""
    positions = torch.arange(length, device=device)
    distances = positions[:, None] - positions
    return ((distances >= 0) & (distances < window))[None, None]


AttentionInterface.register(PACKED_SDPA, packed_sdpa_forward)


def prepare_for_packing(model: nn.Module):
    """Prepares the language model of `model` for flattened batches.

    "sdpa" is replaced by `packed_sdpa_forward` if the layers support it. With "eager", "flex_attention" and flash
    attention, transformers separates the samples by `position_ids`.

    Raises:
        ValueError: the language model has layers that mix tokens of different samples (convolutions, state spaces).
    """
    language_model: PreTrainedModel = model.model.language_model
    config = language_model.config
    layers = set(getattr(config, "layer_types", None) or ())
    if layers - ATTENTION_LAYERS or any(isinstance(module, nn.Conv1d) for module in language_model.modules()):
        raise ValueError(
            f"flatten: true cannot train a language model of type {config.model_type!r}: it has layers other than "
            "attention that mix tokens of different samples. Set flatten to false"
        )
    if config._attn_implementation == "sdpa" and layers <= SPLITTABLE_LAYERS:
        language_model.set_attn_implementation(PACKED_SDPA)
