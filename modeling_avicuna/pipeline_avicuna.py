"""The whole use flow in one call: a video file and a question in, events in seconds with scores out.

    pipe = pipeline(task="audio-visual-event-localization", model=DIR_OR_ID, trust_remote_code=True)
    pipe("video.mp4")                                           # every event
    pipe("video.mp4", query=["dog barking", "rain"])            # when each of them happens

It only joins the parts: the processor decodes, `answering_avicuna` generates, `prompt_avicuna` words the questions.
"""

from functools import cached_property
from typing import Any

from transformers import AutoModelForCausalLM, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from .answering_avicuna import Answer, answer_batch, answer_questions
from .generation_avicuna import TimeSpanLogitsProcessor
from .prompt_avicuna import GROUNDING_PROMPT, NARRATION_PROMPT, SEGMENT_CAPTION_PROMPT
from .timestamp_avicuna import Event


TASK = "audio-visual-event-localization"
_MAX_NEW_TOKENS = 256  # our choice: about a dozen narrated events
_TASK_ARGUMENTS = ("query", "interval", "question")


class AVicunaPipeline(Pipeline):
    """Events of videos; see `__call__`. Made by `pipeline(task="audio-visual-event-localization", model=...)`."""

    _load_processor = True
    _load_tokenizer = False
    _load_feature_extractor = False
    _load_image_processor = False
    _load_video_processor = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.processor.check_configuration(self.model.config)

    def __call__(self, videos, *, batch_size: int | None = None, **kwargs):
        """
        Args:
            videos (`str`, `os.PathLike`, binary file object, `dict`, or a `list` of them):
                Video files with their own sound. A `dict` is a content block of the chat template: a part of a video
                (`{"path": ..., "start": seconds, "end": seconds}`), a sound alone (`{"type": "audio", "path": ...}`),
                or cached features, which need a duration (`{"video_features": ..., "duration": seconds}`).
            query (`str` or `list[str]`, *optional*):
                When does this happen? Several queries share one encoding of the video.
            interval (`tuple[float, float]` or a `list` of them, *optional*):
                What happens from here to there? Seconds.
            question (`str` or `list[str]`, *optional*):
                Any question, answered in words.
            batch_size (`int`, *optional*):
                Questions about one video, or videos, that are answered together; 32 and 1 by default.
            kwargs: `max_new_tokens` (256 by default), `num_beams` and whatever else `generate` takes.

        Returns:
            For each video: without a question, the `list` of its events, each `{"start": seconds, "end": seconds,
            "label": str, "score": float or None}`; for a `query` such a list, for several `{query: list}`; for an
            `interval` one event (or a list); for a `question` a string (or a list). Scores are explained at
            `score_events`.

        Raises:
            MediaError: a file that cannot be used; the message names it.
            ValueError: more than one of `query`, `interval` and `question`, an interval outside of the video, or an
                empty list of questions.
        """
        batch_size = self._batch_size if batch_size is None else batch_size
        if batch_size is not None:
            kwargs["questions_per_batch"] = batch_size
        if not isinstance(videos, (list, tuple)):
            # the base class's own batches are a data loader's, which cannot pad videos
            return super().__call__(videos, batch_size=1, **kwargs)
        preprocess_params, forward_params, _ = self._sanitize_parameters(**kwargs)
        params = {**self._preprocess_params, **preprocess_params}
        forward_params = {**self._forward_params, **forward_params}
        step = forward_params.get("questions_per_batch", 1)
        results = []
        for begin in range(0, len(videos), step):  # as many decoded videos are in memory at once
            requests = [self.preprocess(video, **params) for video in videos[begin : begin + step]]
            if len(requests[0]["questions"]) == 1:
                answered = self._forward_batch(requests, **forward_params)
            else:
                answered = [self.forward(request, **forward_params) for request in requests]
            results += [self.postprocess(outputs) for outputs in answered]
        return results

    def save_pretrained(self, save_directory, **kwargs):
        """Saves model, processor and their code; `pipeline(model=save_directory, ...)` loads it again."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)

    def _sanitize_parameters(self, questions_per_batch: int | None = None, **kwargs):
        asked = {name: kwargs.pop(name) for name in _TASK_ARGUMENTS if name in kwargs}
        if len([name for name, value in asked.items() if value is not None]) > 1:
            raise ValueError(f"give one of query, interval and question, got {asked}")
        if questions_per_batch is not None:
            kwargs["questions_per_batch"] = questions_per_batch
        return asked, kwargs, {}

    def preprocess(self, video, query=None, interval=None, question=None) -> dict:
        """A video and what is asked about it -> content block, duration, questions, and the shape of the result."""
        media, duration = self._prepare(video)
        if query is not None:
            kind, asked = "query", _as_list(query, of=str)
            questions = [GROUNDING_PROMPT.format(query=text) for text in asked]
        elif interval is not None:
            if isinstance(interval, list) and interval and not isinstance(interval[0], (list, tuple)):
                interval = tuple(interval)  # one pair as JSON writes it
            kind, asked = "interval", _as_list(interval, of=tuple)
            questions = [self._segment_question(*pair, duration=duration) for pair in asked]
        elif question is not None:
            kind, asked = "question", _as_list(question, of=str)
            questions = asked
        else:
            kind, asked, questions = "narration", [None], [NARRATION_PROMPT]
        several = isinstance({"query": query, "interval": interval, "question": question}.get(kind), list)
        request = {"media": media, "duration": duration, "questions": questions}
        return {**request, "kind": kind, "asked": asked, "several": several}

    def _prepare(self, video: Any) -> tuple[dict, float]:
        """The content block of an input, decoded, and its duration in seconds."""
        block = {"type": "video", **video} if isinstance(video, dict) else {"type": "video", "path": video}
        duration = block.pop("duration", None)
        prepared = self.processor.prepare_media(block)
        duration = prepared.duration if duration is None else duration
        if duration is None:
            raise ValueError(f"the length of this video is unknown: add its duration in seconds to {sorted(block)}")
        return {"type": prepared.kind, prepared.kind: prepared}, float(duration)

    def _forward(self, request: dict, questions_per_batch: int = 32, **generate_kwargs) -> dict:
        answers = answer_questions(
            self.model,
            processor=self.processor,
            media=request["media"],
            questions=request["questions"],
            duration=request["duration"],
            batch_size=questions_per_batch,
            **self._generate_settings(request["kind"], generate_kwargs),
        )
        return {**request, "answers": answers}

    def _forward_batch(self, requests: list[dict], questions_per_batch: int = 1, **generate_kwargs) -> list[dict]:
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

    def postprocess(self, outputs: dict):
        """Answers -> plain dicts, lists and strings, in the shape of what was asked."""
        results = [self._result(outputs, index) for index in range(len(outputs["answers"]))]
        if not outputs["several"]:
            return results[0]
        return dict(zip(outputs["asked"], results)) if outputs["kind"] == "query" else results

    def _result(self, outputs: dict, index: int):
        answer: Answer = outputs["answers"][index]
        asked = outputs["asked"][index]
        if outputs["kind"] == "question":
            return answer.text.strip()
        if outputs["kind"] == "interval":
            return _as_dict(Event(float(asked[0]), float(asked[1]), answer.text.strip().rstrip(".")))
        # the answer to a query names the times; what happens then was said in the query
        return [_as_dict(event, label=asked) for event in answer.events]

    def _generate_settings(self, kind: str, generate_kwargs: dict) -> dict:
        settings = dict(generate_kwargs)
        limits = ("max_new_tokens", "max_length", "generation_config")
        if not any(name in settings for name in limits) and self.model.generation_config.max_new_tokens is None:
            settings["max_new_tokens"] = _MAX_NEW_TOKENS
        if kind in ("query", "narration"):
            settings["logits_processor"] = [*settings.get("logits_processor", ()), self._well_formed_spans]
        return settings

    @cached_property
    def _well_formed_spans(self) -> TimeSpanLogitsProcessor:
        return TimeSpanLogitsProcessor(self.processor.tokenizer, codec=self.processor.time_codec)

    def _segment_question(self, start: float, end: float, *, duration: float) -> str:
        if not 0.0 <= start < end or start >= duration:
            raise ValueError(f"the interval ({start}, {end}) is not within a video of {duration:.3f} s")
        codec = self.processor.time_codec
        return SEGMENT_CAPTION_PROMPT.format(start=codec.encode(start, duration), end=codec.encode(end, duration))


def _as_list(asked, *, of: type) -> list:
    if isinstance(asked, list):
        if not asked:
            raise ValueError("got an empty list of questions")
        return asked
    if not isinstance(asked, of):
        raise ValueError(f"expected a {of.__name__} or a list of them, got {asked!r}")
    return [asked]


def _as_dict(event: Event, *, label: str | None = None) -> dict:
    return {
        "start": event.start,
        "end": event.end,
        "label": event.label if label is None else label,
        "score": event.score,
    }


# a checkpoint's own code registers it, too, so that pipeline(TASK, model=loaded_model) works without the package
if TASK not in PIPELINE_REGISTRY.get_supported_tasks():
    PIPELINE_REGISTRY.register_pipeline(
        TASK, pipeline_class=AVicunaPipeline, pt_model=AutoModelForCausalLM, type="multimodal"
    )
