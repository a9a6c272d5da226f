"""Async tasks of a worker: coroutines on its loop, those of a batch side by side.

All but `begin` and `are_there` happen on the loop's thread. May import `batches` and what lies above it.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

from shoal.calls import CANCELLED, COMPLETED, Call, Outcome
from shoal.context import LOCK
from shoal.engine.task_run import raised
from shoal.futures.awaiting import had, waker
from shoal.futures.blocking import LENT, NOTHING
from shoal.serialization import dumps
from shoal.task_runners.remote import messages
from shoal.task_runners.remote.batches import BEGUN

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from shoal.engine.task_run import EndLimit
    from shoal.futures.blocking import Wait
    from shoal.specs import TaskCap
    from shoal.task_runners.remote.batches import Batch
    from shoal.task_runners.remote.worker import RemoteWorker

__all__ = ["Coroutines"]


class Coroutines:
    """What runs on a worker's loop.

    Args:
        worker: the worker.

    Attributes:
        tasks: by run number.
        places: of those that wait, by wait; and those of what is called here.
    """

    def __init__(self, worker: RemoteWorker) -> None:
        self._worker = worker
        self.places: dict[int, Any] = {}
        self.tasks: dict[int, asyncio.Task[None]] = {}

    def begin(self, batch: Batch) -> None:
        """Runs a batch of them, side by side."""
        from shoal.engine.loops import SERVICE_LOOP

        start = self._worker.guarded(self._start)
        SERVICE_LOOP.get().call_soon_threadsafe(start, batch)

    def _start(self, batch: Batch) -> None:
        from shoal.engine.loops import SERVICE_LOOP, under_asyncio

        loop = SERVICE_LOOP.get()
        rows = batch.rows
        batch.open = 1
        for place in batch.indices:
            number, position = rows.numbers[place], rows.positions[place]
            task, number_of_attempt, args, kwargs, tags, _ = rows.run(place)
            if number in batch.skipped or batch.lane.words[position]:
                continue
            context = under_asyncio(self._worker.context(batch, tags))
            call = Call(task, args, kwargs, number, context, batch.scope, number_of_attempt)
            if number_of_attempt > 1:
                call.follow(rows.earlier(place))
            batch.lane.words[position] = BEGUN
            batch.open += 1
            running = loop.create_task(self._run(batch, position, call), context=context)
            self.tasks[number] = running
            running.add_done_callback(partial(self._never_began, batch, position, call))
            if number in batch.skipped:
                running.cancel()
        self._over(batch)

    def _never_began(
        self, batch: Batch, position: int, call: Call, task: asyncio.Task[None]
    ) -> None:
        """A task that is cancelled before its first step says nothing: user code may cancel all that it finds."""
        if self.tasks.get(call.number) is task:
            del self.tasks[call.number]
            self._ended(batch, position, call, Outcome(CANCELLED, None), time.time())

    async def _run(self, batch: Batch, position: int, call: Call) -> None:
        import asyncio

        from shoal.engine.task_run import attempt_async, overdue_outcome_async
        from shoal.futures.awaiting import PLACES

        PLACES[call.number] = _Place(self._worker, batch, position, call.task.cap)
        began = time.time()
        end_limit: EndLimit | None = None
        try:
            if call.task.timeout_seconds is not None:
                # Now that nothing but its function is to come: neither an import nor others of the batch. What has
                # ended is not to be lost if the worker has to be killed for it.
                if batch.unreported:
                    self._worker.report(batch)
                self._worker.channel.send(messages.STARTED, dumps((batch.number, position)))

                def end_limit() -> None:
                    if batch.skipped and call.number in batch.skipped:
                        raise asyncio.CancelledError  # it was stopped, and has taken no notice
                    self._worker.guarded(self._worker.returned)(batch, position)

            outcome = await attempt_async(call, end_limit)
        except asyncio.CancelledError:
            if call.number in self._worker.overdue:
                self._worker.overdue.discard(call.number)
                outcome = await overdue_outcome_async(call)
            else:
                outcome = Outcome(CANCELLED, None)
        except BaseException as error:
            outcome = raised(call, error)
        PLACES.pop(call.number, None)
        self.tasks.pop(call.number, None)
        try:
            self._ended(batch, position, call, outcome, began)
        except BaseException as error:
            self._worker.failed(error)

    def _ended(
        self, batch: Batch, position: int, call: Call, outcome: Outcome, began: float
    ) -> None:
        plain = outcome.phase == COMPLETED and outcome.state is None and outcome.name is None
        batch.lane.ends[position] = now = time.time()
        self._worker.put(batch, position, call, None if plain else outcome, outcome.value)
        del call.context  # a cycle; see `WorkerThread.run`
        batch.observed += now - began
        batch.unreported.append(position)
        self._worker.done += 1
        if self._worker.most is not None and self._worker.done >= self._worker.most:
            self._worker.retire()
        self._over(batch)

    def refuse(self, wait: int) -> None:
        """The driver has refused a wait; on the receiver's thread."""
        place = self.places.get(wait)
        if place is not None:
            place.wake()

    def place(self, wait: int) -> None:
        """There is a place for what waits; on the receiver's thread."""
        place = self.places.get(wait)
        if place is not None:
            place.resume()

    def are_there(self) -> bool:
        """Whether any has not ended."""
        with LOCK:
            return any(batch.rows.task.is_async for batch in self._worker.batches.values())

    def _over(self, batch: Batch) -> None:
        from shoal.engine.loops import SERVICE_LOOP

        batch.open -= 1
        if batch.open == 0:
            self._worker.close(batch)
            if self._worker.stopping:
                for worker_thread in self._worker.worker_threads:
                    worker_thread.give(None)  # it may have waited for this
        elif not batch.timing and batch.unreported:
            batch.timing = True
            SERVICE_LOOP.get().call_later(
                self._worker.report_every, self._worker.guarded(self._worker.report_late), batch
            )


class _Place:
    """What a coroutine here does while it waits: tells the driver, so that waits in a circle are found."""

    __slots__ = (
        "_batch",
        "_cap",
        "_latest",
        "_position",
        "_resume",
        "_wait",
        "_waits",
        "_wanting",
        "_worker",
        "wake",
    )

    def __init__(
        self, worker: RemoteWorker, batch: Batch, position: int, cap: TaskCap | None
    ) -> None:
        self._cap = cap
        self._worker = worker
        self._batch = batch
        self._position = position
        self._wait: int | None = None
        self._waits = 0
        self._wanting = 0  # those of its waits that are for something
        self._latest: Wait  # of these, which is the one that the driver may refuse
        self._resume: Callable[[], None]
        self.wake: Callable[[], None]

    def give_up(self, wait: Wait, wake: Callable[[], None]) -> None:
        """It is about to wait."""
        remote = self._worker.remote
        self._waits += 1
        if self._waits == 1:
            if self._wait in self._worker.coroutines.places:
                # It would have gone on, and waits again.
                self._go_on(self._wait)
                self._resume()
            self._wait = remote.new_wait()
            self._worker.coroutines.places[self._wait] = self
        if wait.until != NOTHING:
            self._wanting += 1
            self._latest = wait
            self.wake = wake
        if self._waits == 1 or wait.until != NOTHING:
            self._tell(wait)

    def _tell(self, wait: Wait) -> None:
        """Tells the driver that it waits, or waits for this, too."""
        remote, number = self._worker.remote, self._wait
        assert number is not None  # given when it began to wait
        at = (self._batch.number, self._position)
        remote.tell_waiting(number, None, wait.wanted, until=wait.until, at=at)
        if number in remote.refusals:
            self.wake()

    async def take_again(self, wait: Wait) -> None:
        """It goes on, or its wait was one of several.

        Raises:
            WaitCycle: it would have waited for itself.
        """
        self._waits -= 1
        number = self._wait
        assert number is not None  # as above
        refusal = None
        if wait.until != NOTHING:
            self._wanting -= 1
            if wait is self._latest:
                refusal = self._worker.remote.refusals.pop(number, None)
        if self._waits == 0:
            try:
                if self._cap is not None or self._worker.remote.capped:
                    await self._wait_for_place(number)
            finally:  # also if it was stopped meanwhile
                if number in self._worker.coroutines.places:
                    self._go_on(number)
        elif wait.until != NOTHING and not self._wanting:
            self._tell(LENT)
        if refusal is not None:
            raise refusal

    def _go_on(self, number: int) -> None:
        del self._worker.coroutines.places[number]
        self._worker.channel.send(messages.RESUMED, dumps(number))

    async def _wait_for_place(self, number: int) -> None:
        event, self._resume = waker()
        self._worker.channel.send(
            messages.GO_ON, dumps((number, () if self._cap is None else (self._cap,)))
        )
        await had(event)

    def resume(self) -> None:
        """There is a place for it; on the receiver's thread."""
        self._resume()
