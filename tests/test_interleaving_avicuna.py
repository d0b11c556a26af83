"""Token order and resampling: properties for all sizes, and all rows of the golden files or their difference."""

import json
from math import ceil

import pytest

from modeling_avicuna.interleaving_avicuna import (
    INTERLEAVING_RULES,
    interleave_order,
    num_modality_tokens,
    resample_rows,
)


LETTER = {"v": "video", "a": "audio"}


def published_rule_works(num_video: int, num_audio: int) -> bool:
    """Whether the published rule places all audio tokens (golden/README.md); stride 1 does not interleave."""
    stride = round(num_video / (num_audio + 1)) + 1
    return stride > 1 and ceil((num_video + num_audio) / stride) >= num_audio


def test_the_uniform_rule_spaces_audio_tokens_evenly():
    for num_video in range(201):
        for num_audio in range(201):
            order = interleave_order(num_video, num_audio)
            positions = [position for position, modality in enumerate(order) if modality == "audio"]
            total = num_video + num_audio
            assert len(order) == total
            assert positions == [k * total // num_audio for k in range(num_audio)]
            assert order.count("video") == num_video


def test_the_published_rule_interleaves_or_is_an_error():
    for num_video in range(1, 201):
        for num_audio in range(1, 201):
            if not published_rule_works(num_video, num_audio):
                with pytest.raises(ValueError, match=rf"num_video={num_video}, num_audio={num_audio}\b"):
                    interleave_order(num_video, num_audio, rule="published")
                continue
            order = interleave_order(num_video, num_audio, rule="published")
            stride = round(num_video / (num_audio + 1)) + 1
            positions = [position for position, modality in enumerate(order) if modality == "audio"]
            assert positions == [k * stride for k in range(num_audio)]
            assert len(order) == num_video + num_audio


@pytest.mark.parametrize("rule", INTERLEAVING_RULES)
def test_a_single_modality_has_one_order(rule):
    for count in (0, 1, 100):
        assert interleave_order(count, 0, rule=rule) == ["video"] * count
        assert interleave_order(0, count, rule=rule) == ["audio"] * count


def test_the_rules_agree_for_the_published_token_counts():
    for sizes in ((75, 25), (80, 20)):
        assert interleave_order(*sizes) == interleave_order(*sizes, rule="published")


def test_concatenated_is_all_video_then_all_audio():
    assert interleave_order(3, 2, rule="concatenated") == ["video"] * 3 + ["audio"] * 2


def test_golden_orders(golden_dir):
    cases = json.loads((golden_dir / "interleave/interleave_cases.json").read_text())
    cases += json.loads((golden_dir / "interleave/sweep_total100.json").read_text())
    compared = refused = 0
    for case in cases:
        num_video, num_audio = case["n_visual"], case["n_audio"]
        interleaves = case["insert_freq"] > 0 or num_video == 0 or num_audio == 0
        if case["status"] == "ok" and interleaves:
            expected = [LETTER[letter] for letter in case["compact"]]
            assert interleave_order(num_video, num_audio, rule="published") == expected
            compared += 1
        else:
            # intended: the published code sets all tokens to zero, or places all audio before all video
            with pytest.raises(ValueError):
                interleave_order(num_video, num_audio, rule="published")
            refused += 1
    assert compared > 60 and refused > 40


def test_token_counts_that_fail_in_the_published_code_are_errors(golden_dir):
    grid = json.loads((golden_dir / "interleave/grid40_failures.json").read_text())
    failures = {(num_video, num_audio) for num_video, num_audio, *_ in grid["failures"]}
    assert failures
    for num_video, num_audio in failures:
        with pytest.raises(ValueError):
            interleave_order(num_video, num_audio, rule="published")
    for num_video in range(1, 41):
        for num_audio in range(1, 41):
            if published_rule_works(num_video, num_audio):
                assert (num_video, num_audio) not in failures


@pytest.mark.parametrize("arguments, rule", [((-1, 3), "uniform"), ((3, -1), "published"), ((1, 1), "random")])
def test_a_wrong_count_or_rule_is_an_error(arguments, rule):
    with pytest.raises(ValueError):
        interleave_order(*arguments, rule=rule)


def test_golden_token_counts(golden_dir):
    resample = json.loads((golden_dir / "resample/resample.json").read_text())
    # intended: the published int() truncates 0.29 * 100 = 28.999... to 28; ours rounds
    truncated = {0.29: 29, 0.57: 57, 0.58: 58}
    for case in resample["av_ratio_counts"]:
        rate = case["av_ratio"]
        num_video, num_audio = num_modality_tokens(100, rate)
        assert num_audio == truncated.get(rate, case["n_audio"])
        assert num_video == 100 - num_audio
    for rate, num_tokens in ((-0.1, 100), (1.1, 100), (0.5, -1)):
        with pytest.raises(ValueError):
            num_modality_tokens(num_tokens, rate)


def test_golden_audio_rows(golden_dir):
    resample = json.loads((golden_dir / "resample/resample.json").read_text())
    cases = [(case["m_in"], case["m_out"], case["index"]) for case in resample["audio"]]
    cases += [(case["m_in"], case["n_audio_feats"], case["index"]) for case in resample["inference_audio"]]
    longer = 0
    for num_rows, num_tokens, expected in cases:
        if num_rows == 0:
            with pytest.raises(ValueError):  # published: replaced by another sample until the stack overflows
                resample_rows(0, 25)
            continue
        assert resample_rows(num_rows, num_tokens, rule="published") == expected
        if num_rows <= num_tokens:
            assert resample_rows(num_rows, num_tokens) == expected
        else:
            longer += 1  # intended: the published code drops all sound after about 106 s
            assert expected[-1] == num_tokens - 1
            assert resample_rows(num_rows, num_tokens)[-1] == num_rows - 1
    assert longer >= 3


def test_golden_video_rows(golden_dir):
    resample = json.loads((golden_dir / "resample/resample.json").read_text())
    for case in resample["video"]:
        rows = resample_rows(case["n_in"], case["n_out"], rule="proportional")
        if case["n_in"] >= case["n_out"]:
            assert rows == case["index"]
        else:
            # intended: published videos with fewer rows end in zeros, so that positions do not encode time
            assert case["index"][case["n_in"] :] == [-1] * (case["n_out"] - case["n_in"])
            assert rows[0] == 0 and rows[-1] == case["n_in"] - 1


def test_resampling_is_monotone_and_even_and_covers_all_rows():
    for num_rows in range(1, 130):
        for num_tokens in range(1, 60):
            for rule in ("even", "proportional", "centred"):
                rows = resample_rows(num_rows, num_tokens, rule=rule)
                assert len(rows) == num_tokens
                assert rows == sorted(rows)
                assert 0 <= rows[0] and rows[-1] < num_rows
                if num_tokens > 1 and rule != "centred":
                    assert rows[0] == 0 and rows[-1] >= num_rows - ceil(num_rows / num_tokens)
                    assert rule == "proportional" or rows[-1] == num_rows - 1
                repeats = [rows.count(row) for row in set(rows)]
                steps = [after - before for before, after in zip(rows, rows[1:])]
                assert max(repeats) - min(repeats) <= 1
                assert num_rows < num_tokens or not steps or max(steps) - min(steps) <= 1
            centred = resample_rows(num_rows, num_tokens, rule="centred")
            assert centred == [(2 * k + 1) * num_rows // (2 * num_tokens) for k in range(num_tokens)]
            # the middle of the row is at most half a row from the middle of the token's interval
            assert all(
                abs((2 * row + 1) * num_tokens - (2 * k + 1) * num_rows) <= num_tokens for k, row in enumerate(centred)
            )
            proportional = resample_rows(num_rows, num_tokens, rule="proportional")
            assert all(abs(row / num_rows - k / num_tokens) < 1 / num_rows for k, row in enumerate(proportional))


@pytest.mark.parametrize("arguments", [(0, 1), (-1, 1), (1, -1)])
def test_wrong_numbers_of_rows_and_tokens_are_an_error(arguments):
    with pytest.raises(ValueError):
        resample_rows(*arguments)
    with pytest.raises(ValueError, match="rule"):
        resample_rows(1, 1, rule="nearest")
    assert resample_rows(0, 0) == resample_rows(5, 0) == []
