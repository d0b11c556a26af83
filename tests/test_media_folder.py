"""Lookup of media files by the names in annotations."""

import unicodedata

import pytest

from dataset_builders.sources.media_folder import MediaFolder, list_files
from dataset_builders.sources.record_report import RecordReport
from dataset_builders.sources.records import UnusableRecord, count_drop


@pytest.fixture
def folder(tmp_path):
    for name in ("-abc_10.000_20.000.mp4", "parts/def.webm", "Santa Motor.wav", "00453/0045.jpg", "x.mov"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"-")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("-abc_10.000_20.000", "-abc_10.000_20.000.mp4"),
        ("-abc_10.000_20.000.mp4", "-abc_10.000_20.000.mp4"),
        ("def", "parts/def.webm"),
        ("def.mp4", "parts/def.webm"),
        ("00453/0045.jpg", "00453/0045.jpg"),
        ("Santa Motor.wav", "Santa Motor.wav"),
        ("x.", "x.mov"),
    ],
)
def test_media_are_found_by_path_name_and_stem(folder, name, found):
    kind = {".jpg": "image", ".wav": "audio"}.get(found[-4:], "video")
    assert MediaFolder(folder, kind=kind).find([name]) == str(folder / found)


def test_the_first_existing_name_is_used(folder):
    assert MediaFolder(folder).find(["v_def", "def", "x"]) == str(folder / "parts/def.webm")


def test_names_without_a_folder_have_the_id_as_stem():
    media = MediaFolder(None)
    assert media.find(["-abc_10.000_20.000"]) == "-abc_10.000_20.000.mp4"
    assert media.find(["flickr_1.mov"]) == "flickr_1.mov" and media.find(["flickr_1."]) == "flickr_1.mp4"
    media.check(max_missing=0.0)


def test_missing_media_are_dropped_and_too_many_are_an_error(folder):
    media, report = MediaFolder(folder), RecordReport()
    for names, num in ((["gone", "lost"], 7), (["x"], 1)):
        with count_drop(report, "avsd", names[0], num=num):
            media.find(names)
    assert report.counts()["avsd"]["dropped"] == {"missing_media": 7}
    media.check(max_missing=0.5)
    with pytest.raises(ValueError, match=r"1 of 2 media files are missing.*\['gone'\]"):
        media.check(max_missing=0.49)


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no such media folder"):
        MediaFolder(tmp_path / "absent")


def fill(folder, *names, data=b"-"):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize(
    ("kind", "others", "medium"),
    [
        ("video", ("v_a.json", "v_a.jpg", "v_a.wav", "v_a.npy", "v_a.info.json", "v_a"), "v_a.mp4"),
        ("video", ("v_a.txt",), "sub/deeper/v_a.TS"),
        ("audio", ("v_a.json", "v_a.png"), "v_a.flac"),
        ("audio", ("v_a.txt",), "v_a.mp4"),
        ("image", ("v_a.json", "v_a.mp4", "v_a.wav"), "v_a.webp"),
    ],
)
@pytest.mark.parametrize("name", ["v_a", "v_a.mp4", "v_a.MKV"])
def test_files_of_other_kinds_are_ignored(tmp_path, kind, others, medium, name):
    fill(tmp_path, *others, medium)
    assert MediaFolder(tmp_path, kind=kind).locate([name]) == str(tmp_path / medium)


@pytest.mark.parametrize("stored", ["NFC", "NFD"])
@pytest.mark.parametrize("asked", ["NFC", "NFD"])
def test_names_are_found_in_both_unicode_normal_forms(tmp_path, stored, asked):
    path = tmp_path / unicodedata.normalize(stored, "caf\u00e9 \uac00.mp4")
    fill(tmp_path, path.name)
    assert MediaFolder(tmp_path).locate([unicodedata.normalize(asked, "caf\u00e9 \uac00")]) == str(path)


def test_an_empty_file_is_unreadable(tmp_path):
    fill(tmp_path, "v_a.mp4", "sub/v_b.mp4", data=b"")
    fill(tmp_path, "parts/v_a.webm")
    media = MediaFolder(tmp_path)
    assert media.locate(["v_a"]) == str(tmp_path / "parts/v_a.webm") and media.locate(["v_b"]) is None
    with pytest.raises(UnusableRecord, match="v_b.mp4") as unusable:
        media.find(["v_b"])
    assert unusable.value.reason == "unreadable_media" and media.missing == []


def test_of_two_files_with_one_name_the_one_in_the_upper_folder_is_used_unless_a_path_is_given(tmp_path):
    fill(tmp_path, "v_a.mp4", "low/v_a.mp4", "cats/001.mp4")
    fill(tmp_path, "dogs/001.mp4", data=b"--")
    media = MediaFolder(tmp_path)
    assert media.locate(["v_a"]) == str(tmp_path / "v_a.mp4")
    assert media.locate(["dogs/001"]) == media.locate(["dogs/001.mp4"]) == str(tmp_path / "dogs/001.mp4")
    with pytest.raises(ValueError, match=r"'001' is in .*cats/001\.mp4 and in .*dogs/001\.mp4"):
        media.locate(["001"])


def test_links_to_a_parent_folder_are_not_followed(tmp_path):
    fill(tmp_path, "sub/v_a.mp4")
    for number in range(3):
        (tmp_path / "sub" / f"loop{number}").symlink_to(tmp_path, target_is_directory=True)
    assert list(list_files(tmp_path)) == [str(tmp_path / "sub/v_a.mp4")]
    assert MediaFolder(tmp_path).locate(["v_a"]) == str(tmp_path / "sub/v_a.mp4")
