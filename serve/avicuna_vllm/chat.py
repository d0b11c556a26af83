"""What vLLM does before the model: the chat template, content parts, and fetching media.

vLLM decodes frames without sound, and its placeholders do not distinguish images from videos in our template. Here
media are fetched as files. The processor decodes a file unless the result of an earlier request is in vLLM's cache.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import pybase64
from transformers import AutoProcessor
from vllm.multimodal.media import connector as media_connector
from vllm.multimodal.media.base import MediaIO
from vllm.renderers import chat_utils

import modeling_avicuna
from modeling_avicuna.prompt_avicuna import AUDIO_TOKEN, IMAGE_TOKEN, VIDEO_TOKEN


# Keys of a content part that choose what is shown and heard of a video or sound; see `apply_chat_template`.
PART_KEYS = ("audio", "start", "end")
FRAGMENT = "#avicuna="  # carries them from the content part to the connector, which gets an address only

# How the served template writes the slot of an image: no message has these two slots without a line break between.
IMAGE_SLOT = f"{VIDEO_TOKEN}{AUDIO_TOKEN}"
_SLOT_TYPE = re.compile(r"'<' ~ (\w+(?:\[\d+\])?\['type'\]) ~ '>")
_REFUSE_SLOTS = (
    """\
{%- for message in messages -%}
{%- set parts = [{'type': 'text', 'text': message['content']}] if message['content'] is string \
else message['content'] -%}
{%- for part in parts if part['type'] == 'text' -%}
{%- for slot in """
    + repr([VIDEO_TOKEN, AUDIO_TOKEN, IMAGE_TOKEN])
    + """ if slot in part['text'] -%}
{{- raise_exception('the text holds the placeholder ' ~ slot ~ ': give media as content parts') -}}
{%- endfor -%}
{%- endfor -%}
{%- endfor -%}
"""
)


def serve_template(template: str, *, adds_bos: bool) -> str:
    """The chat template as vLLM needs it.

    It refuses text with a literal slot, writes the beginning-of-sequence token (vLLM adds none to a chat), and writes
    images as `IMAGE_SLOT`, because `<image>` is no token.

    Raises:
        ValueError: the template writes slots in another way than those of this project.
    """
    served, replaced = _SLOT_TYPE.subn(rf"'<' ~ (\1 | replace('image', '{IMAGE_SLOT[1:-1]}')) ~ '>", template)
    if not replaced:
        raise ValueError(
            "the chat template does not write slots as \"'<' ~ block['type'] ~ '>'\": it cannot be served"
        )
    return _REFUSE_SLOTS + ("{{- bos_token -}}" if adds_bos else "") + served


class AVicunaProcessor(modeling_avicuna.AVicunaProcessor):
    """The processor of a served checkpoint, with the template that `serve_template` makes. transformers finds
    processors by the name of their class."""

    _saved_template: str | dict[str, str] | None = None

    @property
    def chat_template(self) -> str | None:
        saved = self._saved_template
        if saved is None:
            return None
        adds_bos = self.tokenizer("").input_ids[:1] == [self.tokenizer.bos_token_id]
        return serve_template(saved["default"] if isinstance(saved, dict) else saved, adds_bos=adds_bos)

    @chat_template.setter
    def chat_template(self, template: str | dict[str, str] | None) -> None:
        self._saved_template = template


class MediaSource(MediaIO[dict]):
    """A fetched file as a content block of the processor, without decoding: its bytes or, for a local file, its path.

    vLLM hashes what this returns, for each request. A local file is therefore not read here: a client asks about an
    hour of video dozens of times, in windows. `version` changes when the file is rewritten.
    """

    def __init__(self, address: str, settings: dict[str, Any]):
        super().__init__()
        # vLLM removes folders from its error messages
        name = Path(urlsplit(address).path).name if address.startswith("file:") else address
        self.name, self.settings = unquote(name) if len(name) <= 200 else f"{name[:40]}...", settings

    def load_bytes(self, data: bytes) -> dict:
        return {"name": self.name, "content": data, **self.settings}

    def load_base64(self, media_type: str, data: str) -> dict:
        return self.load_bytes(pybase64.b64decode(data, validate=True))

    def load_file(self, filepath: Path) -> dict:
        if not filepath.is_file():
            raise ValueError(f"{self.name}: no such file")
        status = filepath.stat()
        version = [status.st_mtime_ns, status.st_size]
        return {"name": self.name, "path": str(filepath), "version": version, **self.settings}


@contextmanager
def opened_block(kind: str, item: dict) -> Iterator[dict]:
    """The content block of the processor for what `MediaSource` fetched, whose errors name its address; or for
    arrays."""
    if "name" not in item:
        yield {"type": kind, **item}
        return
    with BytesIO(item["content"]) if "content" in item else open(item["path"], "rb") as file:
        (file if "content" in item else file.raw).name = item["name"]
        yield {"type": kind, kind: file, **{name: item[name] for name in PART_KEYS if name in item}}


class FileConnector(media_connector.MediaConnector):
    """Fetches videos, sounds and images of AVicuna as files."""

    def _split(self, address: str) -> tuple[str, MediaSource]:
        address, _, settings = address.partition(FRAGMENT)
        return address, MediaSource(address, json.loads(unquote(settings)) if settings else {})

    def fetch_video(self, video_url: str, **_: Any) -> dict:
        return self.load_from_url(*self._split(video_url))

    async def fetch_video_async(self, video_url: str, **_: Any) -> dict:
        return await self.load_from_url_async(*self._split(video_url))

    fetch_audio, fetch_audio_async = fetch_video, fetch_video_async
    fetch_image, fetch_image_async = fetch_video, fetch_video_async


def read_part(part: dict) -> str | None:
    """The address of a `video_url` part, with `PART_KEYS` in its fragment."""
    url = part["video_url"]
    address = url["url"] if isinstance(url, dict) else url
    settings = {name: part[name] for name in PART_KEYS if name in part}
    if address and settings:
        return f"{address}{FRAGMENT}{quote(json.dumps(settings))}"
    return address


def register() -> None:
    AutoProcessor.register(modeling_avicuna.AVicunaConfig, AVicunaProcessor, exist_ok=True)
    media_connector.MEDIA_CONNECTOR_REGISTRY.register("avicuna")(FileConnector)
    os.environ.setdefault("VLLM_MEDIA_CONNECTOR", "avicuna")
    chat_utils.MM_PARSER_MAP["video_url"] = read_part
