"""Form, size limit and field types of the documents of archives and exports.

Documents come from elsewhere: their size, types and ranges are checked before anything is done with them.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from teacher_cache.errors import ArchiveError, DamagedError
from teacher_cache.exact.canonical import unseal
from teacher_cache.storage.store import Store

FORMAT = "teacher-cache-archive"
VERSION = 1
MAX_DOCUMENT_BYTES = 2**25
"""Size limit of a document in bytes, enough for 80,000 units: parsed JSON takes 20 times the memory."""
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Meta(ge=1, le=2**32)]
Place = Annotated[int, Meta(ge=0, le=2**32)]
TotalBytes = Annotated[int, Meta(ge=0, le=2**62)]
View = Annotated[int, Meta(ge=0, le=2**20)]
Digest = tuple[Sha256, Annotated[int, Meta(ge=1, le=2**32)]]
"""sha256 and size in bytes of an object."""


def get_document(store: Store, name: str) -> bytes:
    """Return a document's bytes, if it is not larger than MAX_DOCUMENT_BYTES.

    Raises:
        FileNotFoundError: There is no such document.
        DamagedError: The document is larger than any that this program writes.
    """
    size = store.stat(name)
    if size is not None and size > MAX_DOCUMENT_BYTES:
        raise DamagedError(
            f"{store.path(name)} has {size:,} bytes", f"More than {MAX_DOCUMENT_BYTES:,} are never read."
        )
    return store.get(name, MAX_DOCUMENT_BYTES)


def open_document(data: bytes, what: str) -> dict[str, Any]:
    """Decode spec.json, a receipt or manifest.json.

    Raises:
        DamagedError: The bytes are not as they were written.
        ArchiveError: The document is of another format, or of a version this program does not know.
    """
    try:
        document = unseal(data)
    except ValueError as error:
        raise DamagedError(
            f"{what} is damaged: {error}",
            "The files that it describes cannot be verified.",
            "run teacher-cache repair, or copy the archive again",
        ) from error
    if document.get("format") != FORMAT or document.get("version") != VERSION:
        raise ArchiveError(
            f"{what} has format {document.get('format')!r}, version {document.get('version')!r}",
            f"This program reads {FORMAT} version {VERSION}.",
            "use the release that wrote it, or extract again",
        )
    return document


_Type = TypeVar("_Type")


def converted(document: Any, to: type[_Type], what: str) -> _Type:
    """Return a document as an object of type `to`. Raises ArchiveError if a type or range does not fit."""
    try:
        return msgspec.convert(document, to, strict=True)
    except (msgspec.ValidationError, RecursionError) as error:
        raise ArchiveError(
            f"{what} holds an invalid value: {error}",
            "This version of the program did not write it.",
            "use the release that wrote it, or copy the archive again",
        ) from error
