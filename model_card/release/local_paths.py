r"""Finds local paths in texts to be published, and reduces them to file names.

The roots below are those of desktops and clusters. The home, working and temporary folders of this process count too.

>>> shorten_paths('{"file": "/home/me/train.csv", "url": "https://host/data/x", "other": "D:\\\\runs\\\\a.json"}')
'{"file": "train.csv", "url": "https://host/data/x", "other": "a.json"}'
>>> find_local_path("trained in /gpfs/group/run3, see https://host/home/page")
'/gpfs/group/run3'
"""

import re
import tempfile
from pathlib import Path, PurePosixPath, PureWindowsPath


ROOTS = (
    "Users Volumes cluster content data datasets efs export fsx gpfs home kaggle lustre media mnt net nfs opt private "
    "proj project projects root run scratch srv storage tmp var work workspace"
).split()
TAIL = r"[^\s\"'`)<>]*[^\s\"'`)<>,.;:]"  # a path ends before a space, a quote, a bracket or the end of a sentence


def local_path_pattern() -> re.Pattern:
    """Matches absolute paths, but not parts of URLs, Jinja or Markdown."""
    own = {Path.home(), Path.cwd(), Path(tempfile.gettempdir())} - {Path("/")}
    begin = "|".join([*(re.escape(str(path)) for path in sorted(own)), f"/(?:{'|'.join(ROOTS)})"])
    windows = r"[A-Za-z]:\\{1,2}[\w .-]+\\" + TAIL
    return re.compile(rf"(?<![\w:/.<~-])(?:(?:{begin})/{TAIL}|{windows})|(?<!\w)file://{TAIL}")


def find_local_path(text: str) -> str | None:
    """The first local path in a text, or None."""
    found = local_path_pattern().search(text)
    return found and found.group(0)


def shorten_paths(text: str) -> str:
    """The text with each local path replaced by its file name."""

    def file_name(found: re.Match) -> str:
        path = found.group(0)
        is_windows = "\\" in path
        return PureWindowsPath(path.replace("\\\\", "\\")).name if is_windows else PurePosixPath(path).name

    return local_path_pattern().sub(file_name, text)
