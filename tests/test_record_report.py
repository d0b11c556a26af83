"""The report of read, kept, dropped and repaired records."""

import json
from pathlib import Path

from dataset_builders.sources.record_report import RecordReport, read_dropped, write_report


def filled_report() -> RecordReport:
    report = RecordReport(settings={"seed": 3})
    report.read("clotho", num=9)
    report.drop("clotho", "a", "no_text", detail=[1.0, 2.0])
    report.drop("clotho", "video", "missing_media", num=3)
    report.leave_out("clotho", "not_sampled", num=2)
    report.repair("clotho", "b", "end_after_duration")
    report.keep("clotho", num=3)
    return report


def test_read_records_are_kept_or_dropped():
    row = filled_report().counts()["clotho"]
    assert row["read"] == row["kept"] + sum(row["dropped"].values()) == 9
    assert row["dropped"] == {"missing_media": 3, "no_text": 1, "not_sampled": 2}
    assert row["repaired"] == {"end_after_duration": 1}


def test_the_written_report_lists_each_record_and_is_deterministic(tmp_path):
    filled_report().write(tmp_path / "one")
    filled_report().write(tmp_path / "two")
    for name in ("report.json", "dropped.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    written = json.loads((tmp_path / "one" / "report.json").read_text())
    assert written == {"settings": {"seed": 3}, "sources": filled_report().counts()}
    filled_report().write(tmp_path / "facts", sizes={"train": 3})
    assert json.loads((tmp_path / "facts" / "report.json").read_text()) == {**written, "sizes": {"train": 3}}
    lines = [json.loads(line) for line in (tmp_path / "one" / "dropped.jsonl").read_text().splitlines()]
    assert lines == filled_report().entries and lines[0]["detail"] == [1.0, 2.0]


def test_the_list_of_dropped_records_is_copied_line_by_line(tmp_path, monkeypatch):
    report = filled_report()
    report.drop("clotho", "c", "no_text", detail="one\u2028line \u00e9")
    report.write(tmp_path / "one")
    monkeypatch.setattr(Path, "read_text", None)
    write_report(tmp_path / "two", {}, read_dropped(tmp_path / "one"))
    first, second = ((tmp_path / name / "dropped.jsonl").read_bytes() for name in ("one", "two"))
    assert first == second and first.count(b"\n") == 4
