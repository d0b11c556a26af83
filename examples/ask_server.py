"""Asks a server (docs/serve.md) when events happen in a video, and prints them with times in seconds.

    python examples/ask_server.py --video video.mp4 --query "dog barking" rain
    python examples/ask_server.py --video file:///data/film.mp4 --query "dog barking" --window 60

A path is sent with its content. An address (http://, file://) is read by the server, a file below the folder of its
`--allowed-local-media-path`. With `--window`, vLLM is asked about overlapping windows of a long video, and the
answers are joined as by `locate(video, query=..., window=...)`: the server decodes the windows, not this client.
"""

import base64
import json
import mimetypes
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from dataset_builders.command_line import one_line_errors, parse_options
from dataset_builders.input_settings import check_range
from modeling_avicuna.media_avicuna import probe
from modeling_avicuna.prompt_avicuna import GROUNDING_PROMPT, NARRATION_PROMPT
from modeling_avicuna.timestamp_avicuna import Event, TimeCodec, parse_events
from modeling_avicuna.windows_avicuna import join_windows, plan_windows


PROGRAM = "python examples/ask_server.py"


@dataclass
class ClientOptions:
    """Options of `python examples/ask_server.py`."""

    video: str = field(metadata={"help": "A path, or an http:// or file:// address that the server reads."})
    query: list[str] = field(default_factory=list, metadata={"help": "Events. Default: all events of the video."})
    address: str = field(default="http://127.0.0.1:8000", metadata={"help": "Of the server."})
    model: str | None = field(
        default=None, metadata={"help": "Folder that `transformers serve` serves. Default: the model of vLLM."}
    )
    window: float | None = field(default=None, metadata={"help": "Seconds of a window, for a long video; vLLM only."})
    max_new_tokens: int = field(default=256, metadata={"help": "Longest answer, in tokens."})
    num_workers: int = field(default=8, metadata={"help": "Requests at once."})

    def __post_init__(self):
        check_range(self, 1, "max_new_tokens", "num_workers")


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_options(ClientOptions, arguments, program=PROGRAM, description=__doc__.splitlines()[0])
    for event in locate(options):
        print(f"{event.start:8.2f} {event.end:8.2f}  {event.label}")


def locate(options: ClientOptions) -> list[Event]:
    """The events in seconds of the file, query by query.

    Raises:
        ValueError: there is no server, or it refuses the request: its message; `window` for another server than vLLM,
            which would ignore the part of the video that is asked about.
    """
    server = find_model(options.address) if options.model is None else None
    if options.window is not None and server is None:
        raise ValueError("--window needs vLLM: `transformers serve` answers about whole videos only")
    request: dict[str, Any] = {
        "model": server or options.model,
        "temperature": 0,
        "max_tokens": options.max_new_tokens,
    }
    if server is not None:
        request["vllm_xargs"] = {"well_formed_spans": True}  # as the pipeline
    duration = probe(local_path(options.video)).duration
    windows = [(0.0, duration)] if options.window is None else plan_windows(duration, window=options.window)
    video = {"type": "video_url", "video_url": {"url": as_address(options.video)}}
    questions = {query: GROUNDING_PROMPT.format(query=query) for query in options.query} or {None: NARRATION_PROMPT}

    def ask(part: tuple[float, float], question: str) -> str:
        place = {} if options.window is None else dict(zip(("start", "end"), part))
        content = [{**video, **place}, {"type": "text", "text": question}]
        messages = [{"role": "user", "content": content}]
        return complete(options.address, {**request, "messages": messages})

    found: list[Event] = []
    with ThreadPoolExecutor(options.num_workers) as pool:
        # all questions about a window follow each other: the server has its tokens already
        answers = {
            (query, window): pool.submit(ask, window, question)
            for window in windows
            for query, question in questions.items()
        }
        for query in questions:
            texts = [answers[query, window].result() for window in windows]
            found += join_answers(windows, texts, label=query)
    return found


def join_answers(windows: list[tuple[float, float]], texts: list[str], *, label: str | None = None) -> list[Event]:
    """The answers about the windows of a video as its events.

    >>> join_answers([(0.0, 60.0), (45.0, 105.0)], ["From 80 to 99.", "From 08 to 30."], label="rain")
    [Event(start=48.0, end=63.0, label='rain', score=None)]
    """
    events = [
        [
            replace(event, start=start + event.start, end=start + event.end, label=label or event.label)
            for event in parse_events(text, end - start)
        ]
        for (start, end), text in zip(windows, texts, strict=True)
    ]
    return join_windows(windows, events, resolution=TimeCodec().resolution(windows[0][1] - windows[0][0]))


def as_address(video: str) -> str:
    """The address of a video; for a path, a data URL with its content."""
    if "://" in video:
        return video
    media_type = mimetypes.guess_type(video)[0] or "video/mp4"
    return f"data:{media_type};base64,{base64.b64encode(Path(video).read_bytes()).decode()}"


def local_path(video: str) -> str:
    return url2pathname(urlsplit(video).path) if video.startswith("file:") else video


def find_model(address: str) -> str:
    """The name of the model that vLLM serves. Raises ValueError for another server."""
    models = call(f"{address}/v1/models")["data"]
    names = [model["id"] for model in models if model.get("owned_by") == "vllm"]
    if not names:
        raise ValueError(f"{address} is not vLLM: give the folder that it serves as --model")
    return names[0]


def complete(address: str, request: dict[str, Any]) -> str:
    """The answer to a chat completion request."""
    return call(f"{address}/v1/chat/completions", request)["choices"][0]["message"]["content"]


def call(address: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    content = None if body is None else json.dumps(body).encode()
    try:
        request = urllib.request.Request(address, content, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        raise ValueError(f"{address}: {error.code} {error.read().decode(errors='replace')}") from error
    except urllib.error.URLError as error:
        raise ValueError(f"{address}: no answer ({error.reason})") from error


if __name__ == "__main__":
    with one_line_errors(PROGRAM):
        main()
