"""Types of media sources, and errors that name the source."""

import base64
import functools
import http.server
import io
import threading

import numpy as np
import pytest

from modeling_avicuna import MediaError, load_audio, load_video_frames
from modeling_avicuna.media_avicuna import open_media, probe
from tests.media_files import pictures, tone, write_media


@pytest.fixture
def clip(tmp_path):
    return write_media(tmp_path / "a.mp4", frames=pictures(10), waveform=tone(1.0))


@pytest.fixture
def served(tmp_path):
    """A web server for the folder of the clip."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Handler, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("form", ["str", "bytes", "bytearray", "file object", "open file", "data URL", "http URL"])
def test_all_types_of_sources_give_the_same_media(clip, served, form):
    content = clip.read_bytes()
    with open(clip, "rb") as opened:
        source = {
            "str": str(clip),
            "bytes": content,
            "bytearray": bytearray(content),
            "file object": io.BytesIO(content),
            "open file": opened,
            "data URL": "data:video/mp4;base64," + base64.b64encode(content).decode(),
            "http URL": f"{served}/a.mp4",
        }[form]
        np.testing.assert_array_equal(load_video_frames(source, 4)[0], load_video_frames(clip, 4)[0])
        np.testing.assert_array_equal(load_audio(source), load_audio(clip))
        assert probe(source) == probe(clip)
        assert not opened.closed


@pytest.mark.parametrize("scheme", ["ftp", "rtsp", "file", "s3", "concat", "HDFS"])
def test_other_url_schemes_are_an_error_that_names_them(scheme):
    with pytest.raises(MediaError, match=f"{scheme}://somewhere/a.mp4: URLs of scheme '{scheme.lower()}'"):
        open_media(f"{scheme}://somewhere/a.mp4")


def test_an_invalid_source_is_an_error_that_names_it(served):
    for source, reason in (
        (f"{served}/gone.mp4", "gone.mp4: cannot be downloaded"),
        ("data:video/mp4;base64,!", "data:video/mp4;base64,!"),
        ("data:video/mp4;base64,", "an empty file"),
        (b"", "<0 bytes>: an empty file"),
        (b"not a video", "<11 bytes>: not a readable media file"),
        ("AAAA" * 2000, "AAAA: cannot be opened .File name too long"),  # base64 without the form of a data URL
        (7, "7: is neither a path"),
        (None, "None: is neither a path"),
    ):
        with pytest.raises(MediaError, match=reason):
            probe(source)


@pytest.mark.parametrize(
    "content",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nsecret.ts\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile secret.ts\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    ],
    ids=["hls", "concat", "sdp"],
)
@pytest.mark.parametrize("suffix", [".mp4", ".m3u8", ".txt", ".sdp"])
def test_playlists_are_not_media_files(tmp_path, content, suffix):
    write_media(tmp_path / "secret.ts", frames=pictures(10))
    (tmp_path / f"list{suffix}").write_text(content)
    with pytest.raises(MediaError, match=f"list{suffix}: not a readable media file"):
        probe(tmp_path / f"list{suffix}")
