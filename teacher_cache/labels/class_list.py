"""Class names in order of class id, and a digest that identifies the list."""

from __future__ import annotations

import dataclasses
import functools

from teacher_cache.exact.canonical import sha256_of


@dataclasses.dataclass(frozen=True)
class ClassList:
    """Names of classes; a class id is a position in this list."""

    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    @functools.cached_property
    def sha256(self) -> str:
        """Digest of the names in order; class ids of two lists mean the same only if the digests match."""
        return sha256_of(list(self.names))
