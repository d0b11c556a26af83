"""Configuration of AVicuna: two towers, a language model, the order of tokens and the way times are written.

Its `auto_map` names the classes for `from_pretrained(..., trust_remote_code=True)` in a process without this package.
Settings of media belong to the processor.
"""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES


_MODEL_CLASS = "modeling_avicuna.AVicunaForConditionalGeneration"
_AUTO_MAP = {
    "AutoConfig": "configuration_avicuna.AVicunaConfig",
    "AutoModel": _MODEL_CLASS,
    "AutoModelForCausalLM": _MODEL_CLASS,
    "AutoModelForMultimodalLM": _MODEL_CLASS,
    "AutoModelForImageTextToText": _MODEL_CLASS,
    "AutoProcessor": "processing_avicuna.AVicunaProcessor",
}
_CUSTOM_PIPELINES = {
    "audio-visual-event-localization": {
        "impl": "pipeline_avicuna.AVicunaPipeline",
        "pt": ["AutoModelForCausalLM"],
        "type": "multimodal",
    }
}
# `transformers serve --trust-remote-code` loads models of the types in this table by their auto class, and all others
# by a class of transformers. It loads the configuration, and so this file, first.
MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES.setdefault("avicuna", "AVicunaForConditionalGeneration")


@strict
class AVicunaConfig(PreTrainedConfig):
    r"""
    Args:
        vision_config (`PreTrainedConfig` or `dict`, *optional*):
            Vision tower; `clip_vision_model` (with projection) where a dict names no `model_type`, SigLIP and SigLIP 2
            by their own. `None`: no tower, the model takes `video_features` only.
        audio_config (`PreTrainedConfig` or `dict`, *optional*):
            Audio tower, `clap_audio_model` (with projection). `None`: no tower, `audio_features` only.
        text_config (`PreTrainedConfig` or `dict`, *optional*):
            A causal language model (see language_model_avicuna for the supported ones); Llama by default.
        num_av_tokens (`int`, defaults to 100):
            Audio-visual tokens of one video (paper, section 4).
        audio_interleaving_rate (`float`, defaults to 0.25):
            Share of audio tokens among them (the best of the paper's sweep).
        interleaving (`str`, defaults to `"uniform"`):
            Rule of `interleave_order`: "uniform", "published" or "concatenated".
        projector_hidden_act (`str`, *optional*):
            `None`: each adapter is one linear layer, as published. An activation ("gelu"): a two-layer perceptron,
            as drawn on the poster.
        time_unit (`str`, defaults to `"relative"`):
            How times are written: "relative" to the duration in `num_time_bins` steps, or in "seconds".
        num_time_bins (`int`, defaults to 100):
            100 writes 00 to 99 (published), 1000 writes 000 to 999.
        video_token_id, audio_token_id (`int`, default to 32000 and 32001):
            The two placeholder tokens, added to the tokenizer of the language model. They are never generated.
        unused_token_ids (`list[int]`, *optional*):
            Further ids that no answer contains, such as a padding token added to the published vocabulary: their
            logits are masked as those of the placeholders are.
        vision_feature_size, audio_feature_size (`int`, *optional*):
            Width of a feature row: that of the tower where there is one, otherwise 768 (CLIP ViT-L/14) and 512 (CLAP)
            by default.

    Raises:
        ValueError: an unknown model type, or a number out of its range.
    """

    model_type = "avicuna"
    sub_configs = {"vision_config": AutoConfig, "audio_config": AutoConfig, "text_config": AutoConfig}

    vision_config: Any = None
    audio_config: Any = None
    text_config: Any = None
    num_av_tokens: int = 100
    audio_interleaving_rate: float | int = 0.25
    interleaving: Literal["uniform", "published", "concatenated"] = "uniform"
    projector_hidden_act: str | None = None
    time_unit: Literal["relative", "seconds"] = "relative"
    num_time_bins: int = 100
    video_token_id: int = 32000
    audio_token_id: int = 32001
    unused_token_ids: list[int] | None = None
    vision_feature_size: int | None = None
    audio_feature_size: int | None = None
    tie_word_embeddings: bool = False
    auto_map: dict | None = None
    custom_pipelines: dict | None = None

    def __post_init__(self, **kwargs: Any):
        self.vision_config = _build_sub_config(self.vision_config, "clip_vision_model")
        self.audio_config = _build_sub_config(self.audio_config, "clap_audio_model")
        default_text_config = {"vocab_size": 32002}  # that of Vicuna and the two placeholder tokens
        self.text_config = _build_sub_config(self.text_config or default_text_config, "llama")
        super().__post_init__(**kwargs)
        self.vision_feature_size = _feature_size(self.vision_config, self.vision_feature_size or 768)
        self.audio_feature_size = _feature_size(self.audio_config, self.audio_feature_size or 512)
        # small language models share their embeddings with the head and say so in their own config; a configuration
        # that has no such field is not one of a language model, which the model reports
        self.tie_word_embeddings = self.tie_word_embeddings or getattr(self.text_config, "tie_word_embeddings", False)
        self.auto_map = {**_AUTO_MAP, **(self.auto_map or {})}
        self.custom_pipelines = {**_CUSTOM_PIPELINES, **(self.custom_pipelines or {})}
        if not 0 <= self.audio_interleaving_rate <= 1:
            raise ValueError(f"audio_interleaving_rate must be in 0 ... 1, got {self.audio_interleaving_rate}")
        if self.num_av_tokens < 1 or self.num_time_bins < 2:
            raise ValueError(
                f"got num_av_tokens={self.num_av_tokens} (< 1) or num_time_bins={self.num_time_bins} (< 2)"
            )
        if self.video_token_id == self.audio_token_id:
            raise ValueError(f"video_token_id and audio_token_id must differ, both are {self.video_token_id}")

    @property
    def masked_token_ids(self) -> list[int]:
        """The ids that no answer contains: the two placeholders and `unused_token_ids`."""
        return [self.video_token_id, self.audio_token_id, *(self.unused_token_ids or ())]


def _build_sub_config(config: Any, default_model_type: str) -> PreTrainedConfig | None:
    """The configuration that a dict describes. transformers 5.17 does not build sub-configurations itself."""
    if config is None or isinstance(config, PreTrainedConfig):
        return config
    if not isinstance(config, dict):
        raise ValueError(f"the configuration of a tower or language model must be a dict, got {config!r}")
    model_type = config.get("model_type", default_model_type)
    if model_type not in CONFIG_MAPPING:
        raise ValueError(f"unknown model_type {model_type!r} of a tower or language model")
    return CONFIG_MAPPING[model_type](**config)


def _feature_size(tower_config: PreTrainedConfig | None, without_tower: int) -> int:
    if tower_config is None:
        return without_tower
    # the features of CLIP and CLAP are projected; those of other towers are the pooled state itself
    if tower_config.model_type in ("clip_vision_model", "clap_audio_model"):
        return tower_config.projection_dim
    return tower_config.hidden_size


__all__ = ["AVicunaConfig"]
