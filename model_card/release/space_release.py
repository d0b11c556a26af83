"""A Hugging Face Space that runs a published model: assembled, checked and tried.

`assemble_space` writes the app (`space/app.py`), its README and its requirements; `verify_space` starts it as the Hub
does, without this project and its other dependencies, and asks it about the example video. `push.py` sends it.
"""

import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from huggingface_hub import SpaceCard, SpaceCardData, hf_hub_download
from huggingface_hub.utils import validate_repo_id

from dataset_builders.sources.annotation_files import read_object

from ..facts import has_both_towers
from .fresh_process import END_WITH_PARENT, TIMEOUT, open_input, run_in_fresh_process
from .model_release import find_private_things


SPACE = Path(__file__).parents[1] / "space"
CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"
APP_FILE, CARD_FILE, REQUIREMENTS_FILE = "app.py", "README.md", "requirements.txt"
SPACE_FILES = (APP_FILE, CARD_FILE, REQUIREMENTS_FILE)
# imported by the app and by the code of a checkpoint; `sdk_version` of the Space installs Gradio
REQUIRED_PACKAGES = (
    *("av", "decord", "huggingface_hub", "numpy", "pillow"),
    *("torch", "torchaudio", "torchvision", "transformers"),
)
# modules of this project's environment that a Space does not have; they are hidden while it is tried
UNDECLARED_MODULES = (
    "accelerate datasets dataset_builders deepspeed evaluate matplotlib modeling_avicuna nltk peft pyarrow scipy "
    "sentence_transformers sentencepiece sklearn trl"
).split()
MODEL_LINE = re.compile(r'^MODEL_ID = "([^"]*)"', re.MULTILINE)
VERIFICATION_QUERY = "dog barking"
START_APP = """
import runpy
import sys

app, hidden = sys.argv[1:]
for name in hidden.split():
    sys.modules[name] = None
sys.argv = [app]
runpy.run_path(app, run_name="__main__")
"""
ASK_APP = """
import json
import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
from gradio_client import Client, handle_file

video, address, query, question = sys.argv[1:]
client = Client(address, verbose=False, analytics_enabled=False)
_, table = client.predict(handle_file(video), query, api_name="/locate")
answer = client.predict(handle_file(video), question, api_name="/ask")
print(json.dumps({"events": len(table["data"]), "answer": answer}))
"""


def assemble_space(model_id: str, *, output: Path) -> None:
    """Write the Space of the model `model_id` into the new folder `output`.

    Raises:
        ValueError: `model_id` is not a Hub id of the form user/name.
        FileExistsError: `output` exists.
    """
    validate_repo_id(model_id)
    if "/" not in model_id:
        raise ValueError(f"a Space loads its model by an id user/name, got {model_id}")
    title = f"{model_id.split('/')[-1]}: what happens in a video, and when?"
    pins = read_pins(CONSTRAINTS)
    app, replaced = MODEL_LINE.subn(f'MODEL_ID = "{model_id}"', (SPACE / APP_FILE).read_text(encoding="utf-8"))
    assert replaced == 1, "the app has no MODEL_ID line"
    metadata = SpaceCardData(
        title=title,
        sdk="gradio",
        sdk_version=pins["gradio"],
        python_version=f"{sys.version_info.major}.{sys.version_info.minor}",
        app_file=APP_FILE,
        license="apache-2.0",
        models=[model_id],
        pinned=False,
        short_description="Lists the events of a video with their times",
    )
    card = SpaceCard.from_template(
        metadata,
        template_path=str(SPACE / "README_template.md"),
        title=title,
        model_id=model_id,
        sdk_version=pins["gradio"],
    )
    output.mkdir(parents=True)
    (output / APP_FILE).write_text(app, encoding="utf-8")
    (output / CARD_FILE).write_text(str(card), encoding="utf-8")
    requirements = "".join(f"{name}=={pins[name]}\n" for name in REQUIRED_PACKAGES)
    (output / REQUIREMENTS_FILE).write_text(requirements, encoding="utf-8")


def read_pins(constraints: Path) -> dict[str, str]:
    """Versions by package of a constraints file."""
    lines = constraints.read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def find_space_problems(folder: Path) -> list[str]:
    """The problems that prevent publishing a Space, one sentence each."""
    missing = [f"{name} is missing" for name in SPACE_FILES if not (folder / name).is_file()]
    problems = missing + find_private_things(folder)
    if missing:
        return problems
    data = SpaceCard.load(folder / CARD_FILE).data
    if data.sdk != "gradio" or data.app_file != APP_FILE or not data.sdk_version:
        problems.append(f"{CARD_FILE} declares {data.sdk} {data.sdk_version} and {data.app_file}: not this app")
    loaded = MODEL_LINE.findall((folder / APP_FILE).read_text(encoding="utf-8"))
    if loaded != data.models:
        problems.append(f"{APP_FILE} loads {loaded}, but {CARD_FILE} names {data.models}")
    for line in (folder / REQUIREMENTS_FILE).read_text(encoding="utf-8").splitlines():
        if not re.fullmatch(r"[\w.-]+==[\w.+!-]+", line):
            problems.append(f"{REQUIREMENTS_FILE} pins no version: {line!r}")
    return problems


def verify_space(folder: Path, *, model: str | Path, timeout: float = TIMEOUT) -> str:
    """Start the app of `folder` in a fresh process and return its answer about the example video of `model`.

    `UNDECLARED_MODULES` cannot be imported in that process.

    Args:
        model (`str` or `Path`): the release folder or Hub id to load instead of the model that the app names.
        timeout (`float`): seconds for start and answer together.

    Raises:
        ValueError: Gradio is not installed, or the model has no example video or lacks a tower.
        RuntimeError: it does not start or answer; includes the end of its log.
    """
    if importlib.util.find_spec("gradio") is None or importlib.util.find_spec("gradio_client") is None:
        raise ValueError('trying a Space needs Gradio, which is not installed: pip install "avicuna[space]"')
    if not has_both_towers(read_object(find_model_file(model, "config.json"))):
        raise ValueError(f"{model} lacks a tower and cannot process a video: a Space cannot run it")
    video = find_model_file(model, "example.mp4")
    deadline = time.monotonic() + timeout
    with tempfile.TemporaryDirectory(prefix="avicuna-space-") as scratch:
        log, shown = Path(scratch) / "log.txt", Path(scratch) / video.name
        log.touch()
        shutil.copyfile(video, shown)  # the files of a Hub cache have no suffix
        try:
            with run_app(folder, model=model, log=log, deadline=deadline) as address:
                output = run_in_fresh_process(
                    ASK_APP,
                    shown,
                    address,
                    VERIFICATION_QUERY,
                    "What happens in the video, and when?",
                    timeout=max(deadline - time.monotonic(), 1.0),
                )
        except RuntimeError as error:
            log_end = log.read_text(encoding="utf-8", errors="replace")[-2000:]
            raise RuntimeError(f"the Space in {folder} does not run with {model}:\n{error}\n{log_end}") from error
    return json.loads(output.strip().splitlines()[-1])["answer"]


def find_model_file(model: str | Path, name: str) -> Path:
    """A file of a release folder or of a model on the Hub. Raises `ValueError` if a folder lacks it."""
    if not Path(model).is_dir():
        return Path(hf_hub_download(str(model), name))
    if not (Path(model) / name).is_file():
        raise ValueError(f"{model} has no {name}")
    return Path(model) / name


@contextmanager
def run_app(folder: Path, *, model: str | Path, log: Path, deadline: float) -> Iterator[str]:
    """Run the app of a Space folder for the duration of a `with` block; yields its address. `log` receives its output.

    Raises:
        RuntimeError: it exits, or does not listen before `deadline` (of `time.monotonic`).
    """
    port = find_free_port()
    with open_input() as standard_input:
        process = start_app(folder, model=model, log=log, port=port, standard_input=standard_input)
        try:
            while not is_listening(port):
                if process.poll() is not None:
                    raise RuntimeError(f"it exited with status {process.returncode}")
                if time.monotonic() > deadline:
                    raise RuntimeError("it took too long to start")
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def start_app(
    folder: Path, *, model: str | Path, log: Path, port: int, standard_input: int
) -> subprocess.Popen[bytes]:
    """The process of the app, which ends when `standard_input` is closed."""
    is_folder, scratch = Path(model).is_dir(), str(log.parent)
    environment = {
        **os.environ,
        "AVICUNA_MODEL": str(Path(model).resolve()) if is_folder else str(model),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_TEMP_DIR": scratch,
        "HF_MODULES_CACHE": scratch,
        "PYTHONPATH": "",
    }
    if is_folder:
        environment["HF_HUB_OFFLINE"] = "1"
    arguments = [str((folder / APP_FILE).resolve()), " ".join(UNDECLARED_MODULES)]
    with log.open("w") as output:
        return subprocess.Popen(
            [sys.executable, "-c", END_WITH_PARENT + START_APP, *arguments],
            cwd=scratch,
            env=environment,
            stdin=standard_input,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def find_free_port() -> int:
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def is_listening(port: int) -> bool:
    with closing(socket.socket()) as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0
