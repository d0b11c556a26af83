"""Facts of both dataset cards: file sizes, size categories of the Hub, the licence file."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataset_builders.release.card_facts import (
    add_sizes,
    licences_of,
    local_name,
    measure_parquet,
    size_category,
    write_card_files,
)


CARD = "---\nlicense_link: LICENSE.md\n---\n\n## Use\n\nAny.\n\n## Licences\n\nNone.\n"


@pytest.mark.parametrize(
    ("num_rows", "category"),
    [
        (0, "n<1K"),
        (999, "n<1K"),
        (1000, "1K<n<10K"),
        (114_081, "100K<n<1M"),
        (5_000_000, "1M<n<10M"),
        (10**7, "10M<n<100M"),
    ],
)
def test_a_size_category_includes_its_lower_bound(num_rows, category):
    assert size_category(num_rows) == category


def test_a_file_is_measured_on_disk_and_in_memory(tmp_path):
    table = pa.table({"seconds": [1.0, 2.0, 3.0]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    size = measure_parquet(tmp_path / "a.parquet")
    assert size["file_bytes"] == (tmp_path / "a.parquet").stat().st_size
    assert 0 <= size["num_bytes"] - 3 * 8 <= 2  # the validity bitmap
    assert add_sizes([size, size]) == {name: 2 * value for name, value in size.items()}


def test_the_licence_section_is_written_to_the_licence_file(tmp_path):
    write_card_files(tmp_path, CARD)
    assert (tmp_path / "README.md").read_text() == CARD
    assert (tmp_path / "LICENSE.md").read_text() == "# Licences\n\nNone.\n"
    (tmp_path / "other").mkdir()
    write_card_files(tmp_path / "other", "---\nlicense: mit\n---\n")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["README.md"]
    with pytest.raises(ValueError, match="no section"):
        licences_of("# Title\n")


def test_a_folder_is_named_relative_to_its_parent(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert local_name(tmp_path / "pu_valor") == local_name("pu_valor") == "./pu_valor"
    assert local_name(".") == f"./{tmp_path.name}"
