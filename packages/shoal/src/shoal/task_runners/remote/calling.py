"""Places of caps for tasks that runs on a worker call directly: the driver, which knows the caps, gives them.

    this worker thread's run   `RunCalls`: the place of its batch changes with the task that it calls, and changes back
    what else is called        `CallPlace`: a place of its own, entered and left by message

The `RemoteWorker` and its `WorkerThread`s come in as objects. May import `messages`.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from shoal.context import HERE
from shoal.engine.interrupt import interruptible_block, raise_if_due, shielded
from shoal.futures.blocking import ALL, Countdown, Decision, block_plainly
from shoal.serialization import dumps
from shoal.task_runners.remote import messages

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from shoal.calls import Call
    from shoal.futures.blocking import Wanted
    from shoal.specs import TaskCap

__all__ = ["CallPlace", "calling"]


def calling(worker: Any, cap: TaskCap, *, streams: bool) -> Any:
    """See `Answers.calling`."""
    thread = next((t for t in worker.worker_threads if t.frames is HERE.frames), None)
    call = thread.innermost() if thread is not None else None
    if thread is None or call is None:
        return _Aside(worker, cap)
    if not streams:
        return _RunCalls(thread, call, cap)
    return _Aside(worker, None if thread.covers(call, cap) else cap, thread.streamed)


class _RunCalls:
    """A run of a worker thread calls a task."""

    def __init__(self, thread: Any, call: Call, cap: TaskCap) -> None:
        self._thread = thread
        self._call = call
        self._cap = cap

    def __enter__(self) -> Self:
        self._outer = self._thread.cap_of(self._call)
        try:
            self._change(self._cap)
        except BaseException:
            self._change(self._outer)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._change(self._outer)

    def pause(self, wait: Callable[[], Any]) -> Any:
        """See `CallingHere`."""
        self._change(None)
        try:
            return wait()
        finally:
            self._change(self._cap)

    def step(self, step: Callable[[], Any]) -> Any:
        """See `CallingHere`."""
        return step()

    def _change(self, cap: TaskCap | None) -> None:
        if cap != self._thread.cap_of(self._call) and not (
            cap is not None and cap in self._thread.streamed
        ):
            self._thread.change_cap(self._call, cap)


class _Aside:
    """A task is called by another thread, or streams to a run: it has a place of its own.

    Args:
        worker: the worker.
        cap: the task's; `None` if the thread has a place of it.
        streamed: caps of which the thread has places for what streams.
    """

    def __init__(
        self, worker: Any, cap: TaskCap | None, streamed: list[TaskCap] | None = None
    ) -> None:
        self._worker = worker
        self._cap = cap
        self._streamed = streamed if streamed is not None else []
        self._place = _ThreadPlace(worker, cap) if cap is not None else None

    def __enter__(self) -> Self:
        if self._place is not None:
            self._place.enter()
            self._streamed.append(self._place.cap)
        return self

    def __exit__(self, *_: object) -> None:
        if self._place is not None:
            self._streamed.remove(self._place.cap)
            self._place.leave()

    def pause(self, wait: Callable[[], Any]) -> Any:
        """See `CallingHere`."""
        if self._place is None:
            return wait()
        self._place.leave()
        try:
            return wait()
        finally:
            self._place.enter()

    def step(self, step: Callable[[], Any]) -> Any:
        """See `CallingHere`."""
        return step()


class _Entered:
    """A place that the driver gives."""

    def __init__(self, worker: Any, cap: TaskCap, *, is_async: bool) -> None:
        self.cap = cap
        self._worker = worker
        self._is_async = is_async
        self._number = 0

    def ask(self) -> None:
        """Asks for it: `resume` follows."""
        self._number = self._worker.remote.new_wait()
        self._worker.coroutines.places[self._number] = self
        told = dumps((self._number, self.cap, self._is_async))
        self._worker.channel.send(messages.ENTER, told)

    def leave(self) -> None:
        """Gives it back, or takes the request back."""
        self._worker.coroutines.places.pop(self._number, None)
        with suppress(OSError):  # the driver has gone
            self._worker.channel.send(messages.LEAVE, dumps(self._number))

    def resume(self) -> None:
        """It is there; on the receiver's thread."""
        raise NotImplementedError

    def wake(self) -> None:
        """The driver has gone; nothing that waits here is refused."""


class _ThreadPlace(_Entered):
    """One that a thread waits for."""

    def __init__(self, worker: Any, cap: TaskCap) -> None:
        super().__init__(worker, cap, is_async=False)
        self._there = Decision()

    def enter(self) -> None:
        """Waits for it.

        Raises:
            Interrupt: the run that waits is to end; it has no place.
            ConnectionError: the driver has gone.
        """
        self._there = there = Decision()
        try:
            with shielded():
                self.ask()
                if self._worker.gone:  # since before it could be woken
                    self.wake()
                interruptible_block((there,), None, False, False)
                raise_if_due(shielded=True)
                if not there.done():
                    # Interrupted was a run beneath this one, and its turn comes when this one has ended.
                    block_plainly(Countdown(), (there,), None)
            if not there.answer:
                raise ConnectionError("the driver has gone")
        except BaseException:
            self.leave()
            raise

    def resume(self) -> None:
        """See `_Entered`."""
        self._there(True)

    def wake(self) -> None:
        """The driver has gone."""
        self._there(False)


class CallPlace(_Entered):
    """A `Place` of a coroutine that was called directly; lent until it is taken for the first time."""

    def __init__(self, worker: Any, cap: TaskCap) -> None:
        super().__init__(worker, cap, is_async=True)
        self._waits = 1
        self._there: asyncio.Event | Any = None
        self._wake: Callable[[], None]

    def give_up(self, wanted: Wanted, wake: Callable[[], None], until: int = ALL) -> None:
        """See `Place`."""
        self._waits += 1
        if self._waits == 1:
            self.leave()

    async def take_again(self) -> None:
        """See `Place`."""
        from shoal.futures.awaiting import waker

        self._waits -= 1
        if self._waits:
            return
        self._there, self._wake = waker()
        self.ask()
        try:
            await self._there.wait()
        except BaseException:
            self._waits += 1
            self.leave()
            raise

    def resume(self) -> None:
        """See `_Entered`."""
        self._wake()
