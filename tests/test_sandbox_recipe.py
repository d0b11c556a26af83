"""The sandbox recipe: commands of the demo and of the reproduction, and steps shared between rows of a plan."""

import json

import pytest
import yaml

from benchmarks import reproduce
from examples import sandbox_recipe as recipe
from examples.demo import count_found, write_spans


def test_every_stage_has_a_recipe_and_divides_its_batch_between_processes(tmp_path):
    run = recipe.SandboxRun(num_processes=2, overrides={"stage3": {"max_steps": 5, "datasets": [{"path": "x"}]}})
    for stage in run.stages:
        folders = dict.fromkeys(("world", "features", "start", "output"), tmp_path)
        words = recipe.train_stage(run, stage, **folders).words
        values = yaml.safe_load((recipe.PROJECT / words[words.index("--config") + 1]).read_text())
        assert words[0] == "torchrun"
        assert 2 * int(words[words.index("--per_device_train_batch_size") + 1]) == values["effective_batch_size"]
        assert (stage == "stage3") == ("--max_steps" in words)
    assert json.loads(recipe.train_stage(run, "stage3", **folders).words[-1]) == {"path": "x"}


@pytest.mark.parametrize("values", [{"world": "moon"}, {"stages": ("stage9",)}, {"stages": ()}], ids=str)
def test_unknown_worlds_and_stages_are_errors(values):
    with pytest.raises(ValueError, match="must be"):
        recipe.SandboxRun(**values)


def test_rows_of_the_plan_share_their_first_steps(tmp_path):
    rows = {
        (name, run.seed): reproduce.Chain(run, tmp_path)
        for name, run in reproduce.read_plan(reproduce.PLAN, only=[], seeds=[])
    }
    products = {key: [step.product for step in chain.steps] for key, chain in rows.items()}
    plain, reference, other_seed = (products[key] for key in (("plain", 0), ("reference", 0), ("reference", 1)))
    assert plain[:6] == reference[:6] and plain[6] != reference[6]  # up to the warm-up
    assert not set(reference) & set(other_seed)
    assert products["times not constrained", 0] == reference
    words = [step.words for step in rows["times not constrained", 0].evaluations(tmp_path)]
    assert all(step[step.index("--well-formed-times") + 1] == "false" for step in words)
    silent = products["without sound", 0]
    assert silent[0] == plain[0] and not set(silent[1:]) & set(plain)
    assert len({tuple(steps) for steps in products.values()}) == len(rows) - 1
    with pytest.raises(ValueError, match="no row 'nonsense'"):
        list(reproduce.read_plan(reproduce.PLAN, only=["nonsense"], seeds=[]))


def test_the_sweep_of_the_rate_is_read_from_rows_of_one_seed():
    rates = {"rate 0.5": "0.5", "without sound": "0", "reference": None, "whole clips": None, "without stage II": None}
    rows = [
        {
            "name": name,
            "seed": seed,
            "initialize": {} if rate is None else {"audio-interleaving-rate": rate},
            "metrics": {"presence": {"average_mAP": 10.0 * seed + number}},
        }
        for number, (name, rate) in enumerate(rates.items())
        for seed in (0, 1)
    ]
    assert reproduce.rates_of(rows) == {50.0: 0.0, 0.0: 1.0, 25.0: 2.0}
    assert reproduce.read_paper_rates()[25.0] == 60.3


def test_counts_and_rejections_are_computed_from_the_answers(tmp_path):
    events = [{"segment": [1.0, 4.0], "label": "rain"}, {"segment": [6.0, 9.0], "label": "rain"}]
    (tmp_path / "annotations.json").write_text(json.dumps({"database": {"v": {"annotations": events}}}))
    answers = {"rain": [{"start": 1.0, "end": 4.0}], "wind": [], "fire": [{"start": 0.0, "end": 2.0}]}
    lines = [{"question_id": f"v/{label}", "video_id": "v", "events": found} for label, found in answers.items()]
    (tmp_path / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    counts = reproduce.score_counts(tmp_path / "predictions.jsonl", tmp_path / "annotations.json")
    assert counts == {"absent_rejected": 50.0, "CountF1": 0.0}  # one span for two


def test_the_demo_counts_each_answer_once():
    assert count_found([(0.0, 4.0)], [(0.0, 4.0), (1.0, 4.5)]) == 1
    assert count_found([(0.0, 4.0), (9.0, 20.0)], [(0.5, 4.0), (10.0, 20.0)]) == 2
    assert count_found([], [(0.0, 4.0)]) == 0
    assert write_spans([]) == "does not occur"
