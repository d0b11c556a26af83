"""`generate` with media: towers run once, and media reach exactly the passes that read their placeholders.

A layer between transformers' GenerationMixin and the model. It chooses no tokens and keeps no state between calls;
logits processors and shared prefixes are in generation_avicuna.py.
"""

import torch
from transformers import GenerationMixin

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
    def generate(self, inputs: torch.Tensor | None = None, *args, assistant_model=None, **kwargs):
        """As `GenerationMixin.generate`. Raw media are encoded once, before beams or samples multiply the batch."""
        if kwargs.get("pixel_values_videos") is not None:
            refuse_both("pixel_values_videos", "video_features", kwargs.get("video_features"))
            pixels = self._to_device(kwargs.pop("pixel_values_videos"))
            kwargs["video_features"] = self.model.encode_video(pixels, kwargs.get("video_lengths")).pooler_output
        if kwargs.get("input_features") is not None:
            refuse_both("input_features", "audio_features", kwargs.get("audio_features"))
            windows = self._to_device(kwargs.pop("input_features"))
            kwargs["audio_features"] = self.model.encode_audio(windows, kwargs.get("audio_lengths")).pooler_output
        if assistant_model is not None and assistant_model.config.model_type != self.config.model_type:
            # an assistant that reads text alone would be handed the media and refuse them; under this name, which
            # transformers keeps for encoded media, they pass it by
            kwargs["mm_encoder_outputs"] = {name: kwargs.pop(name) for name in MEDIA_INPUTS if name in kwargs}
        return super().generate(inputs, *args, assistant_model=assistant_model, **kwargs)

    def prepare_inputs_for_generation(self, input_ids, inputs_embeds=None, is_first_iteration=False, **kwargs):
        kwargs.update(kwargs.pop("mm_encoder_outputs", None) or {})
        model_inputs = super().prepare_inputs_for_generation(
            input_ids, inputs_embeds=inputs_embeds, is_first_iteration=is_first_iteration, **kwargs
        )
        # media belong to the pass that reads their placeholders: the first one, or every one where nothing is cached
        new_ids = model_inputs.get("input_ids")
        is_continuing = new_ids is not None and new_ids.shape[1] < input_ids.shape[1]
        if is_continuing and not (is_first_iteration and self._holds_placeholders(new_ids)):
            for name in MEDIA_INPUTS:
                model_inputs.pop(name, None)
        return model_inputs

    def _to_device(self, media: torch.Tensor) -> torch.Tensor:
        # an offloaded model stands on "meta" between its passes, and moves its inputs by itself
        return media if self.device.type == "meta" else media.to(self.device)

    def _holds_placeholders(self, input_ids: torch.LongTensor) -> bool:
        is_placeholder = (input_ids == self.config.video_token_id) | (input_ids == self.config.audio_token_id)
        return bool(is_placeholder.any())
