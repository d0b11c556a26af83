"""A video file and a question in, events in seconds with scores out: everything in one call.

    locate = pipeline(task="audio-visual-event-localization", model=DIR_OR_ID, trust_remote_code=True)
    locate("video.mp4")                                           # every event
    locate("video.mp4", query=["dog barking", "rain"])            # when each of them happens
    locate("film.mp4", query="rain", window=60.0)                 # a long video, in overlapping windows of a minute

The processor decodes, `answering_avicuna` generates, and `prompt_avicuna` has the wording of the questions.
"""

import math
from functools import cached_property
from numbers import Real
from os import PathLike
from typing import Any

from transformers import AutoModelForCausalLM, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from .answering_avicuna import QUESTIONS_AT_ONCE, Answer, answer_batch, answer_questions
from .generation_avicuna import RepetitionLogitsProcessor, TimeSpanLogitsProcessor
from .prompt_avicuna import GROUNDING_PROMPT, NARRATION_PROMPT, SEGMENT_CAPTION_PROMPT
from .timestamp_avicuna import Event
from .window_answering_avicuna import answer_windows


TASK = "audio-visual-event-localization"
_MAX_NEW_TOKENS = 256  # our choice: about a dozen narrated events
DURATION_TOLERANCE = 1.0  # s; annotation files round durations
_QUESTIONS = ("query", "interval", "question")
_PART = ("start", "end", "window", "overlap")


class AVicunaPipeline(Pipeline):
    """Events of videos; see `__call__`. Made by `pipeline(task="audio-visual-event-localization", model=...)`."""

    _load_processor = True
    _load_tokenizer = False
    _load_feature_extractor = False
    _load_image_processor = False
    _load_video_processor = False

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.processor.check_configuration(self.model.config)

    def __call__(self, videos: Any, *, batch_size: int | None = None, **kwargs: Any) -> Any:
        """
        Args:
            videos (`str`, `os.PathLike`, binary file object, `dict`, or a `list` of them):
                Video files with their own sound. A `dict` is a content block of the chat template: a part of a video
                (`{"path": ..., "start": seconds, "end": seconds}`), a sound alone (`{"type": "audio", "path": ...}`),
                or cached features, which need a duration (`{"video_features": ..., "duration": seconds}`).
            query (`str` or `list[str]`, *optional*):
                When does this happen? Several queries share one encoding of the video.
            interval (`tuple[float, float]` or a `list` of them, *optional*):
                What happens from here to there? In seconds.
            question (`str` or `list[str]`, *optional*):
                Any question; the answer is text.
            start, end (`float`, *optional*):
                Look at this part of each video only, in seconds of the file.
            window (`float`, *optional*):
                Look at a long video in windows of this many seconds, each with the whole budget of tokens and its own
                sound. The file is decoded once. Events that continue in the next window are joined. For queries and
                for the list of all events.
            overlap (`float`, *optional*):
                Seconds that neighbouring windows share; a quarter of `window` by default.
            min_presence (`float`, *optional*):
                With `window`: ignore what the model says about a window if the presence score of its answer is lower.
                For models that always answer with a span.
            score (`str`, *optional*):
                How events are scored: "time_tokens" (default), "presence" or "constant"; see `score_events`.
            end_repetition (`bool`, *optional*):
                Continue with the next sentence where the model has written the same words three times in a row and
                would repeat them (`RepetitionLogitsProcessor`). By default it may repeat them up to the last token.
            batch_size (`int`, *optional*):
                Questions about one video, or videos, that are answered together at most; 128 and 1 by default.
            kwargs: `max_new_tokens` (256 by default), `num_beams` and other arguments of `generate`.

        Returns:
            For each video: without a question, the `list` of its events, each `{"start": seconds, "end": seconds,
            "label": str, "score": float or None}`; for a `query` such a list, empty where the model says that it does
            not happen, and for several `{query: list}`; for an `interval` one event (or a list); for a `question` a
            string (or a list). Times are those of the file, also where a part of it was looked at.

        Raises:
            MediaError: a file that cannot be used; the message names it.
            ValueError: more than one of `query`, `interval` and `question`, an interval outside of the video, an empty
                question or list of questions, a `duration` that is not that of the file, `window` with an `interval`
                or a `question`, `overlap` or `min_presence` without `window`, a number out of range, or settings of
                `generate` that give several answers to one question.
        """
        batch_size = self._batch_size if batch_size is None else batch_size
        if batch_size is not None:
            if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
                raise ValueError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")
            kwargs["questions_per_batch"] = batch_size
        if not isinstance(videos, (list, tuple)):
            # the base class makes batches by a data loader, which cannot pad videos
            return super().__call__(videos, batch_size=1, **kwargs)
        preprocess_params, forward_params, _ = self._sanitize_parameters(**kwargs)
        params = {**self._preprocess_params, **preprocess_params}
        forward_params = {**self._forward_params, **forward_params}
        step = forward_params.get("questions_per_batch", 1)
        results = []
        for begin in range(0, len(videos), step):  # as many decoded videos are in memory at once
            requests = [self.preprocess(video, **params) for video in videos[begin : begin + step]]
            if len(requests[0]["questions"]) == 1 and "windows" not in requests[0]:
                answered = self._forward_batch(requests, **forward_params)
            else:
                answered = [self.forward(request, **forward_params) for request in requests]
            results += [self.postprocess(outputs) for outputs in answered]
        return results

    def save_pretrained(self, save_directory: str | PathLike, **kwargs: Any) -> None:
        """Saves model, processor and their code; `pipeline(model=save_directory, ...)` loads it again."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)

    def _sanitize_parameters(
        self, questions_per_batch: int | None = None, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        asked = {name: kwargs.pop(name) for name in (*_QUESTIONS, *_PART) if name in kwargs}
        if len([name for name in _QUESTIONS if asked.get(name) is not None]) > 1:
            raise ValueError(f"give one of query, interval and question, got {asked}")
        if questions_per_batch is not None:
            kwargs["questions_per_batch"] = questions_per_batch
        return asked, kwargs, {}

    def preprocess(
        self,
        video: Any,
        query: str | list[str] | None = None,
        interval: tuple[float, float] | list | None = None,
        question: str | list[str] | None = None,
        start: float | None = None,
        end: float | None = None,
        window: float | None = None,
        overlap: float | None = None,
    ) -> dict[str, Any]:
        """A video and what is asked about it -> content block, its place in the file, and the questions."""
        if window is None and overlap is not None:
            raise ValueError(f"overlap={overlap} is given without window")
        if window is not None and (interval is not None or question is not None):
            raise ValueError(
                "window applies to queries and to the list of all events, not to an interval or a question"
            )
        block = _block(video, {"start": start, "end": end})
        request: dict[str, Any]
        if window is None:
            media, offset, duration = self._prepare(block)
            request = {"media": media, "offset": offset, "duration": duration}
        else:
            offset, duration = 0.0, math.inf  # answers about windows are in seconds of the file
            windows = self.processor.prepare_windows(block, window=window, overlap=overlap)
            request = {"windows": windows, "offset": offset, "duration": duration}
        if query is not None:
            kind, asked = "query", _as_list(query, of=str)
            questions = [GROUNDING_PROMPT.format(query=text) for text in asked]
        elif interval is not None:
            if isinstance(interval, list) and interval and not isinstance(interval[0], (list, tuple)):
                interval = tuple(interval)  # one pair as JSON writes it
            kind, asked = "interval", _as_list(interval, of=tuple)
            asked = [self._within(pair, first=offset, last=offset + duration) for pair in asked]
            questions = [self._segment_question(*pair, offset=offset, duration=duration) for pair in asked]
        elif question is not None:
            kind, asked = "question", _as_list(question, of=str)
            questions = asked
        else:
            kind, asked, questions = "narration", [None], [NARRATION_PROMPT]
        several = isinstance({"query": query, "interval": interval, "question": question}.get(kind), list)
        return {**request, "questions": questions, "kind": kind, "asked": asked, "several": several}

    def _prepare(self, block: dict) -> tuple[dict, float, float]:
        """The content block of an input, decoded, where it begins in its file and how long it is, in seconds."""
        duration = block.pop("duration", None)
        prepared = self.processor.prepare_media(block)
        if prepared.duration is not None:
            if duration is not None and abs(duration - prepared.duration) > DURATION_TOLERANCE:
                raise ValueError(f"duration={duration} is given for a medium of {prepared.duration:.3f} s: remove it")
            duration = prepared.duration
        if duration is None:
            raise ValueError(f"the length of this video is unknown: add its duration in seconds to {sorted(block)}")
        return {"type": prepared.kind, prepared.kind: prepared}, prepared.start, float(duration)

    def _forward(
        self,
        request: dict[str, Any],
        questions_per_batch: int = QUESTIONS_AT_ONCE,
        min_presence: float | None = None,
        **generate_kwargs: Any,
    ) -> dict:
        settings = self._generate_settings(request["kind"], generate_kwargs)
        if min_presence is not None and not 0 <= min_presence <= 1:
            raise ValueError(f"min_presence must be from 0 to 1, got {min_presence!r}")
        if "windows" in request:
            answers = answer_windows(
                self.model,
                processor=self.processor,
                windows=request.pop("windows"),
                questions=request["questions"],
                batch_size=questions_per_batch,
                min_presence=min_presence or 0.0,
                **settings,
            )
            return {**request, "answers": answers}
        if min_presence is not None:
            raise ValueError(f"min_presence={min_presence} is given without window")
        answers = answer_questions(
            self.model,
            processor=self.processor,
            media=request["media"],
            questions=request["questions"],
            duration=request["duration"],
            batch_size=questions_per_batch,
            **settings,
        )
        return {**request, "answers": answers}

    def _forward_batch(
        self, requests: list[dict[str, Any]], questions_per_batch: int = 1, **generate_kwargs: Any
    ) -> list[dict[str, Any]]:
        """One question about each of several videos, as one padded batch."""
        with self.device_placement(), self.get_inference_context()():
            answers = answer_batch(
                self.model,
                processor=self.processor,
                media=[request["media"] for request in requests],
                questions=[request["questions"][0] for request in requests],
                durations=[request["duration"] for request in requests],
                **self._generate_settings(requests[0]["kind"], generate_kwargs),
            )
        return [{**request, "answers": [answer]} for request, answer in zip(requests, answers)]

    def postprocess(self, outputs: dict[str, Any]) -> Any:
        """Answers -> plain dicts, lists and strings, in the shape of what was asked."""
        results = [self._result(outputs, index) for index in range(len(outputs["answers"]))]
        if not outputs["several"]:
            return results[0]
        return dict(zip(outputs["asked"], results)) if outputs["kind"] == "query" else results

    def _result(self, outputs: dict[str, Any], index: int) -> Any:
        answer: Answer = outputs["answers"][index]
        asked = outputs["asked"][index]
        if outputs["kind"] == "question":
            return answer.text.strip()
        if outputs["kind"] == "interval":
            return _as_dict(Event(asked[0], asked[1], answer.text.strip().rstrip(".")))
        # the answer to a query has times only; the label is the query
        return [_as_dict(event, offset=outputs["offset"], label=asked) for event in answer.events]

    def _generate_settings(self, kind: str, generate_kwargs: dict) -> dict:
        settings = dict(generate_kwargs)
        ends_repetition = settings.pop("end_repetition", False)
        limits = ("max_new_tokens", "max_length", "generation_config")
        if not any(name in settings for name in limits) and self.model.generation_config.max_new_tokens is None:
            settings["max_new_tokens"] = _MAX_NEW_TOKENS
        if kind in ("query", "narration"):
            settings["logits_processor"] = [*settings.get("logits_processor", ()), self._well_formed_spans]
        if ends_repetition:
            settings["logits_processor"] = [*settings.get("logits_processor", ()), self._without_repetition]
        return settings

    @cached_property
    def _well_formed_spans(self) -> TimeSpanLogitsProcessor:
        return TimeSpanLogitsProcessor(self.processor.tokenizer, codec=self.processor.time_codec)

    @cached_property
    def _without_repetition(self) -> RepetitionLogitsProcessor:
        return RepetitionLogitsProcessor(self.processor.tokenizer)

    def _within(self, pair: Any, *, first: float, last: float) -> tuple[float, float]:
        """An interval that was asked about; its end may exceed the video by less than two written times differ."""
        if len(pair) != 2 or not all(isinstance(time, Real) for time in pair):
            raise ValueError(f"an interval is a pair of numbers (start, end) in seconds, got {pair!r}")
        start, end = pair
        if not first <= start < min(end, last) or end > last + self.processor.time_codec.resolution(last - first):
            raise ValueError(f"the interval ({start}, {end}) is not within the video, {first:.3f} to {last:.3f} s")
        return float(start), min(float(end), last)

    def _segment_question(self, start: float, end: float, *, offset: float, duration: float) -> str:
        times = (self.processor.time_codec.encode(seconds - offset, duration) for seconds in (start, end))
        return SEGMENT_CAPTION_PROMPT.format(**dict(zip(("start", "end"), times)))


def _block(video: Any, part: dict[str, float | None]) -> dict:
    """The content block of an input, with the part that is asked about."""
    block = {"type": "video", **video} if isinstance(video, dict) else {"type": "video", "path": video}
    for name, seconds in part.items():
        if seconds is not None and block.get(name) is not None:
            raise ValueError(f"{name} is given twice, as {seconds} and in the content block as {block[name]}")
        if seconds is not None:
            block[name] = seconds
    return block


def _as_list(asked: Any, *, of: type) -> list:
    if isinstance(asked, list):
        if not asked:
            raise ValueError("got an empty list of questions")
        wrong = [item for item in asked if not isinstance(item, (of, list) if of is tuple else of)]
    else:
        wrong, asked = [] if isinstance(asked, of) else [asked], [asked]
    if wrong:
        raise ValueError(f"expected a {of.__name__} or a list of them, got {wrong[0]!r}")
    if empty := [item for item in asked if isinstance(item, str) and not item.strip()]:
        raise ValueError(f"a question is empty: {empty[0]!r}")
    return asked


def _as_dict(event: Event, *, offset: float = 0.0, label: str | None = None) -> dict[str, Any]:
    return {
        "start": offset + event.start,
        "end": offset + event.end,
        "label": event.label if label is None else label,
        "score": event.score,
    }


# also run from a checkpoint's own code, so that pipeline(TASK, model=loaded_model) works without the package
if TASK not in PIPELINE_REGISTRY.get_supported_tasks():
    PIPELINE_REGISTRY.register_pipeline(
        TASK, pipeline_class=AVicunaPipeline, pt_model=AutoModelForCausalLM, type="multimodal"
    )
