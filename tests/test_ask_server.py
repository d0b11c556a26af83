"""The example client against a server that answers with the model of the pipeline: the same events.

tests/test_serve.py runs the same client against vLLM and `transformers serve`.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dataset_builders.command_line import parse_options
from examples.ask_server import ClientOptions, locate, main
from modeling_avicuna import AVicunaPipeline
from tests.documentation import snippets
from tests.media_files import write_ramp
from tests.time_fixtures import SpanBias, tiny_model_for, tiny_processor


@pytest.fixture(scope="module")
def pipe():
    processor = tiny_processor(num_av_tokens=16)
    settings = {"max_new_tokens": 16, "do_sample": False, "logits_processor": [SpanBias(processor.tokenizer)]}
    return AVicunaPipeline(model=tiny_model_for(processor), processor=processor, device=-1, **settings)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_ramp(tmp_path_factory.mktemp("videos") / "ramp.mp4", audio_codec="aac")


@pytest.fixture
def server(pipe, request):
    """Address of a server in the form of vLLM, and the requests that it got."""
    requests, lock = [], threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.answer(200, {"data": [{"id": "tiny", "owned_by": request.param}]})

        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            part, text = asked["messages"][0]["content"]
            block = {"type": "video", "path": part["video_url"]["url"].removeprefix("file://")}
            block |= {name: part[name] for name in ("start", "end") if name in part}
            with lock:
                requests.append(asked)
                try:
                    query = text["text"].split('"')[1] if '"' in text["text"] else None
                    asked_model = pipe.preprocess(block, query=query)
                    answered = pipe.forward(asked_model, **pipe._forward_params)["answers"][0]
                except ValueError as error:
                    return self.answer(400, {"error": {"message": str(error)}})
            self.answer(200, {"choices": [{"message": {"content": answered.text}}]})

        def answer(self, status, body):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}", requests
        running.shutdown()
        thread.join()


is_vllm = pytest.mark.parametrize("server", ["vllm"], indirect=True)


@is_vllm
@pytest.mark.parametrize("window", [None, 8.0])
@pytest.mark.parametrize("query", [["rain", "a dog barking"], []])
def test_the_events_are_those_of_the_pipeline(server, pipe, video, window, query):
    address, requests = server
    found = locate(ClientOptions(video.as_uri(), query=query, window=window, address=address))
    # a server gives no scores
    asked = pipe(video, query=query or None, window=window, score="constant")
    expected = [event for name in query for event in asked[name]] if query else asked
    assert found and [event.label for event in found] == [event["label"] for event in expected]
    for side in ("start", "end"):
        assert [getattr(event, side) for event in found] == pytest.approx([event[side] for event in expected])
    assert len(requests) == max(1, len(query)) * (1 if window is None else 3)
    assert {request["vllm_xargs"]["well_formed_spans"] for request in requests} == {True}


@is_vllm
def test_the_command_sends_a_path_with_its_content_and_prints_seconds(server, video, capsys):
    address, requests = server
    main(["--video", str(video), "--query", "rain", "--address", address])
    assert requests[0]["messages"][0]["content"][0]["video_url"]["url"].startswith("data:video/mp4;base64,")
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows and all(0 <= float(start) <= float(end) <= 20.0 and label == "rain" for start, end, label in rows)


@is_vllm
def test_an_error_of_the_server_has_its_message(server, tmp_path, video):
    (tmp_path / "broken.mp4").write_bytes(b"no video" * 100)
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(video.read_bytes())
    address, _ = server
    with pytest.raises(ValueError, match="broken.mp4: not a readable media file"):
        locate(ClientOptions(str(tmp_path / "broken.mp4"), address=address))  # found by the client
    with pytest.raises(ValueError, match=f"{address}/v1/chat/completions: 400 .*no such file"):
        locate(ClientOptions(f"file://{copy}#1", address=address))
    with pytest.raises(ValueError, match="http://127.0.0.1:9: no answer|9/v1/models: no answer"):
        locate(ClientOptions(str(video), address="http://127.0.0.1:9"))


@pytest.mark.parametrize("server", ["user"], indirect=True)
def test_a_server_that_ignores_parts_of_a_video_is_not_asked_about_windows(server, video):
    address, requests = server
    with pytest.raises(ValueError, match="is not vLLM: give the folder"):
        locate(ClientOptions(str(video), address=address))
    with pytest.raises(ValueError, match="--window needs vLLM"):
        locate(ClientOptions(str(video), address=address, model="folder", window=8.0))
    assert requests == []
    locate(ClientOptions(str(video), address=address, model="folder"))
    assert "vllm_xargs" not in requests[0] and requests[0]["model"] == "folder"


def test_the_commands_of_the_documentation_are_accepted():
    commands = [snippet.words()[2:] for snippet in snippets() if "examples/ask_server.py" in snippet.text]
    asked = [parse_options(ClientOptions, words, program="python examples/ask_server.py") for words in commands]
    assert [options.window for options in asked] == [None, 60.0] and asked[1].query == ["dog barking", "rain"]
