"""Make docs/flags.md from the dataclasses of flags: python docs/pages.py"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
import typing
from collections.abc import Iterator
from pathlib import Path

from tyro.conf import Positional

from pipelines.cli import COMMANDS as TEACHER_CACHE
from pipelines.packing.flags import PackConfig
from student.cli import COMMANDS as STUDENT
from teacher_cache.program.flags import flag_of

PAGE = Path(__file__).with_name("flags.md")
_POSITIONAL = typing.get_args(Positional[int])[1]
_OF_A_MACHINE = {(PackConfig, "workers"): "number of CPUs"}
_OF_A_USER = {"cache_dir": "a folder of the user's"}
_HEAD = """# Flags

Every flag of every command, its default, and what it does, as `--help` of the command prints it. A flag that
is on is turned off by `--no-FLAG`. `--config FILE` gives flags as YAML, and flags given directly override
it; for `serve` and `token` it is the configuration of the service. Made by `python docs/pages.py`.
"""


def _help_of(config: type) -> dict[str, str]:
    """Return the text below each field of a dataclass and its bases."""
    found: dict[str, str] = {}
    for base in reversed(config.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, text in zip(body.body, body.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                found[ast.unparse(field.target)] = " ".join(ast.literal_eval(text.value).split())
    return found


def _default(field: dataclasses.Field[object]) -> str:
    if field.default is dataclasses.MISSING:
        return "required"
    value = field.default
    if value is None or value == () or value == "":
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"`{' '.join(map(str, value)) if isinstance(value, tuple) else value}`"


def _rows(config: type) -> Iterator[str]:
    texts, hints = _help_of(config), typing.get_type_hints(config, include_extras=True)
    for field in dataclasses.fields(config):
        is_positional = _POSITIONAL in getattr(hints[field.name], "__metadata__", ())
        name = field.name.upper() if is_positional else flag_of(field.name)
        text = texts.get(field.name, "").replace("|", "\\|")
        default = _OF_A_MACHINE.get((config, field.name)) or _OF_A_USER.get(field.name) or _default(field)
        yield f"| `{name}` | {default} | {text} |"


def made() -> str:
    """Return the text of the page."""
    parts = [_HEAD]
    for program, commands in (("teacher-cache", TEACHER_CACHE), ("student", STUDENT)):
        for name, command in commands.items():
            summary = inspect.getdoc(command.config) or ""
            rows = "".join(f"{row}\n" for row in _rows(command.config))
            parts.append(f"## {program} {name}\n\n{summary}\n\n| flag | default | |\n|---|---|---|\n{rows}")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(made())
