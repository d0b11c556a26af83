"""The model: the features of two towers, one adapter each, replace placeholder tokens of a causal language model.

    frames  -> vision tower -> vision adapter -\
                                                > embeddings of the prompt -> language model -> logits
    windows -> audio tower  -> audio adapter  -/

The processor decides the order of tokens; here the k-th placeholder of a sample takes the sample's k-th feature row.
The base model merges the features, because trainers need hidden states of the same length as `input_ids`.
"""

from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from .adapters_avicuna import build_adapter
from .configuration_avicuna import AVicunaConfig
from .language_model_avicuna import (
    build_head,
    build_language_model,
    check_num_positions,
    embedding_size,
    find_tied_weight,
    logit_scaling,
    num_learned_positions,
    scale_logits,
    takes_position_ids,
)
from .media_generation_avicuna import MediaGenerationMixin
from .merging_avicuna import check_width, encode_padded, refuse_both, require_features, select_rows
from .pipeline_avicuna import TASK  # noqa: F401  (importing it registers the pipeline, also from a checkpoint)
from .towers_avicuna import build_audio_tower, build_vision_tower, encode_frames, encode_windows


# Modules that a quantisation config should skip (llm_int8_skip_modules, modules_to_not_convert)
FULL_PRECISION_MODULES = [
    "model.vision_tower",
    "model.audio_tower",
    "model.vision_adapter",
    "model.audio_adapter",
    "lm_head",
]

# exp(-1000) is 0 in every type, and sums over the vocabulary (label smoothing) stay finite, in float16 as well
UNUSED_LOGIT = -1000.0


class AVicunaPreTrainedModel(PreTrainedModel):
    config: AVicunaConfig
    config_class = AVicunaConfig
    base_model_prefix = "model"
    input_modalities = ("video", "audio", "text")
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @classmethod
    def is_custom_code(cls) -> bool:
        """False: all parts are of transformers. With True, it would not compute buffers of Falcon H1 after loading."""
        return False

    def set_attn_implementation(self, attn_implementation: str | dict, **kwargs: Any) -> None:
        """As in `PreTrainedModel`; a single name does not apply to the audio tower, since CLAP supports eager only."""
        if isinstance(attn_implementation, str) and self.config.audio_config is not None:
            attn_implementation = dict.fromkeys(("", "vision_config", "text_config"), attn_implementation)
        super().set_attn_implementation(attn_implementation, **kwargs)


class AVicunaModel(AVicunaPreTrainedModel):
    """Towers, adapters and language model, without the language modelling head.

    Raises:
        ValueError: The type of the audio tower or of the language model is not supported.
    """

    def __init__(self, config: AVicunaConfig):
        super().__init__(config)
        self.vision_tower = None if config.vision_config is None else build_vision_tower(config.vision_config)
        self.audio_tower = None if config.audio_config is None else build_audio_tower(config.audio_config)
        size = embedding_size(config.text_config)
        vision_size, audio_size = cast(int, config.vision_feature_size), cast(int, config.audio_feature_size)
        self.vision_adapter = build_adapter(vision_size, size, config.projector_hidden_act)
        self.audio_adapter = build_adapter(audio_size, size, config.projector_hidden_act)
        self.language_model = build_language_model(config.text_config)
        self._num_positions = num_learned_positions(self.language_model)
        self._takes_position_ids = takes_position_ids(config.text_config)
        self.post_init()

    def train(self, mode: bool = True) -> "AVicunaModel":
        """Keeps frozen towers in eval mode: CLAP has batch statistics, which would change in training mode."""
        super().train(mode)
        for tower in (self.vision_tower, self.audio_tower):
            if tower is not None and not any(parameter.requires_grad for parameter in tower.parameters()):
                tower.eval()
        return self

    def encode_video(
        self, pixel_values_videos: torch.Tensor, video_lengths: torch.Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Runs the vision tower on the real frames. Arguments as in `AVicunaForConditionalGeneration.forward`.

        Returns:
            `BaseModelOutputWithPooling` whose `pooler_output` is `video_features`, of shape `(batch_size, num_frames,
            vision_feature_size)` with zeros in the padding; the other fields are the tower's, one row per real frame.

        Raises:
            ValueError: The checkpoint has no vision tower.
        """
        if self.vision_tower is None:
            raise ValueError("this checkpoint has no vision tower: pass video_features or load one with a tower")
        size = cast(int, self.config.vision_feature_size)  # filled in by the configuration
        return encode_padded(
            encode_frames, self.vision_tower, pixel_values_videos, video_lengths, feature_size=size, **kwargs
        )

    def encode_audio(
        self, input_features: torch.Tensor, audio_lengths: torch.Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """As `encode_video`, for windows: `pooler_output` is `(batch_size, num_windows, audio_feature_size)`."""
        if self.audio_tower is None:
            raise ValueError("this checkpoint has no audio tower: pass audio_features or load one with a tower")
        size = cast(int, self.config.audio_feature_size)
        return encode_padded(
            encode_windows, self.audio_tower, input_features, audio_lengths, feature_size=size, **kwargs
        )

    @can_return_tuple
    def get_video_features(
        self, pixel_values_videos: torch.Tensor, video_lengths: torch.Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """`encode_video`, then the adapter: `pooler_output` is `(batch_size, num_frames, hidden_size)`."""
        outputs = self.encode_video(pixel_values_videos, video_lengths, **kwargs)
        outputs.pooler_output = self.vision_adapter(outputs.pooler_output)
        return outputs

    @can_return_tuple
    def get_audio_features(
        self, input_features: torch.Tensor, audio_lengths: torch.Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """`encode_audio`, then the adapter: `pooler_output` is `(batch_size, num_windows, hidden_size)`."""
        outputs = self.encode_audio(input_features, audio_lengths, **kwargs)
        outputs.pooler_output = self.audio_adapter(outputs.pooler_output)
        return outputs

    def get_placeholder_mask(
        self, input_ids: torch.LongTensor | None, inputs_embeds: torch.Tensor, token_id: int
    ) -> torch.BoolTensor:
        """Mask of one modality's placeholders, `(batch_size, sequence_length)`, found by id or else by embedding."""
        if input_ids is not None:
            return input_ids == token_id
        placeholder = self.get_input_embeddings()(torch.tensor(token_id, device=inputs_embeds.device))
        return (inputs_embeds == placeholder).all(-1)

    def merge_features(
        self,
        inputs_embeds: torch.Tensor,
        mask: torch.BoolTensor,
        features: torch.Tensor,
        modality: str,
        lengths: torch.Tensor | None = None,
        row_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Replaces the embeddings of one modality's placeholders by its adapted feature rows.

        Args:
            inputs_embeds: `(batch_size, sequence_length, hidden_size)`.
            mask: True at the placeholders, `(batch_size, sequence_length)`.
            features, lengths, row_ids: As in `select_rows`.
            modality: "video" or "audio".
        """
        adapter = self.vision_adapter if modality == "video" else self.audio_adapter
        rows = select_rows(features, mask.sum(-1), modality=modality, lengths=lengths, row_ids=row_ids)  # [N, D]
        rows = adapter(rows.to(_floating_dtype(adapter, inputs_embeds.dtype)))  # [N, hidden_size]
        return inputs_embeds.masked_scatter(mask.unsqueeze(-1), rows.to(inputs_embeds.device, inputs_embeds.dtype))

    def _placeholder(self, modality: str) -> tuple[int, int]:
        """Token id and number of columns of the features of "video" or "audio"."""
        if modality == "video":
            return self.config.video_token_id, cast(int, self.config.vision_feature_size)
        return self.config.audio_token_id, cast(int, self.config.audio_feature_size)

    def embed_prompt(
        self,
        input_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        *,
        pixel_values_videos: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        video_features: torch.Tensor | None = None,
        audio_features: torch.Tensor | None = None,
        video_lengths: torch.LongTensor | None = None,
        audio_lengths: torch.LongTensor | None = None,
        audio_row_ids: torch.LongTensor | None = None,
    ) -> torch.Tensor:
        """Input embeddings of the language model with media merged, `(batch_size, sequence_length, hidden_size)`.

        Arguments as in `AVicunaForConditionalGeneration.forward`. A prompt given as embeddings may have its media
        merged already; a prompt given as ids needs features for each of its placeholders.

        Raises:
            ValueError: Placeholders and features differ in number or width, or an input is given twice or not at all.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass exactly one of input_ids and inputs_embeds")
        if pixel_values_videos is not None:
            refuse_both("pixel_values_videos", "video_features", video_features)
            video_features = self.encode_video(pixel_values_videos, video_lengths).pooler_output
        if input_features is not None:
            refuse_both("input_features", "audio_features", audio_features)
            audio_features = self.encode_audio(input_features, audio_lengths).pooler_output
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)  # [B, T, hidden_size]
        for modality, features, lengths, row_ids in (
            ("video", video_features, video_lengths, None),
            ("audio", audio_features, audio_lengths, audio_row_ids),
        ):
            if features is None and input_ids is None and not self.training:
                continue
            token_id, size = self._placeholder(modality)
            if features is None and not self.training:
                require_features(input_ids == token_id, modality)
                continue
            mask = self.get_placeholder_mask(input_ids, inputs_embeds, token_id)  # [B, T]
            if features is None:
                # run the adapter on no rows: sharded engines expect every process to use it in each step
                features, lengths, row_ids = inputs_embeds.new_zeros(len(mask), 0, size), None, None
            check_width(features, size, modality)
            inputs_embeds = self.merge_features(inputs_embeds, mask, features, modality, lengths, row_ids)
        return inputs_embeds

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        video_features: torch.Tensor | None = None,
        audio_features: torch.Tensor | None = None,
        video_lengths: torch.LongTensor | None = None,
        audio_lengths: torch.LongTensor | None = None,
        audio_row_ids: torch.LongTensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Embeds the prompt and runs the language model. Arguments as in `AVicunaForConditionalGeneration.forward`."""
        if past_key_values is not None and input_ids is not None and input_ids.shape[1] == 1:
            # one decoding step: a generated token is never a placeholder, and a check would wait for the device
            input_ids, inputs_embeds = None, self.get_input_embeddings()(input_ids)
        inputs_embeds = self.embed_prompt(
            input_ids,
            inputs_embeds,
            pixel_values_videos=pixel_values_videos,
            input_features=input_features,
            video_features=video_features,
            audio_features=audio_features,
            video_lengths=video_lengths,
            audio_lengths=audio_lengths,
            audio_row_ids=audio_row_ids,
        )
        if self._num_positions is not None:
            num_past = 0 if past_key_values is None else past_key_values.get_seq_length()
            num_tokens = num_past + inputs_embeds.shape[1]
            check_num_positions(
                self._num_positions, num_tokens, attention_mask=attention_mask, position_ids=position_ids
            )
        if self._takes_position_ids:
            if position_ids is None and attention_mask is not None and attention_mask.ndim == 2:
                # the first real token has position 0 on either side of the padding, so that a sample in a batch gives
                # exactly what it gives alone
                positions = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)  # [B, past + T]
                position_ids = positions[:, -inputs_embeds.shape[1] :]
            kwargs["position_ids"] = position_ids
        return self.language_model(
            inputs_embeds=inputs_embeds, attention_mask=attention_mask, past_key_values=past_key_values, **kwargs
        )


class AVicunaForConditionalGeneration(AVicunaPreTrainedModel, MediaGenerationMixin):
    """AVicuna with its language modelling head: the class that every auto class loads."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}  # Llama's; see __init__
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: AVicunaConfig):
        super().__init__(config)
        self.loss_type = "ForCausalLM"
        self.model = AVicunaModel(config)
        self.lm_head = build_head(config.text_config, self.model.language_model)
        tied = find_tied_weight(self.model.language_model)
        self._tied_weights_keys = {"lm_head.weight": f"model.language_model.{tied}"}
        self._scales_logits = logit_scaling(config.text_config) != (1.0, None)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def get_video_features(
        self, pixel_values_videos: torch.Tensor, video_lengths: torch.Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """As `AVicunaModel.get_video_features`."""
        return self.model.get_video_features(pixel_values_videos, video_lengths, **kwargs)

    def get_audio_features(
        self, input_features: torch.Tensor, audio_lengths: torch.Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """As `AVicunaModel.get_audio_features`."""
        return self.model.get_audio_features(input_features, audio_lengths, **kwargs)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        video_features: torch.Tensor | None = None,
        audio_features: torch.Tensor | None = None,
        video_lengths: torch.LongTensor | None = None,
        audio_lengths: torch.LongTensor | None = None,
        audio_row_ids: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        r"""
        Each sample may hold videos, sounds, both or text only, of any number and length.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`):
                The prompt, with one placeholder for each feature row in the order of `interleave_order`.
            pixel_values_videos (`torch.Tensor` of shape `(batch_size, num_frames, 3, height, width)`, *optional*):
                All frames and images of a sample in reading order, padded at the end.
            input_features (`torch.Tensor`, *optional*):
                Of shape `(batch_size, num_windows, num_mel_frames, num_mel_bins)`.
                Log-mel windows of a sample, padded at the end.
            video_features (`torch.Tensor` of shape `(batch_size, num_frames, vision_feature_size)`, *optional*):
                Outputs of the vision tower instead of frames.
            audio_features (`torch.Tensor` of shape `(batch_size, num_windows, audio_feature_size)`, *optional*):
                Outputs of the audio tower instead of windows.
            video_lengths, audio_lengths (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
                Number of real rows of each sample. `None`: all rows, or none for a sample without placeholders.
            audio_row_ids (`torch.LongTensor` of shape `(batch_size, num_audio_tokens)`, *optional*):
                The window that each audio placeholder of a sample shows, padded with -1. `None`: one to one.
            labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                Ids to predict, -100 where there is no loss. Placeholders contribute none: `input_ids` can be passed.
            logits_to_keep (`int` or `torch.Tensor`, defaults to 0):
                Compute only that number of logits at the end (0: all), or those at the given positions.

        Returns:
            `CausalLMOutputWithPast`. In eval mode the logits of placeholders and of `config.unused_token_ids` are
            -1000, so that generation never takes them; in training they are the head's own, as in TRL's loss.

        Raises:
            ValueError: A sample's placeholders and feature rows differ in number, or raw media are given to a
                checkpoint without the tower.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            pixel_values_videos=pixel_values_videos,
            input_features=input_features,
            video_features=video_features,
            audio_features=audio_features,
            video_lengths=video_lengths,
            audio_lengths=audio_lengths,
            audio_row_ids=audio_row_ids,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state  # [B, T, hidden_size]
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(hidden_states[:, kept, :])  # [B, T, vocab_size]
        if self._scales_logits:  # read again: a soft cap can be switched off after loading
            logits = scale_logits(logits, *logit_scaling(self.config.text_config))
        logits = self._mask_unused(logits)
        loss = None
        if labels is not None:
            unused = torch.tensor(self.config.masked_token_ids, device=labels.device)
            labels = labels.masked_fill(torch.isin(labels, unused), -100)
            loss = self.loss_function(logits, labels, vocab_size=logits.shape[-1], **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _mask_unused(self, logits: torch.Tensor) -> torch.Tensor:
        """Lowers the logits of tokens that no answer holds, `(..., vocab_size)`; not in training, as in TRL's loss."""
        if self.training:
            return logits
        if logits.requires_grad:
            logits = logits.clone()
        for begin, end in _ranges(self.config.masked_token_ids):
            logits[..., begin:end] = UNUSED_LOGIT  # nothing, if the vocabulary was cut before it
        return logits


def _ranges(ids: list[int]) -> list[tuple[int, int]]:
    """Begin and end of each run of consecutive ids: one assignment each, instead of one per id."""
    numbers = set(ids)
    begins = sorted(i for i in numbers if i - 1 not in numbers)
    return list(zip(begins, sorted(i + 1 for i in numbers if i + 1 not in numbers)))


def _floating_dtype(module: nn.Module, default: torch.dtype) -> torch.dtype:
    """The type that a module computes in; `default` where its weights are quantised to integers."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), default)


__all__ = ["AVicunaForConditionalGeneration", "AVicunaModel", "AVicunaPreTrainedModel"]
