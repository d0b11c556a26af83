"""Build one shard of rows: a pure function of the prepared plan and the shard's number.

`curation.prepare` writes, per split, the list of clips and the plan of all videos. Any shard can be built from these
two tables on any machine, with the same bytes. Only wordings are drawn here, per row.
"""

import dataclasses
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Features

from ..schema import FEATURES, TRACKED_FEATURES
from ..turns import Span
from .conversations import draw_turns, write_conversation
from .counterfactual_sound import answered_events, split_sounds
from .planning import Plan, draw_uniform, slot
from .settings import CurationSettings
from .time_line import BACKGROUND, DARKNESS, SILENCE


SOURCE = "pseudo-valor"
VIDEO = "<video>\n"  # before the first question
CLIPS_FILE = "clips-{split}.parquet"
PLAN_FILE = "plan-{split}.parquet"
PLAN_GROUP_ROWS = 4096  # videos of one row group of a plan: a shard reads its own ones
LISTS = tuple(field.name for field in dataclasses.fields(Plan) if field.name != "rows")


def build_shard(prepared: str | Path, split: str, index: int, *, settings: CurationSettings) -> pa.Table:
    """The rows of one shard of a split, in the columns of `schema.FEATURES`.

    Args:
        prepared (`str` or `Path`):
            The folder written by `curation.prepare`.
        split (`str`), index (`int`):
            Which shard.
        settings (`CurationSettings`):
            Settings of the build.
    """
    clips_file = Path(prepared) / CLIPS_FILE.format(split=split)
    clips = _read_clips(clips_file, clips_file.stat().st_mtime_ns)
    begin = index * settings.shard_rows
    plan = read_plan(Path(prepared) / PLAN_FILE.format(split=split), begin, begin + settings.shard_rows)
    return tabulate(plan, clips, split=split, settings=settings)


@lru_cache(maxsize=1)  # a process builds many shards of a split
def _read_clips(path: Path, changed_at: int) -> pa.Table:
    """The clips in `path`, read again where the time of its last change differs."""
    return pq.read_table(path)


def count_shards(num_rows: int, shard_rows: int) -> int:
    """Number of shards; at least one, so that an empty split still has a file."""
    return max(1, -(-num_rows // shard_rows))


def tabulate(plan: Plan, clips: pa.Table, *, split: str, settings: CurationSettings) -> pa.Table:
    """The rows of planned videos. `clips` has the columns clip_id, caption, duration, event, tracks and
    other_captions."""
    starts, ends, totals = plan.place(clips["duration"].to_numpy())
    seed = split_seed(settings.seed, split)
    num_segments = plan.clips.shape[1]
    captions, absent, replacing = (
        choose_captions(chosen, clips, plan.rows, seed=seed, first=first)
        for chosen, first in (
            (plan.clips, 0),
            (plan.absent, num_segments),
            (plan.swaps[:, 1:], num_segments + settings.max_turns),
        )
    )
    captions = np.concatenate([captions, replacing], axis=1)  # of `event_clips`, [R, K + 1]
    messages, times, rejected = write_messages(
        plan, clips, captions, absent, starts, ends, seed=seed, settings=settings
    )
    columns = {
        "id": [name_row(split, row) for row in plan.rows.tolist()],
        "source": pa.array([SOURCE] * len(plan)),
        "duration": totals,
        "media": [{}] * len(plan),
        "segments": (
            overlay_segments(plan, clips, captions, starts, ends, totals)
            if settings.overlay
            else list_segments(plan, clips, captions[:, :-1], starts, ends)
        ),
        "messages": messages,
        "times": times,
        "rejected": rejected,
    }
    schema = settings.row_features.arrow_schema
    return pa.Table.from_arrays([to_array(columns[field.name], field.type) for field in schema], schema=schema)


def choose_captions(chosen: np.ndarray, clips: pa.Table, rows: np.ndarray, *, seed: int, first: int = 0) -> np.ndarray:
    """A caption for each use of a clip, `(R, K)` objects; None where there is no clip.

    A clip with several captions gets one of them at random, for each use anew.

    Args:
        chosen (`np.ndarray` of shape `(R, K)`): clips, -1 for none.
        first (`int`): number of the draw of the first column.
    """
    texts = clips["caption"].to_numpy(zero_copy_only=False)
    captions: np.ndarray = texts[chosen]
    captions[chosen < 0] = None
    num_others = pc.list_value_length(clips["other_captions"]).to_numpy()
    for column in np.flatnonzero(np.where(chosen >= 0, num_others[chosen], 0).any(axis=0)):
        draws = draw_uniform(rows, 0, slot("caption", first + int(column)), seed=seed)
        number = (draws * (1 + num_others[chosen[:, column]])).astype(np.int64)
        for row in np.flatnonzero((chosen[:, column] >= 0) & (number > 0)):
            captions[row, column] = clips["other_captions"][int(chosen[row, column])][int(number[row]) - 1].as_py()
    return captions


def list_segments(
    plan: Plan, clips: pa.Table, captions: np.ndarray, starts: np.ndarray, ends: np.ndarray
) -> pa.ListArray:
    """The column `segments`: the clips of each video and the backgrounds of its gaps, by start."""
    gap_from, gap_to = place_gaps(plan, ends)
    pairs = {  # of the backgrounds, of the clips
        "clip_id": (plan.backgrounds, plan.clips),
        "start": (gap_from, starts),
        "end": (gap_to, ends),
        "scale": (plan.gaps / 100.0 / clips["duration"].to_numpy()[plan.backgrounds], plan.scales / 100.0),
        "caption": (np.full(gap_from.shape, None, object), captions),
    }
    return make_segments(clips, {name: np.concatenate(pair, axis=1) for name, pair in pairs.items()})


def place_gaps(plan: Plan, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Start and end of each gap in seconds, `(R, K + 1)` each, from the ends of the segments `(R, K)`."""
    reached = np.maximum.accumulate(np.concatenate([np.zeros((len(plan), 1)), ends], axis=1), axis=1)
    return reached, reached + plan.gaps / 100.0


def overlay_segments(
    plan: Plan, clips: pa.Table, captions: np.ndarray, starts: np.ndarray, ends: np.ndarray, totals: np.ndarray
) -> pa.ListArray:
    """The column `segments` of videos whose clips are laid over one background, by start.

    The background is repeated as often as the video needs, each time at the same speed, at most twice its own.
    Segments of silence and of darkness hide it.

    Args:
        captions (`np.ndarray` of shape `(R, K + 1)`): of `plan.event_clips`.
    """
    durations = clips["duration"].to_numpy()
    background = plan.backgrounds[:, :1]  # [R, 1]
    repeats = np.maximum(1, np.ceil(totals[:, None] / durations[background] - 1e-6)).astype(np.int64)
    number = np.arange(repeats.max(initial=1))[None]  # [1, P]
    length = totals[:, None] / repeats  # [R, 1]
    own = clips["tracks"].to_numpy()[plan.clips]  # [R, K]
    stays, moves = split_sounds(plan, own)
    heard_from, heard_to, _ = answered_events(plan, own, starts, ends)
    gap_from, gap_to = place_gaps(plan, ends)  # [R, K + 1]
    scales = plan.scales / 100.0

    def join(of_background: np.ndarray, *others: np.ndarray) -> np.ndarray:
        """`(R, P + 4 K + 3)`: backgrounds, then what stays of the events, then the sounds that are moved or replace
        others, silences, darknesses."""
        return np.concatenate([np.broadcast_to(of_background, (len(plan), number.shape[1])), *others], axis=1)

    gap_scales = (gap_to - gap_from) / durations[background]
    columns = {
        "clip_id": join(
            np.where(number < repeats, background, -1),
            np.where(stays != "", plan.clips, -1),
            np.where(moves != "", plan.event_clips, -1),
            *(np.where(hidden > 0, background, -1) for hidden in (plan.silences, plan.darknesses)),
        ),
        "start": join(number * length, starts, heard_from, gap_from, gap_from),
        "end": join(
            np.where(number + 1 == repeats, totals[:, None], (number + 1) * length), ends, heard_to, gap_to, gap_to
        ),
        "scale": join(
            length / durations[background],
            scales,
            np.concatenate([scales, (heard_to - heard_from)[:, -1:] / durations[plan.swaps[:, 1:]]], axis=1),
            gap_scales,
            gap_scales,
        ),
        "caption": join(np.array([[None]]), captions[:, :-1], captions, *2 * [np.full(gap_from.shape, None)]),
        "tracks": join(
            np.array([[BACKGROUND]], object),
            stays,
            moves,
            *(np.full(gap_from.shape, tracks, object) for tracks in (SILENCE, DARKNESS)),
        ),
    }
    return make_segments(clips, columns, TRACKED_FEATURES)


def make_segments(clips: pa.Table, columns: dict[str, np.ndarray], features: Features = FEATURES) -> pa.ListArray:
    """The column `segments`, by start, from its fields as `(R, N)` arrays; `clip_id` holds clips, -1 for none."""
    order = np.argsort(np.where(columns["clip_id"] >= 0, columns["start"], np.inf), axis=1, kind="stable")
    columns = {name: np.take_along_axis(values, order, axis=1) for name, values in columns.items()}
    mask = columns["clip_id"] >= 0
    fields: dict[str, Any] = {name: values[mask] for name, values in columns.items()}
    fields["clip_id"] = clips["clip_id"].take(pa.array(fields["clip_id"]))
    return make_lists(np.concatenate([[0], np.cumsum(mask.sum(axis=1))]), fields, "segments", features)


def write_messages(
    plan: Plan,
    clips: pa.Table,
    captions: np.ndarray,
    absent: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    *,
    seed: int,
    settings: CurationSettings,
) -> tuple[pa.Array, pa.Array, list[list[dict]]]:
    """The columns `messages`, `times` and `rejected`, from the captions of the events `(R, K + 1)` and of the absent
    events `(R, T)`.

    An event that was only heard and has lost its sound is asked about as an absent one.
    """
    own_starts, own_ends = starts, ends
    starts, ends, present = answered_events(plan, clips["tracks"].to_numpy()[plan.clips], starts, ends)
    # a sound that replaces another is not elsewhere without the change
    former = np.stack([np.c_[own_starts, starts[:, -1:]], np.c_[own_ends, ends[:, -1:]]], axis=2)  # [R, K + 1, 2]
    absent = absent.copy()
    lost = list_lost(plan, clips, captions, present, former)
    for row, spans_of in lost.items():
        for turn, caption in enumerate(list(spans_of)[: absent.shape[1]]):
            absent[row, turn] = caption
    absent_captions = absent.tolist()
    # by start: sounds that were moved or replace others change the order
    order = np.argsort(np.where(plan.event_clips >= 0, starts, np.inf), axis=1, kind="stable")
    present, starts, ends, captions, shown = (
        np.take_along_axis(values, order, axis=1) for values in (present, starts, ends, captions, plan.event_clips)
    )
    texts = captions[present].tolist()
    spans = list(zip(starts[present].tolist(), ends[present].tolist()))
    former_spans = None  # each tuple costs time in every run of the garbage collector
    if settings.preferences:
        former_spans = list(map(tuple, np.take_along_axis(former, order[:, :, None], axis=1)[present].tolist()))
    events = clips["event"].to_numpy()[shown[present]].tolist()
    offsets = np.concatenate([[0], np.cumsum(present.sum(axis=1))]).tolist()
    draws = draw_turns(plan.rows, max_turns=settings.max_turns, seed=seed).tolist()
    roles, contents, names, seconds = [], [], [], []
    message_offsets, time_offsets, rejected = [0], [0], []
    for index, (first, last) in enumerate(zip(offsets, offsets[1:])):
        conversation = write_conversation(
            texts[first:last],
            spans[first:last],
            events[first:last],
            draws[index],
            absent=absent_captions[index],
            former=former_spans and former_spans[first:last],
            lost=lost.get(index),
            conversation_types=tuple(settings.conversation_types),
            min_turns=settings.min_turns,
            max_turns=settings.max_turns,
        )
        for number, (question, answer) in enumerate(conversation.turns):
            roles += ["user", "assistant"]
            contents += [question if number else VIDEO + question, answer]
        names += [f"<{name}>" for name, _ in conversation.times]
        seconds += [value for _, value in conversation.times]
        rejected.append([rejection.as_entry() for rejection in conversation.rejections])
        message_offsets.append(len(roles))
        time_offsets.append(len(names))
    messages = make_lists(message_offsets, {"role": roles, "content": contents}, "messages")
    return messages, make_lists(time_offsets, {"name": names, "seconds": seconds}, "times"), rejected


def list_lost(
    plan: Plan, clips: pa.Table, captions: np.ndarray, present: np.ndarray, former: np.ndarray
) -> dict[int, dict[str, list[Span]]]:
    """Row -> caption -> former spans of the events that a video has lost with their sounds, unless another clip shows
    the event.

    Args:
        captions, present (`np.ndarray` of shape `(R, K + 1)`): of `plan.event_clips`.
        former (`np.ndarray` of shape `(R, K + 1, 2)`): start and end without the changes of sounds.
    """
    events, shown = clips["event"].to_numpy(), plan.event_clips
    found = {}
    for row in np.flatnonzero(((shown >= 0) & ~present).any(axis=1)).tolist():
        known = set(events[shown[row][present[row]]].tolist())
        lost: dict[int, tuple[str, list[Span]]] = {}  # by event
        for k in np.flatnonzero((shown[row] >= 0) & ~present[row]).tolist():
            event, span = int(events[shown[row, k]]), tuple(former[row, k].tolist())
            if event not in known:
                lost[event] = (captions[row, k], [*lost.get(event, ("", []))[1], span])
        found[row] = dict(lost.values())
    return found


def make_lists(
    offsets: Sequence[int] | np.ndarray, fields: dict, column: str, features: Features = FEATURES
) -> pa.ListArray:
    """A list-of-structs column from flat values and row offsets."""
    wanted = features.arrow_schema.field(column).type.value_type
    arrays = [to_array(fields[field.name], field.type) for field in wanted]
    structs = pa.StructArray.from_arrays(arrays, fields=list(wanted))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), structs)


def to_array(values: Any, kind: pa.DataType) -> pa.Array:
    """Values as one Arrow array of the schema's type."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if isinstance(values, pa.Array):
        return values.cast(kind)
    if isinstance(values, np.ndarray):
        return pa.array(values).cast(kind, safe=False)  # float64 seconds to the schema's float32
    return pa.array(values, kind)


def name_row(split: str, row: int) -> str:
    """The id of a row, usable as a file name.

    ```python
    >>> name_row("train", 7)
    'pu_valor_train_000007'

    ```
    """
    return f"pu_valor_{split}_{row:06d}"


def split_seed(seed: int, split: str) -> int:
    """A separate seed for each split; "train" uses `seed` unchanged."""
    return seed if split == "train" else seed + sum(ord(letter) * 257**place for place, letter in enumerate(split))


def write_plan(plan: Plan, path: Path) -> None:
    """Write a plan as Parquet: one row per video, with fixed-size lists as columns."""
    columns = {"row": pa.array(plan.rows, pa.int64())}
    for name in LISTS:
        values = getattr(plan, name)
        columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel(), pa.int32()), values.shape[1])
    pq.write_table(pa.table(columns), path, row_group_size=PLAN_GROUP_ROWS)


def read_plan(path: Path, begin: int = 0, end: int | None = None) -> Plan:
    """Read the videos from `begin` to `end` of a plan written by `write_plan`; other row groups are not read."""
    with pq.ParquetFile(path) as file:
        counts = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        begins = np.cumsum([0, *counts])
        end = int(begins[-1]) if end is None else min(end, int(begins[-1]))
        groups = [group for group in range(len(counts)) if begins[group] < end and begins[group + 1] > begin]
        table = file.read_row_groups(groups)
    skipped = begin - int(begins[groups[0]]) if groups else 0
    table = table.slice(skipped, end - begin).combine_chunks()
    lists = {}
    for name in LISTS:
        column = table[name].combine_chunks()
        lists[name] = column.flatten().to_numpy().astype(np.int64).reshape(len(table), column.type.list_size)
    return Plan(rows=table["row"].to_numpy(), **lists)
