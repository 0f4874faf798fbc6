"""Small sources of every kind, written to disk for tests."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from support import encoded, picture

from teacher_cache.dataset.index import DatasetInfo, read_info
from teacher_cache.dataset.packing.pack import PackOptions, pack
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.dataset.sources.open import open_source
from teacher_cache.dataset.sources.source import SourceOptions
from teacher_cache.program.progress import silent
from teacher_cache.storage.store import Store

IMAGES = [encoded(picture(number, 20, 24), "JPEG") for number in range(12)]
PNG = encoded(picture(99, 20, 24), "PNG")


def write_files(root: Path, files: Mapping[str, bytes] | Iterable[str]) -> Path:
    """Write files below a folder: with their content, or with an image each."""
    if not isinstance(files, Mapping):
        files = {name: IMAGES[number % len(IMAGES)] for number, name in enumerate(files)}
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def write_tar(file: Path, members: Mapping[str, bytes] | Iterable[tuple[str, bytes]]) -> Path:
    """Write a tar with members in order."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for name, data in members.items() if isinstance(members, Mapping) else members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file


def tar_of(file: Path, labels: Mapping[str, bytes]) -> Path:
    """Write a tar of samples with a jpg and a cls each."""
    members = []
    for number, (key, label) in enumerate(labels.items()):
        members += [(f"{key}.jpg", IMAGES[number % len(IMAGES)]), (f"{key}.cls", label)]
    return write_tar(file, members)


def write_parquet(
    file: Path, columns: Mapping[str, object], names: Mapping[str, list[str]] | None = None
) -> Path:
    """Write a parquet file, with the class names of columns in Hugging Face's metadata."""
    file.parent.mkdir(parents=True, exist_ok=True)
    features = {column: {"_type": "ClassLabel", "names": list(of)} for column, of in (names or {}).items()}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if names else None
    pq.write_table(pa.table(dict(columns)).replace_schema_metadata(metadata), file)
    return file


def images_column(count: int) -> list[dict[str, object]]:
    """Return a column of images as Hugging Face stores them."""
    return [{"bytes": IMAGES[number % len(IMAGES)], "path": None} for number in range(count)]


def pack_to(
    source: Path, target: Path, options: SourceOptions | None = None, **changes: object
) -> DatasetInfo:
    """Pack a source in few shards."""
    flags = {"shard_size": 100, "workers": 2, **changes}
    opened = open_source(str(source), options or SourceOptions())
    return pack(opened, Store(target), PackOptions(**flags), silent)  # type: ignore[arg-type]


def opened(target: Path) -> PackedDataset:
    """Open a packed dataset; one in place may read the images where its index says that they are."""
    place = read_info(Store(target)).in_place
    return PackedDataset(str(target), images_in=() if place is None else [place.root])


def labels_of(target: Path) -> dict[str, str | None]:
    """Return the class name of each key of a packed dataset; None for one without a label."""
    dataset = opened(target)
    return {
        dataset.index.key(row): dataset.info.classes[label] if label >= 0 else None
        for row, label in enumerate(dataset.index.labels_N)
    }


def images_of(target: Path) -> dict[str, bytes]:
    """Return the image of each key of a packed dataset."""
    dataset = opened(target)
    return {dataset.index.key(row): dataset.image_bytes(row) for row in range(len(dataset))}
