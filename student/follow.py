"""Follow the job that makes a run's labels: publish which labels the run needs next, and wait for them."""

from __future__ import annotations

from collections.abc import Callable

from student.prepare import Run
from teacher_cache.archive.readers.follow import FollowingReader, Patience
from teacher_cache.errors import StoreError
from teacher_cache.exact.canonical import sha256_hex
from teacher_cache.program.progress import say_on_stderr
from teacher_cache.stream.plan import pairs_in_order


class Follower:
    """Client of the jobs that make a run's labels; it does nothing for archives that are finished."""

    def __init__(self, run: Run) -> None:
        members = run.archive.members if run.archive is not None else ()
        self._archives = [member for member in members if isinstance(member, FollowingReader)]
        self._run = run
        self._there: set[tuple[int, int]] = set()

    def say_what_is_needed(self) -> None:
        """Publish, for each job, the order in which this run needs labels, from its first batch on."""
        run, plan = self._run, self._run.plan
        first_batch = run.first_update * plan.stream.batches_per_update
        name = sha256_hex(run.output.url.encode())[:16]
        for archive in self._archives:
            if archive.filling.news() is None:
                continue  # the job has just ended
            try:
                pairs = pairs_in_order(plan.stream, plan.schedule, first_batch, plan.num_batches)
                archive.filling.want(name, pairs)
            except StoreError as error:
                say_on_stderr(
                    f"the job keeps its own order, because the order of this run cannot be published: {error}"
                )

    def wait(self, update: int, is_stopped: Callable[[], bool]) -> None:
        """Wait until all labels of an update exist.

        Raises:
            TeacherCacheError: A job failed, or gave no status update for `follow_timeout_s` seconds.
            KeyboardInterrupt: The run was asked to stop.
        """
        if not self._archives:
            return
        say = say_on_stderr if self._run.ranks.is_first else _say_nothing
        patience = Patience(self._run.config.follow_timeout_s, say, is_stopped)
        size = self._run.plan.stream.batches_per_update
        for batch in range(update * size, update * size + size):
            for pair in sorted(self._run.stream.pairs(batch) - self._there):
                for archive in self._archives:
                    archive.wait(*pair, patience)
                self._there.add(pair)


def _say_nothing(_: str) -> None:
    pass
