"""Who waits for what: what a blocked worker could run itself, and which waits would close a circle. Pure.

What waits is a run; where it waits, and what can run something meanwhile, is a `Blocked`: a thread of this process, or
a worker that was sent a batch. The graph is kept by the runs themselves, in their details: `upstreams` before they
start, `waits_on` while they wait in the user's code, `waits_beside` while threads do that they have started, and `wanting` the other way about, as are
`dependants`. All with `LOCK` held.

May import the engine, `stuck` and what lies above them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from shoal.calls import DONE, QUEUED, READY, WAITING
from shoal.engine.inputs import runs_among
from shoal.exceptions import WaitCycle
from shoal.futures.blocking import ALL, TIMED, WATCHERS, Bearer, Decision, Wait
from shoal.futures.maps import MapRecord
from shoal.futures.run import TaskFuture
from shoal.scheduling.stuck import Needs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from shoal.futures.blocking import Wanted
    from shoal.futures.maps import Span
    from shoal.futures.run import Detail

__all__ = [
    "Blocked",
    "SlotsHad",
    "blocked_on",
    "check_cycle",
    "claim_wanted",
    "depend",
    "needs_of",
    "not_done",
    "tell_of_run",
    "tell_wanting",
    "waits_beside",
    "wanted_by",
]


class Blocked(Protocol):
    """What waits, and could run what it waits for."""

    def serves(self, dispatcher: Any) -> bool:
        """Whether runs of a runner may be given to it."""

    def look_again(self) -> None:
        """Something that it waits for may be startable now."""


class SlotsHad:
    """Which runs of a scheduler hold slots of the limits of their tags, and who waits for such a slot."""

    def __init__(self) -> None:
        self._runs: dict[TaskFuture[Any], None] = {}
        self._wanting: list[Blocked] = []

    def come(self, run: TaskFuture[Any]) -> None:
        """A run has got its slots, and is ready."""
        self._runs[run] = None
        tell_wanting(self._wanting)

    def go(self, run: TaskFuture[Any]) -> None:
        """A run has ended."""
        self._runs.pop(run, None)

    def in_front(self, run: TaskFuture[Any], blocked: Blocked) -> list[TaskFuture[Any]]:
        """The runs that nobody has begun, and that hold slots of limits which a run waits for. `blocked` is told of those that
        come."""
        if blocked not in self._wanting:
            self._wanting.append(blocked)
        limits = run._details().limited
        return [
            other
            for other in self._runs
            if other._phase == READY
            and hasattr(other, "_start")
            and not limits.isdisjoint(other._details().limited)
        ]


def depend(future: TaskFuture[Any], upstream: TaskFuture[Any], allow_failure: bool) -> bool:
    """Registers a dependant; False if the upstream has ended."""
    if upstream._phase >= DONE:
        return False
    above = upstream._details()
    if above.dependants is None:
        above.dependants = []
    entry = (future, allow_failure)
    above.dependants.append(entry)
    if upstream._phase >= DONE and above.dependants and entry in above.dependants:
        above.dependants.remove(
            entry
        )  # it ended meanwhile, and who ended it has not seen the entry
        return False
    return True


def not_done(stack: list[Any]) -> Iterator[Any]:
    """The runs and maps on a stack that have not ended, each once, and what is put on it meanwhile; the last first."""
    seen: set[Any] = set()
    while stack:
        item = stack.pop()
        if item in seen or item.done():
            continue
        seen.add(item)
        if type(item) is not Decision:
            yield item


def claim_wanted(
    wanted: Wanted, blocked: Blocked, running: Sequence[TaskFuture[Any]]
) -> TaskFuture[Any] | Span | None:
    """A worker is about to wait: what it can run itself meanwhile, of what it waits for.

    Only the awaited run, or what that needs: what it depends on, what it waits for, or the end of another that has the slot of a
    limit; claimed for the caller. If there is nothing, `blocked` is noted with all that
    may become startable, and `blocked.look_again()` is called then.

    Args:
        wanted: what it waits for.
        blocked: the worker.
        running: the runs on its stack, innermost last.

    Raises:
        WaitCycle: one of them would wait for itself.
    """
    stack: list[Any] = list(reversed(wanted))
    for item in not_done(stack):
        if isinstance(item, MapRecord):
            span = _claim_elements(item, blocked, running)
            if span is not None:
                return span
            stack.extend(list(item.futures.values()))
            continue
        future: TaskFuture[Any] = item
        if future in running:
            raise WaitCycle(run_name=running[-1].name, awaited=future.name)
        phase = future._phase
        detail = future._details()
        if (
            phase == READY
            and blocked.serves(future._dispatcher)
            and future._dispatcher.scheduler.claim(future)
        ):
            return future
        if detail.wanting is None:
            detail.wanting = []
        if blocked not in detail.wanting:
            detail.wanting.append(blocked)
        if phase == WAITING:
            stack.extend(reversed(runs_among(detail.upstreams)))
        elif phase == QUEUED:  # what has its slot may be in front of a worker that waits, too
            stack.extend(future._dispatcher.scheduler.slots_had.in_front(future, blocked))
        else:
            stack.extend(detail.waits_on or ())
            stack.extend(detail.waits_beside or ())
    return None


def _claim_elements(
    record: MapRecord[Any], blocked: Blocked, running: Sequence[TaskFuture[Any]]
) -> Span | None:
    if any(0 <= run._number - record.base < record.size for run in running):
        raise WaitCycle(run_name=running[-1].name, awaited=f"a map of {record.task.name}")
    if blocked.serves(record.dispatcher) and not record.task.is_async:
        span: Span | None = record.dispatcher.scheduler.claim_span(record)
        if span is not None:
            return span
    if blocked not in record.wanting:
        record.wanting.append(blocked)
    return None


def check_cycle(wanted: Wanted, run: TaskFuture[Any]) -> None:
    """Refuses a wait that would close a circle.

    Raises:
        WaitCycle: what is wanted waits, directly or not, for `run`.
    """
    stack: list[Any] = list(wanted)
    for item in not_done(stack):
        if isinstance(item, MapRecord):
            if 0 <= run._number - item.base < item.size:
                raise WaitCycle(run_name=run.name, awaited=f"a map of {item.task.name}")
            stack.extend(list(item.futures.values()))
            continue
        if item is run:
            raise WaitCycle(run_name=run.name, awaited=item.name)
        detail = item._detail
        if detail is not None:
            stack.extend(runs_among(detail.upstreams))
            stack.extend(detail.waits_on or ())
            stack.extend(detail.waits_beside or ())


def blocked_on(future: TaskFuture[Any], wanted: Wanted | None, until: int = ALL) -> None:
    """What a running run is blocked on from now, `None` for nothing; `until`: see `Wait`."""
    detail = future._details()
    detail.waits_on = wanted
    detail.waits_until = until
    if wanted is not None:
        for watcher in list(WATCHERS):
            watcher()
        tell_of_run(detail)
    future._dispatcher.scheduler.now_waits(future, wanted)


def waits_beside(future: TaskFuture[Any], wanted: Wanted | None) -> None:
    """What threads wait for from now that a running run has started, `None` for nothing; the run itself may go on."""
    detail = future._details()
    detail.waits_beside = wanted
    if wanted:
        tell_of_run(detail)


#: Stands for runs of which nothing is known but that they have not ended.
_OTHERS = object()


def wanted_by(waiting: Any) -> Wait | None:
    """What somebody waits for, `None` for nothing: a run that executes, or a `Bearer`."""
    if type(waiting) is Bearer:
        return waiting.waits[-1] if waiting.waits else None
    detail = waiting._detail
    if detail is None or waiting._phase >= DONE or not detail.waits_on:
        return None
    return Wait(detail.waits_on, detail.waits_until)


def needs_of(waiting: Any) -> Needs | None:
    """What somebody needs to go on who waits for runs, `None` for nothing that is known.

    Args:
        waiting: a run, or a `Bearer`; anything else waits for nothing.
    """
    if type(waiting) is TaskFuture and waiting._phase == WAITING:
        upstreams = [entry.future for entry in waiting._details().upstreams]
        of: list[Any] = [run for run in upstreams if isinstance(run, TaskFuture) and not run.done()]
        return Needs(of, all=False) if of else None  # if one fails, it ends
    if type(waiting) is not TaskFuture and type(waiting) is not Bearer:
        return None
    wait = wanted_by(waiting)
    if wait is None or wait.until == TIMED:
        return None
    of = []
    for item in wait.wanted:
        if item.done():
            continue
        if isinstance(item, MapRecord):
            of.extend(_open_elements(item))
        else:
            of.append(item)
    return Needs(of, all=wait.until == ALL) if of else None


def _open_elements(record: MapRecord[Any]) -> list[Any]:
    """The elements of a map that have not ended; those of which nobody has the future as one, or as the map if no worker
    has taken them.
    """
    known: list[Any] = [run for run in list(record.futures.values()) if run._phase < DONE]
    unclaimed = sum(stop - start for start, stop in list(record.unclaimed))
    if unclaimed:
        known.append(record)
    elif record.open() > len(known):
        known.append(_OTHERS)
    return known


def tell_of_run(detail: Detail) -> None:
    """Something has changed at a run: those that have been noted with it, or with its map, look again."""
    tell_wanting(detail.wanting)
    if detail.origin is not None:
        tell_wanting(detail.origin[0].wanting)


def tell_wanting(wanted: list[Any] | None) -> None:
    """Something has changed at a run, or at a map, that these have been noted with."""
    if wanted:
        for blocked in wanted:
            blocked.look_again()
        wanted.clear()
