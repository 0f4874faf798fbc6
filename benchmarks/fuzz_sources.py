"""Small sources of images for the fuzz, with names of classes of every script and form."""

from __future__ import annotations

import csv
import io
import json
import random
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

_CLASSES = (
    ("a", "b", "c"),
    ("caf\u00e9", "cafe\u0301", "tea"),
    ("\u732b", "\u72ac", "\u9ce5"),
    ("1", "2", "10"),
    ("01", "1", "2"),
    ("crane", "crane ", "cr ane"),
    ("\u0661", "\u00b2", "\uff13"),
    ("a,b", 'a"b', "a;b"),
    ("null", "True", "1.0"),
    ("a\u200bb", "ab", "\ufb01sh"),
)
"""Names of three classes: plain, in other Unicode forms, as numbers, with spaces, quotes and separators."""
_TABLES = {"metadata.csv": ",", "metadata.jsonl": "", "labels.tsv": "\t", "train_labels.csv": ";"}
"""Names of tables of labels, and what separates their cells; "" for JSON lines."""
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl")
"""Suffixes of these tables."""


def _image(rng: random.Random) -> bytes:
    pixels_HWC = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (12, 14, 3), dtype=np.uint8)
    with io.BytesIO() as buffer:
        Image.fromarray(pixels_HWC).save(buffer, rng.choice(["JPEG", "PNG", "WEBP"]))
        return buffer.getvalue()


def folder(root: Path, rng: random.Random) -> None:
    """Write class folders."""
    for label in rng.choice(_CLASSES):
        (root / label).mkdir(parents=True)
        for number in range(3):
            (root / label / f"{number}.{rng.choice(['jpg', 'png', 'x'])}").write_bytes(_image(rng))


def tars(root: Path, rng: random.Random) -> None:
    """Write WebDataset tars, a class name or id in each sample's cls."""
    root.mkdir(parents=True)
    names = rng.choice([("0", "1", "2"), *_CLASSES])
    for number in range(2):
        with tarfile.open(root / f"s-{number}.tar", "w") as tar:
            for sample, name in enumerate(names):
                label = name.encode()
                for extension, data in (("jpg", _image(rng)), ("cls", label), ("json", b'{"a": 1}')):
                    header = tarfile.TarInfo(f"{number}/{sample}.{extension}")
                    header.size = len(data)
                    tar.addfile(header, io.BytesIO(data))


def parquet(root: Path, rng: random.Random) -> None:
    """Write parquet files, with the names of a ClassLabel or without, in another order in each."""
    root.mkdir(parents=True)
    names = rng.choice([None, *_CLASSES])
    labels = rng.choice([[0, 1, 2, 0], [0, 1, -1, 3], ["a", "b", "c", "a"], [True, False, True, True]])
    for number in range(2):
        rows = [{"bytes": _image(rng), "path": None} for _ in range(4)]
        table = pa.table({"image": rows, "label": labels})
        if names is not None:
            order = rng.sample(names, rng.choice([2, 3, 3, 3]))
            features = {"label": {"_type": "ClassLabel", "names": order}}
            table = table.replace_schema_metadata(
                {"huggingface": json.dumps({"info": {"features": features}})}
            )
        pq.write_table(table, root / f"p-{number}.parquet")


def table(root: Path, rng: random.Random) -> None:
    """Write images beside a table of their labels."""
    (root / "in").mkdir(parents=True)
    labels = rng.choice([("0", "1", "2"), ("1.0", "0.0", "2.0"), *_CLASSES])
    rows = [(f"{rng.choice(['', 'in/'])}{number}.png", rng.choice(labels)) for number in range(6)]
    for name, _ in rows:
        (root / name).write_bytes(_image(rng))
    name_of_table = rng.choice(list(_TABLES))
    if name_of_table.endswith(".jsonl"):
        lines = [json.dumps({"file_name": name, "label": label}) for name, label in rows]
        (root / name_of_table).write_text("\n".join(lines))
        return
    with (root / name_of_table).open(
        "w", newline="", encoding=rng.choice(["utf-8", "utf-8-sig", "utf-16"])
    ) as file:
        writer = csv.writer(file, delimiter=_TABLES[name_of_table])
        writer.writerows([("file_name", "label"), *rows])


MAKERS = (folder, tars, parquet, table, table)
"""Functions that write a source; tables come twice as often."""
