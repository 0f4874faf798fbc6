"""Tree of errors. Every message gives the value, the consequence and the remedy.

TeacherCacheError            exit code 1: the work failed, or a check fell short
├── LostProcessError         a process that renders was killed
├── StoreError               a store could not read or write
│   ├── FullError            there is no room left in the store
│   ├── UnreachableError     the store could not be reached after several attempts
│   └── DeniedError          exit code 2, an InputError too: permissions or a secret are missing
└── InputError               exit code 2: the request, or the data it points at, is wrong
    ├── UnfitError           a worker's images, weights or libraries differ from its run's
    ├── ImageError           one image cannot be used
    ├── DatasetError         a packed dataset is missing, damaged or the wrong one
    ├── RecipeError          an augmentation recipe is not valid, or its pixels changed
    ├── ModelError           a model name, its weights or its classes do not fit
    └── ArchiveError         an archive is missing, incomplete or made for another request
        └── DamagedError     part of an archive differs from what was written
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_USER = re.compile(r"(?P<head>\b[A-Za-z][\w+.-]*://[^\s/@:\"']*):[^\s/@\"']+@")
_TOKEN = re.compile(r"(?P<head>\bhttps?://)[^\s/@:\"']+@")
_QUERY = re.compile(
    r"(?P<head>[?&][\w.-]*(?:signature|sig|token|key|keyid|secret|password|credential|auth)=)[^\s&#\"'\\]+",
    re.IGNORECASE,
)


_COMMANDS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)
"""Characters that a terminal obeys (C0 but tab and line feed, C1), that change the direction or hide text."""


def printable(text: str) -> str:
    """Return a text whose control and direction characters are escaped, as Python writes them."""
    return _COMMANDS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def masked(text: str) -> str:
    """Return a text in whose URLs the password, and the query's signatures, tokens and keys, are ***."""
    if "://" not in text:
        return text
    return _QUERY.sub(r"\g<head>***", _TOKEN.sub(r"\g<head>***@", _USER.sub(r"\g<head>:***@", text)))


class TeacherCacheError(Exception):
    """Base of all errors that this project raises on purpose.

    Passwords in URLs are masked, and control characters escaped: much of the text may come from elsewhere.

    Args:
        value: Description of the problem, with the offending value in it.
        consequence: Effect that the value has, or would have if it were accepted.
        remedy: Advice that solves the problem.
    """

    exit_code = 1

    def __init__(self, value: str, consequence: str = "", remedy: str = "") -> None:
        parts = (value, consequence, remedy)
        self.value, self.consequence, self.remedy = (printable(masked(part)) for part in parts)
        super().__init__(self.value, self.consequence, self.remedy)

    def __str__(self) -> str:
        lines = [self.value, self.consequence, f"Remedy: {self.remedy}" if self.remedy else ""]
        return "\n".join(line for line in lines if line)


class InputError(TeacherCacheError):
    """A request, or the data it points at, is wrong."""

    exit_code = 2


class LostProcessError(TeacherCacheError):
    """A process that renders was killed, or ended by itself."""


class StoreError(TeacherCacheError):
    """A store could not read or write."""


class FullError(StoreError):
    """There is no room left in a store."""


class UnreachableError(StoreError):
    """A store could not be reached after several attempts."""


class DeniedError(StoreError, InputError):
    """A store denied access for reading or writing."""

    exit_code = 2


class UnfitError(InputError):
    """A worker's images, weights or libraries differ from those of its run."""


class ImageError(InputError):
    """One image cannot be used."""


class DatasetError(InputError):
    """A packed dataset is missing, damaged, or the wrong one."""


class RecipeError(InputError):
    """An augmentation recipe is not valid, or renders other pixels than before."""


class ModelError(InputError):
    """A model's name, weights or classes are not valid, or do not match the request."""


class ArchiveError(InputError):
    """An archive is missing, incomplete, or was made for another request."""


class DamagedError(ArchiveError):
    """Part of an archive differs from what was written."""


def nearest(name: str, known: Iterable[str], limit: int = 3) -> str:
    """Return the known names that look like `name`: "nearest: a, b", or the empty string."""
    matches = difflib.get_close_matches(name, list(known), n=limit, cutoff=0.5)
    return f"nearest: {', '.join(matches)}" if matches else ""
