"""Places of caps for direct calls, which run in the thread or the coroutine of their caller.

    a thread      `Calling`: its place changes with the task that it calls, and changes back
    a coroutine   `called_async`: the call has a place of its own, and the run that calls lends its own meanwhile

While the call waits, for runs, for a retry or for its turn, its place is lent. May import `caps` and what lies above it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, Self

from shoal.context import CALL, HERE, LOCK
from shoal.engine.interrupt import interruptible_block
from shoal.exceptions import BlockingWaitInLoop
from shoal.futures.awaiting import PLACES, waker
from shoal.futures.blocking import ALL, Countdown, Decision, block_plainly

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

    from shoal.calls import Call
    from shoal.futures.awaiting import Place
    from shoal.futures.blocking import Wanted
    from shoal.scheduling.caps import Line

__all__ = ["CallPlace", "Calling", "Streaming", "called_async", "streamed_async"]


class _Dispatcher(Protocol):
    """A dispatcher, as far as caps go."""

    scheduler: Any

    def drain(self) -> None:
        """Carries out what its scheduler asked for."""


class _Turn(Decision):
    """A place that a thread waits for."""

    __slots__ = ()

    def resume(self) -> None:
        """It is there."""
        self(None)


class _Caller:
    """A thread that is no worker and calls a task.

    Attributes:
        dispatcher: of the runner whose caps count.
        line: whose place it has at the moment, if any.
        covered: caps of which this thread has a place besides, as it streams what it is at.
        lend: waits without a place.
    """

    __slots__ = ("covered", "dispatcher", "lend", "line")

    def __init__(self, dispatcher: _Dispatcher, lend: Callable[[Callable[[], Any]], Any]) -> None:
        self.dispatcher = dispatcher
        self.line: Line | None = None
        self.covered: tuple[Any, ...] = ()
        self.lend = lend


class Calling:
    """Within it, this thread has a place of the caps of the task that it calls, in place of the one that it had.

    Args:
        dispatcher: of the runner whose caps count.
        line: the task's.
        name: of the task, for an error.

    Raises:
        BlockingWaitInLoop: on entering: there is no place, and this thread runs the coroutines that may have it.
    """

    def __init__(self, dispatcher: _Dispatcher, line: Line, name: str) -> None:
        self._dispatcher = dispatcher
        self._line = line
        self._name = name

    def __enter__(self) -> Self:
        holder = self._holder_here()
        self._holder: Any = holder if holder is not None else _Caller(self._dispatcher, self.pause)
        self._outer: Line | None = self._holder.line
        self._line = self._line.without(getattr(holder, "covered", ()))
        self._change(self._line, interruptible_block)
        self._made = holder is None
        if self._made:
            self._begin()
        return self

    def __exit__(self, *_: object) -> None:
        if self._made:
            self._end()
        self._change(self._outer, _uninterruptible)

    def _holder_here(self) -> Any:
        """What has places for this thread, if anything."""
        worker, caller = HERE.worker, HERE.caller
        if worker is not None and worker.backend.dispatcher is self._dispatcher:
            return worker
        return caller if caller is not None and caller.dispatcher is self._dispatcher else None

    def _begin(self) -> None:
        self._before = HERE.caller, HERE.block
        HERE.caller, HERE.block = self._holder, self._block

    def _end(self) -> None:
        HERE.caller, HERE.block = self._before

    def step(self, step: Callable[[], Any]) -> Any:
        """See `CallingHere`."""
        return step()

    def pause(self, wait: Callable[[], Any]) -> Any:
        """Waits without a place."""
        held: Line | None = self._holder.line
        self._change(None, interruptible_block)
        try:
            return wait()
        finally:
            self._change(held, _uninterruptible)

    def _block(self, wanted: Wanted, deadline: float | None, fail_fast: bool, first: bool) -> bool:
        """How the thread waits for runs meanwhile."""
        before = self._before[1]
        block = before if before is not None else interruptible_block
        return self.pause(lambda: block(wanted, deadline, fail_fast, first))  # type: ignore[no-any-return]

    def _change(self, line: Line | None, block: Callable[..., object]) -> None:
        """Gives the place back that the thread has, and takes one of this line, if any: at once, if that was all it took."""
        holder, scheduler = self._holder, self._dispatcher.scheduler
        turn = _Turn()
        with LOCK:
            caps = scheduler.caps
            assert caps is not None  # there are lines
            if holder.line is line:
                return
            if HERE.loop and line is not None and line.room() <= 0:
                raise BlockingWaitInLoop(run_name=self._name)
            if holder.line is not None:
                caps.free(holder.line)
            holder.line = line
            if line is None or caps.go_on(turn, line):
                turn.resume()
            scheduler.serve_caps()
        self._dispatcher.drain()
        if turn.done():
            return
        try:
            block((turn,), None, False, False)
            if not turn.done():  # a run beneath was interrupted, whose turn comes later
                _uninterruptible((turn,), None, False, False)
        except BaseException:
            with LOCK:
                if not caps.withdraw(turn):
                    caps.free(line)  # it had its turn meanwhile
                holder.line = None
                scheduler.serve_caps()
            self._dispatcher.drain()
            self._change(self._outer, _uninterruptible)
            raise


class Streaming(Calling):
    """As `Calling`, for what the thread does in steps, with its own affairs between them: the place is one beside its own."""

    def __enter__(self) -> Self:
        holder = self._holder_here()
        around: Line | None = holder.line if holder is not None else None
        mine = _Caller(self._dispatcher, self.pause)
        mine.covered = getattr(holder, "covered", ())
        self._outer = around
        if around is None:
            self._line = self._line.without(mine.covered)
            self._holder = mine
            self._change(self._line, interruptible_block)
        else:  # both at once, so that none is kept from others while the thread waits for the other
            mine.covered += around.caps
            self._line = self._line.without(mine.covered)
            self._holder = holder
            self._change(around.together(self._line), interruptible_block)
            holder.line, mine.line, self._holder = around, self._line, mine
        self._outer = None
        return self

    def __exit__(self, *_: object) -> None:
        self._change(None, _uninterruptible)

    def step(self, step: Callable[[], Any]) -> Any:
        """See `CallingHere`."""
        self._begin()
        try:
            return step()
        finally:
            self._end()


def _uninterruptible(wanted: Wanted, *_: object) -> bool:
    return block_plainly(Countdown(), wanted, None)


class CallPlace:
    """A `Place` of a coroutine that was called directly; lent until it is taken for the first time.

    Args:
        dispatcher: of the runner whose caps count.
        line: the task's.
    """

    def __init__(self, dispatcher: _Dispatcher, line: Line) -> None:
        self._dispatcher = dispatcher
        self._line = line
        self._waits = 1
        self._wake: Callable[[], None]

    def give_up(self, wanted: Wanted, wake: Callable[[], None], until: int = ALL) -> None:
        """See `Place`."""
        with LOCK:
            self._waits += 1
            if self._waits == 1:
                self._free()
        self._dispatcher.drain()

    def _free(self) -> None:
        scheduler = self._dispatcher.scheduler
        assert scheduler.caps is not None  # there are lines
        scheduler.caps.free(self._line)
        scheduler.serve_caps()

    async def take_again(self) -> None:
        """See `Place`."""
        event, self._wake = waker()
        caps = self._dispatcher.scheduler.caps
        assert caps is not None  # there are lines
        with LOCK:
            self._waits -= 1
            if self._waits or caps.go_on(self, self._line):
                return
        try:
            await event.wait()
        except BaseException:
            with LOCK:
                self._waits += 1
                if not caps.withdraw(self):
                    self._free()  # it had its turn meanwhile
            self._dispatcher.drain()
            raise

    def resume(self) -> None:
        """It has its place; with `LOCK` held."""
        self._wake()


async def called_async(place: Place, call: Call, coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Awaits a direct call in a place of its own.

    Args:
        place: its place, which it has not taken.
        call: the call.
        coroutine: what the call does.
    """
    try:
        async with _held(place, call):
            return await coroutine
    finally:
        coroutine.close()  # it may not have begun


async def streamed_async(
    place: Place, call: Call, stream: AsyncGenerator[Any, Any]
) -> AsyncGenerator[Any, Any]:
    """As `called_async`, from the first item of an async generator to its end."""
    from contextlib import aclosing

    async with _held(place, call), aclosing(stream):
        async for item in stream:
            yield item


class _held:  # reads as an adjective: `async with _held(place, call):`
    def __init__(self, place: Place, call: Call) -> None:
        self._place = place
        self._call = call

    async def __aenter__(self) -> None:
        caller = CALL.get()
        self._around = PLACES.get(caller.number) if caller is not None else None
        if self._around is not None:
            self._around.give_up((), _nothing)
        try:
            await self._place.take_again()
        except BaseException:
            await self._back()
            raise
        PLACES[self._call.number] = self._place

    async def __aexit__(self, *_: object) -> None:
        del PLACES[self._call.number]
        self._place.give_up((), _nothing)
        await self._back()

    async def _back(self) -> None:
        import anyio

        if self._around is not None:
            with anyio.CancelScope(shield=True):
                await self._around.take_again()


def _nothing() -> None:
    pass
