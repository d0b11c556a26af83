"""Client of a judge: requests with retries, a cache by content, token and cost counts, parsing of verdicts.

It uses the chat-completions API of OpenAI-compatible servers and only the standard library.
"""

import ast
import hashlib
import http.client
import json
import re
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from .thoughts import without_thoughts


RETRIED_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
# the server refuses this question: content filter, too long
REFUSED_STATUS = frozenset({400, 413, 422})
# parameters that are the same for every question: an error in one of them ends the run
REQUEST_PARAMETERS = ("model", "temperature")
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # s; the delay doubles with each retry


class RefusedQuestion(ValueError):
    """The endpoint refuses this question, but may accept others."""


class _TemporaryError(Exception):
    """A failed request that may succeed when it is repeated."""


@dataclass(frozen=True)
class Verdict:
    """Whether an answer is right, and its score from 0 to 5."""

    is_right: bool
    score: float


@dataclass(frozen=True)
class Reply:
    """A judge's text, and the version that the server reports (model and fingerprint)."""

    text: str
    version: str


@dataclass(frozen=True)
class Prices:
    """Price of a million tokens, in any currency."""

    input: float = 0.0
    output: float = 0.0


@dataclass
class Spent:
    """Numbers of requests and tokens; cached answers cost nothing."""

    num_requests: int = 0
    num_cached: int = 0
    num_retries: int = 0
    prompt_tokens: int = 0
    reply_tokens: int = 0

    def cost(self, prices: Prices) -> float:
        return (self.prompt_tokens * prices.input + self.reply_tokens * prices.output) / 1e6

    def counts(self, prices: Prices) -> dict[str, float]:
        return {**vars(self), "cost": round(self.cost(prices), 6)}

    def summary(self, prices: Prices) -> str:
        return (
            f"{self.num_requests} asked, {self.num_cached} from the cache, {self.num_retries} retries, "
            f"{self.prompt_tokens} + {self.reply_tokens} tokens, cost {self.cost(prices):.4f}"
        )


def read_verdict(text: str) -> Verdict | None:
    """The verdict in a reply: the last complete object with "pred", as JSON or a Python dictionary.

    Text before a closing `</think>` is ignored. None if there is no verdict, if the last object is truncated, or if
    its values are not yes or no and 0 to 5.

    Example:

    >>> read_verdict("Sure! {'pred': 'Yes', 'score': 4}")
    Verdict(is_right=True, score=4.0)
    >>> read_verdict('<think>{"pred": "yes", "score": 5}?</think>{"pred": "no", "score": 1}')
    Verdict(is_right=False, score=1.0)
    >>> read_verdict('{"pred": "maybe", "score": 4}') is None
    True
    """
    final = without_thoughts(text)
    if final is None:
        return None
    objects = _objects(final) if "{" in final else [final]
    found = [text for text in objects if text is None or re.search(r"\bpred\b", text, re.IGNORECASE)]
    if not found or found[-1] is None:
        return None
    values = _values(found[-1])
    said, score = str(values.get("pred")).lower(), str(values.get("score"))
    if said not in ("yes", "no") or not re.fullmatch(r"\d+(?:\.\d+)?", score) or float(score) > 5:
        return None
    return Verdict(said == "yes", float(score))


def _objects(text: str) -> list[str | None]:
    """The outermost `{...}` of a text in order; None for one that is not closed."""
    found: list[str | None] = []
    begin, end = text.find("{"), None
    while begin >= 0:
        try:
            end = json.JSONDecoder().raw_decode(text, begin)[1]
        except json.JSONDecodeError:  # a Python dictionary, or truncated
            end = _closing_brace(text, begin)
        found.append(None if end is None else text[begin:end])
        begin = -1 if end is None else text.find("{", end)
    return found


def _closing_brace(text: str, begin: int) -> int | None:
    depth = 0
    for index in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return index + 1
    return None


def _values(text: str) -> dict:
    """ "pred" and "score" of an object or of an object inside it; of malformed text, by their names."""
    for parse in (json.loads, ast.literal_eval):
        try:
            values = parse(text)
        except (ValueError, SyntaxError):
            continue
        if isinstance(values, dict):
            inner = (value for value in values.values() if isinstance(value, dict) and "pred" in value)
            return values if "pred" in values else next(inner, {})
    return dict(re.findall(r"""["']?\b(pred|score)\b["']?\s*:\s*["']?(\w+(?:\.\d+)?)\b""", text.lower()))


class JudgeClient:
    """Sends questions to one judge; thread-safe.

    Args:
        endpoint: base URL; "/chat/completions" is appended.
        api_key: sent as a bearer token; None: not sent.
        cache: file of earlier replies, created if it does not exist.
        temperature: None: not sent, for endpoints that refuse it.
        num_retries: retries after a time-out, a lost connection, a server error, or a reply without a verdict; a last
            reply without a verdict is returned, but not cached.
        max_cost: no request is sent once this is spent.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        model: str,
        api_key: str | None = None,
        cache: Path | None = None,
        temperature: float | None = 0.0,
        timeout: float = 60.0,
        num_retries: int = 5,
        prices: Prices = Prices(),
        max_cost: float | None = None,
        first_pause: float = FIRST_PAUSE,
    ):
        self.url, self.model, self.temperature = endpoint.rstrip("/") + "/chat/completions", model, temperature
        self.timeout, self.num_retries, self.first_pause = timeout, num_retries, first_pause
        self.prices, self.max_cost, self.spent = prices, max_cost, Spent()
        self._headers = {"Content-Type": "application/json"}
        self._headers |= {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._cache_path, self._lock = cache, threading.Lock()
        self._cached = _read_cache(cache) if cache is not None and cache.exists() else {}

    def ask(self, messages: list[dict]) -> Reply:
        """The judge's reply to a conversation, from the cache if possible.

        Raises:
            RefusedQuestion: the server refuses this question (content filter, too long).
            ValueError: the server refuses the request (a wrong key, an unknown model or parameter) or does not answer
                after all retries, or the cost limit is reached.
        """
        body: dict[str, Any] = {"model": self.model, "messages": messages}
        body |= {} if self.temperature is None else {"temperature": self.temperature}
        key = hashlib.sha256(json.dumps([self.url, body], sort_keys=True).encode()).hexdigest()
        with self._lock:
            if key in self._cached:
                self.spent.num_cached += 1
                return self._cached[key]
        failure: _TemporaryError | None = None
        for attempt in range(self.num_retries + 1):
            if attempt:
                with self._lock:
                    self.spent.num_retries += 1
                time.sleep(min(self.first_pause * 2 ** (attempt - 1), LONGEST_PAUSE))
            try:
                reply = self._request(body)
            except _TemporaryError as error:
                failure = error
                continue
            if read_verdict(reply.text):
                self._keep(key, reply)
                return reply
            failure = None
        if failure is not None:
            raise ValueError(f"{self.url} gave no answer in {self.num_retries + 1} tries; the last error: {failure}")
        return reply

    def _request(self, body: dict) -> Reply:
        """The reply to one request. `_TemporaryError` for an error that another try may resolve."""
        if self.max_cost is not None and self.spent.cost(self.prices) >= self.max_cost:
            raise ValueError(
                f"the cost limit of {self.max_cost} is reached ({self.spent.summary(self.prices)}); the verdicts are "
                "cached: run again with a higher limit to continue"
            )
        request = urllib.request.Request(self.url, data=json.dumps(body).encode(), headers=self._headers)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as response:
                content = json.loads(response.read())
        except urllib.error.HTTPError as error:
            self._raise_for_status(error)
        except (OSError, http.client.HTTPException, json.JSONDecodeError) as error:  # time-outs are OSErrors
            raise _TemporaryError(f"{type(error).__name__}: {error}") from error
        return self._read(content)

    def _raise_for_status(self, error: urllib.error.HTTPError) -> NoReturn:
        message = error.read().decode("utf-8", "replace")
        if error.code in RETRIED_STATUS:
            raise _TemporaryError(f"status {error.code}: {message[:300]}") from error
        wrong = next((name for name in REQUEST_PARAMETERS if re.search(rf'"param"\s*:\s*"{name}"', message)), None)
        if error.code in REFUSED_STATUS and wrong is None:
            raise RefusedQuestion(f"{self.url} refuses the question ({error.code}): {message[:300]}") from error
        hint = "; use --omit-temperature" if wrong == "temperature" else ""
        raise ValueError(f"{self.url} refuses ({error.code}): {message[:300]}{hint}") from error

    def _read(self, content: Any) -> Reply:
        try:
            text = content["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError) as error:
            raise _TemporaryError(f"not a chat completion: {str(content)[:300]}") from error
        if isinstance(text, list):  # content in parts
            text = "".join(part.get("text") or "" for part in text)
        usage = content.get("usage") or {}
        with self._lock:
            self.spent.num_requests += 1
            self.spent.prompt_tokens += usage.get("prompt_tokens") or 0
            self.spent.reply_tokens += usage.get("completion_tokens") or 0
        version = " ".join(filter(None, (content.get("model") or self.model, content.get("system_fingerprint"))))
        return Reply(text or "", version)

    def _keep(self, key: str, reply: Reply) -> None:
        with self._lock:
            self._cached[key] = reply
            if self._cache_path is not None:
                self._cache_path.parent.mkdir(parents=True, exist_ok=True)
                with self._cache_path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"key": key, **vars(reply)}, ensure_ascii=False) + "\n")


def _read_cache(path: Path) -> dict[str, Reply]:
    """Replies of earlier runs. An incomplete line of a killed process is ignored."""
    replies, text = {}, path.read_text(encoding="utf-8")
    if text and not text.endswith("\n"):
        with path.open("a", encoding="utf-8") as file:
            file.write("\n")  # so that the next reply is not appended to the incomplete line
    for line in text.split("\n"):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        replies[row["key"]] = Reply(row["text"], row["version"])
    return replies
