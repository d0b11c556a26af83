"""How every command reads its options and reports a user's mistake.

A dataclass declares the options and transformers' `HfArgumentParser` reads them, so each one is accepted with dashes and
with underscores. The converter (`modeling_avicuna`) and `train/sft.py` (TRL's own parser) follow the same convention.
"""

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn, TypeVar

from transformers import HfArgumentParser


Options = TypeVar("Options")
logger = logging.getLogger(__name__)


class OneLineParser(HfArgumentParser):
    """`HfArgumentParser` whose errors are one line, without the usage text."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def parse_options(
    options_class: type[Options], arguments: Sequence[str] | None = None, *, program: str, description: str = ""
) -> Options:
    """
    Reads a command line into a dataclass.

    Args:
        options_class (`type`): dataclass; a field's help is `metadata={"help": ...}`.
        arguments (`Sequence[str]`, *optional*): the words of the command line; `sys.argv[1:]` if not given.
        program (`str`): the command as a user types it, for example `"python -m eval.run"`.
        description (`str`, *optional*): first line of `--help`; percent signs are taken literally.

    Raises:
        SystemExit: status 2 and one line on stderr for an unknown option or an unreadable value; status 0 for `--help`.
        ValueError: raised by the dataclass itself for a value that it refuses.
    """
    parser = OneLineParser(options_class, prog=program, description=description.replace("%", "%%"), allow_abbrev=False)
    words = list(sys.argv[1:] if arguments is None else arguments)
    options, unknown = parser.parse_args_into_dataclasses(
        words, look_for_args_file=False, return_remaining_strings=True
    )
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return options


def check_at_least(options: object, minimum: float, *names: str):
    """
    Refuses numbers that are too small; for the `__post_init__` of an options class. Values of None are not checked.

    Raises:
        ValueError: a field of `names` is below `minimum`, or not a number; the message names the option and its value.
    """
    for name in names:
        value = getattr(options, name)
        if value is not None and not value >= minimum:
            raise ValueError(f"--{name.replace('_', '-')} must be at least {minimum:g}, got {value}")


@contextmanager
def one_line_errors(program: str) -> Iterator[None]:
    """
    Ends the process with status 1 and one line on stderr where the body raises `ValueError` or `OSError`: these name a
    wrong value or file. The traceback goes to the log at level DEBUG.

    Example:

        if __name__ == "__main__":
            with one_line_errors("python -m eval.run"):
                main()
    """
    try:
        yield
    except (ValueError, OSError) as error:
        logger.debug("traceback of the error below", exc_info=True)
        message = " ".join(str(error).split()) or type(error).__name__
        sys.exit(f"{program}: error: {message}")
