"""The error tree. Every message says the value, the consequence and the remedy.

TeacherCacheError            exit code 1: the work failed, or a check fell short
├── StoreError               a store failed at what it is for
│   ├── FullError            there is no room left in it
│   ├── UnreachableError     it did not answer, however often it was asked
│   └── DeniedError          exit code 2, an InputError too: it refuses, for want of permissions or a secret
└── InputError               exit code 2: the request, or what it points at, is wrong
    ├── UnfitError           a worker has other images, weights or libraries than its run
    ├── ImageError           one image cannot be used
    ├── DatasetError         a packed dataset is missing, damaged or not the one meant
    ├── RecipeError          an augmentation recipe is not valid, or its pixels drifted
    ├── ModelError           a model name, its weights or its classes do not fit
    └── ArchiveError         an archive is missing, incomplete or of another request
        └── DamagedError     a part of an archive is not as it was written
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TeacherCacheError(Exception):
    """Base of every error this project raises on purpose.

    Args:
        value: What was found, with the offending value in it.
        consequence: What would happen if it were let through.
        remedy: What to do about it.
    """

    exit_code = 1

    def __init__(self, value: str, consequence: str = "", remedy: str = "") -> None:
        super().__init__(value, consequence, remedy)
        self.value, self.consequence, self.remedy = value, consequence, remedy

    def __str__(self) -> str:
        lines = [self.value, self.consequence, f"Remedy: {self.remedy}" if self.remedy else ""]
        return "\n".join(line for line in lines if line)


class InputError(TeacherCacheError):
    """The request, or the data it points at, is wrong."""

    exit_code = 2


class StoreError(TeacherCacheError):
    """A store failed at what it is for."""


class FullError(StoreError):
    """There is no room left in a store."""


class UnreachableError(StoreError):
    """A store did not answer, however often it was asked."""


class DeniedError(StoreError, InputError):
    """A store refuses to be read or written."""

    exit_code = 2


class UnfitError(InputError):
    """A worker has other images, weights or libraries than the run it is to work for."""


class ImageError(InputError):
    """One image cannot be used."""


class DatasetError(InputError):
    """A packed dataset is missing, damaged, or not the one meant."""


class RecipeError(InputError):
    """An augmentation recipe is not valid, or renders other pixels than it did."""


class ModelError(InputError):
    """A model name, its weights or its classes do not fit."""


class ArchiveError(InputError):
    """An archive is missing, incomplete, or answers another request."""


class DamagedError(ArchiveError):
    """A part of an archive is not as it was written."""


def nearest(name: str, known: Iterable[str], limit: int = 3) -> str:
    """Say which known names look like `name`: "nearest: a, b", or the empty string."""
    matches = difflib.get_close_matches(name, list(known), n=limit, cutoff=0.5)
    return f"nearest: {', '.join(matches)}" if matches else ""
