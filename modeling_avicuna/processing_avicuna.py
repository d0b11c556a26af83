"""Media and text to the model's inputs in one call, and generated text back to events.

`AVicunaProcessor` joins the steps: content blocks or arguments to slots (`content_blocks_avicuna`,
    `media_slots_avicuna`),
slots to tokens (`slot_encoding_avicuna`), text to ids. It writes the string of placeholders; the model only scatters
features into it. Times in text are the business of `timestamp_avicuna`.
"""

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from transformers import BatchFeature, PreTrainedConfig, PreTrainedTokenizerFast, ProcessorMixin
from transformers.utils.chat_template_utils import render_jinja_template

from .content_blocks_avicuna import read_conversations
from .feature_extraction_avicuna import AVicunaFeatureExtractor
from .interleaving_avicuna import ALIGNMENTS
from .media_slots_avicuna import MediaSlot, fill_slots
from .prompt_avicuna import AUDIO_TOKEN, VICUNA_CHAT_TEMPLATE, VIDEO_TOKEN
from .slot_encoding_avicuna import EncodedSlot, SlotEncoder, expand_slots, pack_pictures, pack_sounds
from .timestamp_avicuna import Event, TimeCodec, parse_events
from .tokenization_avicuna import add_placeholder_tokens, mark_spans, tokenize_padded
from .video_processing_avicuna import AVicunaVideoProcessor
from .window_reading_avicuna import encode_windows


# What the configuration of a checkpoint declares and its processor carries out.
TOKEN_SETTINGS = ("num_av_tokens", "audio_interleaving_rate", "interleaving", "time_unit", "num_time_bins")


def build_processor(
    tokenizer: PreTrainedTokenizerFast,
    *,
    config: PreTrainedConfig | None = None,
    image_size: int | None = None,
    feature_extractor: AVicunaFeatureExtractor | None = None,
    chat_template: str = VICUNA_CHAT_TEMPLATE,
    **settings: Any,
) -> "AVicunaProcessor":
    """
    The processor of a new checkpoint.

    Args:
        tokenizer (`PreTrainedTokenizerFast`): any fast tokenizer; see `add_placeholder_tokens`.
        config (`AVicunaConfig`, *optional*): declares the settings of tokens and times, and the vision tower.
        image_size (`int`, *optional*): side of the vision tower's input in pixels; by default `config`'s, or 224.
        feature_extractor (`AVicunaFeatureExtractor`, *optional*): with the mel scale of the audio tower and the sound
            windows; by default those of the published towers.
        settings: further arguments of `AVicunaProcessor`, such as `alignment`; they win over `config`.
    """
    if config is not None:
        settings = {**{name: getattr(config, name) for name in TOKEN_SETTINGS}, **settings}
        if image_size is None and config.vision_config is not None:
            image_size = config.vision_config.image_size
    size = image_size or 224
    tokenizer = add_placeholder_tokens(tokenizer)
    tokenizer.chat_template = chat_template
    return AVicunaProcessor(
        video_processor=AVicunaVideoProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size}),
        feature_extractor=feature_extractor,
        tokenizer=tokenizer,
        chat_template=chat_template,
        **settings,
    )


class AVicunaProcessor(ProcessorMixin):
    r"""
    Turns media and text into the inputs of `AVicunaForConditionalGeneration`, and its answers into events.

    Args:
        video_processor (`AVicunaVideoProcessor`, *optional*): for pictures; by default the published one.
        feature_extractor (`AVicunaFeatureExtractor`, *optional*): for sound; by default the published one.
        tokenizer (`PreTrainedTokenizerFast`): the placeholder tokens are added where it has none.
        chat_template (`str`, *optional*): by default that of Vicuna.
        num_av_tokens (`int`, defaults to 100): audio-visual tokens of one video (paper, section 4).
        audio_interleaving_rate (`float`, defaults to 0.25): share of audio tokens among them (best of the paper's
            sweep).
        interleaving (`str`, defaults to `"uniform"`): rule of `interleave_order`.
        alignment (`str`, defaults to `"published"`): which moment of a video a token shows. `"published"`: frames from
            the first to the last, and audio rows repeated from the front. `"centred"`: token k of T shows the middle
            of its share, row `(2k + 1) * N // (2T)` of N rows, for frames, cached features and sound alike.
        time_unit (`str`, defaults to `"relative"`), num_time_bins (`int`, defaults to 100): how times are written, see
            `TimeCodec`.

    Raises:
        ValueError: no tokenizer, or a setting outside of its range.
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
        if alignment not in ALIGNMENTS:
            raise ValueError(f"alignment must be one of {sorted(ALIGNMENTS)}, got {alignment!r}")

    @property
    def model_input_names(self) -> list[str]:
        """Names of all tensors that a call may return."""
        media = ("pixel_values_videos", "video_features", "video_lengths", "input_features", "audio_features")
        return ["input_ids", "attention_mask", *media, "audio_lengths", "audio_row_ids"]

    @property
    def time_codec(self) -> TimeCodec:
        """How times are written and read."""
        return TimeCodec(unit=self.time_unit, num_bins=self.num_time_bins)

    @property
    def feature_settings(self) -> dict[str, str | float]:
        """The settings, besides the towers, that rows of cached features depend on; recorded and checked with them."""
        extractor = self.feature_extractor
        return {
            "alignment": self.alignment,
            "window_seconds": extractor.window_seconds,
            "stride_seconds": extractor.stride_seconds,
            "mel_scale": extractor.mel_scale,
        }

    def check_configuration(self, config: PreTrainedConfig) -> None:
        """
        Checks that a model and this processor belong together.

        Args:
            config (`AVicunaConfig`): of the model.

        Raises:
            ValueError: the number or order of tokens, the way times are written, or a placeholder id differs; both
                values are named.
        """
        for name in (*TOKEN_SETTINGS, "video_token_id", "audio_token_id"):
            ours, theirs = getattr(self, name), getattr(config, name)
            if ours != theirs:
                raise ValueError(
                    f"the model's configuration has {name}={theirs!r}, but the processor has {name}={ours!r}: "
                    "load both from one checkpoint"
                )

    def __call__(
        self,
        text: str | list[str],
        videos: Any = None,
        audio: Any = None,
        images: Any = None,
        video_features: Any = None,
        audio_features: Any = None,
        start: float | list[float | None] | None = None,
        end: float | list[float | None] | None = None,
        fps: float | list[float | None] | None = None,
        sampling_rate: int | list[int | None] | None = None,
        num_av_tokens: int | None = None,
        audio_interleaving_rate: float | list[float] | None = None,
        interleaving: str | None = None,
        padding: bool | str = True,
        padding_side: str | None = None,
        truncation: bool = False,
        max_length: int | None = None,
        return_tensors: str = "pt",
        return_metadata: bool = False,
        slots: list[list[MediaSlot]] | None = None,
        supervised_spans: list[list[tuple[int, int]]] | None = None,
    ) -> BatchFeature:
        r"""
        Makes the inputs of the model's `forward` from text with slots and the media that fill them.

        `SlotEncoder` describes how many tokens each medium gets.

        Args:
            text (`str` or `list[str]`): with one `<video>`, `<audio>` or `<image>` per medium.
            videos, images, audio (*optional*): the media, in reading order; see `fill_slots` for their number. A
                medium is a file (path, URL, bytes or binary file object), an array (RGB frames, uint8 of shape `(num,
                height, width, 3)`; a mono waveform of floats or integers), a list of pictures as one video, or the
                result of `prepare_media`.
            video_features, audio_features (*optional*): in place of media, tower outputs `(num_rows, feature_size)`.
            start, end (`float` or `list`, *optional*): the part of each video and sound to use, in seconds of the
                file. All times that the model reads and writes then count from `start`.
            fps (`float` or `list`, *optional*): frames per second of videos given as frames.
            sampling_rate (`int` or `list`, *optional*): of waveforms given as arrays, in Hz; by default the feature
                extractor's.
            num_av_tokens, audio_interleaving_rate, interleaving (*optional*): in place of the processor's own, for
                this call; the rate may be a list with one value per text.
            padding_side (`str`, *optional*): `"left"` (the tokenizer's default, for generation) or `"right"`.
            truncation, max_length: a text of more than `max_length` tokens is an error, or, with `truncation`, is cut
                at its end. Placeholders are never cut.
            return_metadata (`bool`, defaults to `False`): also `video_metadata`.
            slots, supervised_spans: used by `apply_chat_template`. What fills the slots of each text, in place of the
                media arguments, and the spans of characters for which to return `assistant_masks`.

        Returns:
            `BatchFeature` of padded tensors: `input_ids` and `attention_mask` `(batch, length)`; with pictures
            `pixel_values_videos` `(batch, frames, 3, height, width)` or `video_features` `(batch, V, D)`, and
            `video_lengths` `(batch,)`; with sounds `input_features` `(batch, windows, frames, mels)` and
            `audio_row_ids` `(batch, A)`, or `audio_features` `(batch, A, D)`, and `audio_lengths` `(batch,)`.

            With `return_metadata` also `video_metadata`: a list of transformers' `VideoMetadata`, one per `<video>`
            slot of the batch in reading order, None for cached features. `duration` is that of the part shown, in
            seconds (None for frames without `fps`), as `post_process_events` needs it. Remove it before `generate`.

        Raises:
            MediaError: a file cannot be used; the message names it.
            ValueError: slots and media do not match, or a text is longer than `max_length`.
        """
        if return_tensors not in (None, "pt"):
            raise ValueError(f"return_tensors must be 'pt', got {return_tensors!r}")
        texts = [text] if isinstance(text, str) else list(text)
        if not texts:
            raise ValueError("text is an empty list")
        if slots is None:
            slots = fill_slots(
                texts,
                videos=videos,
                images=images,
                audio=audio,
                video_features=video_features,
                audio_features=audio_features,
                start=start,
                end=end,
                fps=fps,
                sampling_rate=sampling_rate,
            )
        encoder = self._slot_encoder(num_av_tokens=num_av_tokens, interleaving=interleaving)
        rates = self.audio_interleaving_rate if audio_interleaving_rate is None else audio_interleaving_rate
        rates = list(rates) if isinstance(rates, (list, tuple)) else [rates] * len(texts)
        if len(rates) != len(texts):
            raise ValueError(f"got {len(rates)} audio_interleaving_rate values for {len(texts)} texts")
        encoded = [[encoder.encode(slot, rate=rate) for slot in row] for row, rate in zip(slots, rates)]
        expanded, expansions = zip(*map(expand_slots, texts, encoded))
        data, offsets = tokenize_padded(
            self.tokenizer,
            list(expanded),
            padding=padding,
            padding_side=padding_side,
            truncation=truncation,
            max_length=max_length,
        )
        if supervised_spans is not None:
            data["assistant_masks"] = mark_spans(offsets, supervised_spans, list(expansions))
        data |= pack_pictures(encoded) | pack_sounds(encoded)
        if return_metadata:
            data["video_metadata"] = [slot.metadata for row in encoded for slot in row if slot.kind == "video"]
        return BatchFeature(data)

    def prepare_media(self, block: dict) -> EncodedSlot:
        """
        Decodes the medium of a content block (see `apply_chat_template`, also for errors) with the processor's
        settings, for use in several conversations or in one whose text depends on its length.

        Returns:
            an object that replaces the medium in later blocks: `{"type": "video", "video": prepared}`, likewise
            "audio" and "image". Its `duration` is in seconds; None for an image, cached features and frames without
            `fps`.
        """
        return self._slot_encoder().encode(_read_block(block), rate=self.audio_interleaving_rate)

    def prepare_windows(self, block: dict, *, window: float, overlap: float | None = None) -> Iterator[EncodedSlot]:
        """
        Decodes a long video or sound as overlapping windows, in one pass over its file. Each window is what
        `prepare_media` returns for that part of the file, with its own `start` and `duration`.

        Args:
            window, overlap (`float`): seconds; see `plan_windows`.
        """
        return encode_windows(
            self._slot_encoder(), _read_block(block), rate=self.audio_interleaving_rate, window=window, overlap=overlap
        )

    def _slot_encoder(self, *, num_av_tokens: int | None = None, interleaving: str | None = None) -> SlotEncoder:
        return SlotEncoder(
            video_processor=self.video_processor,
            feature_extractor=self.feature_extractor,
            num_av_tokens=self.num_av_tokens if num_av_tokens is None else num_av_tokens,
            interleaving=self.interleaving if interleaving is None else interleaving,
            alignment=self.alignment,
        )

    def apply_chat_template(
        self,
        conversation: list,
        chat_template: str | None = None,
        *,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        return_assistant_tokens_mask: bool = False,
        tokenize: bool = False,
        return_dict: bool = False,
        return_tensors: str = "pt",
        processor_kwargs: dict | None = None,
        load_audio_from_video: bool = True,
        num_frames: int | None = None,
        **kwargs: Any,
    ) -> str | list[str] | torch.Tensor | BatchFeature:
        r"""
        Conversations to text or, with `tokenize=True`, to the model's inputs.

        A message's content is a text or a list of blocks of type "video", "audio", "image" or "text", such as
        `{"type": "video", "path": ...}` and `{"type": "text", "text": ...}`. Keys of a media block:

        * The medium, under one of `"path"`, `"url"` or the block's own type: a path, a URL, bytes, a binary file
          object, an array (`__call__` says which), a list of pictures as a video, or what `prepare_media` returned;
          or, under `"base64"`, the encoded file. OpenAI's blocks are taken too: `"video_url"`, `"image_url"`,
          `"audio_url"` and `"input_audio"`.
        * `"audio"` of a video: `False` or `None` for silence, or another sound. By default the sound of its own file.
        * `"start"` and `"end"`: the part to use, in seconds of the file (also `"video_start"`, `"audio_end"`, ...).
          Times in the conversation then count from `"start"`.
        * `"fps"` of frames given as an array or a list, `"sampling_rate"` of a waveform array, in Hz.
        * `"video_features"` and `"audio_features"`: cached tower outputs in place of the medium.

        A block without a medium is filled from the call's own `videos`, `audio`, ...

        Args:
            return_assistant_tokens_mask (`bool`): also `assistant_masks`, `(batch, length)`: 1 at tokens that the
                template's generation marks cover.
            processor_kwargs (`dict`, *optional*): for `__call__`; the media too where no block carries any.
            load_audio_from_video (`bool`): whether a video block without `"audio"` has the sound of its own file.
            num_frames (`int`, *optional*): no effect. `transformers serve` passes it to every model; here
                `num_av_tokens` and the interleaving rate give the number of frames.
            kwargs: variables of the template, or further arguments of `__call__`, such as `return_metadata`.

        Raises:
            MediaError: a file cannot be used; the message names it.
            ValueError: text that holds a literal slot ("<video>"), an argument, a block type or a key that is not
                known; see also `fill_slots` and `__call__`.
        """
        if not isinstance(conversation, (list, tuple)):
            raise ValueError(f"a conversation must be a list of messages, got {conversation!r:.200}")
        single = not conversation or isinstance(conversation[0], dict)
        given = [conversation] if single else list(conversation)
        conversations, slots = read_conversations(given, own_sound=load_audio_from_video)
        call_kwargs = dict(processor_kwargs or {})
        call_kwargs |= {name: kwargs.pop(name) for name in list(kwargs) if name in _CALL_ARGUMENTS}
        template = chat_template or self.chat_template
        if isinstance(self.chat_template, dict):  # several templates, by name
            template = self.chat_template.get(chat_template or "default", chat_template)
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
        both = [name for name in _MEDIA_ARGUMENTS if call_kwargs.get(name) is not None]
        if slots is not None and both:
            raise ValueError(f"the media are in content blocks, but {both} are arguments of the call as well")
        batch = self(
            texts,
            **call_kwargs,
            slots=slots,
            return_tensors=return_tensors,
            supervised_spans=spans if return_assistant_tokens_mask else None,
        )
        return batch if return_dict else batch["input_ids"]

    def post_process_events(self, texts: list[str], durations: list[float]) -> list[list[Event]]:
        """
        Generated texts to events in seconds.

        Args:
            texts (`list[str]`): one answer per video.
            durations (`list[float]`): seconds of each video, `video_metadata[i].duration` of `__call__`.

        Returns:
            the events of each text; see `parse_events`.
        """
        if len(texts) != len(durations):
            raise ValueError(f"got {len(texts)} texts and {len(durations)} durations")
        return [parse_events(text, duration, codec=self.time_codec) for text, duration in zip(texts, durations)]


def _read_block(block: dict) -> MediaSlot:
    """The slot of a content block with a medium."""
    _, slots = read_conversations([[{"role": "user", "content": [block]}]])
    if slots is None:
        raise ValueError(f"the content block {block} has no medium")
    return slots[0][0]


_MEDIA_ARGUMENTS = (
    *("videos", "images", "audio", "video_features", "audio_features"),
    *("start", "end", "fps", "sampling_rate"),
)
_CALL_ARGUMENTS = frozenset(inspect.signature(AVicunaProcessor.__call__).parameters) - {
    "self",
    "text",
    "slots",
    "supervised_spans",
}
