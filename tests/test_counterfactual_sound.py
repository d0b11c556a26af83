"""Sounds that are moved, muted or swapped over a background, and stretches without sound or picture."""

import json

import numpy as np
import pytest

from .curation_fixtures import load_pu_valor, make_captions, quick_settings, write_captions


@pytest.fixture
def overlaid(tmp_path):
    """Builds with a background, where two thirds of the events are only heard or only seen."""
    (tmp_path / "backgrounds.json").write_text('["quiet_0.000_10.000"]', encoding="utf-8")
    records = make_captions(60)
    for number, record in enumerate(records):
        record["tracks"] = ("audio", "video", "both")[number % 3]
    path = tmp_path / "desc.json"
    path.write_text(json.dumps(records), encoding="utf-8")
    options = {"overlay": True, "gap_share": 0.9, "gap_seconds": (1, 4), "max_repeats": 1, "overlap_share": 0.2}
    options |= {"backgrounds_file": str(tmp_path / "backgrounds.json"), "cache_dir": tmp_path / "cache"}

    def build_rows(**changes):
        return load_pu_valor(path, **options, **changes)["train"]

    return build_rows, {record["video_id"]: record["tracks"] for record in records}


def spans_of(row, track):
    """Clip -> (start, end) of its picture or of its sound."""
    return {
        segment["clip_id"]: (segment["start"], segment["end"])
        for segment in row["segments"]
        if segment["tracks"] in ("both", track)
    }


def test_answers_use_the_times_of_moved_sounds(overlaid):
    build_rows, carried = overlaid
    plain, rows = (build_rows(shifted_sound_share=share, conversation_types=("T1",)) for share in (0.0, 1.0))
    num_moved = 0
    for row, other in zip(rows, plain):
        assert spans_of(row, "video") == spans_of(other, "video") and row["duration"] == other["duration"]
        before, after = spans_of(other, "audio"), spans_of(row, "audio")
        moves = {round(after[clip][edge] - before[clip][edge], 2) for clip in before for edge in (0, 1)}
        assert len(moves) <= 1 and before.keys() == after.keys()
        move = moves.pop() if moves else 0.0
        assert move == 0 or 1 <= abs(move) <= 5
        num_moved += move != 0
        named = [time["seconds"] for time in row["times"]]
        sources = [segment["clip_id"] for segment in other["segments"] if segment["tracks"] != "background"]
        truth = [(spans_of(row, "video") if carried[clip] == "video" else after)[clip] for clip in sources]
        assert np.allclose(named, np.ravel(sorted(truth)), atol=1e-4)  # a narration names events by start
        starts = [segment["start"] for segment in row["segments"]]
        assert starts == sorted(starts) and min(starts) >= 0
        assert max(segment["end"] for segment in row["segments"]) <= row["duration"] + 1e-4
    assert num_moved > 25


def test_questions_about_a_muted_sound_are_answered_no_event(overlaid):
    build_rows, carried = overlaid
    plain, rows = (
        build_rows(muted_sound_share=share, conversation_types=("T2",), min_turns=3, max_turns=3)
        for share in (0.0, 1.0)
    )
    num_asked = 0
    for row, other in zip(rows, plain):
        if not spans_of(other, "video"):  # all events are only heard: nothing would be left
            assert row == other
            continue
        assert not spans_of(row, "audio") and spans_of(row, "video") == spans_of(other, "video")
        lost = {s["caption"] for s in other["segments"] if s["tracks"] == "audio"}
        questions = [message["content"] for message in row["messages"]]
        for question, answer in zip(questions[::2], questions[1::2]):
            about_lost = any(caption.rstrip(".") in question for caption in lost)
            assert (answer == "No event.") == about_lost
            num_asked += about_lost
    assert num_asked > 20


@pytest.mark.parametrize("kind", ["T1", "T2", "T3"])
def test_a_video_of_sounds_alone_is_not_muted_and_every_row_has_answers(tmp_path, kind):
    (tmp_path / "backgrounds.json").write_text('["quiet_0.000_10.000"]', encoding="utf-8")
    records = [{**record, "tracks": "audio"} for record in make_captions(20)]
    (tmp_path / "desc.json").write_text(json.dumps(records), encoding="utf-8")
    options = {"overlay": True, "backgrounds_file": str(tmp_path / "backgrounds.json"), "muted_sound_share": 1.0}
    options |= {"conversation_types": (kind,), "cache_dir": tmp_path / "cache"}
    rows = load_pu_valor(tmp_path / "desc.json", **options)["train"]
    assert all(row["messages"] and all(message["content"] for message in row["messages"]) for row in rows)


@pytest.mark.parametrize("name", ["shifted_sound_share", "muted_sound_share", "swapped_sound_share", "silent_share"])
def test_sounds_are_changed_over_a_background_only(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name}.* need overlay"):
        quick_settings(write_captions(tmp_path / "desc.json"), **{name: 0.5})


def test_a_swapped_sound_is_answered_at_the_place_of_the_one_it_replaces(overlaid):
    build_rows, carried = overlaid
    captions = {record["video_id"]: record["desc"] for record in make_captions(60)}
    plain, rows = (build_rows(swapped_sound_share=share, conversation_types=("T1",)) for share in (0.0, 1.0))
    num_swapped = 0
    for row, other in zip(rows, plain):
        assert spans_of(row, "video") == spans_of(other, "video") and row["duration"] == other["duration"]
        before, after = spans_of(other, "audio"), spans_of(row, "audio")
        lost, new = before.keys() - after.keys(), after.keys() - before.keys()
        assert len(lost) == len(new) <= 1
        told = other["messages"][1]["content"]
        if new:
            (replaced,), (heard,) = lost, new
            assert carried[heard] != "video" and after[heard] == before[replaced]
            text = captions[heard].rstrip(".").lower()
            assert text in row["messages"][1]["content"].lower() and text not in told.lower()
            is_seen = carried[replaced] == "both"
            assert (captions[replaced].rstrip(".").lower() in row["messages"][1]["content"].lower()) == is_seen
            scale = next(segment["scale"] for segment in row["segments"] if segment["clip_id"] == heard)
            assert scale == pytest.approx((after[heard][1] - after[heard][0]) / 10, abs=1e-4)
            num_swapped += 1
        else:
            assert row == other
    assert num_swapped > 30


def test_silent_and_dark_stretches_are_in_gaps_and_hide_the_background(overlaid):
    build_rows, _ = overlaid
    plain, rows = (build_rows(silent_share=share, dark_share=share) for share in (0.0, 0.5))
    assert rows["messages"] == plain["messages"] and rows["times"] == plain["times"]
    num_hidden = {"silence": 0, "darkness": 0}
    for row, other in zip(rows, plain):
        hidden = [segment for segment in row["segments"] if segment["tracks"] in num_hidden]
        assert [segment for segment in row["segments"] if segment not in hidden] == other["segments"]
        events = [segment for segment in row["segments"] if segment["caption"] is not None]
        for stretch in hidden:
            num_hidden[stretch["tracks"]] += 1
            assert all(s["end"] <= stretch["start"] + 1e-4 or s["start"] >= stretch["end"] - 1e-4 for s in events)
            assert (
                stretch["clip_id"] == row["segments"][0]["clip_id"] and 1 <= stretch["end"] - stretch["start"] <= 4.01
            )
    num_gaps = sum(len(row["segments"]) for row in rows)
    assert min(num_hidden.values()) > 40 and sum(num_hidden.values()) < num_gaps
