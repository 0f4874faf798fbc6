"""Pack a dataset as the flags ask, and report what was packed, assumed and left out."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipelines.packing.flags import PackConfig
from teacher_cache.dataset.index import DATASET_FILE, DatasetInfo, read_info
from teacher_cache.dataset.packing.grow import Growth
from teacher_cache.dataset.packing.in_place import files_in, index_in_place
from teacher_cache.dataset.packing.pack import PackOptions, pack
from teacher_cache.dataset.packing.prepare import Reencode
from teacher_cache.dataset.shards import PackedDataset, refuse_in_place
from teacher_cache.dataset.sources.class_names import read_class_list
from teacher_cache.dataset.sources.label_table import read_table
from teacher_cache.dataset.sources.open import open_source
from teacher_cache.dataset.sources.source import SourceOptions
from teacher_cache.errors import DatasetError
from teacher_cache.program.progress import Track
from teacher_cache.storage.local_copies import local_file, local_folder
from teacher_cache.storage.store import Store

_SHARD_SIZE = 5000
_FOLDERS = "folders"
"""Value of --labels that takes the names of folders, even beside metadata.csv."""


@dataclasses.dataclass(frozen=True)
class PackReport:
    """Result of a pack.

    Attributes:
        sha256: Identity of the dataset.
        samples, classes, shards: Number of each; 0 classes if no class names are known.
        skipped: Samples whose images could not be used, as key and reason.
        left_out: Files and members other than samples, and parts of images that are not in their pixels, by
            reason.
        notes: Assumptions, as text.
    """

    sha256: str
    samples: int
    classes: int
    shards: int
    skipped: list[dict[str, str]]
    left_out: list[dict[str, Any]]
    notes: list[str]

    @property
    def lines(self) -> list[str]:
        """Report as text."""
        of_classes = f"of {self.classes:,} classes" if self.classes else "without classes"
        return [
            *self.notes,
            *(
                f"left out {reason['count']:,} ({reason['reason']}): {', '.join(reason['names'][:3])}"
                f"{', ...' if reason['count'] > 3 else ''}"
                for reason in self.left_out
            ),
            *(f"left out {sample['key']}: {sample['reason']}" for sample in self.skipped),
            f"packed {self.samples:,} images {of_classes} into {self.shards:,} shards: "
            f"dataset {self.sha256[:12]}",
        ]


def run_pack(config: PackConfig, track: Track) -> PackReport:
    """Pack a dataset.

    Raises:
        InputError: The source or the flags are wrong; see `open_source` and `pack`.
    """
    choices, options, destination = source_options(config), pack_options(config), Store(config.dst)
    if config.in_place:
        store, name = _files_of(config.src)
        names = files_in(store, choices, name)
        info, notes = index_in_place(store, names, destination, choices, options, track)
        return _report(info, notes)
    base = _base(config.extends) if config.extends else None
    with local_folder(config.src) as src:
        source = open_source(src, choices)
        growth = None if base is None else Growth(base, source)
        packed, notes = growth.base.info if growth else source.packed, [*source.notes]
        if packed is not None and config.shard_size is None:
            options = dataclasses.replace(options, shard_size=packed.samples_per_shard)
        if growth is None and packed is not None and config.seed is None:
            options = dataclasses.replace(options, shuffle=False)
            notes.append("the source is a packed dataset: its order is kept")
        info = pack(growth or source, destination, options, track)
    if "cuttable" in info.source and config.crops:
        whole = info.num_samples - info.source["cuttable"]
        notes.append(
            f"{info.source['cuttable']:,} of {info.num_samples:,} images support fast cropped decoding"
            + (f"; {whole:,}, small or not baseline JPEGs, are decoded in full" if whole else "")
        )
    return _report(info, notes)


def _base(url: str) -> PackedDataset:
    refuse_in_place(read_info(Store(url)), url)
    return PackedDataset(url)


def _files_of(src: str) -> tuple[Store, str | None]:
    """Return the store of the files to index, and the name if `src` is one file. Raises DatasetError."""
    url = src if "://" in src else str(Path(src).resolve())
    folder, _, name = url.rpartition("/")
    if not name.endswith((".tar", ".parquet")):
        return Store(url), None
    source = Store(folder)
    if source.stat(name) is None:
        raise DatasetError(f"source {src!r} does not exist", "There is nothing to index.", "check the path")
    return source, name


def pack_options(config: PackConfig) -> PackOptions:
    """Return the flags as options of `pack`."""
    return PackOptions(
        shard_size=config.shard_size or _SHARD_SIZE,
        seed=config.seed or 0,
        shuffle=config.shuffle,
        reencode=Reencode(config.max_side, config.quality) if config.max_side and config.quality else None,
        skip_corrupt=config.skip_corrupt,
        crops=config.crops,
        workers=config.workers,
    )


def source_options(config: PackConfig) -> SourceOptions:
    """Return the flags as options of `open_source`."""
    classes = None
    if config.classes is not None and Store(config.classes).stat_optional(DATASET_FILE) is not None:
        classes = list(read_info(Store(config.classes)).classes)
    elif config.classes is not None:
        with _given_file("--classes", config.classes, "The order of the classes is not known.") as file:
            classes = read_class_list(file)
    table = None
    if config.labels is not None and config.labels != _FOLDERS:
        with _given_file("--labels", config.labels, "The labels are not known.") as file:
            table = read_table(Path(file), config.labels)
    return SourceOptions(
        split=config.split,
        splits=config.splits,
        classes=classes,
        unlabelled=config.unlabelled,
        labels=table,
        metadata=config.labels != _FOLDERS,
        image_column=config.image_column,
        label_column=config.label_column,
        image_key=config.image_key,
        label_key=config.label_key,
    )


@contextlib.contextmanager
def _given_file(flag: str, url: str, consequence: str) -> Iterator[str]:
    """Yield the local path of a file that a flag names. Raises DatasetError if there is none."""
    try:
        with local_file(url) as file:
            yield file
    except FileNotFoundError as error:
        raise DatasetError(f"{flag} {url} does not exist", consequence, "check the path") from error


def _report(info: DatasetInfo, notes: Sequence[str]) -> PackReport:
    return PackReport(
        sha256=info.sha256,
        samples=info.num_samples,
        classes=len(info.classes),
        shards=len(info.shards),
        skipped=info.source["skipped"],
        left_out=info.source.get("left_out", []),
        notes=list(notes),
    )
