"""Parses the options of every command and reports user errors.

The options are the fields of a dataclass, parsed by transformers' `HfArgumentParser`; each is accepted with dashes or
with underscores. The converter (`modeling_avicuna`), `eval.events` and `train/sft.py` (TRL's own parser) follow the
same convention.
"""

import logging
import signal
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn, TypeVar, get_args, get_type_hints

from safetensors import SafetensorError
from transformers import HfArgumentParser

from .workers import end_with_starter


Options = TypeVar("Options")
logger = logging.getLogger(__name__)

TORCH_WRITER = "inline_container.cc"  # in the message of the RuntimeError of `torch.save` if it cannot write


class OneLineParser(HfArgumentParser):
    """`HfArgumentParser` whose errors are one line, without the usage text, and that rejects empty values."""

    may_be_empty: frozenset[str] = frozenset()  # options that accept an empty value

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"{self.prog}: error: {message}\n")
        sys.exit(2)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Namespace | None = None
    ) -> tuple[Namespace, list[str]]:
        words = list(sys.argv[1:] if args is None else args)
        if (option := empty_option(words)) is not None and option.replace("-", "_") not in self.may_be_empty:
            self.error(f"the value of {option} is empty")
        return super().parse_known_args(words, namespace)


def empty_option(words: Sequence[str]) -> str | None:
    """The first option with an empty value, as from a shell variable that is not set, or None.

    An empty path would be the working directory.

    >>> empty_option(["--output", "a", "--files", "b", ""]), empty_option(["--output="]), empty_option(["--output"])
    ('--files', '--output', None)
    """
    option = "an argument"
    for word in words:
        if word.startswith("--"):
            option, _, value = word.partition("=")
            if value or "=" not in word:
                continue
        elif word.strip():
            continue
        return option
    return None


def parse_options(
    options_class: type[Options], arguments: Sequence[str] | None = None, *, program: str, description: str = ""
) -> Options:
    """
    Reads a command line into a dataclass.

    Args:
        options_class (`type`): dataclass; a field's help is `metadata={"help": ...}`.
        arguments (`Sequence[str]`, *optional*): the command-line arguments; `sys.argv[1:]` if not given.
        program (`str`): the command as the user enters it, for example `"python -m eval.run"`.
        description (`str`, *optional*): first line of `--help`; percent signs are taken literally.

    Raises:
        SystemExit: status 2 and one line on stderr for an unknown option or an unreadable value; status 0 for
            `--help`.
        ValueError: raised by the dataclass for an invalid value.
    """
    parser = OneLineParser(options_class, prog=program, description=description.replace("%", "%%"), allow_abbrev=False)
    accept_none(parser, options_class)
    words = list(sys.argv[1:] if arguments is None else arguments)
    unknown = parser.parse_known_args(words)[1]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    (options,) = parser.parse_args_into_dataclasses(words, look_for_args_file=False)
    return options


def accept_none(parser: HfArgumentParser, options_class: type) -> None:
    """Parses the word "none" as None for an optional number."""
    types = get_type_hints(options_class)
    for action in parser._actions:
        kind = action.type
        if kind in (int, float) and type(None) in get_args(types.get(action.dest)):

            def read(word: str, kind: type = kind) -> float | None:
                return None if word.lower() == "none" else kind(word)

            read.__name__ = kind.__name__  # shown in the error messages of argparse
            action.type = read


def exit_with(program: str, error: Exception) -> NoReturn:
    """Exits with status 2 and the message of an error as one line on stderr."""
    logger.debug("traceback of the error below", exc_info=True)
    message = " ".join(str(error).split()) or type(error).__name__
    sys.stderr.write(f"{program}: error: {message}\n")
    sys.exit(2)


@contextmanager
def one_line_errors(program: str) -> Iterator[None]:
    """
    Exits with status 2 and one line on stderr, as for an unknown option, if the body raises `ValueError`, `OSError`,
    `FloatingPointError` (a training that diverges) or what safetensors and `torch.save` raise on a full disk, whose
    messages name the invalid value or file, or if a command that it started failed and has printed why. The traceback
    goes to the log at level DEBUG. Ctrl-C exits with status 130. A command that another one started ends with it
    (`workers.end_with_starter`).

    Example:

        if __name__ == "__main__":
            with one_line_errors("python -m eval.run"):
                main()
    """
    end_with_starter()
    try:
        yield
    except (ValueError, OSError, SafetensorError, FloatingPointError, subprocess.CalledProcessError) as error:
        exit_with(program, error)
    except RuntimeError as error:
        if TORCH_WRITER not in str(error):
            raise
        exit_with(program, OSError(f"a file cannot be written, perhaps the disk is full: {error}"))
    except KeyboardInterrupt:
        sys.stderr.write(f"{program}: interrupted\n")
        sys.exit(128 + signal.SIGINT)
