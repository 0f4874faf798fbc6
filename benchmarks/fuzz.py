"""Random mutations of tars, parquet files and folders: each ends in a right dataset or a clear refusal.

    python -m benchmarks.fuzz --mutations 2000

Sources are class folders, tars, parquet files with ClassLabels, and images beside a table of labels; names
are of any script, in any Unicode form, with numbers and spaces among them. A mutation flips, cuts, repeats or
exchanges bytes of a file, swaps lines of a table, or renames, empties, links or nests files. Then the source
is packed, and tars and parquet files are indexed in place. What is packed must open, every image must decode,
every label must be a class, and each image must have the class that its file, row or folder gives it: no id
changes in silence. Anything but that or an error of exit code 2 is a failure, and so is a run that takes
longer than a minute.
"""

from __future__ import annotations

import collections
import csv
import dataclasses
import hashlib
import io
import json
import random
import re
import signal
import sys
import tarfile
import tempfile
import traceback
import unicodedata
import warnings
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pyarrow.parquet as pq
from msgspec import Meta
from rich.console import Console
from rich.table import Table

from benchmarks.common import write_json
from benchmarks.fuzz_sources import MAKERS, TABLE_SUFFIXES
from teacher_cache import images
from teacher_cache.dataset.packing.in_place import files_in, index_in_place
from teacher_cache.dataset.packing.pack import PackOptions, pack
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.dataset.sources.label_table import read_table
from teacher_cache.dataset.sources.open import open_source
from teacher_cache.dataset.sources.source import SourceOptions
from teacher_cache.errors import InputError
from teacher_cache.program.commandline import Command, run_single
from teacher_cache.program.flags import Flags
from teacher_cache.program.progress import silent
from teacher_cache.storage.store import Store

_LIMIT_S = 60
_NAMES = ("train", "val", "a b", "猫", ".hidden", "__x__", "x" * 120, "0", "a.b.c", "TEST", "%41", "é")


@dataclasses.dataclass(frozen=True)
class FuzzConfig(Flags):
    """Pack randomly mutated sources."""

    mutations: Annotated[int, Meta(ge=1)] = 2000
    """Mutated sources to pack."""
    seed: Annotated[int, Meta(ge=0)] = 0
    """Seed of all mutations."""
    json: str | None = None
    """File for the result."""


def _mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    start, length = rng.randrange(len(data) + 1), rng.choice([1, 4, 100, 512, 1024])
    kind = rng.randrange(6)
    if kind == 0:
        flipped = bytearray(data)
        for _ in range(rng.choice([1, 1, 3, 50])):
            flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return bytes(flipped)
    middle = {1: b"", 2: rng.randbytes(length), 3: bytes(length), 4: 2 * data[start : start + length]}
    if kind == 5:
        return data[:start]
    return data[:start] + middle[kind] + data[start + length :]


def _mutate_lines(data: bytes, rng: random.Random) -> bytes:
    """Return a table with lines exchanged, repeated or left out, or a cell in another place."""
    lines = data.split(b"\n")
    first, second = rng.randrange(len(lines)), rng.randrange(len(lines))
    kind = rng.randrange(5)
    if kind == 0:
        lines[first], lines[second] = lines[second], lines[first]
    elif kind == 1:
        lines.insert(first, lines[second])
    elif kind == 2:
        del lines[first]
    elif kind == 3:
        lines[first] = lines[first].replace(
            rng.choice([b",", b";", b"\t", b":"]), rng.choice([b"", b",,", b" "])
        )
    else:
        lines[first] += rng.choice(
            [b",x", b"\n7.png,", b"\n7.png;", b"\n7.png\t", b"\r", b"\0", "\u00a0".encode(), b'"', b" "]
        )
    return b"\n".join(lines)


def _mutate(root: Path, rng: random.Random) -> None:
    for _ in range(rng.choice([0, 1, 1, 2])):
        files = sorted(file for file in root.rglob("*") if file.is_file())
        if not files:
            return
        file = rng.choice(files)
        if file.suffix in TABLE_SUFFIXES and rng.random() < 0.5:
            file.write_bytes(_mutate_lines(file.read_bytes(), rng))
            continue
        kind = rng.randrange(8)
        if kind < 4 and file.stat().st_size:
            file.write_bytes(_mutate_bytes(file.read_bytes(), rng))
        elif kind == 4:
            target = file.with_name(rng.choice(_NAMES) + rng.choice(["", file.suffix, ".jpg", ".tar"]))
            if not target.exists():
                file.rename(target)
        elif kind == 5:
            folder = root / rng.choice(_NAMES)
            if not folder.exists() or folder.is_dir():
                folder.mkdir(exist_ok=True)
                (folder / file.name).write_bytes(file.read_bytes())
        elif kind == 6:
            link = file.with_name(f"link-{rng.randrange(99)}{file.suffix}")
            if not link.is_symlink():
                link.symlink_to(rng.choice([file, root, root / "nowhere"]))
        else:
            file.write_bytes(b"")


def _plain(name: str) -> str:
    """Return one spelling of a class's name: Unicode's compatible form, single spaces, numbers as numbers."""
    name = " ".join(unicodedata.normalize("NFKC", name).split())
    try:
        return str(int(float(name))) if float(name).is_integer() else name
    except (ValueError, OverflowError):
        return name


class _Given(NamedTuple):
    """Classes that a source gives its images, read by libraries alone.

    Attributes:
        names: Names by the digest of an image's bytes: of its folders, row or member; None if a table that
            lies there has not the header it was made with.
        are_ids: Whether the labels of a table are class ids.
    """

    names: dict[bytes, set[str]] | None
    are_ids: bool


def _given(root: Path) -> _Given:
    found: dict[bytes, set[str]] = collections.defaultdict(set)
    cells: dict[str, set[str]] = collections.defaultdict(set)
    files = sorted(file for file in root.rglob("*") if file.is_file())
    is_known, has_types = True, False
    for file in files:
        try:
            if file.suffix == ".parquet":
                _add_parquet(file, found)
            elif file.suffix == ".tar":
                _add_tar(file, found)
            elif file.suffix in TABLE_SUFFIXES:
                rows = _rows(file)
                is_known, has_types = is_known and bool(rows), has_types or file.suffix == ".jsonl"
                for row in rows:
                    name = Path(str(row["file_name"]).strip().replace("\\", "/")).stem
                    cells[name].add(str(row["label"]).strip())
        except Exception:  # a file that no library reads gives no name
            is_known = is_known and file.suffix not in TABLE_SUFFIXES
    stems = {file.stem for file in files}
    used = [label for stem in stems & cells.keys() for label in cells[stem] if label]
    for file in files:
        digest = hashlib.sha256(file.read_bytes()).digest()
        found[digest] |= set(file.relative_to(root).parts[:-1]) | cells[file.stem]
    are_ids = (
        bool(used) and not has_types and all(re.fullmatch(r"0|[1-9]\d*(\.0*)?|0\.0*", each) for each in used)
    )
    return _Given(found if is_known else None, are_ids)


def _add_parquet(file: Path, found: dict[bytes, set[str]]) -> None:
    table = pq.read_table(file)
    document = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
    names = document.get("info", {}).get("features", {}).get("label", {}).get("names")
    for row in table.to_pylist():
        label = row["label"]
        is_id = names and not isinstance(label, str) and label >= 0
        found[hashlib.sha256(row["image"]["bytes"]).digest()].add(names[label] if is_id else str(label))


def _add_tar(file: Path, found: dict[bytes, set[str]]) -> None:
    parts: dict[str, dict[str, bytes]] = collections.defaultdict(dict)
    with tarfile.open(file) as tar:
        for member in tar:
            stem, _, extension = member.name.partition(".")
            stream = tar.extractfile(member)
            parts[stem][extension] = stream.read() if stream else b""
    for sample in parts.values():
        found[hashlib.sha256(sample["jpg"]).digest()].add(sample["cls"].decode())


def _rows(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a table as the library of its kind reads them; none without the columns."""
    data = file.read_bytes()
    text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    if file.suffix == ".jsonl":
        rows = [json.loads(line) for line in text.split("\n") if line.strip()]
        return rows if all({"file_name", "label"} <= row.keys() for row in rows) else []
    for mark in ",;\t":
        found = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=mark))
        if found and {"file_name", "label"} <= found[0].keys():
            return found
    return []


def _check(target: Path, source: Path, given: _Given) -> None:
    dataset = PackedDataset(str(target), images_in=[str(source)])
    labels_N = dataset.index.labels_N
    assert len(set(dataset.index.keys.to_pylist())) == len(dataset)
    assert not dataset.info.classes or labels_N.max() < len(dataset.info.classes)
    assert dataset.index.is_labelled or (labels_N < 0).all()
    for row in range(len(dataset)):
        data = dataset.image_bytes(row)
        images.decode(data, dataset.index.key(row))
        if labels_N[row] < 0 or given.names is None:
            continue
        name, names = dataset.info.classes[labels_N[row]], given.names[hashlib.sha256(data).digest()]
        assert _plain(name) in set(map(_plain, names)), f"class {name!r}, where the source says {names}"
        assert not given.are_ids or name == str(labels_N[row]), f"id {labels_N[row]} of class {name!r}"


def _try(source: Path, target: Path, rng: random.Random) -> str:
    """Pack or index a source, and return what became of it."""
    options = SourceOptions(split=rng.choice([None, None, "train"]), unlabelled=rng.random() < 0.1)
    tables = sorted(file for file in source.rglob("*") if file.suffix in TABLE_SUFFIXES)
    packing = PackOptions(shard_size=4, skip_corrupt=rng.random() < 0.5)
    is_in_place = rng.random() < 0.4 and any(source.rglob("*.tar")) != any(source.rglob("*.parquet"))
    try:
        if is_in_place:
            store = Store(source)
            index_in_place(store, files_in(store, options), Store(target), options, packing, silent)
        else:
            if tables and rng.random() < 0.7:
                options = dataclasses.replace(options, labels=read_table(tables[0], tables[0].name))
            opened = open_source(str(source), options)
            pack(opened, Store(target), packing, silent)
    except InputError:
        assert not list(target.glob("*.tar")), "a refused pack left shards"
        return "refused"
    _check(target, source, _given(source))
    return "indexed" if is_in_place else "packed"


def _benchmark(config: FuzzConfig) -> int:
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    failures: list[str] = []
    warnings.simplefilter("ignore")
    for number in range(config.mutations):
        rng = random.Random(config.seed * 1_000_003 + number)
        make = rng.choice(MAKERS)
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "in"
            make(source, rng)
            _mutate(source, rng)
            signal.alarm(_LIMIT_S)
            try:
                counts[make.__name__][_try(source, Path(folder) / "out", rng)] += 1
            except Exception:
                counts[make.__name__]["FAILED"] += 1
                failures.append(f"mutation {number}: {traceback.format_exc()}")
            finally:
                signal.alarm(0)
    table = Table("source", "packed", "indexed in place", "refused", "FAILED")
    for name, found in sorted(counts.items()):
        table.add_row(name, *(f"{found[what]:,}" for what in ("packed", "indexed", "refused", "FAILED")))
    Console(width=100).print(table)
    for failure in {failure.splitlines()[-1]: failure for failure in failures}.values():
        print(failure)  # one of each kind
    write_json(config.json, {"counts": counts, "failures": failures})
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(run_single("python -m benchmarks.fuzz", Command(FuzzConfig, _benchmark), sys.argv[1:]))
