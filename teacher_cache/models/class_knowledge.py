"""Class names that come with a model's weights, and their comparison with a dataset's classes.

Names come from the hub's label names, timm's ImageNet synsets, a list inside a checkpoint (class_to_idx,
classes, id2label ...), or a config.json beside it, as timm and Hugging Face write it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from teacher_cache.errors import ModelError
from teacher_cache.labels.class_list import ClassList
from teacher_cache.models.checkpoint import is_safetensors, load_weights, safe_types
from teacher_cache.storage.local_copies import local_file

_LISTS = ("class_to_idx", "classes", "class_names", "label_names", "id2label", "label2id", "names", "labels")
_INSIDE = ("hyper_parameters", "args", "meta", "config", "hparams", "pretrained_cfg", "default_cfg")

Names = tuple[str, ...]


def names_of_hub(model: torch.nn.Module) -> list[Names]:
    """Return the lists of class names that the hub, or timm for ImageNet, gives for a model's weights."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    config: Any = getattr(model, "pretrained_cfg", {})
    found = []
    names = _as_names(config.get("label_names"))
    if names is not None:
        found.append(names)
        descriptions = config.get("label_descriptions")
        if isinstance(descriptions, Mapping):
            found.append(tuple(str(descriptions.get(name, name)) for name in names))
    with contextlib.suppress(AssertionError, KeyError, ValueError):
        subset = infer_imagenet_subset(model)
        if subset is not None:
            info = ImageNetInfo(subset)
            found.append(tuple(info.label_names()))
            found.append(tuple(info.index_to_description(number) for number in range(info.num_classes())))
    return found


def names_of_file(file: str) -> list[Names]:
    """Return the lists of class names in a local file of weights, or in a config.json beside it."""
    found = list(_names_in(_beside(Path(file))))
    if not Path(file).is_file() or is_safetensors(file):
        return found
    with contextlib.suppress(Exception), torch.serialization.safe_globals(safe_types()):
        # a file that cannot be read is refused where its weights are loaded
        found += _names_in(torch.load(file, map_location="cpu", weights_only=True))
    return found


def load_with_names(model: torch.nn.Module, file: str, classes: ClassList) -> tuple[list[Names], bool]:
    """Load a file's weights into a model, in place, and return the class names that come with them.

    Args:
        file: Path or URL of the weights.
        classes: Classes of the model's output; empty skips the comparison with the file's.

    Returns:
        Lists of class names found in or beside the file, and whether it records exactly these classes.

    Raises:
        ModelError: See `load_weights`.
    """
    are_known = load_weights(model, file, classes)
    with local_file(file) as path:
        return names_of_file(path), are_known


def check_names(known: Sequence[Names], classes: ClassList, model: str) -> bool:
    """Refuse a model with the dataset's class names in another order; return whether all names match.

    Nothing is compared if a list shares less than half of its names with the dataset, as in another language,
    or if the dataset's names are only numbers; the agreement with labels is measured instead.

    Raises:
        ModelError: A class of the dataset has another class id in the model.
    """
    if all(name.isdigit() for name in classes.names):
        return False
    for names in known:
        if len(names) != len(classes):
            continue
        for plain in (plain_name, first_synonym):
            theirs = {plain(name): number for number, name in enumerate(names)}
            ours = [theirs.get(plain(name)) for name in classes.names]
            shared = [number for number in ours if number is not None]
            if len(theirs) < len(names) or 2 * len(shared) < len(ours):
                continue
            moved = [(number, other) for number, other in enumerate(ours) if other not in (None, number)]
            if moved:
                number, other = moved[0]
                raise ModelError(
                    f"{model} has {len(moved):,} of the dataset's {len(classes):,} classes under other ids: "
                    f"{classes.names[number]!r} is class {other} of the model, but {number} of the dataset",
                    "Its labels would stand for the wrong classes.",
                    "pack the dataset in the order of the model's classes with pack --classes FILE, "
                    "or accept the difference with --allow-disagreement",
                )
            return len(shared) == len(ours)
    return False


def _names_in(value: Any) -> Iterator[Names]:
    """Yield the lists of class names in a document or checkpoint."""
    fields = vars(value) if isinstance(value, argparse.Namespace) else value
    if not isinstance(fields, Mapping):
        return
    for name in _LISTS:
        names = _as_names(fields.get(name))
        if names is not None:
            yield names
    for name in _INSIDE:
        yield from _names_in(fields.get(name))


def _as_names(value: Any) -> Names | None:
    """Return names in order of class id, from a list, or a mapping between names and class ids."""
    if isinstance(value, Mapping):
        pairs = dict(value)
        if all(isinstance(key, str) and isinstance(number, int) for key, number in pairs.items()):
            pairs = {number: key for key, number in pairs.items()}
        if not all(isinstance(name, str) and str(key).isdigit() for key, name in pairs.items()):
            return None
        by_id = {int(key): name for key, name in pairs.items()}
        value = (
            [by_id[number] for number in sorted(by_id)] if sorted(by_id) == list(range(len(by_id))) else None
        )
    if isinstance(value, (list, tuple)) and len(value) > 1 and all(isinstance(name, str) for name in value):
        return tuple(value)
    return None


def _beside(file: Path) -> Any:
    try:
        return json.loads((file.parent / "config.json").read_text())
    except (OSError, ValueError):
        return None


def plain_name(name: str) -> str:
    """Return a class name in lower case, with spaces for hyphens and underscores, for comparison."""
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def first_synonym(name: str) -> str:
    """Return the first of several comma-separated names, normalised by `plain_name`."""
    return plain_name(name.partition(",")[0])


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
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} appears twice")
    return found
