"""`generate` with media: the towers run once, and features go only to the passes that read their placeholders.

A layer between transformers' GenerationMixin and the model. It chooses no tokens and keeps no state between calls;
logits processors are in generation_avicuna, prefixes shared by several questions in answering_avicuna.
"""

from typing import Any

import torch
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import ModelOutput

from .merging_avicuna import refuse_both


MEDIA_INPUTS = (
    "pixel_values_videos",
    "input_features",
    "video_features",
    "audio_features",
    "video_lengths",
    "audio_lengths",
    "audio_row_ids",
)


class MediaGenerationMixin(GenerationMixin):
    @torch.no_grad()
    def generate(
        self,
        inputs: torch.Tensor | None = None,
        *args: Any,
        assistant_model: PreTrainedModel | None = None,
        **kwargs: Any,
    ) -> ModelOutput | torch.LongTensor:
        """As `GenerationMixin.generate`. Raw media are encoded once, before beams or samples multiply the batch.

        Raises:
            ValueError: media in both forms, or `prefill_chunk_size` with media: a chunk holds only some placeholders.
        """
        config = kwargs.get("generation_config") or self.generation_config
        chunk_size = kwargs.get("prefill_chunk_size", getattr(config, "prefill_chunk_size", None))
        if chunk_size is not None and any(kwargs.get(name) is not None for name in MEDIA_INPUTS):
            raise ValueError(f"prefill_chunk_size={chunk_size} is not supported with media")
        if kwargs.get("pixel_values_videos") is not None:
            refuse_both("pixel_values_videos", "video_features", kwargs.get("video_features"))
            pixels = self._to_device(kwargs.pop("pixel_values_videos"))
            kwargs["video_features"] = self.model.encode_video(pixels, kwargs.get("video_lengths")).pooler_output
        if kwargs.get("input_features") is not None:
            refuse_both("input_features", "audio_features", kwargs.get("audio_features"))
            windows = self._to_device(kwargs.pop("input_features"))
            kwargs["audio_features"] = self.model.encode_audio(windows, kwargs.get("audio_lengths")).pooler_output
        prompt = inputs if inputs is not None else kwargs.get("input_ids")
        if prompt is not None and kwargs.get("inputs_embeds") is None:
            # an assistant of the same kind is called with this model's arguments, and with a longer prompt
            kwargs.setdefault("prompt_length", prompt.shape[1])
        if assistant_model is not None and assistant_model.config.model_type != self.config.model_type:
            # an assistant that reads text alone must not be called with media; it ignores this argument, which
            # transformers keeps for encoded media
            names = (*MEDIA_INPUTS, "prompt_length")
            kwargs["mm_encoder_outputs"] = {name: kwargs.pop(name) for name in names if name in kwargs}
        return super().generate(inputs, *args, assistant_model=assistant_model, **kwargs)

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.LongTensor,
        inputs_embeds: torch.Tensor | None = None,
        is_first_iteration: bool = False,
        prompt_length: int | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """As `GenerationMixin.prepare_inputs_for_generation`.

        Args:
            prompt_length (`int`, *optional*): tokens of the prompt, set by `generate`. Only the prompt has
                placeholders: one that prompt lookup or an assistant proposes gets no features and is never accepted.
        """
        encoded = kwargs.pop("mm_encoder_outputs", None) or {}
        prompt_length = encoded.get("prompt_length", prompt_length)
        kwargs.update({name: value for name, value in encoded.items() if name != "prompt_length"})
        model_inputs = super().prepare_inputs_for_generation(
            input_ids, inputs_embeds=inputs_embeds, is_first_iteration=is_first_iteration, **kwargs
        )
        new_ids = model_inputs.get("input_ids")
        if new_ids is None:
            return model_inputs
        num_past = input_ids.shape[1] - new_ids.shape[1]
        if prompt_length is not None and new_ids.shape[1] > 1 and input_ids.shape[1] > prompt_length:
            is_answer = torch.arange(num_past, input_ids.shape[1], device=new_ids.device) >= prompt_length
            new_ids = new_ids.masked_fill(self._is_placeholder(new_ids) & is_answer, 0)
            model_inputs["input_ids"] = new_ids
        # media belong to the pass that reads their placeholders: the first one, or every one where nothing is cached
        if num_past > 0 and not (is_first_iteration and self._is_placeholder(new_ids).any()):
            for name in MEDIA_INPUTS:
                model_inputs.pop(name, None)
        return model_inputs

    def _to_device(self, media: torch.Tensor) -> torch.Tensor:
        # the weights of an offloaded model are on "meta" between its passes, and its inputs are moved by hooks
        return media if self.device.type == "meta" else media.to(self.device)

    def _is_placeholder(self, input_ids: torch.LongTensor) -> torch.BoolTensor:
        return (input_ids == self.config.video_token_id) | (input_ids == self.config.audio_token_id)
