"""A5-222K as a folder: Parquet that loads without the project, and a card whose numbers are in the report."""

import json

import pytest

from dataset_builders import build
from dataset_builders.a5_222k import A5222KConfig
from dataset_builders.command_line import parse_options
from dataset_builders.release.a5_222k_card import card_text
from dataset_builders.release.a5_222k_folder import write_folder


@pytest.fixture(scope="module")
def release(data_dir, tmp_path_factory):
    config = A5222KConfig(
        clotho_file=str(data_dir / "clotho" / "val.csv.gz"),
        wavcaps_file=str(data_dir / "wavcaps" / "sb_final.json.gz"),
        exclude_clotho_file=[str(data_dir / "clotho" / "test.csv.gz")],
        num_pairs=900,
    )
    return write_folder(config, tmp_path_factory.mktemp("release") / "a5")


def test_every_number_of_the_card_is_in_the_report(release):
    card, report = (release / "README.md").read_text(), json.loads((release / "report.json").read_text())
    mix = report["settings"]["mix"]
    assert sum(row["taken"] for row in mix.values()) == 900 and "\n900 pairs of a sound" in card
    for source, row in mix.items():
        numbers = [
            f"{num:,}" for num in (report["sources"][source]["read"], row["usable"], row["target"], row["taken"])
        ]
        (line,) = [line for line in card.splitlines() if line.startswith(f"| `{source}` |")]
        assert line.endswith(f"| {' | '.join(numbers)} |")
        for reason, num in report["sources"][source]["dropped"].items():
            assert f"| {source} | {reason} | {num:,} |" in card
    assert "clotho (`test.csv.gz`)" in card and "our choices" in card and "222,000" in card
    assert "{{" not in card and "audiocaps" not in card.split("## Sources")[1].split("The paper")[0]
    assert card.index("| `clotho` |") < card.index("| `wavcaps` |")  # a sound in both sources belongs to the first
    held_out = report["sources"]["clotho"]["dropped"].get("in_test_set", 0)
    assert f"Pairs dropped by this check: {held_out}." in card


def test_a_failed_build_writes_nothing(release, tmp_path):
    with pytest.raises(ValueError, match="exists: choose a new folder"):
        write_folder(A5222KConfig(), release)
    with pytest.raises(ValueError, match="needs a source"):
        write_folder(A5222KConfig(), tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert sorted(path.name for path in release.iterdir()) == [
        *("LICENSE.md", "README.md", "data", "dropped.jsonl", "report.json")
    ]


def test_the_same_settings_give_the_same_bytes(release, data_dir, tmp_path):
    settings = json.loads((release / "report.json").read_text())["settings"]
    config = A5222KConfig(**{name: value for name, value in settings.items() if name not in ("mix", "target_mix")})
    again = write_folder(config, tmp_path / "a5")
    for path in release.rglob("*"):
        if path.is_file():
            assert (again / path.relative_to(release)).read_bytes() == path.read_bytes()


def test_each_setting_is_an_option_of_the_command():
    arguments = "--output out --clotho_file a b --max_duration none --num_pairs 12 --max_missing 0.5".split()
    options = parse_options(build.A5222KOptions, arguments, program="build")
    assert (options.clotho_file, options.max_duration, options.num_pairs) == (["a", "b"], None, 12)
    assert options.max_missing == 0.5 and options.output == "out" and options.min_words == A5222KConfig().min_words


def test_the_command_builds_the_set_and_names_wrong_values(data_dir, tmp_path, capsys):
    path = str(data_dir / "clotho" / "val.csv.gz")
    build.main(["--builder", "a5_222k", "--clotho-file", path, "--num-pairs", "30", "--output", str(tmp_path / "a5")])
    assert "{'train': 30} rows" in capsys.readouterr().out
    with pytest.raises(ValueError, match="--builder must be one of .*, got 'a6'"):
        build.main(["--builder", "a6", "--output", "x"])
    with pytest.raises(ValueError, match="a5_222k needs a source"):
        build.main(["--builder=a5_222k", "--output", str(tmp_path / "none")])


def test_the_card_of_a_build_without_limits_and_evaluation_sets(release):
    report = json.loads((release / "report.json").read_text())
    report["settings"] |= {"max_duration": None, "num_pairs": None, "exclude_clotho_file": None}
    card = card_text(report, name="me/a5")
    assert "in seconds: no limit was set" in card and "Leak check: not run" in card
    assert 'load_dataset("me/a5"' in card and "requested: all" in card
