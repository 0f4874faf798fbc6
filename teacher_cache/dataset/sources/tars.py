"""Source of images in WebDataset tars, plain or compressed, one tar open at a time."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from teacher_cache.dataset.sources.class_names import RawLabel, classes_of
from teacher_cache.dataset.sources.source import (
    META,
    NO_SAMPLE,
    LeftOut,
    Sample,
    Source,
    SourceOptions,
    SpanPlace,
    key_of,
    readable,
)
from teacher_cache.dataset.sources.tar_members import is_label, parts_of, tar_samples
from teacher_cache.errors import DatasetError

_COMPRESSED: Mapping[str, Callable[[Path], IO[bytes]]] = {
    ".tar.gz": gzip.open,  # type: ignore[dict-item]
    ".tgz": gzip.open,  # type: ignore[dict-item]
    ".tar.bz2": bz2.open,
    ".tar.xz": lzma.open,
}
SUFFIXES = (".tar", *_COMPRESSED)
"""Suffixes of tars that can be packed."""


class _Labelled(NamedTuple):
    """A sample whose label is not yet a class id."""

    tar: str
    name: str
    label: RawLabel
    place: SpanPlace


def tar_source(files: Sequence[Path], options: SourceOptions, *, is_packed: bool = False) -> Source:
    """Return a source of tars: one image per sample, a label (`cls` or a chosen member), and other members.

    Args:
        files: Tars in order.
        is_packed: Whether the tars are a packed dataset's, whose names are keys already.

    Raises:
        DatasetError: A tar is damaged, or the image or label of a sample is missing or ambiguous.
    """
    left_out = LeftOut()
    found: list[_Labelled] = []
    temporary: list[Any] = []
    for file in files:
        plain = _uncompressed(file, temporary)
        with readable(file), plain.open("rb") as stream:
            samples = tar_samples(stream, str(file), left_out, lambda name: is_label(name, options))
            for sample in samples:
                where = f"sample {sample.name!r} in {file}"
                if META.match(sample.name):
                    left_out.add(where, NO_SAMPLE)
                    continue
                parts = parts_of(sample, where, options)
                place = SpanPlace(str(plain), where, sample.spans[parts.image], parts.others)
                found.append(_Labelled(file.name, sample.name, parts.label, place))
    if not found:
        raise DatasetError(f"{files[0]} has no samples", "There is nothing to pack.", "check the path")
    classes = classes_of(
        [sample.label for sample in found], lambda number: str(found[number].place), options.classes
    )
    keys, notes = (
        ([sample.name for sample in found], [])
        if is_packed
        else unique_keys([(sample.tar, sample.name) for sample in found])
    )
    if not options.unlabelled and all(sample.label is None for sample in found):
        notes = [*notes, "no sample has a label: the images are without labels"]
    rows = zip(keys, classes.labels, (sample.place for sample in found), strict=True)
    samples_out = [Sample(*row) for row in rows]
    return Source("webdataset", classes.names, samples_out, left_out, [*classes.notes, *notes], temporary)


def unique_keys(names: Sequence[tuple[str, str]]) -> tuple[list[str], list[str]]:
    """Return a unique key for each (tar, sample name), and notes on how keys were changed.

    Keys are the names, unless they repeat across tars: then each is prefixed with its tar's name.
    """
    repeated = Counter(name for _, name in names)
    if len(repeated) == len(names) or len(set(names)) < len(names):  # a key twice in one tar is an error
        return [key_of(name) for _, name in names], []
    note = "sample keys repeat across tars; each key is prefixed with its tar's name"
    return [key_of(f"{_stem(tar)}/{name}") for tar, name in names], [note]


def _stem(name: str) -> str:
    suffix = next(
        suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if name.lower().endswith(suffix)
    )
    return name[: -len(suffix)]


def _uncompressed(file: Path, temporary: list[Any]) -> Path:
    """Return a plain tar's path; a compressed one is unpacked to a file that `temporary` keeps open."""
    opener = next(
        (opener for suffix, opener in _COMPRESSED.items() if file.name.lower().endswith(suffix)), None
    )
    if opener is None:
        return file
    copy = tempfile.NamedTemporaryFile(prefix="teacher-cache-pack-", suffix=".tar")
    with readable(file), opener(file) as stream:
        shutil.copyfileobj(stream, copy)
    copy.flush()
    temporary.append(copy)
    return Path(copy.name)
