"""Pack a dataset as the flags ask, and report what was packed, assumed and left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.packing.flags import PackConfig
from teacher_cache.dataset.index import DATASET_FILE, DatasetInfo, read_info
from teacher_cache.dataset.packing.grow import Growth
from teacher_cache.dataset.packing.in_place import files_in, index_in_place
from teacher_cache.dataset.packing.pack import pack
from teacher_cache.dataset.packing.prepare import Reencode
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.dataset.sources.class_names import read_class_list
from teacher_cache.dataset.sources.open import open_source
from teacher_cache.dataset.sources.source import SourceOptions
from teacher_cache.errors import DatasetError
from teacher_cache.program.progress import Track
from teacher_cache.storage.store import Store, local_file, local_folder

_SHARD_SIZE = 5000


@dataclasses.dataclass(frozen=True)
class PackReport:
    """Result of a pack.

    Attributes:
        sha256: Identity of the dataset.
        samples, classes, shards: Number of each; 0 classes where nothing names them.
        skipped: Samples whose images could not be used, as key and reason.
        left_out: Files and members other than samples, by reason.
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
    if config.in_place:
        return _run_in_place(config, track)
    reencode = Reencode(config.max_side, config.quality) if config.max_side and config.quality else None
    options = source_options(config)
    with local_folder(config.src) as src:
        source = open_source(src, options)
        growth = Growth(PackedDataset(config.extends), source) if config.extends else None
        packed = growth.base.info if growth else source.packed
        keeps_order = growth is None and packed is not None and config.seed is None
        notes = [*source.notes]
        if keeps_order:
            notes.append("the source is a packed dataset: its order is kept")
        info = pack(
            growth or source,
            Store(config.dst),
            shard_size=config.shard_size or (packed.samples_per_shard if packed else _SHARD_SIZE),
            seed=config.seed or 0,
            reencode=reencode,
            skip_corrupt=config.skip_corrupt,
            workers=config.workers,
            track=track,
            shuffle=config.shuffle and not keeps_order,
            crops=config.crops,
        )
    if "cuttable" in info.source and config.crops:
        whole = info.num_samples - info.source["cuttable"]
        notes.append(
            f"{info.source['cuttable']:,} of {info.num_samples:,} images support fast cropped decoding"
            + (f"; {whole:,}, small or not baseline JPEGs, are decoded in full" if whole else "")
        )
    return _report(info, notes)


def _run_in_place(config: PackConfig, track: Track) -> PackReport:
    src = config.src if "://" in config.src else str(Path(config.src).resolve())
    options = source_options(config)
    folder, _, name = src.rpartition("/")
    is_file = name.endswith((".tar", ".parquet"))
    source = Store(folder if is_file else src)
    if is_file and source.stat(name) is None:
        raise DatasetError(
            f"source {config.src!r} does not exist", "There is nothing to index.", "check the path"
        )
    info, notes = index_in_place(
        source,
        files_in(source, options, name if is_file else None),
        Store(config.dst),
        options,
        shard_size=config.shard_size or _SHARD_SIZE,
        skip_corrupt=config.skip_corrupt,
        workers=config.workers,
        track=track,
    )
    return _report(info, notes)


def source_options(config: PackConfig) -> SourceOptions:
    """Return the options that the flags set."""
    classes = None
    if config.classes is not None and Store(config.classes).stat(DATASET_FILE) is not None:
        classes = list(read_info(Store(config.classes)).classes)
    elif config.classes is not None:
        try:
            with local_file(config.classes) as file:
                classes = read_class_list(file)
        except FileNotFoundError as error:
            raise DatasetError(
                f"--classes {config.classes} does not exist",
                "The order of the classes is not known.",
                "check it",
            ) from error
    return SourceOptions(
        split=config.split,
        splits=config.splits,
        classes=classes,
        unlabelled=config.unlabelled,
        image_column=config.image_column,
        label_column=config.label_column,
        image_key=config.image_key,
        label_key=config.label_key,
    )


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
