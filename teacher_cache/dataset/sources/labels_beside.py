"""Tables of labels beside images in folders: found, read, or a reason to refuse the images without them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from teacher_cache.dataset.sources.class_names import RawLabel
from teacher_cache.dataset.sources.label_columns import labels_in
from teacher_cache.dataset.sources.label_table import METADATA, can_be_read, may_hold_labels, read_table
from teacher_cache.dataset.sources.source import NO_ROW_IMAGE, LabelTable, LeftOut, SourceOptions
from teacher_cache.dataset.sources.splits import split_of
from teacher_cache.errors import DatasetError


def tables_beside(beside: Sequence[Path], root: Path, options: SourceOptions) -> list[LabelTable]:
    """Return the tables that hold the labels: the one given, else those named metadata."""
    if options.unlabelled or options.labels is not None:
        return [] if options.labels is None else [options.labels]
    files = [file for file in beside if file.name.lower() in METADATA] if options.metadata else []
    folders = Counter(file.parent for file in files)
    twice = next((folder for folder, count in folders.items() if count > 1), None)
    if twice is not None:
        raise DatasetError(
            f"{twice} holds {' and '.join(METADATA)}",
            "They could give an image two labels.",
            "choose one: --labels FILE; or move one away",
        )
    if options.label_column is not None and not files:
        raise DatasetError(
            f"--label-column {options.label_column} for {root}, which has no table of labels",
            "The flag cannot select anything in this source.",
            "give the table: --labels FILE; or omit the flag",
        )
    return [read_table(file, str(file))._replace(folder=file.parent) for file in files]


def labels_of(
    paths: Sequence[Path],
    tables: Sequence[LabelTable],
    bases: Sequence[Path],
    options: SourceOptions,
    left_out: LeftOut,
) -> list[RawLabel]:
    """Return the label of each image, by the table of the nearest folder."""
    raw: dict[int, RawLabel] = {}
    rest = list(range(len(paths)))
    for table in sorted(tables, key=lambda table: -len(table.folder.parts) if table.folder else 0):
        of_table = [n for n in rest if table.folder is None or paths[n].is_relative_to(table.folder)]
        if not of_table:
            continue
        rest = sorted(set(rest) - set(of_table))
        found = labels_in(table, [paths[n] for n in of_table], bases, options)
        for row in found.unused:
            left_out.add(row, NO_ROW_IMAGE)
        missing = [str(paths[n]) for number, n in enumerate(of_table) if number not in found.labels]
        if missing:
            raise DatasetError(
                f"{len(missing):,} of {len(of_table):,} images have no row in {table.where}: "
                f"{', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''}",
                "They would be without labels.",
                "add their rows, or move the images away; --labels FILE gives another table, "
                "--labels folders takes the names of folders, --unlabelled packs without labels",
            )
        raw |= {of_table[number]: label for number, label in found.labels.items()}
    if rest:
        raise DatasetError(
            f"{len(rest):,} images have no table of labels, and others have one: {paths[rest[0]]}",
            "Either all samples or none must have labels.",
            "give one table for all: --labels FILE; take the names of folders: --labels folders; or pack the "
            "images without labels: --unlabelled",
        )
    return [raw[number] for number in range(len(paths))]


def refuse_tables(root: Path, beside: Sequence[Path], stems: Sequence[str]) -> None:
    """Refuse images without labels beside a file that may hold them. Raises DatasetError."""
    own = split_of(root.name)
    near = set(beside)
    fitting = (
        file
        for file in (*beside, *(file for file in files_in(root.parent) if file not in near))
        if file.parent == root or split_of(file.stem) in (None, own)
    )
    table = next((file for file in fitting if may_hold_labels(file, stems, by_suffix=file in near)), None)
    if table is not None:
        convert = "" if can_be_read(table) else "save it as CSV, and "
        raise DatasetError(
            f"{table} may hold the labels of the images in {root}",
            "They would be packed without labels.",
            f"{convert}take them: --labels {table if not convert else 'FILE'}; or pack the images without "
            "labels: --unlabelled",
        )


def refuse_parts(root: Path, folders: Sequence[Path], beside: Sequence[Path], stems: Sequence[str]) -> None:
    """Refuse folders that differ in their numbers alone, beside a table that names their images."""
    if len({re.sub("[0-9]+", "", folder.name) for folder in folders}) > 1:
        return  # before any file is read: there may be one beside each image
    table = next((file for file in beside if may_hold_labels(file, stems, by_suffix=False)), None)
    if table is not None:
        raise DatasetError(
            f"the folders of {root} differ only in numbers, and {table} names their images",
            "Parts of a dataset would be taken for its classes.",
            f"take the labels of the table: --labels {table}; or the names of folders: --labels folders",
        )


def files_in(folder: Path) -> list[Path]:
    """Return the files in a folder, sorted; none where it cannot be listed."""
    try:
        return sorted(entry for entry in folder.iterdir() if entry.is_file())
    except OSError:
        return []
