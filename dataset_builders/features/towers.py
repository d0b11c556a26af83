"""Fingerprint of the weights of the towers, stored with cached features and compared when they are read.

This module does not import torch.
"""

import hashlib
from typing import Any


NUM_VALUES = 64  # of each tensor; enough to distinguish checkpoints
ROUNDINGS = ("bfloat16", "half")  # methods of a tensor


def tower_fingerprint(model: Any, rounding: str | None = None) -> str | None:
    """A hash of the first values of each tensor of both towers.

    Args:
        model (`AVicunaForConditionalGeneration`): its towers are read; under ZeRO-3, gather their parameters first.
        rounding: one of `ROUNDINGS`: gives the fingerprint of the model after its weights are saved in this dtype.

    Returns:
        16 hexadecimal digits; None for a model without towers.
    """
    towers = [tower for tower in (model.model.vision_tower, model.model.audio_tower) if tower is not None]
    digest = hashlib.sha256()
    for tower in towers:
        for name, tensor in sorted(tower.state_dict().items()):
            values = tensor.flatten()[:NUM_VALUES]
            if rounding is not None and values.is_floating_point():
                values = getattr(values, rounding)()
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            digest.update(values.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16] if towers else None


def tower_settings(model: Any) -> dict[str, Any]:
    """The fingerprints stored in a cache: of the towers, and of the same towers in 16-bit dtypes."""
    rounded = [tower_fingerprint(model, rounding) for rounding in ROUNDINGS]
    return {"towers": tower_fingerprint(model), "towers_rounded": rounded}


def check_towers(settings: dict[str, Any], model: Any, *, folder: str) -> None:
    """Raises ValueError if the towers that made a cache differ from those of a model, apart from their dtype.

    A model without towers, and a cache without a fingerprint, are accepted.

    Args:
        settings: `FeatureStore.settings` of the cache.
        folder: folder of the cache, for the message.
    """
    own, cached = tower_fingerprint(model), settings.get("towers")
    if own is None or cached is None:
        return
    same_in_cache = {cached, *settings.get("towers_rounded", [])}
    same_in_model = {own, *(tower_fingerprint(model, rounding) for rounding in ROUNDINGS)}
    if own not in same_in_cache and cached not in same_in_model:
        raise ValueError(
            f"{folder} holds features of other towers (fingerprint {cached}) than this checkpoint's "
            f"(fingerprint {own}): extract them again with this checkpoint (python -m train.extract_features)"
        )
