"""A run that waits on a worker, as the scheduler and the ledger know it; and a call there that has a place of its own.

May import `scheduler` and what lies above it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.futures.blocking import Wait
from shoal.scheduling.caps import caps_of
from shoal.scheduling.effects import GO_ON, HELP

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shoal.calls import Batch
    from shoal.futures.blocking import Bearer, Wanted
    from shoal.futures.run import TaskFuture
    from shoal.scheduling.caps import Line
    from shoal.scheduling.scheduler import Scheduler

__all__ = ["BlockedRun", "Entered"]


class BlockedRun:
    """A run of a batch that waits, and whose worker can be given what it waits for.

    Attributes:
        batch: the batch it is in.
        run: the run, `None` if what waits is no run of ours (a flow inside one).
        wanted: what it waits for.
        stack: the runs that block its worker, its own last; only its own if it does not block.
        blocks: whether its worker can do nothing else meanwhile.
        beside: whether a thread waits that the run has started, while the run itself may go on.
        tag: what the backend knows it by.
        spare: the slot that stands in for the worker's, if any.
        lends: whether a place of its caps is lent, and it has not gone on.
        lends_worker: whether it waits for slots of limits, so that its worker runs nothing on top of it.
        is_over: whether the wait has ended, and it goes on once there is a place of its caps.
        keeps: those that bear slots of limits there meanwhile, and the wait that they were told of.
    """

    __slots__ = (
        "_queued",
        "_scheduler",
        "batch",
        "beside",
        "blocks",
        "is_over",
        "keeps",
        "lends",
        "lends_worker",
        "run",
        "spare",
        "stack",
        "tag",
        "wanted",
    )

    def __init__(
        self,
        scheduler: Scheduler,
        batch: Batch,
        run: TaskFuture[Any] | None,
        wanted: Wanted,
        stack: list[TaskFuture[Any]],
        *,
        blocks: bool,
        beside: bool = False,
        tag: Any,
    ) -> None:
        self._scheduler = scheduler
        self._queued = False
        self.batch = batch
        self.run = run
        self.wanted = wanted
        self.stack = stack
        self.blocks = blocks
        self.beside = beside
        self.tag = tag
        self.spare: int | None = None
        self.lends = self.lends_worker = self.is_over = False
        self.keeps: list[tuple[Bearer, Wait]] = []

    def keep(self, bearers: Iterable[Bearer], until: int) -> None:
        """It gives none of the slots back that these bear before the wait has ended; `until`: see `Wait`."""
        wait = Wait(self.wanted, until)
        for bearer in bearers:
            self.keeps.append((bearer, wait))
            bearer.begin(wait)

    def goes_on(self) -> None:
        """The wait has ended."""
        for bearer, wait in self.keeps:
            bearer.end(wait)
        self.keeps.clear()

    def serves(self, dispatcher: Any) -> bool:
        """Whether runs of a runner may be given to it."""
        return dispatcher.scheduler is self._scheduler

    def look_again(self) -> None:
        """Something that it waits for may be startable now."""
        if not self._queued:
            self._queued = True
            self._scheduler.effects.append((HELP, self))

    def resume(self) -> None:
        """It has a place of its caps: its worker is to be told that it may go on."""
        self._scheduler.effects.append((GO_ON, self))

    def looked(self) -> None:
        """`look_again` is done."""
        self._queued = False


class Entered:
    """What was called elsewhere, and has a place of its own, or waits for one.

    Args:
        scheduler: whose caps count.
        line: of the task.
        tag: what the backend knows it by.
    """

    __slots__ = ("_has_place", "_line", "_scheduler", "tag")

    def __init__(self, scheduler: Scheduler, line: Line, tag: Any) -> None:
        self._scheduler = scheduler
        self._line = line
        self._has_place = False
        self.tag = tag

    def ask(self) -> None:
        """It would begin, or go on."""
        if caps_of(self._scheduler).go_on(self, self._line):
            self.resume()

    def resume(self) -> None:
        """See `GoesOn`."""
        self._has_place = True
        self._scheduler.effects.append((GO_ON, self))

    def leave(self) -> None:
        """It needs no place any more."""
        if self._has_place:
            caps_of(self._scheduler).free(self._line)
            self._scheduler.serve_caps()
        else:
            caps_of(self._scheduler).withdraw(self)
