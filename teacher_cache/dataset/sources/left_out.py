"""Files and members of a source that a dataset leaves out: counted by reason and listed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_MOST_LISTED = 10_000
"""Number of names listed for one reason; all are counted."""

HIDDEN = "hidden, or of the operating system"
NO_IMAGE = "not an image"
BROKEN_LINK = "a link to a file that does not exist"
NO_SAMPLE = "a member whose name is not key.extension, or begins like __this__"
NO_CLASS = "an image outside the class folders"
_SYSTEM = ("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found")
_SYSTEM_FILES = ("Thumbs.db", "desktop.ini")


class LeftOut:
    """Names that are left out of a dataset, by reason."""

    def __init__(self, skipped: Iterable[tuple[str, str]] = ()) -> None:
        self._names: dict[str, list[str]] = {}
        self._counts: Counter[str] = Counter()
        for name, reason in skipped:
            self.add(name, reason)

    def add(self, name: str, reason: str) -> None:
        """Add a name."""
        self._counts[reason] += 1
        names = self._names.setdefault(reason, [])
        if len(names) < _MOST_LISTED:
            names.append(name)

    @classmethod
    def from_json(cls, reasons: Sequence[Mapping[str, Any]]) -> LeftOut:
        """Read the result of `to_json`."""
        found = cls()
        for reason in reasons:
            found._counts[reason["reason"]] += reason["count"]
            names = found._names.setdefault(reason["reason"], [])
            names += reason["names"][: _MOST_LISTED - len(names)]
        return found

    @classmethod
    def joined(cls, parts: Iterable[LeftOut]) -> LeftOut:
        """Return several collections as one."""
        return cls.from_json([reason for part in parts for reason in part.to_json()])

    def __len__(self) -> int:
        return self._counts.total()

    def count(self, reason: str) -> int:
        """Return the number of names left out for a reason."""
        return self._counts[reason]

    def to_json(self) -> list[dict[str, Any]]:
        """Return reasons in order of first use, each with its count and up to 10,000 names."""
        return [
            {"reason": reason, "count": self._counts[reason], "names": names}
            for reason, names in self._names.items()
        ]


def is_system(name: str) -> bool:
    """Return whether a file or folder is hidden, or made by an operating system and not by a person."""
    return name.startswith(".") or name in _SYSTEM or name in _SYSTEM_FILES
