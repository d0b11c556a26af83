"""Registration of the builders for `load_dataset`, which uses private names of `datasets`."""

import datasets
import pytest
from datasets import load_dataset

import dataset_builders
from dataset_builders import registration

from .curation_fixtures import write_captions


def test_data_files_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="takes its files from its settings"):
        load_dataset("pu_valor", data_files=str(write_captions(tmp_path / "desc.json")))


def test_other_builders_of_datasets_still_work(tmp_path):
    (tmp_path / "a.csv").write_text("x\n1\n", encoding="utf-8")
    assert load_dataset("csv", data_files=str(tmp_path / "a.csv"), split="train", cache_dir=str(tmp_path))[0] == {
        "x": 1
    }


def test_the_private_names_of_datasets_exist():
    """Fails if a new version of `datasets` moves them."""
    assert dataset_builders.register_builders()
    for name, module_path in registration.BUILDERS.items():
        assert datasets.packaged_modules._PACKAGED_DATASETS_MODULES[name][0] == module_path
    assert datasets.load.PackagedDatasetModuleFactory is registration.PackagedFactory


def test_a_version_of_datasets_without_these_names_gives_a_warning(monkeypatch):
    monkeypatch.delattr(datasets.load, "PackagedDatasetModuleFactory")
    with pytest.warns(UserWarning, match=r"PackagedDatasetModuleFactory.*pu_valor"):
        assert not dataset_builders.register_builders()
