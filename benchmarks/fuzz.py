"""Random mutations of tars, parquet files and folders: each ends in a right dataset or a clear refusal.

    python -m benchmarks.fuzz --mutations 2000

A mutation flips, cuts, repeats or exchanges bytes of a file, or renames, empties, links or nests files. Then
the source is packed, and tars and parquet files are indexed in place. What is packed must open, every image
must decode to its digest, and every label must be a class. Anything but that or an error of exit code 2 is a
failure, and so is a run that takes longer than a minute.
"""

from __future__ import annotations

import collections
import dataclasses
import io
import random
import shutil
import signal
import sys
import tarfile
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Meta
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.common import write_json
from teacher_cache import images
from teacher_cache.dataset.packing.in_place import files_in, index_in_place
from teacher_cache.dataset.packing.pack import PackOptions, pack
from teacher_cache.dataset.shards import PackedDataset
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


def _image(rng: random.Random) -> bytes:
    pixels_HWC = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (12, 14, 3), dtype=np.uint8)
    with io.BytesIO() as buffer:
        Image.fromarray(pixels_HWC).save(buffer, rng.choice(["JPEG", "PNG", "WEBP"]))
        return buffer.getvalue()


def _folder(root: Path, rng: random.Random) -> None:
    for label in "abc":
        (root / label).mkdir(parents=True)
        for number in range(3):
            (root / label / f"{number}.{rng.choice(['jpg', 'png', 'x'])}").write_bytes(_image(rng))


def _tars(root: Path, rng: random.Random) -> None:
    root.mkdir(parents=True)
    for number in range(2):
        with tarfile.open(root / f"s-{number}.tar", "w") as tar:
            for sample in range(3):
                for extension, data in (("jpg", _image(rng)), ("cls", b"%d" % sample), ("json", b'{"a": 1}')):
                    header = tarfile.TarInfo(f"{number}/{sample}.{extension}")
                    header.size = len(data)
                    tar.addfile(header, io.BytesIO(data))


def _parquet(root: Path, rng: random.Random) -> None:
    root.mkdir(parents=True)
    for number in range(2):
        rows = [{"bytes": _image(rng), "path": None} for _ in range(4)]
        labels = rng.choice([[0, 1, 2, 0], ["a", "b", "c", "a"], [True, False, True, True]])
        pq.write_table(pa.table({"image": rows, "label": labels}), root / f"p-{number}.parquet")


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


def _mutate(root: Path, rng: random.Random) -> None:
    for _ in range(rng.choice([1, 1, 2, 4])):
        files = [file for file in root.rglob("*") if file.is_file()]
        if not files:
            return
        file = rng.choice(files)
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
                shutil.copy(file, folder / file.name)
        elif kind == 6:
            link = file.with_name(f"link-{rng.randrange(99)}{file.suffix}")
            if not link.is_symlink():
                link.symlink_to(rng.choice([file, root, root / "nowhere"]))
        else:
            file.write_bytes(b"")


def _check(target: Path) -> None:
    dataset = PackedDataset(str(target))
    labels_N = dataset.index.labels_N
    assert len(set(dataset.index.keys.to_pylist())) == len(dataset)
    assert not dataset.info.classes or labels_N.max() < len(dataset.info.classes)
    assert dataset.index.is_labelled or (labels_N < 0).all()
    for row in range(len(dataset)):
        images.decode(dataset.image_bytes(row), dataset.index.key(row))


def _try(source: Path, target: Path, rng: random.Random) -> str:
    """Pack or index a source, and return what became of it."""
    options = SourceOptions(split=rng.choice([None, None, "train"]), unlabelled=rng.random() < 0.1)
    packing = PackOptions(shard_size=4, skip_corrupt=rng.random() < 0.5)
    is_in_place = rng.random() < 0.4 and any(source.rglob("*.tar")) != any(source.rglob("*.parquet"))
    try:
        if is_in_place:
            store = Store(source)
            index_in_place(store, files_in(store, options), Store(target), options, packing, silent)
        else:
            opened = open_source(str(source), options)
            pack(opened, Store(target), packing, silent)
    except InputError:
        assert not list(target.glob("*.tar")), "a refused pack left shards"
        return "refused"
    _check(target)
    return "indexed" if is_in_place else "packed"


def _benchmark(config: FuzzConfig) -> int:
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    failures: list[str] = []
    warnings.simplefilter("ignore")
    for number in range(config.mutations):
        rng = random.Random(config.seed * 1_000_003 + number)
        make = rng.choice([_folder, _tars, _parquet])
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "in"
            make(source, rng)
            _mutate(source, rng)
            signal.alarm(_LIMIT_S)
            try:
                counts[make.__name__[1:]][_try(source, Path(folder) / "out", rng)] += 1
            except Exception:
                counts[make.__name__[1:]]["FAILED"] += 1
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
