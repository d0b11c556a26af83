"""Analyses: numbers of the paper, comparison tables, studies of variants, the use of sound, timeline figures."""

import json
import sys

import pytest
import yaml
from PIL import Image

from dataset_builders.atomic_files import write_json
from eval import comparison, sound_use, study
from eval.records import AnswerLog
from eval.task import Answer, Example, Question
from eval.timeline import draw_timeline
from modeling_avicuna.timestamp_avicuna import Event
from train import run_stages


def result_of(task, name, metrics, **more):
    fields = {"task": task, "name": name, "metrics": metrics, "num_examples": 9, "num_expected": 10, "judge": None}
    return {**fields, "model": "m", "git_commit": "c", "limit": None, **more}


def assert_picture(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG" and picture.width > 300
        assert len(picture.convert("L").getcolors()) > 10, "the picture is empty"


def test_the_tables_of_the_paper_are_complete():
    for table in comparison.PAPER.values():
        if isinstance(table, dict):
            assert all(len(row["values"]) == len(table["columns"]) for row in table["rows"])
            assert len({row["method"] for row in table["rows"]}) == len(table["rows"])
    sizes = {
        name: len(comparison.PAPER[name]["rows"])
        for name in ("localization", "ablation", "rate_sweep", "question_answering")
    }
    assert sizes == {"localization": 8, "ablation": 5, "rate_sweep": 12, "question_answering": 9}


def test_the_numbers_of_the_paper_agree_with_the_shared_facts(shared_dir):
    facts = (shared_dir / "FACTS.md").read_text()
    for row in comparison.PAPER["ablation"]["rows"]:
        assert f"| {row['method']} | " + " | ".join(f"{value:.1f}" for value in row["values"]) in facts
    sweep = ", ".join(f"{row['method']}: {row['values'][0]}" for row in comparison.PAPER["rate_sweep"]["rows"])
    assert sweep.replace("0: ", "0 %: ", 1) in facts
    for row in comparison.PAPER["question_answering"]["rows"]:
        cells = ["yes" if row[key] else "no" for key in ("audio_visual", "temporal")] + [row["pairs"], row["llm"]]
        cells += ["-" if value is None else f"{value:.1f}" for value in row["values"]]
        assert f"| {row['method']} | " + " | ".join(cells) + " |" in facts


def test_a_result_enters_only_the_table_of_its_dataset_and_metric(tmp_path):
    judge = {"model": "j", "version": "j-1", "prompt_sha256": "0"}
    results = [
        result_of("unav100_query", "unav100_query/query-time_tokens", {"mAP@0.5": 12.5, "average_mAP": 20.0}),
        result_of("sandbox", "sandbox/narration-exact-constant", {"average_mAP": 99.0}),
        result_of("msvd_qa", "msvd_qa/text", {"exact_match": 88.0}),
        result_of("msvd_qa", "msvd_qa/judge-j", {"accuracy": 44.0}, judge=judge),
    ]
    files = [tmp_path / f"{n}.json" for n in range(len(results))]
    for path, result in zip(files, results):
        write_json(path, result)
    comparison.main(["--results", *map(str, files), "--output", str(tmp_path)])
    tables = json.loads((tmp_path / "comparison.json").read_text())
    ours = {name: [r for r in table["rows"] if r["method"].startswith("ours")] for name, table in tables.items()}
    assert [row["values"] for row in ours["localization"]] == [[12.5, None, None, None, None, 20.0]]
    assert [row["values"] for row in ours["question_answering"]] == [[None, None, 44.0, None, None]]
    text = (tmp_path / "comparison.md").read_text()
    assert "| ours: unav100_query/query-time_tokens | 12.5 | - | - | - | - | 20.0 | 9 of 10 |" in text
    assert "99.0" not in text and "88.0" not in text and "poster" in text
    for name in tables:
        assert_picture(tmp_path / f"comparison_{name}.png")


def test_a_limited_run_is_left_out(tmp_path, capsys):
    limited = result_of("msvd_qa", "msvd_qa/judge-j/first-2", {"accuracy": 44.0}, judge={"model": "j"}, limit=2)
    write_json(tmp_path / "results_judge.json", limited)
    comparison.main(["--results", str(tmp_path / "results_judge.json"), "--output", str(tmp_path)])
    assert "ours" not in (tmp_path / "comparison.md").read_text()
    assert "not used, since it covers only the first 2 videos" in capsys.readouterr().out


@pytest.mark.parametrize("text, message", [("{", "is not JSON"), ('{"rows": []}', "it has no 'task'")])
def test_a_file_without_a_result_is_an_error_that_names_it(tmp_path, text, message):
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(ValueError, match=f"other.json .*{message}"):
        comparison.main(["--results", str(tmp_path / "other.json"), "--output", str(tmp_path)])


def test_a_comparison_without_results_has_only_rows_of_the_paper(tmp_path):
    comparison.main(["--output", str(tmp_path)])
    assert "ours" not in (tmp_path / "comparison.md").read_text()


@pytest.mark.parametrize("name", ["ablations", "interleaving_rates"])
def test_the_plans_cover_the_tables_of_the_paper(project_dir, name):
    plan = study.read_plan(project_dir / "eval/studies" / f"{name}.yaml")
    assert [variant.paper for variant in plan.variants] == [
        row["method"] for row in comparison.PAPER[plan.paper]["rows"]
    ]


def test_a_recipe_without_remaining_sources_is_left_out():
    recipe = {"datasets": [{"path": "pu_valor"}, "instruction"], "learning_rate": 1}
    assert study.changed_recipe(recipe, drop_datasets=["pu_valor"]) == {
        "datasets": ["instruction"],
        "learning_rate": 1,
    }
    assert study.changed_recipe(recipe, drop_datasets=["pu_valor", "instruction"]) is None
    assert study.changed_recipe({"learning_rate": 1}, drop_datasets=["pu_valor"]) == {
        "learning_rate": 1,
        "datasets": [],
    }


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"stagse": []}, "stagse"),
        ({"config_from": "stage9"}, "stage9"),
        ({"variants": [{}]}, "name"),
        ({"paper": "ablations"}, "the paper has no table 'ablations'"),
        ({"variants": [{"name": "full", "paper": "Avicuna"}]}, "has no row 'Avicuna'"),
        ({"variants": [{"name": "a b"}, {"name": "a/b"}]}, "'a b' has the same name"),
        ({"variants": [{"name": "ten"}], "axis": "rate"}, "'ten' is not a number"),
    ],
)
def test_an_invalid_plan_is_an_error(tmp_path, wrong, message):
    path = tmp_path / "plan.yaml"
    plan = {"title": "t", "paper": "ablation", "stages": ["stage1"], "config_from": "stage1", "variants": []}
    path.write_text(yaml.safe_dump({**plan, **wrong}))
    with pytest.raises(ValueError, match=message):
        study.read_plan(path)


# Replaces `accelerate launch`: a training copies its model and records its recipe; the score of an evaluation is the
# interleaving rate.
LAUNCHER = """
import json, pathlib, shutil, sys
arguments = sys.argv[1:]
value = lambda name: arguments[arguments.index(name) + 1]
calls = pathlib.Path(__file__).with_name("calls.txt")
if arguments[0].endswith("sft.py"):
    model, output = value("--model"), pathlib.Path(value("--output_dir"))
    shutil.copytree(model, output, dirs_exist_ok=True, ignore=shutil.ignore_patterns("training_*.json", "stage_*.json"))
    (output / "training_summary.json").write_text("{}")
    trained = (output / "trained.txt").read_text() if (output / "trained.txt").exists() else ""
    (output / "trained.txt").write_text(trained + pathlib.Path(value("--config")).read_text() + "---")
    calls.open("a").write("train\\n")
else:
    assert arguments[:2] == ["-m", "eval.run"] and value("--task") == "sandbox"
    model, output = pathlib.Path(value("--model")), pathlib.Path(value("--output"))
    rate = json.loads((model / "config.json").read_text())["audio_interleaving_rate"]
    output.mkdir(parents=True, exist_ok=True)
    fields = {"task": "sandbox", "name": "sandbox/x", "metrics": {"average_mAP": 100 * rate}, "num_examples": 1, "num_expected": 1, "judge": None}
    fields |= {"model": str(model), "limit": int(value("--limit")) if "--limit" in arguments else None}
    (output / "results.json").write_text(json.dumps(fields))
    calls.open("a").write("evaluate\\n")
"""  # noqa: E501


@pytest.fixture
def study_folder(tmp_path):
    """A start checkpoint, four recipes and a launcher that does not train."""
    start, recipes = tmp_path / "start", tmp_path / "recipes"
    start.mkdir()
    recipes.mkdir()
    for name in ("config.json", "processor_config.json"):
        write_json(start / name, {"audio_interleaving_rate": 0.25, "interleaving": "uniform"})
    for number, source in enumerate(("image_text", "a5_222k", "pu_valor", "instruction"), start=1):
        recipe = {"datasets": [{"path": source}], "learning_rate": number}
        (recipes / f"stage{number}_x.yaml").write_text(yaml.safe_dump(recipe))
    (tmp_path / "launcher.py").write_text(LAUNCHER)
    video = {"duration": 4.0, "subset": "test", "annotations": [{"segment": [0, 2], "label": "rain", "label_id": 0}]}
    write_json(tmp_path / "a.json", {"database": {"v": video}})
    return tmp_path


def run_study(folder, plan, *more, evaluation=()):
    launcher = f"{sys.executable} {folder / 'launcher.py'}"
    own = ["--plan", str(plan), "--model", str(folder / "start"), "--recipes-dir", str(folder / "recipes")]
    task = ["--", "--task", "sandbox", "--annotations", str(folder / "a.json"), *evaluation]
    study.main([*own, "--output", str(folder / "out"), "--launcher", launcher, *more, *task])
    return json.loads((folder / "out" / "study.json").read_text())["rows"]


@pytest.fixture
def stages_in_this_process(monkeypatch):
    """Starting Python and its imports for each stage takes seconds."""
    run = study._run

    def run_stages_here(command):
        run_stages.main(command[3:]) if "train.run_stages" in command else run(command)

    monkeypatch.setattr(study, "_run", run_stages_here)


@pytest.mark.usefixtures("stages_in_this_process")
def test_an_ablation_trains_each_variant_and_shares_equal_stages(study_folder, project_dir):
    rows = run_study(study_folder, project_dir / "eval/studies/ablations.yaml")
    calls = (study_folder / "calls.txt").read_text().split()
    # full: 4 stages; w/o PU-VALOR: stage 4; concatenated: 3 and 4; w/o A5: 3 and 4; w/o audio: 3 and 4
    assert calls.count("train") == 4 + 1 + 2 + 2 + 2 and calls.count("evaluate") == 5
    by_name = {row["variant"]: row for row in rows}
    assert by_name["full"]["paper"]["average_mAP"] == 60.3 and by_name["full"]["metrics"]["average_mAP"] == 25.0
    assert by_name["w/o audio"]["metrics"]["average_mAP"] == 0.0

    def trained(name):
        return (study.Path(by_name[name]["model"]) / "trained.txt").read_text()

    assert [trained("full").count(f"path: {s}") for s in ("image_text", "a5_222k", "pu_valor", "instruction")] == [
        1
    ] * 4
    assert "pu_valor" not in trained("w/o PU-VALOR") and "a5_222k" not in trained("w/o A5-222K")
    config = json.loads(
        (study.Path(by_name["w/o AVTI (concatenated)"]["model"]) / "processor_config.json").read_text()
    )
    assert config["interleaving"] == "concatenated"
    assert_picture(study_folder / "out" / "study.png")
    run_study(study_folder, project_dir / "eval/studies/ablations.yaml")
    assert (study_folder / "calls.txt").read_text().split().count("train") == 11, "a second run must not train"


@pytest.mark.usefixtures("stages_in_this_process")
def test_all_recipes_of_a_stage_are_trained_in_order(study_folder, project_dir):
    (study_folder / "recipes" / "stage2_y.yaml").write_text(yaml.safe_dump({"datasets": [{"path": "listing"}]}))
    (row,) = run_study(study_folder, project_dir / "eval/studies/ablations.yaml", "--variants", "full")
    trained = (study.Path(row["model"]) / "trained.txt").read_text()
    positions = [trained.index(f"path: {name}") for name in ("image_text", "a5_222k", "listing", "pu_valor")]
    assert positions == sorted(positions)


@pytest.mark.parametrize("recipes", ["train/recipes", "train/recipes/sandbox"])
@pytest.mark.parametrize("plan", ["ablations", "interleaving_rates"])
def test_the_plans_fit_the_recipes(study_folder, project_dir, plan, recipes):
    plan = study.read_plan(project_dir / "eval" / "studies" / f"{plan}.yaml")
    study.Study(plan, start=study_folder / "start", recipes=project_dir / recipes, output=study_folder / "out")


@pytest.mark.parametrize(
    "more, evaluation, changed, message",
    [
        (["--variants", "ful"], [], {}, "has no variant 'ful'"),
        (["--metric", "mAP@0.55"], [], {}, "sandbox has no metric 'mAP@0.55'"),
        (["--metric", "mIoU"], [], {}, "sandbox has no metric 'mIoU'"),
        ([], ["--model", "m"], {}, "--model of the evaluation is set by the study"),
        ([], ["--limit", "-1"], {}, "limit must be at least 1"),
        ([], [], {"drop_datasets": ["pu_velor"]}, "drops 'pu_velor'; the recipes have the sources"),
        ([], [], {"config": {"interleafing": "uniform"}}, "has no field 'interleafing'"),
        ([], ["--media-dir", "no/folder"], {}, "no such folder: no/folder"),
        ([], ["--subset", "tset"], {}, "no video of subset 'tset'"),
        (["--variants", "25"], [], {"name": 50}, r"no variant '25'; its variants are \['full', '50'\]"),
    ],
)
def test_a_mistyped_name_is_an_error_before_the_first_training(study_folder, more, evaluation, changed, message):
    plan = {"title": "t", "paper": "ablation", "stages": ["stage3", "stage4"], "config_from": "stage4"}
    plan["variants"] = [{"name": "full"}, {"name": "other", **changed}]
    (study_folder / "plan.yaml").write_text(yaml.safe_dump(plan))
    with pytest.raises(ValueError, match=message):
        run_study(study_folder, study_folder / "plan.yaml", *more, evaluation=evaluation)
    assert not (study_folder / "calls.txt").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"task": "unav100", "name": "x", "metrics": {}, "judge": None}, "r.json .* has no 'num_examples'"),
        (result_of("unav100", "x", [1]), "r.json: metrics is not an object of numbers"),
        (result_of("unav100", "x", {"average_mAP": "high"}), "r.json: metrics is not an object of numbers"),
    ],
)
def test_a_damaged_result_is_an_error_that_names_it(tmp_path, content, message):
    write_json(tmp_path / "r.json", content)
    with pytest.raises(ValueError, match=message):
        comparison.main(["--results", str(tmp_path / "r.json"), "--output", str(tmp_path / "out")])


@pytest.mark.usefixtures("stages_in_this_process")
def test_a_limited_study_has_no_values_of_the_paper(study_folder, project_dir):
    plan = project_dir / "eval/studies/ablations.yaml"
    rows = run_study(study_folder, plan, "--variants", "full", evaluation=["--limit", "2"])
    assert rows[0]["paper"] is None


@pytest.mark.usefixtures("stages_in_this_process")
def test_a_sweep_trains_each_rate(study_folder, project_dir):
    plan = project_dir / "eval/studies/interleaving_rates.yaml"
    rows = run_study(study_folder, plan, "--variants", "0", "50", "100")
    assert [row["metrics"]["average_mAP"] for row in rows] == [0.0, 50.0, 100.0]
    assert [row["paper"]["average_mAP"] for row in rows] == [35.8, 39.6, 48.4]
    assert_picture(study_folder / "out" / "study.png")


def test_a_study_stops_at_a_failed_training(study_folder, project_dir):
    plan = project_dir / "eval/studies/interleaving_rates.yaml"
    (study_folder / "launcher.py").write_text("raise SystemExit(3)")
    with pytest.raises(ValueError, match="exit status 1 of: .*train.run_stages"):
        run_study(study_folder, plan, "--variants", "10")


def test_sound_use_compares_the_runs(tmp_path, monkeypatch):
    def evaluate(arguments):
        output = study.Path(arguments[arguments.index("--output") + 1])
        sound = arguments[arguments.index("--sound") + 1]
        log = AnswerLog(output)
        texts = {"original": "abcd", "removed": "xxxx", "swapped": "abxx", "shifted": "abcd", "moved": "xbcd"}[sound]
        log.write(Answer(str(n), "v", 1.0, text) for n, text in enumerate(texts))
        log.join(list("0123"))
        write_json(
            output / "results.json",
            result_of("sandbox", "sandbox/p", {"mAP@0.5": 9.0, "average_mAP": len(set(texts))}),
        )

    monkeypatch.setattr(sound_use.run, "main", evaluate)
    task = ["--", "--task", "sandbox", "--model", "m", "--annotations", "a.json"]
    sound_use.main(["--output", str(tmp_path), *task])
    result = json.loads((tmp_path / "sound_use.json").read_text())
    rows = {row["sound"]: row for row in result["rows"]}
    assert {s: row["answers_changed"] for s, row in rows.items()} == {
        "original": 0.0,
        "removed": 100.0,
        "swapped": 50.0,
        "shifted": 0.0,
        "moved": 25.0,
    }
    assert rows["removed"]["metrics"]["average_mAP"] == 1 and result["moved_sound"] is None
    assert_picture(tmp_path / "sound_use.png")
    with pytest.raises(ValueError, match="is set here"):
        sound_use.main(["--output", str(tmp_path), *task, "--sound", "removed"])
    with pytest.raises(ValueError, match=r"unknown sounds \['loud'\]"):
        sound_use.main(["--output", str(tmp_path), "--sounds", "loud", *task])
    sound_use.main(["--output", str(tmp_path), "--sounds", "removed", *task])
    rows = json.loads((tmp_path / "sound_use.json").read_text())["rows"]
    assert [row["sound"] for row in rows] == ["original", "removed"]
    with pytest.raises(ValueError, match="after `--`"):
        sound_use.main(["--output", str(tmp_path)])


def one_event(label, start, end):
    """A video of 30 s with one event, and the question about it."""
    question = Question(f"{label}?", "", "spans", label=label)
    return Example(f"video of {label}", (), 30.0, (question,), (Event(start, end, label),))


def answers_of(examples, *spans):
    return [
        Answer(e.questions[0].id, e.video_id, 30.0, "", tuple(Event(s, t, "") for s, t in said))
        for e, said in zip(examples, spans)
    ]


def test_events_that_are_heard_alone_follow_the_moved_sound_and_seen_ones_stay():
    heard, loosely, ignored = (one_event(label, 10.0, 20.0) for label in sorted(sound_use.HEARD_ALONE)[:3])
    seen = one_event(sorted(sound_use.SEEN_ALONE)[0], 10.0, 20.0)
    outside, both = one_event(sorted(sound_use.HEARD_ALONE)[3], 22.0, 29.0), one_event("dog barking", 10.0, 20.0)
    examples = [heard, loosely, ignored, seen, outside, both]
    result = sound_use.score_moved(
        examples,
        original=answers_of(examples, [(10, 20)], [(0, 5)], [(11, 21)], [(10, 20)], [(22, 29)], [(10, 20)]),
        moved=answers_of(examples, [(14, 24)], [(22, 25)], [(10, 20)], [(10, 20)], [], [(10, 20)]),
        shifts={example.video_id: 4.0 for example in examples},
    )
    assert result["counts"] == {
        "audio_only_followed": 3,  # not the one that the shift moves out of its video
        "audio_only_followed@0.5": 3,
        "audio_only_found@0.5": 3,
        "visual_only_stayed": 1,
    }
    assert {name: round(value, 1) for name, value in result["values"].items()} == {
        "audio_only_followed": 66.7,
        "audio_only_followed@0.5": 33.3,
        "audio_only_found@0.5": 66.7,
        "visual_only_stayed": 100.0,
    }
    low, high = result["intervals"]["audio_only_followed"]
    assert low < 66.7 < high and result["intervals"]["visual_only_stayed"] == (100.0, 100.0)


def test_timelines_are_drawn_for_any_label_and_number_of_events(tmp_path):
    truth = [Event(0, 5, "dog $x^{$ barking"), Event(3, 9, "rain_1")]
    many = [Event(n, n, f"label {n}", n / 40) for n in range(40)]
    draw_timeline(
        tmp_path / "few.png", truth=truth, prediction=[Event(1, 4, "rain_1", None)], duration=10, title="-id"
    )
    draw_timeline(tmp_path / "many.png", truth=truth, prediction=many, duration=40, title="many")
    draw_timeline(tmp_path / "none.png", truth=truth, prediction=[], duration=10, title="none")
    for name in ("few", "many", "none"):
        assert_picture(tmp_path / f"{name}.png")


@pytest.mark.slow
def test_a_study_trains_and_evaluates(tmp_path, sentence_encoder_dir):
    """Two training steps of a random model for two variants, each evaluated on a sandbox video."""
    from dataset_builders.sandbox.world import make_world
    from train.initialize import build_tiny

    world = tmp_path / "world"
    make_world(world, num_clips=12, num_test_videos=1, num_classes=4)
    model, processor = build_tiny([row["desc"] for row in json.loads((world / "captions.json").read_text())])
    model.save_pretrained(tmp_path / "start")
    processor.save_pretrained(tmp_path / "start")
    source = {"captions_file": str(world / "captions.json"), "clips_dir": str(world / "clips"), "num_videos": 8}
    source |= {"text_encoder": str(sentence_encoder_dir), "coherence_threshold": -1.0, "media": "rendered"}
    recipe = {"datasets": [{"path": "pu_valor", "options": source}], "trainable": ["audio_adapter", "language_model"]}
    recipe |= {"output_dir": str(tmp_path / "unused"), "max_steps": 2, "per_device_train_batch_size": 1}
    recipe |= {"effective_batch_size": 1, "bf16": False, "use_cpu": True, "save_strategy": "no", "report_to": "none"}
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "stage3.yaml").write_text(yaml.safe_dump({**recipe, "gradient_checkpointing": False}))
    plan = {"title": "t", "paper": "ablation", "stages": ["stage3"], "config_from": "stage3"}
    variants = [
        {"name": "full"},
        {"name": "w/o audio", "paper": "w/o audio", "config": {"audio_interleaving_rate": 0.0}},
    ]
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({**plan, "variants": variants}))
    own = ["--plan", "plan.yaml", "--model", "start", "--recipes_dir", "recipes", "--output", "out"]
    own = [str(tmp_path / value) if not value.startswith("--") else value for value in own]
    task = [
        "--task",
        "sandbox_query",
        "--annotations",
        str(world / "annotations.json"),
        "--media-dir",
        str(world / "test"),
    ]
    study.main([*own, "--", *task, "--max-new-tokens", "4"])
    rows = json.loads((tmp_path / "out" / "study.json").read_text())["rows"]
    assert [row["variant"] for row in rows] == ["full", "w/o audio"] and all(row["num_examples"] == 1 for row in rows)
    silent = json.loads((study.Path(rows[1]["model"]) / "processor_config.json").read_text())
    assert silent["audio_interleaving_rate"] == 0.0
