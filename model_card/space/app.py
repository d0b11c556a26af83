"""A Gradio page for AVicuna: the events of a video on a time line, below its frames and its waveform, and as a table;
or the answer to a question.

    AVICUNA_MODEL=examples/sandbox_checkpoint AVICUNA_EXAMPLE=video.mp4 python app.py

The complete program of a Space, assembled by `model_card/release/space_release.py`. It does not import this project:
the code of the model is part of the checkpoint. Requests are answered one at a time. Uploads are deleted within two
hours.
"""

import base64
import html
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import PIL.Image
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from transformers import Pipeline, PreTrainedConfig, pipeline
from transformers.dynamic_module_utils import get_class_from_dynamic_module


MODEL_ID = "user/avicuna"  # replaced by the id of the released model
EXAMPLE = "example.mp4"  # example video of a release
COLUMNS = ["start", "end", "event", "score"]
MAX_FILE_SIZE = "500mb"  # our choice
KEPT = 3600  # seconds for which an upload is kept; our choice
TICK_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600)  # seconds
LONG, WINDOW = 120.0, 60.0  # seconds: longer videos are looked at in windows of a minute; our choice
NUM_FRAMES, FRAME_HEIGHT = 16, 64  # frames above the time line, and their height in pixels
NUM_BARS = 240  # of the waveform
READ_SECONDS = 60.0  # of sound that are in memory at once
MIN_WIDTH = 0.5  # percent of the time line; our choice, so that the shortest event can be seen and clicked

INTRODUCTION = """
# AVicuna: what happens in a video, and when?
The model `{name}` uses pictures and sound. Upload a video, then list its events or ask a question about it. Click an
event in the time line to play the video from its start.
"""
NOTHING_YET = '<div class="hint">The time line of the events appears here.</div>'
NOTHING_FOUND = '<div class="hint">The model found no such event in the video.</div>'
STYLE = """
.hint { color: var(--body-text-color-subdued); padding: 12px 2px; }
.lane { display: flex; align-items: center; margin: 3px 0; }
.name { flex: 0 0 30%; padding-right: 10px; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.track { position: relative; flex: 1; height: 24px; border-radius: 4px; background: var(--background-fill-secondary); }
.event { position: absolute; top: 2px; height: 20px; border: 0; border-radius: 4px; cursor: pointer; }
.event:hover, .event:focus { outline: 2px solid var(--body-text-color); }
.axis .track { height: 20px; background: none; border-top: 1px solid var(--border-color-primary); border-radius: 0; }
.tick { position: absolute; top: 2px; transform: translateX(-50%); font-size: 12px; white-space: nowrap;
        color: var(--body-text-color-subdued); }
.tick:first-child { transform: none; }
.frames .track { display: flex; height: 48px; overflow: hidden; }
.frames img { flex: 1; min-width: 0; height: 48px; object-fit: cover; }
.sound .track { height: 40px; }
.sound svg { display: block; width: 100%; height: 40px; fill: var(--body-text-color-subdued); }
"""
SEEK = """
element.addEventListener("click", (click) => {
    const event = click.target.closest("[data-start]");
    const video = document.querySelector("#video video");
    if (event && video) { video.currentTime = Number(event.dataset.start); video.play(); }
});
"""


def split_queries(text: str) -> list[str]:
    """The queries of a comma-separated text, without duplicates.

    >>> split_queries("dog barking, rain,,dog barking ")
    ['dog barking', 'rain']
    """
    return list(dict.fromkeys(query for part in text.split(",") if (query := part.strip())))


def table_rows(events: list[dict]) -> list[list]:
    """Rows of `COLUMNS`, times in seconds, by start; an event without a score has an empty cell.

    >>> table_rows([{"start": 3.0, "end": 4.126, "label": "rain", "score": None}])
    [[3.0, 4.13, 'rain', '']]
    """
    return [
        [
            round(event["start"], 2),
            round(event["end"], 2),
            event["label"],
            "" if event["score"] is None else round(event["score"], 2),
        ]
        for event in sorted(events, key=lambda event: (event["start"], event["end"]))
    ]


def assign_lanes(events: list[dict]) -> list[list[dict]]:
    """Lanes of non-overlapping events with one label. Lanes of a label are adjacent; labels are ordered by start."""
    lanes: dict[str, list[list[dict]]] = {}
    for event in sorted(events, key=lambda event: (event["start"], event["end"])):
        own = lanes.setdefault(event["label"], [])
        free = next((lane for lane in own if lane[-1]["end"] <= event["start"]), None)
        if free is None:
            own.append([event])
        else:
            free.append(event)
    return [lane for own in lanes.values() for lane in own]


def tick_seconds(duration: float) -> list[float]:
    """At most seven round times from 0 to `duration`; above six hours, multiples of `duration / 6`.

    >>> tick_seconds(11.0)
    [0, 2, 4, 6, 8, 10]
    """
    step = next((step for step in TICK_STEPS if duration <= 6 * step), duration / 6)
    return [number * step for number in range(int(duration / step) + 1)]


def clock(seconds: float, *, duration: float) -> str:
    """A time as text: seconds in a short video, minutes and seconds in a long one.

    >>> clock(7.5, duration=30.0), clock(75.0, duration=180.0)
    ('7.5 s', '1:15')
    """
    return f"{seconds:.3g} s" if duration < 120 else f"{int(seconds // 60)}:{int(seconds % 60):02d}"


def draw_timeline(events: list[dict], *, duration: float, tracks: str = "") -> str:
    """Events of a video of `duration` seconds as HTML: `tracks` above, one lane per label or more if its events
    overlap, and an axis."""
    lanes = assign_lanes(events)
    labels = list(dict.fromkeys(lane[0]["label"] for lane in lanes))
    rows, previous = [], None
    for lane in lanes:
        label = lane[0]["label"]
        color = f"hsl({labels.index(label) * 137 % 360}, 60%, 50%)"  # the golden angle makes adjacent colours differ
        bars = "".join(draw_event(event, duration=duration, color=color) for event in lane)
        rows.append(draw_lane(bars, name="" if label == previous else label))
        previous = label
    ticks = "".join(
        f'<span class="tick" style="left:{100 * seconds / duration:.3f}%">{clock(seconds, duration=duration)}</span>'
        for seconds in tick_seconds(duration)
    )
    hint = "" if events else NOTHING_FOUND
    return f'<div class="timeline">{tracks}{"".join(rows)}{draw_lane(ticks, kind="axis")}{hint}</div>'


def draw_lane(content: str, *, name: str = "", kind: str = "") -> str:
    """A row with a name and a track that is as wide as the video is long; `content` is HTML."""
    name = html.escape(name)
    return (
        f'<div class="lane {kind}"><div class="name" title="{name}">{name}</div>'
        f'<div class="track">{content}</div></div>'
    )


def draw_frames(pictures: np.ndarray) -> str:
    """A row of frames, uint8 of shape `(num_frames, height, width, 3)`, evenly spaced in time."""
    images = []
    for picture in pictures:
        image = PIL.Image.fromarray(picture)
        image = image.resize((max(1, round(image.width * FRAME_HEIGHT / image.height)), FRAME_HEIGHT))
        content = io.BytesIO()
        image.save(content, format="JPEG", quality=80)
        encoded = base64.b64encode(content.getvalue()).decode()
        images.append(f'<img alt="" src="data:image/jpeg;base64,{encoded}">')
    return draw_lane("".join(images), name="frames", kind="frames")


def draw_sound(peaks: list[float]) -> str:
    """A waveform: the peaks of equal parts of the video, 0 to 1."""
    bars = "".join(
        f'<rect x="{index}" y="{50 - 50 * min(peak, 1.0):.1f}" width="0.8" height="{100 * min(peak, 1.0):.1f}"></rect>'
        for index, peak in enumerate(peaks)
        if peak > 0
    )
    svg = f'<svg viewBox="0 0 {len(peaks)} 100" preserveAspectRatio="none">{bars}</svg>'
    return draw_lane(svg, name="sound", kind="sound")


def read_peaks(path: str, *, duration: float) -> list[float]:
    """The largest sample, 0 to 1, of each of `NUM_BARS` equal parts of a video of `duration` seconds, as the model
    hears it; empty without sound. Damaged parts are silent."""
    media_file, sound_of = (
        get_class_from_dynamic_module(f"media_avicuna.{name}", model_name()) for name in ("MediaFile", "Sound")
    )
    rate = load_model().processor.feature_extractor.sampling_rate
    edges = np.linspace(0, duration * rate, NUM_BARS + 1).round().astype(int)
    at_once = max(1, int(READ_SECONDS / duration * NUM_BARS))  # parts in memory
    peaks: list[float] = []
    with media_file(path) as media:
        if media.sound is None:
            return []
        sound = sound_of(media, sampling_rate=rate)
        for begin in range(0, NUM_BARS, at_once):
            parts = edges[begin : begin + at_once + 1].tolist()
            waveforms = sound.read(list(zip(parts, parts[1:])))
            peaks += [float(np.abs(waveform).max(initial=0.0)) for waveform in waveforms]
    return peaks


def draw_tracks(video: str, prepared: Any) -> str:
    """What the model saw and heard of a video: some of its frames, and the waveform."""
    tracks = ""
    if prepared.pictures is not None:
        processor = load_model().processor.video_processor
        shown = np.linspace(0, len(prepared.pictures) - 1, min(NUM_FRAMES, len(prepared.pictures))).round().astype(int)
        pixels = prepared.pictures[shown].permute(0, 2, 3, 1).float().numpy()  # [F, height, width, 3]
        pixels = (pixels * np.array(processor.image_std) + np.array(processor.image_mean)) * 255
        tracks += draw_frames(np.clip(pixels, 0, 255).astype(np.uint8))
    peaks = read_peaks(video, duration=prepared.duration)
    return tracks + (draw_sound(peaks) if peaks else "")


def draw_event(event: dict, *, duration: float, color: str) -> str:
    """One event as a bar, clipped to the track."""
    start, end = (min(max(event[side] / duration, 0.0), 1.0) * 100 for side in ("start", "end"))
    width = max(end - start, MIN_WIDTH)
    left = min(start, 100 - width)
    score = "" if event["score"] is None else f", score {event['score']:.2f}"
    description = html.escape(f"{event['label']}: {event['start']:.1f} to {event['end']:.1f} s{score}")
    style = f"left:{left:.3f}%;width:{width:.3f}%;background:{color}"
    return (
        f'<button type="button" class="event" data-start="{event["start"]:.3f}" style="{style}" title="{description}" '
        f'aria-label="{description}"></button>'
    )


def model_name() -> str:
    return os.environ.get("AVICUNA_MODEL") or MODEL_ID


@cache
def load_model() -> Pipeline:
    """The pipeline of the checkpoint, on a GPU if there is one. Loaded once."""
    return pipeline(task="audio-visual-event-localization", model=model_name(), trust_remote_code=True)


def explain_times(config: PreTrainedConfig) -> str:
    """Explains the times in a free-text answer."""
    if config.time_unit == "seconds":
        return "Times in the answer are seconds."
    return f"Times in the answer range from 0 (start of the video) to {config.num_time_bins - 1} (end of the video)."


def find_example() -> str | None:
    """`AVICUNA_EXAMPLE`, or the example video in the repository or folder of the model, if it has one."""
    if given := os.environ.get("AVICUNA_EXAMPLE"):
        return given
    folder = Path(model_name())
    if folder.is_dir():
        return str(folder / EXAMPLE) if (folder / EXAMPLE).is_file() else None
    try:
        return hf_hub_download(model_name(), EXAMPLE)
    except (EntryNotFoundError, LocalEntryNotFoundError):
        return None


@contextmanager
def errors_for_visitors(video: str | None) -> Iterator[None]:
    """Shows a file that cannot be used, or a wrong question, as a message on the page."""
    if not video:
        raise gr.Error("No video: upload one or use the example.", print_exception=False)
    try:
        yield
    except (ValueError, OSError) as error:
        message = str(error).replace(f"{Path(video).parent}{os.sep}", "")  # the file name alone
        raise gr.Error(html.escape(message, quote=False), print_exception=False) from error


def find_events(video: str | None, query: str) -> tuple[str, list[list]]:
    """Time line and table of the events in `query`, or of all events if it is empty."""
    queries = split_queries(query or "")
    with errors_for_visitors(video):
        locate = load_model()
        prepared = locate.processor.prepare_media({"type": "video", "path": video})
        if prepared.duration > LONG:  # decoded once more, in windows
            answer = locate(video, query=queries or None, window=WINDOW, end_repetition=True)
        else:
            answer = locate(prepared, query=queries or None, end_repetition=True)
        tracks = draw_tracks(str(video), prepared)
    events = [event for found in answer.values() for event in found] if queries else answer
    return draw_timeline(events, duration=prepared.duration, tracks=tracks), table_rows(events)


def answer_question(video: str | None, question: str) -> str:
    """The answer of the model as text."""
    if not (question or "").strip():
        raise gr.Error("No question: enter one.", print_exception=False)
    with errors_for_visitors(video):
        return load_model()(video, question=question.strip(), end_repetition=True)


def forget_answers() -> tuple[str, list, str]:
    """Clears the outputs when the video changes."""
    return NOTHING_YET, [], ""


def build_demo() -> gr.Blocks:
    """The page. Its two buttons are the API endpoints `/locate` and `/ask`."""
    model, name = load_model().model, model_name()
    name = Path(name).name if Path(name).is_dir() else name
    with gr.Blocks(title="AVicuna in the browser", analytics_enabled=False, delete_cache=(KEPT, KEPT)) as demo:
        gr.Markdown(INTRODUCTION.format(name=name))
        with gr.Row():
            with gr.Column(scale=3):
                video = gr.Video(label="Video", sources=["upload"], height=360, elem_id="video")
                timeline = gr.HTML(
                    NOTHING_YET, label="Time line", css_template=STYLE, js_on_load=SEEK, elem_id="timeline"
                )
                if example := find_example():
                    gr.Examples([[example]], inputs=[video], label="Example")
            with gr.Column(scale=2):
                query = gr.Textbox(
                    label="When does it happen?",
                    info="One event, or several separated by commas. Empty: every event of the video.",
                    placeholder="dog barking, rain falling",
                    elem_id="query",
                )
                find = gr.Button("Find events", variant="primary", elem_id="find")
                table = gr.Dataframe(
                    label="Events (times in seconds)",
                    headers=COLUMNS,
                    datatype=["number", "number", "str", "number"],
                    column_widths=["18%", "18%", "46%", "18%"],
                    type="array",
                    interactive=False,
                    wrap=True,
                    elem_id="events",
                )
                question = gr.Textbox(
                    label="Or ask a question", placeholder="Which sounds are heard?", elem_id="question"
                )
                ask = gr.Button("Ask", elem_id="ask")
                answer = gr.Textbox(
                    label="Answer", info=explain_times(model.config), lines=3, interactive=False, elem_id="answer"
                )
        one_at_a_time = {"concurrency_limit": 1, "concurrency_id": "model"}
        finding, asking = [find.click, query.submit], [ask.click, question.submit]
        gr.on(finding, find_events, [video, query], [timeline, table], api_name="locate", **one_at_a_time)
        gr.on(asking, answer_question, [video, question], [answer], api_name="ask", **one_at_a_time)
        video.change(forget_answers, None, [timeline, table, answer], api_visibility="private", queue=False)
    return demo


def main() -> None:
    # server-side rendering needs Node.js
    build_demo().queue().launch(max_file_size=MAX_FILE_SIZE, run_history=False, ssr_mode=False)


if __name__ == "__main__":
    main()
