r"""Places of one machine in texts that go out: found, and cut down to file names.

A release names files, never where they lay. The roots below are those of desktops and clusters; the folders that this
process stands in count whatever they are called.

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
TAIL = r"[^\s\"'`)<>]*[^\s\"'`)<>,.;:]"  # a path ends before a space, a quote, a bracket, a sentence's end


def local_path_pattern() -> re.Pattern:
    """A path from the root of a disk, and no tail of a URL, jinja or markdown fragment."""
    own = {Path.home(), Path.cwd(), Path(tempfile.gettempdir())} - {Path("/")}
    begin = "|".join([*(re.escape(str(path)) for path in sorted(own)), f"/(?:{'|'.join(ROOTS)})"])
    windows = r"[A-Za-z]:\\{1,2}[\w .-]+\\" + TAIL
    return re.compile(rf"(?<![\w:/.<~-])(?:(?:{begin})/{TAIL}|{windows})|(?<!\w)file://{TAIL}")


def find_local_path(text: str) -> str | None:
    """The first path of a machine in a text, or None."""
    found = local_path_pattern().search(text)
    return found and found.group(0)


def shorten_paths(text: str) -> str:
    """The text with each path of a machine cut down to the file's name."""

    def file_name(found: re.Match) -> str:
        path = found.group(0)
        is_windows = "\\" in path
        return PureWindowsPath(path.replace("\\\\", "\\")).name if is_windows else PurePosixPath(path).name

    return local_path_pattern().sub(file_name, text)
