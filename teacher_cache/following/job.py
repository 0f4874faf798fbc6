"""Filling of an archive: the folder beside it that holds one-view units while students follow the job.

ARCHIVE.filling/job.json      status of the job, rewritten every few seconds
ARCHIVE.filling/students/     pairs of a shard and a view in the order in which each student needs them
ARCHIVE.filling/labels/       archive of units of one view each; deleted when ARCHIVE holds them all
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from teacher_cache.archive.format.documents import MAX_DOCUMENT_BYTES, Place, View, converted, get_document
from teacher_cache.errors import ArchiveError, InputError
from teacher_cache.storage.store import Store

JOB_FILE = "job.json"
_SUFFIX, _LABELS, _STUDENTS = ".filling", "labels", "students"
_MAX_STUDENTS, _MAX_PAIRS = 64, 2**18
"""Maximum number of students whose lists are read, and of pairs in each list."""
_LOG = logging.getLogger(__name__)
_Count = Annotated[int, Meta(ge=0, le=2**53)]


Pair = tuple[Place, View]
"""Image shard and view."""


@dataclasses.dataclass(frozen=True)
class News:
    """Status of a job that fills an archive.

    Attributes:
        state: State of the job: running, stopped (it will be continued), failed.
        views: Ranges [first, stop) of the views that the archive has once the job is done.
        units: Number of one-view units of the job.
        units_done: Number of these that are written.
        told: Time at which this status was written, ISO 8601.
    """

    state: Literal["running", "stopped", "failed"]
    views: list[tuple[View, View]]
    units: _Count
    units_done: _Count
    told: Annotated[str, Meta(max_length=64)]
    why: Annotated[str, Meta(max_length=4096)] = ""


def is_filling(name: str) -> bool:
    """Return whether an object's path leads through a filling, a folder whose name ends in .filling."""
    return any(part.endswith(_SUFFIX) for part in name.split("/"))


class Filling:
    """Folder beside an archive that holds one-view units for students that follow the job.

    Attributes:
        store: Store of the folder.

    Raises:
        InputError: The archive is a whole bucket, which has nothing beside it.
    """

    def __init__(self, archive: Store) -> None:
        name = archive.url.rpartition("/")[2]
        if archive.url.count("/") < 3 and "://" in archive.url:
            raise InputError(
                f"{archive.url} is a whole bucket",
                "The folder for unfinished labels cannot lie beside a bucket.",
                "choose a folder in the bucket",
            )
        self.store = archive.beside(f"../{name}{_SUFFIX}")

    @property
    def labels(self) -> Store:
        """Store of the archive of one-view units."""
        return self.store.beside(_LABELS)

    @property
    def students(self) -> Store:
        """Store of the lists of labels that students need next, one document for each student."""
        return self.store.beside(_STUDENTS)

    def news(self) -> News | None:
        """Return the latest status of the job; None if there is no job.

        Raises:
            ArchiveError: The status cannot be read.
        """
        what = self.store.url_of(JOB_FILE)
        try:
            return converted(msgspec.json.decode(get_document(self.store, JOB_FILE)), News, what)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except msgspec.DecodeError as error:
            raise ArchiveError(f"{what} is damaged: {error}", "The job's state is not known.") from error

    def tell(self, news: News) -> None:
        """Write the status of the job."""
        self.store.put(JOB_FILE, json.dumps(dataclasses.asdict(news)).encode())

    def want(self, student: str, pairs: Iterable[Pair]) -> None:
        """Write the pairs that a student needs, in order, in place of what it wrote before.

        Args:
            student: Name of the student, of letters and digits.
            pairs: Pairs in the order in which they are first needed; those after the first 262,144 are
                not written, and the job makes them in its own order.
        """
        first_ones = list(itertools.islice(dict.fromkeys(pairs), _MAX_PAIRS))
        self.students.put(f"{student}.json", msgspec.json.encode(first_ones))

    def wanted(self) -> dict[str, list[Pair]]:
        """Return the pairs that each student needs, in order, by the name of its document.

        Documents that cannot be read are left out, and logged.
        """
        found = {}
        for name, size in sorted(self.students.sizes().items())[:_MAX_STUDENTS]:
            try:
                if size <= MAX_DOCUMENT_BYTES:
                    found[name] = msgspec.json.decode(self.students.get(name), type=list[Pair])
            except (msgspec.DecodeError, FileNotFoundError) as error:
                _LOG.warning("%s is left out, as it cannot be read: %s", self.students.url_of(name), error)
        return found

    def delete(self) -> None:
        """Delete the folder, the news first: students that start later read the archive."""
        self.store.delete(JOB_FILE)
        for name in self.store.list():
            self.store.delete(name)
        self.store.sweep()
