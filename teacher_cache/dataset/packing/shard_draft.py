"""Shard under construction: its bytes are hashed and, unless it is indexed in place, written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, BinaryIO

import pyarrow as pa

from teacher_cache.dataset.index import Shard
from teacher_cache.dataset.packing.prepare import Prepared
from teacher_cache.dataset.packing.shard_tar import end_bytes


class ShardDraft:
    """Builder of one tar and the index of its samples.

    Args:
        file: File that the tar is written to; None only hashes it.
        identities: Identities of tars that were rewritten by an earlier pack, by the sha256 of the tar.
    """

    def __init__(
        self,
        number: int,
        schema: pa.Schema,
        file: BinaryIO | None,
        identities: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._identities = identities
        self._number, self._schema, self._file = number, schema, file
        self._columns: dict[str, list[Any]] = {name: [] for name in schema.names}
        self._digest, self._num_bytes = hashlib.sha256(), 0
        self._original = self._digest
        self._original_bytes = 0

    def __len__(self) -> int:
        return len(self._columns["key"])

    def add(self, sample: Prepared, **elsewhere: int) -> None:
        """Append a sample; `elsewhere` sets columns of its index row, such as another offset."""
        values = {
            "key": sample.sample.key,
            "shard": self._number,
            "offset": self._num_bytes + sample.image[0],
            "size": sample.image[1],
            "label": sample.sample.label,
            "sha256": sample.sha256,
            **elsewhere,
        }
        for name, column in self._columns.items():
            column.append(values[name])
        if sample.original is not None and self._original is self._digest:
            self._original = self._digest.copy()
        self._write(sample.data, sample.data if sample.original is None else sample.original)

    def finish(self) -> tuple[Shard, pa.Table]:
        """End the tar, and return its description and its index."""
        self._write(end_bytes(self._num_bytes), end_bytes(self._original_bytes))
        sha256, original = self._digest.hexdigest(), self._original.hexdigest()
        original_sha256 = self._identities.get(original, original)
        shard = Shard(
            shard_name(self._number),
            sha256,
            self._num_bytes,
            len(self),
            original_sha256 if original_sha256 != sha256 else None,
        )
        return shard, pa.table(self._columns, schema=self._schema)

    def _write(self, data: bytes, original: bytes) -> None:
        if self._file is not None:
            self._file.write(data)
        self._digest.update(data)
        if self._original is not self._digest:
            self._original.update(original)
        self._num_bytes += len(data)
        self._original_bytes += len(original)


def shard_name(number: int) -> str:
    """Return the name of a shard."""
    return f"shard-{number:06d}.tar"
