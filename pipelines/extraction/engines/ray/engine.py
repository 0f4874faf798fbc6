"""Workers as Ray actors, on one machine or a cluster: one unit per call, lost actors replaced, no unit lost.

Not Ray Data: it lost the identity of units, wrote twice after a kill and can drop errors. An actor has two
units at a time: one is computed, the other is written or waits. The driver polls, so that it sees signals,
hung actors and lost nodes within a second.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import ray
import ray.exceptions

from pipelines.extraction.engines.engine import (
    ENDS_THE_RUN,
    MAX_FAILURES_IN_ROW,
    Advance,
    Event,
    UnitDone,
    Worker,
    WorkerLost,
    WorkerStarted,
    failed,
    first_line,
)
from pipelines.extraction.engines.ray.actor import Actor
from pipelines.extraction.engines.ray.cluster import (
    is_gone,
    kill_on,
    reason_of,
    result_of,
    what_actors_take,
    what_is_free,
)
from pipelines.extraction.engines.ray.metrics import RunMetrics
from pipelines.extraction.engines.ray.slot import Call, Slot
from pipelines.extraction.queue import UnitQueue
from pipelines.flags.extract import DEFAULT_DRAIN_S, DEFAULT_UNIT_TIMEOUT_S, ActorFlags
from teacher_cache.archive.layout import Unit
from teacher_cache.errors import TeacherCacheError, UnfitError
from teacher_cache.program.ray_session import connect
from teacher_cache.program.signals import StopSignals

_UNITS_PER_ACTOR = 2
_CALLS_PER_ACTOR = _UNITS_PER_ACTOR + 1
"""One more, which tells how many views are labelled."""
_TICK_S = 0.5
_PROGRESS_EVERY_S = 2.0
_MAX_STARTS = 3
"""Actors that may be lost in a row for one slot before they have started; then the slot is given up."""
_TELL_EVERY_S = 30.0
_LOG = logging.getLogger(__name__)


class RayEngine:
    """The engine on Ray.

    Args:
        make_worker: Makes a worker, in an actor's process; pickled.
        flags: How many actors, and what each of them takes.
        device: Of the teacher, as its flag says it.
        workers: Processes that render for each teacher.
        address: Of a cluster; None starts one on this machine, which ends with the engine.
        clock: Seconds, rising.

    Raises:
        InputError: There is no cluster at the address.
    """

    def __init__(
        self,
        make_worker: Callable[[], Worker],
        flags: ActorFlags,
        *,
        device: str = "auto",
        workers: int = 0,
        address: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._timeout_s = DEFAULT_UNIT_TIMEOUT_S if flags.unit_timeout_s is None else flags.unit_timeout_s
        self._drain_s = DEFAULT_DRAIN_S if flags.drain_s is None else flags.drain_s
        connect(address, "--address")
        taken = what_actors_take(flags, device, workers)
        self.num_workers = taken.num_actors
        self._new_actor = ray.remote(Actor).options(
            num_gpus=taken.gpus,
            num_cpus=taken.cpus,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=_CALLS_PER_ACTOR,
            scheduling_strategy="SPREAD",
        )
        self._told_s = self._clock()
        self._taken = f"{taken.gpus:g} GPUs and {taken.cpus:g} CPUs"
        self._make_worker = ray.put(make_worker)
        self._calls: dict[Any, Call] = {}
        self._error: BaseException | None = None
        self._news: deque[Event] = deque()
        self._metrics = RunMetrics()
        self._slots = [Slot(number) for number in range(self.num_workers)]
        for slot in self._slots:
            self._start(slot)

    def call(self, method: str, *args: Any) -> Any:
        """Return what a method of some worker returns; of another one, where a worker is lost over it."""
        advance: Advance = args[-1] if args and callable(args[-1]) else _ignore
        given = args[:-1] if advance is not _ignore else args
        empty = UnitQueue((), retries=0, max_quarantined=0)
        losses = 0
        while losses < _MAX_STARTS:
            slot = self._first_ready(empty, advance)
            actor, slot.since_s = slot.actor, self._clock()
            ref = actor.call.remote(method, given, advance is not _ignore)
            while slot.actor is actor:
                found, _ = ray.wait([ref], timeout=_TICK_S)
                if found:
                    try:
                        value, views = result_of(ref)
                    except ray.exceptions.RayActorError as error:
                        self._news.extend(self._lost(slot, empty, advance, reason_of(error)))
                    except UnfitError as error:
                        self._news.extend(self._give_up(slot, empty, advance, error))
                    else:
                        self._count(slot, views, advance)
                        slot.views_done = slot.views
                        return value
                    break
                self._ask_views(slot)
                self._news.extend(self._wait(empty, advance, tick_s=0.0))
                if slot.actor is actor and self._is_hung(slot):
                    self._news.extend(self._end_hung(slot, empty, advance))
            losses += slot.actor is not None
        raise TeacherCacheError(
            f"{_MAX_STARTS} workers were lost over {method}",
            "Nothing was computed.",
            "see the workers' logs: ray logs",
        )

    def run(self, queue: UnitQueue, advance: Advance) -> Iterator[Event]:
        """Do the units of a queue; see Engine. SIGINT and SIGTERM let what is under way finish."""
        with StopSignals() as signals:
            drained_s: float | None = None
            yield from self._take_news()
            while True:
                if signals.were_met and drained_s is None:
                    queue.stop()
                    drained_s = self._clock() + self._drain_s
                self._check_slots()
                self._hand_out(queue)
                is_busy = any(slot.units for slot in self._slots)
                if drained_s is not None and (not is_busy or self._clock() > drained_s):
                    raise KeyboardInterrupt
                is_ready = any(slot.is_ready for slot in self._slots)
                if not is_busy and (is_ready or not queue.has_more):
                    return
                if not is_ready:
                    self._tell_what_is_waited_for()
                yield from self._wait(queue, advance)
                yield from self._hung(queue, advance)

    def close(self) -> None:
        """End the actors, and the cluster where it was started for this run."""
        for slot in self._slots:
            if slot.actor is not None:
                ray.kill(slot.actor)
        ray.shutdown()

    def _start(self, slot: Slot) -> None:
        slot.actor, slot.pid = self._new_actor.remote(self._make_worker), 0
        slot.views = slot.views_done = slot.failures = 0
        self._calls[slot.actor.start.remote()] = Call(slot, slot.actor, "start")

    def _hand_out(self, queue: UnitQueue) -> None:
        """Give every actor a unit, then every one another."""
        ready = [slot for slot in self._slots if slot.is_ready]
        nodes = {slot.node for slot in ready}
        for depth in range(_UNITS_PER_ACTOR):
            for slot in ready:
                if len(slot.units) != depth or (unit := queue.take(slot.node, nodes)) is None:
                    continue
                if not slot.units:
                    slot.since_s = self._clock()
                slot.units.append(unit)
                self._calls[slot.actor.run.remote(unit)] = Call(slot, slot.actor, "run", unit)

    def _wait(self, queue: UnitQueue, advance: Advance, tick_s: float = _TICK_S) -> Iterator[Event]:
        """Wait for calls to return, a moment at most, and tell what came of them."""
        for slot in self._slots:
            if slot.units:
                self._ask_views(slot)
        if not self._calls:
            time.sleep(tick_s)
            return
        refs = list(self._calls)
        found, _ = ray.wait(refs, timeout=tick_s)
        if found:  # and whatever else has returned by now
            found, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        for ref in found:
            call = self._calls.pop(ref, None)
            if call is not None and call.slot.actor is call.actor:
                yield from self._settle(ref, call, queue, advance)

    def _settle(self, ref: Any, call: Call, queue: UnitQueue, advance: Advance) -> Iterator[Event]:
        slot = call.slot
        try:
            value = result_of(ref)
        except ray.exceptions.RayActorError as error:
            yield from self._lost(slot, queue, advance, reason_of(error))
            return
        except Exception as error:
            if call.what == "start":
                yield from self._failed_start(slot, error)
            elif call.unit is not None:
                yield from self._failed_unit(slot, call.unit, queue, advance, error)
            return
        if call.what == "start":
            slot.node, slot.pid, slot.failed_starts = value.node, value.pid, 0
            self._metrics.workers(sum(slot.is_ready for slot in self._slots))
            yield WorkerStarted(slot.name, slot.node, slot.pid)
        elif call.what == "views":
            self._count(slot, max(value, slot.views), advance)  # it may be older than what is known
        elif call.unit is not None:
            result, views = value
            self._count(slot, views, advance)
            slot.views_done += result.views
            slot.units.remove(call.unit)
            slot.since_s, slot.failures = self._clock(), 0
            self._metrics.done(result)
            yield UnitDone(call.unit, slot.name, result)

    def _failed_unit(
        self, slot: Slot, unit: Unit, queue: UnitQueue, advance: Advance, error: Exception
    ) -> Iterator[Event]:
        slot.units.remove(unit)
        slot.since_s = self._clock()
        self._count(slot, slot.views_done, advance)
        if isinstance(error, UnfitError):
            queue.give_back(unit)
            yield from self._give_up(slot, queue, advance, error)
        elif isinstance(error, ENDS_THE_RUN):
            raise error
        else:
            event = failed(queue, unit, slot.name, slot.node, error)
            self._metrics.failed(event)
            yield event
            slot.failures += not isinstance(error, TeacherCacheError)
            if slot.failures == MAX_FAILURES_IN_ROW:
                reason = f"{slot.failures} units in a row failed, the last: {event.reason}"
                yield from self._lost(slot, queue, advance, reason, is_unit_to_blame=False)

    def _failed_start(self, slot: Slot, error: Exception) -> Iterator[Event]:
        """Another actor would meet an error of ours too; other errors may have to do with the machine."""
        slot.failed_starts += 1
        is_replaced = not isinstance(error, TeacherCacheError) and slot.failed_starts < _MAX_STARTS
        ray.kill(slot.actor)
        if not isinstance(error, TeacherCacheError):
            error = TeacherCacheError(
                f"a worker does not start: {first_line(error)}",
                "There is nobody to do the work.",
                "mend what it says: memory, devices, or what is installed on its machine",
            )
        self._error, slot.actor = error, None
        if is_replaced:
            self._start(slot)
        yield WorkerLost(slot.name, reason_of(error), is_replaced)

    def _give_up(self, slot: Slot, queue: UnitQueue, advance: Advance, error: Exception) -> Iterator[Event]:
        """Do without an actor whose machine is not fit for the run."""
        advance(slot.views_done - slot.views)
        while slot.units:
            queue.give_back(slot.units.pop())
        ray.kill(slot.actor)
        self._error, slot.actor = error, None
        self._metrics.workers(sum(slot.is_ready for slot in self._slots))
        yield WorkerLost(slot.name, reason_of(error), is_replaced=False)

    def _lost(
        self,
        slot: Slot,
        queue: UnitQueue,
        advance: Advance,
        reason: str,
        *,
        is_unit_to_blame: bool = True,
    ) -> Iterator[Event]:
        """Put another actor in the place of a lost one. What it had begun failed, unless its node is gone."""
        ray.kill(slot.actor)  # it may only have been out of reach, and would hold its device
        advance(slot.views_done - slot.views)
        units, had_started = list(slot.units), slot.pid > 0
        slot.units.clear()
        slot.failed_starts = 0 if had_started else slot.failed_starts + 1
        is_replaced = slot.failed_starts < _MAX_STARTS
        slot.actor, slot.pid = None, 0
        if is_replaced:
            self._start(slot)
        else:
            self._error = TeacherCacheError(
                f"{_MAX_STARTS} actors in a row died as they started: {reason}",
                "There is no worker left.",
                "see their logs: ray logs, or the dashboard",
            )
        self._metrics.workers(sum(slot.is_ready for slot in self._slots))
        yield WorkerLost(slot.name, reason, is_replaced)
        if units and is_unit_to_blame and not is_gone(slot.node):
            event = failed(queue, units.pop(0), slot.name, slot.node, reason)
            self._metrics.failed(event)
            yield event
        for unit in units:
            queue.give_back(unit)

    def _hung(self, queue: UnitQueue, advance: Advance) -> Iterator[Event]:
        for slot in self._slots:
            if slot.units and self._is_hung(slot):
                yield from self._end_hung(slot, queue, advance)

    def _is_hung(self, slot: Slot) -> bool:
        return self._clock() - slot.since_s > self._timeout_s

    def _end_hung(self, slot: Slot, queue: UnitQueue, advance: Advance) -> Iterator[Event]:
        kill_on(slot.node, slot.pid)
        reason = f"nothing was labelled in {self._timeout_s:g} s (--unit-timeout-s)"
        yield from self._lost(slot, queue, advance, reason)

    def _first_ready(self, queue: UnitQueue, advance: Advance) -> Slot:
        """Wait for an actor; say now and then what is waited for."""
        while not (ready := [slot for slot in self._slots if slot.is_ready]):
            self._check_slots()
            self._news.extend(self._wait(queue, advance))
            self._tell_what_is_waited_for()
        return ready[0]

    def _tell_what_is_waited_for(self) -> None:
        if self._clock() - self._told_s > _TELL_EVERY_S:
            self._told_s = self._clock()
            _LOG.warning(
                "waiting for an actor: each takes %s; free on the cluster: %s", self._taken, what_is_free()
            )

    def _ask_views(self, slot: Slot) -> None:
        """Ask an actor how far it is, now and then, unless it owes an answer."""
        now_s = self._clock()
        owes = any(call.actor is slot.actor and call.what == "views" for call in self._calls.values())
        if slot.is_ready and not owes and now_s - slot.asked_s > _PROGRESS_EVERY_S:
            slot.asked_s = now_s
            self._calls[slot.actor.views.remote()] = Call(slot, slot.actor, "views")

    def _count(self, slot: Slot, views: int, advance: Advance) -> None:
        if views > slot.views:
            slot.since_s = self._clock()
        if views != slot.views:
            advance(views - slot.views)
            slot.views = views

    def _check_slots(self) -> None:
        """Raise what the last actor was lost to, where none is left."""
        if all(slot.actor is None for slot in self._slots):
            assert self._error is not None
            raise self._error

    def _take_news(self) -> Iterator[Event]:
        while self._news:
            yield self._news.popleft()


def _ignore(views: int) -> None:
    del views
