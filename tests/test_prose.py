"""Plain English, the half of the rule that a program can check: CONTRIBUTING.md, "Words".

Every sentence stands alone and names its subject: a description does not begin with a word that leans on the
name beside it ("Of the batch.", "Its weights.", "What is asked."), and some words never appear.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("teacher_cache", "student", "pipelines", "benchmarks", "examples")
OPENERS = re.compile(
    r"(Of|At|Its|It|They|Their|Them|By|Likewise|Whose|Whom|Who|Where|What|Which|How|Say|Says|Told|Tell)\b"
)
IS_NO = r"(?<!here )(?:is|are|was|were) no (?!longer|more|slower|faster|better|worse)"
WORDS = re.compile(rf"\b(whom|whoever|nobody|somebody|likewise|{IS_NO})\b", re.IGNORECASE)
ENTRY = re.compile(r"^ {4,}([\w*, ]+): (.+)$")


class Sentence(NamedTuple):
    """A description or message, and where it stands."""

    where: str
    text: str
    kind: str


def files() -> list[Path]:
    return sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))


def sentences(file: Path) -> Iterator[Sentence]:
    tree = ast.parse(file.read_text())
    name = file.relative_to(ROOT)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                yield from errors(node.exc, str(name))
            continue
        for statement in body:
            is_text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
            if is_text and isinstance(statement.value.value, str):
                yield from described(f"{name}:{statement.lineno}", statement.value.value)


def described(where: str, text: str) -> Iterator[Sentence]:
    """Yield a docstring's summary, its whole text, and the description of each argument or attribute."""
    yield Sentence(where, text.strip().partition("\n")[0], "summary")
    yield Sentence(where, text, "text")
    section = ""
    for line in text.splitlines():
        if re.match(r"\s*(Args|Attributes|Raises|Returns|Yields):$", line):
            section = line.strip()
        elif section in ("Args:", "Attributes:") and (entry := ENTRY.match(line)):
            yield Sentence(f"{where} {entry[1]}", entry[2], "entry")


def errors(call: ast.Call, name: str) -> Iterator[Sentence]:
    for argument in call.args:
        parts = [part.value for part in ast.walk(argument) if isinstance(part, ast.Constant)]
        text = " ".join(part for part in parts if isinstance(part, str))
        yield Sentence(f"{name}:{argument.lineno}", text, "error")


def offences() -> list[str]:
    found = []
    for file in files():
        for where, text, kind in sentences(file):
            if kind in ("summary", "entry") and (opener := OPENERS.match(text)):
                found.append(f"{where}: begins with {opener[0]!r}: {text[:80]}")
            if kind in ("text", "error") and (word := WORDS.search(text)):
                found.append(
                    f"{where}: has {word[0]!r}: ...{text[max(0, word.start() - 30) : word.end() + 30]!r}"
                )
    return found


def test_every_description_stands_alone() -> None:
    found = offences()
    assert not found, "\n".join([f"{len(found)} sentences:", *found])


@pytest.mark.parametrize(
    "text",
    ["Of the batch.", "Its weights.", "Say whether it fits.", "Where it lies.", "At the end of the cosine"],
)
def test_the_check_finds_what_it_bans(text: str) -> None:
    assert OPENERS.match(text)


def test_the_check_finds_words() -> None:
    assert WORDS.search("It is no archive.")
    assert WORDS.search("There is nobody to learn from.")
    assert not WORDS.search("There is no such file.")


def test_readme_and_docs_use_the_same_words() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        text = page.read_text()
        found = [text[max(0, word.start() - 40) : word.end() + 20] for word in WORDS.finditer(text)]
        assert not found, f"{page.name}: {found}"
