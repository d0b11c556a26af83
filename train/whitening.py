"""Whitens the outputs of random tiny towers: features are centred and decorrelated on example media.

The outputs of a random encoder are nearly identical for all pictures; they differ in directions of small variance. The
last linear layer of each tower is replaced by principal components scaled to equal variance (our choice). In the demo
this replaces pretraining. It uses no labels and is not applied to pretrained towers.
"""

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel, ProcessorMixin

from train.extract_features import read_media


# directions with less than this share of the largest variance are rounding noise
LEAST_VARIANCE = 1e-6


def whitening_map(rows: torch.Tensor, num_components: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(weight `(num_components, size)`, bias `(num_components,)`) after which `rows` have mean 0 and variance
    1 / num_components in each component, so that a typical result has length 1."""
    mean = rows.mean(dim=0)
    values, vectors = torch.linalg.eigh(torch.cov((rows - mean).T.double()))
    values, vectors = values.flip(0)[:num_components], vectors.flip(1)[:, :num_components]
    scales = torch.where(
        values > LEAST_VARIANCE * values[0], values.clamp(min=1e-12).rsqrt(), torch.zeros_like(values)
    )
    weight = (vectors * scales).T.float() / num_components**0.5  # [components, size]
    padding = num_components - len(weight)
    weight = nn.functional.pad(weight, (0, 0, 0, padding))
    return weight, -weight @ mean


@torch.no_grad()
def whiten_towers(model: PreTrainedModel, processor: ProcessorMixin, paths: list) -> None:
    """Whitens both towers of a CLIP + CLAP model on media files, in place.

    A tower that has no tokens, as with an audio interleaving rate of 0 or 1, is left as it is.

    Raises:
        MediaError: a file that cannot be used.
    """
    captured: dict[str, list[torch.Tensor]] = {"vision": [], "audio": []}
    vision, audio = model.model.vision_tower, model.model.audio_tower
    hooks = [
        vision.visual_projection.register_forward_pre_hook(lambda _, inputs: captured["vision"].append(inputs[0])),
        audio.audio_projection.linear2.register_forward_pre_hook(
            lambda _, inputs: captured["audio"].append(inputs[0])
        ),
    ]
    for path in paths:
        inputs, _ = read_media(path, processor=processor)
        if "pixel_values_videos" in inputs:
            model.model.encode_video(inputs["pixel_values_videos"])
        if "input_features" in inputs:
            model.model.encode_audio(inputs["input_features"])
    for hook in hooks:
        hook.remove()
    if captured["vision"]:
        weight, _ = whitening_map(torch.cat(captured["vision"]), vision.config.projection_dim)
        vision.visual_projection.weight.copy_(weight)
        # the projection has no bias: the layer norm before it shifts the mean to zero
        (norm,) = [module for name, module in vision.named_modules() if name.endswith("post_layernorm")]
        norm.bias.sub_(torch.cat(captured["vision"]).mean(dim=0))
    if captured["audio"]:
        weight, bias = whitening_map(torch.cat(captured["audio"]), audio.config.projection_dim)
        audio.audio_projection.linear2.weight.copy_(weight)
        audio.audio_projection.linear2.bias.copy_(bias)


def spread(paths: list, number: int) -> list:
    """`number` of `paths`, evenly spaced over the list; all if there are fewer."""
    if len(paths) <= number:
        return list(paths)
    return [paths[int(i)] for i in np.linspace(0, len(paths) - 1, number)]
