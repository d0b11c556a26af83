"""Attention over concatenated samples (`flatten: true`): each sample attends to itself, with any SDPA kernel.

transformers' "sdpa" masks the attention over the whole row, which costs 8 times as much for a batch of 8. This module
needs no mask: on a GPU it runs PyTorch's kernel for samples of different lengths (from torch 2.11 on, 16-bit types),
elsewhere it splits the row at the sample boundaries. The package flash-attn does the same and is not replaced.
"""

import inspect
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward


try:  # torch 2.10 has it without window_size, and older versions not at all
    from torch.nn.attention.varlen import varlen_attn

    HAS_VARLEN = "window_size" in inspect.signature(varlen_attn).parameters
except ImportError:
    HAS_VARLEN = False

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
    max_length_q: int | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each sample, with the signature of transformers' attention functions.

    Args:
        query, key, value: `(1, num_heads, length, head_dim)`.
        attention_mask: None, since this attention function has no registered mask function.
        cu_seq_lens_q: starts of the samples, and the length of the row; `(num_samples + 1,)`.
        max_length_q: tokens of the longest sample.
        sliding_window: number of tokens that a token of this layer attends to, including itself.

    Returns:
        `(1, length, num_heads, head_dim)`, and None for the weights.

    Raises:
        ValueError: a batch without sample boundaries.
    """
    if cu_seq_lens_q is None:
        raise ValueError("packed attention needs cu_seq_lens_q, which AVicunaCollator(flatten=True) adds to a batch")
    if runs_varlen(query, dropout=kwargs.get("dropout", 0.0)) and max_length_q is not None:
        window = (-1 if sliding_window is None else sliding_window - 1, 0)
        groups = getattr(module, "num_key_value_groups", 1)
        key, value = repeat_kv(key, groups), repeat_kv(value, groups)
        rows = (states[0].transpose(0, 1) for states in (query, key, value))  # [length, num_heads, head_dim] each
        output = varlen_attn(
            *rows,
            cu_seq_lens_q,
            cu_seq_lens_q,
            max_length_q,
            max_length_q,
            scale=kwargs.get("scaling"),
            window_size=window,
        )
        return output[None], None
    lengths = cu_seq_lens_q.diff().tolist()
    outputs = []
    for sample in zip(query.split(lengths, dim=2), key.split(lengths, dim=2), value.split(lengths, dim=2)):
        length = sample[0].shape[2]
        mask = None
        if sliding_window is not None and length > sliding_window:
            mask = window_mask(length, sliding_window, device=query.device)
        outputs.append(sdpa_attention_forward(module, *sample, mask, **kwargs)[0])
    return torch.cat(outputs, dim=1), None


def runs_varlen(query: torch.Tensor, *, dropout: float) -> bool:
    """Whether PyTorch's kernel for samples of different lengths applies. Unlike the loop over samples it does not wait
    for the GPU in each layer."""
    return HAS_VARLEN and query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) and not dropout


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
