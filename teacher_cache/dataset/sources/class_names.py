"""Class names in order and class ids of samples, from the labels of a source or from a given list."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from teacher_cache.dataset.index import DATASET_FILE
from teacher_cache.errors import DatasetError, nearest

RawLabel = int | str | None
"""Label as a source gives it: a class id, a class name, or None for no label."""

_MAX_UNNAMED = 2**20
"""Bound of class ids without names: a larger number is an image's id rather than a class."""
_INTEGER = re.compile("[0-9]+")


class Classes(NamedTuple):
    """Class names in order of class id, the class id of each sample, and what was assumed, as text."""

    names: list[str]
    labels: list[int | None]
    notes: list[str]


def read_class_list(file: str) -> list[str]:
    """Read class names in order of class id.

    Args:
        file: Text file with one name per line; JSON file with a list of names, or an object from names to
            class ids (torchvision's class_to_idx); or a packed dataset, whose classes are taken.

    Raises:
        DatasetError: The file does not exist, holds something else, or names a class twice.
    """
    path = Path(file)
    path = path / DATASET_FILE if path.is_dir() else path
    try:
        text = path.read_text(encoding="utf-8-sig")
        names = _names_in_json(json.loads(text)) if path.suffix == ".json" else text.splitlines()
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"--classes {file} cannot be read: {error}",
            "The order of the classes is not known.",
            "give a text file with a class name a line, a JSON list of names, or a packed dataset",
        ) from error
    names = [name.strip() for name in names]
    while names and not names[-1]:
        names.pop()
    if not names or "" in names:
        raise DatasetError(
            f"--classes {file} holds {len(names)} names, {names.count('')} of them empty",
            "The classes without a name could not be told apart.",
            "give every class a unique name",
        )
    check_unique(names, f"--classes {file}")
    return names


def same_class(name: str) -> str:
    """Return one spelling for names that are read as one: Unicode forms, spaces, zeros before a number."""
    plain = " ".join(unicodedata.normalize("NFKC", name).split())
    return plain.lstrip("0") or "0" if _INTEGER.fullmatch(plain) else plain


def check_unique(names: Sequence[str], where: str) -> None:
    """Refuse names of which two are the same, or are read as the same. Raises DatasetError."""
    ids: dict[str, int] = {}
    for number, name in enumerate(names):
        first = ids.setdefault(same_class(name), number)
        if first != number:
            raise DatasetError(
                f"{where} names two classes alike: {names[first]!r} (id {first}) and {name!r} (id {number})",
                "They would be taken for one class, or for each other.",
                "give every class a unique name; --classes FILE lists other names in order of class id",
            )


def has_repeats(names: Sequence[str]) -> bool:
    """Return whether two names are the same, or are read as the same."""
    return len({same_class(name) for name in names}) < len(names)


def _names_in_json(value: object) -> list[str]:
    if isinstance(value, dict) and isinstance(value.get("classes"), list):
        value = value["classes"]
    if isinstance(value, dict) and sorted(value.values(), key=str) == sorted(range(len(value)), key=str):
        value = sorted(value, key=value.__getitem__)
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError("it holds neither a list of names nor an object from names to class ids")
    return value


def classes_of(
    raw: Sequence[RawLabel], location: Callable[[int], str], listed: Sequence[str] | None
) -> Classes:
    """Return classes and class ids for the labels that a source gives.

    Args:
        raw: Label of each sample: all class ids, all names, or all None.
        location: Function that returns the origin of a sample, for messages.

    Raises:
        DatasetError: Labels are of two kinds, out of bounds, or not in the list.
    """
    kinds = {type(label): number for number, label in reversed(list(enumerate(raw)))}
    if type(None) in kinds and len(kinds) > 1:
        raise DatasetError(
            f"{location(kinds[type(None)])} has no label, and others have one",
            "Either all samples or none must have labels.",
            "label the sample, remove it, or pack all images without labels: --unlabelled",
        )
    if len(kinds) > 1:
        raise DatasetError(
            f"{location(kinds[int])} has a class id, {location(kinds[str])} a class name",
            "Numbers and names cannot be put into one order.",
            "give all samples the same kind of label",
        )
    if type(None) in kinds or not raw:
        return Classes(list(listed or ()), list(raw), [])  # type: ignore[arg-type]
    if int in kinds:
        return _of_numbers(raw, location, listed)  # type: ignore[arg-type]
    return _of_names(raw, location, listed)  # type: ignore[arg-type]


def _of_numbers(ids: Sequence[int], location: Callable[[int], str], listed: Sequence[str] | None) -> Classes:
    limit = len(listed) if listed is not None else _MAX_UNNAMED
    odd = next((number for number, label in enumerate(ids) if not 0 <= label < limit), None)
    if odd is not None:
        what = f"there are {limit:,} classes" if listed is not None else f"class ids end below {limit:,}"
        raise DatasetError(
            f"{location(odd)} has label {ids[odd]}, but {what}",
            "It looks like an image's id rather than a class.",
            "choose the column or member that holds the class, or correct the label",
        )
    names = list(listed) if listed is not None else [str(number) for number in range(max(ids) + 1)]
    return Classes(names, list(ids), [] if listed is not None else _gaps(ids, len(names)))


def _gaps(ids: Sequence[int], num_classes: int) -> list[str]:
    there = set(ids)
    missing = num_classes - len(there)
    if not missing:
        return []
    first = [str(number) for number in range(min(num_classes, 10_000)) if number not in there][:5]
    return [
        f"{missing:,} of the class ids 0 to {num_classes - 1:,} have no image ({', '.join(first)} ...); "
        "--classes FILE gives the list of all classes"
    ]


def _of_names(names: Sequence[str], location: Callable[[int], str], listed: Sequence[str] | None) -> Classes:
    order, notes = (list(listed), []) if listed is not None else ordered(set(names))
    check_unique(order, "the dataset")
    position = {same_class(name): number for number, name in enumerate(order)}
    spelled = {name: same_class(name) for name in set(names)}
    odd = next((number for number, name in enumerate(names) if spelled[name] not in position), None)
    if odd is not None:
        raise DatasetError(
            f"{location(odd)} is of class {names[odd]!r}, which is not in the class list",
            "It has no class id.",
            nearest(names[odd], order) or f"add it to --classes; the list begins {', '.join(order[:3])}",
        )
    return Classes(order, [position[spelled[name]] for name in names], notes)


def ordered(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return class names in order (numbers by value, else by name), and notes where other tools differ."""
    by_name = sorted(names)
    if by_name and all(_INTEGER.fullmatch(name) for name in by_name):
        by_number = sorted(by_name, key=lambda name: (int(name), name))
        if by_number == by_name:
            return by_number, []
        return by_number, [
            f"numbered classes are ordered by number ({_begin(by_number, by_name)}), as timm does; "
            f"torchvision orders them by name ({_begin(by_name, by_number)}): "
            "--classes FILE gives another order"
        ]
    natural = sorted(by_name, key=_natural)
    if natural == by_name:
        return by_name, []
    return by_name, [
        f"classes are ordered by name ({_begin(by_name, natural)}); "
        f"timm's own order is natural ({_begin(natural, by_name)}): --classes FILE gives another order"
    ]


def _natural(name: str) -> list[tuple[int, int | str]]:
    """Return the key of natural order: parts of digits count as numbers (timm, natural_key)."""
    parts = re.split(r"(\d+)", name.lower())
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts]


def _begin(order: Sequence[str], other: Sequence[str]) -> str:
    """Return the names of `order` around its first difference from `other`, as text."""
    first = next(number for number, (a, b) in enumerate(zip(order, other, strict=True)) if a != b)
    return ", ".join(order[max(0, first - 1) : first + 2]) + " ..."
