"""AVicuna at the size of the published checkpoint, and at tiny size for trial runs: random weights, no download."""

import torch
from transformers import ProcessorMixin

from modeling_avicuna import AVicunaConfig, AVicunaForConditionalGeneration
from modeling_avicuna.processing_avicuna import build_processor
from modeling_avicuna.prompt_avicuna import GROUNDING_PROMPT, SYSTEM_PROMPT
from modeling_avicuna.tokenization_avicuna import add_placeholder_tokens
from train.initialize import TINY_AUDIO, TINY_TEXTS, TINY_VISION, set_generation_ids, token_ids, train_tokenizer


# The configurations of lmsys/vicuna-7b-v1.5, openai/clip-vit-large-patch14 and laion/clap-htsat-fused
VICUNA_7B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "vocab_size": 32002,  # two placeholders more than LLaMA's
}
CLIP_VIT_L_14 = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
    "projection_dim": 768,
}
CLAP_HTSAT_FUSED = {
    "model_type": "clap_audio_model",
    "enable_fusion": True,
    "fusion_type": None,
    "projection_dim": 512,
}
SIZES = {
    "7b": (VICUNA_7B, CLIP_VIT_L_14, CLAP_HTSAT_FUSED),
    "tiny": ({**TINY_TEXTS["llama"], "vocab_size": 1002}, TINY_VISION, {**TINY_AUDIO, "spec_size": 256}),
}
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense bf16, from NVIDIA's data sheets


def build_full_size(
    size: str, *, device: str, dtype: torch.dtype, towers: bool = True, language_model: bool = True
) -> tuple[AVicunaForConditionalGeneration, ProcessorMixin]:
    """A random model, created on its device, and its processor with a small tokenizer.

    Args:
        size: a key of `SIZES`.
        towers: False: the model takes features only.
        language_model: False: the towers alone; the language model is tiny.
    """
    text, vision, audio = SIZES[size]
    if not language_model:
        text = SIZES["tiny"][0]
    tokenizer = add_placeholder_tokens(train_tokenizer([SYSTEM_PROMPT, GROUNDING_PROMPT]))
    config = AVicunaConfig(
        vision_config=vision if towers else None,
        audio_config=audio if towers else None,
        text_config={**text, **token_ids(tokenizer)},
        video_token_id=tokenizer.convert_tokens_to_ids("<video>"),
        audio_token_id=tokenizer.convert_tokens_to_ids("<audio>"),
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = AVicunaForConditionalGeneration._from_config(config, dtype=dtype)
    set_generation_ids(model, tokenizer)
    return model.eval(), build_processor(tokenizer, config=config)


def peak_flops(device: str) -> float | None:
    """Floating-point operations per second of the data sheet in bf16; None for an unknown device."""
    if device == "cpu":
        return None
    name = torch.cuda.get_device_name()
    return next((flops for gpu, flops in PEAK_FLOPS.items() if gpu in name), None)


def device_conditions(device: str) -> dict:
    """What the figures of a benchmark on `device` depend on."""
    if device == "cpu":
        return {"device": "cpu"}
    return {"device": torch.cuda.get_device_name(), "cuda": torch.version.cuda}


def wait(device: str) -> None:
    """Until all work that was given to the device is done."""
    if device != "cpu":
        torch.cuda.synchronize()


def reset_peak(device: str) -> None:
    """Begins a new measurement of `peak_gib`."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()


def peak_gib(device: str) -> float | None:
    """Largest allocated device memory since `reset_peak`, in GiB; None on a CPU."""
    return None if device == "cpu" else round(torch.cuda.max_memory_allocated() / 2**30, 2)
