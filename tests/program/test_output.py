"""Output into a pipe that closes, a full disk, a closed terminal, or a terminal that shows ASCII alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

LONG = "import sys; from pipelines.cli import main; sys.exit(main(['extract', '--help']))"
PRINTS = """
import dataclasses, sys
from teacher_cache.program.commandline import Command, run_command
@dataclasses.dataclass(frozen=True)
class Flags:
    "Print."
def prints(flags):
    for number in range(100_000):
        print("caf\\u00e9 \\udcff \\u2588", number)
    return 0
sys.exit(run_command("prog", "It prints.", {"do": Command(Flags, prints)}, sys.argv[1:]))
"""


def shell(program: str, line: str, *argv: str, **env: str) -> tuple[int, str]:
    """Run a Python program in a line of bash, as "$@"; return the exit code and the error output."""
    words = ["bash", "-c", f"set -o pipefail; {line}", "sh", sys.executable, "-c", program, *argv]
    done = subprocess.run(words, env={"PATH": "/usr/bin:/bin", **env}, capture_output=True, check=False)
    return done.returncode, done.stderr.decode()


@pytest.mark.parametrize("program", [LONG, PRINTS])
def test_a_pipe_that_closes_ends_it_without_a_word(program: str) -> None:
    assert shell(program, '"$@" | true', "do") == (141, "")  # the reader is gone before the first word


@pytest.mark.parametrize("program", [LONG, PRINTS])
def test_a_full_disk_is_told(program: str) -> None:
    code, text = shell(program, '"$@" > /dev/full', "do")
    assert code == 1
    assert "No space left on device" in text
    assert "Traceback" not in text


@pytest.mark.parametrize("program", [LONG, PRINTS])
def test_a_closed_output_stops_nothing(program: str) -> None:
    assert shell(program, '"$@" >&-', "do") == (0, "")


def test_a_terminal_that_shows_ascii_alone_gets_other_characters() -> None:
    line = '"$@" | { head -n 1; cat > /dev/null; } 1>&2'
    code, text = shell(PRINTS, line, "do", PYTHONIOENCODING="ascii")
    assert (code, text) == (0, "caf? ? ? 0\n")
