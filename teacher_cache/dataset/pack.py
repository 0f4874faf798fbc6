"""Pack a source into a dataset: the same source and options give the same bytes."""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import webdataset

from teacher_cache import images
from teacher_cache.dataset.grow import Growth
from teacher_cache.dataset.index import (
    DATASET_FILE,
    INDEX_FILE,
    INDEX_SCHEMA,
    DatasetInfo,
    Shard,
    index_bytes,
)
from teacher_cache.dataset.source import Members, Source, pread
from teacher_cache.dataset.source_tars import samples_of
from teacher_cache.errors import DatasetError, ImageError
from teacher_cache.exact.canonical import file_sha256, sha256_hex
from teacher_cache.exact.streams import Purpose, RandomStream, permutation
from teacher_cache.program.progress import Track
from teacher_cache.storage.store import Store

_READ_AHEAD = 256
META = re.compile("__[^/]*__(/|$)")
"""Names of members that belong to no sample; WebDataset skips them (tariterators.py)."""


class Reencode(NamedTuple):
    """Re-encoding of a dataset's images to smaller ones."""

    max_side_px: int
    quality: int


class _Ready(NamedTuple):
    number: int
    members: Members | None
    reason: str


def pack(
    source: Source,
    destination: Store,
    *,
    shard_size: int,
    seed: int,
    reencode: Reencode | None,
    skip_corrupt: bool,
    workers: int,
    track: Track,
) -> DatasetInfo:
    """Pack a source into WebDataset tars with an index, decoding every image once to check it.

    Args:
        source: Source of the samples; a Growth begins with the full shards of another dataset.
        destination: Folder of the dataset, empty or new.
        shard_size: Samples in every shard but the last.
        seed: Seed of the shuffle.
        reencode: Re-encoding to smaller images; None keeps the images' bytes.
        skip_corrupt: Leave out and record images that cannot be decoded, instead of refusing them.
        workers: Number of threads that read and decode.
        track: Progress display.

    Raises:
        DatasetError: Keys are duplicate, labels have no class, or the destination is not empty.
        ImageError: An image cannot be decoded; the message names it.
    """
    _check_source(source)
    if isinstance(source, Growth):
        source.check_reencoding(*(reencode or (None, None)))
        source.check_shard_size(shard_size)
    if destination.list():
        raise DatasetError(
            f"destination {destination.url} is not empty",
            "What lies there could be taken for part of the dataset.",
            "choose a new folder, or empty this one",
        )
    order = permutation(len(source.keys), RandomStream((seed, 0), Purpose.PACK))
    skipped: list[dict[str, str]] = []
    columns: dict[str, list[Any]] = {name: [] for name in INDEX_SCHEMA.names}
    shards: list[Shard] = []
    with track("pack", len(order), "images") as advance, _removed_on_error(destination, shards):
        if isinstance(source, Growth):
            _copy_shards(source, destination, shards, columns)
        read = _prepare(source, order.tolist(), reencode, workers)
        samples = _good(read, source, skip_corrupt, skipped, advance)
        _write_shards(samples, source, destination, shard_size, shards, columns)
    if not shards:
        raise DatasetError("no image of the source can be decoded", "The dataset would be empty.")

    index = index_bytes(pa.table(columns, schema=INDEX_SCHEMA))
    info = DatasetInfo(
        classes=tuple(source.classes),
        shards=tuple(shards),
        index_sha256=sha256_hex(index),
        source={
            "kind": source.kind,
            "seed": seed,
            "max_side_px": reencode.max_side_px if reencode else None,
            "quality": reencode.quality if reencode else None,
            "skipped": skipped,
        },
    )
    destination.put(INDEX_FILE, index)
    destination.put(DATASET_FILE, info.to_bytes())
    return info


def _write_shards(
    samples: Iterator[tuple[int, Members]],
    source: Source,
    destination: Store,
    shard_size: int,
    shards: list[Shard],
    columns: dict[str, list[Any]],
) -> None:
    """Write tars of `shard_size` samples, and append them to the shards and the index's columns."""
    while (first := next(samples, None)) is not None:
        name = f"shard-{len(shards):06d}.tar"
        with destination.put_file(name) as path:
            num_samples = _write_tar(path, source, first, samples, shard_size)
            index_tar(path, len(shards), columns)
            digest = file_sha256(path)
            shards.append(Shard(name, digest, path.stat().st_size, num_samples))


@contextlib.contextmanager
def _removed_on_error(destination: Store, shards: list[Shard]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        for shard in shards:
            destination.delete(shard.name)
        raise


def _copy_shards(
    growth: Growth, destination: Store, shards: list[Shard], columns: dict[str, list[Any]]
) -> None:
    """Copy the full shards of a growing dataset, and index them again."""
    for shard in growth.full_shards:
        with destination.put_file(shard.name) as path:
            shutil.copyfile(growth.base.shard_path(shard), path)
            index_tar(path, len(shards), columns)
            if file_sha256(path) != shard.sha256:
                raise DatasetError(
                    f"{growth.base.shard_path(shard)} does not have the sha256 in dataset.json",
                    "Nothing was packed.",
                    "copy the shard again",
                )
        shards.append(shard)


def _check_source(source: Source) -> None:
    key, count = Counter(source.keys).most_common(1)[0]
    if count > 1:
        places = [source.location(number) for number, other in enumerate(source.keys) if other == key]
        raise DatasetError(
            f"key {key!r} is there {count} times: {', '.join(places[:3])}",
            "A label could not be told apart from another's.",
            "rename or remove all but one",
        )
    odd = next((number for number, other in enumerate(source.keys) if META.match(other)), None)
    if odd is not None:
        raise DatasetError(
            f"key {source.keys[odd]!r} of {source.location(odd)}",
            "WebDataset passes over names that begin like __this__/.",
            "rename its folder",
        )
    for number, label in enumerate(source.labels):
        if not 0 <= label < len(source.classes):
            raise DatasetError(
                f"{source.location(number)} has label {label}, but there are {len(source.classes)} classes",
                "It has no class name.",
                "correct the label",
            )


def _prepare(source: Source, order: list[int], reencode: Reencode | None, workers: int) -> Iterator[_Ready]:
    """Read, check and re-encode samples in threads, yielding them in order, a bounded number ahead."""

    def prepare(number: int) -> _Ready:
        try:
            members = source.read(number)
        except OSError as error:
            raise DatasetError(
                f"{source.location(number)} cannot be read: {error}",
                "Nothing was packed.",
                "check the source",
            ) from error
        try:
            pixels_HWC = images.decode(members.image, source.location(number))
        except ImageError as error:
            return _Ready(number, None, error.value)
        if reencode and not (isinstance(source, Growth) and source.is_packed(number)):
            small_HWC = images.shrink(pixels_HWC, reencode.max_side_px)
            members = Members(images.encode_jpeg(small_HWC, reencode.quality), members.others)
        return _Ready(number, members, "")

    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(order), _READ_AHEAD):
            yield from pool.map(prepare, order[start : start + _READ_AHEAD])


def _good(
    samples: Iterator[_Ready], source: Source, skip_corrupt: bool, skipped: list[dict[str, str]], advance: Any
) -> Iterator[tuple[int, Members]]:
    for sample in samples:
        advance(1)
        if sample.members is not None:
            yield sample.number, sample.members
        elif skip_corrupt:
            skipped.append({"key": source.keys[sample.number], "reason": sample.reason})
        else:
            raise ImageError(
                sample.reason,
                "Nothing was packed: a teacher or a student that met this image would stop.",
                "replace or remove the file, or leave such images out with --skip-corrupt",
            )


def _write_tar(
    path: Path, source: Source, first: tuple[int, Members], rest: Iterator[tuple[int, Members]], limit: int
) -> int:
    """Write up to `limit` samples, and return the number written."""
    count = 0
    with (
        path.open("wb") as file,
        webdataset.TarWriter(file, encoder=False, mtime=0, format="PAX_FORMAT") as tar,
    ):
        sample: tuple[int, Members] | None = first
        while sample is not None:
            number, members = sample
            tar.write(
                {
                    "__key__": source.keys[number],
                    images.extension_of(members.image): members.image,
                    "cls": str(source.labels[number]).encode(),
                    **members.others,
                }
            )
            count += 1
            sample = next(rest, None) if count < limit else None
    return count


def index_tar(
    path: Path, shard: int, columns: dict[str, list[Any]], offsets_of: Mapping[str, str] | None = None
) -> None:
    """Append the position, label and digest of every sample of a tar, in its order, to the index's columns.

    Args:
        path: Tar of the samples.
        shard: Number of the tar.
        columns: Columns by name; see INDEX_SCHEMA.
        offsets_of: Further columns of offsets, by the extension of the located members.
    """
    with path.open("rb") as file:
        for key, members in samples_of(path):
            if META.match(key):
                continue
            columns["key"].append(key)
            columns["shard"].append(shard)
            for extension, (offset, size) in members.items():
                if extension == "cls":
                    columns["label"].append(int(pread(file.fileno(), offset, size)))
                elif extension in images.EXTENSIONS:
                    columns["offset"].append(offset)
                    columns["size"].append(size)
                    columns["sha256"].append(hashlib.sha256(pread(file.fileno(), offset, size)).digest())
                elif offsets_of and extension in offsets_of:
                    columns[offsets_of[extension]].append(offset)
