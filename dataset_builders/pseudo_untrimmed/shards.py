"""Build one shard of rows: a pure function of the prepared plan and the shard's number.

`curation.prepare` leaves, per split, the list of clips and the plan of all videos; whoever has these two tables can build
any shard, on any machine, and gets the same bytes. Nothing is drawn here but wordings, by row.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..schema import FEATURES
from .conversations import draw_turns, write_conversation
from .planning import Plan, place_segments


SOURCE = "pseudo-valor"
CLIPS_FILE = "clips-{split}.parquet"
PLAN_FILE = "plan-{split}.parquet"


def build_shard(prepared: str | Path, split: str, index: int, *, settings) -> pa.Table:
    """Rows `index * videos_per_shard` and on of a split, in the columns of `schema.FEATURES`.

    Args:
        prepared (`str` or `Path`):
            The folder that `curation.prepare` filled.
        split (`str`), index (`int`):
            Which shard.
        settings (`CurationSettings`):
            Of the build.
    """
    clips = pq.read_table(Path(prepared) / CLIPS_FILE.format(split=split))
    plan = read_plan(Path(prepared) / PLAN_FILE.format(split=split))
    first = index * settings.videos_per_shard
    return tabulate(plan.slice(first, first + settings.videos_per_shard), clips, split=split, settings=settings)


def count_shards(num_rows: int, videos_per_shard: int) -> int:
    """At least one, so that a split without a row still has a file."""
    return max(1, -(-num_rows // videos_per_shard))


def tabulate(plan: Plan, clips: pa.Table, *, split: str, settings) -> pa.Table:
    """The rows of planned videos. `clips` has the columns clip_id, caption, duration and event."""
    present = plan.clips >= 0  # [R, K]
    durations = np.where(present, clips["duration"].to_numpy()[plan.clips], 0.0)
    starts, ends = place_segments(durations, plan.scales)
    flat_clips = pa.array(plan.clips[present])
    texts = clips["caption"].take(flat_clips)
    offsets = np.concatenate([[0], np.cumsum(present.sum(axis=1))])
    segments = {
        "clip_id": clips["clip_id"].take(flat_clips),
        "start": starts[present],
        "end": ends[present],
        "scale": plan.scales[present] / 100.0,
        "caption": texts,
    }
    events = clips["event"].to_numpy()[plan.clips[present]].tolist()
    spans = list(zip(starts[present].tolist(), ends[present].tolist()))
    messages, times = write_messages(plan.rows, texts.to_pylist(), spans, events, offsets.tolist(), split, settings)
    columns = {
        "id": [name_row(split, row) for row in plan.rows.tolist()],
        "source": pa.array([SOURCE] * len(plan)),
        "duration": ends[:, -1] if ends.shape[1] else np.zeros(len(plan)),
        "media": [{}] * len(plan),
        "segments": make_lists(offsets, segments, "segments"),
        "messages": messages,
        "times": times,
    }
    arrays = [to_array(columns[field.name], field.type) for field in FEATURES.arrow_schema]
    return pa.Table.from_arrays(arrays, schema=FEATURES.arrow_schema)


def write_messages(rows, texts, spans, events, offsets, split, settings) -> tuple[pa.Array, pa.Array]:
    """The `messages` and `times` columns."""
    seed = split_seed(settings.seed, split)
    draws = draw_turns(rows, max_turns=settings.max_turns, seed=seed).tolist()
    roles, contents, names, seconds = [], [], [], []
    message_offsets, time_offsets = [0], [0]
    for place, (first, last) in enumerate(zip(offsets, offsets[1:])):
        conversation = write_conversation(
            texts[first:last],
            spans[first:last],
            events[first:last],
            draws[place],
            conversation_types=settings.conversation_types,
            max_turns=settings.max_turns,
        )
        for role, content in conversation.messages:
            roles.append(role)
            contents.append(content)
        for name, value in conversation.times:
            names.append(name)
            seconds.append(value)
        message_offsets.append(len(roles))
        time_offsets.append(len(names))
    messages = make_lists(message_offsets, {"role": roles, "content": contents}, "messages")
    return messages, make_lists(time_offsets, {"name": names, "seconds": seconds}, "times")


def make_lists(offsets, fields: dict, column: str) -> pa.ListArray:
    """A list-of-structs column from flat values and the offsets of its rows."""
    wanted = FEATURES.arrow_schema.field(column).type.value_type
    arrays = [to_array(fields[field.name], field.type) for field in wanted]
    structs = pa.StructArray.from_arrays(arrays, fields=list(wanted))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), structs)


def to_array(values, kind: pa.DataType) -> pa.Array:
    """Values as one Arrow array of the schema's type."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if isinstance(values, pa.Array):
        return values.cast(kind)
    if isinstance(values, np.ndarray):
        return pa.array(values).cast(kind, safe=False)  # float64 seconds to the schema's float32
    return pa.array(values, kind)


def name_row(split: str, row: int) -> str:
    """The id of a row, good as a file name.

    ```python
    >>> name_row("train", 7)
    'pu_valor_train_000007'

    ```
    """
    return f"pu_valor_{split}_{row:06d}"


def split_seed(seed: int, split: str) -> int:
    """A seed of its own for each split; "train" has the seed itself."""
    return seed if split == "train" else seed + sum(ord(letter) * 257**place for place, letter in enumerate(split))


def write_plan(plan: Plan, path: Path) -> None:
    """Keep a plan as Parquet: one row per video, clips and scales as fixed-size lists."""
    width = plan.clips.shape[1]
    table = pa.table(
        {
            "row": pa.array(plan.rows, pa.int64()),
            "clips": pa.FixedSizeListArray.from_arrays(pa.array(plan.clips.ravel(), pa.int32()), width),
            "scales": pa.FixedSizeListArray.from_arrays(pa.array(plan.scales.ravel(), pa.int16()), width),
        }
    )
    pq.write_table(table, path)


def read_plan(path: Path) -> Plan:
    """What `write_plan` wrote."""
    table = pq.read_table(path).combine_chunks()
    lists = {}
    for name in ("clips", "scales"):
        column = table[name].combine_chunks()
        lists[name] = column.flatten().to_numpy().astype(np.int64).reshape(len(table), column.type.list_size)
    return Plan(table["row"].to_numpy(), lists["clips"], lists["scales"])
