"""Making one row of the schema from plain values.

Every builder of `sources/` ends here, so that all rows have all columns in one form. It checks that each time
placeholder of the messages has its seconds; it does not look at the media.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any


Row = dict[str, Any]

TIME_PLACEHOLDER = re.compile(r"<[se]\d+>")
MEDIA_PLACEHOLDER = re.compile(r"<(?:video|audio|image)>")


def make_row(
    row_id: str,
    *,
    source: str,
    turns: Sequence[tuple[str, str]],
    video: str | None = None,
    audio: str | None = None,
    image: str | None = None,
    duration: float | None = None,
    times: Mapping[str, float] | None = None,
) -> Row:
    """One row of `schema.FEATURES` from (question, answer) turns.

    The placeholder of the one medium that is given stands before the first question, on a line of its own.

    Args:
        duration: seconds; None for images and where the source does not tell it and no time is named.
        times: seconds by the name of their placeholder without brackets ("s0": 3.5).

    Raises:
        ValueError: not exactly one medium, no turn, or placeholders and `times` that do not agree.
    """
    media = {"video": video, "audio": audio, "image": image}
    given = [kind for kind, path in media.items() if path is not None]
    if len(given) != 1 or not turns:
        raise ValueError(f"row {row_id!r} has the media {given} and {len(turns)} turns, expected one medium, one turn")
    messages = []
    for number, (question, answer) in enumerate(turns):
        content = f"<{given[0]}>\n{question}" if number == 0 else question
        messages += [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
    times = times or {}
    named = {name[1:-1] for message in messages for name in TIME_PLACEHOLDER.findall(message["content"])}
    if named != set(times):
        raise ValueError(f"row {row_id!r} names the times {sorted(named)} but gives {sorted(times)}")
    return {
        "id": row_id,
        "source": source,
        "duration": duration,
        "media": media,
        "segments": [],
        "messages": messages,
        "times": [{"name": f"<{name}>", "seconds": seconds} for name, seconds in times.items()],
    }


def of_file(rows: Iterable[Row], number: int) -> Iterator[Row]:
    """Rows of the `number`-th annotation file: from the second on the ids say so, as files may share their videos."""
    for row in rows:
        yield row if number == 0 else {**row, "id": f"{row['id']}@{number}"}


def without_placeholders(text: str) -> str:
    """Text of an annotation in which nothing reads as a placeholder of ours.

    >>> without_placeholders("Press <s0> on the <video> player")
    'Press s0 on the video player'
    """
    return MEDIA_PLACEHOLDER.sub(lambda hit: hit[0][1:-1], TIME_PLACEHOLDER.sub(lambda hit: hit[0][1:-1], text))
