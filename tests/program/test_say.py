"""Text from elsewhere on a terminal: shown, never obeyed; one module prints."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.cli import main
from teacher_cache.errors import InputError, printable
from teacher_cache.exact.canonical import seal, unseal
from teacher_cache.program.progress import console

ROOT = Path(__file__).parents[2]
HOSTILE = "\x1b[2J\x1b]0;title\x07\x9b31m\u202eevil\u2066\u200b\x7f\r"
SHOWN = r"\x1b[2J\x1b]0;title\x07\x9b31m\u202eevil\u2066\u200b\x7f\r"


def test_what_a_terminal_obeys_is_escaped() -> None:
    assert printable(HOSTILE) == SHOWN
    assert printable("猫 é\n\tb") == "猫 é\n\tb"
    assert str(InputError(HOSTILE, HOSTILE, HOSTILE)) == f"{SHOWN}\n{SHOWN}\nRemedy: {SHOWN}"


@given(st.text(max_size=40))
def test_what_is_printed_has_no_command_in_it(text: str) -> None:
    shown = printable(text)
    assert all(char in "\n\t" or (ord(char) >= 32 and not 127 <= ord(char) < 160) for char in shown)
    assert printable(shown) == shown
    shown.encode()


def test_only_one_module_prints() -> None:
    files = [
        file for room in ("teacher_cache", "student", "pipelines") for file in (ROOT / room).rglob("*.py")
    ]
    printing = {file.name for file in files if re.search(r"(?<![\w.])print\(", file.read_text())}
    assert printing - {"__main__.py"} == {"say.py"}, "the demo's __main__.py prints figures of its own"


def test_documents_from_elsewhere_print_nothing_that_a_terminal_obeys(
    labels: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(labels, tmp_path / "copy")
    file = copy / "manifest.json"
    document = unseal(file.read_bytes())
    document["format"] = document["spec"]["teacher"]["model"] = HOSTILE
    file.write_bytes(seal(document))
    for words in (["verify", str(copy)], ["pull", str(copy), str(tmp_path / "out")], ["status", str(copy)]):
        assert main(words) in (0, 2)
        said = "".join(capsys.readouterr())
        assert not set(said) & set(HOSTILE) - set("[]0;2JtilemvA31 "), said
    with console("take", 1, HOSTILE) as advance:
        advance(1, HOSTILE)
    assert "\x1b" not in capsys.readouterr().err
