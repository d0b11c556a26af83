"""Media of a request to the inputs of `AVicunaForVLLM`, and their placeholder tokens in the prompt.

Each medium is decoded by the project's own processor and becomes one `EncodedSlot`, as in `transformers`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature
from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems
from vllm.multimodal.parse import ModalityDataItems, MultiModalDataItems, MultiModalDataParser, ProcessorBatchItems
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    PromptReplacement,
    PromptUpdate,
)

from modeling_avicuna.slot_encoding_avicuna import EncodedSlot

from .chat import AVicunaProcessor, opened_block


KINDS = ("video", "audio", "image")
FIELDS = ("pictures", "sounds", "sound_rows", "is_audio")
IMAGE_ID = -1  # stands for an image in a prompt of ids until its placeholder replaces it


class MediaParser(MultiModalDataParser):
    """Takes fetched files as they are."""

    def _get_subparsers(self) -> Mapping[str, Any]:
        return {kind: self._items_of(kind) for kind in KINDS}

    @staticmethod
    def _items_of(kind: str) -> Any:
        def parse(data: Any) -> ModalityDataItems | None:
            if data is None:
                return None
            return ProcessorBatchItems(data if isinstance(data, list) else [data], kind)

        return parse


class AVicunaInfo(BaseProcessingInfo):
    def get_hf_processor(self, **kwargs: object) -> AVicunaProcessor:
        return self.ctx.get_hf_processor(AVicunaProcessor)

    def get_data_parser(self) -> MediaParser:
        return MediaParser()

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        return dict.fromkeys(KINDS)

    def get_supported_mm_processor_kwargs(self) -> dict[str, set[str]]:
        return {}

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int]:
        num_tokens = self.get_hf_processor().num_av_tokens
        return {"video": num_tokens, "audio": num_tokens, "image": 1}


class AVicunaDummyInputs(BaseDummyInputsBuilder[AVicunaInfo]):
    """Black, silent media, with which vLLM measures its memory."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        processor = self.info.get_hf_processor()
        slots = {
            "video": processor.video_token,
            "audio": processor.audio_token,
            "image": processor.video_token + processor.audio_token,
        }
        return "\n".join(slots[kind] for kind in KINDS for _ in range(mm_counts.get(kind, 0)))

    def get_dummy_mm_data(self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Any) -> dict[str, list]:
        frame = np.zeros((1, 32, 32, 3), np.uint8)
        rate = self.info.get_hf_processor().feature_extractor.sampling_rate
        blocks: dict[str, dict] = {
            "video": {"video": np.repeat(frame, 2, 0), "fps": 1.0, "audio": np.zeros(2 * rate, np.float32)},
            "audio": {"audio": np.zeros(30 * rate, np.float32)},
            "image": {"image": frame[0]},
        }
        return {kind: [blocks[kind]] * mm_counts.get(kind, 0) for kind in KINDS}


class AVicunaMultiModalProcessor(BaseMultiModalProcessor[AVicunaInfo]):
    def _apply_hf_processor_main(self, mm_items: MultiModalDataItems, hf_kwargs: Mapping[str, object]) -> BatchFeature:
        if hf_kwargs:
            raise ValueError(f"unknown mm_processor_kwargs {sorted(hf_kwargs)}: give settings with the content part")
        processor, data = self.info.get_hf_processor(), {}
        for kind, items in mm_items.items():
            slots = []
            for item in items.get_all():
                with opened_block(kind, item) as block:
                    slots.append(as_fields(processor.prepare_media(block), processor=processor))
            data |= {f"{kind}_{name}": [slot[name] for slot in slots] for name in FIELDS if slots}
        return BatchFeature(data)

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        return {f"{kind}_{name}": MultiModalFieldConfig.batched(kind) for kind in KINDS for name in FIELDS}

    def _postprocess_prompt(self, prompt: list[int]) -> list[int]:
        """The two ids of `IMAGE_SLOT` become `IMAGE_ID`."""
        processor, ids = self.info.get_hf_processor(), []
        for token_id in prompt:
            if ids and ids[-1] == processor.video_token_id and token_id == processor.audio_token_id:
                ids[-1] = IMAGE_ID
            else:
                ids.append(token_id)
        return ids

    def _get_prompt_updates(
        self,
        mm_items: MultiModalDataItems,
        hf_processor_mm_kwargs: Mapping[str, object],
        out_mm_kwargs: MultiModalKwargsItems,
    ) -> Sequence[PromptUpdate]:
        processor = self.info.get_hf_processor()
        targets = {"video": processor.video_token_id, "audio": processor.audio_token_id, "image": IMAGE_ID}

        def replacement_of(kind: str) -> Any:
            def replacement(item: int) -> list[int]:
                is_audio = out_mm_kwargs[kind][item][f"{kind}_is_audio"].data
                return [
                    processor.audio_token_id if audible else processor.video_token_id for audible in is_audio.tolist()
                ]

            return replacement

        return [PromptReplacement(kind, [targets[kind]], replacement_of(kind)) for kind in mm_items]


def as_fields(slot: EncodedSlot, *, processor: AVicunaProcessor) -> dict[str, torch.Tensor]:
    """A decoded medium as tensors; empty ones for what it lacks."""
    extractor, size = processor.feature_extractor, processor.video_processor.crop_size
    pictures, sounds = slot.pictures, slot.sounds
    return {
        "pictures": torch.zeros(0, 3, size["height"], size["width"]) if pictures is None else pictures,
        "sounds": torch.zeros(0, 1, extractor.feature_size) if sounds is None else sounds,
        "sound_rows": torch.tensor(slot.sound_rows, dtype=torch.long),
        "is_audio": torch.tensor([modality == "audio" for modality in slot.order]),
    }
