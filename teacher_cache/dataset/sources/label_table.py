"""Tables of labels beside images: metadata.csv and metadata.jsonl of Hugging Face's imagefolder, or any list.

Layout of metadata files: https://huggingface.co/docs/datasets/image_dataset (a column file_name, relative to
the table; beside such a table the folders' names do not count).
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from teacher_cache.dataset.sources.source import LabelTable
from teacher_cache.errors import DatasetError

METADATA = ("metadata.csv", "metadata.jsonl")
"""Names of Hugging Face's tables, which hold for the images of their folder and below it."""
TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".xls", ".xlsx")
"""Suffixes of files that are tables, whatever they hold."""
_PERHAPS_TABLES = (".txt", ".json", ".xml", ".mat", ".parquet", ".lst", ".list")
_LOOKED_AT_BYTES = 65_536


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
        value = json.loads(text, object_pairs_hook=_without_repeats)
        if isinstance(value, dict):
            value = [{"file_name": name, "label": label} for name, label in value.items()]
        if not isinstance(value, list):
            raise ValueError("it holds neither a list of objects nor an object from names to labels")
        found = list(enumerate(value, 1))
    else:
        lines = enumerate(text.split("\n"), 1)
        found = [
            (number, json.loads(line, object_pairs_hook=_without_repeats))
            for number, line in lines
            if line.strip()
        ]
    odd = next((number for number, row in found if not isinstance(row, dict)), None)
    if odd is not None:
        raise ValueError(f"{'entry' if is_one else 'line'} {odd} is not a JSON object")
    header = list(dict.fromkeys(name for _, row in found for name in row))
    rows = [[row.get(name) for name in header] for _, row in found]
    return LabelTable(where, header, rows, [number for number, _ in found])


def _without_repeats(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        name, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"it names {name!r} twice")
    return found


def may_hold_labels(file: Path, stems: Iterable[str], *, by_suffix: bool = True) -> bool:
    """Return whether a file near images looks like a table of their labels: by its suffix, or its content.

    Args:
        stems: Names of some of the images, without suffixes.
        by_suffix: Whether the suffix of a table is enough; without it, the table has to name an image.
    """
    suffix = file.suffix.lower()
    if by_suffix and suffix in TABLES:
        return True
    if suffix not in (*TABLES, *_PERHAPS_TABLES):
        return False
    with file.open("rb") as stream:
        words = set(re.findall(r"[^\s,;:/\"'<>.]+", stream.read(_LOOKED_AT_BYTES).decode(errors="replace")))
    return any(stem in words for stem in stems)


def can_be_read(file: Path) -> bool:
    """Return whether `read_table` knows a file's kind."""
    return file.suffix.lower() in (".csv", ".tsv", ".jsonl", ".ndjson", ".txt", ".json", ".lst", ".list")
