"""Finding media by the names that annotations use."""

import pytest

from dataset_builders.release.curation_report import CurationReport
from dataset_builders.sources.media_folder import MediaFolder


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


def test_the_first_spelling_that_is_there_wins(folder):
    assert MediaFolder(folder).find(["v_def", "def", "x"]) == str(folder / "parts/def.webm")


def test_without_a_folder_rows_carry_bare_names_whose_stem_is_the_id():
    media = MediaFolder(None)
    assert media.find(["-abc_10.000_20.000"]) == "-abc_10.000_20.000.mp4"
    assert media.find(["flickr_1.mov"]) == "flickr_1.mov" and media.find(["flickr_1."]) == "flickr_1.mp4"
    media.check(max_missing=0.0)


def test_missing_media_are_dropped_with_all_their_records_and_too_many_are_an_error(folder):
    media, report = MediaFolder(folder), CurationReport()
    assert media.find_or_drop(["gone", "lost"], source="avsd", report=report, num=7) is None
    assert media.find_or_drop(["x"], source="avsd", report=report) is not None
    assert report.counts()["avsd"]["dropped"] == {"missing_media": 7}
    media.check(max_missing=0.5)
    with pytest.raises(ValueError, match=r"1 of 2 media files are missing.*\['gone'\]"):
        media.check(max_missing=0.49)


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no such media folder"):
        MediaFolder(tmp_path / "absent")
