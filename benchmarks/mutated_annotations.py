"""Reads mutated annotation files with every reader of training and evaluation: each must give rows, counted drops, or
one ValueError that names the file.

    python benchmarks/mutated_annotations.py --data-dir ../shared/data --output outputs/mutated_annotations.json

The first records of real files are mutated with a seed: bytes, lines, csv fields and JSON values. Of the rows that
come through, the schema, the times and the texts are checked, and that every record read is kept or dropped.
"""

import copy
import csv
import gzip
import json
import math
import random
import re
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from dataset_builders.a5_222k import A5222KConfig, pair_row, select_pairs
from dataset_builders.atomic_files import write_json
from dataset_builders.command_line import one_line_errors, parse_options
from dataset_builders.image_text import ImageTextConfig
from dataset_builders.image_text import read_rows as read_image_rows
from dataset_builders.input_settings import check_range
from dataset_builders.instruction import InstructionConfig
from dataset_builders.instruction import read_rows as read_instruction_rows
from dataset_builders.schema import FEATURES
from dataset_builders.sources.captions import read_clips
from dataset_builders.sources.excluded_ids import read_excluded_ids
from dataset_builders.sources.record_report import RecordReport
from dataset_builders.sources.text_cleaning import CONTROL_TOKEN
from eval.tasks import TASKS


NUM_RECORDS = 12  # of each real file: mutations then hit every part of it
INTERNVID = [
    {
        "YoutubeID": f"-abcdefgh{number:02d}",
        "Start_timestamp": f"00:00:{number:02d}.500",
        "End_timestamp": f"00:00:{number + 3:02d}.000",
        "Caption": "a dog runs",
    }
    for number in range(NUM_RECORDS)
]
VTIMELLM = [
    {
        "id": f"abcdefgh{number:03d}",
        "source": "internvid",
        "conversations": [
            {"from": "human", "value": "<video>\nWhat happens?"},
            {"from": "gpt", "value": "From <s0> to <e0>, a dog barks."},
        ],
        "meta": {"duration": 30.0, "token": {"<s0>": 1.0, "<e0>": 9.4}, "split": [10.0, 40.0]},
    }
    for number in range(NUM_RECORDS)
]
COMPOSED = [
    {**record, "meta": {**record["meta"], "split": None, "sub_videos": ["a", "b"], "scale": [1.0, 2.0]}}
    for record in VTIMELLM
]
AUTO_ACD = "youtube_id,caption\n" + "".join(f"-abcdefgh{n:02d},Rain number {n} falls.\n" for n in range(NUM_RECORDS))
AUDIOSET = "# Segments csv created\n# YTID, start_seconds, end_seconds, positive_labels\n" + "".join(
    f'-abcdefgh{n:02d}, 30.000, 40.000, "/m/09x0r,/m/012xff"\n' for n in range(NUM_RECORDS)
)
# Errors that no file may cause; any other ends the run.
UNEXPECTED = (
    ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, OSError, RuntimeError, TypeError,
    csv.Error, zlib.error, pa.ArrowException,
)  # fmt: skip
HOSTILE_TEXTS = (
    "</s>", "<|im_end|>", "<video>", "<s0>", "../../etc/passwd", "/etc/passwd", "<script>alert(1)</script>", "\u2028",
    "\x85", "\0", "\x1b[2J", "\ud83d", "NaN", "-1", "1e400", '"', ",", "\t", "{", "[", "", "a" * 5000,
)  # fmt: skip
HOSTILE_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1 << 70, 1.5, math.nan, math.inf, -math.inf, "", "x", [], {}, [[]], [None], {"a": None},
    [1, 2, 3], ["a"], *HOSTILE_TEXTS,
)  # fmt: skip


@dataclass
class Options:
    data_dir: str = field(default="../shared/data", metadata={"help": "folder of the real annotation files"})
    output: str | None = field(default=None, metadata={"help": "JSON file of the figures"})
    num_files: int = field(default=1000, metadata={"help": "mutated files for each reader"})
    seed: int = field(default=0, metadata={"help": "of the mutations"})
    only: str | None = field(default=None, metadata={"help": "readers whose name begins so"})

    def __post_init__(self):
        check_range(self, 1, "num_files")


@dataclass(frozen=True)
class Reader:
    """A reader under test: `read` gets the paths of `files`, one of which is mutated, and returns (rows, report)."""

    name: str
    files: tuple[tuple[str, bytes], ...]
    read: Callable[[list[Path]], tuple[list[dict], RecordReport | None]]


def main(arguments: list[str] | None = None) -> None:
    options = parse_options(Options, arguments, program="python benchmarks/mutated_annotations.py")
    started, outcomes, failures = time.monotonic(), {}, []
    readers = [one for one in list_readers(Path(options.data_dir)) if one.name.startswith(options.only or "")]
    if not readers:
        raise ValueError(f"no reader has a name that begins with {options.only!r}")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for reader in readers:
            outcome = Counter()
            for number in range(options.num_files):
                result, failure = try_mutation(reader, Path(folder), seed=f"{options.seed}-{reader.name}-{number}")
                outcome[result] += 1
                if failure is not None:
                    failures.append({"reader": reader.name, "number": number, "failure": failure})
            outcomes[reader.name] = dict(sorted(outcome.items()))
            print(reader.name, outcomes[reader.name], flush=True)
    for failure in failures[:20]:
        print(json.dumps(failure, indent=2))
    result = {
        "num_files": options.num_files * len(readers),
        "seed": options.seed,
        "readers": outcomes,
        "failures": failures,
        "seconds": round(time.monotonic() - started, 1),
    }
    if options.output is not None:
        write_json(options.output, result)
    if failures:
        raise ValueError(f"{len(failures)} of {result['num_files']} mutated files had another outcome")


def try_mutation(reader: Reader, folder: Path, *, seed: str) -> tuple[str, str | None]:
    """("rows", "dropped" or "error", None), or ("failure", what happened)."""
    rng = random.Random(seed)
    victim = rng.randrange(len(reader.files))
    paths = []
    for index, (name, data) in enumerate(reader.files):
        path = folder / name
        path.write_bytes(mutate(data, rng) if index == victim else data)
        paths.append(path)
    try:
        rows, report = reader.read(paths)
    except ValueError as error:
        if any(path.name in str(error) for path in paths) or "no row is left" in str(error):
            return "error", None
        return "failure", f"a {type(error).__name__} that names no file: {error}"
    except UNEXPECTED:
        return "failure", traceback.format_exc(limit=-4)
    problem = find_problem(rows, report)
    if problem is not None:
        return "failure", problem
    num_reasons = 0 if report is None else sum(len(row["dropped"]) for row in report.counts().values())
    return ("dropped" if num_reasons else "rows"), None


def find_problem(rows: list[dict], report: RecordReport | None) -> str | None:
    """What is wrong with rows that came through, or None."""
    if report is None:
        return None
    try:
        pa.Table.from_pylist(rows, schema=FEATURES.arrow_schema)
    except (pa.ArrowException, ValueError, TypeError) as error:
        return f"rows do not fit the schema: {error}"
    for source, counts in report.counts().items():
        if counts["read"] != counts["kept"] + sum(counts["dropped"].values()):
            return f"{source}: {counts}"
    for row in rows:
        texts = [message["content"] for message in row["messages"]]
        if any(CONTROL_TOKEN.search(text) or "\0" in text for text in texts):
            return f"a control token in {texts}"[:300]
        if any(".." in Path(row["media"][kind]).parts for kind in ("video", "audio", "image") if row["media"][kind]):
            return f"media that lead out of their folder: {row['media']}"
        seconds = [time["seconds"] for time in row["times"]]
        if any(not 0 <= one <= (row["duration"] or math.inf) * 1.0001 for one in seconds):
            return f"times {seconds} in a video of {row['duration']} s"
    return None


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One to three mutations of a file."""
    for _ in range(rng.randint(1, 3)):
        change = rng.choice((change_bytes, change_text, change_json, change_json, change_json, change_whole))
        data = change(data, rng)
    return data


def change_bytes(data: bytes, rng: random.Random) -> bytes:
    if not data:
        return bytes(rng.randrange(256) for _ in range(8))
    begin = rng.randrange(len(data))
    end = min(len(data), begin + rng.randint(1, 40))
    middle = rng.choice(
        (b"", data[begin:end] * 2, bytes(byte ^ (1 << rng.randrange(8)) for byte in data[begin:end]), b"\0")
    )
    return data[:begin] + middle + data[end:]


def change_text(data: bytes, rng: random.Random) -> bytes:
    text = data.decode("utf-8", "replace")
    lines = text.split("\n")
    number = rng.randrange(len(lines))
    where = rng.randrange(len(lines[number]) + 1)
    hostile = rng.choice(HOSTILE_TEXTS).encode("utf-8", "replace").decode()
    match rng.randrange(5):
        case 0:
            lines[number] = lines[number][:where] + hostile + lines[number][where:]
        case 1:
            lines[number] = lines[number][:where]
        case 2:
            lines.insert(number, lines[rng.randrange(len(lines))])
        case 3:
            lines[number] = re.sub(r"[\d.]+", lambda _: hostile, lines[number], count=1)
        case 4:
            lines.insert(rng.randrange(len(lines)), hostile)
    return "\n".join(lines).encode()


def change_json(data: bytes, rng: random.Random) -> bytes:
    """Another value, key or type somewhere in a JSON file or in one of its lines."""
    try:
        content = json.loads(data)
        lines = None
    except (ValueError, RecursionError):
        lines = data.split(b"\n")
        number = rng.randrange(len(lines))
        try:
            content = json.loads(lines[number])
        except (ValueError, RecursionError):
            return change_text(data, rng)
    content = change_value(content, rng)
    packed = json.dumps(content).encode()
    return packed if lines is None else b"\n".join([*lines[:number], packed, *lines[number + 1 :]])


def change_value(content: Any, rng: random.Random) -> Any:
    if not isinstance(content, (dict, list)) or not content or rng.random() < 0.1:
        return copy.deepcopy(rng.choice(HOSTILE_VALUES))
    key = rng.choice(list(content) if isinstance(content, dict) else range(len(content)))
    match rng.randrange(8):
        case 0:
            del content[key]
        case 1 if isinstance(content, dict):
            content[rng.choice(HOSTILE_TEXTS)] = content.pop(key)
        case 2 if isinstance(content, list):
            content.insert(key, copy.deepcopy(content[rng.randrange(len(content))]))
        case _:
            content[key] = change_value(content[key], rng)
    return content


def change_whole(data: bytes, rng: random.Random) -> bytes:
    """Another encoding, a cut or packed file, a file of another kind."""
    text = data.decode("utf-8", "replace")
    return rng.choice((
        lambda: text.encode("utf-16"),
        lambda: text.encode("utf-16-le"),
        lambda: text.encode("latin-1", "replace"),
        lambda: b"\xef\xbb\xbf" + data,
        lambda: gzip.compress(data),
        lambda: gzip.compress(data)[: rng.randrange(2, 60)],
        lambda: data[: rng.randrange(len(data) + 1)],
        lambda: data.replace(b"\n", b"\r\n"),
        lambda: b"",
        lambda: b"[" * 100_000,
        lambda: b"1" * 5_000,
        lambda: b"null",
        lambda: b'{"a": {"b": [1]}}',
        lambda: b"version https://git-lfs.github.com/spec/v1\nsize 5\n",
        lambda: rng.randbytes(200),
    ))()  # fmt: skip


def list_readers(data: Path) -> Iterator[Reader]:
    """Every reader with the beginnings of its files."""
    beginning = {path: head_of(data / path) for path in REAL_FILES}
    beginning["durations.csv"] = durations_of(beginning["charades_sta/charades_sta_train.txt.gz"])
    beginning["violet_samples/txt_msvd-qa.json.gz"] = gzip.decompress(
        (data / "violet_samples/txt_msvd-qa.json.gz").read_bytes()
    )  # its answers are numbers into a list of 1,000 words
    for name, paths in INSTRUCTION_FILES.items():
        source = name.split("/")[0]
        yield Reader(
            f"instruction/{name}", tuple((Path(path).name, beginning[path]) for path in paths), _instruction(source)
        )
    for name, records in (("internvid", INTERNVID), ("vtimellm", VTIMELLM), ("vtimellm/composed", COMPOSED)):
        text = json.dumps(records) if name != "internvid" else "\n".join(map(json.dumps, records))
        yield Reader(f"instruction/{name}", (("made.json", text.encode()),), _instruction(name.split("/")[0]))
    for path in ("image_text/minigpt_caption_3k.json.gz", "violet_samples/txt_cc3m.json.gz"):
        yield Reader(f"image_text/{Path(path).name}", ((Path(path).name, beginning[path]),), _image_text)
    sounds = {
        "audiocaps": beginning["audiocaps/train.csv.gz"],
        "clotho": beginning["clotho/train.csv.gz"],
        "wavcaps": beginning["wavcaps/sb_final.json.gz"],
        "auto_acd": AUTO_ACD.encode(),
        "captions": beginning["valor/valor32k_captions.jsonl.gz"],
        "captions/csv": beginning["valor/processed_val_data.csv.gz"],
    }
    for name, content in sounds.items():
        yield Reader(
            f"a5_222k/{name}", ((f"{name.replace('/', '-')}.txt", content),), _a5_222k(f"{name.split('/')[0]}_file")
        )
    classes = ("class_labels.csv", (data / "audioset/class_labels_indices.csv").read_bytes())
    for name, content in (("audioset", AUDIOSET.encode()), ("llp", beginning["llp/AVVP_dataset_full.csv.gz"])):
        yield Reader(
            f"a5_222k/{name}", ((f"{name}.csv", content), classes), _a5_222k("audioset_file", "class_labels_file")
        )
    for name in ("exclude_blacklist", "exclude_unav100", "exclude_captions", "exclude_ids", "exclude_clotho"):
        path = EXCLUSIONS[name]
        files = ((f"{name}.txt", beginning[path]), ("audiocaps.csv", sounds["audiocaps"]))
        yield Reader(f"a5_222k/{name}", files, _a5_222k(f"{name}_file", "audiocaps_file"))
    for name, path in (("jsonl", "valor/valor32k_captions.jsonl.gz"), ("csv", "valor/processed_val_data.csv.gz")):
        yield Reader(f"pu_valor/{name}", ((f"captions.{name}", beginning[path]),), _clips)
    for path in EXCLUDED:
        yield Reader(f"excluded_ids/{path}", ((Path(path).name, beginning[path]),), _excluded)
    for name, paths in TASK_FILES.items():
        yield Reader(f"eval/{name}", tuple((Path(path).name, beginning[path]) for path in paths), _task(name))


def head_of(path: Path) -> bytes:
    """The first records of a real file, unpacked."""
    data = path.read_bytes()
    data = gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
    try:
        content = json.loads(data)
    except ValueError:
        return b"\n".join(data.split(b"\n")[: NUM_RECORDS + 1])
    return json.dumps(_first(content)).encode()


def durations_of(lines: bytes) -> bytes:
    """Charades' csv of durations for the videos of Charades-STA's lines."""
    names = dict.fromkeys(line.split(" ")[0] for line in lines.decode().split("\n") if line)
    return "".join(["id,length\n", *(f"{name},31.5\n" for name in names)]).encode()


def _first(content: Any) -> Any:
    """The first records of each list or object of many."""
    if isinstance(content, list):
        return [_first(one) for one in content[:NUM_RECORDS]] if len(content) > NUM_RECORDS else content
    if isinstance(content, dict):
        return {key: _first(content[key]) for key in list(content)[:NUM_RECORDS]}
    return content


def _instruction(source: str) -> Callable:
    def read(paths: list[Path]) -> tuple[list[dict], RecordReport]:
        settings: dict[str, Any] = {"annotations_file": paths[0]}
        if source == "activitynet_qa":
            settings["answers_file"] = paths[1]
        if source == "charades_sta":
            settings["durations_file"] = paths[1]
        report = RecordReport()
        rows = list(read_instruction_rows(InstructionConfig(name=source, **settings), report=report))
        return rows, report

    return read


def _image_text(paths: list[Path]) -> tuple[list[dict], RecordReport]:
    report = RecordReport()
    return list(read_image_rows(ImageTextConfig(annotations_file=paths[0]), report=report)), report


def _a5_222k(*names: str) -> Callable:
    def read(paths: list[Path]) -> tuple[list[dict], RecordReport]:
        report = RecordReport()
        config = A5222KConfig(**dict(zip(names, paths)), num_pairs=None)
        try:
            selected = select_pairs(config, report=report)
        except ValueError as error:
            if "no pair is left" not in str(error):
                raise
            selected = []
        return [pair_row(one) for one in selected], report

    return read


def _clips(paths: list[Path]) -> tuple[list[dict], None]:
    read_clips(paths[0], report=RecordReport())
    return [], None


def _excluded(paths: list[Path]) -> tuple[list[dict], None]:
    read_excluded_ids(paths[0])
    return [], None


def _task(name: str) -> Callable:
    def read(paths: list[Path]) -> tuple[list[dict], None]:
        examples = TASKS[name].read(paths, TASKS[name].default_subset)
        for example in examples:
            spans = [(event.start, event.end) for event in example.events]
            if any(not math.isfinite(one) for span in spans for one in span):
                raise AssertionError(f"a reference that is not finite: {spans}")
        return [], None

    return read


INSTRUCTION_FILES = {
    "unav100": ("unav100/unav100_annotations.json.gz",),
    "activitynet_captions": ("activitynet_captions/val_1.json.gz",),
    "charades_sta": ("charades_sta/charades_sta_train.txt.gz", "durations.csv"),
    "didemo": ("didemo/val_data.json.gz",),
    "qvhighlights": ("qvhighlights/highlight_val_release.jsonl.gz",),
    "avsd": ("avsd/lbl_test_set4DSTC7-AVSD.json.gz",),
    "music_avqa": ("music_avqa/avqa-val.json.gz",),
    "activitynet_qa": ("activitynet_qa/test_q.json.gz", "activitynet_qa/test_a.json.gz"),
    "video_instruct": ("image_text/llava_complex_reasoning_2k.json.gz",),
    "video_instruct/lines": ("image_text/coco2014_val_gpt4_qa_30x3.jsonl.gz",),
}
TASK_FILES = {
    "unav100": ("unav100/unav100_annotations.json.gz",),
    "unav100_query": ("unav100/unav100_annotations.json.gz",),
    "activitynet_captions": ("activitynet_captions/val_1.json.gz",),
    "charades_sta": ("charades_sta/charades_sta_train.txt.gz", "durations.csv"),
    "didemo": ("didemo/test_data.json.gz",),
    "qvhighlights": ("qvhighlights/highlight_val_release.jsonl.gz",),
    "activitynet_qa": ("activitynet_qa/test_q.json.gz", "activitynet_qa/test_a.json.gz"),
    "avsd": ("avsd/lbl_test_set4DSTC7-AVSD.json.gz",),
    "msvd_qa": ("violet_samples/txt_msvd-qa.json.gz",),
    "music_avqa": ("music_avqa/avqa-test.json.gz",),
}
EXCLUSIONS = {
    "exclude_blacklist": "wavcaps/blacklist_exclude_test_ac.json.gz",
    "exclude_unav100": "unav100/unav100_annotations.json.gz",
    "exclude_captions": "valor/valor32k_captions.jsonl.gz",
    "exclude_ids": "valor/empty_caption_ids.txt",
    "exclude_clotho": "clotho/test.csv.gz",
}
EXCLUDED = (
    "unav100/unav100_annotations.json.gz",
    "valor/empty_caption_ids.txt",
    "valor/processed_test_data.csv.gz",
    "activitynet_captions/val_1.json.gz",
    "charades_sta/charades_sta_train.txt.gz",
    "vggsound/test.csv.gz",
)
REAL_FILES = sorted(
    {path for paths in (*INSTRUCTION_FILES.values(), *TASK_FILES.values()) for path in paths if "/" in path}
    | {*EXCLUSIONS.values(), *EXCLUDED}
    | {"image_text/minigpt_caption_3k.json.gz", "violet_samples/txt_cc3m.json.gz", "audiocaps/train.csv.gz"}
    | {"clotho/train.csv.gz", "wavcaps/sb_final.json.gz", "valor/valor32k_captions.jsonl.gz"}
    | {"valor/processed_val_data.csv.gz", "llp/AVVP_dataset_full.csv.gz"}
)


if __name__ == "__main__":
    with one_line_errors("python benchmarks/mutated_annotations.py"):
        main()
