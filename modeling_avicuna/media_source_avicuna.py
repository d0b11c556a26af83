"""Opens a media source (a path, bytes, a file object, a URL) as one binary file, or raises an error that names it.

The first step of reading media. This is the only place that opens a path: the decoders read from the returned file.
"""

from __future__ import annotations

import io
import os
import tempfile
import urllib.request
from pathlib import Path
from typing import Any, BinaryIO, cast


try:
    import httpx
except ImportError:
    httpx = None  # type: ignore[assignment]


Media = str | os.PathLike | bytes | BinaryIO
DOWNLOAD_TIMEOUT = 30.0  # s without an answer


class MediaError(ValueError):
    """
    A media file that cannot be used: missing, unreadable, or without the stream that is asked for.

    Args:
        name (`str` or `Path`): the file, or what else the message is to name.
        reason (`str`): a short cause without names or numbers, so that equal causes can be counted together.
        detail (`str`, *optional*): the rest of the message.
    """

    def __init__(self, name: str | Path, reason: str, detail: str = ""):
        super().__init__(f"{name}: {reason}" + (f" ({detail})" if detail else ""))
        self.name, self.reason, self.detail = str(name), reason, detail

    def __reduce__(self):  # worker processes return their errors by pickle
        return type(self), (self.name, self.reason, self.detail)


def open_media(source: Any) -> tuple[BinaryIO, str]:
    """
    Opens a media source.

    Args:
        source: a path, the bytes of a file, a seekable binary file object (read from its beginning), an http(s) URL
            (downloaded to a temporary file) or a data URL.

    Returns:
        the open file at its first byte, and its name for error messages. The caller closes the file, unless it is
        `source` itself.

    Raises:
        MediaError: no such file, a folder, an empty file, a file that cannot be opened, a URL that cannot be fetched
            or has an unsupported scheme, or a value of another type.
    """
    if isinstance(source, str) and source.startswith("data:"):
        return _decode_data_url(source)
    if isinstance(source, str) and "://" in source and not Path(source).exists():
        return _download(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        name = f"<{len(source)} bytes>"
        if not len(source):
            raise MediaError(name, "an empty file")
        return io.BytesIO(source), name
    if hasattr(source, "read"):
        name = str(getattr(source, "name", None) or "<file object>")
        if not hasattr(source, "seek"):
            raise MediaError(name, "is a file object that cannot seek; give its bytes")
        source.seek(0)
        return source, name
    if not isinstance(source, (str, os.PathLike)):
        raise MediaError(f"{source!r:.80}", "is neither a path, a URL, bytes nor a binary file object")
    path = Path(source)
    try:
        if not path.is_file():
            raise MediaError(path, "is a folder, not a media file" if path.is_dir() else "no such file")
        if path.stat().st_size == 0:
            raise MediaError(path, "an empty file")
        return path.absolute().open("rb"), str(path)
    except OSError as error:  # also for a name that is too long, such as the content of a file in base64
        raise MediaError(str(path)[:500], "cannot be opened", os.strerror(error.errno or 0)) from error


def _decode_data_url(url: str) -> tuple[BinaryIO, str]:
    name = f"{url[:40]}..."
    try:
        with urllib.request.urlopen(url) as response:  # a data URL: decoded without any network
            content = response.read()
    except (ValueError, OSError) as error:
        raise MediaError(name, "is not a valid data URL", str(error)) from error
    if not content:
        raise MediaError(name, "an empty file")
    return io.BytesIO(content), name


def _download(url: str) -> tuple[BinaryIO, str]:
    """The content of an http(s) URL in a temporary file, which is deleted when it is closed or collected."""
    scheme = url.partition("://")[0].lower()
    if scheme not in ("http", "https"):
        raise MediaError(url, f"URLs of scheme {scheme!r} are not supported; give a path or an http(s) or data URL")
    if httpx is None:
        raise ImportError("reading a URL needs httpx: pip install httpx")
    content = tempfile.NamedTemporaryFile(prefix="avicuna-")
    try:
        with httpx.stream("GET", url, follow_redirects=True, timeout=DOWNLOAD_TIMEOUT) as response:
            response.raise_for_status()
            for block in response.iter_bytes():
                content.write(block)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise MediaError(url, "cannot be downloaded", str(error)) from error
    if content.tell() == 0:
        raise MediaError(url, "an empty file")
    content.seek(0)
    content.name = url  # the name that error messages print, and whose suffix FFmpeg considers
    return cast(BinaryIO, content), url
