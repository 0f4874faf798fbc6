"""Columns of a table of labels: which one names the images, in which way, and which one holds the labels."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from teacher_cache.dataset.sources.class_names import RawLabel
from teacher_cache.dataset.sources.source import LabelTable, SourceOptions
from teacher_cache.errors import DatasetError, nearest
from teacher_cache.images import EXTENSIONS

_PATH_COLUMNS = ("file_name", "filename", "file_path", "filepath", "path", "image_path", "img_path")
_IMAGE_SUFFIXES = (*(f".{name}" for name in EXTENSIONS), ".jpe", ".jfif")
_FLAGS = {"0", "1", "0.0", "1.0"}
_MANY_ROWS = 20
"""Rows from which a column that nothing names counts as no column of classes if most values differ."""
_SPLIT_COLUMNS = ("split", "subset", "data_set", "dataset", "partition", "set", "usage")
_FILE_COLUMNS = (
    *("file_name", "filename", "file", "file_path", "filepath", "path", "image", "image_id", "image_name"),
    *("image_path", "imageid", "img", "img_name", "name", "id", "key"),
)
_LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category", "target")
_WHOLE = re.compile(r"[+-]?[0-9]+(\.0*)?")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


class Labelled(NamedTuple):
    """Labels of images by number, and the rows that no image has, as text."""

    labels: dict[int, RawLabel]
    unused: list[str]


def labels_in(
    table: LabelTable, images: Sequence[Path], bases: Sequence[Path], options: SourceOptions
) -> Labelled:
    """Return the label of each image that a table names.

    Rows name images by their path below the table's folder or a base, with or without its suffix; or by the
    file's name alone, where no two images have the same. All rows are read in the same way: the first in
    which every image has a row, else the one in which most have.

    Args:
        images: Paths of the images.
        bases: Folders that the names may be relative to, where the table has none of its own: that of the
            images, then folders above it.
        options: Column of the labels, else found by its name; and whether splits may be mixed.

    Raises:
        DatasetError: The columns are not certain, rows are of several splits, two rows give an image two
            labels, or a label is none.
    """
    ways = _ways_to_name(images, [table.folder] if table.folder else bases)
    header, rows, lines = _with_header(table, ways)
    lower = [name.lower().replace(" ", "_") for name in header]
    way, name_at = _way_and_column(table.where, ways, header, lower, rows, options.label_column, len(images))
    named = [way.image_of(_folded(row[name_at])) for row in rows]
    used = [row for row, number in zip(rows, named, strict=True) if number is not None]
    label_at = _label_column(table, header, lower, name_at, used, options.label_column)
    if options.splits:
        _check_split(table.where, header, lower, used)
    label_of = _label_reader([row[label_at] for row in used], is_text=table.header is None)
    labels: dict[int, RawLabel] = {}
    unused = []
    for row, number, line in zip(rows, named, lines, strict=True):
        name = row[name_at]
        if number is None:
            unused.append(f"line {line} of {PurePosixPath(table.where.partition('?')[0]).name}: {name}")
            continue
        try:
            label = label_of(row[label_at])
        except ValueError as error:
            raise DatasetError(
                f"line {line} of {table.where}, {name}, {error}",
                "Every image needs one class.",
                "correct the line, name another column with --label-column, or pack without labels: "
                "--unlabelled",
            ) from error
        if labels.setdefault(number, label) != label:
            raise DatasetError(
                f"line {line} of {table.where} gives {name} the label {label!r}, and one above "
                f"{labels[number]!r}",
                "Every image needs one class.",
                "leave one row for each image",
            )
    return Labelled(labels, unused)


class _Way(NamedTuple):
    """A way in which cells may name images.

    Attributes:
        known: Numbers of the images by name; a name that several images have is left out.
        before: What stands before the name in a cell; None leaves any folders aside.
    """

    known: Mapping[str, int]
    before: str | None

    def image_of(self, name: str) -> int | None:
        """Return the number of the image that a cell, folded, names; None for any other cell."""
        if self.before is None:
            return self.known.get(name.rpartition("/")[2])
        return self.known.get(name[len(self.before) :]) if name.startswith(self.before) else None


def _ways_to_name(images: Sequence[Path], bases: Sequence[Path]) -> list[_Way]:
    paths = [image.relative_to(bases[0]) for image in images]
    by_path = [_unique(paths), _unique([path.with_suffix("") for path in paths])]
    above = [bases[0].relative_to(base) for base in bases]
    before = ["" if folder == Path() else _folded(f"{folder.as_posix()}/") for folder in above]
    by_name = [
        _unique([Path(image.name) for image in images]),
        _unique([Path(image.stem) for image in images]),
    ]
    return [_Way(known, each) for each in before for known in by_path] + [
        _Way(known, None) for known in by_name
    ]


def _unique(names: Sequence[Path]) -> dict[str, int]:
    found: dict[str, int] = {}
    repeated = set()
    for number, name in enumerate(names):
        if found.setdefault(_folded(name.as_posix()), number) != number:
            repeated.add(_folded(name.as_posix()))
    return {name: number for name, number in found.items() if name not in repeated}


def _folded(name: Any) -> str:
    """Return one spelling for a path that Windows, macOS or a person wrote in another way."""
    return unicodedata.normalize("NFC", str(name).strip().replace("\\", "/").removeprefix("./"))


def _with_header(
    table: LabelTable, ways: Sequence[_Way]
) -> tuple[Sequence[str], Sequence[Sequence[Any]], Sequence[int]]:
    """Return the columns' names, the rows and their lines; columns without names are called 1, 2, 3 ...

    The first row of a table without a header names an image.
    """
    header, rows, lines = table.header, table.rows, table.lines
    if header is None:
        first = [_folded(cell) for cell in rows[0]]
        if any(_is_image_name(cell) or any(way.image_of(cell) is not None for way in ways) for cell in first):
            header = [str(number) for number in range(1, len(rows[0]) + 1)]
        else:
            header, rows, lines = rows[0], rows[1:], lines[1:]
    if len(set(header)) < len(header):
        raise DatasetError(
            f"{table.where} has two columns of one name: {', '.join(header)}", "", "rename one"
        )
    return header, rows, lines


def _way_and_column(
    where: str,
    ways: Sequence[_Way],
    header: Sequence[str],
    lower: Sequence[str],
    rows: Sequence[Sequence[Any]],
    label: str | None,
    num_images: int,
) -> tuple[_Way, int]:
    """Return the way in which most images have a row, and the column that names them.

    A column of paths, by its name or by the suffixes in it, is the only one that may name images where there
    is one: numbers of rows would otherwise be taken for files such as 0.png.
    """
    columns = [n for n, name in enumerate(lower) if name not in _LABEL_COLUMNS and header[n] != label]
    paths = [n for n in columns if lower[n] in _PATH_COLUMNS]
    paths = paths or [n for n in columns if rows and all(_is_image_name(row[n]) for row in rows[:100])]
    names = {n: [_folded(row[n]) for row in rows] for n in paths or columns}
    best: tuple[int, _Way, list[int]] = (0, ways[0], [])
    for way in ways:
        counts = {n: len(set(map(way.image_of, names[n])) - {None}) for n in names}
        most = max(counts.values(), default=0)
        if most > best[0]:
            named = [n for n, count in counts.items() if count and lower[n] in _FILE_COLUMNS]
            best = most, way, named if len(named) == 1 else [n for n in counts if counts[n] == most]
        if most == num_images:
            break
    if len(best[2]) != 1:
        raise DatasetError(
            f"{where} has {len(best[2])} columns that name the images, of {', '.join(header)}",
            "The image of a row is not certain.",
            "give a table with a column file_name: paths below the source, or names of files; or --labels "
            "folders takes the names of folders",
        )
    return best[1], best[2][0]


def _label_column(
    table: LabelTable,
    header: Sequence[str],
    lower: Sequence[str],
    name_at: int,
    rows: Sequence[Sequence[Any]],
    label: str | None,
) -> int:
    if label is not None:
        if label not in header:
            raise DatasetError(
                f"{table.where} has no column {label!r}; it has {', '.join(header)}",
                "The labels are not known.",
                nearest(label, header) or "name one of these with --label-column",
            )
        return header.index(label)
    found = [n for n, name in enumerate(lower) if name in _LABEL_COLUMNS and n != name_at]
    others = [n for n in range(len(header)) if n != name_at]
    is_guess = not found and len(others) == 1 and table.folder is None
    found = others if is_guess else found
    if len(found) != 1:
        are_flags = len(others) > 1 and all({str(row[n]) for row in rows} <= _FLAGS for n in others)
        raise DatasetError(
            f"{table.where} has {len(found)} columns that could hold the labels, of {', '.join(header)}",
            "A column for each class is not read." if are_flags else "The class of an image is not certain.",
            "make one column of the classes' names"
            if are_flags
            else "name the column: --label-column NAME; "
            "--labels folders takes the names of folders, --unlabelled packs without labels",
        )
    different = {str(row[found[0]]) for row in rows}
    if is_guess and len(rows) >= _MANY_ROWS and len(different) > len(rows) / 2:
        raise DatasetError(
            f"column {header[found[0]]!r} of {table.where} holds {len(different):,} different values in "
            f"{len(rows):,} rows",
            "Nearly every image would be a class of its own.",
            "if they are the classes, name the column: --label-column NAME",
        )
    return found[0]


def _check_split(
    where: str, header: Sequence[str], lower: Sequence[str], rows: Sequence[Sequence[Any]]
) -> None:
    for number in (number for number, name in enumerate(lower) if name in _SPLIT_COLUMNS):
        found = sorted({str(row[number]) for row in rows})
        if len(found) > 1:
            raise DatasetError(
                f"column {header[number]!r} of {where} holds several splits: {', '.join(found[:8])}",
                "Packed together, a student would be trained on what it is tested on.",
                "give the images and rows of one split; or give --no-splits if these are not splits",
            )


def _label_reader(cells: Sequence[Any], *, is_text: bool) -> Callable[[Any], RawLabel]:
    """Return a function from a cell to a class id or name.

    A column whose every cell is a whole number, without zeros before it, holds class ids, as pandas and
    Hugging Face read it; so do 1.0 and 2.0, which pandas writes.

    Args:
        cells: Cells of the rows that name an image.
        is_text: Whether the table knows only text; where it has types, as JSON does, text is a name.
    """
    texts = [cell for cell in cells if isinstance(cell, str) and cell]
    are_ids = is_text and all(_WHOLE.fullmatch(text) for text in texts)
    are_ids = are_ids and not any(re.match("[+-]?0[0-9]", text) for text in texts)
    are_numbers = is_text and all(_NUMBER.fullmatch(text) for text in texts)

    def label_of(cell: Any) -> RawLabel:
        if cell is None or cell == "":
            raise ValueError("has no label")
        if isinstance(cell, bool):
            return str(cell)
        if isinstance(cell, float) and cell.is_integer():
            return int(cell)
        if are_ids:
            return int(cell.partition(".")[0])
        if not isinstance(cell, (int, str)) or (are_numbers and not re.fullmatch("[0-9]+", str(cell))):
            raise ValueError(f"has label {str(cell)[:40]!r}, which does not name a class")
        return cell

    return label_of


def _is_image_name(cell: Any) -> bool:
    return str(cell).lower().strip().endswith(_IMAGE_SUFFIXES)
