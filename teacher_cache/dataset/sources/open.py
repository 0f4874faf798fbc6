"""Open a path as a source of the right kind and split."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from teacher_cache import images
from teacher_cache.dataset.index import DATASET_FILE, DatasetInfo, read_info
from teacher_cache.dataset.shards import check_shard
from teacher_cache.dataset.sources.folders import class_folders, folder_source
from teacher_cache.dataset.sources.parquet import ARROW_SUFFIX, parquet_source
from teacher_cache.dataset.sources.source import Source, SourceOptions, is_system, readable
from teacher_cache.dataset.sources.splits import check_complete, choose, has_splits
from teacher_cache.dataset.sources.tars import SUFFIXES, tar_source
from teacher_cache.errors import DatasetError
from teacher_cache.storage.store import Store

_OPTIONS = SourceOptions()
_TABLES = (".parquet", ARROW_SUFFIX)
"""Suffixes of files of rows; `save_to_disk` of Hugging Face's datasets writes the second kind."""
_CACHE = re.compile(r"(cache|tmp)-?[0-9a-z_]+\.arrow")
"""Names of the files in which datasets keeps results of map and filter, beside the data."""


@dataclasses.dataclass(frozen=True)
class Found:
    """Folders or files of a source, inside the chosen split.

    Attributes:
        root: Folder of the class folders or files.
        parquet, tars: Files of rows, parquet or Arrow, or tars; both are empty where there are class folders.
        above: Folders passed on the way from the path given to `root`.
        notes: Assumptions, as text.
        packed: Description of a packed dataset; None for other folders.
    """

    root: Path
    parquet: list[Path]
    tars: list[Path]
    notes: list[str]
    packed: DatasetInfo | None = None
    above: Sequence[Path] = ()


def open_source(path: str, options: SourceOptions = _OPTIONS) -> Source:
    """Open a folder or file as a source of the kind it holds.

    Args:
        path: Folder of class folders, of *.parquet or of *.tar, perhaps inside folders of splits; one such
            file; or a packed dataset.

    Raises:
        DatasetError: The path does not exist, holds no known kind of source, or what to take is not certain.
    """
    found = find(path, options)
    check_members(options, is_parquet=bool(found.parquet), is_tars=bool(found.tars))
    if found.parquet:
        source = parquet_source(found.parquet, options)
    elif found.tars:
        if found.packed is not None:
            for file, shard in zip(found.tars, found.packed.shards, strict=True):
                with readable(file):
                    check_shard(file, shard, str(file))
        if found.packed is not None and options.classes is None:
            options = dataclasses.replace(options, classes=found.packed.classes or None)
        source = tar_source(found.tars, options, is_packed=found.packed is not None)
        source = dataclasses.replace(source, packed=found.packed)
    else:
        source = folder_source(found.root, options, found.above)
    return dataclasses.replace(source, notes=[*found.notes, *source.notes])


def check_members(options: SourceOptions, *, is_parquet: bool, is_tars: bool) -> None:
    """Raise DatasetError if flags name columns, members or tables that a source of this kind has not."""
    is_table = not is_parquet and not is_tars
    table = None if options.metadata and options.labels is None else "given"
    for fits, kind, flags in (
        (is_parquet, "parquet files", {"--image-column": options.image_column}),
        (not is_tars, "parquet files or a table", {"--label-column": options.label_column}),
        (is_tars, "tars", {"--image-key": options.image_key, "--label-key": options.label_key}),
        (is_table, "images in folders", {"--labels": table}),
    ):
        given = [flag for flag, value in flags.items() if value is not None]
        if given and not fits:
            raise DatasetError(
                f"{', '.join(given)} for a source without {kind}",
                "The flag cannot select anything in this source.",
                "omit the flag, or give a source of that kind",
            )


def find(path: str, options: SourceOptions = _OPTIONS) -> Found:
    """Find the class folders or files of the chosen split at a path. Raises DatasetError."""
    root, split = Path(path), options.split
    notes: list[str] = []
    above: list[Path] = []
    if not root.exists():
        raise DatasetError(f"source {path!r} does not exist", "There is nothing to pack.", "check the path")
    while True:
        entries = (
            [root] if root.is_file() else [entry for entry in root.iterdir() if not is_system(entry.name)]
        )
        files = [entry for entry in entries if not entry.is_dir()]
        parquet = sorted(entry for entry in files if entry.name.lower().endswith(_TABLES))
        cached = [file for file in parquet if _CACHE.fullmatch(file.name)]
        if cached and len(cached) < len(parquet):
            parquet = [file for file in parquet if file not in cached]
            notes.append(
                f"results that datasets keeps are left out: {', '.join(file.name for file in cached[:5])}"
            )
        tars = sorted(entry for entry in files if entry.name.lower().endswith(SUFFIXES))
        folders = class_folders(root)
        if (root / DATASET_FILE).is_file() and split is not None:
            raise DatasetError(
                f"{root} is a packed dataset, which has no splits such as {split!r}",
                "The whole dataset would be packed.",
                "omit --split",
            )
        if (root / DATASET_FILE).is_file():
            packed = read_info(Store(root))
            return Found(root, [], [root / shard.name for shard in packed.shards], notes, packed)
        if parquet or tars:
            files = _files(root, parquet, tars, folders, dataclasses.replace(options, split=split))
            if len(files) < len(parquet or tars):
                notes.append(f"{len(files):,} of {len(parquet or tars):,} files are of split {split}")
            notes += _beside(root, folders)
            return Found(root, [file for file in files if file in parquet], files if tars else [], notes)
        if root.is_file():
            raise DatasetError(
                f"source {path!r} is a file of an unknown kind",
                "There is nothing to pack.",
                f"give a folder, or a file with the suffix {', '.join((*_TABLES, *SUFFIXES))}",
            )
        if options.splits and has_splits(folders):
            chosen = choose(folders, split, str(root))
            others = ", ".join(folder.name for folder in folders if folder != chosen[0])
            notes.append(f"the split is {chosen[0]}" + (f"; not taken: {others}" if others else ""))
            above, root, split = [*above, root], chosen[0], None
        elif len(folders) == 1 and _is_wrapper(folders[0], root):
            notes.append(f"everything is taken from {folders[0]}")
            above, root = [*above, root], folders[0]
        else:
            break
    if split is not None:
        listed = ", ".join(folder.name for folder in folders[:8]) or "no folder"
        raise DatasetError(
            f"{root} has no split {split!r}",
            "There is nothing to pack.",
            f"found: {listed}; leave --split out, or give the folder that holds the splits",
        )
    return Found(root, [], [], notes, above=above)


def _files(
    root: Path, parquet: list[Path], tars: list[Path], folders: Sequence[Path], options: SourceOptions
) -> list[Path]:
    """Return the files of one kind and split. Raises DatasetError if numbered files are missing."""
    splits_beside = [folder.name for folder in folders if options.splits and has_splits([folder])]
    if len({file.suffix.lower() for file in parquet}) > 1 or (parquet and tars) or splits_beside:
        raise DatasetError(
            f"{root} holds {len(parquet)} parquet or Arrow files, {len(tars)} tars and the folders "
            f"{', '.join(splits_beside) or 'none'}",
            "Any of these could hold the images, and together they could mix several splits.",
            "give one of the folders, or move the others away",
        )
    files = parquet or tars
    if options.splits:
        where = str(root if root.is_dir() else root.parent)
        files = choose(files, options.split, where)
    if root.is_dir():
        check_complete(files)
    return files


def _beside(root: Path, folders: Sequence[Path]) -> list[str]:
    if root.is_file() or not folders:
        return []
    return [f"folders beside the files are left out: {', '.join(folder.name for folder in folders[:5])}"]


def _is_wrapper(folder: Path, root: Path) -> bool:
    """Return whether the only subfolder of `root` holds a source, rather than being a class folder."""
    if any(entry.is_file() and not is_system(entry.name) and _is_image(entry) for entry in root.iterdir()):
        return False
    inner = [entry for entry in folder.iterdir() if not is_system(entry.name)]
    return any(entry.is_dir() or entry.name.lower().endswith((*_TABLES, *SUFFIXES)) for entry in inner)


def _is_image(file: Path) -> bool:
    with file.open("rb") as stream:
        return images.format_of(stream.read(images.HEAD_BYTES)) is not None
