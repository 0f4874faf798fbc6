"""Source of images in class folders, or in a folder without labels; images are recognised by content."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from teacher_cache import images
from teacher_cache.dataset.sources.class_names import RawLabel, classes_of
from teacher_cache.dataset.sources.label_table import TABLES
from teacher_cache.dataset.sources.labels_beside import (
    files_in,
    labels_of,
    refuse_parts,
    refuse_tables,
    tables_beside,
)
from teacher_cache.dataset.sources.source import (
    BROKEN_LINK,
    HIDDEN,
    NO_CLASS,
    NO_IMAGE,
    FilePlace,
    LeftOut,
    Sample,
    Source,
    SourceOptions,
    is_system,
    key_of,
)
from teacher_cache.errors import DatasetError

_IMAGE_SUFFIXES = (
    *images.EXTENSIONS,
    *("jpe", "jfif", "bmp", "gif", "tif", "tiff", "ppm", "pgm", "avif", "heic", "heif", "jxl", "jp2"),
)


class _Found(NamedTuple):
    """An image file: its path below the root, and its size in bytes."""

    path: Path
    num_bytes: int


def folder_source(root: Path, options: SourceOptions, above: Sequence[Path] = ()) -> Source:
    """Read root/class/.../image, like torchvision's ImageFolder; or images with a table of labels or none.

    A table that is given, or metadata.csv or metadata.jsonl beside or above the images, goes before the
    folders' names. Links are followed. Hidden and system files, files other than images, and images outside
    the class folders are left out and counted.

    Args:
        above: Folders above `root` in which tables may lie.

    Raises:
        DatasetError: There is no image, a class has none, or what the folders mean is not certain.
    """
    left_out = LeftOut()
    others: dict[Path, str] = {}
    found = sorted(_images_under(root, left_out, others))
    stems = [image.path.stem for image in found[:1000]]
    if not found:
        raise DatasetError(
            f"source {str(root)!r} has no image in a class folder, no .parquet and no .tar",
            "There is nothing to pack.",
            f"give a folder of class folders with images ({', '.join(images.EXTENSIONS)})",
        )
    beside = [*others, *(file for folder in above for file in files_in(folder))]
    tables = tables_beside(beside, root, options)
    read = {table.where for table in tables}
    for file, reason in others.items():
        if str(file) not in read:
            left_out.add(str(file.relative_to(root)), reason)
    loose = [image for image in found if image.path.parent == root]
    raw: list[RawLabel] = [None] * len(found)
    notes = []
    if tables:
        raw = labels_of([image.path for image in found], tables, [root, *root.parents], options, left_out)
        notes.append(f"labels are those of {', '.join(table.where for table in tables[:3])}")
    elif options.unlabelled or len(loose) == len(found):
        if not options.unlabelled:
            refuse_tables(root, beside, stems)
        notes.append("no class folders are taken: the images are without labels")
    else:
        _check_classes(root, found, beside, options)
        if options.metadata:
            refuse_parts(root, class_folders(root), beside, stems)
        for image in loose:
            left_out.add(image.path.name, NO_CLASS)
        found = [image for image in found if image.path.parent != root]
        raw = [image.path.relative_to(root).parts[0] for image in found]
        unread = [str(file) for file in beside if file.suffix.lower() in TABLES]
        notes += [f"labels are the names of the folders; {file} is not read" for file in unread[:3]]
    classes = classes_of(raw, lambda number: str(found[number].path), options.classes)
    keys = _keys([image.path.relative_to(root) for image in found])
    rows = zip(keys, classes.labels, found, strict=True)
    samples = [Sample(key, label, FilePlace(str(image.path), image.num_bytes)) for key, label, image in rows]
    return Source("folders", classes.names, samples, left_out, [*notes, *classes.notes])


def class_folders(root: Path) -> list[Path]:
    """Return the sorted subfolders of a folder, without hidden and system ones; an empty list for a file."""
    entries = root.iterdir() if root.is_dir() else ()
    return sorted(entry for entry in entries if entry.is_dir() and not is_system(entry.name))


def _check_classes(
    root: Path, found: Sequence[_Found], beside: Sequence[Path], options: SourceOptions
) -> None:
    folders = class_folders(root)
    filled = {image.path.relative_to(root).parts[0] for image in found}
    empty = [folder.name for folder in folders if folder.name not in filled]
    if empty:
        raise DatasetError(
            f"class folders without an image: {', '.join(empty[:5])}",
            "These classes would be empty.",
            f"remove them, or convert their images to {', '.join(images.EXTENSIONS)}",
        )
    if len(folders) == 1 and options.classes is None:
        refuse_tables(root, beside, [image.path.stem for image in found[:1000]])
        raise DatasetError(
            f"{root} has all its images in one folder, {folders[0].name!r}",
            "It would be the only class, and every label would be the same.",
            "give the folder of the class folders; or pack the images without labels: --unlabelled; "
            "or name the classes: --classes FILE",
        )


def _images_under(root: Path, left_out: LeftOut, others: dict[Path, str]) -> Iterator[_Found]:
    """Yield the images below a folder, add other files to `others`, and refuse formats not read."""
    unread: list[tuple[str, Path]] = []
    for path in _files_under(root, left_out):
        name = str(path.relative_to(root))
        try:
            with path.open("rb") as file:
                head, size = file.read(images.HEAD_BYTES), os.fstat(file.fileno()).st_size
        except FileNotFoundError:
            left_out.add(name, BROKEN_LINK)
            continue
        except OSError as error:
            raise DatasetError(
                f"{path} cannot be read: {error}", "Nothing was packed.", "check its permissions"
            ) from error
        kind = images.format_of(head)
        if kind in images.EXTENSIONS or (kind is None and path.suffix[1:].lower() in images.EXTENSIONS):
            yield _Found(path, size)  # a file named like an image that is none is refused when it is decoded
        elif kind is not None:
            unread.append((kind, path))
        else:
            is_named = path.suffix[1:].lower() in _IMAGE_SUFFIXES
            others[path] = f"{NO_IMAGE}, though named like one" if is_named else NO_IMAGE
    if unread:
        kinds = Counter(kind for kind, _ in unread)
        raise DatasetError(
            f"{unread[0][1]} is {unread[0][0]}, a format that is not read; in all "
            + ", ".join(f"{count:,} {kind}" for kind, count in kinds.items()),
            "These images would be missing.",
            f"convert them to {', '.join(images.EXTENSIONS)}, or move them away",
        )


def _files_under(root: Path, left_out: LeftOut) -> Iterator[Path]:
    """Yield files in and below a folder, also through links. Raises DatasetError if links form a loop."""
    above: dict[Path, tuple[str, ...]] = {root: ()}
    for name, folders, files in os.walk(root, followlinks=True, onerror=_refuse_folder):
        folder = Path(name)
        here, seen = os.path.realpath(folder), above.pop(folder)
        if here in seen:
            raise DatasetError(
                f"{folder} is a link to a folder above it",
                "Listing its images would never end.",
                "remove the link",
            )
        for path in (folder / each for each in folders if is_system(each)):
            for inner, _, hidden in os.walk(path):
                for each in hidden:
                    left_out.add(str((Path(inner) / each).relative_to(root)), HIDDEN)
        folders[:] = [each for each in sorted(folders) if not is_system(each)]
        above |= {folder / each: (*seen, here) for each in folders}
        for path in (folder / each for each in sorted(files)):
            if is_system(path.name):
                left_out.add(str(path.relative_to(root)), HIDDEN)
            elif path.is_file() or path.is_symlink():
                yield path
            else:
                left_out.add(str(path.relative_to(root)), "a pipe, socket or device")


def _refuse_folder(error: OSError) -> None:
    raise DatasetError(
        f"{error.filename} cannot be listed: {error.strerror}",
        "Its images would be missing.",
        "check its permissions",
    ) from error


def _keys(paths: Sequence[Path]) -> list[str]:
    """Return a key per path, without the suffix unless two paths differ only in it."""
    stems = [str(path.with_name(path.stem)) for path in paths]
    repeated = {stem for stem, count in Counter(stems).items() if count > 1}
    names = (str(path) if stem in repeated else stem for path, stem in zip(paths, stems, strict=True))
    return [key_of(name) for name in names]
