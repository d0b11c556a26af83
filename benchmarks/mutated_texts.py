"""Give random and mutated texts to the event parser and check what comes back:

python benchmarks/mutated_texts.py --num-texts 1000000

Each text is random characters, a random sequence of the words and marks that the parser looks for, or an answer of a
model with characters changed, removed, repeated or swapped, from the seed and its number alone. The parser must not
raise, every event must lie inside the video with its start before its end, and every place must lie inside the text.
Texts of one repeated piece, doubled in length several times, show whether the time grows faster than the length.
"""

import gc
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from dataset_builders.atomic_files import write_json
from dataset_builders.command_line import one_line_errors, parse_options
from dataset_builders.input_settings import check_range
from modeling_avicuna.timestamp_avicuna import TimeCodec, read_events


CODECS = (TimeCodec(), TimeCodec(num_bins=1000), TimeCodec(unit="seconds"))
DURATIONS = (0.5, 12.5, 60.0, 3600.0)
ANSWERS = (
    "From 03 to 17, a dog barks. From 40 to 52 and from 60 to 71, rain.",
    "From 03 to 17, from 20 to 31 and from 40 to 52.",
    "No event.",
    "The event does not occur in the video.",
    '[{"event": "a dog barks", "timestamps": "from 00 to 29"}, {"event": "rain", "start": 40, "end": 52.5}]',
    "{'dog': [[3, 17], [40, 52]], 'cat': '20-30'}",
    "Event 1: dog\nTime: from 03 to 17\n\nEvent 2: cat\nTime: 0:20 - 0:30",
    "1. **From 3% to 17%**: X\n2. (20 to 30 seconds) Y; between 40s and 52s, Z",
    'The man claps from 03 to 17, then from 90 to the end. From 5 to 9, "rain, from 1 to 2".',
)
PIECES = (
    *"From from between during to and until till through starting at ending the end".split(),
    *"start: end: No not is there".split(),
    *"03 17 99 100 0:17 1:02:03 -5 1e9 0.5 s seconds % percent frame event: Time: caption never None".split(),
    *list("[]{}()\"'`,.:;!?-~\u2013\u201c\u201d\n\t *#\\/"),
    *(
        " ",
        "  ",
        "\u0663",
        "\ud83d\udc15",
        "\ud800",
        "\x00",
        "9" * 60,
        '"event": ',
        '"timestamps": ',
        "[3, 17]",
        "</s>",
    ),
)
REPEATED = (
    *(
        "from 1 ",
        "from 1 to 2 ",
        "from 1 to 2, x. ",
        "1 to 2 ",
        "9",
        "[",
        "]",
        '{"a":',
        '["',
        "'",
        "- ",
        ", and ",
        "\n",
    ),
    *("no ", "not ", "is not a ", "there is ", "a ", "**", "[1, 2] ", "'x': ", "start at 1 ", "Time: 1 - 2\n", "1:"),
    *("{'event': 'x', 'start': 1, 'end': 2}\n", "{'x': [1, 2]}, ", "['", "{'a': 'b', ", 'from 1 to 2, "x". ', "x' "),
    *('"', "\\", "from 1 to 2 and ", '"x" ', "does not ", "from -", ". ", "(1 to 2) ", '{"event": "x", "start": 1} '),
)


@dataclass
class Options:
    """Options of the command."""

    output: str = field(
        default=str(Path(__file__).parent / "results" / "mutated_texts.json"), metadata={"help": "JSON file to write"}
    )
    num_texts: int = field(default=1_000_000, metadata={"help": "texts to make and read"})
    seed: int = 0

    def __post_init__(self):
        check_range(self, 1, "num_texts")


def make_text(rng: random.Random) -> tuple[str, str]:
    """A kind and a text of that kind."""
    kind = rng.choice(("characters", "pieces", "mutated", "mutated"))
    if kind == "characters":
        return kind, "".join(
            chr(rng.choice((rng.randrange(128), rng.randrange(0x3000)))) for _ in range(rng.randrange(80))
        )
    if kind == "pieces":
        separator = rng.choice(("", " "))
        return kind, separator.join(rng.choices(PIECES, k=rng.randrange(40)))
    text = list(" ".join(rng.choices(ANSWERS, k=rng.randint(1, 3))))
    for _ in range(rng.randint(1, 12)):
        place = rng.randrange(len(text) + 1)
        change = rng.randrange(4)
        if change == 0:
            text[place : place + rng.randint(0, 4)] = rng.choice(PIECES)
        elif change == 1:
            del text[place : place + rng.randint(1, 9)]
        elif change == 2:
            text[place:place] = text[place : place + rng.randint(1, 30)]
        else:
            other = rng.randrange(len(text) + 1)
            text[min(place, other) : max(place, other)] = text[min(place, other) : max(place, other)][::-1]
    return kind, "".join(text)


def check(text: str, *, duration: float, codec: TimeCodec) -> str:
    """Reads one text; what came of it. AssertionError, with the text, if the parser breaks its promise."""
    reading = read_events(text, duration, codec=codec)
    for event, places in zip(reading.events, reading.places, strict=True):
        assert 0.0 <= event.start <= event.end <= duration, repr(text)
        assert all(0 <= begin <= stop <= len(text) for begin, stop in places), repr(text)
    if reading.events:
        return "events"
    return "unread" if reading.unread else "no events"


def growth(piece: str, *, length: int = 4096, doublings: int = 3) -> tuple[float, float]:
    """Seconds for the longest text of a repeated piece, and the factor by which the time grows when it doubles."""
    seconds = []
    gc.disable()  # its passes over all live objects would be counted as the parser's
    for number in range(doublings + 1):
        text = piece * (length * 2**number // len(piece))
        begin = time.process_time()
        check(text, duration=10.0, codec=CODECS[0])
        seconds.append(max(time.process_time() - begin, 1e-4))
    gc.enable()
    return seconds[-1], (seconds[-1] / seconds[0]) ** (1 / doublings)


def main(arguments: list[str] | None = None) -> None:
    options = parse_options(Options, arguments, program="python benchmarks/mutated_texts.py")
    outcomes: Counter = Counter()
    slowest, begin = 0.0, time.process_time()
    for number in range(options.num_texts):
        rng = random.Random(f"{options.seed}-{number}")
        kind, text = make_text(rng)
        started = time.process_time()
        outcome = check(text, duration=rng.choice(DURATIONS), codec=rng.choice(CODECS))
        slowest = max(slowest, time.process_time() - started)
        outcomes[f"{kind}: {outcome}"] += 1
    measured = {piece: growth(piece) for piece in REPEATED}
    worst = max(measured, key=lambda piece: measured[piece][0])
    result = {
        "seed": options.seed,
        "texts": options.num_texts,
        "exceptions": 0,
        "outcomes": dict(sorted(outcomes.items())),
        "cpu_seconds": round(time.process_time() - begin, 1),
        "slowest_text_ms": round(1000 * slowest, 2),
        "repeated_pieces": len(REPEATED),
        "repeated_characters": 4096 * 8,
        "slowest_repeated_piece": worst,
        "slowest_repeated_seconds": round(measured[worst][0], 3),
        "largest_growth_per_doubling": round(max(factor for seconds, factor in measured.values() if seconds > 0.05), 2)
        if any(seconds > 0.05 for seconds, _ in measured.values())
        else None,
    }
    write_json(options.output, result)
    print(result)


if __name__ == "__main__":
    with one_line_errors("python benchmarks/mutated_texts.py"):
        main()
