"""The judge protocol with a local OpenAI-compatible server, including its failures."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dataset_builders.atomic_files import write_json
from dataset_builders.sources.annotation_files import fingerprint
from eval import judge
from eval.judge_client import JudgeClient, Prices, Verdict, read_verdict
from eval.prompts import prompts_hash
from eval.records import AnswerLog
from eval.task import Answer


class JudgeServer:
    """Answers a request with `reply(number, body)`: text, an HTTP status, a raw dictionary, or None (no answer)."""

    def __init__(self):
        self.reply = lambda number, body: '{"pred": "yes", "score": 5}'
        self.requests: list[tuple[dict, dict]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append((dict(self.headers), body))
                reply = outer.reply(len(outer.requests), body)
                if reply is None:
                    time.sleep(1.5)
                    return
                status = reply if isinstance(reply, int) else 200
                completion = {
                    "model": "judge-2026-01-01",
                    "choices": [{"message": {"role": "assistant", "content": reply}}],
                    "usage": {"prompt_tokens": 100, "completion_tokens": 10},
                }
                content = reply if isinstance(reply, dict) else {"error": "refused"} if status != 200 else completion
                if "status" in content:
                    status = content["status"]
                data = json.dumps(content).encode() if content != {"garbled": True} else b"<html>busy</html>"
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def server():
    running = JudgeServer()
    yield running
    running.server.shutdown()
    running.server.server_close()


def client_of(server, **settings):
    return JudgeClient(
        server.url, model="judge", **{"timeout": 5.0, "first_pause": 0.01, "num_retries": 3, **settings}
    )


QUESTION = [{"role": "user", "content": "Is it right?"}]


@pytest.mark.parametrize(
    "text, verdict",
    [
        ('{"pred": "yes", "score": 5}', Verdict(True, 5.0)),
        ("{'pred': 'No', 'score': '0'}", Verdict(False, 0.0)),
        ('```json\n{"score": 3.5, "pred": "yes"}\n```', Verdict(True, 3.5)),
        ('{"pred": "yesterday", "score": 3}', None),
        ('{"pred": "yes", "score": 7}', None),
        ('{"pred": "yes"}', None),
        ("I cannot judge this.", None),
        ("", None),
        ('<think>{"pred": "yes", "score": 5}?</think>{"pred": "no", "score": 1}', Verdict(False, 1.0)),
        ('{"pred": "yes", "score": 5}? No: {"pred": "no", "score": 1}', Verdict(False, 1.0)),
        ("[THINK]pred: yes, score: 5[/THINK] pred: no, score: 1", Verdict(False, 1.0)),
        ('{"reason": "pred: yes, it seems", "pred": "no", "score": 1}', Verdict(False, 1.0)),
        ('{"verdict": {"pred": "no", "score": 1}}', Verdict(False, 1.0)),
        ('{"pred": "no", "score": 1, "reason": "an odd } and {"}', Verdict(False, 1.0)),
        ('{"pred": "yes", "score": 5}? No: {"pred": "no", "sc', None),
        ('<think>{"pred": "yes", "score": 5}', None),
    ],
)
def test_verdicts_are_read_from_replies(text, verdict):
    assert read_verdict(text) == verdict


def test_a_reply_has_the_version_of_the_model_and_its_cost_is_counted(server):
    client = client_of(server, api_key="k", prices=Prices(input=2.0, output=30.0))
    reply = client.ask(QUESTION)
    assert reply.version == "judge-2026-01-01" and read_verdict(reply.text) == Verdict(True, 5.0)
    headers, body = server.requests[0]
    assert headers["Authorization"] == "Bearer k" and body == {
        "model": "judge",
        "messages": QUESTION,
        "temperature": 0,
    }
    assert client.spent.cost(client.prices) == pytest.approx((100 * 2 + 10 * 30) / 1e6)


@pytest.mark.parametrize(
    "trouble", [429, 503, {"garbled": True}, {"unexpected": 1}, "no verdict here", {"choices": []}]
)
def test_temporary_failures_are_retried(server, trouble):
    server.reply = lambda number, body: trouble if number <= 2 else '{"pred": "no", "score": 1}'
    client = client_of(server)
    assert read_verdict(client.ask(QUESTION).text) == Verdict(False, 1.0)
    assert len(server.requests) == 3 and client.spent.num_retries == 2


def test_a_hanging_server_is_an_error_after_all_retries(server):
    server.reply = lambda number, body: None
    with pytest.raises(ValueError, match=r"no answer in 2 tries; the last error: .*tim"):
        client_of(server, timeout=0.2, num_retries=1).ask(QUESTION)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_is_not_retried(server, status):
    server.reply = lambda number, body: status
    with pytest.raises(ValueError, match=rf"refuses \({status}\).*refused"):
        client_of(server).ask(QUESTION)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [400, 413, 422])
def test_one_refused_question_is_counted_and_the_run_completes(server, finished_run, status, capsys):
    server.reply = lambda number, body: (
        status if "a piano" in body["messages"][1]["content"] else '{"pred": "no", "score": 1}'
    )
    judge.main([*command(server, finished_run), "--num-retries", "0"])
    result = json.loads((finished_run[0] / "results_judge.json").read_text())
    assert result["metrics"]["accuracy"] == 0.0 and list(result["refused"]) == ["0"]
    assert (result["counts"]["num_without_verdict"], result["counts"]["num_refused"]) == (1, 1)
    assert "1 of them were refused" in capsys.readouterr().out


@pytest.mark.parametrize("parameter", ["temperature", "model"])
def test_a_rejected_parameter_is_an_error(server, finished_run, parameter):
    error = {"message": "unsupported", "param": parameter, "code": "unsupported_value"}

    def refuse(number, body):
        time.sleep(number - 1)  # the later requests wait until the first answer has cancelled them
        return {"error": error, "status": 400}

    server.reply = refuse
    hint = "--omit-temperature" if parameter == "temperature" else "unsupported"
    with pytest.raises(ValueError, match=rf"refuses \(400\).*{hint}"):
        judge.main([*command(server, finished_run), "--num-workers", "1"])
    assert len(server.requests) <= 2


def test_an_endpoint_that_refuses_all_questions_is_an_error(server, finished_run):
    server.reply = lambda number, body: 400
    with pytest.raises(ValueError, match="the first 3 questions were all refused"):
        judge.main(command(server, finished_run))


def test_the_temperature_can_be_omitted(server, finished_run):
    judge.main([*command(server, finished_run), "--omit-temperature"])
    assert all("temperature" not in body for _, body in server.requests)


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": None, "completion_tokens": None}])
def test_missing_token_counts_count_as_zero(server, usage):
    message = {"content": [{"type": "text", "text": '{"pred": "yes", "score": 4}'}]}
    server.reply = lambda number, body: {"choices": [{"message": message}], "usage": usage}
    client = client_of(server)
    assert read_verdict(client.ask(QUESTION).text) == Verdict(True, 4.0)
    assert (client.spent.prompt_tokens, client.spent.reply_tokens) == (0, 0)


@pytest.mark.parametrize(
    "option, message",
    [
        (["--num-workers", "0"], "num_workers must be at least 1"),
        (["--num_retries", "-1"], "num_retries must be at least 0"),
        (["--max-cost", "nan"], "max_cost must be a finite number"),
        (["--timeout", "0"], "timeout must be above 0"),
        (["--endpoint", "host/v1"], "--endpoint must begin with http"),
    ],
)
def test_a_wrong_option_is_an_error_that_names_it(server, finished_run, option, message):
    with pytest.raises(ValueError, match=message):
        judge.main([*command(server, finished_run), *option])


def test_annotations_other_than_those_of_the_run_are_an_error(server, finished_run):
    run, annotations = finished_run
    annotations.write_text(annotations.read_text().replace("piano", "violin"))
    with pytest.raises(ValueError, match="are not the annotation files of the run"):
        judge.main(command(server, finished_run))


def test_an_unreachable_endpoint_is_an_error_that_names_it():
    client = JudgeClient("http://127.0.0.1:9/v1", model="judge", num_retries=1, first_pause=0.01)
    with pytest.raises(ValueError, match="127.0.0.1:9/v1/chat/completions gave no answer in 2 tries"):
        client.ask(QUESTION)


def test_replies_are_cached_for_equal_questions_and_other_clients(server, tmp_path):
    cache = tmp_path / "cache.jsonl"
    first = client_of(server, cache=cache)
    reply = first.ask(QUESTION)
    with cache.open("a") as file:
        file.write('{"key": "cut')  # killed while writing
    second = client_of(server, cache=cache)
    assert second.ask(QUESTION) == reply and second.spent.num_cached == 1
    other = [{"role": "user", "content": "And this?"}]
    second.ask(other)
    assert client_of(server, cache=cache).ask(other) and len(server.requests) == 2


def test_a_reply_without_verdict_is_returned_and_not_cached(server, tmp_path):
    server.reply = lambda number, body: "hm"
    client = client_of(server, cache=tmp_path / "cache.jsonl", num_retries=1)
    assert client.ask(QUESTION).text == "hm"
    server.reply = lambda number, body: '{"pred": "yes", "score": 4}'
    assert read_verdict(client.ask(QUESTION).text) == Verdict(True, 4.0)


def test_the_cost_limit_stops_before_the_next_question(server):
    client = client_of(server, prices=Prices(input=1e4), max_cost=1.5)  # each reply costs 1
    for number in range(2):
        client.ask([{"role": "user", "content": str(number)}])
    with pytest.raises(ValueError, match="cost limit of 1.5 is reached"):
        client.ask(QUESTION)
    assert len(server.requests) == 2


@pytest.fixture
def finished_run(tmp_path):
    """A run folder of eval.run with three answers about two videos, and its annotation file."""
    rows = [("v1", "what is it?", "piano"), ("v1", "who plays?", "woman"), ("v2", "what is it?", "drum")]
    records = [
        {"id": n, "video_id": video, "question": question, "answer": answer}
        for n, (video, question, answer) in enumerate(rows)
    ]
    (tmp_path / "test_qa.json").write_text(json.dumps(records))
    run = tmp_path / "run"
    log = AnswerLog(run)
    log.write(Answer(str(n), row[0], 1.0, text) for n, (row, text) in enumerate(zip(rows, ("a piano", "a man", ""))))
    log.join(["0", "1", "2"])
    result = {"task": "msrvtt_qa", "name": "msrvtt_qa/text/sound-removed/first-2", "model": "m", "metrics": {}}
    result |= {"dataset": {"name": "msrvtt_qa", "split": "test"}, "judge": None, "limit": 2}
    result |= {"conditions": ["sound-removed", "first-2"], "num_examples": 2, "num_expected": 2}
    settings = {"annotations_sha256": fingerprint([tmp_path / "test_qa.json"])}
    write_json(run / "results.json", {**result, "settings": settings})
    return run, tmp_path / "test_qa.json"


def command(server, finished_run):
    run, annotations = finished_run
    return ["--run", str(run), "--annotations", str(annotations), "--endpoint", server.url, "--judge-model", "judge-x"]


def test_a_run_is_judged_and_the_result_records_the_judge(server, finished_run, capsys):
    def reply(number, body):
        text = body["messages"][1]["content"]
        if "(no answer)" in text:
            return "I would rather not say."
        return '{"pred": "yes", "score": 5}' if "a piano" in text else '{"pred": "no", "score": 1}'

    server.reply = reply
    fast = [*command(server, finished_run), "--num-retries", "0", "--price-input", "1"]
    judge.main(fast)
    result = json.loads((finished_run[0] / "results_judge.json").read_text())
    assert result["metrics"] == {
        "accuracy": 50.0,
        "score": 3.0,
        "accuracy/what": 100.0,
        "score/what": 5.0,
        "accuracy/who": 0.0,
        "score/who": 1.0,
    }
    assert result["name"] == "msrvtt_qa/judge-judge-x/sound-removed/first-2"
    assert result["counts"]["num_without_verdict"] == 1
    recorded = result["judge"]
    assert recorded["model"] == "judge-x" and recorded["version"] == "judge-2026-01-01"
    assert recorded["prompt_sha256"] == prompts_hash(["judge_system", "judge_question"])
    assert (recorded["num_requests"], recorded["prompt_tokens"], recorded["cost"]) == (3, 300, 0.0003)
    assert "1 of 3 answers have no readable verdict" in capsys.readouterr().out
    asked = [body["messages"][1]["content"] for _, body in server.requests]
    assert any("Question: Who plays?\nReference answer: woman\nAnswer to grade: a man\n" in text for text in asked)
    judge.main(fast)  # only the answer without a verdict is asked again
    assert len(server.requests) == 4


def test_a_wrong_key_stops_the_run_immediately(server, finished_run):
    server.reply = lambda number, body: time.sleep(0.5) or 403  # the second request may have begun when the first ends
    with pytest.raises(ValueError, match=r"refuses \(403\)"):
        judge.main([*command(server, finished_run), "--num-workers", "1"])
    assert not (finished_run[0] / "results_judge.json").exists() and len(server.requests) <= 2


def test_a_run_without_any_verdict_is_an_error(server, finished_run):
    server.reply = lambda number, body: "no comment"
    with pytest.raises(ValueError, match="no readable verdict on any of 3 answers"):
        judge.main([*command(server, finished_run), "--num-retries", "0"])
