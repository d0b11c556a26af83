"""Finds the events in a text: labels and times as written, with the place of every time in the text.

The text is the output of a model: narration sentences, answers with several spans, lists, JSON, or anything else. No
text raises an error; a piece that could not be read is returned together with the reason. Turning written times into
seconds is left to `timestamp_avicuna`.
"""

import json
import re
from typing import Any, NamedTuple


NO_TIME_SPAN = "no time span"


class WrittenTime(NamedTuple):
    """One time as written, `text[begin:stop]`; `unit` is "seconds", "percent", "frames" or None (the codec's)."""

    value: float
    unit: str | None
    begin: int
    stop: int


class WrittenEvent(NamedTuple):
    """One span with its label; its times are not clamped or swapped yet."""

    label: str
    start: WrittenTime
    end: WrittenTime


class Unread(NamedTuple):
    """A piece of text that gave no event, and why."""

    text: str
    reason: str


class _Group(NamedTuple):
    """Spans that share one label: `text[begin:stop]`. `label` is known for quoted labels and for JSON."""

    begin: int
    stop: int
    spans: tuple
    label: str | None


# "1:05", "0:01:05.2", "00:01:05,200" (subtitles), "1 minute 5 seconds", "65.2"
_NUMBER = (
    r"-?[0-9]+(?::[0-5]?[0-9]){1,2}(?:\.[0-9]+|,[0-9]{3}(?![0-9:]))?"
    r"|[0-9]+\s*m(?:in(?:ute)?s?)?\s*(?:and\s+)?[0-9]+(?:\.[0-9]+)?\s*s(?:ec(?:ond)?s?)?\b"
    r"|-?[0-9]+(?:\.[0-9]+)?"
)
_UNIT = r"%|percent\b|seconds?\b|secs?\b|s\b|frames?\b|minutes?\b|mins?\b"
_DASH = r"(?:-?->|[-\u2013\u2014~\u2192])"
_TO = rf"\s*(?:to|and|until|till|through|{_DASH}|(?:,|and|,\s*and)?\s*(?:ending|ends|end|stops)\s+at)\s*"
_MARK = r"(?:(?P<{}_mark>frames?|timestamps?|seconds?)\s+)?"
_START = rf"{_MARK.format('start')}(?P<start>{_NUMBER})(?:\s*(?P<start_unit>{_UNIT}))?"
_END = rf"{_MARK.format('end')}(?:(?P<end>{_NUMBER})(?![0-9])(?:\s*(?P<end_unit>{_UNIT}))?|(?P<last>the\s+end\b))"
# "from 03 to 17", "between 3 and 17 seconds", "starting at 0:03 and ending at 0:17"
_SPAN_IN_WORDS = re.compile(
    rf"\b(?:from|between|during|start(?:s|ing)?\s+(?:at|from)|begin(?:s|ning)?\s+at|start(?:\s+time)?\s*[:=])"
    rf"\s*(?<![A-Za-z]){_START}(?:{_TO}|\s*[,;]?\s*(?:and\s+)?end(?:\s+time)?\s*[:=]\s*){_END}",
    re.IGNORECASE,
)
# "03 - 17", "90.0 - 102.0 seconds", "[03, 17]": read only in a text without a span in words
_BARE_SPAN = re.compile(
    rf"(?P<bracket>[\[(]\s*)?(?<![\w.:-]){_START}\s*(?(bracket)(?:,|to|until|{_DASH})|(?:to|until|{_DASH}))\s*{_END}"
    r"(?(bracket)\s*[\])]|(?!\w|[:-][0-9]))",
    re.IGNORECASE,
)
# a second span may omit "from", but then no noun may follow that the numbers could count: "17, 10 to 15 people"
_NEXT_SPAN = re.compile(rf"{_START}{_TO}{_END}(?=\s*(?:$|[\n,.;:!?)\]]|and\b))", re.IGNORECASE)
_JOIN = re.compile(r"(?:\s|[,;&]|\b(?:and|or|then|again|also|plus|as\s+well\s+as)\b)+", re.IGNORECASE)
# a sentence that begins with a start time and has no end time: "From 40, rain."
_HALF_SPAN = re.compile(rf"(?:from|between|starting\s+at)\s+(?:{_NUMBER})(?![0-9])(?:\s*(?:to|and)\b)?", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?;](?=[\s\"'\u201d\u2019)\]]|$)|\n")
_NEXT_CLAUSE = re.compile(r"[\s,]*(?:and|then|while|which)\b", re.IGNORECASE)
_TIME_FIELD = re.compile(r"(?:times?|timestamps?|intervals?|when)", re.IGNORECASE)
_LABEL_FIELD = re.compile(r"[\s*]*(?:events?|caption|label|description)\s*[0-9]*[\s*]*:", re.IGNORECASE)
_BULLET = re.compile(r"(?:^|(?<=[.!?;]\s)|(?<=\n))\s*(?:[-*\u2022]|\(?[0-9]{1,3}[.)]|#[0-9]{1,3}:?)\s*$")
# "The event does not occur in the video.", "there is no dog", "It never happens"; read only in a text without any span
_NOT = r"(?:\s+not|n['\u2019]t|\s+never)"
_SHOWN = (
    r"(?:happen|occur|appear|exist|present|visible|audible|available|applicable|take\s+place|part\s+of|there\b"
    r"|(?:be\s+|being\s+)?(?:shown|seen|heard|found|detected|depicted|mentioned|featured|identified|located)"
    r"|in\s+(?:the|this)\b|(?:contain|include|show|feature|have|depict)\b)"
)
_ABSENCE = re.compile(
    rf"\b(?:does|do|did|is|are|was|were|has|have|can|could|would){_NOT}\s+(?:\w{{1,20}}\s+){{0,2}}?{_SHOWN}"
    rf"|\b(?:cannot|not|never)\s+{_SHOWN}|\b(?:cannot|can{_NOT}|could{_NOT})\s+(?:find|locate|detect|identify)\b"
    r"|\bnever\s+(?:happens|occurs|appears|takes\s+place)"
    rf"|\bno\s+(?:\w{{1,20}}\s+){{1,4}}?(?:is|are|was|were|can|could)\s+(?:be\s+)?{_SHOWN}|\bnot\s+find\b"
    r"|\bthere\s+(?:is|are|was|were)\s+(?:no|not|never|nothing)\b|\b(?:is|are|was|were)\s+absent\b"
    r"|\bno\s+(?:(?:such|matching|relevant|corresponding)\s+)?"
    r"(?:events?|occurrences?|instances?|times?|intervals?|(?:time\s+)?spans?|segments?|moments?|parts?|match(?:es)?"
    r"|signs?|evidence)\b|\bnone\s+of\b",
    re.IGNORECASE,
)
_NEGATIVE_WORD = re.compile(
    r"\W*(?:(?:json\W*)?(?:\[\s*\]|\{\s*\})|none|no|nope|nothing|never|absent|n/?a|null)\W*", re.IGNORECASE
)
_DIGITS = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_OPENERS = re.compile(r"[\[{]")
_BRACKETS = re.compile(r"[\[\]{}]")
_PYTHON_STRING = re.compile(r"'((?:[^'\\\n]|\\.)*)'(?=\s*[:,\]}])")
_LOOK_BACK = 32  # characters before a span that decide whether it begins a sentence
_MAX_JSON_TRIES = 64  # brackets that do not begin JSON: a bound on the work for malformed text
_MAX_JSON_DEPTH = 8
_DECODER = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=str)
_TIME_KEYS = (
    "timestamps",
    "timestamp",
    "times",
    "time",
    "intervals",
    "interval",
    "spans",
    "span",
    "segments",
    "segment",
)
_START_KEYS = ("start", "start_time", "begin", "onset", "from", "start_frame")
_END_KEYS = ("end", "end_time", "stop", "offset", "to", "end_frame")
_LABEL_KEYS = ("event", "label", "caption", "description", "sentence", "query", "name", "action", "activity", "text")


def read_written_events(text: str) -> tuple[list[WrittenEvent], list[Unread]]:
    """The events of a text, in its order, and the pieces that could not be read.

    Example:
        >>> events, unread = read_written_events("The crowd claps from 03 to 17 and from 40 to 52.")
        >>> [(event.label, event.start.value, event.end.value) for event in events]
        [('The crowd claps', 3.0, 17.0), ('The crowd claps', 40.0, 52.0)]
        >>> read_written_events("No idea.")
        ([], [Unread(text='No idea.', reason='no time span')])
    """
    groups = _find_groups(text, _SPAN_IN_WORDS)
    if not any(group.spans for group in groups):
        groups = _find_groups(text, _BARE_SPAN)
    events, unread = [], []
    for group, label in zip(groups, _labels(text, groups)):
        events += [WrittenEvent(label, start, end) for start, end in group.spans]
        if not group.spans:
            # JSON alone gives a label without a span
            reason = NO_TIME_SPAN if group.label else "no end of the span"
            unread.append(Unread(group.label or text[group.begin : group.stop], reason))
    if not events and not unread and text.strip():
        unread.append(Unread(text, NO_TIME_SPAN))
    return events, unread


def names_absence(text: str) -> bool:
    """Whether a text without time spans says that an event does not occur.

    Example:
        >>> [names_absence(text) for text in ("No event.", "It does not happen.", "None", "No idea.")]
        [True, True, True, False]
    """
    return _NEGATIVE_WORD.fullmatch(text) is not None or _ABSENCE.search(text) is not None


def _find_groups(text: str, span_pattern: re.Pattern) -> list[_Group]:
    """In reading order: runs of spans, JSON blocks, and sentences with a start but no end (groups without spans)."""
    groups: list[_Group] = []
    position, json_tries = 0, 0
    span = span_pattern.search(text)
    while position < len(text):
        if span and span.start() < position:  # searching again each time would be quadratic
            span = span_pattern.search(text, position)
        opener = _OPENERS.search(text, position, span.start() if span else len(text))
        while opener and json_tries < _MAX_JSON_TRIES:
            block = _json_block(text, opener.start())
            if block:
                break
            json_tries += 1
            opener = _OPENERS.search(text, opener.end(), span.start() if span else len(text))
        else:
            block = []
        begin = block[0].begin if block else span.start() if span else len(text)
        groups += _half_spans(text, position, begin)
        if block:
            groups += block
        elif span:
            groups.append(_span_run(text, span))
        position = groups[-1].stop if block or span else len(text)
    return groups


def _span_run(text: str, first: re.Match) -> _Group:
    """Spans joined by "and" or a comma, and the quoted label after them if there is one."""
    spans, stop = [_written_span(first)], first.end()
    while join := _JOIN.match(text, stop):
        following = _SPAN_IN_WORDS.match(text, join.end()) or _NEXT_SPAN.match(text, join.end())
        if not following:
            break
        spans.append(_written_span(following))
        stop = following.end()
    unit = spans[-1][1].unit if text[spans[-1][1].stop : stop].strip() else None
    if unit:  # written after the last span alone: "from 3 to 17 and from 40 to 52 seconds"
        spans = [
            (start._replace(unit=start.unit or unit), end._replace(unit=end.unit or unit)) for start, end in spans
        ]
    label, quoted_stop = _quoted_label(text, stop)
    return _Group(first.start(), quoted_stop, tuple(spans), label)


def _quoted_label(text: str, position: int) -> tuple[str | None, int]:
    """A JSON string that fills the rest of its sentence: the form in which any label can be written."""
    opening = re.compile(r"\s*[,:]?\s*(?=\")").match(text, position)
    if not opening:
        return None, position
    try:
        label, stop = _DECODER.raw_decode(text, opening.end())
    except ValueError:
        return None, position
    closing = re.compile(r"\.?(?=\s*(?:$|\n|from\b))", re.IGNORECASE).match(text, stop)
    return (label, closing.end()) if closing else (None, position)


def _half_spans(text: str, begin: int, stop: int) -> list[_Group]:
    """Sentences between two groups that have a start but no end: they must not become labels."""
    groups = []
    for found in _HALF_SPAN.finditer(text, begin, stop):
        if _opens_sentence(text[max(begin, found.start() - _LOOK_BACK) : found.start()]):
            sentence_end = _SENTENCE_END.search(text, found.end(), stop)
            groups.append(_Group(found.start(), sentence_end.end() if sentence_end else stop, (), ""))
    return groups


def _labels(text: str, groups: list[_Group]) -> list[str]:
    """The words that belong to each group: those after it where it begins a sentence, otherwise those before it."""
    bounds = [0, *(place for group in groups for place in (group.begin, group.stop)), len(text)]
    gaps = [text[bounds[i] : bounds[i + 1]] for i in range(0, len(bounds), 2)]
    labels, leads = [], False
    for index, group in enumerate(groups):
        before, after = gaps[index], gaps[index + 1]
        continues = leads and before.strip() and not _SENTENCE_END.search(before)
        leads = group.label is not None or continues or _opens_sentence(before, has_words_behind=_has_words(after))
        own_after = _left_share(after, leads=leads, last=index + 1 == len(groups))
        if group.label is not None:
            labels.append(group.label)
        elif leads:
            labels.append(_clean(own_after))
        else:
            head = _clean(before[_last_sentence_end(before) :])
            tail = _SENTENCE_END.split(own_after, maxsplit=1)[0]
            tail = "" if _NEXT_CLAUSE.match(tail) else tail
            label = _clean(" ".join(part for part in (head, _clean(tail)) if part))
            labels.append(_label_of_record(before, after) if _TIME_FIELD.fullmatch(label) else label)
    return labels


def _label_of_record(before: str, after: str) -> str:
    """The label of a record in lines, "Event: rain" above or below "Time: from 03 to 17"."""
    record = re.split(r"\n\s*\n", before)[-1]
    above = [line for line in record.splitlines() if line.strip()][-2:-1]
    below = [line for line in after.splitlines() if line.strip()][:1]
    for line in above or below:
        if field := _LABEL_FIELD.match(line):
            return _clean(line[field.end() :])
    return _clean(above[0]) if above else ""


def _opens_sentence(before: str, *, has_words_behind: bool = True) -> bool:
    """Whether the text before a span is complete, so that the span begins a sentence or a list item."""
    before = _BULLET.sub("", before[-_LOOK_BACK:]).rstrip(" \t\"'\u201d\u2019)*")
    return before == "" or before[-1] in ".!?;\n" or (before[-1] == ":" and has_words_behind)


def _has_words(after: str) -> bool:
    return bool(_clean(_SENTENCE_END.split(after, maxsplit=1)[0]))


def _left_share(gap: str, *, leads: bool, last: bool) -> str:
    """The part of the gap between two groups that belongs to the left one; an unfinished rest belongs to the right."""
    if leads:
        first_line, newline, _ = gap.partition("\n")
        gap = first_line if newline and first_line.strip() else gap
        if last or _opens_sentence(gap) or newline or not _SENTENCE_END.search(gap):
            return gap
        return gap[: _last_sentence_end(gap)]
    return gap if last else gap[: _last_sentence_end(gap)]


def _last_sentence_end(gap: str) -> int:
    return max((found.end() for found in _SENTENCE_END.finditer(gap)), default=0)


def _clean(label: str) -> str:
    """A label without the punctuation and conjunctions around it; quotes are removed where they enclose all of it."""
    label = _BULLET.sub("", label.strip()).strip(" \t\n,:;*").lstrip("-\u2013\u2014)],:;* \t\n")
    label = re.sub(r"^(?:(?:and|then|while)\s+)+", "", label)
    while (trimmed := label.rstrip("-\u2013\u2014([,:;* \t\n")).endswith(
        (" and", " then", ",and")
    ) or trimmed != label:
        label = trimmed.removesuffix(" and").removesuffix(" then").removesuffix(",and")
    label = label.rstrip(".").rstrip()
    for opening, closing in ('""', "''", "\u201c\u201d", "\u2018\u2019"):
        if len(label) > 1 and label[0] == opening and label[-1] == closing:
            label = label[1:-1].strip().rstrip(".")
    return label


def _written_span(match: re.Match) -> tuple[WrittenTime, WrittenTime]:
    """Both times of a matched span; a unit that is written once applies to both."""
    start_unit = match["start_unit"] or _unit_of_mark(match["start_mark"])
    end_unit = match["end_unit"] or _unit_of_mark(match["end_mark"])
    start_unit, end_unit = start_unit or end_unit, end_unit or start_unit
    start = _written_time(match["start"], start_unit, *match.span("start"))
    if match["last"]:
        return start, WrittenTime(float("inf"), None, *match.span("last"))
    return start, _written_time(match["end"], end_unit, *match.span("end"))


def _unit_of_mark(mark: str | None) -> str | None:
    """The unit that a word before a number states: "frame 48", "second 3"; "timestamp 3" states none."""
    return mark if mark and mark[0].lower() in "fs" else None


def _written_time(number: str, unit: str | None, begin: int, stop: int) -> WrittenTime:
    sign = -1.0 if number.startswith("-") else 1.0
    value = 0.0
    parts = _DIGITS.findall(number.replace(",", "."))
    for part in parts:
        value = 60.0 * value + float(part)
    if len(parts) > 1:
        return WrittenTime(sign * value, "seconds", begin, stop)
    if unit is not None and unit[0] in "mM":
        return WrittenTime(sign * 60.0 * value, "seconds", begin, stop)
    if unit is not None:
        unit = {"%": "percent", "p": "percent", "f": "frames"}.get(unit[0].lower(), "seconds")
    return WrittenTime(sign * value, unit, begin, stop)


def _json_block(text: str, begin: int) -> list[_Group]:
    """The JSON value that begins at `begin` as groups with known labels; empty if there is none or it has no times."""
    try:
        value, stop = _DECODER.raw_decode(text, begin)
    except (ValueError, RecursionError):
        # many models write it as Python does, with single quotes
        rest = _PYTHON_STRING.sub(_double_quoted, text[begin : _block_end(text, begin)])
        try:
            value, stop = _DECODER.raw_decode(rest)
        except (ValueError, RecursionError):
            return []
        stop = _block_end(text, begin) - (len(rest) - stop)
    if not isinstance(value, dict) and not any(isinstance(item, (dict, list, str)) for item in value):
        return []
    if isinstance(value, list) and len(value) == 2 and all(_is_number(item) for item in value):
        return []  # "[13, 17] a dog barks" is a bare span, not a list of events
    spans = _json_spans(value, "", 0)
    return _placed(text, begin, stop, spans)


def _block_end(text: str, begin: int) -> int:
    """Where the bracket at `begin` is closed (brackets in strings count, too), or the end of the text."""
    depth = 0
    for bracket in _BRACKETS.finditer(text, begin):
        depth += 1 if bracket[0] in "[{" else -1
        if depth == 0:
            return bracket.end()
    return len(text)


def _double_quoted(found: re.Match) -> str:
    return json.dumps(found[1].replace("\\'", "'"))


def _placed(text: str, begin: int, stop: int, spans: list[tuple[str, re.Match | None]]) -> list[_Group]:
    """One group per span of a JSON block `text[begin:stop]`; the places of its times are searched in reading order."""
    groups, position = [], begin
    for label, match in spans:
        times = []
        if match is None:
            groups.append(_Group(stop, stop, (), label))
            continue
        for time in _written_span(match):
            number = match.string[time.begin : time.stop]
            found = text.find(number, position, stop)
            found = text.find(number, begin, stop) if found < 0 else found
            position = max(found + len(number), begin)
            times.append(time._replace(begin=max(found, begin), stop=position))
        groups.append(_Group(stop, stop, (tuple(times),), label))
    return [group._replace(begin=begin if i == 0 else stop) for i, group in enumerate(groups)]


def _json_spans(value: Any, label: str, depth: int) -> list[tuple[str, re.Match | None]]:
    """(label, span) for every span in a decoded JSON value, in its order; None for an event without times."""
    if depth > _MAX_JSON_DEPTH:
        return []
    if isinstance(value, str):
        pattern = _SPAN_IN_WORDS if _SPAN_IN_WORDS.search(value) else _BARE_SPAN
        return [(label, found) for found in pattern.finditer(value)]
    if isinstance(value, list):
        if len(value) == 2 and all(_is_number(item) for item in value):
            return _json_spans(f"from {value[0]} to {value[1]}", label, depth)
        return [span for item in value for span in _json_spans(item, label, depth + 1)]
    if not isinstance(value, dict):
        return []
    keys = {key.lower(): key for key in value}
    named = next((value[keys[key]] for key in _LABEL_KEYS if isinstance(value.get(keys.get(key)), str)), None)
    label = label if named is None else _clean(named)
    start = next((value[keys[key]] for key in _START_KEYS if key in keys), None)
    end = next((value[keys[key]] for key in _END_KEYS if key in keys), None)
    if start is not None and end is not None:
        mark = "frame " if "start_frame" in keys else ""
        return _json_spans(f"from {mark}{start} to {end}", label, depth)
    times = next((value[keys[key]] for key in _TIME_KEYS if key in keys), None)
    if times is not None:
        return _json_spans(times, label, depth + 1)
    if named is not None:
        inner = [(item, label) for item in value.values() if isinstance(item, (dict, list))]
    else:
        inner = list(zip(value.values(), value))
    spans = [span for item, item_label in inner for span in _json_spans(item, item_label, depth + 1)]
    return spans or ([(label, None)] if label else [])


def _is_number(item: Any) -> bool:
    return isinstance(item, str) and re.fullmatch(rf"(?:{_NUMBER})\s*(?:{_UNIT})?", item.strip()) is not None
