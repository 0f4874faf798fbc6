"""One JSON text per value, so that a hash of it names the value, and a flipped byte in it shows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SEAL = "sha256"


def sha256_hex(data: bytes | memoryview) -> str:
    """Return the sha256 of `data` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file as 64 hexadecimal digits, without holding it in memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(value: Any) -> bytes:
    """Encode `value` as the one JSON text that stands for it: sorted keys, no spaces, ASCII, no NaN."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.encode("ascii")


def sha256_of(value: Any) -> str:
    """Return the sha256 of the canonical JSON of `value`."""
    return sha256_hex(canonical_json(value))


def seal(document: Mapping[str, Any]) -> bytes:
    """Encode a document with the sha256 of the rest of it inside, so that it can be checked alone.

    Raises:
        ValueError: The document has a field of the seal's name already.
    """
    if SEAL in document:
        raise ValueError(f"the field {SEAL!r} is the seal's own")
    return canonical_json({**document, SEAL: sha256_of(document)}) + b"\n"


def unseal(data: bytes) -> dict[str, Any]:
    """Decode a sealed document, refusing any that differs by a byte from what `seal` wrote.

    Raises:
        ValueError: The bytes are no sealed document, or are not as they were written.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(document, dict) or SEAL not in document:
        raise ValueError(f"no JSON object with a {SEAL!r} field")
    rest = {name: value for name, value in document.items() if name != SEAL}
    if seal(rest) != data:
        raise ValueError(f"its bytes do not give the {SEAL} it carries")
    return rest
