"""A side of `benchmarks.side_by_side`: a process that runs the functions of one code base when it is asked to.

Both sides have their own process, because the published code and ours need different versions of transformers. This
file must import nothing of either.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import torch


REPLY = "reply: "  # begins the lines of standard output that are replies


def serve(functions: dict[str, Callable[..., Any]]) -> None:
    """Answers requests, one JSON object per line of standard input, until it ends.

    A request is `{"function": name, "arguments": {...}}`; the reply is `{"cpu_seconds": ..., "result": ...}`, on one
    line after `REPLY`. What the functions print goes to standard error.
    """
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    torch.set_num_threads(1)
    for line in sys.stdin:
        request = json.loads(line)
        began = time.process_time()
        result = functions[request["function"]](**request["arguments"])
        seconds = time.process_time() - began
        print(REPLY + json.dumps({"cpu_seconds": seconds, "result": result}), file=replies, flush=True)
