"""Errors of commands are one line with status 2: empty values, a full disk."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors import SafetensorError

from dataset_builders.command_line import one_line_errors, parse_options


@dataclass
class Options:
    output: Path
    model: str | None = None
    files: list[str] | None = None


@pytest.mark.parametrize(
    "words",
    [
        ["--output", ""],
        ["--output="],
        ["--output", "a", "--model", ""],
        ["--output", "a", "--files", "", "b"],
        ["--output", "a", "--files", "b", ""],
        ["--output", " "],
    ],
)
def test_an_empty_value_is_an_error(words, capsys):
    """As from a shell variable that is not set. An empty path would be the working directory."""
    with pytest.raises(SystemExit, match="2"):
        parse_options(Options, words, program="command")
    assert "is empty" in capsys.readouterr().err


@pytest.mark.parametrize("error", [ValueError, OSError, SafetensorError])
def test_an_error_of_the_user_or_of_the_disk_is_one_line(error, capsys):
    with pytest.raises(SystemExit, match="2"), one_line_errors("python -m command"):
        raise error("No space left\non device")
    assert capsys.readouterr().err == "python -m command: error: No space left on device\n"


def test_a_failed_command_that_another_one_started_is_one_line(capsys):
    with pytest.raises(SystemExit, match="2"), one_line_errors("python -m command"):
        subprocess.run([sys.executable, "-c", "raise SystemExit(3)"], check=True)
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "raise SystemExit(3)" in message and "exit status 3" in message
