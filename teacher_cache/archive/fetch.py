"""Fetch objects of an archive with the right sha256, and do tasks a few at once."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Sequence

from teacher_cache.archive.documents import Digest
from teacher_cache.archive.manifest import Manifest
from teacher_cache.errors import DamagedError
from teacher_cache.exact.canonical import sha256_hex
from teacher_cache.storage.store import Store

_FETCHES = 2
"""Number of fetches after which wrong bytes count as damage in the source, not on the way."""


def fetched(store: Store, name: str, digest: Digest, again: list[str] | None = None) -> bytes:
    """Return an object with the right sha256; wrong bytes are fetched a second time.

    Args:
        store: Store of the object.
        name: Name of the object.
        digest: sha256 and size that it must have.
        again: List that the name is added to if the first fetch brought other bytes.

    Raises:
        DamagedError: The object is missing, or does not have the sha256.
    """
    sha256, size = digest
    for fetch in range(_FETCHES):
        try:
            data = store.get_range(name, 0, size)
        except FileNotFoundError as error:
            raise _damaged(store, name, "is missing") from error
        if sha256_hex(data) == sha256:
            if fetch and again is not None:
                again.append(name)
            return data
    raise _damaged(store, name, "does not have the sha256 in the manifest")


def fetched_affinity(store: Store, manifest: Manifest) -> dict[str, bytes]:
    """Return the objects of the class affinity by array; none if there is none. Raises DamagedError."""
    layout = manifest.spec.layout
    return {
        array: fetched(store, layout.affinity_name(array), digest)
        for array, digest in (manifest.affinity or {}).items()
    }


def _damaged(store: Store, name: str, what: str) -> DamagedError:
    return DamagedError(
        f"{store.url_of(name)} {what}",
        "It is not copied; what was copied before stays, and is whole.",
        "ask the archive's owner to repair it, or copy other --views and --shards",
    )


def in_threads(tasks: Sequence[Callable[[], None]], workers: int) -> None:
    """Run tasks, a few at once; the first error stops those that have not begun, and is raised."""
    pool = concurrent.futures.ThreadPoolExecutor(workers)
    try:
        for done in concurrent.futures.as_completed([pool.submit(task) for task in tasks]):
            done.result()
    finally:
        pool.shutdown(cancel_futures=True)
