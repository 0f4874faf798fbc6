"""Splits of a dataset, found in names of files and folders by the words that Hugging Face documents.

Words: https://huggingface.co/docs/datasets/repository_structure (datasets/data_files.py). A word counts in
upper or lower case if no other letter is next to it: seg_train, imagenet1k-Validation-00, TEST. The ending
"set" is allowed, as in trainset.
"""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from pathlib import Path

from teacher_cache.errors import DatasetError

_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SPLIT_OF = {word: split for split, words in _SPLITS.items() for word in words}
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_ALONE = "unnamed"

_PART = re.compile(r"(.*?)(\d+)[-_]of[-_](\d+)", re.IGNORECASE)


def check_complete(files: Sequence[Path]) -> None:
    """Refuse numbered files such as train-00000-of-00003.parquet of which some are missing.

    Raises:
        DatasetError: Files are missing; the message names them.
    """
    found: dict[tuple[str, int], set[int]] = {}
    for file in files:
        match = _PART.match(file.name)
        if match:
            found.setdefault((match[1], int(match[3])), set()).add(int(match[2]))
    for (stem, total), numbers in found.items():
        first = 1 if total in numbers and 0 not in numbers else 0
        missing = sorted(set(range(first, first + total)) - numbers)
        if missing:
            raise DatasetError(
                f"{files[0].parent} has {len(numbers)} of the {total} files {stem}...-of-{total}: "
                f"{', '.join(map(str, missing[:5]))}{' ...' if len(missing) > 5 else ''} missing",
                "Their images would be left out.",
                "fetch them, or name the files to pack one by one",
            )


def split_of(name: str) -> str | None:
    """Return the splits in a name: train, validation or test, joined by "+" if several; None without any."""
    found = {_SPLIT_OF[word] for word in _words(name)}
    return "+".join(sorted(found)) or None


def choose(entries: Sequence[Path], split: str | None, where: str) -> list[Path]:
    """Return the files or folders of one split; all of them if no name contains a split.

    Args:
        entries: Files, or folders, that lie side by side.
        split: Split to take: a split, one of its words, or the whole name of an entry, its number aside.
        where: Folder of the entries, for messages.

    Raises:
        DatasetError: The entries are of several splits and none is chosen, the split is not there, or it
            could be two different ones.
    """
    splits = {entry: split_of(_stem(entry)) for entry in entries}
    kinds = {name or _ALONE for name in splits.values()}
    if split is None:
        if len(kinds) > 1:
            raise DatasetError(
                f"{where} holds several splits: {_listed(entries)}",
                "Packed together, a student would be trained on what it is tested on.",
                f"choose one: --split {_first(kinds)}; or give --no-splits if these are not splits",
            )
        _refuse_two_kinds(entries, where)
        return list(entries)
    exact = [entry for entry in entries if split.lower() == entry.name.lower()]
    if not exact:
        files = [entry for entry in entries if not entry.is_dir()]
        exact = [file for file in files if _without_number(file) == split.lower()]
    if exact:
        return exact
    asked = _SPLIT_OF.get(split.lower().removesuffix("set"), split.lower())
    found = [entry for entry in entries if splits[entry] == asked]
    same_word = [entry for entry in found if split.lower() in _words(_stem(entry))]
    if not found:
        raise DatasetError(
            f"{where} has no split {split!r}",
            "There is nothing to pack.",
            f"found: {_listed(entries)}; choose one of these, or leave --split out",
        )
    if same_word and len(same_word) < len(found):
        found = same_word
    _refuse_two_kinds(found, where)
    return found


def _first(kinds: Set[str]) -> str:
    """Return train if it is there, else the first split by name."""
    return "train" if "train" in kinds else min(kinds - {_ALONE})


def has_splits(entries: Sequence[Path]) -> bool:
    """Return whether some entries are named like splits."""
    return any(split_of(_stem(entry)) for entry in entries)


def _refuse_two_kinds(entries: Sequence[Path], where: str) -> None:
    """Refuse parts of one split with different words or names: val beside dev, test beside test-fruits."""
    kinds = {_without_number(entry): entry for entry in entries}
    words = {tuple(sorted(_words(_stem(entry)))) for entry in entries}
    folders = [entry for entry in entries if entry.is_dir()]
    plain = kinds.keys() & _SPLIT_OF.keys()  # train beside train_extra, but not train-HASH beside another
    if (
        (plain and len(kinds) > 1)
        or len(words) > 1
        or (len(folders) > 1 and len(kinds) > 1 and has_splits(folders))
    ):
        raise DatasetError(
            f"{where} holds parts that could be one split or several: {_listed(list(kinds.values()))}",
            "Packed together, a student could be trained on what it is tested on.",
            f"choose one by its name: --split {entries[0].name}; or give --no-splits if these are not splits",
        )


def _words(name: str) -> set[str]:
    found = (word.lower() for word in _WORD.findall(name))
    return {word.removesuffix("set") if word not in _SPLIT_OF else word for word in found} & set(_SPLIT_OF)


def _stem(entry: Path) -> str:
    """Return a file's name without its suffixes, or a folder's name."""
    return entry.name if entry.is_dir() else re.sub(r"(\.[A-Za-z]+\d?)+$", "", entry.name)


def _without_number(entry: Path) -> str:
    stem = re.sub(r"[-_.]?\d+[-_]of[-_]\d+", "", _stem(entry), flags=re.IGNORECASE)
    return re.sub(r"[\d]+", "", stem).strip("-_. ").lower()


def _listed(entries: Sequence[Path]) -> str:
    """Return up to 8 names as text, one for all names that differ only in numbers, such as 1,024 shards."""
    first: dict[str, str] = {}
    for entry in entries:
        first.setdefault(_without_number(entry), entry.name)
    names = list(first.values())
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
