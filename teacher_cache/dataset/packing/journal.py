"""Journal of an unfinished pack, kept in its destination so that a killed pack can resume.

    packing-plan.json       digest of the request: source, keys, labels, flags
    packing-000003.json     a finished shard, where the next one begins, and the samples skipped so far
    packing-000003.parquet  the index of that shard

It is removed when the dataset is finished.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from teacher_cache.dataset.index import Shard, index_bytes
from teacher_cache.errors import DatasetError
from teacher_cache.exact.canonical import seal, unseal
from teacher_cache.storage.store import Store

_PREFIX = "packing-"
_PLAN = f"{_PREFIX}plan.json"


@dataclasses.dataclass(frozen=True)
class Done:
    """A finished shard.

    Attributes:
        position: Number of samples read from the source, in its order, up to the end of this shard.
        skipped: Samples skipped so far, as key and reason.
        index: Index of the shard's samples.
        progress: Position to resume from, as `Walk.progress` returns it; empty for other sources.
        cuttable: Number of images so far of which crops can be cut out.
        unused: Parts of images so far that are not in their pixels, as `LeftOut.to_json` gives them.
    """

    shard: Shard
    position: int
    skipped: list[dict[str, str]]
    index: pa.Table
    progress: dict[str, Any] = dataclasses.field(default_factory=dict)
    cuttable: int = 0
    unused: list[dict[str, Any]] = dataclasses.field(default_factory=list)


class Journal:
    """Journal of one request.

    Raises:
        DatasetError: The store holds something else: a dataset, another pack under way, other files.
    """

    def __init__(self, store: Store, plan_sha256: str) -> None:
        self._store = store
        store.sweep()
        names = store.list()
        if _PLAN not in names and names:
            raise DatasetError(
                f"destination {store.url} is not empty",
                "What lies there could be taken for part of the dataset.",
                "choose a new folder, or empty this one",
            )
        plan = seal({"plan": plan_sha256})
        if _PLAN in names and store.get(_PLAN) != plan:
            raise DatasetError(
                f"destination {store.url} holds an unfinished pack of another source, or with other flags",
                "Shards of two datasets would lie in one folder.",
                "give the same source and flags to go on, or empty the folder",
            )
        if _PLAN not in names:
            store.put(_PLAN, plan)

    def done(self) -> list[Done]:
        """Return the finished shards, up to the first that is not whole."""
        sizes = self._store.sizes()
        found: list[Done] = []
        while True:
            name = _name(len(found))
            if f"{name}.json" not in sizes or f"{name}.parquet" not in sizes:
                return found
            try:
                document = unseal(self._store.get(f"{name}.json"))
                index = pq.read_table(pa.BufferReader(self._store.get(f"{name}.parquet")), use_threads=False)
            except (ValueError, pa.ArrowException):
                return found
            shard = Shard(**document["shard"])
            if document["is_stored"] and sizes.get(shard.name) != shard.num_bytes:
                return found
            names = ("position", "skipped", "progress", "cuttable")
            fields = {name: document[name] for name in names}
            found.append(Done(shard=shard, index=index, unused=document.get("unused", []), **fields))

    def add(self, done: Done, number: int, *, is_stored: bool = True) -> None:
        """Record a finished shard; `is_stored` is False for one that was hashed but not written."""
        self._store.put(f"{_name(number)}.parquet", index_bytes(done.index))
        fields: dict[str, Any] = {
            "shard": done.shard.to_dict(),
            "position": done.position,
            "skipped": done.skipped,
            "progress": done.progress,
            "cuttable": done.cuttable,
            "unused": done.unused,
            "is_stored": is_stored,
        }
        self._store.put(f"{_name(number)}.json", seal(fields))

    def clear(self) -> None:
        """Remove the journal."""
        names = [name for name in self._store.list() if name.startswith(_PREFIX) and name != _PLAN]
        for name in [*names, _PLAN]:
            self._store.delete(name)


def _name(number: int) -> str:
    return f"{_PREFIX}{number:06d}"
