"""Map from a teacher's classes to a dataset's: a subset, another order, or sums of classes.

The probability of a dataset's class is the sum of the probabilities of its teacher classes. Teacher classes
that are in no sum are dropped, and the softmax normalises the rest again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from teacher_cache.errors import ModelError
from teacher_cache.exact.canonical import sha256_of
from teacher_cache.labels.class_list import ClassList
from teacher_cache.models.class_knowledge import first_synonym, parse, plain_name
from teacher_cache.storage.local_copies import local_file


class ClassMap(NamedTuple):
    """Class ids of the teacher that make up each class of a dataset.

    Attributes:
        members: Teacher's class ids, ascending, by class id of the dataset.
    """

    members: tuple[tuple[int, ...], ...]

    @property
    def sha256(self) -> str:
        """Digest of the map, which is part of an archive's fingerprint."""
        return sha256_of([list(ids) for ids in self.members])


class MappedModel(torch.nn.Module):
    """Model with logits (B, C) over a dataset's classes: logsumexp over the teacher's logits of each.

    Args:
        model: Teacher's module, with logits over its own classes.
    """

    def __init__(self, model: torch.nn.Module, class_map: ClassMap) -> None:
        super().__init__()
        self.model = model
        members = class_map.members
        self._sizes = sorted({len(ids) for ids in members})
        groups = [[number for number, ids in enumerate(members) if len(ids) == size] for size in self._sizes]
        for size, group in zip(self._sizes, groups, strict=True):
            ids = torch.tensor([members[number] for number in group])
            self.register_buffer(f"ids_{size}", ids, persistent=False)
        order = torch.tensor([number for group in groups for number in group])
        self.register_buffer("places", order.argsort(), persistent=False)

    def forward(self, inputs_BCHW: torch.Tensor) -> torch.Tensor:
        """Return float32 logits (B, C) over the dataset's classes."""
        logits_BT = self.model(inputs_BCHW).float()
        sums = [logits_BT[:, self.get_buffer(f"ids_{size}")].logsumexp(2) for size in self._sizes]
        return torch.cat(sums, 1)[:, self.get_buffer("places")]


def read_class_map(
    file: str, classes: ClassList, num_classes: int, class_names: Sequence[Sequence[str]]
) -> ClassMap:
    """Read a class map, the teacher's classes for each class of a dataset, from a JSON or YAML file.

    Args:
        file: Path or URL of a mapping from the dataset's class names to teacher's classes, or of a list of
            them in order of the dataset's class ids. Teacher's classes are an id, a name, or a list of these.
        class_names: Lists of names that the teacher's classes are known by.

    Raises:
        ModelError: The file cannot be read, does not have each class of the dataset once, or names a class
            that the teacher does not have, or the same one twice.
    """
    try:
        with local_file(file) as path:
            document = parse(Path(path).read_text(encoding="utf-8"), file)
    except (OSError, ValueError) as error:
        raise _refusal(file, str(error)) from error
    if isinstance(document, Mapping):
        by_name = {_key(key, file): value for key, value in document.items()}
        odd = sorted(by_name.keys() ^ set(classes.names))
        if odd:
            raise _refusal(file, f"class {odd[0]!r} is missing from the file or from the dataset")
        document = [by_name[name] for name in classes.names]
    if not isinstance(document, list) or len(document) != len(classes):
        found = f"{len(document):,} entries" if isinstance(document, list) else "neither a list nor a mapping"
        raise _refusal(file, f"{found} for the dataset's {len(classes):,} classes")
    ids_by_name = _ids_by_name([names for names in class_names if len(names) == num_classes])
    members = tuple(
        tuple(
            sorted(
                _class_id(one, file, num_classes, ids_by_name)
                for one in (value if isinstance(value, list) else [value])
            )
        )
        for value in document
    )
    seen: set[int] = set()
    for number, ids in enumerate(members):
        if not ids:
            raise _refusal(file, f"class {classes.names[number]!r} has no class of the teacher")
        for one in ids:
            if one in seen:
                raise _refusal(file, f"the teacher's class {one} is named twice")
            seen.add(one)
    return ClassMap(members)


def _ids_by_name(class_names: Sequence[Sequence[str]]) -> dict[str, set[int]]:
    """Return the class ids that each name may mean, whole or by its first synonym, in any spelling."""
    found: dict[str, set[int]] = {}
    for names in class_names:
        for number, name in enumerate(names):
            for spelling in {plain_name(name), first_synonym(name)}:
                found.setdefault(spelling, set()).add(number)
    return found


def _class_id(value: Any, file: str, num_classes: int, ids_by_name: Mapping[str, set[int]]) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value < num_classes:
            raise _refusal(file, f"class {value} does not exist, as the teacher has {num_classes:,} classes")
        return value
    found = ids_by_name.get(plain_name(value), set()) if isinstance(value, str) else set()
    if len(found) == 1:
        return next(iter(found))
    if not ids_by_name:
        raise _refusal(file, f"{value!r} is not a class id, and the teacher's classes have no known names")
    several = f"several classes of this name: {sorted(found)}" if found else "no class of this name"
    raise _refusal(file, f"{value!r}: the teacher has {several}")


def _key(key: Any, file: str) -> str:
    if isinstance(key, str) or (isinstance(key, int) and not isinstance(key, bool)):
        return str(key)
    raise _refusal(file, f"{key!r} is not a name; YAML reads yes, no and dates as something else: quote it")


def _refusal(file: str, reason: str) -> ModelError:
    return ModelError(
        f"--class-map {file}: {reason}",
        "Labels would stand for the wrong classes.",
        "give each class of the dataset, by name or in order, with the teacher's class ids or names",
    )
