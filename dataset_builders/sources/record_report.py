"""Report of a build: which records were kept, dropped or repaired, and why.

Readers and builders record every decision in one `RecordReport`. `write` saves it in the folder of the built data as
report.json (counts) and dropped.jsonl (each dropped or repaired record, except those that `leave_out` only counts).
The report makes no decisions itself.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..atomic_files import atomic_path, write_text


REPORT_FILE = "report.json"
DROPPED_FILE = "dropped.jsonl"


@dataclass
class RecordReport:
    """Counts per source of records read, kept, dropped and repaired, with the reason of each drop and repair.

    >>> report = RecordReport()
    >>> report.read("charades_sta", num=3)
    >>> report.drop("charades_sta", "AKKWU", "end_before_start", detail=[38.0, 13.0])
    >>> report.keep("charades_sta", num=2)
    >>> report.counts()["charades_sta"]["dropped"]
    {'end_before_start': 1}
    """

    num_read: Counter = field(default_factory=Counter)
    num_kept: Counter = field(default_factory=Counter)
    entries: list[dict[str, Any]] = field(default_factory=list)
    unlisted: Counter = field(default_factory=Counter)
    settings: dict[str, Any] = field(default_factory=dict)

    def read(self, source: str, *, num: int = 1) -> None:
        """Count `num` records read from the annotation file, kept or not."""
        self.num_read[source] += num

    def keep(self, source: str, *, num: int = 1) -> None:
        """Count `num` records that are in the built data."""
        self.num_kept[source] += num

    def drop(self, source: str, record_id: str, reason: str, *, detail: Any = None, num: int = 1) -> None:
        """Record that one record was dropped, or `num` records if one decision drops several at once.

        `reason` is a snake_case identifier.
        """
        self._add("dropped", source, record_id, reason, detail, num)

    def leave_out(self, source: str, reason: str, *, num: int) -> None:
        """Count `num` drops without listing them, for example sound records not sampled from millions."""
        if num:
            self.unlisted[source, "dropped", reason] += num

    def repair(self, source: str, record_id: str, reason: str, *, detail: Any = None) -> None:
        """Record that one record was kept with a changed value, for example a clamped end time."""
        self._add("repaired", source, record_id, reason, detail, 1)

    def _add(self, decision: str, source: str, record_id: str, reason: str, detail: Any, num: int) -> None:
        entry: dict[str, Any] = {"decision": decision, "source": source, "id": record_id, "reason": reason}
        if detail is not None:
            entry["detail"] = detail
        if num != 1:
            entry["num"] = num
        self.entries.append(entry)

    def counts(self) -> dict[str, dict[str, Any]]:
        """`{source: {"read", "kept", "dropped": {reason: count}, "repaired": {reason: count}}}`, sorted by name."""
        reasons = Counter(self.unlisted)
        for entry in self.entries:
            reasons[entry["source"], entry["decision"], entry["reason"]] += entry.get("num", 1)
        sources = sorted({*self.num_read, *self.num_kept, *(source for source, _, _ in reasons)})
        table: dict[str, dict[str, Any]] = {
            source: {"read": self.num_read[source], "kept": self.num_kept[source], "dropped": {}, "repaired": {}}
            for source in sources
        }
        for (source, decision, reason), count in sorted(reasons.items()):
            table[source][decision][reason] = count
        return table

    def summary(self) -> str:
        """One line per source, for an error message or a log."""
        return "\n".join(
            f"{source}: read {row['read']}, kept {row['kept']}, dropped {row['dropped']}, repaired {row['repaired']}"
            for source, row in self.counts().items()
        )

    def write(self, folder: str | Path, **facts: Any) -> None:
        """Write `folder`/report.json, with `facts` as further entries, and `folder`/dropped.jsonl.

        The bytes depend only on the decisions and the facts.
        """
        write_report(folder, {"settings": self.settings, "sources": self.counts(), **facts}, self.entries)


def write_report(folder: str | Path, report: dict[str, Any], entries: Iterable[dict[str, Any]]) -> None:
    """Write dropped.jsonl, then report.json: if a folder has report.json, both files are complete."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(entry, sort_keys=True, ensure_ascii=False, default=str) for entry in entries)
    with atomic_path(Path(folder) / DROPPED_FILE) as path, path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)
    text = json.dumps(report, indent=2, sort_keys=True, ensure_ascii=False, default=str)
    write_text(Path(folder) / REPORT_FILE, text + "\n")


def read_dropped(folder: str | Path) -> Iterator[dict[str, Any]]:
    """The entries of a folder's dropped.jsonl, one at a time."""
    with (Path(folder) / DROPPED_FILE).open(encoding="utf-8", newline="\n") as file:
        yield from map(json.loads, file)
