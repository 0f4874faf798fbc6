"""Follow the jobs that make a stream's labels: publish which labels it needs next, and wait for them."""

from __future__ import annotations

from collections.abc import Callable

from teacher_cache.errors import StoreError
from teacher_cache.following.reader import FollowingReader, Patience, say_nothing
from teacher_cache.program.say import say_on_stderr
from teacher_cache.stream.stream import ViewStream


class Follower:
    """Client of the jobs that make a stream's labels; it does nothing for archives that are finished.

    Args:
        timeout_s: Seconds without a status update of a job after which waiting ends with an error.
        is_first: Whether this is the first process of its run, which publishes and reports for all.
    """

    def __init__(self, stream: ViewStream, timeout_s: float, *, is_first: bool = True) -> None:
        members = stream.archive.members if stream.archive is not None else ()
        self._archives = [member for member in members if isinstance(member, FollowingReader)]
        self._stream, self._timeout_s, self._is_first = stream, timeout_s, is_first
        self._there: set[tuple[int, int]] = set()

    def publish(self, name: str) -> None:
        """Write to each followed extraction job the order in which this student will need its labels."""
        for archive in self._archives if self._is_first else ():
            if archive.filling.news() is None:
                continue  # the job has just ended
            try:
                archive.filling.want(name, self._stream.pairs_in_order())
            except StoreError as error:
                say_on_stderr(
                    f"the job keeps its own order, because the order of this run cannot be published: {error}"
                )

    def wait(self, batches: range, is_stopped: Callable[[], bool]) -> None:
        """Wait until all labels of some batches exist.

        Raises:
            TeacherCacheError: A job failed, or gave no status update for `timeout_s` seconds.
            KeyboardInterrupt: `is_stopped` returned True.
        """
        patience = Patience(self._timeout_s, say_on_stderr if self._is_first else say_nothing, is_stopped)
        for batch in batches if self._archives else ():
            for pair in sorted(self._stream.pairs(batch) - self._there):
                for archive in self._archives:
                    archive.wait(*pair, patience)
                self._there.add(pair)
