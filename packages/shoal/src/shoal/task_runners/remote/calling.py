"""Places of caps for tasks that runs on a worker call directly: the driver, which knows the caps, gives them.

    this worker thread's run   `RunCalls`: the place of its batch changes with the task that it calls, and changes back
    what else is called        `CallPlace`: a place of its own, entered and left by message

The `RemoteWorker` and its `WorkerThread`s come in as objects. May import `messages`.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from shoal.context import HERE
from shoal.engine.interrupt import Interrupt, interruptible_block, raise_if_due, shielded
from shoal.futures.awaiting import CalledPlace
from shoal.futures.blocking import Countdown, Decision, block_plainly
from shoal.scheduling.calling import Caller, Calling, Several, Streaming
from shoal.scheduling.caps import Line
from shoal.serialization import dumps
from shoal.task_runners.remote import messages

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shoal.calls import Call
    from shoal.futures.blocking import Wait
    from shoal.scheduling.answers import CallingHere
    from shoal.specs import TaskCap

__all__ = ["CallPlace", "calling"]


def calling(worker: Any, cap: TaskCap, name: str, *, streams: bool) -> CallingHere:
    """See `Answers.calling`."""
    thread = next((t for t in worker.worker_threads if t.frames is HERE.frames), None)
    call = thread.innermost() if thread is not None else None
    if thread is None or call is None:
        line: Any = Line((cap,), on_loop=False)  # type: ignore[arg-type]  # caps are their tasks' here
        kind = Streaming if streams else Calling
        return kind(worker.remote, line, name, lambda _: _Aside(worker))
    return (_RunStreams if streams else _RunCalls)(thread, call, cap)


class _RunCalls:
    """A run of a worker thread calls a task."""

    def __init__(self, thread: Any, call: Call, cap: TaskCap) -> None:
        self._thread = thread
        self._call = call
        self._cap = cap

    def __enter__(self) -> Self:
        self._outer = self._thread.cap_of(self._call)
        try:
            self._thread.change_cap(self._call, self._cap)
        except BaseException:
            self._thread.change_cap(self._call, self._outer)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.change_cap(self._call, self._outer)

    def pause(self, wait: Callable[[], Any]) -> Any:
        """See `CallingHere`."""
        return self._thread.lent(self._call, wait)

    def step(self, step: Callable[[], Any]) -> Any:
        """See `CallingHere`."""
        return step()


class _RunStreams(_RunCalls):
    """A run of a worker thread is at a generator: with its places it takes, lends and gives back one of this beside them."""

    def __enter__(self) -> Self:
        try:
            self._thread.begin_stream(self._call, self._cap)
        except BaseException:
            self._thread.end_stream(self._call, self._cap)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.end_stream(self._call, self._cap)


class _Aside(Caller):
    """Another thread calls a task: the driver knows what it has by a number, and no run."""

    def __init__(self, worker: Any) -> None:
        super().__init__(worker.remote)
        self._worker = worker
        self._place: _ThreadPlace | None = None

    def change(
        self,
        line: Line | None,
        block: Callable[..., object] | None = None,
        name: str | None = None,
    ) -> None:
        """See `_Holder`; all caps here are those of tasks.

        Raises:
            Interrupt: the run that waits is to end.
            ConnectionError: the driver has gone.
        """
        before = self.line
        if before is line:
            return
        self._leave()
        if line is None:
            return
        task_caps: Any = line.caps
        place = _ThreadPlace(self._worker, task_caps)
        try:
            place.enter()
        except Interrupt:
            self.change(before)
            raise
        self.line, self._place = line, place

    def closed(self) -> None:
        """See `_Holder`."""
        line = self.line
        if type(line) is Several and (line.now() is None or HERE.caller is self):
            self.change(line.now())

    def _leave(self) -> None:
        place, self.line, self._place = self._place, None, None
        if place is not None:
            place.leave()


class _Entered:
    """Places that the driver gives, of all caps at once."""

    def __init__(self, worker: Any, task_caps: Sequence[TaskCap], *, is_async: bool) -> None:
        self._task_caps = tuple(task_caps)
        self._worker = worker
        self._is_async = is_async
        self._number = 0

    def ask(self) -> None:
        """Asks for it: `resume` follows."""
        self._number = self._worker.remote.new_wait()
        self._worker.coroutines.places[self._number] = self
        told = dumps((self._number, self._task_caps, self._is_async))
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

    def __init__(self, worker: Any, task_caps: Sequence[TaskCap]) -> None:
        super().__init__(worker, task_caps, is_async=False)
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


class CallPlace(_Entered, CalledPlace):
    """One that the driver gives."""

    def __init__(self, worker: Any, cap: TaskCap) -> None:
        _Entered.__init__(self, worker, (cap,), is_async=True)
        CalledPlace.__init__(self)

    def give_up(self, wait: Wait, wake: Callable[[], None]) -> None:
        """See `Place`."""
        self._waits += 1
        if self._waits == 1:
            self.leave()
            self._wake()  # one that would have gone on does not wait for a place now

    def _goes_on(self, wake: Callable[[], None]) -> bool:
        self._waits -= 1
        if self._waits:
            return True
        self._wake = wake
        self.ask()
        return False

    def resume(self) -> None:
        """See `_Entered`."""
        self._wake()
