"""Small signed archive, dataset, export and catalog, which attacks then change."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipelines.cli import main
from student.cli import main as student_main
from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.dataset.shards import PackedDataset


@dataclasses.dataclass(frozen=True)
class Ground:
    """Folder of the campaign, and the right labels.

    Attributes:
        whole: Folder with everything that is mutated: data, place, labels, tars, catalog.
        labels: Labels of the first view of every shard, by archive, as bytes.
        images: Images of the dataset, by row.
    """

    whole: Path
    key: Path
    labels: Mapping[int, bytes]
    images: Sequence[bytes]


def make_ground(folder: Path) -> Ground:
    """Make a packed dataset, one in place, a signed archive with a card, an export and a catalog."""
    rng, whole = np.random.default_rng(0), folder / "whole"
    for number in range(12):
        (folder / "images" / f"class{number % 3}").mkdir(parents=True, exist_ok=True)
        pixels_HWC = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels_HWC).save(folder / "images" / f"class{number % 3}" / f"{number}.jpg")
    key = folder / "key"
    _write_key(key)
    data, labels = str(whole / "data"), str(whole / "labels")
    flags = {"teacher": "regnety_002", "recipe": "rrc", "img-size": 32, "views": "0:2", "views-per-unit": 1}
    flags |= {"topk": 2, "out": labels, "data": data}
    words = [f"--{name}={value}" for name, value in flags.items()]
    for command in (
        ["pack", str(folder / "images"), data, "--shard-size=5"],
        ["extract", "--no-pretrained", *words],
        ["card", labels, "--name=small", f"--data={data}"],
        ["sign", labels, f"--key={key}", "--who=Team A", "--image-license=cc0"],
        ["export", labels, str(whole / "tars"), f"--data={data}"],
        ["pack", str(whole / "wds"), str(whole / "place"), "--in-place", "--unlabelled"],
        ["catalog", str(whole)],
    ):
        if "--in-place" in command:
            (whole / "wds").mkdir()
            for tar in (whole / "data").glob("*.tar"):
                shutil.copy(tar, whole / "wds")
        code = main(command)
        if code:
            raise RuntimeError(f"{' '.join(command)} ended with {code}")
    train = [
        "train",
        f"--data={data}",
        f"--labels={labels}",
        f"--output={whole / 'run'}",
        "--model=resnet10t",
    ]
    train += ["--distillation=soft", "--batch-size=4", "--steps=2"]
    if student_main(train):
        raise RuntimeError(f"{' '.join(train)} failed")
    reader, dataset = ArchiveReader(labels), PackedDataset(data)
    return Ground(
        whole,
        key.with_suffix(".pub"),
        {shard: bytes_of(reader, shard) for shard in range(reader.spec.layout.num_shards)},
        [dataset.image_bytes(row) for row in range(len(dataset))],
    )


def _write_key(file: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    pem, none = serialization.Encoding.PEM, serialization.NoEncryption()
    file.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, none))
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    file.with_suffix(".pub").write_bytes(public)


def bytes_of(reader: Any, shard: int) -> bytes:
    """Return the stored labels of the first view of a shard."""
    return b"".join(array.tobytes() for array in reader.stored(shard, 0))
