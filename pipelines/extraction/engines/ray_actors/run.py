"""Run of units on a fleet of Ray actors: lost actors are replaced, and no unit is lost.

The driver polls, to notice signals, hung actors and lost nodes within a second.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

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
    is_foreign,
)
from pipelines.extraction.engines.ray_actors.cluster import (
    is_gone,
    kill_on,
    reason_of,
    result_of,
    what_is_free,
)
from pipelines.extraction.engines.ray_actors.fleet import UNITS_PER_ACTOR, Call, Fleet, Slot
from pipelines.extraction.queue import Task, UnitQueue
from teacher_cache.archive.format.layout import Unit
from teacher_cache.errors import TeacherCacheError, UnfitError
from teacher_cache.program.signals import StopSignals

_TICK_S = 0.5
_PROGRESS_EVERY_S = 2.0
_MAX_STARTS = 3
"""Actors of one slot that may be lost in a row before starting; then the slot is given up."""
_TELL_EVERY_S = 30.0
_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")


class RayRun:
    """Run of one queue's units on a fleet's actors.

    Args:
        timeout_s: Seconds after which an actor that labelled nothing counts as hung.
    """

    def __init__(self, fleet: Fleet, queue: UnitQueue, advance: Advance, *, timeout_s: float) -> None:
        self._fleet, self._queue, self._advance = fleet, queue, advance
        self._timeout_s, self._told_s = timeout_s, fleet.clock()

    def ask(self, task: Callable[[Worker, Advance], _T]) -> _T:
        """Return the result of a task on some worker; see Engine."""
        fleet, losses = self._fleet, 0
        while losses < _MAX_STARTS:
            slot = self._first_ready()
            actor, slot.since_s = slot.actor, fleet.clock()
            ref = actor.ask.remote(task)
            while slot.actor is actor:
                found, _ = ray.wait([ref], timeout=_TICK_S)
                if found:
                    try:
                        value, views = result_of(ref)
                    except ray.exceptions.RayActorError as error:
                        fleet.news.extend(self._lost(slot, reason_of(error)))
                    except UnfitError as error:
                        fleet.news.extend(self._give_up(slot, error))
                    else:
                        self._count(slot, views)
                        slot.views_done = slot.views
                        return value
                    break
                self._ask_views(slot)
                fleet.news.extend(self._wait(tick_s=0.0))
                if slot.actor is actor and self._is_hung(slot):
                    fleet.news.extend(self._end_hung(slot))
            losses += slot.actor is not None
        raise TeacherCacheError(
            f"{_MAX_STARTS} workers were lost over one task",
            "Nothing was computed.",
            "see the workers' logs: ray logs",
        )

    def run(self, drain_s: float) -> Iterator[Event]:
        """Run the units of the queue; see Engine. SIGINT and SIGTERM let running units finish.

        Args:
            drain_s: Seconds that running units have to finish after a signal.
        """
        fleet, queue = self._fleet, self._queue
        with StopSignals() as signals:
            drained_s: float | None = None
            while fleet.news:
                yield fleet.news.popleft()
            while True:
                if signals.were_met and drained_s is None:
                    queue.stop()
                    drained_s = fleet.clock() + drain_s
                fleet.check()
                self._hand_out()
                is_busy = any(slot.units for slot in fleet.slots)
                if drained_s is not None and (not is_busy or fleet.clock() > drained_s):
                    raise KeyboardInterrupt
                if not is_busy and (fleet.ready or not queue.has_more):
                    return
                if not fleet.ready:
                    self._tell_what_is_waited_for()
                yield from self._wait()
                for slot in fleet.slots:
                    if slot.units and self._is_hung(slot):
                        yield from self._end_hung(slot)

    def _hand_out(self) -> None:
        """Give every actor one unit, then every actor a second one."""
        fleet, nodes = self._fleet, {slot.node for slot in self._fleet.ready}
        for depth in range(UNITS_PER_ACTOR):
            for slot in fleet.ready:
                if len(slot.units) != depth or (unit := self._queue.take(slot.node, nodes)) is None:
                    continue
                if not slot.units:
                    slot.since_s = fleet.clock()
                slot.units.append(unit)
                fleet.calls[slot.actor.run.remote(unit)] = Call(slot, slot.actor, "run", unit)

    def _wait(self, tick_s: float = _TICK_S) -> Iterator[Event]:
        """Wait for calls to return, for at most `tick_s`, and yield their events."""
        calls = self._fleet.calls
        for slot in self._fleet.slots:
            if slot.units:
                self._ask_views(slot)
        if not calls:
            time.sleep(tick_s)
            return
        refs = list(calls)
        found, _ = ray.wait(refs, timeout=tick_s)
        if found:  # collect all other calls that have returned by now
            found, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        for ref in found:
            call = calls.pop(ref, None)
            if call is not None and call.slot.actor is call.actor:
                yield from self._settle(ref, call)

    def _settle(self, ref: Any, call: Call) -> Iterator[Event]:
        slot = call.slot
        try:
            value = result_of(ref)
        except ray.exceptions.RayActorError as error:
            yield from self._lost(slot, reason_of(error))
            return
        except Exception as error:
            if call.what == "start":
                yield from self._failed_start(slot, error)
            elif call.unit is not None:
                yield from self._failed_unit(slot, call.unit, error)
            return
        if call.what == "start":
            slot.node, slot.pid, slot.failed_starts = value.node, value.pid, 0
            self._fleet.count_ready()
            yield WorkerStarted(slot.name, slot.node, slot.pid)
        elif call.what == "views":
            self._count(slot, max(value, slot.views))  # an answer may be older than the known count
        elif call.unit is not None:
            result, views = value
            self._count(slot, views)
            slot.views_done += result.views
            slot.units.remove(call.unit)
            slot.since_s, slot.failures = self._fleet.clock(), 0
            if isinstance(call.unit, Unit):  # the figures are of labels; report.json has the calibration's
                self._fleet.metrics.done(result)
            yield UnitDone(call.unit, slot.name, result)

    def _failed_unit(self, slot: Slot, unit: Task, error: Exception) -> Iterator[Event]:
        slot.units.remove(unit)
        slot.since_s = self._fleet.clock()
        self._count(slot, slot.views_done)
        if isinstance(error, UnfitError):
            self._queue.give_back(unit)
            yield from self._give_up(slot, error)
        elif isinstance(error, ENDS_THE_RUN):
            raise error
        else:
            event = failed(self._queue, unit, slot.name, slot.node, error)
            self._fleet.metrics.failed(event)
            yield event
            slot.failures += is_foreign(error)
            if slot.failures == MAX_FAILURES_IN_ROW:
                reason = f"{slot.failures} units in a row failed, the last: {event.reason}"
                yield from self._lost(slot, reason, is_unit_to_blame=False)

    def _failed_start(self, slot: Slot, error: Exception) -> Iterator[Event]:
        """Replace the actor, unless the error is a TeacherCacheError, which another would raise too."""
        slot.failed_starts += 1
        is_replaced = not isinstance(error, TeacherCacheError) and slot.failed_starts < _MAX_STARTS
        ray.kill(slot.actor)
        if not isinstance(error, TeacherCacheError):
            error = TeacherCacheError(
                f"a worker does not start: {first_line(error)}",
                "No worker is left.",
                "mend what it says: memory, devices, or what is installed on its machine",
            )
        self._fleet.error, slot.actor = error, None
        if is_replaced:
            self._fleet.start(slot)
        yield WorkerLost(slot.name, reason_of(error), is_replaced)

    def _give_up(self, slot: Slot, error: Exception) -> Iterator[Event]:
        """Give up the slot of an actor whose machine is not fit for the run."""
        self._advance(slot.views_done - slot.views)
        while slot.units:
            self._queue.give_back(slot.units.pop())
        ray.kill(slot.actor)
        self._fleet.error, slot.actor = error, None
        self._fleet.count_ready()
        yield WorkerLost(slot.name, reason_of(error), is_replaced=False)

    def _lost(self, slot: Slot, reason: str, *, is_unit_to_blame: bool = True) -> Iterator[Event]:
        """Replace a lost actor. The unit that it had begun counts as failed, unless the node is gone."""
        ray.kill(slot.actor)  # an actor that was only unreachable would keep its device
        self._advance(slot.views_done - slot.views)
        units, had_started = list(slot.units), slot.pid > 0
        slot.units.clear()
        slot.failed_starts = 0 if had_started else slot.failed_starts + 1
        is_replaced = slot.failed_starts < _MAX_STARTS
        slot.actor, slot.pid = None, 0
        if is_replaced:
            self._fleet.start(slot)
        else:
            self._fleet.error = TeacherCacheError(
                f"{_MAX_STARTS} actors in a row died as they started: {reason}",
                "There is no worker left.",
                "see their logs: ray logs, or the dashboard",
            )
        self._fleet.count_ready()
        yield WorkerLost(slot.name, reason, is_replaced)
        if units and is_unit_to_blame and not is_gone(slot.node):
            event = failed(self._queue, units.pop(0), slot.name, slot.node, reason)
            self._fleet.metrics.failed(event)
            yield event
        for unit in units:
            self._queue.give_back(unit)

    def _is_hung(self, slot: Slot) -> bool:
        return self._fleet.clock() - slot.since_s > self._timeout_s

    def _end_hung(self, slot: Slot) -> Iterator[Event]:
        kill_on(slot.node, slot.pid)
        yield from self._lost(slot, f"nothing was labelled in {self._timeout_s:g} s (--unit-timeout-s)")

    def _first_ready(self) -> Slot:
        """Wait for an actor to be ready, and log the reason for waiting now and then."""
        while not (ready := self._fleet.ready):
            self._fleet.check()
            self._fleet.news.extend(self._wait())
            self._tell_what_is_waited_for()
        return ready[0]

    def _tell_what_is_waited_for(self) -> None:
        now_s, resources = self._fleet.clock(), self._fleet.resources
        if now_s - self._told_s > _TELL_EVERY_S:
            self._told_s = now_s
            _LOG.warning(
                "waiting for an actor: each takes %s; free on the cluster: %s", resources, what_is_free()
            )

    def _ask_views(self, slot: Slot) -> None:
        """Ask an actor for the number of labelled views, now and then, unless an answer is still due."""
        fleet, now_s = self._fleet, self._fleet.clock()
        is_due = any(call.actor is slot.actor and call.what == "views" for call in fleet.calls.values())
        if slot.is_ready and not is_due and now_s - slot.asked_s > _PROGRESS_EVERY_S:
            slot.asked_s = now_s
            fleet.calls[slot.actor.views.remote()] = Call(slot, slot.actor, "views")

    def _count(self, slot: Slot, views: int) -> None:
        if views > slot.views:
            slot.since_s = self._fleet.clock()
        if views != slot.views:
            self._advance(views - slot.views)
            slot.views = views
