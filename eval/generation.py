"""Generates the answers of a checkpoint to questions about videos.

Each video is decoded and encoded once: several questions about it share the KV cache of their common beginning; single
questions about different videos share a left-padded batch.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, ProcessorMixin

import modeling_avicuna  # noqa: F401  (registers the auto classes)
from dataset_builders import pretrained
from modeling_avicuna import MediaError
from modeling_avicuna.answering_avicuna import QUESTIONS_AT_ONCE, answer_batch, answer_questions
from modeling_avicuna.answering_avicuna import Answer as ModelAnswer
from modeling_avicuna.generation_avicuna import TimeSpanLogitsProcessor
from modeling_avicuna.window_answering_avicuna import answer_windows

from .media import Media
from .task import Answer, Example, Question


VIDEOS_AT_ONCE = 8  # as features, with one question about each


@dataclass(frozen=True)
class GenerationSettings:
    """How answers are generated: greedily or by beam search, so that an evaluation can be repeated exactly.

    batch_size (`int`, *optional*): questions that are answered together; None: 8 about different videos, and 128 about
        one video.
    audio_interleaving_rate (`float`, *optional*), interleaving (`str`, *optional*): None: those of the checkpoint.
    window (`float`, *optional*): seconds of overlapping windows that are processed separately; None: the whole video.
    well_formed_times (`bool`): constrain spans to be complete and not to end before they begin.
    """

    max_new_tokens: int = 256
    num_beams: int = 1
    batch_size: int | None = None
    num_workers: int = 1
    audio_interleaving_rate: float | None = None
    interleaving: str | None = None
    dtype: str = "auto"
    window: float | None = None
    well_formed_times: bool = True


@dataclass(frozen=True)
class Unreadable:
    """A video whose media cannot be read, with the reason."""

    video_id: str
    reason: str


@dataclass(frozen=True)
class _Encoded:
    """Tower outputs of one video: `video` `(V, D)`, `audio` `(M, D)` or None, `duration` in seconds."""

    video: np.ndarray
    audio: np.ndarray | None
    duration: float

    @property
    def block(self) -> dict:
        return {"type": "video", "video_features": self.video, "audio_features": self.audio}


Job = tuple[Example, Sequence[Question]]


class Generator:
    """A loaded model that answers questions. `model` is a checkpoint folder or Hub id."""

    def __init__(self, model: str, *, settings: GenerationSettings, device: torch.device | str = "cpu"):
        self.settings, self.device = settings, torch.device(device)
        self.processor = load_processor(model, settings)
        self._load_processor = partial(load_processor, model, settings)
        self._of_thread = threading.local()
        loaded = pretrained.load_weights(AutoModelForCausalLM, model, dtype=settings.dtype)
        self.model = loaded.to(self.device).eval()
        well_formed = TimeSpanLogitsProcessor(self.processor.tokenizer, codec=self.processor.time_codec)
        self._time_constraint = [well_formed] if settings.well_formed_times else []

    def answer(
        self, jobs: Iterable[Job], *, open_media: Callable[[Example], Media]
    ) -> Iterator[list[Answer] | Unreadable]:
        """Yields the answers to the questions of each job; jobs with one question are answered in batches."""
        if self.settings.window is not None:
            for example, questions in jobs:
                try:
                    yield self._answer_windows(example, open_media(example), questions)
                except MediaError as error:
                    yield Unreadable(example.video_id, str(error))
            return
        waiting: list[tuple[Example, _Encoded, Question]] = []
        for example, questions, decoding in self._decode_ahead(jobs, open_media):
            try:
                encoded = self._encode(*decoding.result())
            except MediaError as error:
                yield Unreadable(example.video_id, str(error))
                continue
            if len(questions) > 1:
                yield self._answer_shared(example, encoded, questions)
                continue
            waiting.append((example, encoded, questions[0]))
            if len(waiting) == (self.settings.batch_size or VIDEOS_AT_ONCE):
                yield self._answer_batch(waiting)
                waiting = []
        if waiting:
            yield self._answer_batch(waiting)

    def encode(self, media: Media) -> _Encoded:
        """Tower outputs of one video. MediaError, naming the file, if it cannot be read."""
        return self._encode(*self._decode(media))

    def _decode_ahead(
        self, jobs: Iterable[Job], open_media: Callable[[Example], Media]
    ) -> Iterator[tuple[Example, Sequence[Question], Future]]:
        """The jobs in order, each with the future of its media; at most two media per worker are kept in memory."""
        ahead: deque[tuple[Example, Sequence[Question], Future]] = deque()
        with ThreadPoolExecutor(self.settings.num_workers) as pool:
            for example, questions in jobs:
                decoding = pool.submit(lambda one: self._decode(open_media(one)), example)
                ahead.append((example, questions, decoding))
                if len(ahead) > 2 * self.settings.num_workers:
                    yield ahead.popleft()
            while ahead:
                yield ahead.popleft()

    def _decode(self, media: Media) -> tuple[Media, dict[str, torch.Tensor]]:
        """The media and the inputs of the towers; no inputs for cached media. May run in a worker thread."""
        if media.is_cached:
            return media, {}
        if not hasattr(self._of_thread, "processor"):
            self._of_thread.processor = self._load_processor()  # tokenizers are not thread-safe
        messages = [{"role": "user", "content": [media.block]}]
        processor = self._of_thread.processor
        return media, processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_metadata=True)

    @torch.no_grad()
    def _encode(self, media: Media, inputs: dict[str, torch.Tensor]) -> _Encoded:
        if media.is_cached:
            if media.duration is None:
                raise ValueError("cached features without a duration, such as those of a picture, cannot be evaluated")
            return _Encoded(media.video, media.audio, media.duration)
        video, audio = np.zeros((1, self.model.config.vision_feature_size), np.float32), None
        if "pixel_values_videos" in inputs:  # missing at an audio interleaving rate of 1
            frames = inputs["pixel_values_videos"].to(self.device, self.model.dtype)
            video = self.model.model.encode_video(frames).pooler_output[0].float().cpu().numpy()
        if "input_features" in inputs:
            windows = inputs["input_features"].to(self.device, self.model.dtype)
            audio = self.model.model.encode_audio(windows).pooler_output[0].float().cpu().numpy()
        return _Encoded(video, audio, media.duration or inputs["video_metadata"][0].duration)

    def _answer_batch(self, items: Sequence[tuple[Example, _Encoded, Question]]) -> list[Answer]:
        """One question each about different videos, in one left-padded batch."""
        said = answer_batch(
            self.model,
            processor=self.processor,
            media=[encoded.block for _, encoded, _ in items],
            questions=[question.prompt for _, _, question in items],
            durations=[encoded.duration for _, encoded, _ in items],
            **self._options(items[0][2]),
        )
        return [
            _answer(example, encoded.duration, question, said=answer)
            for (example, encoded, question), answer in zip(items, said, strict=True)
        ]

    def _answer_shared(self, example: Example, encoded: _Encoded, questions: Sequence[Question]) -> list[Answer]:
        """Several questions about one video, with one pass over their common beginning."""
        said = answer_questions(
            self.model,
            processor=self.processor,
            media=encoded.block,
            questions=[question.prompt for question in questions],
            duration=encoded.duration,
            batch_size=self.settings.batch_size or QUESTIONS_AT_ONCE,
            **self._options(questions[0]),
        )
        return [
            _answer(example, encoded.duration, question, said=answer)
            for question, answer in zip(questions, said, strict=True)
        ]

    def _answer_windows(self, example: Example, media: Media, questions: Sequence[Question]) -> list[Answer]:
        """Questions about a long video, in windows that are decoded one after the other."""
        if media.is_cached or any(question.kind == "text" for question in questions):
            raise ValueError("--window applies to media files and to questions whose answers name events")
        ends = [0.0]

        def read_windows() -> Iterator[Any]:
            for window in self.processor.prepare_windows(media.block, window=self.settings.window):
                ends.append(window.start + window.duration)
                yield window

        said = answer_windows(
            self.model,
            processor=self.processor,
            windows=read_windows(),
            questions=[question.prompt for question in questions],
            batch_size=self.settings.batch_size or QUESTIONS_AT_ONCE,
            **self._options(questions[0]),
        )
        offset = media.start or 0.0  # annotations count from the beginning of the part, windows from that of the file
        duration = media.duration or ends[-1] - offset
        said = [
            replace(answer, events=[replace(e, start=e.start - offset, end=e.end - offset) for e in answer.events])
            for answer in said
        ]
        return [_answer(example, duration, question, said=answer) for question, answer in zip(questions, said)]

    def _options(self, question: Question) -> dict:
        return {
            "max_new_tokens": self.settings.max_new_tokens,
            "num_beams": self.settings.num_beams,
            "do_sample": False,
            "logits_processor": self._time_constraint if question.kind != "text" else [],
        }


def load_processor(model: str, settings: GenerationSettings) -> ProcessorMixin:
    """The processor of a checkpoint with the token order of the settings. ValueError, with the name of the checkpoint,
    if it cannot be loaded."""
    processor = pretrained.load_processor(model)
    if settings.audio_interleaving_rate is not None:
        processor.audio_interleaving_rate = settings.audio_interleaving_rate
    if settings.interleaving is not None:
        processor.interleaving = settings.interleaving
    return processor


def _answer(example: Example, duration: float, question: Question, *, said: ModelAnswer) -> Answer:
    events = () if question.kind == "text" else tuple(replace(e, score=_rounded(e.score)) for e in said.events)
    return Answer(
        question_id=question.id,
        video_id=example.video_id,
        duration=duration,
        text=said.text.strip(),
        events=events,
        prompt=question.prompt,
        presence=None if question.kind == "text" else _rounded(said.presence),
        query=question.label,
    )


def _rounded(score: float | None) -> float | None:
    """Six decimals; more would depend on the composition of the batch."""
    return None if score is None else round(score, 6)
