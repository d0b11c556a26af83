"""Tests a release in a new process without this project, its caches and the network, before it is uploaded.

The process ends with the one that started it, also after `kill -9`: its standard input is then closed.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dataset_builders.sources.annotation_files import read_object

from ..facts import has_both_towers


TIMEOUT = 3600.0  # seconds; a 7B model on a slow disk and a CPU answers within minutes
END_WITH_PARENT = """
import os
import threading

threading.Thread(target=lambda: os.read(0, 1) or os._exit(1), daemon=True).start()
"""
# an editable install makes the project importable in every process of its environment
HIDE_PROJECT = """
import sys
for name in ("modeling_avicuna", "dataset_builders"):
    sys.modules[name] = None
"""
ASK = """
import json
import torch
from transformers import AutoModelForMultimodalLM, AutoProcessor

folder, adapter, video, question = sys.argv[1:]
model = AutoModelForMultimodalLM.from_pretrained(folder, trust_remote_code=True)
if adapter:
    from peft import PeftModel

    model = PeftModel.from_pretrained(model, adapter)
model = model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
content = [{"type": "text", "text": question}]
if video:
    content.insert(0, {"type": "video", "path": video})
inputs = processor.apply_chat_template(
    [{"role": "user", "content": content}],
    add_generation_prompt=True,
    tokenize=True,
    return_dict=True,
    return_tensors="pt",
).to(model.device)
with torch.inference_mode():
    generated = model.generate(**inputs, max_new_tokens=16, do_sample=False)
answer = processor.batch_decode(generated[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]
print(json.dumps({"class": type(model).__name__, "answer": answer}))
"""


@contextmanager
def open_input() -> Iterator[int]:
    """The standard input of a process that runs `END_WITH_PARENT`. The block's end or this process's end closes it."""
    read_end, write_end = os.pipe()
    try:
        yield read_end
    finally:
        os.close(read_end)
        os.close(write_end)


def run_in_fresh_process(code: str, folder: Path, *arguments: str, timeout: float = TIMEOUT) -> str:
    """The output of `code`, run with `folder` as its first argument.

    Raises:
        RuntimeError: it fails (with the end of stderr), or takes longer than `timeout` seconds.
    """
    with tempfile.TemporaryDirectory() as scratch, open_input() as standard_input:
        caches = {"HF_MODULES_CACHE": scratch, "HF_DATASETS_CACHE": scratch}
        try:
            done = subprocess.run(
                [sys.executable, "-c", END_WITH_PARENT + HIDE_PROJECT + code, str(folder.resolve()), *arguments],
                cwd=scratch,
                env={**os.environ, **caches, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""},
                capture_output=True,
                text=True,
                stdin=standard_input,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{folder} gave no answer in a fresh process within {timeout:.0f} s") from None
    if done.returncode:
        raise RuntimeError(f"{folder} does not load in a fresh process:\n{done.stderr[-2000:]}")
    return done.stdout


def ask_model(folder: Path, *, question: str, adapter: Path | None = None) -> dict[str, str]:
    """Load a release with its remote code, ask it one question and return {"class", "answer"}.

    The question is asked about the example video if the release has one and both towers; otherwise without media.

    Args:
        adapter: LoRA folder to load on the model of `folder`.

    Raises:
        RuntimeError: it does not load or does not answer.
    """
    video = folder / "example.mp4"
    shown = str(video.resolve()) if video.is_file() and has_both_towers(read_object(folder / "config.json")) else ""
    lora = "" if adapter is None else str(adapter.resolve())
    output = run_in_fresh_process(ASK, folder, lora, shown, question)
    return json.loads(output.strip().splitlines()[-1])
