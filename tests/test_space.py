"""The Space of a release: pure functions, the folder, and the running app with a client and in a browser."""

import ast
import importlib
import importlib.metadata
import importlib.util
import json
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from huggingface_hub import HfApi, SpaceCard
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from model_card.release import space_release
from model_card.release.space_release import (
    ASK_APP,
    CONSTRAINTS,
    MODEL_LINE,
    REQUIRED_PACKAGES,
    UNDECLARED_MODULES,
    assemble_space,
    find_space_problems,
    read_pins,
    run_app,
    verify_space,
)
from model_card.release.upload import upload
from modeling_avicuna.media_avicuna import MediaError
from tests.hub_server import TOKEN
from tests.media_files import pictures, tone, write_media, write_ramp
from train.initialize import build_tiny


ANSWER = "From 10 to 40, a dog barking. From 30 to 99, rain falling."  # the only answer of the tiny model
SPANS = [(1.0, 4.0), (3.0, 9.9)]  # its times in a video of ten seconds
BROWSER_FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1280,1150"
).split()
needs_gradio = pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="Gradio is not installed")


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    """A tiny checkpoint that always generates `ANSWER`, and its example video."""
    folder = tmp_path_factory.mktemp("release") / "avicuna"
    model, processor = build_tiny(["a dog barking in the yard", "rain falling on a roof"], num_av_tokens=8)
    tokenizer = processor.tokenizer
    ids = [*tokenizer(ANSWER, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    # each prefix of the answer has a bias to its next token, larger for longer prefixes
    model.generation_config.sequence_bias = [[ids[: end + 1], 50.0 * (end + 1)] for end in range(len(ids))]
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    write_media(folder / "example.mp4", frames=pictures(100), fps=10, waveform=tone(10.0))
    return folder


@pytest.fixture(scope="module")
def media(release, tmp_path_factory) -> Path:
    """Uploads: a video, a file that is no video, and a file without a video stream."""
    folder = tmp_path_factory.mktemp("media")
    shutil.copy(release / "example.mp4", folder / "clip.mp4")
    (folder / "broken clip.mp4").write_bytes(b"this is no video" * 100)
    write_media(folder / "sound.mp4", waveform=tone(2.0))
    return folder


@pytest.fixture(scope="module")
def space(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("space") / "space"
    assemble_space("user/avicuna", output=folder)
    return folder


@pytest.fixture(scope="module")
def address(space, release, tmp_path_factory):
    """The address of the app, which runs in a process with only the requirements of the Space."""
    log = tmp_path_factory.mktemp("running") / "log.txt"
    with run_app(space, model=release, log=log, deadline=time.monotonic() + 300) as address:
        yield address


@pytest.fixture(scope="module")
def app():
    pytest.importorskip("gradio")
    return importlib.import_module("model_card.space.app")


# pure functions

seconds = st.floats(0.0, 700.0)
events = st.lists(
    st.fixed_dictionaries(
        {
            "label": st.sampled_from(["rain", "dog", "<script>alert(1)</script>", "\"> & ' ${1+1} {{x}}"]) | st.text(),
            "start": seconds,
            "length": st.just(0.0) | seconds,
            "score": st.none() | st.floats(0.0, 1.0),
        }
    ).map(lambda event: {**event, "end": event["start"] + event["length"]}),
    min_size=1,
    max_size=12,
)


class Elements(HTMLParser):
    """The elements of an HTML fragment with their attributes, and its text."""

    def __init__(self, text: str):
        super().__init__()
        self.elements, self.text = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text.append(data)


@settings(deadline=None)
@given(events=events, duration=st.floats(0.04, 700.0))
def test_every_event_is_drawn_once_within_its_track_and_escaped(app, events, duration):
    drawn = Elements(app.draw_timeline(events, duration=duration))
    bars = [attributes for tag, attributes in drawn.elements if tag == "button"]
    titles = sorted(
        f"{event['label']}: {event['start']:.1f} to {event['end']:.1f} s"
        + ("" if event["score"] is None else f", score {event['score']:.2f}")
        for event in events
    )
    # HTML cannot represent NUL or a single carriage return
    assert sorted(normal(bar["title"]) for bar in bars) == sorted(normal(text) for text in titles)
    for bar in bars:
        style = dict(part.split(":", 1) for part in bar["style"].split(";"))
        left, width = (float(style[side].removesuffix("%")) for side in ("left", "width"))
        assert left >= 0.0 and width > 0.0 and left + width <= 100.001
    assert {tag for tag, _ in drawn.elements} == {"div", "button", "span"}


def normal(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\ufffd")


@given(events=events)
def test_a_lane_has_one_label_without_overlaps(app, events):
    lanes = app.assign_lanes(events)
    assert sorted(map(repr, events)) == sorted(repr(event) for lane in lanes for event in lane)
    for lane in lanes:
        assert len({event["label"] for event in lane}) == 1
        assert all(before["end"] <= after["start"] for before, after in zip(lane, lane[1:]))
    labels = [lane[0]["label"] for lane in lanes]
    assert len({label for label, before in zip(labels, [None, *labels]) if label != before}) == len(set(labels))


@given(duration=st.floats(0.04, 1e6))
def test_the_axis_has_at_most_seven_ticks_within_the_video(app, duration):
    ticks = app.tick_seconds(duration)
    assert ticks[0] == 0 and ticks == sorted(set(ticks)) and len(ticks) <= 7 and ticks[-1] <= duration * 1.001


@given(queries=st.lists(st.text(st.characters(exclude_characters=","), min_size=1).map(str.strip).filter(bool)))
def test_queries_are_split_at_commas_and_deduplicated(app, queries):
    assert app.split_queries(" , ".join([*queries, ""])) == list(dict.fromkeys(queries))


@pytest.fixture
def app_with_model(app, release, monkeypatch):
    """The module of the app in this process, with the tiny model."""
    monkeypatch.setenv("AVICUNA_MODEL", str(release))
    app.load_model.cache_clear()
    yield app
    app.load_model.cache_clear()


def test_the_waveform_of_a_video_is_silent_where_its_sound_is(app_with_model, tmp_path):
    app = app_with_model
    write_ramp(tmp_path / "beep.mp4", audio_codec="aac")
    peaks = app.read_peaks(str(tmp_path / "beep.mp4"), duration=20.0)
    loud = [index * 20.0 / len(peaks) for index, peak in enumerate(peaks) if peak > 0.1]
    assert len(peaks) == app.NUM_BARS and 13.8 <= loud[0] <= 14.1 and 14.8 <= loud[-1] <= 15.1
    write_ramp(tmp_path / "silent.mp4")
    assert app.read_peaks(str(tmp_path / "silent.mp4"), duration=20.0) == []
    assert app.draw_sound([0.0, 0.5, 2.0]).count("<rect") == 2
    # unsigned samples whose silence is 128, in one packet of four seconds
    half = np.where(np.arange(4 * 48_000) < 2 * 48_000, 0.0, tone(4.0)).astype(np.float32)
    write_media(tmp_path / "u8.avi", frames=pictures(40), waveform=half, video_codec="mpeg4", audio_codec="pcm_u8")
    peaks = app.read_peaks(str(tmp_path / "u8.avi"), duration=4.0)
    assert max(peaks[:119]) == 0.0 and min(peaks[121:]) == pytest.approx(0.5, abs=0.01)
    # cut off in the middle: the rest is silent
    write_media(tmp_path / "whole.mkv", frames=pictures(40), waveform=tone(4.0))
    content = (tmp_path / "whole.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(content[: len(content) // 2])
    peaks = app.read_peaks(str(tmp_path / "cut.mkv"), duration=4.0)
    assert len(peaks) == app.NUM_BARS and peaks[20] > 0.4 and peaks[-1] == 0.0


def test_a_long_video_is_drawn_whole_and_answered_in_windows(app_with_model, tmp_path, monkeypatch):
    monkeypatch.setattr(app_with_model, "LONG", 12.0)
    monkeypatch.setattr(app_with_model, "WINDOW", 10.0)
    monkeypatch.setattr(app_with_model, "READ_SECONDS", 3.0)
    write_ramp(tmp_path / "long.mp4", audio_codec="aac")
    timeline, rows = app_with_model.find_events(str(tmp_path / "long.mp4"), "dog")
    # in each window of 10 s the model answers 1.0 to 4.0 and 3.0 to 9.9; the windows begin at 0, 7.5 and 10
    assert [row[2] for row in rows] == ["dog"] * len(rows) and rows[0][0] == 1.0 and rows[-1][1] == 19.9
    assert timeline.count("<img") == 6 and 10 <= timeline.count("<rect") < 20


def test_an_error_of_the_waveform_is_a_message_that_names_the_file(app_with_model, media, monkeypatch):
    import gradio

    def fail(path: str, *, duration: float):
        raise MediaError(path, "damaged time stamps")

    monkeypatch.setattr(app_with_model, "read_peaks", fail)
    with pytest.raises(gradio.Error, match="clip.mp4: damaged time stamps") as caught:
        app_with_model.find_events(str(media / "clip.mp4"), "dog")
    assert str(media) not in caught.value.message


def test_no_event_gives_a_message(app):
    assert app.NOTHING_FOUND in app.draw_timeline([], duration=3.0) and app.table_rows([]) == []


# the folder


def test_an_assembled_space_is_complete_and_names_its_model(space):
    assert [path.name for path in sorted(space.iterdir())] == ["README.md", "app.py", "requirements.txt"]
    assert find_space_problems(space) == []
    data = SpaceCard.load(space / "README.md").data
    assert (data.sdk, data.app_file, data.models) == ("gradio", "app.py", ["user/avicuna"])
    assert data.sdk_version == read_pins(CONSTRAINTS)["gradio"] and len(data.to_dict()["short_description"]) <= 60
    assert MODEL_LINE.findall((space / "app.py").read_text()) == ["user/avicuna"]


def test_problems_of_a_space_are_found(tmp_path):
    folder = tmp_path / "space"
    assemble_space("user/avicuna", output=folder)
    (folder / "weights.pkl").write_bytes(b"")
    (folder / "notes.txt").write_text("see /home/me/runs/3\n")
    (folder / "requirements.txt").write_text("torch>=2\n")
    app = (folder / "app.py").read_text()
    (folder / "app.py").write_text(app.replace('MODEL_ID = "user/avicuna"', 'MODEL_ID = "user/other"'))
    problems = find_space_problems(folder)
    for expected in ("weights.pkl is a pickle", "/home/me/runs/3", "'torch>=2'", "loads ['user/other']"):
        assert any(expected in problem for problem in problems), (expected, problems)
    (folder / "app.py").unlink()
    assert "app.py is missing" in find_space_problems(folder)


def test_a_space_needs_a_hub_id_and_a_new_folder(tmp_path):
    for wrong in ("avicuna", "user/avi cuna", "a/b/c", 'user/"+x'):
        with pytest.raises(ValueError, match="avi cuna|avicuna|a/b/c|user"):
            assemble_space(wrong, output=tmp_path / "space")
    assert not (tmp_path / "space").exists()
    assemble_space("user/avicuna", output=tmp_path / "space")
    with pytest.raises(FileExistsError):
        assemble_space("user/avicuna", output=tmp_path / "space")


def test_the_requirements_cover_the_imports_of_the_app(space):
    needed = {
        (node.module if isinstance(node, ast.ImportFrom) else alias.name).split(".")[0]
        for node in ast.walk(ast.parse((space / "app.py").read_text()))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    packages = {"PIL": "pillow"}
    needed = {packages.get(name, name) for name in needed - set(sys.stdlib_module_names)}
    assert needed <= {"gradio", *REQUIRED_PACKAGES}
    assert not set(REQUIRED_PACKAGES) & set(UNDECLARED_MODULES)


@needs_gradio
def test_pinned_versions_satisfy_the_requirements_of_gradio():
    """The Hub installs both together; otherwise the Space could not be built."""
    bounds = {}
    for package in ("gradio", "gradio_client"):
        for line in importlib.metadata.requires(package):
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                bounds[canonicalize_name(requirement.name)] = requirement.specifier
    pins = read_pins(CONSTRAINTS)
    clashes = [
        f"{name}{bounds[canonicalize_name(name)]}, but {pins[name]} is pinned"
        for name in REQUIRED_PACKAGES
        if canonicalize_name(name) in bounds and not bounds[canonicalize_name(name)].contains(pins[name])
    ]
    assert not clashes


def test_a_space_is_uploaded(hub, space):
    api = HfApi(endpoint=hub.address, token=TOKEN)
    url = upload(space, api=api, repo_id="user/avicuna-demo", repo_type="space", space_sdk="gradio")
    assert "/spaces/user/avicuna-demo/commit/" in url
    assert hub.repos["spaces", "user/avicuna-demo"] == {path.name: path.read_bytes() for path in space.iterdir()}
    assert ("spaces", "user/avicuna-demo") not in hub.private
    assert hub.space_sdks == {"user/avicuna-demo": "gradio"}


# the running app


@needs_gradio
def test_a_client_gets_events_and_answers(address, media, monkeypatch):
    ask = client_of(address, monkeypatch)
    timeline, table = ask(media / "clip.mp4", "", "/locate")
    rows = table["data"]
    assert table["headers"] == ["start", "end", "event", "score"]
    assert [row[2] for row in rows] == ["a dog barking", "rain falling"]
    assert [(row[0], row[1]) for row in rows] == SPANS
    assert timeline.count("<button") == 2 and ">rain falling<" in timeline
    assert timeline.count("<img") == 6 and timeline.count("<rect") == 240  # frames, and a tone of the whole length
    assert timeline.index("<img") < timeline.index("<svg") < timeline.index("<button")
    _, table = ask(media / "clip.mp4", "dog, <b>cat</b>, dog", "/locate")
    assert [row[2] for row in table["data"]] == ["dog", "<b>cat</b>"] * 2
    assert ask(media / "clip.mp4", "Which sounds are heard?", "/ask") == ANSWER


@needs_gradio
def test_concurrent_visitors_have_separate_answers(address, media, monkeypatch):
    visitors = [client_of(address, monkeypatch) for _ in range(2)]

    def visit(number: int) -> list[str]:
        labels = []
        for turn in range(3):
            _, table = visitors[number](media / "clip.mp4", f"visitor {number} turn {turn}", "/locate")
            labels += {row[2] for row in table["data"]}
        return labels

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(visit, range(2))) == [[f"visitor {n} turn {turn}" for turn in range(3)] for n in range(2)]


@needs_gradio
def test_wrong_input_gives_one_message_that_names_the_file(address, media, monkeypatch):
    ask = client_of(address, monkeypatch)
    for video, text, endpoint, message in (
        (media / "broken clip.mp4", "", "/locate", "broken clip.mp4: not a readable media file"),
        (media / "broken clip.mp4", "What?", "/ask", "broken clip.mp4: not a readable media file"),
        (media / "sound.mp4", "rain", "/locate", "sound.mp4: no video stream"),
        (None, "rain", "/locate", "No video"),
        (media / "clip.mp4", " ", "/ask", "No question"),
        (
            media / "clip.mp4",
            "What is <video>?",
            "/ask",
            "the text of message 0 holds the placeholder '&lt;video&gt;'",
        ),
    ):
        with pytest.raises(ValueError) as caught:
            ask(video, text, endpoint)
        assert str(caught.value).startswith(message), caught.value
        assert "/gradio/" not in str(caught.value), "the message must not name folders of the server"


def client_of(address: str, monkeypatch):
    """A function `ask(video, text, endpoint)` that calls the running app."""
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    from gradio_client import Client, handle_file

    # an upload has 5 s by default: too few for a machine with other load
    client = Client(address, verbose=False, analytics_enabled=False, httpx_kwargs={"timeout": 60})
    return lambda video, text, endpoint: client.predict(video and handle_file(video), text, api_name=endpoint)


@needs_gradio
def test_a_space_is_tested_with_the_release(space, release, address, monkeypatch):
    """With the running app; the fixture and the next test start one."""
    monkeypatch.setattr(space_release, "run_app", lambda *paths, **options: nullcontext(address))
    assert verify_space(space, model=release, timeout=300) == ANSWER
    with pytest.raises(RuntimeError, match="does not run(.|\n)*api_name`: /unknown"):
        monkeypatch.setattr(space_release, "ASK_APP", ASK_APP.replace("/ask", "/unknown"))
        verify_space(space, model=release, timeout=300)


@needs_gradio
def test_a_space_that_does_not_start_is_an_error_with_its_output(space, release, tmp_path):
    broken = tmp_path / "space"
    shutil.copytree(space, broken)
    (broken / "app.py").write_text("import matplotlib\n")
    with pytest.raises(RuntimeError, match="it exited with status 1(.|\n)*import of matplotlib halted"):
        verify_space(broken, model=release, timeout=60)
    (broken / "app.py").write_text("import time\ntime.sleep(60)\n")
    with pytest.raises(RuntimeError, match="too long to start"):
        verify_space(broken, model=release, timeout=1)


def test_missing_requirements_of_the_test_are_errors(space, release, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name.startswith("gradio") else name)
    with pytest.raises(ValueError, match=r"pip install \"avicuna\[space\]\""):
        verify_space(space, model=release)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(release / "config.json", bare)
    with pytest.raises(ValueError, match="bare has no example.mp4"):
        verify_space(space, model=bare)
    config = json.loads((release / "config.json").read_text())
    (bare / "config.json").write_text(json.dumps({**config, "vision_config": None}))
    with pytest.raises(ValueError, match="lacks a tower"):
        verify_space(space, model=bare)


# the browser


@contextmanager
def open_browser(folder: Path):
    """Headless Chromium that logs its network requests; skips the test if it is not installed."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("Chromium is not installed: apt-get install --no-install-recommends chromium chromium-driver")
    selenium = pytest.importorskip("selenium.webdriver")
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    for flag in (*BROWSER_FLAGS, f"--user-data-dir={folder}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    browser = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    browser.implicitly_wait(60)
    try:
        yield browser
    finally:
        browser.quit()


@needs_gradio
def test_a_browser_shows_the_events_and_requests_no_other_host(address, media, tmp_path):
    with open_browser(tmp_path / "profile") as browser:

        def find(selector: str):
            return browser.find_element("css selector", selector)

        browser.get_log("performance")  # discards the start page of Chromium
        browser.get(address)
        find("#video input[type=file]").send_keys(str(media / "clip.mp4"))
        find("#video video")
        find("#query textarea, #query input").send_keys("<b>dog</b> ${1+1} {{value}}, rain")
        find("#find button, button#find").click()
        find("#timeline .event")
        names = [name.text for name in browser.find_elements("css selector", "#timeline .name") if name.text]
        assert names == ["frames", "sound", "<b>dog</b> ${1+1} {{value}}", "rain"]
        assert len(browser.find_elements("css selector", "#timeline .event")) == 4
        wait_until(lambda: "<b>dog</b>" in find("#events").text and "9.9" in find("#events").text)
        find("#timeline .event[data-start='3.000']").click()
        assert browser.execute_script("return document.querySelector('#video video').currentTime") >= 2.9
        find("#question textarea, #question input").send_keys("Which sounds are heard?")
        find("button#ask").click()
        wait_until(lambda: find("#answer textarea").get_property("value") == ANSWER)
        browser.save_screenshot(str(tmp_path / "events.png"))
        find("#video button[aria-label='Clear']").click()
        find("#timeline .hint")
        find("button#find").click()
        wait_until(lambda: "No video" in find("[data-testid=toast-body]").text)
        assert requested_hosts(browser) == {"127.0.0.1"}


@needs_gradio
def test_two_visitors_in_a_browser_have_separate_answers(address, media, tmp_path):
    """Two tabs, whose requests are sent before the first answer is there."""
    with open_browser(tmp_path / "profile") as browser:

        def find(selector: str):
            return browser.find_element("css selector", selector)

        def labels() -> list[str]:
            return [name.text for name in browser.find_elements("css selector", "#timeline .name") if name.text][2:]

        browser.get(address)
        browser.switch_to.new_window("tab")
        browser.get(address)
        visitors = {tab: f"visitor {number}" for number, tab in enumerate(browser.window_handles)}
        for tab, query in visitors.items():
            browser.switch_to.window(tab)
            find("#video input[type=file]").send_keys(str(media / "clip.mp4"))
            find("#video video")
            find("#query textarea, #query input").send_keys(query)
        for turn in range(2):
            for tab in visitors:
                browser.switch_to.window(tab)
                find("#query textarea, #query input").send_keys(f" turn {turn}")
                find("button#find").click()
            for tab, query in visitors.items():
                visitors[tab] = f"{query} turn {turn}"
                browser.switch_to.window(tab)
                wait_until(lambda expected=visitors[tab]: labels() == [expected])


def requested_hosts(browser) -> set[str]:
    """The hosts of all requests and sockets in the performance log."""
    hosts = set()
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] in ("Network.requestWillBeSent", "Network.webSocketCreated"):
            parameters = message["params"]
            url = urlsplit(parameters.get("url") or parameters["request"]["url"])
            if url.scheme in ("http", "https", "ws", "wss"):
                hosts.add(url.hostname)
    return hosts


def wait_until(holds, *, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.1)
