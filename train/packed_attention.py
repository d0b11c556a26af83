"""Attention over samples that lie end to end in one row: each sample by itself, whatever kernel the machine has.

Switched on by `train/sft.py` for `flatten: true`. transformers' "sdpa" makes a mask of the whole row squared, so that
a batch of 8 costs 8 times its attention; here the row is cut at the samples' borders and no mask is made. Flash
attention does the same in one kernel and is left alone. Nothing here lays samples end to end: the collator does.
"""

import torch
from torch import nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward


PACKED_SDPA = "packed_sdpa"
# layers of which an attention function is told all that it must know, the width of a window included
CUTTABLE_LAYERS = {"full_attention", "sliding_attention"}
ATTENTION_LAYERS = CUTTABLE_LAYERS | {"chunked_attention"}


def packed_sdpa_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    cu_seq_lens_q: torch.Tensor | None = None,
    sliding_window: int | None = None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """Causal attention of each sample, in the form that transformers' models call.

    Args:
        query, key, value: `(1, num_heads, length, head_dim)`.
        attention_mask: None; transformers makes none for an attention function that it has no mask function for.
        cu_seq_lens_q: where the samples begin, and the length of the row; `(num_samples + 1,)`.
        sliding_window: how many tokens back a token of this layer sees, itself included.

    Returns:
        `(1, length, num_heads, head_dim)`, and None for the weights.

    Raises:
        ValueError: the batch does not say where its samples begin.
    """
    if cu_seq_lens_q is None:
        raise ValueError("packed attention needs cu_seq_lens_q: batches of AVicunaCollator(flatten=True) carry it")
    lengths = cu_seq_lens_q.diff().tolist()
    outputs = []
    for sample in zip(query.split(lengths, dim=2), key.split(lengths, dim=2), value.split(lengths, dim=2)):
        length = sample[0].shape[2]
        is_narrow = sliding_window is not None and length > sliding_window
        mask = window_mask(length, sliding_window, device=query.device) if is_narrow else None
        outputs.append(sdpa_attention_forward(module, *sample, mask, **kwargs)[0])
    return torch.cat(outputs, dim=1), None


def window_mask(length: int, window: int, *, device: torch.device) -> torch.Tensor:
    """True where a token may look: at itself and at `window - 1` before it; `(1, 1, length, length)`."""
    positions = torch.arange(length, device=device)
    distances = positions[:, None] - positions
    return ((distances >= 0) & (distances < window))[None, None]


AttentionInterface.register(PACKED_SDPA, packed_sdpa_forward)


def prepare_for_packing(model: nn.Module):
    """Makes the language model of `model` fit for flattened batches: no look across samples, no mask of the whole row.

    "sdpa" is exchanged for `packed_sdpa_forward` where the layers allow it; "eager", "flex_attention" and flash
    attention stay, since transformers keeps samples apart in them by `position_ids`.

    Raises:
        ValueError: the language model has layers that run along the row whatever samples it holds (short convolutions,
            state spaces); the message names it.
    """
    language_model: PreTrainedModel = model.model.language_model
    config = language_model.config
    layers = set(getattr(config, "layer_types", None) or ())
    if layers - ATTENTION_LAYERS or any(isinstance(module, nn.Conv1d) for module in language_model.modules()):
        raise ValueError(
            f"flatten: true cannot train a language model of type {config.model_type!r}: it has layers other than "
            "attention that mix the end of one sample into the beginning of the next. Set flatten to false"
        )
    if config._attn_implementation == "sdpa" and layers <= CUTTABLE_LAYERS:
        language_model.set_attn_implementation(PACKED_SDPA)
