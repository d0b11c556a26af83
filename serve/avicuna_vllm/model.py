"""AVicuna in vLLM: our towers and adapters, vLLM's language model."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.model_executor.models.interfaces import MultiModalEmbeddings, SupportsMultiModal, SupportsPP
from vllm.model_executor.models.utils import init_vllm_registered_model, maybe_prefix
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.sequence import IntermediateTensors

from modeling_avicuna.adapters_avicuna import build_adapter
from modeling_avicuna.language_model_avicuna import embedding_size
from modeling_avicuna.modeling_avicuna import UNUSED_LOGIT
from modeling_avicuna.towers_avicuna import build_audio_tower, build_vision_tower, encode_frames, encode_windows

from .processing import KINDS, AVicunaDummyInputs, AVicunaInfo, AVicunaMultiModalProcessor


# Language models whose answers were compared with those of transformers (tests/test_serve.py), by model type.
ARCHITECTURES = {"llama": "LlamaForCausalLM"}
OWN_PARTS = ("vision_tower", "audio_tower", "vision_adapter", "audio_adapter")


@MULTIMODAL_REGISTRY.register_processor(AVicunaMultiModalProcessor, info=AVicunaInfo, dummy_inputs=AVicunaDummyInputs)
class AVicunaForVLLM(nn.Module, SupportsMultiModal, SupportsPP):
    """The model that vLLM runs. The weights have the names that `save_pretrained` writes.

    Raises:
        ValueError: the language model is of a type that is not served, or the checkpoint lacks a tower.
    """

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        return None  # the chat template writes the slots

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = ""):
        super().__init__()
        config = vllm_config.model_config.hf_config
        text = config.text_config
        if text.model_type not in ARCHITECTURES:
            raise ValueError(
                f"vLLM does not serve AVicuna with a language model of type {text.model_type!r}, only "
                f"{', '.join(ARCHITECTURES)}: use `transformers serve` (docs/serve.md)"
            )
        if config.vision_config is None or config.audio_config is None:
            raise ValueError("this checkpoint lacks a tower and cannot be served")
        self.config = config
        size, dtype = embedding_size(text), torch.get_default_dtype()
        with self._mark_tower_model(vllm_config, set(KINDS)):
            self.vision_tower = build_vision_tower(config.vision_config).to(dtype)
            self.audio_tower = build_audio_tower(config.audio_config).to(dtype)
            self.vision_adapter = build_adapter(config.vision_feature_size, size, config.projector_hidden_act)
            self.audio_adapter = build_adapter(config.audio_feature_size, size, config.projector_hidden_act)
        with self._mark_language_model(vllm_config):
            self.language_model = init_vllm_registered_model(
                vllm_config,
                hf_config=text,
                prefix=maybe_prefix(prefix, "language_model"),
                architectures=[ARCHITECTURES[text.model_type]],
            )
        self.make_empty_intermediate_tensors = self.language_model.make_empty_intermediate_tensors

    def embed_multimodal(self, **kwargs: Any) -> MultiModalEmbeddings:
        """One tensor `(num_tokens, hidden_size)` per medium, in the order of its tokens."""
        embeddings: list[torch.Tensor] = []
        for kind in KINDS:
            if f"{kind}_is_audio" in kwargs:
                names = ("pictures", "sounds", "sound_rows", "is_audio")
                items = zip(*(kwargs[f"{kind}_{name}"] for name in names), strict=True)
                embeddings += [self._embed_medium(*item) for item in items]
        return embeddings

    def _embed_medium(
        self, pictures: torch.Tensor, sounds: torch.Tensor, sound_rows: torch.Tensor, is_audio: torch.Tensor
    ) -> torch.Tensor:
        dtype = next(self.vision_adapter.parameters()).dtype
        rows = torch.empty(len(is_audio), embedding_size(self.config.text_config), dtype=dtype, device=is_audio.device)
        if len(pictures):
            seen = encode_frames(self.vision_tower, pictures).pooler_output  # [V, vision_feature_size]
            rows[~is_audio] = self.vision_adapter(seen.to(dtype))
        if len(sounds):
            heard = encode_windows(self.audio_tower, sounds).pooler_output[sound_rows]  # [A, audio_feature_size]
            rows[is_audio] = self.audio_adapter(heard.to(dtype))
        return rows

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor | IntermediateTensors:
        if intermediate_tensors is not None:
            inputs_embeds = None
        return self.language_model.model(input_ids, positions, intermediate_tensors, inputs_embeds=inputs_embeds)

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor | None:
        """`(num_tokens, vocab_size)`; placeholders and unused tokens are never generated."""
        logits = self.language_model.compute_logits(hidden_states)
        if logits is not None:
            logits[..., self.config.masked_token_ids] = UNUSED_LOGIT
        return logits

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Weights of a checkpoint under the names that `save_pretrained` writes."""
        own: dict[str, dict[str, torch.Tensor]] = {part: {} for part in OWN_PARTS}

        def of_language_model() -> Iterable[tuple[str, torch.Tensor]]:
            for name, weight in weights:
                part, _, rest = name.removeprefix("model.").partition(".")
                if part in own:
                    own[part][rest] = weight
                elif part == "language_model":
                    yield f"model.{rest}", weight
                else:
                    yield name, weight

        loaded = {f"language_model.{name}" for name in self.language_model.load_weights(of_language_model())}
        for part, state in own.items():
            getattr(self, part).load_state_dict(state)
            loaded |= {f"{part}.{name}" for name in state}
        return loaded
