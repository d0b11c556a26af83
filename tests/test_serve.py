"""The vLLM plugin and `transformers serve`, over HTTP: greedy answers equal those of transformers.

The servers run in a separate environment (`make serve-env`); without it, all tests of this file are skipped.
"""

import base64
import json
import os
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import PIL.Image
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoProcessor

import modeling_avicuna  # noqa: F401  (registers the auto classes)
from modeling_avicuna.generation_avicuna import TimeSpanLogitsProcessor
from tests.media_files import pictures, tone, write_media, write_ramp
from tests.tiny_models import draw_large_weights
from train.initialize import build_tiny


PROJECT = Path(__file__).resolve().parents[1]
PYTHON = PROJECT / ".venv-serve" / "bin" / "python"
NAME = "avicuna-tiny"
QUESTION = "What happens in this video, and when?"
NUM_TOKENS = 12
pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="needs the environment of `make serve-env`")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Model, processor and folder of a random Llama checkpoint with a head size that vLLM's CPU kernels support."""
    folder = tmp_path_factory.mktemp("checkpoint")
    texts = ["From 03 to 17, a dog barks. From 40 to 99, rain falls on a roof.", f"{QUESTION} When does a dog bark?"]
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 1024}
    model, processor = build_tiny(texts, text=heads)
    torch.manual_seed(0)
    draw_large_weights(model)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor, folder


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


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start_server(folder: Path, media: Path, log: Path, *options: str) -> tuple[subprocess.Popen, str]:
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "HF_MODULES_CACHE")}
    environment |= {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16",
    }
    command = [
        *(PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", folder, "--served-model-name", NAME),
        *("--host", "127.0.0.1", "--port", port, "--dtype", "float32", "--block-size", 32, "--max-model-len", 768),
        *("--allowed-local-media-path", media, "--enforce-eager", *options),
    ]
    with log.open("w") as output:
        process = subprocess.Popen(
            [str(word) for word in command], env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    return process, f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def server(tiny, media, tmp_path_factory):
    log = tmp_path_factory.mktemp("server") / "log.txt"
    process, address = start_server(tiny[2], media, log)
    with running(process, address, log):
        yield address


@contextmanager
def running(process: subprocess.Popen, address: str, log: Path):
    """Waits until a server answers; terminates it afterwards."""
    try:
        deadline = time.monotonic() + 600
        while True:
            try:
                urllib.request.urlopen(f"{address}/health", timeout=2).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-4000:]
                time.sleep(0.5)
        yield
        assert process.poll() is None, log.read_text()[-4000:]
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def post(address: str, request: dict) -> dict:
    """vLLM's answer to a chat request; `{"status", "message"}` of an error."""
    request = {"model": NAME, "temperature": 0, "max_tokens": NUM_TOKENS, "return_token_ids": True, **request}
    call = urllib.request.Request(
        f"{address}/v1/chat/completions", json.dumps(request).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(call, timeout=300) as response:
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


def test_concurrent_conversations_have_the_same_answers(server, tiny, media, site):
    requests = list(conversations(media, site).values())
    with ThreadPoolExecutor(len(requests)) as pool:
        answers = list(pool.map(lambda messages: post(server, {"messages": messages}), requests))
    for messages, answer in zip(requests, answers):
        assert ids(answer) == expected(tiny, local(messages, media, site))


def metric(address: str, name: str) -> float:
    with urllib.request.urlopen(f"{address}/metrics") as response:
        lines = response.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{"))


def test_questions_about_one_video_reuse_its_cached_tokens(server, tiny, media):
    messages = [[user(video(media / "sound.mp4"), f"When does event {number} happen?")] for number in range(30)]
    post(server, {"messages": messages[0]})
    queries, hits = (metric(server, f"vllm:prefix_cache_{name}_total") for name in ("queries", "hits"))
    with ThreadPoolExecutor(30) as pool:
        answers = list(pool.map(lambda conversation: post(server, {"messages": conversation}), messages))
    queries = metric(server, "vllm:prefix_cache_queries_total") - queries
    hits = metric(server, "vllm:prefix_cache_hits_total") - hits
    assert hits / queries > 0.6  # the system sentence and the video
    for conversation, answer in zip(messages[:3], answers):
        assert ids(answer) == expected(tiny, local(conversation, media, "http://none"))


def test_a_repeated_and_a_streamed_request_have_the_same_answer(server, media):
    request = {"messages": [user(video(media / "sound.mp4"), QUESTION)]}
    first = post(server, request)
    assert ids(post(server, request)) == ids(first)
    body = {"model": NAME, "temperature": 0, "max_tokens": NUM_TOKENS, "stream": True, **request}
    call = urllib.request.Request(
        f"{server}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(call, timeout=300) as response:
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


def test_an_unsupported_language_model_raises_with_its_name(media, tmp_path):
    process, _ = start_server(PROJECT / "examples" / "sandbox_checkpoint", media, tmp_path / "log.txt")
    try:
        assert process.wait(300) != 0
    finally:
        process.kill()
        process.wait()
    assert "does not serve AVicuna with a language model of type 'biogpt'" in (tmp_path / "log.txt").read_text()


def test_transformers_serves_the_shipped_checkpoint_by_one_command(media, tmp_path):
    checkpoint, port, log = PROJECT / "examples" / "sandbox_checkpoint", free_port(), tmp_path / "log.txt"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path)}
    command = [PYTHON.with_name("transformers"), "serve", checkpoint, "--trust-remote-code", "--port", str(port)]
    with log.open("w") as output:
        process = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=output, stderr=subprocess.STDOUT)
    model, processor = (part.from_pretrained(checkpoint) for part in (AutoModelForCausalLM, AutoProcessor))
    with running(process, f"http://localhost:{port}", log):
        data = f"data:video/mp4;base64,{base64.b64encode((media / 'sound.mp4').read_bytes()).decode()}"
        for address in (str(media / "sound.mp4"), data):
            messages = [user(video(address), 'When does "dog barking" happen?')]
            request = {"model": str(checkpoint), "messages": messages, "max_tokens": NUM_TOKENS, "temperature": 0}
            call = urllib.request.Request(
                f"http://localhost:{port}/v1/chat/completions",
                json.dumps(request).encode(),
                {"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(call, timeout=300) as response:
                answer = json.load(response)["choices"][0]["message"]["content"]
            ids_of_model = expected((model, processor, None), messages)
            assert answer == processor.decode(ids_of_model, skip_special_tokens=True)
