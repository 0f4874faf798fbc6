"""Make the pages of flags, of service.yaml and of files from the code: python docs/pages.py"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
import typing
from collections.abc import Iterator
from pathlib import Path

import msgspec
from tyro.conf import Positional

from pipelines.cli import COMMANDS as TEACHER_CACHE
from pipelines.packing.flags import PackConfig
from pipelines.service.config import ServiceConfig
from student.cli import COMMANDS as STUDENT
from teacher_cache.program.flags import flag_of

_ROOT = Path(__file__).parents[1]
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


def _flags() -> str:
    """Return docs/flags.md."""
    parts = [_HEAD]
    for program, commands in (("teacher-cache", TEACHER_CACHE), ("student", STUDENT)):
        for name, command in commands.items():
            summary = inspect.getdoc(command.config) or ""
            rows = "".join(f"{row}\n" for row in _rows(command.config))
            parts.append(f"## {program} {name}\n\n{summary}\n\n| flag | default | |\n|---|---|---|\n{rows}")
    return "\n".join(parts)


def _attributes(section: type) -> dict[str, str]:
    """Return the line of each name under "Attributes:" in a docstring."""
    text = (inspect.getdoc(section) or "").partition("Attributes:\n")[2]
    return dict(re.findall(r"^ +(\w+): (.+)$", text, re.MULTILINE))


def _keys(section: type[msgspec.Struct], prefix: str = "") -> Iterator[str]:
    """Yield a row for each key of a section of service.yaml, and of the sections in it."""
    texts, inner = _attributes(section), []
    hints = typing.get_type_hints(section)
    for field in msgspec.structs.fields(section):
        kinds = [hints[field.name], *typing.get_args(hints[field.name])]
        sections = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, msgspec.Struct)]
        many = "NAME." if typing.get_origin(hints[field.name]) is dict else ""
        for part in sections:
            tag = part.__struct_config__.tag
            only = f", with kind: {tag}" if tag else ""
            inner.append((part, f"{prefix}{field.name}.{many}", only))
        is_required = field.default is field.default_factory is msgspec.NODEFAULT
        value = None if sections or field.default is msgspec.NODEFAULT else field.default
        default = "required" if is_required else "" if value in (None, ()) else f"`{_as_yaml(value)}`"
        yield f"| `{prefix}{field.name}` | {default} | {texts[field.name]} |\n"
    for part, below, only in inner:
        if only:
            summary = (inspect.getdoc(part) or "").splitlines()[0]
            yield f"| `{below}kind` |  | `{part.__struct_config__.tag}`: {summary} |\n"
        yield from (row.replace("` |", f"`{only} |", 1) for row in _keys(part, below))


def _as_yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _service(page: str) -> str:
    """Return docs/service.md with the table of keys made anew."""
    table = "| key | default | meaning |\n| --- | --- | --- |\n" + "".join(_keys(ServiceConfig))
    return re.sub(r"\| key \| default .*?\n(?=\n)", lambda _: table, page, count=1, flags=re.DOTALL)


def _first_paragraph(file: Path) -> str:
    text = ast.get_docstring(ast.parse(file.read_text())) or ""
    return " ".join(text.split("\n\n")[0].split()).replace("|", "\\|")


def _architecture(page: str) -> str:
    """Return docs/architecture.md with the table below each heading of a folder made anew."""
    parts = re.split(r"^(## \w+|### .*)\n", page, flags=re.MULTILINE)
    package, made = "", [parts[0]]
    for heading, text in zip(parts[1::2], parts[2::2], strict=True):
        made.append(f"{heading}\n")
        if heading.startswith("## "):
            package = heading.removeprefix("## ")
        if not heading.startswith("### "):
            made.append(text)
            continue
        folder = _ROOT / package / heading.removeprefix("### ").partition(":")[0].strip("/ ")
        folder = folder if folder.is_dir() else _ROOT / package
        rows = [
            f"| {file.relative_to(_ROOT / package)} | {_first_paragraph(file)} |\n"
            for file in sorted(folder.glob("*.py"))
            if file.name != "__init__.py"
        ]
        made.append(f"\n| file | its one job |\n|---|---|\n{''.join(rows)}\n")
    return "".join(made).rstrip("\n") + "\n"


def made() -> dict[Path, str]:
    """Return the text of each page that is made from the code, all or in part."""
    here = Path(__file__).parent
    service, architecture = here / "service.md", here / "architecture.md"
    return {
        here / "flags.md": _flags(),
        service: _service(service.read_text()),
        architecture: _architecture(architecture.read_text()),
    }


if __name__ == "__main__":
    for page, text in made().items():
        page.write_text(text)
