"""Padded batches of media: encodes their real rows, and selects the rows for the placeholders of each sample.

Between towers and language model; tensor functions without parameters. The counts of rows and placeholders are checked
per sample: rows at the wrong placeholders would give wrong answers without an error.
"""

from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling


def encode_padded(
    encode: Callable[..., BaseModelOutputWithPooling],
    tower: PreTrainedModel,
    padded: torch.Tensor,
    lengths: torch.Tensor | None,
    *,
    feature_size: int,
    **kwargs: Any,
) -> BaseModelOutputWithPooling:
    """Encodes the real rows of a padded batch in one pass; the padding is not encoded.

    Args:
        encode: `encode_frames` or `encode_windows`.
        tower: The tower it runs.
        padded (`torch.Tensor` of shape `(batch_size, num_rows, ...)`): Media of each sample, padded at the end.
        lengths (`torch.LongTensor` of shape `(batch_size,)` or `None`): Real rows of each sample; `None`: all.
        feature_size: Width of a feature row.

    Returns:
        The outputs of the tower with one row per real frame or window, but `pooler_output` of shape `(batch_size,
        num_rows, feature_size)`, zero in the padding. For a batch without real rows the tower encodes one row of the
        padding, and its output is dropped: sharded engines need every process to run the same layers.
    """
    batch_size, num_rows = padded.shape[:2]
    if lengths is None:
        is_real = torch.ones(batch_size, num_rows, dtype=torch.bool, device=padded.device)
    else:
        is_real = _real_rows(num_rows, lengths.to(padded.device))  # [B, N]
    real = padded[is_real]  # [lengths.sum(), ...]
    features = torch.zeros(batch_size, num_rows, feature_size, dtype=tower.dtype, device=padded.device)
    if num_rows == 0:
        return BaseModelOutputWithPooling(pooler_output=features)
    outputs = encode(tower, real if len(real) else padded[0, :1], **kwargs)
    rows = outputs.pooler_output.to(features)  # [lengths.sum(), feature_size]
    outputs.pooler_output = features.masked_scatter(is_real.unsqueeze(-1), rows)  # [B, N, feature_size]
    return outputs


def check_width(features: torch.Tensor, size: int, modality: str) -> None:
    """Raises ValueError if feature rows are not those of the checkpoint's tower."""
    if features.shape[-1] != size:
        raise ValueError(
            f"{modality}_features have {features.shape[-1]} columns, the tower of this model gives {size}"
        )


def select_rows(
    features: torch.Tensor,
    num_tokens: torch.Tensor,
    *,
    modality: str,
    lengths: torch.Tensor | None = None,
    row_ids: torch.Tensor | None = None,
) -> torch.Tensor:
    """The feature rows of a batch in the order of its placeholders.

    Args:
        features (`torch.Tensor` of shape `(batch_size, num_rows, feature_size)`): Rows of each sample, padded.
        num_tokens (`torch.LongTensor` of shape `(batch_size,)`): Number of placeholders of each sample.
        modality: "video" or "audio", for the error.
        lengths (`torch.LongTensor` of shape `(batch_size,)`, *optional*): Number of real rows of each sample.
            `None`: all rows of the samples that have placeholders, none of the others.
        row_ids (`torch.LongTensor` of shape `(batch_size, max_num_tokens)`, *optional*): The row that each placeholder
            shows, padded with -1. `None`: row k for placeholder k.

    Returns:
        `torch.Tensor` of shape `(num_tokens.sum(), feature_size)`.

    Raises:
        ValueError: A sample's rows and placeholders differ in number, or a row id is larger than that of its last row.
    """
    num_rows = features.shape[1]
    num_tokens = num_tokens.to(features.device)
    lengths = num_rows * (num_tokens > 0) if lengths is None else lengths.to(features.device)
    if row_ids is None:
        is_real = _real_rows(num_rows, lengths)  # [B, N]
    else:
        row_ids = row_ids.to(features.device)
        _check_row_ids(row_ids, lengths, modality)
        is_real = row_ids >= 0  # [B, max_num_tokens]
        if num_rows > 0:
            features = features.take_along_dim(row_ids.clamp(min=0).unsqueeze(-1), dim=1)  # [B, max_num_tokens, D]
    _check_counts(num_tokens, is_real.sum(-1), modality)
    return features[is_real]  # [num_tokens.sum(), D]


def require_features(mask: torch.BoolTensor, modality: str) -> None:
    """Raises `ValueError` if a sample has placeholders, `(batch_size, sequence_length)`, but the batch no features."""
    if torch.compiler.is_compiling():
        return
    for sample in mask.any(-1).nonzero().flatten().tolist():
        raise ValueError(
            f"sample {sample} of the batch has {int(mask[sample].sum())} {modality} placeholders but no {modality} "
            "features were given"
        )


def refuse_both(raw_name: str, features_name: str, features: torch.Tensor | None) -> None:
    """Raises `ValueError` if features are given together with the raw media that they were made from."""
    if features is not None:
        raise ValueError(f"pass either {raw_name} or {features_name}, not both")


def _real_rows(num_rows: int, lengths: torch.Tensor) -> torch.BoolTensor:
    return torch.arange(num_rows, device=lengths.device) < lengths.unsqueeze(-1)


def _check_counts(num_tokens: torch.Tensor, num_rows: torch.Tensor, modality: str) -> None:
    if torch.compiler.is_compiling():
        return
    for sample in (num_tokens != num_rows).nonzero().flatten().tolist():
        raise ValueError(
            f"sample {sample} of the batch has {int(num_tokens[sample])} {modality} placeholders "
            f"but {int(num_rows[sample])} {modality} feature rows"
        )


def _check_row_ids(row_ids: torch.Tensor, lengths: torch.Tensor, modality: str) -> None:
    if torch.compiler.is_compiling():
        return
    for sample in (row_ids >= lengths.unsqueeze(-1)).any(-1).nonzero().flatten().tolist():
        raise ValueError(
            f"sample {sample} of the batch shows {modality} row {int(row_ids[sample].max())} "
            f"but has {int(lengths[sample])} rows"
        )
