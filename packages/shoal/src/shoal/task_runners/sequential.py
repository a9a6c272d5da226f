"""The sequential runner: every run happens in the thread that submits it, before `submit` returns.

A pool without threads of its own: the submitting thread works like a pool's worker that waits for the run, so all
rules (upstreams, retries, nesting) are the shared ones. May import `workers` and what lies above it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.context import HERE, LOCK
from shoal.engine.interrupt import Kicks, frames_of_this_thread
from shoal.futures.maps import MapRecord
from shoal.futures.run import TaskFuture
from shoal.scheduling.caps import Line
from shoal.scheduling.dispatchers import PullingDispatcher
from shoal.task_runners.base import BaseTaskRunner
from shoal.task_runners.worker_backend import WorkerBackend
from shoal.task_runners.workers import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shoal.context import Scope
    from shoal.futures import TaskFutureList
    from shoal.futures.blocking import Wanted
    from shoal.scheduling.caps import Ready
    from shoal.scheduling.dispatcher import AnyDispatcher
    from shoal.scheduling.observed import RunnerObserver
    from shoal.specs import TaskSpec

__all__ = ["SequentialTaskRunner"]


class _InlineDispatcher(PullingDispatcher):
    in_place = True

    def __init__(
        self,
        backend: WorkerBackend,
        limit: int | None,
        runner_name: str,
        observer: RunnerObserver | None,
    ) -> None:
        super().__init__(backend, limit, runner_name, observer)
        self._pool = backend

    def submit(
        self,
        task: TaskSpec,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        wait_for: Any,
        scope: Scope,
        number: int | None = None,
    ) -> TaskFuture[Any]:
        future = super().submit(task, args, kwargs, wait_for, scope, number)
        self._work((future,))
        return future

    def submit_map(
        self,
        task: TaskSpec,
        positional: list[tuple[list[Any] | None, Any]],
        keywords: dict[str, tuple[list[Any] | None, Any]],
        size: int,
        wait_for: Any,
        scope: Scope,
        base: int | None = None,
    ) -> TaskFutureList[Any]:
        if task.is_async:
            wait_for = (
                wait_for if wait_for is not None else []
            )  # one by one: a map of coroutines would run together
        futures = super().submit_map(task, positional, keywords, size, wait_for, scope, base)
        self._work(futures._wanted())
        return futures

    def end(self) -> TaskFuture[None]:
        while True:
            with LOCK:
                left = next((item for item in self._ready() if not _over(item)), None)
            if left is None:
                return super().end()
            self._work((left,))

    def _ready(self) -> Iterator[TaskFuture[Any] | MapRecord[Any]]:
        """All that is ready, or waits for a place only."""
        yield from (item for item in self.scheduler.ready if not isinstance(item, Line))
        for line in self.scheduler.caps.lines() if self.scheduler.caps is not None else ():
            yield from line.items

    def _work(self, wanted: Wanted) -> None:
        """Does in this thread what `wanted` needs, and waits for the rest."""
        if HERE.loop:
            return  # on the loop of async tasks: the thread that waits for the async task does it
        caller = HERE.caller
        if HERE.worker is None and caller is not None and caller.dispatcher is self:
            caller.lend(lambda: self._work_in_place(wanted))
        else:
            self._work_in_place(wanted)

    def _work_in_place(self, wanted: Wanted) -> None:
        outer = HERE.worker
        worker = Worker(self._pool, frames_of_this_thread())
        if outer is not None:
            worker.helps |= outer.helps
        blocked = HERE.block
        HERE.worker, HERE.block = worker, worker.block
        frames = worker.frames
        with LOCK:
            self._pool.workers.append(worker)
            _hand_over(outer, worker)
        frames.enter_shield()
        try:
            with Kicks():
                worker.help(wanted)
        finally:
            HERE.worker, HERE.block = outer, blocked
            with LOCK:
                _hand_over(worker, outer)
                self._pool.workers.remove(worker)
                ready = self.scheduler.ready
                while ready and _over(ready[0]):  # they were run out of turn
                    ready.popleft()
            frames.leave_shield()


def _hand_over(holder: Worker | None, other: Worker | None) -> None:
    """The place of the run that this thread is at is the other's to lend, if both are of one runner; with `LOCK` held."""
    if holder is not None and other is not None and holder.backend is other.backend:
        other.counted, other.line = holder.counted, holder.line
        holder.counted, holder.line = False, None


def _over(item: Ready) -> bool:
    if isinstance(item, Line):
        item.queued = item.prune()
        return not item.queued
    return item.ended if isinstance(item, MapRecord) else item.done()


class SequentialTaskRunner(BaseTaskRunner):
    """Runs tasks one after another in the thread that submits them.

    For debugging, and where order matters more than time.
    """

    name = "sequential"

    def make_backend(self) -> tuple[WorkerBackend, int | None]:
        """See `BaseTaskRunner`."""
        return WorkerBackend(concurrent=False), None

    def make_dispatcher(self) -> AnyDispatcher:
        """See `BaseTaskRunner`."""
        return _InlineDispatcher(*self.make_backend(), type(self).__name__, self.observer())
