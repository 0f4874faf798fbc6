"""Canonical JSON: one text per value, so that its hash identifies the value and reveals a changed byte."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SEAL = "sha256"
_SURROGATE = b"\\ud"
"""Beginning of an escaped half of a surrogate pair."""


def sha256_hex(data: bytes | memoryview) -> str:
    """Return the sha256 of `data` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file as 64 hexadecimal digits, without holding it in memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(value: Any) -> bytes:
    """Encode `value` as its only canonical JSON text: sorted keys, no spaces, ASCII, no NaN."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.encode("ascii")


def sha256_of(value: Any) -> str:
    """Return the sha256 of the canonical JSON of `value`."""
    return sha256_hex(canonical_json(value))


def seal(document: Mapping[str, Any]) -> bytes:
    """Encode a document together with the sha256 of its content, so that it can be checked by itself.

    Raises:
        ValueError: The document already has a field with the seal's name.
    """
    if SEAL in document:
        raise ValueError(f"the field {SEAL!r} is reserved for the seal")
    return canonical_json({**document, SEAL: sha256_of(document)}) + b"\n"


def unseal(data: bytes) -> dict[str, Any]:
    """Decode a sealed document, refusing one that differs by a byte from the result of `seal`.

    Raises:
        ValueError: The bytes are not a sealed document, or not as they were written.
    """
    try:
        document = json.loads(data)
        if not isinstance(document, dict) or SEAL not in document:
            raise ValueError(f"not a JSON object with a {SEAL!r} field")
        rest = {name: value for name, value in document.items() if name != SEAL}
        if seal(rest) != data:
            raise ValueError(f"checksum mismatch ({SEAL})")
        if _SURROGATE in data:  # half a pair is no character: it could be neither printed nor written
            json.dumps(rest, ensure_ascii=False).encode()
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    return rest
