"""Tables of labels beside images: metadata.csv and metadata.jsonl of Hugging Face's imagefolder, or any list.

Layout of metadata files: https://huggingface.co/docs/datasets/image_dataset (a column file_name, relative to
the table; beside such a table the folders' names do not count).
"""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from teacher_cache.dataset.sources.class_names import RawLabel
from teacher_cache.dataset.sources.source import LabelTable, SourceOptions
from teacher_cache.errors import DatasetError, nearest

METADATA = ("metadata.csv", "metadata.jsonl")
"""Names of Hugging Face's tables, which hold for the images of their folder and below it."""
_FILE_COLUMNS = (
    *("file_name", "filename", "file", "file_path", "filepath", "path", "image", "image_id", "image_name"),
    *("image_path", "imageid", "img", "img_name", "name", "id", "key"),
)
_SPLIT_COLUMNS = ("split", "subset", "data_set", "dataset", "partition", "set", "usage")
_LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category", "target")
TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".xls", ".xlsx")
"""Suffixes of files that are tables, whatever they hold."""
_PERHAPS_TABLES = (".txt", ".json", ".xml", ".mat", ".parquet", ".lst", ".list")
_LOOKED_AT_BYTES = 65_536
_WHOLE = re.compile(r"[+-]?[0-9]+(\.0*)?")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def read_table(file: Path, where: str) -> LabelTable:
    """Read CSV, TSV, a list separated by spaces, JSON lines, or a JSON object from names to labels.

    Args:
        where: Name of the file for messages, if it is a copy.

    Raises:
        DatasetError: The file cannot be read, has no rows, or rows of different lengths.
    """
    try:
        data = file.read_bytes()
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
        suffix = PurePosixPath(where).suffix.lower()
        if suffix in (".json", ".jsonl", ".ndjson"):
            table = _of_json(text, suffix == ".json", where)
        else:
            table = _of_lines(text, where)
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        raise DatasetError(
            f"table of labels {where} cannot be read: {error}",
            "The labels are not known.",
            "give a CSV file with the columns file_name and label",
        ) from error
    if not table.rows:
        raise DatasetError(f"table of labels {where} has no rows", "The labels are not known.", "check it")
    return table


def _of_lines(text: str, where: str) -> LabelTable:
    first = next((line for line in text.splitlines() if line.strip()), "")
    separator = next((each for each in "\t,;" if each in first), " ")
    reader = csv.reader(io.StringIO(text), delimiter=separator, skipinitialspace=True, strict=True)
    rows: list[list[str]] = []
    lines = []
    for cells in reader:
        row = [cell.strip() for cell in cells]
        if separator == " ":
            row = [cell for cell in row if cell]
        if not any(row):
            continue
        if rows and len(row) != len(rows[0]):
            raise ValueError(f"line {reader.line_num} has {len(row)} cells, and those above {len(rows[0])}")
        rows.append(row)
        lines.append(reader.line_num)
    return LabelTable(where, None, rows, lines)


def _of_json(text: str, is_one: bool, where: str) -> LabelTable:
    if is_one:
        value = json.loads(text)
        if isinstance(value, dict):
            value = [{"file_name": name, "label": label} for name, label in value.items()]
        if not isinstance(value, list):
            raise ValueError("it holds neither a list of objects nor an object from names to labels")
        found = list(enumerate(value, 1))
    else:
        lines = enumerate(text.split("\n"), 1)
        found = [(number, json.loads(line)) for number, line in lines if line.strip()]
    odd = next((number for number, row in found if not isinstance(row, dict)), None)
    if odd is not None:
        raise ValueError(f"{'entry' if is_one else 'line'} {odd} is not a JSON object")
    header = list(dict.fromkeys(name for _, row in found for name in row))
    rows = [[row.get(name) for name in header] for _, row in found]
    return LabelTable(where, header, rows, [number for number, _ in found])


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
        bases: Folders that the names may be relative to.
        options: Column of the labels, else found by its name; and whether splits may be mixed.

    Raises:
        DatasetError: The columns are not certain, rows are of several splits, two rows give an image two
            labels, or a label is none.
    """
    best: tuple[int, Mapping[str, int]] = (-1, {})
    cells = {_folded(cell) for row in table.rows for cell in row if isinstance(cell, str)}
    for known in _ways_to_name(images, [table.folder] if table.folder else bases):
        count = len(cells & known.keys())
        best = max(best, (count, known), key=lambda way: way[0])
        if count == len(images):
            break
    known = best[1]
    header, rows, lines = _with_header(table, known)
    name_at, label_at = _columns(table.where, header, rows, known, options.label_column)
    if options.splits:
        _check_split(table.where, header, [row for row in rows if _folded(str(row[name_at])) in known])
    label_of = _label_reader([row[label_at] for row in rows])
    labels: dict[int, RawLabel] = {}
    unused = []
    for row, line in zip(rows, lines, strict=True):
        number = known.get(_folded(str(row[name_at])))
        if number is None:
            unused.append(f"line {line} of {table.where}: {row[name_at]}")
            continue
        try:
            label = label_of(row[label_at])
        except ValueError as error:
            raise DatasetError(
                f"line {line} of {table.where}, {row[name_at]}, {error}",
                "Every image needs one class.",
                "correct the line, name another column with --label-column, or pack without labels: "
                "--unlabelled",
            ) from error
        if labels.setdefault(number, label) != label:
            raise DatasetError(
                f"line {line} of {table.where} gives {row[name_at]} the label {label!r}, and one above "
                f"{labels[number]!r}",
                "Every image needs one class.",
                "leave one row for each image",
            )
    return Labelled(labels, unused)


def _ways_to_name(images: Sequence[Path], bases: Iterable[Path | None]) -> Iterable[Mapping[str, int]]:
    """Yield mappings from names to numbers of images; a name that several images have is left out."""
    for base in bases:
        if base is not None:
            paths = [image.relative_to(base) if image.is_relative_to(base) else image for image in images]
            yield _unique(paths)
            yield _unique([path.with_suffix("") for path in paths])
    yield _unique([Path(image.name) for image in images])
    yield _unique([Path(image.stem) for image in images])


def _unique(names: Sequence[Path]) -> dict[str, int]:
    found: dict[str, int] = {}
    repeated = set()
    for number, name in enumerate(names):
        if found.setdefault(_folded(name.as_posix()), number) != number:
            repeated.add(_folded(name.as_posix()))
    return {name: number for name, number in found.items() if name not in repeated}


def _folded(name: str) -> str:
    """Return one spelling for a path that Windows, macOS or a person wrote in another way."""
    return unicodedata.normalize("NFC", name.strip().replace("\\", "/").removeprefix("./"))


def _with_header(
    table: LabelTable, known: Mapping[str, int]
) -> tuple[Sequence[str], Sequence[Sequence[Any]], Sequence[int]]:
    """Return the columns' names, the rows and their lines; columns without names are called 1, 2, 3 ...

    The first row of a table without a header names an image.
    """
    if table.header is not None:
        return table.header, table.rows, table.lines
    first = table.rows[0]
    if any(_folded(cell) in known for cell in first):
        return [str(number) for number in range(1, len(first) + 1)], table.rows, table.lines
    return first, table.rows[1:], table.lines[1:]


def _columns(
    where: str,
    header: Sequence[str],
    rows: Sequence[Sequence[Any]],
    known: Mapping[str, int],
    label: str | None,
) -> tuple[int, int]:
    """Return the positions of the columns of files and labels. Raises DatasetError if one is not certain."""
    if len(set(header)) < len(header):
        raise DatasetError(f"{where} has two columns of one name: {', '.join(header)}", "", "rename one")
    if label is not None and label not in header:
        raise DatasetError(
            f"{where} has no column {label!r}; it has {', '.join(header)}",
            "The labels are not known.",
            nearest(label, header) or "name one of these with --label-column",
        )
    lower = [name.lower().replace(" ", "_") for name in header]
    counts = [sum(_folded(str(row[n])) in known for row in rows) for n in range(len(header))]
    named = [n for n, name in enumerate(lower) if name in _FILE_COLUMNS and counts[n]]
    files = named if len(named) == 1 else [n for n, count in enumerate(counts) if count == max(counts) > 0]
    files = [n for n in files if header[n] != label]
    if len(files) != 1:
        raise DatasetError(
            f"{where} has {len(files)} columns that name the images, of {', '.join(header)}",
            "The image of a row is not certain.",
            "give a table with a column file_name: paths below the source, or names of files",
        )
    if label is not None:
        return files[0], header.index(label)
    labels = [n for n, name in enumerate(lower) if name in _LABEL_COLUMNS and n != files[0]]
    if not labels and len(header) == 2:
        labels = [1 - files[0]]
    if len(labels) != 1:
        raise DatasetError(
            f"{where} has {len(labels)} columns that could hold the labels, of {', '.join(header)}",
            "The class of an image is not certain.",
            "name the column: --label-column NAME; or pack the images without labels: --unlabelled",
        )
    return files[0], labels[0]


def _check_split(where: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    for number, name in enumerate(header):
        found = sorted({str(row[number]) for row in rows})
        if name.lower().replace(" ", "_") in _SPLIT_COLUMNS and len(found) > 1:
            raise DatasetError(
                f"column {name!r} of {where} holds several splits: {', '.join(found[:8])}",
                "Packed together, a student would be trained on what it is tested on.",
                "give the images and rows of one split; or give --no-splits if these are not splits",
            )


def _label_reader(cells: Sequence[Any]) -> Callable[[Any], RawLabel]:
    """Return a function from a cell to a class id or name.

    A column whose every cell is a whole number, without zeros before it, holds class ids, as pandas and
    Hugging Face read it; so do 1.0 and 2.0, which pandas writes. Text in JSON is a name.
    """
    texts = [cell for cell in cells if isinstance(cell, str)]
    are_ids = len(texts) == len(cells) and all(_WHOLE.fullmatch(text) for text in texts)
    are_ids = are_ids and not any(re.match("[+-]?0[0-9]", text) for text in texts)
    are_numbers = len(texts) == len(cells) and all(_NUMBER.fullmatch(text) for text in texts)

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


def may_hold_labels(file: Path, stems: Iterable[str]) -> bool:
    """Return whether a file beside images looks like a table of their labels: by its suffix, or its content.

    Args:
        stems: Names of some of the images, without suffixes.
    """
    suffix = file.suffix.lower()
    if suffix in TABLES:
        return True
    if suffix not in _PERHAPS_TABLES:
        return False
    with file.open("rb") as stream:
        words = set(re.findall(r"[^\s,;:/\"'<>.]+", stream.read(_LOOKED_AT_BYTES).decode(errors="replace")))
    return any(stem in words for stem in stems)
