"""A5-222K as a folder: Parquet that loads without the project, and a card whose numbers are in the report."""

import json

import pytest

from dataset_builders import build
from dataset_builders.a5_222k import A5222KConfig
from dataset_builders.command_line import parse_options
from dataset_builders.release import a5_222k_folder
from dataset_builders.release.a5_222k_card import card_text
from dataset_builders.release.a5_222k_folder import write_folder
from tests.curation_fixtures import make_captions


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Clotho with 60 files, four of them in its test set, and WavCaps with 40 sounds, one too long, one repeated."""
    folder = tmp_path_factory.mktemp("sources")
    texts = [record["desc"] for record in make_captions(340)]
    header = "file_name,caption_1,caption_2,caption_3,caption_4,caption_5\n"
    rows = [",".join([f"clip {n}.wav", *texts[5 * n : 5 * n + 5]]) + "\n" for n in range(60)]
    (folder / "val.csv").write_text(header + "".join(rows), encoding="utf-8")
    (folder / "test.csv").write_text(header + "".join(rows[-4:]), encoding="utf-8")
    sounds = [
        {"id": str(n), "caption": text, "duration": 9.5, "download_link": f"http://soundbible.com/grab.php?id={n}"}
        for n, text in enumerate([*texts[300:339], texts[0]])
    ]
    sounds[3]["duration"] = 2400.0
    (folder / "sb_final.json").write_text(json.dumps({"data": sounds}), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def release(sources, tmp_path_factory):
    config = A5222KConfig(
        clotho_file=str(sources / "val.csv"),
        wavcaps_file=str(sources / "sb_final.json"),
        exclude_clotho_file=[str(sources / "test.csv")],
        num_pairs=150,
    )
    return write_folder(config, tmp_path_factory.mktemp("release") / "a5")


def test_the_rows_of_one_file_are_in_memory_at_a_time(sources, tmp_path, monkeypatch):
    made, written = [], []
    pair_row, write_parquet = a5_222k_folder.pair_row, a5_222k_folder.write_parquet

    def write(table, path):
        written.append((len(table), len(made)))
        write_parquet(table, path)

    monkeypatch.setattr(a5_222k_folder, "ROWS_PER_FILE", 60)
    monkeypatch.setattr(a5_222k_folder, "pair_row", lambda *args, **seed: made.append(0) or pair_row(*args, **seed))
    monkeypatch.setattr(a5_222k_folder, "write_parquet", write)
    folder = write_folder(A5222KConfig(clotho_file=str(sources / "val.csv"), num_pairs=150), tmp_path / "a5")
    assert written == [(60, 60), (60, 120), (30, 150)]
    assert sorted(path.name for path in (folder / "data").iterdir()) == [
        f"train-{n:05d}-of-00003.parquet" for n in range(3)
    ]


def test_every_number_of_the_card_is_in_the_report(release):
    card, report = (release / "README.md").read_text(), json.loads((release / "report.json").read_text())
    mix = report["settings"]["mix"]
    assert sum(row["taken"] for row in mix.values()) == 150 and "\n150 pairs of a sound" in card
    assert report["sources"]["clotho"]["dropped"]["in_test_set"] == 20
    assert report["sources"]["wavcaps"]["dropped"].items() >= {"audio_too_long": 1, "duplicate_text": 1}.items()
    for source, row in mix.items():
        numbers = [
            f"{num:,}" for num in (report["sources"][source]["read"], row["usable"], row["target"], row["taken"])
        ]
        (line,) = [line for line in card.splitlines() if line.startswith(f"| `{source}` |")]
        assert line.endswith(f"| {' | '.join(numbers)} |")
        for reason, num in report["sources"][source]["dropped"].items():
            assert f"| {source} | {reason} | {num:,} |" in card
    assert "clotho (`test.csv`)" in card and "our choices" in card and "222,000" in card
    assert "{{" not in card and "audiocaps" not in card.split("## Sources")[1].split("The paper")[0]
    assert card.index("| `clotho` |") < card.index("| `wavcaps` |")  # a sound in both sources belongs to the first
    assert "Pairs dropped by this check: 20." in card


def test_a_failed_build_writes_nothing(release, tmp_path):
    with pytest.raises(ValueError, match="exists: choose a new folder"):
        write_folder(A5222KConfig(), release)
    with pytest.raises(ValueError, match="needs a source"):
        write_folder(A5222KConfig(), tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert sorted(path.name for path in release.iterdir()) == [
        *("LICENSE.md", "README.md", "data", "dropped.jsonl", "report.json")
    ]


def test_the_same_settings_give_the_same_bytes(release, tmp_path):
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


def test_the_command_builds_the_set_and_names_wrong_values(sources, tmp_path, capsys):
    path = str(sources / "val.csv")
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
