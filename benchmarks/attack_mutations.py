"""Mutations of every document and file that may come from elsewhere; most are vouched for by a new sha256."""

from __future__ import annotations

import contextlib
import io
import json
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from teacher_cache.exact.canonical import seal, sha256_hex, unseal

HOSTILE: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**31, 2**62, 2**64, 10**400, 1e308, -0.5, "", [], {}, [[]], [None], {"": None}),
    *("\x00", "\ud800", "\x1b[2J\x1b]0;x\x07", "\u202e\u2066", "<script>window.hit=1</script>", "a" * 70_000),
    *("../../../etc/passwd", "/etc/passwd", "file:///etc/passwd", "http://127.0.0.1:9/x", "s3://x/y"),
    *(
        "reference://::/tmp/refs.json",
        "simplecache::http://127.0.0.1:9/",
        "{{7*7}}",
        "${7*7}",
        "%s%n",
        "' OR 1=1--",
    ),
    *(
        "python:os:system",
        "local-dir:/etc",
        "hf:x/y",
        "1" * 5000,
        "\r\nSet-Cookie: a=b",
        "CON",
        "~root/x",
        "-rf",
    ),
)
"""Values that stand in for a field of a document, or for a part of one."""


def mutate(folder: Path, rng: random.Random) -> str:
    """Change one file of a copy of the ground, and return what was changed."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    kinds = sorted({_kind(file) for file in files})
    kind = rng.choice(kinds)
    file = rng.choice([one for one in files if _kind(one) == kind])
    data = file.read_bytes()
    ways = [_bytes, _bytes, _link, _length]
    if file.suffix == ".json":
        ways += [_value] * 12
    if file.suffix == ".parquet":
        ways += [_table] * 6
    way = rng.choice(ways)
    changed = way(data, file, rng)
    if changed is not None:
        file.unlink()
        file.write_bytes(changed)
        if rng.random() < 0.8:
            _vouch(file, folder)
    return f"{way.__name__.lstrip('_')} of {file.relative_to(folder)}"


def _kind(file: Path) -> str:
    return file.name if file.suffix in (".json", ".parquet", ".md") else file.parent.name + file.suffix


def _bytes(data: bytes, file: Path, rng: random.Random) -> bytes:
    del file
    changed, place = bytearray(data), rng.randrange(len(data) + 1)
    kind = rng.randrange(4)
    if kind == 0 and data:
        changed[place % len(data)] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del changed[place:]
    elif kind == 2:
        changed[place:place] = rng.randbytes(rng.choice([1, 8, 1000]))
    else:
        changed[place : place + rng.choice([1, 8, 100])] = bytes(rng.choice([0, 8]))
    return bytes(changed)


def _length(data: bytes, file: Path, rng: random.Random) -> bytes:
    del file
    return rng.choice(
        [b"", data * 2, data + bytes(4096), b"[" * 5000 + b"]" * 5000, b'{"a":' * 990 + b"1" + b"}" * 990]
    )


def _link(data: bytes, file: Path, rng: random.Random) -> None:
    del data
    file.unlink()
    file.symlink_to(rng.choice(["/etc/hostname", "/dev/zero", "/nowhere", str(file.parent), str(file)]))


def _value(data: bytes, file: Path, rng: random.Random) -> bytes | None:
    """Put a hostile value into a document, or exchange or drop one of its values."""
    try:
        document = json.loads(data)
    except ValueError:
        return _bytes(data, file, rng)
    is_sealed = isinstance(document, dict) and "sha256" in document
    if is_sealed:
        del document["sha256"]
    places = list(_places(document))
    for _ in range(rng.choice([1, 1, 1, 2])):
        holder, name = rng.choice(places)
        kind = rng.randrange(6)
        with contextlib.suppress(KeyError, IndexError):
            if kind == 0:
                del holder[name]
            elif kind == 1:
                other, its = rng.choice(places)
                holder[name] = other[its]
            elif kind == 2 and isinstance(holder[name], (int, float)):
                holder[name] = holder[name] + rng.choice([-1, 1, 2**33])
            elif kind == 3 and isinstance(holder[name], list):
                holder[name] = holder[name] * 3
            else:
                holder[name] = rng.choice(HOSTILE)
    try:
        return seal(document) if is_sealed else json.dumps(document).encode()
    except (ValueError, RecursionError):
        return None


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    pairs: Any = value.items() if isinstance(value, dict) else enumerate(value)
    for name, inner in list(pairs):
        yield value, name
        if isinstance(inner, (dict, list)):
            yield from _places(inner)


def _table(data: bytes, file: Path, rng: random.Random) -> bytes:
    """Change a cell, a column or the number of rows of a parquet file."""
    del file
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(data))
    name = rng.choice(table.column_names)
    kind, place = rng.randrange(5), table.column_names.index(name)
    column = table[name].to_pylist()
    if kind == 0:
        table = table.drop_columns([name])
    elif kind == 1:
        table = table.slice(rng.randrange(len(table)))
    elif kind == 2:
        table = pa.concat_tables([table] * rng.choice([2, 100_000]))
    else:
        numbers: list[Any] = [None, -1, 2**31 - 1, 10**6, 0]
        values = [None, "../../x", "\x00", "a" * 5000] if isinstance(column[0], str) else numbers
        column[rng.randrange(len(column))] = (
            rng.choice([None, bytes(32)]) if isinstance(column[0], bytes) else rng.choice(values)
        )
        kinds = [table.schema.field(name).type, pa.int64(), pa.string(), pa.large_string()]
        with contextlib.suppress(pa.ArrowException, OverflowError):
            table = table.set_column(
                place, name, pa.array(column, kinds[0] if kind == 3 else rng.choice(kinds))
            )
    sink = io.BytesIO()
    pq.write_table(table, sink, use_dictionary=rng.random() < 0.5, compression="zstd")
    return sink.getvalue()


def _vouch(file: Path, folder: Path) -> None:
    """Write the new sha256 of a file wherever a document names it, as an attacker would."""
    data = file.read_bytes()
    if file.name == "index.parquet":
        _resealed(file.with_name("dataset.json"), {"index_sha256": sha256_hex(data)})
    elif file.name == "rows.parquet":
        labels = file.with_name("labels.json")
        _resealed(labels, {}, lambda document: document["figures"].update(rows_sha256=sha256_hex(data)))
    elif "/c/" in str(file):
        manifest = folder / "labels" / "manifest.json"
        array, number, block = file.parts[-4], file.parts[-2], file.parts[-1]

        def change(document: Any) -> None:
            for unit in document["units"]:
                if (str(unit["shard"]), str(unit["block"])) == (number, block):
                    unit["objects"][array] = [sha256_hex(data), len(data)]

        _resealed(manifest, {}, change)


def _resealed(file: Path, fields: Mapping[str, Any], change: Callable[[Any], object] | None = None) -> None:
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, OSError):
        document = unseal(file.read_bytes())
        document |= fields
        if change is not None:
            change(document)
        file.write_bytes(seal(document))
