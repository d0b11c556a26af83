"""One question to a judge: HTTP with retries, a cache keyed by content, a meter of tokens and cost, the reply's reading.

Speaks the chat-completions form of OpenAI-compatible servers through the standard library. What is asked is `judge.py`'s.
"""

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
from typing import Any


RETRIED_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # s; each pause is twice the one before


@dataclass(frozen=True)
class Verdict:
    """Whether an answer is right, and how right, 0-5."""

    is_right: bool
    score: float


@dataclass(frozen=True)
class Reply:
    """What a judge said, and the version that it says it is (the server's "model", and its fingerprint if it has one)."""

    text: str
    version: str


@dataclass(frozen=True)
class Prices:
    """Price of a million tokens, in any currency."""

    input: float = 0.0
    output: float = 0.0


@dataclass
class Spent:
    """What was asked of the endpoint so far; answers from the cache cost nothing."""

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
    """The verdict in a reply: JSON or a Python dictionary, alone or among other words; None if there is none.

    Example:

    >>> read_verdict("Sure! {'pred': 'Yes', 'score': 4}")
    Verdict(is_right=True, score=4.0)
    >>> read_verdict('{"pred": "maybe", "score": 4}') is None
    True
    """
    said = re.search(r"""["']?pred["']?\s*:\s*["']?(yes|no)\b""", text, re.IGNORECASE)
    score = re.search(r"""["']?score["']?\s*:\s*["']?(\d+(?:\.\d+)?)""", text, re.IGNORECASE)
    if said is None or score is None or not 0 <= float(score[1]) <= 5:
        return None
    return Verdict(said[1].lower() == "yes", float(score[1]))


class JudgeClient:
    """Asks one judge, from several threads if need be.

    Args:
        endpoint: base address; "/chat/completions" is added.
        model: name of the judge.
        api_key: sent as a bearer token; None: not sent.
        cache: file of earlier replies, made if need be.
        timeout: s for one reply.
        num_retries: further tries after a time-out, a lost connection, a busy or failing server, or a reply without a
            verdict; a reply that still has none is given back as it is, and not cached.
        prices: of a million tokens.
        max_cost: nothing is asked any more once this is spent.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        model: str,
        api_key: str | None = None,
        cache: Path | None = None,
        timeout: float = 60.0,
        num_retries: int = 5,
        prices: Prices = Prices(),
        max_cost: float | None = None,
        first_pause: float = FIRST_PAUSE,
    ):
        self.url, self.model = endpoint.rstrip("/") + "/chat/completions", model
        self.timeout, self.num_retries, self.first_pause = timeout, num_retries, first_pause
        self.prices, self.max_cost, self.spent = prices, max_cost, Spent()
        self._headers = {"Content-Type": "application/json"}
        self._headers |= {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._cache_path, self._lock = cache, threading.Lock()
        self._cached = _read_cache(cache) if cache is not None and cache.exists() else {}

    def ask(self, messages: list[dict]) -> Reply:
        """The judge's reply to a conversation, from the cache if it was asked before.

        Raises:
            ValueError: the server refuses (a wrong key, an unknown model), does not answer after all retries, or the
                cost limit is reached.
        """
        body = {"model": self.model, "messages": messages, "temperature": 0}
        key = hashlib.sha256(json.dumps([self.url, body], sort_keys=True).encode()).hexdigest()
        with self._lock:
            if key in self._cached:
                self.spent.num_cached += 1
                return self._cached[key]
        for attempt in range(self.num_retries + 1):
            reply, trouble = self._try(body)
            if reply is not None and (read_verdict(reply.text) or attempt == self.num_retries):
                break
            if attempt == self.num_retries:
                raise ValueError(f"{self.url} gave no answer in {attempt + 1} tries; the last trouble: {trouble}")
            with self._lock:
                self.spent.num_retries += 1
            time.sleep(min(self.first_pause * 2**attempt, LONGEST_PAUSE))
        if read_verdict(reply.text):
            self._keep(key, reply)
        return reply

    def _try(self, body: dict) -> tuple[Reply | None, str]:
        """One request: a reply, or None and what went wrong. ValueError for what another try cannot mend."""
        if self.max_cost is not None and self.spent.cost(self.prices) >= self.max_cost:
            raise ValueError(
                f"the cost limit of {self.max_cost} is reached ({self.spent.summary(self.prices)}); verdicts so far are "
                "cached: start again with a higher limit to go on"
            )
        request = urllib.request.Request(self.url, data=json.dumps(body).encode(), headers=self._headers)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as response:
                content = json.loads(response.read())
        except urllib.error.HTTPError as error:
            told = error.read().decode("utf-8", "replace")[:300]
            if error.code not in RETRIED_STATUS:
                raise ValueError(f"{self.url} refuses ({error.code}): {told}") from error
            return None, f"status {error.code}: {told}"
        except (OSError, http.client.HTTPException, json.JSONDecodeError) as error:  # time-outs are OSErrors
            return None, f"{type(error).__name__}: {error}"
        return self._read(content)

    def _read(self, content: Any) -> tuple[Reply | None, str]:
        try:
            text = content["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            return None, f"not a chat completion: {str(content)[:300]}"
        usage = content.get("usage") or {}
        with self._lock:
            self.spent.num_requests += 1
            self.spent.prompt_tokens += usage.get("prompt_tokens", 0)
            self.spent.reply_tokens += usage.get("completion_tokens", 0)
        version = " ".join(filter(None, (content.get("model") or self.model, content.get("system_fingerprint"))))
        return Reply(text or "", version), "a reply without a verdict"

    def _keep(self, key: str, reply: Reply) -> None:
        with self._lock:
            self._cached[key] = reply
            if self._cache_path is not None:
                self._cache_path.parent.mkdir(parents=True, exist_ok=True)
                with self._cache_path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"key": key, **vars(reply)}, ensure_ascii=False) + "\n")


def _read_cache(path: Path) -> dict[str, Reply]:
    """Replies of earlier runs. A line that a kill cut short is not one: its question is asked again."""
    replies, text = {}, path.read_text(encoding="utf-8")
    if text and not text.endswith("\n"):
        with path.open("a", encoding="utf-8") as file:
            file.write("\n")  # so that the next reply does not end up on the cut line
    for line in text.split("\n"):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        replies[row["key"]] = Reply(row["text"], row["version"])
    return replies
