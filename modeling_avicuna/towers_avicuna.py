"""The two frozen encoders: the class of a tower configuration, and how it encodes frames or windows.

The output is one row per frame or window, before any adapter: what a feature cache stores. Batches, lengths and tokens
are handled in merging_avicuna.
"""

from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModel,
    ClapAudioModelWithProjection,
    CLIPVisionModelWithProjection,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling, ModelOutput


def build_vision_tower(config: PreTrainedConfig) -> PreTrainedModel:
    """CLIP with its projection (the published `encode_image`), or the base model of another vision configuration."""
    if config.model_type == "clip_vision_model":
        return CLIPVisionModelWithProjection._from_config(config)
    return AutoModel.from_config(config)


def build_audio_tower(config: PreTrainedConfig) -> PreTrainedModel:
    """CLAP with its projection.

    Raises:
        ValueError: Another kind of audio model; only CLAP has been tested.
    """
    if config.model_type != "clap_audio_model":
        raise ValueError(f"the audio tower must be a clap_audio_model, got {config.model_type!r}")
    # CLAP supports eager attention only and would refuse a checkpoint that asks for flash attention elsewhere
    return ClapAudioModelWithProjection._from_config(config, attn_implementation="eager")


def encode_frames(tower: PreTrainedModel, frames: torch.Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
    """Runs the vision tower.

    Args:
        tower: A tower of `build_vision_tower`.
        frames (`torch.Tensor` of shape `(num_frames, 3, height, width)`): Normalised pixels.

    Returns:
        `pooler_output` of shape `(num_frames, vision_feature_size)`, and the tower's hidden states.
    """
    frames = frames.to(tower.dtype)
    if tower.config.model_type == "siglip2_vision_model":
        outputs = tower(**_patchify(frames, tower.config.patch_size), return_dict=True, **kwargs)
    else:
        outputs = tower(pixel_values=frames, return_dict=True, **kwargs)
    features = outputs.image_embeds if "image_embeds" in outputs else outputs.pooler_output
    return _with_features(outputs, features)


def encode_windows(tower: PreTrainedModel, windows: torch.Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
    """Runs the audio tower.

    Args:
        tower: A tower of `build_audio_tower`.
        windows (`torch.Tensor` of shape `(num_windows, num_mel_frames, num_mel_bins)`): Log-mel, 10 s each.

    Returns:
        `pooler_output` of shape `(num_windows, audio_feature_size)`, L2-normalised, and the tower's hidden states.
    """
    windows = windows.to(tower.dtype).unsqueeze(1)  # [N, 1, T, bins]
    # the fused CLAP takes a mask of the inputs that are longer than 10 s and have four channels: no window is
    is_longer = torch.zeros(len(windows), 1, dtype=torch.bool, device=windows.device)
    outputs = tower(input_features=windows, is_longer=is_longer, return_dict=True, **kwargs)
    return _with_features(outputs, nn.functional.normalize(outputs.audio_embeds, dim=-1))


def _with_features(outputs: ModelOutput, features: torch.Tensor) -> BaseModelOutputWithPooling:
    return BaseModelOutputWithPooling(
        last_hidden_state=outputs.last_hidden_state,
        pooler_output=features,
        hidden_states=outputs.hidden_states,
        attentions=outputs.attentions,
    )


def _patchify(frames: torch.Tensor, patch_size: int) -> dict[str, torch.Tensor]:
    """SigLIP 2 takes flat patches, rows first and channels last within a patch, and the grid they came from."""
    num_frames, _, height, width = frames.shape
    rows, columns = height // patch_size, width // patch_size
    patches = frames[..., : rows * patch_size, : columns * patch_size]
    patches = patches.unflatten(2, (rows, patch_size)).unflatten(4, (columns, patch_size))  # [N, 3, R, p, C, p]
    patches = patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)  # [N, R * C, p * p * 3]
    return {
        "pixel_values": patches,
        "pixel_attention_mask": torch.ones(patches.shape[:2], dtype=torch.long, device=frames.device),
        "spatial_shapes": torch.tensor([[rows, columns]], device=frames.device).expand(num_frames, 2),
    }
