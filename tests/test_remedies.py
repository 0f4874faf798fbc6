"""Remedies exist: every flag that an error or a note names is a flag of a command that can raise it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.cli import COMMANDS as TEACHER_CACHE
from student.cli import COMMANDS as STUDENT
from teacher_cache.program.commandline import Command
from teacher_cache.program.flags import flag_of

ROOT = Path(__file__).parent.parent
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]")


def flags_of(*commands: Command) -> set[str]:
    found = set()
    for command in commands:
        for name in command.config.__dataclass_fields__:
            flag = flag_of(name)
            found |= {flag, f"--no-{flag[2:]}", "--config"}
    return found


ALL = flags_of(*TEACHER_CACHE.values(), *STUDENT.values()) | {"--run"}  # of commands with named runs
PACK = flags_of(TEACHER_CACHE["pack"])
EXTRACT = flags_of(*(TEACHER_CACHE[name] for name in ("extract", "plan", "submit", "repair", "verify")))
PARTS = {
    "teacher_cache/dataset/sources/*.py": PACK,
    "teacher_cache/dataset/packing/[!i]*.py": PACK,
    "pipelines/packing/*.py": PACK,
    "pipelines/extraction/**/*.py": EXTRACT | PACK,
    "teacher_cache/labelling/*.py": EXTRACT,
    "teacher_cache/models/*.py": EXTRACT | flags_of(STUDENT["train"]) | PACK,
    "student/*.py": flags_of(*STUDENT.values()) | PACK,
    "teacher_cache/**/*.py": ALL,
    "pipelines/*.py": ALL,
    "pipelines/[aejs]*/**/*.py": ALL,
}


def texts_of(file: Path) -> Iterator[tuple[int, str]]:
    """Yield every text in the arguments of an error, or of a note's append, with its line."""
    for call in ast.walk(ast.parse(file.read_text())):
        if isinstance(call, ast.Call) and ast.unparse(call.func).endswith(("Error", "notes.append")):
            for node in ast.walk(call):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.lineno, node.value


@pytest.mark.parametrize("part", PARTS)
def test_every_flag_that_a_text_names_is_one(part: str) -> None:
    files = list(ROOT.glob(part))
    assert files
    unknown = [
        f"{file.relative_to(ROOT)}:{line}: {flag}"
        for file in files
        for line, text in texts_of(file)
        for flag in FLAG.findall(text)
        if flag not in PARTS[part]
    ]
    assert not unknown


def test_the_search_finds_flags(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text('"""Doc --no."""\nraise MyError(f"--bad {1}", "give --worse-flag FILE")\n')
    found = [flag for _, text in texts_of(tmp_path / "x.py") for flag in FLAG.findall(text)]
    assert sorted(found) == ["--bad", "--worse-flag"]
