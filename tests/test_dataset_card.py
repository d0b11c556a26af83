"""The dataset cards: numbers from the report, a YAML block that `datasets` reads, and code that runs."""

import ast
import copy
import fnmatch
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCard

from dataset_builders.a5_222k import A5222KConfig
from dataset_builders.release import a5_222k_card, pu_valor_card
from dataset_builders.release.a5_222k_folder import write_folder
from dataset_builders.release.pu_valor_folder import build_folder
from dataset_builders.schema import FEATURES

from .curation_fixtures import make_captions, quick_settings


RELEASE = Path(pu_valor_card.__file__).parent
TEMPLATES = ("pu_valor_card_template.md", "a5_222k_card_template.md")
SECTIONS = ("Use", "Dropped records", "Environment", "Intended use and limits", "Licences", "Citation")
# names with digits; the prose of a template has no other digit
NAMES = re.compile(
    r"PU-VALOR|VALOR-32K|UnAV-100|A5-222K|\"about 222K\"|AAAI 2025|2403\.16276|CC BY(-NC)? 4\.0|Apache-2\.0|GPL-3\.0"
    r"|mp4|`<[se]0>`|its figure shows 4 to 6|`T[123]`|https?://[^\s)]+"
)
# numbers of the report that the card does not show
UNSHOWN = {
    "pu_valor": r"settings\.splits\.\w+\.(clips_per_video\..*|clusters\.(num_too_small|sizes\.1)|coherence_threshold"
    r"|duration_seconds\.median|num_videos|scale\..*|uses_of_a_clip\.(min|median))",
    "a5_222k": r"settings\.max_missing|sources\.\w+\.kept|settings\.target_mix\.captions",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A build of each dataset in one folder; PU-VALOR has two splits with several shards."""
    root = tmp_path_factory.mktemp("cards")
    records = [
        {**record, "split": "val" if number % 3 else "train"} for number, record in enumerate(make_captions(60))
    ]
    (root / "desc.json").write_text(json.dumps(records), encoding="utf-8")
    build_folder(quick_settings(root / "desc.json", videos_per_shard=9), root / "pu_valor")
    config = A5222KConfig(captions_file=str(root / "desc.json"), num_pairs=41)
    write_folder(config, root / "a5_222k")
    return {name: root / name for name in ("pu_valor", "a5_222k")}


def card_text(name: str, report: dict) -> str:
    module = {"pu_valor": pu_valor_card, "a5_222k": a5_222k_card}[name]
    return module.card_text(report, name=f"user/{name}")


def read_report(folder) -> dict:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def full_report(name: str, folder) -> dict:
    """The report of a small build, with additional counts of a larger build."""
    report = read_report(folder)
    if name == "pu_valor":
        report["settings"]["excluded_ids"] = {"in_file": 4321, "hit": 765}
        for facts in report["settings"]["splits"].values():
            facts["clusters"] |= {"sizes": [1357, 2468, 3579], "mean_cosine": 0.424, "random_mean_cosine": 0.171}
            facts["rejected_plans"] = {"ambiguous": 2931}
        report["sources"]["captions"]["dropped"] = {"excluded_id": 5609}
    else:
        report["settings"] |= {"exclude_ids_file": "/data/held_out.txt"}
        report["sources"]["captions"]["dropped"] |= {"in_test_set": 4983}
    return report


def numbers_of(value, path: str = "") -> Iterator[tuple[str, float]]:
    """Each number of a report with its path."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from numbers_of(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, value


def replaced(report: dict, path: str, value: float) -> dict:
    changed = copy.deepcopy(report)
    *outer, last = path.split(".")
    place = changed
    for key in outer:
        place = place[int(key) if isinstance(place, list) else key]
    place[int(last) if isinstance(place, list) else last] = value
    return changed


def prose_of(card: str) -> str:
    """A card without its YAML block and its code."""
    return re.sub(r"```.*?```", "", card.split("\n---\n", 1)[1], flags=re.DOTALL)


@pytest.mark.parametrize("name", ["pu_valor", "a5_222k"])
def test_the_card_changes_with_each_number_of_the_report(name, folders):
    report = full_report(name, folders[name])
    before = card_text(name, report)
    numbers = [(path, value) for path, value in numbers_of(report) if not re.fullmatch(UNSHOWN[name], path)]
    assert len(numbers) > 15
    for path, value in numbers:
        assert card_text(name, replaced(report, path, value * 3 + 11)) != before, path


@pytest.mark.parametrize("name", ["pu_valor", "a5_222k"])
def test_every_number_of_the_card_comes_from_the_report(name, folders):
    report = full_report(name, folders[name])
    counted = [value for _, value in numbers_of(report)]
    sums = [sum(report.get("num_rows", {}).values()), sum(size["num_bytes"] for size in report["sizes"].values())]
    sums += [sum(size["file_bytes"] for size in report["sizes"].values())]
    if name == "a5_222k":
        sums += [sum(num for source, num in report["settings"]["target_mix"].items() if source != "captions")]
    known = {
        text for value in counted + sums for text in (f"{value:,}", f"{value:,.1f}", f"{value:.3f}", f"{value:.0f}")
    }
    known |= {count for facts in report["settings"].get("splits", {}).values() for count in facts["clips_per_video"]}
    text = prose_of(card_text(name, report))
    # hashes, versions, file names and settings are text of the report
    text = re.sub(r"[0-9a-f]{16,}|(?<=\w )\d+(\.\d+)+|(?<=`)[^`]*(?=` \|)", "", NAMES.sub("", text))
    found = re.findall(r"\d[\d,]*(?:\.\d+)?", text)
    assert len(found) > 10 and [number for number in found if number not in known] == []


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_has_no_number(name):
    text = (RELEASE / name).read_text(encoding="utf-8")
    prose = NAMES.sub("", re.sub(r"\{\{.*?\}\}|\{%.*?%\}", "", re.sub(r"```.*?```", "", text, flags=re.DOTALL)))
    assert re.findall(r".*\d.*", prose) == []


def test_the_installed_distribution_contains_the_templates(project_dir):
    calls = ast.walk(ast.parse((project_dir / "setup.py").read_text(encoding="utf-8")))
    words = next(
        node.keywords for node in calls if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setup"
    )
    (patterns,) = ast.literal_eval(next(word.value for word in words if word.arg == "package_data")).values()
    others = {path.name for path in RELEASE.iterdir() if path.is_file() and path.suffix != ".py"}
    assert others == set(TEMPLATES)
    assert all(any(fnmatch.fnmatch(name, pattern) for pattern in patterns) for name in others)


@pytest.mark.parametrize("name", ["pu_valor", "a5_222k"])
def test_the_card_has_all_sections_and_a_licence_file(name, folders):
    card = (folders[name] / "README.md").read_text(encoding="utf-8")
    for section in SECTIONS:
        assert re.search(rf"^##+ {section}\n\n.", card, re.MULTILINE), section
    assert "{{" not in card and "{%" not in card and "\n\n\n" not in card
    assert "never the media" in card and "Leak check: not run" in card and "@inproceedings" in card
    assert ("not rendered" if name == "pu_valor" else "not included") in card
    assert not re.findall(r"<\w+>", re.sub(r"`[^`\n]*`", "", prose_of(card)))  # Markdown renders them as HTML
    data = DatasetCard(card).data
    assert (data.license, data.license_link) == ("other", "LICENSE.md") and data.license_name
    licences = (folders[name] / "LICENSE.md").read_text(encoding="utf-8")
    assert licences.startswith("# Licences\n\n") and f"\n#{licences}\n## " in card


@pytest.mark.parametrize("name", ["pu_valor", "a5_222k"])
def test_the_yaml_block_has_the_counts_that_datasets_computes(name, folders, tmp_path):
    folder = folders[name]
    data = DatasetCard.load(folder / "README.md").data
    info = DatasetInfosDict.from_dataset_card_data(data)["default"]
    assert info.features == FEATURES and (data.language, data.size_categories) == ("en", ["n<1K"])
    files = list((folder / "data").iterdir())
    assert info.download_size == sum(path.stat().st_size for path in files)
    # without the card `datasets` counts the rows
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "data").symlink_to(folder / "data")
    loaded = datasets.load_dataset(str(tmp_path / "bare"), cache_dir=str(tmp_path / "cache"))
    counted = {split: rows.info.splits[split] for split, rows in loaded.items()}
    assert {split: (size.num_examples, size.num_bytes) for split, size in info.splits.items()} == {
        split: (size.num_examples, size.num_bytes) for split, size in counted.items()
    }
    assert info.dataset_size == sum(size.num_bytes for size in counted.values())
    again = DatasetCard(f"---\n{data.to_yaml()}\n---\n").data
    assert again.to_dict() == data.to_dict()


@pytest.mark.parametrize("name", ["pu_valor", "a5_222k"])
def test_the_code_of_the_card_runs_without_the_project(name, folders, tmp_path):
    sample = (folders[name] / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    streamed = re.sub(r'"\)(?=  # or streaming)', '", streaming=True)', sample)
    assert streamed != sample
    environment = {**os.environ, "PYTHONPATH": "", "HF_DATASETS_CACHE": str(tmp_path)}
    guard = "\nimport sys\nassert not [name for name in sys.modules if name.startswith('dataset_builders')]\n"
    guard += "sys.stdout.flush()\nimport os\nos._exit(0)  # threads of a partly read stream may abort a normal exit\n"
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"{sample}\nprint('streamed:')\n{streamed}\n{guard}"],
        cwd=folders[name].parent,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    printed, printed_of_stream = done.stdout.split("streamed:\n")
    assert printed == printed_of_stream and "user: " in printed and "assistant: " in printed
    assert not re.search(r"<[se]\d+>", printed)


@pytest.mark.parametrize("name", ["pu_valor", "a5_222k"])
def test_facts_missing_from_an_older_report_are_not_recorded(name, folders):
    report = read_report(folders[name])
    del report["sizes"], report["environments"]
    card = card_text(name, report)
    assert "size in bytes not recorded" in card and "\n* not recorded\n" in card
    data = DatasetCard(card).data
    assert "dataset_info" not in data and data.configs[0]["data_files"][0]["split"] == "train"


def test_measurements_that_were_not_run_are_marked(folders):
    """Without a sentence encoder there are no cosines, without excluded ids no leak check."""
    row = next(
        line for line in card_text("pu_valor", read_report(folders["pu_valor"])).split("\n") if "not run" in line
    )
    assert row.startswith("| train | 1 | 20 to 20 | not run | none |")
    card = card_text("pu_valor", full_report("pu_valor", folders["pu_valor"]))
    assert "| 0.424 / 0.171 | ambiguous 2,931 |" in card and "not run" not in card
    assert "of 4,321 ids to exclude, 765 were among the clips" in card
    card = card_text("a5_222k", full_report("a5_222k", folders["a5_222k"]))
    assert "excluded: ids (`held_out.txt`). Pairs dropped by this check: 4,983." in card


def test_the_cards_have_no_local_paths(folders):
    for name, folder in folders.items():
        for text in ((folder / "README.md").read_text(encoding="utf-8"), card_text(name, read_report(folder))):
            assert str(folder.parent) not in text
    assert 'load_dataset("./pu_valor", split="train")' in (folders["pu_valor"] / "README.md").read_text(
        encoding="utf-8"
    )
