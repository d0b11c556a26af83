"""Tiny configurations, models and checkpoints with random weights, and inputs for the model tests."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from modeling_avicuna import AVicunaConfig, AVicunaForConditionalGeneration
from modeling_avicuna.interleaving_avicuna import interleave_order


VOCAB_SIZE = 99
VIDEO_TOKEN_ID = 97
AUDIO_TOKEN_ID = 98
BOS_ID, EOS_ID, PAD_ID = 1, 2, 0
FRAME_SHAPE = (3, 32, 32)
WINDOW_SHAPE = (1001, 64)

TINY_VISION = {
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 37,
    "projection_dim": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 16,
}
TINY_AUDIO = {
    "model_type": "clap_audio_model",
    "patch_embeds_hidden_size": 8,
    "hidden_size": 16,
    "projection_dim": 20,
    "depths": [1, 1],
    "num_hidden_layers": 2,
    "num_attention_heads": [2, 2],
    "patch_size": 16,
    "patch_stride": [16, 16],
    "spec_size": 256,
    "num_mel_bins": 64,
    "window_size": 8,
}
TINY_TEXT = {
    "model_type": "llama",
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": BOS_ID,
    "eos_token_id": EOS_ID,
    "pad_token_id": PAD_ID,
}


def tiny_config(**overrides) -> AVicunaConfig:
    """A configuration with both towers; `overrides` replaces fields (`vision_config=None`: no vision tower)."""
    fields = {
        "vision_config": dict(TINY_VISION),
        "audio_config": dict(TINY_AUDIO),
        "text_config": dict(TINY_TEXT),
        "num_av_tokens": 8,
        "video_token_id": VIDEO_TOKEN_ID,
        "audio_token_id": AUDIO_TOKEN_ID,
    }
    return AVicunaConfig(**{**fields, **overrides})


def tiny_model(seed: int = 0, **overrides) -> AVicunaForConditionalGeneration:
    """A random model in eval mode, with the weights of `draw_large_weights`."""
    torch.manual_seed(seed)
    model = AVicunaForConditionalGeneration(tiny_config(**overrides)).eval()
    draw_large_weights(model)
    return model


def draw_large_weights(model: nn.Module, *, std: float = 0.25) -> None:
    """Replaces all matrices outside of the towers by normal draws with a large variance.

    With the small initial weights, greedy decoding has near ties, and the answers do not depend on the medium.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "tower" not in name:
                parameter.normal_(0.0, std)


def save_random_checkpoint(folder: Path, *, labels: Sequence[str]) -> None:
    """Saves a tiny checkpoint whose answers differ between videos; its tokenizer is trained on the labels."""
    from train.initialize import build_tiny

    model, processor = build_tiny([f"a caption about {label}" for label in labels], num_av_tokens=20)
    draw_large_weights(model)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def prompt_ids(num_video: int = 6, num_audio: int = 2, num_text: int = 5, seed: int = 0) -> list[int]:
    """A prompt: bos, the interleaved placeholders of one video, then random text."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(3, VIDEO_TOKEN_ID, (num_text,), generator=generator).tolist()
    ids = {"video": VIDEO_TOKEN_ID, "audio": AUDIO_TOKEN_ID}
    return [BOS_ID, *(ids[modality] for modality in interleave_order(num_video, num_audio)), *text]


def left_pad(prompts: list[list[int]]) -> dict[str, torch.Tensor]:
    """Pads prompts on the left, as for generation: `input_ids` and `attention_mask` of shape (batch, longest)."""
    longest = max(map(len, prompts))
    return {
        "input_ids": torch.tensor([[PAD_ID] * (longest - len(ids)) + ids for ids in prompts]),
        "attention_mask": torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts]),
    }


def random_features(num_rows: int, size: int, seed: int = 0) -> torch.Tensor:
    """Feature rows of shape (num_rows, size)."""
    return torch.randn(num_rows, size, generator=torch.Generator().manual_seed(seed))


def pad_rows(samples: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Stacks the rows of each sample, padded at the end: (batch, longest, ...) and the lengths (batch,)."""
    return torch.nn.utils.rnn.pad_sequence(samples, batch_first=True), torch.tensor([len(rows) for rows in samples])
