"""Reading annotation files; errors name the file."""

import gzip

import pytest

from dataset_builders.sources.annotation_files import (
    as_paths,
    fingerprint,
    read_csv,
    read_json,
    read_json_records,
    read_text,
)


def test_a_git_lfs_pointer_is_an_error_with_the_size_of_the_real_file(tmp_path):
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'4a' * 32}\nsize 147300685\n"
    (tmp_path / "fsd_final.json").write_text(pointer)
    with pytest.raises(ValueError, match=r"fsd_final\.json is a git-LFS pointer.*147300685 bytes"):
        read_json(tmp_path / "fsd_final.json")


def test_gzip_is_detected_by_content_not_by_suffix(tmp_path):
    for name, data in (("plain.gz", b"caption\n"), ("packed.txt", gzip.compress(b"caption\n"))):
        (tmp_path / name).write_bytes(data)
        assert read_text(tmp_path / name) == "caption\n"


def test_a_byte_order_mark_is_removed(tmp_path):
    (tmp_path / "a.csv").write_bytes("\ufeffid,caption\r\n1,a dog\r\n".encode())
    assert list(read_csv(tmp_path / "a.csv", columns=("id", "caption"))) == [{"id": "1", "caption": "a dog"}]


def test_a_csv_without_the_expected_column_is_an_error_that_lists_its_columns(tmp_path):
    (tmp_path / "a.csv").write_text("name,text\n1,a dog\n")
    with pytest.raises(ValueError, match=r"has the columns \['name', 'text'\], expected \['caption'\]"):
        list(read_csv(tmp_path / "a.csv", columns=("name", "caption")))


@pytest.mark.parametrize("text", ['[{"q": 1},\n {"q": 2}]', '{"q": 1}\n\n{"q": 2}'])  # no newline: QVHighlights
def test_records_are_read_from_a_json_list_and_from_json_lines(tmp_path, text):
    (tmp_path / "records.json").write_text(text)
    assert read_json_records(tmp_path / "records.json") == [{"q": 1}, {"q": 2}]


def test_broken_json_names_file_and_line(tmp_path):
    (tmp_path / "lines.json").write_text('{"q": 1}\n{"q": \n')
    with pytest.raises(ValueError, match=r"lines\.json, line 2 is not JSON"):
        read_json_records(tmp_path / "lines.json")
    with pytest.raises(ValueError, match=r"lines\.json is not JSON"):
        read_json(tmp_path / "lines.json")


def test_the_fingerprint_depends_on_the_content_of_each_file(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("ab"), two.write_text("c")
    before = fingerprint([one, two])
    one.write_text("a"), two.write_text("bc")
    assert fingerprint([one, two]) != before
    one.write_text("ab"), two.write_text("c")
    assert fingerprint([one, two]) == before


def test_as_paths_accepts_one_several_or_no_path(tmp_path):
    (tmp_path / "a").touch()
    assert as_paths(None) == [] and as_paths(str(tmp_path / "a")) == as_paths([tmp_path / "a"]) == [tmp_path / "a"]
    with pytest.raises(ValueError, match="no such annotation file"):
        as_paths([tmp_path / "a", tmp_path / "b"])
