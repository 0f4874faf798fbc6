"""Documents that people write about classes, JSON and YAML; a name that stands twice is refused."""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from typing import Any

import yaml


def parse(text: str, file: str) -> Any:
    """Return the document in a file's text: JSON if the file's name ends in .json, else YAML.

    Args:
        text: Content of the file.

    Raises:
        ValueError: The text is neither, or a name stands twice in a mapping.
    """
    if file.endswith(".json"):
        return json.loads(text, object_pairs_hook=_unique)
    try:
        return yaml.load(text, _UniqueKeys)  # it is a safe loader
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


class _UniqueKeys(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        pairs = [(self.construct_object(key, deep=True), None) for key, _ in node.value]
        _unique(pairs)
        return super().construct_mapping(node, deep=deep)


def _unique(pairs: Sequence[tuple[Any, Any]]) -> dict[Any, Any]:
    """Return pairs as a dict. Raises ValueError for a name that stands twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands twice")
    return found
