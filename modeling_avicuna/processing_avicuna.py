"""One call from media and words to the model's inputs: decodes, resamples, and writes the string of placeholders.

Owns the token arithmetic: how many visual and audio tokens a medium gets and in which order they stand; the model only
scatters features into them. Reading files is left to video_processing and feature_extraction, and times to timestamp.
"""

import inspect

import torch
from transformers import BatchFeature, PreTrainedTokenizerFast, ProcessorMixin
from transformers.utils.chat_template_utils import render_jinja_template

from .feature_extraction_avicuna import AVicunaFeatureExtractor
from .interleaving_avicuna import ALIGNMENTS
from .media_slots_avicuna import MediaSlot, check_conversation, fill_slots, media_of_conversations
from .prompt_avicuna import AUDIO_TOKEN, VICUNA_CHAT_TEMPLATE, VIDEO_TOKEN
from .slot_encoding_avicuna import (
    EncodedSlot,
    SlotSettings,
    encode_slot,
    expand_slots,
    pack_pictures,
    pack_sounds,
)
from .timestamp_avicuna import Event, TimeCodec, parse_events
from .tokenization_avicuna import add_placeholder_tokens
from .video_processing_avicuna import AVicunaVideoProcessor


def build_processor(
    tokenizer: PreTrainedTokenizerFast,
    *,
    image_size: int = 224,
    mel_scale: str = "htk",
    window_seconds: float = 10.0,
    stride_seconds: float = 4.0,
    chat_template: str = VICUNA_CHAT_TEMPLATE,
    **settings,
) -> "AVicunaProcessor":
    """
    The one home of "add the placeholder tokens, set the chat template, wrap" for the converter and for training.

    Args:
        tokenizer (`PreTrainedTokenizerFast`): any fast tokenizer; see `add_placeholder_tokens`.
        image_size (`int`, defaults to 224): side of the vision tower's input in pixels.
        mel_scale (`str`, defaults to `"htk"`): of the audio tower, see `AVicunaFeatureExtractor`.
        window_seconds, stride_seconds (`float`, default to 10 and 4): length and distance of the sound windows.
        settings: `num_av_tokens`, `audio_interleaving_rate`, ... of `AVicunaProcessor`.
    """
    tokenizer = add_placeholder_tokens(tokenizer)
    tokenizer.chat_template = chat_template
    return AVicunaProcessor(
        video_processor=AVicunaVideoProcessor(
            size={"shortest_edge": image_size}, crop_size={"height": image_size, "width": image_size}
        ),
        feature_extractor=AVicunaFeatureExtractor(
            mel_scale=mel_scale, window_seconds=window_seconds, stride_seconds=stride_seconds
        ),
        tokenizer=tokenizer,
        chat_template=chat_template,
        **settings,
    )


class AVicunaProcessor(ProcessorMixin):
    r"""
    Wraps the video processor, the feature extractor and the tokenizer.

    Args:
        num_av_tokens (`int`, defaults to 100): audio-visual tokens per video (paper).
        audio_interleaving_rate (`float`, defaults to 0.25): share of audio tokens among them (paper's best).
        interleaving (`str`, defaults to `"uniform"`): rule of `interleave_order`.
        alignment (`str`, defaults to `"published"`): which moment of a video a token shows. `"published"`: frames from the
            first to the last, and audio rows repeated from the front. `"centred"`: token k of T shows the middle of its share,
            row `(2k + 1) * N // (2T)` of N rows, for frames, cached features and sound alike.
        time_unit (`str`), num_time_bins (`int`): how times are written, see `TimeCodec`.
    """

    # positional parameters: ProcessorMixin reads its own arguments from the positional part of the signature
    def __init__(
        self,
        video_processor: AVicunaVideoProcessor | None = None,
        feature_extractor: AVicunaFeatureExtractor | None = None,
        tokenizer: PreTrainedTokenizerFast | None = None,
        chat_template: str | None = None,
        num_av_tokens: int = 100,
        audio_interleaving_rate: float = 0.25,
        interleaving: str = "uniform",
        alignment: str = "published",
        time_unit: str = "relative",
        num_time_bins: int = 100,
    ):
        if tokenizer is None:
            raise ValueError("AVicunaProcessor needs a tokenizer")
        if alignment not in ALIGNMENTS:
            raise ValueError(f"alignment must be one of {sorted(ALIGNMENTS)}, got {alignment!r}")
        super().__init__(
            video_processor or AVicunaVideoProcessor(),
            feature_extractor or AVicunaFeatureExtractor(),
            add_placeholder_tokens(tokenizer),
            chat_template=chat_template or VICUNA_CHAT_TEMPLATE,
        )
        self.num_av_tokens = num_av_tokens
        self.audio_interleaving_rate = audio_interleaving_rate
        self.interleaving = interleaving
        self.alignment = alignment
        self.time_unit = time_unit
        self.num_time_bins = num_time_bins
        self.video_token, self.audio_token = VIDEO_TOKEN, AUDIO_TOKEN
        self.video_token_id, self.audio_token_id = self.tokenizer.convert_tokens_to_ids([VIDEO_TOKEN, AUDIO_TOKEN])

    @property
    def model_input_names(self) -> list[str]:
        media = ("pixel_values_videos", "video_features", "video_lengths", "input_features", "audio_features")
        return ["input_ids", "attention_mask", *media, "audio_lengths", "audio_row_ids"]

    @property
    def feature_settings(self) -> dict[str, str | float]:
        """What the rows of a medium depend on besides the towers; recorded with cached features and checked there."""
        extractor = self.feature_extractor
        return {
            "alignment": self.alignment,
            "window_seconds": extractor.window_seconds,
            "stride_seconds": extractor.stride_seconds,
            "mel_scale": extractor.mel_scale,
        }

    @property
    def time_codec(self) -> TimeCodec:
        return TimeCodec(unit=self.time_unit, num_bins=self.num_time_bins)

    def __call__(
        self,
        text: str | list[str],
        videos=None,
        audio=None,
        images=None,
        video_features=None,
        audio_features=None,
        num_av_tokens: int | None = None,
        audio_interleaving_rate: float | list[float] | None = None,
        interleaving: str | None = None,
        sampling_rate: int | None = None,
        padding: bool | str = True,
        padding_side: str | None = None,
        truncation: bool = False,
        max_length: int | None = None,
        return_tensors: str = "pt",
        supervised_spans: list[list[tuple[int, int]]] | None = None,
    ) -> BatchFeature:
        r"""
        Text with slots, and what fills them, to the inputs of the model's `forward`.

        See `encode_slot` for the number of tokens that each medium gets.

        Args:
            text (`str` or `list[str]`): with one `<video>`, `<audio>` or `<image>` per medium.
            videos, images, audio, video_features, audio_features: see `fill_slots`. Videos and sounds are files (paths or
                binary file objects) or arrays: RGB frames, uint8 of shape `(num, height, width, 3)`, and mono waveforms.
                Features are cached tower outputs `(num_rows, feature_size)`.
            sampling_rate (`int`, *optional*): of the waveforms given as arrays, in Hz; by default the feature extractor's.
            num_av_tokens, audio_interleaving_rate, interleaving (*optional*): for this call; the rate may be a list, one per
                text.
            padding_side (`str`, *optional*): `"left"` (the tokenizer's default, for generation) or `"right"`.
            truncation, max_length: what is longer than `max_length` tokens is an error, or with `truncation` cut at its end;
                placeholders are never cut.
            supervised_spans: spans of characters per text, from which `assistant_masks` are made (`apply_chat_template`).

        Returns:
            `BatchFeature` of padded tensors: `input_ids` and `attention_mask` `(batch, length)`; with pictures
            `pixel_values_videos` `(batch, frames, 3, height, width)` or `video_features` `(batch, V, D)`, and `video_lengths`
            `(batch,)`; with sounds `input_features` `(batch, windows, frames, mels)` and `audio_row_ids` `(batch, A)`, or
            `audio_features` `(batch, A, D)`, and `audio_lengths` `(batch,)`.

        Raises:
            MediaError: a file cannot be used; the message names it.
            ValueError: slots and media do not match, or a text is longer than `max_length`.
        """
        if return_tensors not in (None, "pt"):
            raise ValueError(f"return_tensors must be 'pt', got {return_tensors!r}")
        texts = [text] if isinstance(text, str) else list(text)
        if not texts:
            raise ValueError("text is an empty list")
        slots = fill_slots(
            texts,
            videos=videos,
            images=images,
            audio=audio,
            video_features=video_features,
            audio_features=audio_features,
        )
        settings = SlotSettings(
            num_av_tokens=self.num_av_tokens if num_av_tokens is None else num_av_tokens,
            interleaving=self.interleaving if interleaving is None else interleaving,
            alignment=self.alignment,
            sampling_rate=self.feature_extractor.sampling_rate if sampling_rate is None else sampling_rate,
        )
        rates = self._rates(audio_interleaving_rate, num_texts=len(texts))
        encoded = [[self._encode(slot, rate, settings) for slot in row] for row, rate in zip(slots, rates)]
        expanded, expansions = zip(*map(expand_slots, texts, encoded))
        data = self._tokenize(
            list(expanded), padding=padding, padding_side=padding_side, truncation=truncation, max_length=max_length
        )
        offsets = data.pop("offset_mapping")
        data |= pack_pictures(encoded) | pack_sounds(encoded)
        if supervised_spans is not None:
            data["assistant_masks"] = _assistant_masks(offsets, supervised_spans, expansions)
        return BatchFeature(data)

    def _rates(self, rates: float | list[float] | None, *, num_texts: int) -> list[float]:
        rates = self.audio_interleaving_rate if rates is None else rates
        rates = list(rates) if isinstance(rates, (list, tuple)) else [rates] * num_texts
        if len(rates) != num_texts:
            raise ValueError(f"got {len(rates)} audio_interleaving_rate values for {num_texts} texts")
        return rates

    def _encode(self, slot: MediaSlot, rate: float, settings: SlotSettings) -> EncodedSlot:
        return encode_slot(
            slot,
            audio_interleaving_rate=rate,
            settings=settings,
            video_processor=self.video_processor,
            feature_extractor=self.feature_extractor,
        )

    def _tokenize(self, texts: list[str], *, padding, padding_side, truncation, max_length) -> dict[str, torch.Tensor]:
        """Padded `input_ids`, `attention_mask` and character offsets; see `__call__` for `max_length`."""
        has_bos = self.tokenizer.bos_token is not None and texts[0].startswith(self.tokenizer.bos_token)
        batch = self.tokenizer(texts, add_special_tokens=not has_bos, return_offsets_mapping=True)
        rows = {name: batch[name] for name in ("input_ids", "attention_mask", "offset_mapping")}
        if max_length is not None:
            for number, ids in enumerate(rows["input_ids"]):
                if len(ids) > max_length and not truncation:
                    raise ValueError(
                        f"text {number} has {len(ids)} tokens, media included, more than max_length={max_length}; "
                        "shorten it, lower num_av_tokens, or set truncation=True to cut its end"
                    )
                if {self.video_token_id, self.audio_token_id} & set(ids[max_length:]):
                    raise ValueError(f"cutting text {number} to max_length={max_length} tokens would cut its media")
            rows = {name: [values[:max_length] for values in lists] for name, lists in rows.items()}
        padded = self.tokenizer.pad(
            {name: rows[name] for name in ("input_ids", "attention_mask")},
            padding=padding,
            padding_side=padding_side,
            max_length=max_length if padding == "max_length" else None,
            return_tensors="pt",
        )
        width, left = padded["input_ids"].shape[1], (padding_side or self.tokenizer.padding_side) == "left"
        empty = [[(0, 0)] * (width - len(offsets)) for offsets in rows["offset_mapping"]]
        rows["offset_mapping"] = [
            torch.tensor(pad + offsets if left else offsets + pad)
            for pad, offsets in zip(empty, rows["offset_mapping"])
        ]
        return {**padded, "offset_mapping": torch.stack(rows["offset_mapping"])}

    def apply_chat_template(
        self,
        conversation: list[dict] | list[list[dict]],
        chat_template: str | None = None,
        *,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        return_assistant_tokens_mask: bool = False,
        tokenize: bool = False,
        return_dict: bool = False,
        return_tensors: str = "pt",
        processor_kwargs: dict | None = None,
        **kwargs,
    ) -> str | list[str] | torch.Tensor | BatchFeature:
        r"""
        Conversations to text or, with `tokenize=True`, to the model's inputs.

        Content blocks: `{"type": "video", "path": ...}` with its own sound unless it has `"audio": False` (or a sound of
        another file), `{"type": "audio", "path": ...}`, `{"type": "image", "path": ...}`, `{"type": "text", "text": ...}`. Instead
        of a path a block may carry arrays (`"video"`, `"audio"`, `"image"`) or `"video_features"` and `"audio_features"`.

        Args:
            return_assistant_tokens_mask (`bool`): also `assistant_masks`, `(batch, length)`: 1 at tokens that the template's
                generation marks cover.
            processor_kwargs (`dict`, *optional*): for `__call__`; the media too where no block carries any.
            kwargs: variables of the template, or further arguments of `__call__`.

        Raises:
            ValueError: text that holds a literal slot ("<video>"), or an argument that nobody knows; see also `fill_slots`
                and `__call__`.
        """
        single = isinstance(conversation[0], dict)
        conversations = [conversation] if single else list(conversation)
        for messages in conversations:
            check_conversation(messages)
        call_kwargs = dict(processor_kwargs or {})
        call_kwargs |= {name: kwargs.pop(name) for name in list(kwargs) if name in _CALL_ARGUMENTS}
        template = self._template(chat_template)
        if unknown := sorted(name for name, value in kwargs.items() if value is not None and name not in template):
            raise ValueError(f"{unknown} are neither arguments of the processor nor variables of the chat template")
        texts, spans = render_jinja_template(
            conversations=conversations,
            chat_template=template,
            return_assistant_tokens_mask=return_assistant_tokens_mask,
            continue_final_message=continue_final_message,
            add_generation_prompt=add_generation_prompt,
            **{**self.tokenizer.special_tokens_map, **kwargs},
        )
        if not tokenize:
            return texts[0] if single else texts
        media = media_of_conversations(conversations)
        if both := sorted(media.keys() & call_kwargs.keys()):
            raise ValueError(f"{both} come both in content blocks and in processor_kwargs")
        batch = self(
            texts,
            **media,
            **call_kwargs,
            return_tensors=return_tensors,
            supervised_spans=spans if return_assistant_tokens_mask else None,
        )
        return batch if return_dict else batch["input_ids"]

    def _template(self, name: str | None) -> str:
        """A template by its text, or by its name where this processor has several, or the only or default one."""
        if isinstance(self.chat_template, dict):
            return self.chat_template.get(name or "default", name)
        return name or self.chat_template

    def post_process_events(self, texts: list[str], durations: list[float]) -> list[list[Event]]:
        """Generated texts and the videos' durations in seconds -> the events that each text tells, in seconds."""
        if len(texts) != len(durations):
            raise ValueError(f"got {len(texts)} texts and {len(durations)} durations")
        return [parse_events(text, duration, codec=self.time_codec) for text, duration in zip(texts, durations)]


_CALL_ARGUMENTS = frozenset(inspect.signature(AVicunaProcessor.__call__).parameters) - {
    "self",
    "text",
    "supervised_spans",
}


def _assistant_masks(offsets: torch.Tensor, spans: list, expansions: list) -> torch.Tensor:
    """1 at tokens that overlap a supervised span; the spans count characters before the slots were expanded."""
    masks = torch.zeros(offsets.shape[:2], dtype=torch.long)
    for mask, row, row_spans, slots in zip(masks, offsets, spans, expansions):
        for start, end in row_spans:
            grown = sum(length - (stop - begin) for begin, stop, length in slots if stop <= start)
            inside = sum(length - (stop - begin) for begin, stop, length in slots if start < stop <= end)
            mask |= ((row[:, 0] < end + grown + inside) & (row[:, 1] > start + grown)).long()
    return masks
