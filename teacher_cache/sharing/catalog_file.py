"""Read and validate catalog.json, the list of archives in a folder or bucket with their facts."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import msgspec

from teacher_cache.archive.format.documents import MAX_DOCUMENT_BYTES, converted
from teacher_cache.errors import ArchiveError
from teacher_cache.sharing.facts import Facts, Text
from teacher_cache.storage.places import RelativePath
from teacher_cache.storage.store import Store

CATALOG_FILE, PAGE_FILE = "catalog.json", "index.html"
_FORMAT, _VERSION = "teacher-cache-catalog", 1


@dataclasses.dataclass(frozen=True)
class Entry:
    """Archive in a catalog.

    Attributes:
        path: Path of the archive relative to the catalog; "" if it is the catalog's own folder.
        name: Name on the archive's card, or the path.
    """

    path: RelativePath
    name: Text
    facts: Facts


@dataclasses.dataclass(frozen=True)
class Catalog:
    """Archives in a folder or bucket.

    Attributes:
        left_out: Path and reason of each archive that could not be read.
    """

    archives: list[Entry]
    left_out: list[tuple[Text, Text]]

    def to_bytes(self) -> bytes:
        """Return the content of catalog.json."""
        document = {"format": _FORMAT, "version": _VERSION, **dataclasses.asdict(self)}
        return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


def read_catalog(store: Store) -> Catalog:
    """Read the catalog of a folder or bucket.

    Raises:
        ArchiveError: There is no catalog, or none that this program can read.
    """
    what, size = store.url_of(CATALOG_FILE), store.stat(CATALOG_FILE)
    if size is None:
        raise ArchiveError(
            f"{store.url} has no {CATALOG_FILE}",
            "There is nothing to look up.",
            f"make one: teacher-cache catalog {store.url}",
        )
    if size > MAX_DOCUMENT_BYTES:
        raise ArchiveError(f"{what} has {size:,} bytes", f"More than {MAX_DOCUMENT_BYTES:,} are never read.")
    try:
        document: dict[str, Any] = msgspec.json.decode(store.get(CATALOG_FILE, size), type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise ArchiveError(f"{what} is damaged: {error}", "It is not used.", "make it again") from error
    head = (document.pop("format", None), document.pop("version", None))
    if head != (_FORMAT, _VERSION):
        raise ArchiveError(
            f"{what} has format {head[0]!r}, version {head[1]!r}",
            f"This program reads {_FORMAT} version {_VERSION}.",
            "make it again with this release",
        )
    return converted(document, Catalog, what)
