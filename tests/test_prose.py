"""Plain English, the part of the rule that a program can check: some words never appear."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("teacher_cache", "student", "pipelines", "benchmarks", "examples")
IS_NO = r"(?<!here )(?:is|are|was|were) no (?!longer|more|slower|faster|better|worse)"
WORDS = re.compile(rf"\b(whom|whoever|nobody|somebody|likewise|anew|{IS_NO})\b", re.IGNORECASE)


def files() -> list[Path]:
    return sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))


def texts(file: Path) -> Iterator[tuple[str, str]]:
    """Yield each docstring and each message of an error, and where it stands."""
    name = file.relative_to(ROOT)
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield f"{name}:{node.lineno}", str(node.value.value)
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            for argument in node.exc.args:
                parts = [part.value for part in ast.walk(argument) if isinstance(part, ast.Constant)]
                yield f"{name}:{argument.lineno}", " ".join(map(str, parts))


def test_words_that_never_appear_in_docstrings_and_errors() -> None:
    found = [
        f"{where}: has {word[0]!r}: ...{text[max(0, word.start() - 30) : word.end() + 30]!r}"
        for file in files()
        for where, text in texts(file)
        if (word := WORDS.search(text))
    ]
    assert not found, "\n".join([f"{len(found)} sentences:", *found])


def test_the_check_finds_words() -> None:
    assert WORDS.search("It is no archive.")
    assert WORDS.search("There is nobody to learn from.")
    assert not WORDS.search("There is no such file.")


def test_readme_and_docs_use_the_same_words() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        text = page.read_text()
        found = [text[max(0, word.start() - 40) : word.end() + 20] for word in WORDS.finditer(text)]
        assert not found, f"{page.name}: {found}"
