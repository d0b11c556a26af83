"""Local paths of any machine are found in text, and other text is not mistaken for a path."""

from pathlib import Path

import pytest

from model_card.release.local_paths import find_local_path, shorten_paths


@pytest.mark.parametrize(
    "path",
    [
        "/home/me/run",
        "/root/x",
        "/mnt/disk/run 1",
        "/gpfs/group/me/ckpt",
        "/lustre/a/b",
        "/workspace/avicuna",
        "/Users/me/avicuna",
        "C:\\Users\\me\\run",
        r"D:\data\run",
        "file:///srv/models/x",
        str(Path.cwd() / "outputs"),
        str(Path.home() / "outputs"),
    ],
)
def test_a_local_path_is_found_and_shortened_to_its_last_name(path):
    for text in (f"trained in {path}.", f'{{"data": "{path}"}}', f"({path})"):
        assert find_local_path(text) is not None
        assert find_local_path(shorten_paths(text)) is None


@pytest.mark.parametrize(
    "text",
    [
        "see https://huggingface.co/data/x and http://127.0.0.1:80/home/x",
        "{% if x %}</s>{% endif %}",
        "`train/sft.py`",
        "a/tmp/b is relative",
        "Q:\nA:\n",
        "and/or; 1/100 of the length; 75 / 25",
        "data/train-*.parquet",
    ],
)
def test_urls_and_relative_paths_are_not_local_paths(text):
    assert find_local_path(text) is None
    assert shorten_paths(text) == text


def test_remote_code_and_templates_have_no_local_path(project_dir):
    for path in [*(project_dir / "model_card").glob("*.md"), *(project_dir / "modeling_avicuna").glob("[!o]*.py")]:
        assert find_local_path(path.read_text(encoding="utf-8")) is None, path.name
