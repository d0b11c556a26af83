"""The vLLM plugin and `transformers serve`, over HTTP: greedy answers equal those of transformers.

The servers run in a separate environment (`make serve-env`); without it, all tests of this file are skipped.
"""

import base64
import json
import os
import subprocess
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import PIL.Image
import pytest
from transformers import AutoModelForCausalLM, AutoProcessor, pipeline

import modeling_avicuna  # noqa: F401  (registers the auto classes)
from benchmarks.serving import SERVER_PYTHON, free_port, running, serve, write_tiny_llama
from dataset_builders.sandbox import make_world
from dataset_builders.sandbox.world import TimeLine
from examples.ask_server import ClientOptions, complete, locate
from modeling_avicuna.generation_avicuna import TimeSpanLogitsProcessor
from modeling_avicuna.prompt_avicuna import GROUNDING_PROMPT
from modeling_avicuna.windows_avicuna import plan_windows
from tests.documentation import fences
from tests.media_files import pictures, tone, write_media, write_ramp


PROJECT = Path(__file__).resolve().parents[1]
NAME = "avicuna-tiny"
QUESTION = "What happens in this video, and when?"
NUM_TOKENS = 12
pytestmark = pytest.mark.skipif(not SERVER_PYTHON.exists(), reason="needs the environment of `make serve-env`")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Model, processor and folder of a random Llama checkpoint with a head size that vLLM's CPU kernels support."""
    folder = tmp_path_factory.mktemp("checkpoint")
    write_tiny_llama(folder, texts=[f"{QUESTION} When does a dog bark?"])
    model, processor = (part.from_pretrained(folder) for part in (AutoModelForCausalLM, AutoProcessor))
    return model.eval(), processor, folder


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    write_ramp(folder / "sound.mp4", audio_codec="aac")
    write_media(folder / "silent.mp4", frames=pictures(60)[::-1], fps=10)
    write_media(folder / "sound.wav", waveform=tone(14.0), audio_codec="pcm_s16le")
    PIL.Image.fromarray(pictures(3)[1]).save(folder / "picture.png")
    (folder / "broken.mp4").write_bytes(b"this is no video" * 100)
    return folder


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def site(media):
    """HTTP address of the media."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(media))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


# a plugin of vLLM, loaded in each of its processes, that writes one character to a file at each run of the towers
TOWER_COUNTER = """
import os

def register():
    from avicuna_vllm.model import AVicunaForVLLM

    embed = AVicunaForVLLM._embed_medium

    def counted(*args):
        with open(os.environ["TOWER_RUNS"], "a") as file:
            file.write("x")
        return embed(*args)

    AVicunaForVLLM._embed_medium = counted
"""


@pytest.fixture(scope="module")
def tower_runs(tmp_path_factory):
    """The file whose size is the number of runs of the towers, beside the plugin that writes it."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "runs").touch()
    (folder / "tower_counter.py").write_text(TOWER_COUNTER)
    (folder / "tower_counter-1.dist-info").mkdir()
    (folder / "tower_counter-1.dist-info" / "METADATA").write_text("Name: tower_counter\nVersion: 1\n")
    (folder / "tower_counter-1.dist-info" / "entry_points.txt").write_text(
        "[vllm.general_plugins]\ntower_counter = tower_counter:register\n"
    )
    return folder / "runs"


@pytest.fixture(scope="module")
def server(tiny, media, tower_runs, tmp_path_factory):
    log = tmp_path_factory.mktemp("server") / "log.txt"
    plugin = {"PYTHONPATH": str(tower_runs.parent), "TOWER_RUNS": str(tower_runs)}
    with serve(tiny[2], media=media, log=log, name=NAME, **plugin) as address:
        yield address


def post(address: str, request: dict) -> dict:
    """vLLM's answer to a chat request; `{"status", "message"}` of an error."""
    request = {"model": NAME, "temperature": 0, "max_tokens": NUM_TOKENS, "return_token_ids": True, **request}
    call = urllib.request.Request(
        f"{address}/v1/chat/completions", json.dumps(request).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(call, timeout=600) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        return {"status": error.code, "message": json.load(error)["error"]["message"]}


def ids(answer: dict) -> list[int]:
    return answer["choices"][0]["token_ids"]


def expected(tiny, messages: list[dict], **kwargs) -> list[int]:
    """What transformers generates."""
    model, processor, _ = tiny
    inputs = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
    generated = model.generate(**inputs, max_new_tokens=NUM_TOKENS, do_sample=False, **kwargs)
    return generated[0, inputs["input_ids"].shape[1] :].tolist()


def user(*parts: dict | str) -> dict:
    return {"role": "user", "content": [{"type": "text", "text": p} if isinstance(p, str) else p for p in parts]}


def video(path: Path | str, **settings) -> dict:
    address = path if isinstance(path, str) else path.as_uri()
    return {"type": "video_url", "video_url": {"url": address}, **settings}


def local(messages: list[dict], media: Path, site: str) -> list[dict]:
    """The same messages with paths, for transformers."""
    text = json.dumps(messages).replace(f"file://{media}", str(media)).replace(site, str(media))
    return json.loads(text)


def conversations(media: Path, site: str) -> dict[str, list[dict]]:
    sound = base64.b64encode((media / "sound.wav").read_bytes()).decode()
    data = f"data:video/mp4;base64,{base64.b64encode((media / 'silent.mp4').read_bytes()).decode()}"
    image = {"type": "image_url", "image_url": {"url": (media / "picture.png").as_uri()}}
    audio = {"type": "input_audio", "input_audio": {"data": sound, "format": "wav"}}
    both = video(media / "sound.mp4")
    return {
        "only text": [user(QUESTION)],
        "a video with sound": [user(both, QUESTION)],
        "a video by http": [user(video(f"{site}/sound.mp4"), QUESTION)],
        "a silent video, as a data URL": [user(video(data), QUESTION)],
        "a video without its sound": [user({**both, "audio": False}, QUESTION)],
        "a part of a video": [user({**both, "start": 12.0, "end": 16.0}, QUESTION)],
        "only a sound": [user(audio, QUESTION)],
        "an image": [user(image, QUESTION)],
        "an image in the middle": [user("Look:", image, QUESTION)],
        "two videos": [user(both, video(media / "silent.mp4"), QUESTION)],
        "the text first": [user(QUESTION, both)],
        "everything": [user(image, both, audio, QUESTION)],
        "several turns": [
            {"role": "system", "content": "You are brief."},
            user(both, QUESTION),
            {"role": "assistant", "content": "From 03 to 17, a dog barks."},
            user("When does a dog bark?", image),
        ],
    }


def test_answers_equal_those_of_transformers_token_by_token(server, tiny, media, site):
    for name, messages in conversations(media, site).items():
        answer = post(server, {"messages": messages})
        assert "choices" in answer, (name, answer)
        assert ids(answer) == expected(tiny, local(messages, media, site)), name


def test_the_request_of_the_documentation_is_answered(server, tiny, media):
    (text,) = (text for language, text in fences("docs/serve.md") if language == "json")
    request = json.loads(text.replace("file:///data/video.mp4", (media / "sound.mp4").as_uri()))
    answer = post(server, {**request, "model": NAME, "max_tokens": NUM_TOKENS})
    constraint = TimeSpanLogitsProcessor(tiny[1].tokenizer, codec=tiny[1].time_codec)
    messages = local(request["messages"], media, "http://none")
    assert ids(answer) == expected(tiny, messages, logits_processor=[constraint])


def test_concurrent_conversations_have_the_same_answers(server, tiny, media, site):
    requests = list(conversations(media, site).values())
    with ThreadPoolExecutor(len(requests)) as pool:
        answers = list(pool.map(lambda messages: post(server, {"messages": messages}), requests))
    for messages, answer in zip(requests, answers):
        assert ids(answer) == expected(tiny, local(messages, media, site))


def prefix_cache_hits(address: str) -> float:
    """Tokens of prompts that were found in the prefix cache."""
    with urllib.request.urlopen(f"{address}/metrics") as response:
        lines = response.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("vllm:prefix_cache_hits_total{"))


def test_questions_about_one_video_run_the_towers_once_and_find_its_tokens_in_the_cache(
    server, tiny, media, tower_runs
):
    part = video(media / "sound.mp4", start=0.5)  # asked about in no other test
    messages = [[user(part, f"When does event {number} happen?")] for number in range(30)]
    runs = tower_runs.stat().st_size
    with ThreadPoolExecutor(30) as pool:
        answers = list(pool.map(lambda conversation: post(server, {"messages": conversation}), messages))
    assert tower_runs.stat().st_size == runs + 1
    for number in (0, 1, 29):
        assert ids(answers[number]) == expected(tiny, local(messages[number], media, "http://none"))
    for question in ("When does a dog bark?", "Is it raining?", QUESTION):
        before = prefix_cache_hits(server)
        post(server, {"messages": [user(part, question)]})
        assert prefix_cache_hits(server) - before >= 100  # the system sentence and the video, in blocks of 32
    assert tower_runs.stat().st_size == runs + 1


def test_a_window_of_a_long_video_is_encoded_once_and_its_answers_equal_those_of_transformers(
    server, tiny, media, tower_runs
):
    runs = tower_runs.stat().st_size
    address = (media / "sound.mp4").as_uri()
    locate(
        ClientOptions(address, query=["rain", "dog barking"], address=server, window=8.0, max_new_tokens=NUM_TOKENS)
    )
    windows = plan_windows(20.0, window=8.0)
    assert tower_runs.stat().st_size == runs + len(windows) == runs + 3
    for start, end in windows:
        messages = [user(video(media / "sound.mp4", start=start, end=end), QUESTION)]
        assert ids(post(server, {"messages": messages})) == expected(tiny, local(messages, media, "http://none"))
    assert tower_runs.stat().st_size == runs + len(windows)


def test_a_file_that_was_written_again_is_read_again(server, tiny, media):
    path = media / "changing.mp4"
    messages = [user(video(path), QUESTION)]
    answers = []
    for name in ("sound.mp4", "silent.mp4"):
        path.write_bytes((media / name).read_bytes())
        answers.append(ids(post(server, {"messages": messages})))
        assert answers[-1] == expected(tiny, local(messages, media, "http://none"))
    assert answers[0] != answers[1]


def test_a_repeated_and_a_streamed_request_have_the_same_answer(server, media):
    request = {"messages": [user(video(media / "sound.mp4"), QUESTION)]}
    first = post(server, request)
    assert ids(post(server, request)) == ids(first)
    body = {"model": NAME, "temperature": 0, "max_tokens": NUM_TOKENS, "stream": True, **request}
    call = urllib.request.Request(
        f"{server}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(call, timeout=600) as response:
        lines = [line.decode().removeprefix("data: ").strip() for line in response if line.startswith(b"data: ")]
    pieces = [json.loads(line)["choices"][0]["delta"].get("content") or "" for line in lines if line != "[DONE]"]
    assert len(pieces) > 2 and "".join(pieces) == first["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([video("file://{media}/broken.mp4"), QUESTION], "broken.mp4: not a readable media file"),
        ([video("file://{media}/sound.wav"), QUESTION], "sound.wav: no video stream"),
        ([video("file://{media}/sound.mp4", start=50.0), QUESTION], "is not within a video of 20.000 s"),
        ([video("file://{media}/sound.mp4"), "What is <video>?"], "the text holds the placeholder <video>"),
        ([video("file://{media}/no%20such.mp4"), QUESTION], "no such.mp4: no such file"),
        ([video("file:///etc/hostname"), QUESTION], "must be a subpath"),
        ([video("data:video/mp4;base64,%%%"), QUESTION], "base64"),
        ([video("data:video/mp4;base64,AAAA"), QUESTION], "data:video/mp4;base64,AAAA: not a readable media file"),
        ([{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}, QUESTION], "readable media file"),
        ([{"type": "image_url", "image_url": {"url": "file://{media}/broken.mp4"}}, QUESTION], "broken.mp4"),
    ],
)
def test_invalid_media_give_our_error_message_and_the_server_continues(server, media, parts, message):
    filled = json.loads(json.dumps(parts).replace("{media}", str(media)))
    answer = post(server, {"messages": [user(*filled)]})
    assert answer.get("status") == 400 and message in answer["message"], answer
    assert "choices" in post(server, {"messages": [user(video(media / "sound.mp4"), QUESTION)]})


def test_well_formed_spans_are_set_per_request(server, tiny, media):
    _, processor, _ = tiny
    constraint = TimeSpanLogitsProcessor(processor.tokenizer, codec=processor.time_codec)
    messages = [user(video(media / "sound.mp4"), QUESTION), {"role": "assistant", "content": "From 4"}]
    request = {"messages": messages, "continue_final_message": True, "add_generation_prompt": False}
    answers = {asked: ids(post(server, {**request, "vllm_xargs": {"well_formed_spans": asked}})) for asked in (1, 0)}
    given = local(messages, media, "http://none")
    model = tiny[0]
    inputs = processor.apply_chat_template(given, continue_final_message=True, tokenize=True, return_dict=True)
    for asked, processors in ((1, [constraint]), (0, [])):
        generated = model.generate(**inputs, max_new_tokens=NUM_TOKENS, do_sample=False, logits_processor=processors)
        assert answers[asked] == generated[0, inputs["input_ids"].shape[1] :].tolist()
    assert answers[1] != answers[0]


def test_placeholders_are_never_generated(server, tiny, media):
    """Not even with the largest bias that a request may give them."""
    processor = tiny[1]
    placeholders = [processor.video_token_id, processor.audio_token_id]
    request = {"messages": [user(video(media / "sound.mp4"), QUESTION)]}
    biased = post(server, {**request, "logit_bias": {str(token_id): 100 for token_id in placeholders}})
    assert not set(ids(biased)) & set(placeholders)
    assert ids(biased) == ids(post(server, request))


def test_an_unsupported_language_model_raises_with_its_name(media, tmp_path):
    """BioGPT of the shipped checkpoint."""
    with pytest.raises(RuntimeError, match="the server does not answer"):
        with serve(PROJECT / "examples" / "sandbox_checkpoint", media=media, log=tmp_path / "log.txt"):
            pass
    assert "does not serve AVicuna with a language model of type 'biogpt'" in (tmp_path / "log.txt").read_text()


def test_transformers_serves_the_shipped_checkpoint_by_one_command(tmp_path):
    """Its answers are those of the pipeline, read by the example client."""
    checkpoint, port, log = str(PROJECT / "examples" / "sandbox_checkpoint"), free_port(), tmp_path / "log.txt"
    line = TimeLine(event_seconds=(4.0, 12.0), video_seconds=(20, 30))
    make_world(tmp_path / "world", num_clips=0, num_test_videos=1, seed=107, time_line=line)
    (path,) = (tmp_path / "world" / "test").glob("*.mp4")
    queries = sorted({event["label"] for event in read_annotations(tmp_path / "world")[path.stem]})
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path)}
    command = [
        SERVER_PYTHON.with_name("transformers"),
        "serve",
        checkpoint,
        "--trust-remote-code",
        "--port",
        str(port),
    ]
    with log.open("w") as output:
        process = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=output, stderr=subprocess.STDOUT)
    pipe = pipeline(task="audio-visual-event-localization", model=checkpoint, trust_remote_code=True)
    asked = pipe(str(path), query=queries)
    expected = [(round(event["start"], 3), round(event["end"], 3)) for name in queries for event in asked[name]]
    assert expected
    with running(process, f"http://localhost:{port}", log=log) as address:
        found = locate(ClientOptions(str(path), query=queries, address=address, model=checkpoint))
        assert [(round(event.start, 3), round(event.end, 3)) for event in found] == expected
        content = user(
            {"type": "video_url", "video_url": {"url": str(path)}}, GROUNDING_PROMPT.format(query=queries[0])
        )
        by_path = complete(address, {"model": checkpoint, "messages": [content], "temperature": 0})
        assert by_path.strip() == pipe(str(path), question=GROUNDING_PROMPT.format(query=queries[0]))


def read_annotations(folder: Path) -> dict[str, list[dict]]:
    database = json.loads((folder / "annotations.json").read_text())["database"]
    return {video_id: entry["annotations"] for video_id, entry in database.items()}
