"""Facts about flags, stated on their fields: bounds, checks, and roles such as path.

    out: Annotated[str, PATH]
    topk: Annotated[int, Meta(ge=1)] = 10
    views: Annotated[str, Check(parse_views)] = "0:1"

A dataclass of flags derives from `Flags`, which checks every bound when an instance is made.
"""

from __future__ import annotations

import ast
import dataclasses
import pkgutil
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

from msgspec import Meta

from teacher_cache.errors import InputError
from teacher_cache.program.bounds import broken_rule, facts_of
from teacher_cache.storage.cache import GIB, CacheRoom

Config = TypeVar("Config")


@dataclasses.dataclass(frozen=True)
class Fact:
    """Fact that holds for a flag."""

    name: str


PATH = Fact("path")
"""Fact of a path or URL, which is made absolute for processes with other working folders."""
TEACHER = Fact("teacher")
"""Fact of a teacher's name; a folder in it, after hf: or local-dir:, is made absolute like a path."""
RESUMABLE = Fact("resumable")
"""Fact of a flag that may change when a run is resumed: it sets a path or a speed, or a digest checks it."""
LABELS = Fact("labels")
"""Fact of a flag that determines the labels, and not how they are computed."""


class Check(NamedTuple):
    """Check of a flag's value; the function raises InputError where the value is wrong."""

    function: Callable[[Any], object]


def modules_in(package: str) -> list[str]:
    """Return the names of a package's modules, none of which is imported: each may be a choice of a flag."""
    (folder,) = pkgutil.resolve_name(package).__path__
    return sorted(module.name for module in pkgutil.iter_modules([folder]) if not module.ispkg)


def flags_with(config: type, fact: Fact) -> tuple[str, ...]:
    """Return the names of the fields of a dataclass of flags that a fact holds for."""
    return tuple(name for name, facts in facts_of(config).items() if fact in facts)


def flag_of(field: str) -> str:
    """Return the flag of a field as it is typed."""
    return f"--{field.replace('_', '-')}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
    """Flags of a command, checked against the facts on their fields.

    Raises:
        InputError: A value is out of bounds, or fails its check.
    """

    def __post_init__(self) -> None:
        for name, facts in facts_of(type(self)).items():
            value, flag = getattr(self, name), flag_of(name)
            for fact in facts if value is not None else ():
                if isinstance(fact, Check):
                    fact.function(value)
                elif (rule := broken_rule(value, fact)) is not None:
                    raise InputError(f"{flag} {value}", f"It must be {rule}.", f"choose {flag} {rule}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class JsonFlag:
    """Flag of every command that prints a result."""

    json: bool = False
    """Print the result as JSON."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImagesFlag(Flags):
    """Flag of every command that reads images of a packed dataset."""

    images_in: Annotated[tuple[str, ...], PATH, RESUMABLE] = ()
    """Folders or buckets that a dataset of pack --in-place may read images from, besides its own folder."""


def check_manifests(digests: Sequence[str]) -> None:
    """Refuse what is not a list of sha256 in hexadecimal digits. Raises InputError."""
    for digest in digests:
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise InputError(
                f"--manifest {digest}",
                "No manifest has this sha256.",
                "give 64 digits: sha256sum manifest.json",
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class KeyFlags(Flags):
    """Flags of every command that reads labels which others may have made."""

    key: Annotated[str | None, PATH, RESUMABLE] = None
    """File of pinned ed25519 public keys, one of which must have signed each archive that is read."""
    manifest: Annotated[tuple[str, ...], Check(check_manifests), RESUMABLE] = ()
    """sha256 of the manifests that are accepted; no other version of an archive is read."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheFlags(ImagesFlag):
    """Flags of every command that reads many images or labels."""

    cache_dir: Annotated[str, PATH, RESUMABLE] = CacheRoom.folder
    """Folder for copies of remote images and labels on this machine."""
    cache_gib: Annotated[float, Meta(ge=0), RESUMABLE] = CacheRoom.max_bytes / GIB
    """Size in GiB that the copies may have together; objects that do not fit are read in small parts."""

    @property
    def room(self) -> CacheRoom:
        """Folder of the copies, and its size limit."""
        return CacheRoom(self.cache_dir, int(min(self.cache_gib, 2**40) * GIB))


def parse_views(text: str) -> range:
    """Return range(A, B) for "A:B".

    Raises:
        InputError: The text does not name a range, or names an empty one.
    """
    return _parse_range("--views", text, "view")


def parse_shards(text: str) -> range:
    """Return range(A, B) for "A:B". Raises InputError as `parse_views`."""
    return _parse_range("--shards", text, "shard")


def _parse_range(flag: str, text: str, what: str) -> range:
    first, colon, stop = text.partition(":")
    if not (colon and first.isdigit() and stop.isdigit() and int(first) < int(stop)):
        raise InputError(
            f"{flag} {text}", f"It is not a range of {what}s.", "give A:B with A < B, such as 0:4"
        )
    return range(int(first), int(stop))


def parse_kwargs(pairs: Iterable[str]) -> dict[str, Any]:
    """Return a dict for "name=value" texts; values are Python literals, else strings, as in timm.

    Raises:
        InputError: A text has no "=".
    """
    kwargs: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not (name and equals):
            raise InputError(f"--model-kwargs {pair}", "It sets nothing.", "give name=value")
        try:
            kwargs[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            kwargs[name] = text
    return kwargs


def absolute(path: str, folder: str | Path = "") -> str:
    """Return an absolute path, from `folder` if `path` is relative; URLs and ~ paths stay as they are."""
    return path if "://" in path or path.startswith("~") else str(Path(folder, path).absolute())


def with_absolute_paths(config: Config, also: Sequence[str] = ()) -> Config:
    """Return flags with absolute paths, in the fields marked as paths and in those that `also` names."""
    changes: dict[str, Any] = {}
    for name in (*flags_with(type(config), PATH), *also):
        value = getattr(config, name)
        if value is not None:
            is_one = isinstance(value, str)
            changes[name] = absolute(value) if is_one else tuple(map(absolute, value))
    for name in flags_with(type(config), TEACHER):
        prefix, _, place = (getattr(config, name) or "").rpartition(":")
        if prefix.rpartition(":")[2] in ("hf", "local-dir") and Path(place).is_dir():
            changes[name] = f"{prefix}:{Path(place).absolute()}"
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]
