"""A Gradio page for AVicuna: shows the events of a video as a time line and a table, or answers a question about it.

    AVICUNA_MODEL=outputs/demo/stage4 python app.py

The complete program of a Space, assembled by `model_card/release/space_release.py`. It does not import this project:
the code of the model is part of the checkpoint. Requests are answered one at a time. Uploads are deleted within two
hours.
"""

import html
import os
from functools import cache
from pathlib import Path

import gradio as gr
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from transformers import Pipeline, PreTrainedConfig, pipeline


MODEL_ID = "user/avicuna"  # replaced by the id of the released model
EXAMPLE = "example.mp4"  # example video of a release
COLUMNS = ["start", "end", "event", "score"]
MAX_FILE_SIZE = "500mb"  # our choice
KEPT = 3600  # seconds for which an upload is kept; our choice
TICK_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600)  # seconds
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


def draw_timeline(events: list[dict], *, duration: float) -> str:
    """Events of a video of `duration` seconds as HTML: one lane per label, more if its events overlap, and an axis."""
    if not events:
        return NOTHING_FOUND
    lanes = assign_lanes(events)
    labels = list(dict.fromkeys(lane[0]["label"] for lane in lanes))
    rows, previous = [], None
    for lane in lanes:
        label = lane[0]["label"]
        color = f"hsl({labels.index(label) * 137 % 360}, 60%, 50%)"  # the golden angle makes adjacent colours differ
        bars = "".join(draw_event(event, duration=duration, color=color) for event in lane)
        name = "" if label == previous else html.escape(label)
        rows.append(
            f'<div class="lane"><div class="name" title="{name}">{name}</div><div class="track">{bars}</div></div>'
        )
        previous = label
    ticks = "".join(
        f'<span class="tick" style="left:{100 * seconds / duration:.3f}%">{clock(seconds, duration=duration)}</span>'
        for seconds in tick_seconds(duration)
    )
    axis = f'<div class="lane axis"><div class="name"></div><div class="track">{ticks}</div></div>'
    return f'<div class="timeline">{"".join(rows)}{axis}</div>'


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
    """The example video in the repository or folder of the model, if it has one."""
    folder = Path(model_name())
    if folder.is_dir():
        return str(folder / EXAMPLE) if (folder / EXAMPLE).is_file() else None
    try:
        return hf_hub_download(model_name(), EXAMPLE)
    except (EntryNotFoundError, LocalEntryNotFoundError):
        return None


def ask_model(video: str | None, **asked):
    """What the pipeline answers, and the video's duration in seconds; `gr.Error` for what cannot be used."""
    if not video:
        raise gr.Error("No video: upload one or use the example.", print_exception=False)
    locate = load_model()
    try:
        prepared = locate.processor.prepare_media({"type": "video", "path": video})  # decoded once
        return locate(prepared, **asked), prepared.duration
    except (ValueError, OSError) as error:
        message = str(error).replace(f"{Path(video).parent}{os.sep}", "")  # the file name alone
        raise gr.Error(html.escape(message, quote=False), print_exception=False) from error


def find_events(video: str | None, query: str) -> tuple[str, list[list]]:
    """Time line and table of the events in `query`, or of all events if it is empty."""
    queries = split_queries(query or "")
    answer, duration = ask_model(video, query=queries or None)
    events = [event for found in answer.values() for event in found] if queries else answer
    return draw_timeline(events, duration=duration), table_rows(events)


def answer_question(video: str | None, question: str) -> str:
    """The answer of the model as text."""
    if not (question or "").strip():
        raise gr.Error("No question: enter one.", print_exception=False)
    return ask_model(video, question=question.strip())[0]


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
                    placeholder="dog barking, rain",
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
