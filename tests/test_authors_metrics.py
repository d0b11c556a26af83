"""The metrics against their authors' own code: values recorded by benchmarks/authors_metrics.py on made-up events."""

import json

import pytest

from benchmarks.authors_metrics import WordOverlap, disjoint
from eval import events
from eval.metrics.dense_captioning.stories import score_stories
from eval.metrics.temporal_grounding.spans import score_spans


@pytest.fixture(scope="module")
def golden(golden_dir):
    return json.loads((golden_dir / "metrics" / "authors_metrics.json").read_text(encoding="utf-8"))


def test_moments_score_as_in_moment_detr(golden, tmp_path):
    """From files, as their evaluator reads them. Its values have two decimals."""
    rows = [
        {"qid": n, "vid": f"v{n}", "query": "x", "duration": 150, "relevant_windows": row["truth"]}
        for n, row in enumerate(golden["moments"])
    ]
    said = [
        {"qid": n, "vid": f"v{n}", "query": "x", "pred_relevant_windows": row["said"]}
        for n, row in enumerate(golden["moments"])
    ]
    for name, lines in (("truth", rows), ("said", said)):
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ["--annotations", str(tmp_path / "truth"), "--predictions", str(tmp_path / "said"), "--num-resamples", "0"]
    events.main(["--task", "qvhighlights", *words, "--output", str(tmp_path / "out")])
    values = json.loads((tmp_path / "out/values.json").read_text())["values"]
    for name, value in golden["values"]["moment_detr"].items():
        assert values[name] == pytest.approx(value, abs=0.0051), name


def test_several_spans_score_as_in_omtg_bench(golden):
    pairs = [(disjoint(row["said"]), disjoint(row["truth"])) for row in golden["moments"]]
    values = score_spans([said for said, _ in pairs], [truth for _, truth in pairs])
    for name, value in golden["values"]["omtg"].items():
        assert values[name] == pytest.approx(value, abs=1e-9), name


def test_stories_score_as_in_densevid_eval_and_soda(golden):
    predictions, references = [], []
    for video, said in golden["stories"].values():
        pairs = zip(video["timestamps"], video["sentences"])
        references.append([[{"start": start, "end": end, "caption": text} for (start, end), text in pairs]])
        predictions.append(said)
    values = score_stories(predictions, references, meteor=WordOverlap())
    for name in ("CIDEr", "precision", "recall"):
        assert values[name] == pytest.approx(golden["values"]["densevid_eval"][name], abs=1e-6), name
    assert values["SODA_c"] == pytest.approx(golden["values"]["soda"]["SODA_c of word overlap"], abs=1e-6)
