"""Open a path as a source of the right kind and split."""

from __future__ import annotations

import re
from pathlib import Path

from teacher_cache.dataset.source import Source
from teacher_cache.dataset.source_folders import FolderSource, class_folders
from teacher_cache.dataset.source_parquet import ParquetSource
from teacher_cache.dataset.source_tars import TarSource
from teacher_cache.errors import DatasetError

_SPLIT = re.compile(r"(train|test|validation|valid|val|dev)(?![a-z])")
"""Pattern of split names in file names such as train-00000-of-00002.parquet and val.tar."""


def open_source(
    path: str, *, split: str | None = None, image_column: str | None = None, label_column: str | None = None
) -> Source:
    """Open a folder or file as a source of the kind it holds.

    Args:
        path: Folder of class folders, of *.parquet or of *.tar; or one .parquet or .tar file.
        split: Split to take, where folders or the names of parquet files or tars show several.
        image_column: Image column of parquet files; None finds it by type.
        label_column: Label column of parquet files; None finds it by type.

    Raises:
        DatasetError: The path does not exist, or holds no known kind of source.
    """
    root = Path(path)
    if not root.exists():
        raise DatasetError(f"source {path!r} does not exist", "There is nothing to pack.", "check the path")
    files = sorted(root.iterdir()) if root.is_dir() else [root]
    parquet = [file for file in files if file.suffix == ".parquet"]
    tars = [file for file in files if file.suffix == ".tar"]
    if parquet:
        return ParquetSource(_of_split(parquet, split), image_column, label_column)
    if tars:
        return TarSource(_of_split(tars, split))
    return FolderSource(_split_folder(root, split))


def _split_folder(root: Path, split: str | None) -> Path:
    """Return the folder of one split, if the folders in `root` are splits and not classes."""
    folders = class_folders(root)
    splits = [folder.name for folder in folders if _SPLIT.fullmatch(folder.name)]
    if not splits or len(splits) < len(folders):
        return root
    if split not in splits:
        raise DatasetError(
            f"{root} holds the splits {', '.join(splits)}, not classes",
            "Packed together, a student would be trained on what it is tested on.",
            f"choose one: --split {splits[-1]}",
        )
    return root / split


def _of_split(files: list[Path], split: str | None) -> list[Path]:
    """Return the files of one split; refuse to mix splits, which would train on the test set."""
    splits = {file: match[0] if (match := _SPLIT.match(file.stem)) else "" for file in files}
    found = sorted(set(splits.values()))
    if split is None and len(found) > 1:
        raise DatasetError(
            f"{files[0].parent} holds several splits: {', '.join(name or 'unnamed' for name in found)}",
            "Packed together, a student would be trained on what it is tested on.",
            f"choose one: --split {found[-1]}",
        )
    if split is not None and split not in found:
        raise DatasetError(
            f"{files[0].parent} has no split {split!r}",
            "There is nothing to pack.",
            f"found: {', '.join(found)}",
        )
    return [file for file in files if split in (None, splits[file])]
