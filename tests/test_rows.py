"""Creation of rows of the schema."""

import datasets
import pytest

from dataset_builders.schema import FEATURES
from dataset_builders.sources.rows import make_row, of_file


TURNS = [("When?", "From <s0> to <e0>."), ("And then?", "Nothing.")]


def test_a_row_has_the_schema_and_one_placeholder():
    row = make_row("a", source="s", turns=TURNS, video="v.mp4", duration=9.0, times={"s0": 1.0, "e0": 2.5})
    stored = datasets.Dataset.from_list([row], features=FEATURES)[0]
    assert stored == row
    part = make_row("b", source="s", turns=[("Q?", "A.")], video="v.mp4", start=5.0, end=30.0, duration=25.0)
    assert datasets.Dataset.from_list([part], features=FEATURES)[0]["media"] == {
        "video": "v.mp4", "audio": None, "image": None, "start": 5.0, "end": 30.0,
    }  # fmt: skip
    assert [message["content"] for message in row["messages"]] == [
        "<video>\nWhen?",
        "From <s0> to <e0>.",
        "And then?",
        "Nothing.",
    ]
    assert [message["role"] for message in row["messages"]] == ["user", "assistant"] * 2
    assert row["times"] == [{"name": "<s0>", "seconds": 1.0}, {"name": "<e0>", "seconds": 2.5}]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"times": {"s0": 1.0}}, "names the times"),
        ({"times": {"s0": 1.0, "e0": 2.0, "s1": 3.0}}, "names the times"),
        ({"audio": "a.wav"}, "expected one medium"),
        ({"video": None}, "expected one medium"),
        ({"turns": []}, "0 turns"),
        ({"start": 5.0, "end": 5.0}, "from 5.0 s to 5.0 s"),
        ({"end": 0.0}, "from None s to 0.0 s"),
        ({"start": -1.0}, "from -1.0 s"),
        ({"start": float("nan")}, "from nan s"),
    ],
)
def test_inconsistent_values_are_an_error(change, message):
    values = {"turns": TURNS, "video": "v.mp4", "times": {"s0": 1.0, "e0": 2.0}, **change}
    with pytest.raises(ValueError, match=message):
        make_row("a", source="s", **values)


def test_ids_of_further_files_have_a_suffix():
    rows = [make_row("a", source="s", turns=[("Q?", "A.")], image="i.jpg")]
    assert [row["id"] for number in (0, 1) for row in of_file(rows, number)] == ["a", "a@1"]
