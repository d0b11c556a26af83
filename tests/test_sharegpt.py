"""The ShareGPT format that LLaMA-Factory and ms-swift read, with one path for each tag."""

import json
import re
import wave

import pytest

from dataset_builders.sources.rows import make_row
from dataset_builders.sources.sharegpt import write_sharegpt

from .media_files import pictures, tone, write_media


TURNS = [("When does a dog bark?", "From <s0> to <e0>."), ("When does it rain?", "No event.")]
TIMES = {"s0": 1.25, "e0": 3.0}


def video_row(path, **changes):
    values = {"source": "test", "turns": TURNS, "video": str(path), "duration": 4.0, "times": TIMES, **changes}
    return make_row("row-1", **values)


def test_a_record_has_one_path_for_each_tag_and_times_in_seconds(tmp_path):
    video = write_media(tmp_path / "a.mp4", frames=pictures(40), waveform=tone(4.0))
    silent = write_media(tmp_path / "b.mp4", frames=pictures(40))
    rows = [video_row(video.name), {**video_row(silent.name), "id": "row-2"}]
    folders = {"media_dir": tmp_path, "sounds_dir": tmp_path / "sounds"}
    assert write_sharegpt(rows, tmp_path / "train.json", **folders) == 2
    records = json.loads((tmp_path / "train.json").read_text())
    for record in records:
        text = "".join(message["content"] for message in record["messages"])
        assert [len(record[f"{kind}s"]) for kind in ("video", "audio")] == [
            len(re.findall(f"<{kind}>", text)) for kind in ("video", "audio")
        ]
        assert [message["role"] for message in record["messages"]] == ["user", "assistant"] * 2
        assert record["messages"][1]["content"] == "From 1.2 s to 3.0 s."
    assert records[0]["messages"][0]["content"] == "<video><audio>\nWhen does a dog bark?"
    assert records[0]["videos"] == [str(video)] and records[1]["audios"] == []
    with wave.open(records[0]["audios"][0]) as file:
        assert file.getframerate() == 16_000 and file.getnframes() == pytest.approx(64_000, abs=2000)


def test_dataset_info_keeps_other_entries_and_describes_the_columns(tmp_path):
    (tmp_path / "dataset_info.json").write_text('{"other": {"file_name": "other.json"}}')
    write_sharegpt([video_row("a.mp4", video="a.mp4")], tmp_path / "train.json")
    info = json.loads((tmp_path / "dataset_info.json").read_text())
    assert set(info) == {"other", "train"}
    # the keys of mllm_video_audio_demo.json in LLaMA-Factory
    (record,) = json.loads((tmp_path / "train.json").read_text())
    assert record.keys() == set(info["train"]["columns"].values()) == {"messages", "videos", "audios"}
    assert {info["train"]["tags"][tag] for tag in ("role_tag", "content_tag")} == {"role", "content"}
    assert record["messages"][0].keys() == {"role", "content"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"video": None}, "render the videos"),
        ({"end": 2.0}, "a part of its file"),
    ],
)
def test_rows_that_cannot_be_written_raise_and_are_named(tmp_path, changes, reason):
    row = video_row("a.mp4")
    row = {**row, "media": {**row["media"], **changes}}
    with pytest.raises(ValueError, match=f"row-1.*{reason}"):
        write_sharegpt([row], tmp_path / "train.json")
    assert not list(tmp_path.iterdir())
