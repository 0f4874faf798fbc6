"""Read the labels of an archive while a job makes them: a reader waits for missing labels."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from teacher_cache.archive.format.documents import Digest, get_document
from teacher_cache.archive.format.layout import Layout, Unit
from teacher_cache.archive.format.manifest import MANIFEST_FILE
from teacher_cache.archive.format.receipts import (
    Receipt,
    read_receipt,
    read_shared_receipt,
    receipt_name,
    shared_file,
)
from teacher_cache.archive.format.spec import SPEC_FILE
from teacher_cache.archive.format.spec_file import existing_spec
from teacher_cache.archive.format.trust import Trust
from teacher_cache.archive.open import is_export, open_trusted
from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.archive.readers.read_units import UnitReader
from teacher_cache.archive.readers.source import LabelSource
from teacher_cache.errors import DamagedError, TeacherCacheError
from teacher_cache.following.job import Filling, News
from teacher_cache.labels.arrays import LabelArrays, SharedArrays
from teacher_cache.program.say import say_on_stderr
from teacher_cache.storage.cache import CacheRoom
from teacher_cache.storage.store import Store

_T = TypeVar("_T")
_LOCAL_POLL_S, _REMOTE_POLL_S = 0.1, 1.0
_FIRST_SAID_S, _SAID_EVERY_S = 5.0, 30.0


def say_nothing(_: str) -> None:
    """Report nothing."""


def _never() -> bool:
    return False


@dataclasses.dataclass(frozen=True)
class Patience:
    """Settings for waiting for labels.

    Attributes:
        timeout_s: Seconds without a new status of the job after which waiting ends with an error.
        say: Function that gets a line of progress after the first seconds of waiting, then at intervals.
        is_stopped: Function that returns whether to stop waiting.
    """

    timeout_s: float
    say: Callable[[str], None] = say_nothing
    is_stopped: Callable[[], bool] = _never


class _UnitPlace(NamedTuple):
    reader: UnitReader
    store: Store
    receipt: Receipt


class FollowingReader(LabelSource):
    """Reader of an archive that a job is still filling; `stored` waits for the unit's receipt.

    Args:
        url: Folder of the archive, or any URL fsspec opens.
        room: Folder and size limit of the cache of remote objects.
        timeout_s: Seconds without a new status of the job after which waiting ends with an error.

    Raises:
        ArchiveError: The archive's documents are damaged.
    """

    def __init__(self, url: str, room: CacheRoom, timeout_s: float) -> None:
        self.store, self._room, self._timeout_s = Store(url), room, timeout_s
        self.url, self.filling = self.store.url, Filling(self.store)
        self.spec = existing_spec(self.store, mend=False)
        news, self._finished = self.filling.news(), self._archive()
        ranges = news.views if news is not None else (self._finished.manifest.views if self._finished else [])
        self.views = [view for first, stop in ranges for view in range(first, stop)]
        one_view = dataclasses.replace(self.spec, views_per_unit=1)
        # The archive first: the seal writes a unit there before it deletes the one-view units.
        self._places = [
            (self.store, self.spec, self._reader(self.spec.layout)),
            (self.filling.labels, one_view, self._reader(one_view.layout)),
        ]
        self._found: dict[tuple[int, int], _UnitPlace] = {}

    def __reduce__(self) -> tuple[type[FollowingReader], tuple[str, CacheRoom, float]]:
        return FollowingReader, (self.url, self._room, self._timeout_s)

    def stored(self, shard: int, view: int) -> LabelArrays:
        """Wait for the labels of one view of a shard, and return them; see LabelSource.

        Raises:
            TeacherCacheError: The job failed, or wrote no new status for `timeout_s`.
        """
        patience = Patience(self._timeout_s)
        if self._finished is not None and self._has(self._finished, shard, view):
            return self._finished.stored(shard, view)
        place = self._until_there(shard, view, patience)
        try:
            return place.reader.stored(place.store, place.receipt, view)
        except DamagedError:
            del self._found[shard, view]
            again = self._until_there(shard, view, patience)
            if again.store.url == place.store.url:
                raise
            return again.reader.stored(again.store, again.receipt, view)  # the seal has just moved them

    def wait(self, shard: int, view: int, patience: Patience) -> None:
        """Wait until the labels of one view of a shard can be read.

        Raises:
            TeacherCacheError: The job failed, or wrote no new status for `patience.timeout_s`.
            KeyboardInterrupt: `patience.is_stopped` returned True.
        """
        if self._finished is None or not self._has(self._finished, shard, view):
            self._until_there(shard, view, patience)

    def shared_arrays(self) -> SharedArrays | None:
        """Wait for the class affinity or the basis, and return it as it is stored; see LabelSource."""
        labels, layout = self.spec.labels, self.spec.layout
        if labels.shared_rule is None:
            return None
        patience, what = Patience(self._timeout_s, say_on_stderr), labels.shared_title
        store, reader, objects = until(self._shared, what, self.filling.news, patience)
        data = {
            array: reader.whole(store, layout.shared_name(array), digest, what)
            for array, digest in objects.items()
        }
        try:
            return layout.decode_shared(data)
        except ValueError as error:
            raise reader.damaged(what, str(error)) from error

    def _until_there(self, shard: int, view: int, patience: Patience) -> _UnitPlace:
        found = self._found.get((shard, view))
        if found is None:
            what = f"the labels of view {view} of shard {shard}"
            poll_s = _LOCAL_POLL_S if self.store.is_local else _REMOTE_POLL_S
            find = functools.partial(self._find, shard, view)
            found = self._found[shard, view] = until(find, what, self.filling.news, patience, poll_s)
        return found

    def _find(self, shard: int, view: int) -> _UnitPlace | None:
        for store, spec, reader in self._places:
            size = spec.views_per_unit
            block = view // size
            name = receipt_name(Unit(shard, block, block * size, block * size + size))
            try:
                receipt = read_receipt(get_document(store, name), store.path(name), spec)
            except (FileNotFoundError, NotADirectoryError):
                continue
            if view in receipt.unit.views:
                return _UnitPlace(reader, store, receipt)
        return None

    def _shared(self) -> tuple[Store, UnitReader, dict[str, Digest]] | None:
        for store, spec, reader in self._places:
            name = shared_file(spec)
            try:
                data = get_document(store, name)
            except (FileNotFoundError, NotADirectoryError):
                continue
            return store, reader, read_shared_receipt(data, store.path(name), spec)
        return None

    def _archive(self) -> ArchiveReader | None:
        """Return a reader of the labels that have a manifest already; None if there is no manifest."""
        if self.store.stat(MANIFEST_FILE) is None:
            return None
        return ArchiveReader(self.url, self._room)

    @staticmethod
    def _has(archive: ArchiveReader, shard: int, view: int) -> bool:
        is_of_shard = archive.shards is None or shard in archive.shards
        return view in archive.views and is_of_shard

    def _reader(self, layout: Layout) -> UnitReader:
        return UnitReader(
            self.url, layout, self._room, "run the same extract again: it makes what is missing"
        )


def open_following(url: str, room: CacheRoom, trust: Trust, patience: Patience) -> LabelSource:
    """Open an archive that a job is filling, or a finished one; wait until there is either.

    Raises:
        ArchiveError: The archive is damaged, or must be signed, which only a finished archive can be.
        TeacherCacheError: No job began before the timeout, or the job failed.
    """
    store = Store(url)
    if is_export(store):
        return open_trusted(url, room, trust)
    filling = Filling(store)

    def find() -> LabelSource | None:
        if filling.news() is not None:
            trust.refuse_unsigned(url, "an archive that a job is filling")
            is_begun = store.stat(SPEC_FILE) is not None
            return FollowingReader(url, room, patience.timeout_s) if is_begun else None
        return ArchiveReader(url, room, trust) if store.stat_optional(MANIFEST_FILE) is not None else None

    return until(find, f"a job that fills {url}", filling.news, patience)


def until(
    find: Callable[[], _T | None],
    what: str,
    news_of: Callable[[], News | None],
    patience: Patience,
    poll_s: float = _REMOTE_POLL_S,
) -> _T:
    """Poll `find` until it returns a value other than None; return that value.

    Args:
        find: Function that returns the awaited value, or None if there is none yet.
        what: Name of the value in messages.
        news_of: Function that returns the latest status of the job.
        poll_s: Seconds between two calls of `find`.

    Raises:
        TeacherCacheError: The job failed, or wrote no new status for `patience.timeout_s`.
        KeyboardInterrupt: `patience.is_stopped` returned True.
    """
    begun_s = heard_s = time.monotonic()
    said_s = begun_s + _FIRST_SAID_S - _SAID_EVERY_S
    last: News | None = None
    while (found := find()) is None:
        news, now_s = news_of(), time.monotonic()
        if news != last:
            last, heard_s = news, now_s
        if news is not None and news.state == "failed" and find() is None:
            raise TeacherCacheError(
                f"the job that makes {what} failed: {news.why}",
                "The student stops, since it never skips a view.",
                "fix the cause, run the extract again, then continue the student with --resume auto",
            )
        if now_s - heard_s > patience.timeout_s:
            raise TeacherCacheError(
                f"nothing was heard of the job that makes {what} for {now_s - heard_s:,.0f} s",
                "The student stops, since it never skips a view.",
                "run the extract again with --followed, then continue the student with --resume auto",
            )
        if now_s - said_s >= _SAID_EVERY_S:
            said_s = now_s
            patience.say(_waiting_line(what, now_s - begun_s, now_s - heard_s, news))
        if patience.is_stopped():
            raise KeyboardInterrupt
        time.sleep(poll_s)
    return found


def _waiting_line(what: str, waited_s: float, silent_s: float, news: News | None) -> str:
    text = f"waiting for {what} for {waited_s:,.0f} s"
    if news is None:
        return f"{text}; no job is running (teacher-cache extract ... --followed starts one)"
    state = "" if news.state == "running" else f" and {news.state}"
    done = f"{news.units_done:,} of {news.units:,} units{state}"
    return f"{text}; the job has {done}, last update {silent_s:,.0f} s ago"
