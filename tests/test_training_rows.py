"""Loading data sources: damaged files and files of something else are one error that names the file."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from dataset_builders.schema import FEATURES
from tests.train_fixtures import audio_rows
from train.data_sources import DataSource, read_data_source
from train.training_rows import load_rows, load_source


ROW = audio_rows()[0]
LINE = json.dumps(ROW) + "\n"
WITHOUT_MESSAGES = {name: value for name, value in ROW.items() if name != "messages"}


def said(role="assistant", content="<audio>\nWhat?", answer="Rain."):
    """ROW with another role, question or answer."""
    messages = [{"role": "user", "content": content}, {"role": role, "content": answer}]
    return {**ROW, "id": "changed", "messages": messages}


def timed(start, end):
    """ROW, 10 s long, with an answer from `start` to `end`."""
    times = [{"name": "<s0>", "seconds": start}, {"name": "<e0>", "seconds": end}]
    return {**said(answer="From <s0> to <e0>."), "times": times, "duration": 10.0}


UNNAMED = {**ROW, "id": "unnamed", "messages": [{**one, "content": "What is it?"} for one in ROW["messages"]]}
NAMED = {**ROW, "messages": [{**one, "content": f"<image>\n{one['content']}"} for one in ROW["messages"]]}
NO_MEDIA = dict.fromkeys(ROW["media"])
SEGMENTS = [{"clip_id": "a", "start": 0.0, "end": 5.0, "scale": 1.0, "caption": "It rains."}]


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


JSON_FILES = {
    "numbers.json": ("[1, 2]", "row 1 is not a JSON object, but int"),
    "object.json": ('{"a": 1}', "row 1 lacks the columns .*messages"),
    "text.json": ('"rows"', "row 1 is not a JSON object, but str"),
    "null.json": ("null", "row 1 is not a JSON object, but NoneType"),
    "lists.json": ("[[1], [2]]", "row 1 is not a JSON object, but list"),
    "mixed.json": (json.dumps([ROW, 3]), "row 2 is not a JSON object, but int"),
    "truncated.json": (json.dumps([ROW])[:-20], "is not JSON"),
    "split.json": (json.dumps({"train": [ROW]}), "row 1 lacks the columns"),
    "empty.json": ("", "has no rows"),
    "empty_list.json": ("[]", "has no rows"),
    "page.json": ("<html></html>", "is not JSON"),
    "numbers.jsonl": ("1\n2\n", "row 1 is not a JSON object, but int"),
    "truncated.jsonl": (LINE + LINE[:-30], "line 2 is not JSON"),
    "blank.jsonl": ("\n\n", "has no rows"),
    "missing_column.jsonl": (lines(ROW, WITHOUT_MESSAGES), r"row 2 lacks the columns \['messages'\]"),
    "null_column.jsonl": (lines(ROW, {**ROW, "messages": None}), "1 of 2 rows have no value in the column 'messages'"),
    "text_as_list.jsonl": (lines({**ROW, "messages": "x"}), "string to List"),
    "list_as_object.jsonl": (lines({**ROW, "media": [1]}), "list<item: int64> to"),
    "text_as_number.jsonl": (lines({**ROW, "duration": "long"}), "'long' as a scalar of type float"),
    "nan.jsonl": (lines({**ROW, "duration": float("nan")}), "the column 'duration' holds NaN"),
    "nan_time.jsonl": (lines({**ROW, "times": [{"name": "<s0>", "seconds": float("inf")}]}), "the column 'times'"),
    "without_slot.jsonl": (lines(ROW, UNNAMED), "1 of 2 rows have media, but no <video>.* the first: 'unnamed'"),
    "composed.jsonl": (
        lines({**UNNAMED, "media": NO_MEDIA, "segments": SEGMENTS}),
        "1 of 1 rows have media, but no <video>",
    ),
    "other_slot.jsonl": (lines(NAMED, ROW), "1 of 2 rows have <image> in their messages, but no image in their media"),
    "role.jsonl": (lines(ROW, ROW, said("human")), "1 of 3 rows have the role 'human'; known are system, user"),
    "question.jsonl": (lines(ROW, said("user")), "1 of 2 rows have no answer .* the first: 'changed'"),
    "empty_answer.jsonl": (lines(ROW, said(content="<audio> \n", answer=" ")), "have a message without content"),
    "null_content.jsonl": (lines(ROW, said(content=None)), "have a message without content"),
    "no_time.jsonl": (lines(ROW, said(answer="From <s0>.")), "1 of 2 rows have <s0> in their messages, but not in"),
    "no_duration.jsonl": (
        lines(ROW, {**said(answer="<s0>"), "times": [{"name": "<s0>", "seconds": 1.0}], "duration": None}),
        "have times in their messages, but no positive duration",
    ),
    "late_time.jsonl": (lines(ROW, timed(1.0, 50.0)), "1 of 2 rows have a time before 0 or after their duration"),
    "early_time.jsonl": (lines(timed(-1.0, 2.0)), "have a time before 0"),
    "reversed.jsonl": (lines(timed(4.0, 2.0)), "have a span that ends before it starts, the first: 'changed'"),
    "part.jsonl": (
        lines({**ROW, "media": {**ROW["media"], "start": 5.0, "end": 2.0}}),
        "the part from 5.0 s to 2.0 s",
    ),
    "nan_part.jsonl": (lines({**ROW, "media": {**ROW["media"], "start": float("nan")}}), "the part from nan s"),
    "pointer.jsonl": ("version https://git-lfs.github.com/spec/v1\noid sha256:a\nsize 9\n", "git-LFS pointer"),
    "empty.parquet": ("", "file size is 0 bytes"),
    "text.parquet": ("some text that is long enough", "not a parquet file"),
    "table.csv": ("a,b\n1,2\n", "the name of a file of rows ends in"),
}


def load_error(source: object) -> str:
    with pytest.raises(ValueError) as error:
        load_source(read_data_source(source if isinstance(source, dict) else str(source)))
    return " ".join(str(error.value).split())


@pytest.mark.parametrize("name", JSON_FILES)
def test_a_file_without_rows_is_an_error_that_names_it(name, tmp_path):
    text, words = JSON_FILES[name]
    (tmp_path / name).write_text(text, encoding="utf-8")
    message = load_error(tmp_path / name)
    assert str(tmp_path / name) in message
    assert re.search(words, message), message


def parquet_files(folder: Path) -> dict[str, str]:
    """Writes damaged Parquet files; returns what the error of each must say."""
    good = Dataset.from_list(audio_rows(), features=FEATURES)
    good.to_parquet(folder / "good.parquet")
    data = (folder / "good.parquet").read_bytes()
    (folder / "truncated.parquet").write_bytes(data[: len(data) // 2])
    (folder / "overwritten.parquet").write_bytes(data[:40] + bytes(60) + data[100:])
    good.remove_columns("messages").to_parquet(folder / "missing_column.parquet")
    good.select([]).to_parquet(folder / "no_rows.parquet")
    pq.write_table(pa.table({"a": [1]}), folder / "other.parquet")
    table = pq.read_table(folder / "good.parquet").drop(["messages"]).append_column("messages", pa.array(["x"] * 5))
    pq.write_table(table.replace_schema_metadata(None), folder / "text_as_list.parquet")
    (folder / "folder.parquet").mkdir()
    return {
        "truncated": "not a parquet file",
        "overwritten": "",
        "missing_column": "lacks the columns ['messages']",
        "no_rows": "no data",
        "other": "lacks the columns",
        "text_as_list": "string to List",
        "folder": "no such file",
        "absent": "no such file",
    }


def test_a_damaged_parquet_file_is_an_error_that_names_it(tmp_path):
    for name, words in parquet_files(tmp_path).items():
        path = tmp_path / f"{name}.parquet"
        message = load_error(path)
        assert str(path) in message and words in message, message


def test_a_missing_folder_or_split_is_an_error_that_names_it(tmp_path):
    Dataset.from_list(audio_rows(), features=FEATURES).to_parquet(tmp_path / "rows" / "train.parquet")
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty") in load_error(tmp_path / "empty")
    assert str(tmp_path / "rows") in load_error({"path": str(tmp_path / "rows"), "split": "val"})
    Path(tmp_path / "rows.jsonl").write_text(LINE, encoding="utf-8")
    assert str(tmp_path / "rows.jsonl") in load_error({"path": str(tmp_path / "rows.jsonl"), "split": "val"})


def test_columns_of_other_names_are_ignored_and_numbers_read_as_ids(tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps([{**ROW, "id": n, "note": "x"} for n in range(4)]), "utf-8")
    rows = load_source(read_data_source({"path": str(tmp_path / "rows.json"), "split": "train[1:3]"}))
    assert rows["id"] == ["1", "2"] and rows["messages"][0] == ROW["messages"] and "note" not in rows.column_names
    Dataset.from_list(audio_rows(), features=FEATURES).add_column("note", [1] * 5).to_parquet(tmp_path / "a.parquet")
    assert len(load_source(read_data_source(str(tmp_path / "a.parquet")))) == 5


@pytest.mark.parametrize(
    "values", [{"path": 3}, {"path": ""}, {"weight": "2"}, {"weight": float("nan")}, {"options": [1]}, {"split": None}]
)
def test_a_value_of_another_type_in_a_data_source_is_named(values):
    with pytest.raises(ValueError, match=f"{next(iter(values))} of data source"):
        read_data_source({"path": "rows.parquet", **values})


def test_rows_are_checked_and_counted_without_reading_them_one_by_one(tmp_path, monkeypatch):
    rows = [{**ROW, "id": str(number), "source": "odd" if number % 2 else "even"} for number in range(7)]
    Dataset.from_list(rows, features=FEATURES).to_parquet(str(tmp_path / "rows.parquet"))
    monkeypatch.setattr(Dataset, "__iter__", None)
    monkeypatch.setattr("train.training_rows.BATCH_ROWS", 3)

    class Media:
        def missing(self, row: dict) -> list[str]:
            return [row["media"]["audio"]] if row["id"] in ("3", "6") else []

    sources = [DataSource(path=str(tmp_path / "rows.parquet"), weight=2)]
    mixed, counts = load_rows(sources, media=Media(), max_missing=0.5)
    assert sorted(mixed[:]["id"]) == sorted(2 * ["0", "1", "2", "4", "5"])
    assert counts == {"rows_per_source": {"even": 6, "odd": 4}, "dropped": {"missing_media": 2}}
