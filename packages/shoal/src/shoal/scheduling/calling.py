"""Places of caps for direct calls, which run in the thread or the coroutine of their caller.

    a thread      `Calling`: its place changes with the task that it calls, and changes back
                  `Streaming`: a generator's place is beside its own, from the first item to the end
    a coroutine   `called_async`: the call has a place of its own, and the run that calls lends its own meanwhile
                  `streamed_async`: likewise, for each item of an async generator

    guarantees   Who waits, for runs, for a retry or for its turn, lends all that it has, and takes all of it again at once: so
                 nobody keeps one place while it waits for another.
    assumes      A generator is closed in any thread, also by the garbage collector; what it had is given back then, or by the
                 next change of who had it.

May import `caps` and what lies above it.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, Self

from shoal.context import HERE, LOCK
from shoal.engine.interrupt import interruptible_block
from shoal.exceptions import BlockingWaitInLoop
from shoal.futures.awaiting import (
    PLACES,
    CalledPlace,
    PlaceWithin,
    do_nothing,
    place_here,
    task_here,
)
from shoal.futures.blocking import (
    ALL,
    LENT,
    Countdown,
    Decision,
    Wait,
    block_plainly,
)
from shoal.scheduling.caps import Line, joined

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator
    from contextlib import AbstractContextManager

    from shoal.calls import Call
    from shoal.futures.blocking import Wanted
    from shoal.scheduling.caps import Caps

__all__ = [
    "CallPlace",
    "Caller",
    "Calling",
    "Several",
    "Streaming",
    "called_async",
    "streamed_async",
]


class _Dispatcher(Protocol):
    """A dispatcher, as far as caps go."""

    scheduler: Any

    def drain(self) -> None:
        """Carries out what its scheduler asked for."""


class _Turn(Decision):
    """A place that a thread waits for.

    Args:
        holder: what has it then.
        line: whose place it is; `None` for none.
    """

    __slots__ = ("_holder", "_line")

    def __init__(self, holder: _Holder, line: Line | None) -> None:
        super().__init__()
        self._holder = holder
        self._line = line

    def resume(self) -> None:
        """It is there."""
        self._holder.line = self._line
        self._holder.drop_closed()
        self(None)


class _Holder:
    """What has places for a thread: of what it is at, and of the generators that it has begun.

    Attributes:
        dispatcher: of the runner whose caps count.
        line: whose places it has at the moment, if any.
    """

    line: Line | None

    def __init__(self, dispatcher: _Dispatcher) -> None:
        self.dispatcher = dispatcher

    def closed(self) -> None:
        """A generator was closed, in whatever thread: what it had is given back, now or when places change next."""
        with LOCK:
            self.drop_closed()
        self.dispatcher.drain()

    def drop_closed(self) -> None:
        """Gives the places of generators back that are closed, if it has places at the moment; with `LOCK` held."""
        line = self.line
        if type(line) is Several and any(stream.closed for stream in line.streams):
            self.line = rest = line.now()
            caps: Caps = self.dispatcher.scheduler.caps
            caps.free(line.without(rest.caps if rest is not None else ()))
            self.dispatcher.scheduler.serve_caps()

    def lend(self, wait: Callable[[], Any]) -> Any:
        """Waits without places."""
        held = self.line
        self.change(None)
        try:
            return wait()
        finally:
            self.change(held.now() if type(held) is Several else held)

    def change(
        self,
        line: Line | None,
        block: Callable[..., object] | None = None,
        name: str | None = None,
    ) -> None:
        """Gives the places back that it has, and takes those of a line, if any: at once, if that was all it took.

        Args:
            line: whose places it is to have.
            block: how it waits for them, if that can be interrupted. Then it has what it had before.
            name: of the task that needs them, if it is only called now.

        Raises:
            BlockingWaitInLoop: there are none, and this thread runs the coroutines that may have them.
        """
        scheduler = self.dispatcher.scheduler
        turn = _Turn(self, line)
        with LOCK:
            caps: Caps = scheduler.caps
            before = self.line
            if before is line:
                return
            if HERE.loop and name is not None and line is not None:
                held = before.caps if before is not None else ()
                if line.without(held).room() <= 0:
                    raise BlockingWaitInLoop(run_name=name)
            if before is not None:
                caps.free(before)
            self.line = None
            if line is None or caps.go_on(turn, line):
                turn.resume()
            scheduler.serve_caps()
        self.dispatcher.drain()
        if turn.done():
            return
        try:
            (block or _uninterruptible)((turn,), None, False, False)
            if not turn.done():  # a run beneath was interrupted, whose turn comes later
                _uninterruptible((turn,), None, False, False)
        except BaseException:
            with LOCK:
                if not caps.withdraw(turn) and self.line is not None:  # it had its turn meanwhile
                    caps.free(self.line)
                    self.line = None
                scheduler.serve_caps()
            self.dispatcher.drain()
            self.change(before)
            raise


class _Working(_Holder):
    """A worker of this process, whose run has them."""

    def __init__(self, dispatcher: _Dispatcher, worker: Any) -> None:
        super().__init__(dispatcher)
        self._worker = worker

    @property
    def line(self) -> Line | None:
        line: Line | None = self._worker.line
        return line

    @line.setter
    def line(self, line: Line | None) -> None:
        self._worker.line = line

    def closed(self) -> None:
        """See `_Holder`. Another thread's worker may be about to take its places again."""
        if HERE.worker is self._worker:
            super().closed()


class Caller(_Holder):
    """A thread that is no worker and calls a task, or is at a generator."""

    def __init__(self, dispatcher: _Dispatcher) -> None:
        super().__init__(dispatcher)
        self.line = None
        self._here: AbstractContextManager[None] | None = None

    def begin(self) -> None:
        """The thread is `here` from now on, whatever it does."""
        self._here = self.here()
        self._here.__enter__()

    def end(self) -> None:
        """As it was before `begin`, if that was called."""
        here, self._here = self._here, None
        if here is not None:
            here.__exit__(None, None, None)

    @contextmanager
    def here(self) -> Iterator[None]:
        """Within it, this thread waits without what it has."""
        before = HERE.caller, HERE.block
        block = before[1] if before[1] is not None else interruptible_block

        def lending(wanted: Wanted, deadline: float | None, fail_fast: bool, first: bool) -> bool:
            return self.lend(lambda: block(wanted, deadline, fail_fast, first))  # type: ignore[no-any-return]

        HERE.caller, HERE.block = self, lending
        try:
            yield
        finally:
            HERE.caller, HERE.block = before


class Calling:
    """Within it, this thread has a place of the caps of the task that it calls, in place of the one that it had.

    Args:
        dispatcher: of the runner whose caps count.
        line: the task's.
        name: of the task, for an error.
        caller: makes what has places for a thread that has none.

    Attributes:
        line: the task's.

    Raises:
        BlockingWaitInLoop: on entering: there is no place, and this thread runs the coroutines that may have it.
    """

    _holder: _Holder

    def __init__(
        self,
        dispatcher: _Dispatcher,
        line: Line,
        name: str,
        caller: Callable[[Any], Caller] = Caller,
    ) -> None:
        self._dispatcher = dispatcher
        self._name = name
        self._caller = caller
        self.line = line

    def __enter__(self) -> Self:
        holder = self._holder_here()
        self._holder = made = holder if holder is not None else self._caller(self._dispatcher)
        self._outer = _base_of(made.line)
        self._change(self.line, interruptible_block, self._name)
        self._here = made.here() if holder is None and isinstance(made, Caller) else nullcontext()
        self._here.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._here.__exit__(None, None, None)
        self._change(self._outer)

    def _change(self, base: Line | None, *how: Any) -> None:
        streams = _streams_of(self._holder.line)
        self._holder.change(Several(base, streams) if streams else base, *how)

    def _holder_here(self) -> _Holder | None:
        """What has places for this thread, if anything."""
        worker, caller = HERE.worker, HERE.caller
        if worker is not None and worker.backend.dispatcher is self._dispatcher:
            return _Working(self._dispatcher, worker)
        return caller if caller is not None and caller.dispatcher is self._dispatcher else None

    def pause(self, wait: Callable[[], Any]) -> Any:
        """See `CallingHere`."""
        return self._holder.lend(wait)

    def step(self, step: Callable[[], Any]) -> Any:
        """See `CallingHere`."""
        return step()


class Streaming(Calling):
    """As `Calling`, for what the thread does in steps, with its own affairs between them: the place is one beside its own, and
    both are lent while the thread waits, in a step or between two.

    Attributes:
        closed: whether it is over.
    """

    closed = False

    def __enter__(self) -> Self:
        # Coroutines of a loop have generators each, and share no place.
        is_alone = task_here() is not None
        holder = self._holder_here() if not is_alone else None
        self._holder = made = holder if holder is not None else self._caller(self._dispatcher)
        line = Several(_base_of(made.line), [*_streams_of(made.line), self])
        made.change(line, interruptible_block, self._name)
        if holder is None and not is_alone and isinstance(made, Caller):
            made.begin()
        return self

    def __exit__(self, *_: object) -> None:
        holder = self._holder
        self.closed = True
        holder.closed()
        if isinstance(holder, Caller) and holder.line is None and HERE.caller is holder:
            holder.end()

    def step(self, step: Callable[[], Any]) -> Any:
        """See `CallingHere`."""
        holder = self._holder
        if not isinstance(holder, Caller) or HERE.caller is holder:
            return step()
        with holder.here():
            return step()


class Several(Line):
    """A line, if any, and those of generators that are open beside it: places of all are taken at once, or of none."""

    __slots__ = ("base", "streams")

    def __init__(self, base: Line | None, streams: list[Streaming]) -> None:
        lines = [*([base] if base is not None else ()), *(stream.line for stream in streams)]
        super().__init__(joined(lines).caps, on_loop=lines[0].on_loop)
        self.base = base
        self.streams = streams

    def now(self) -> Line | None:
        """Without generators that are closed."""
        streams = _streams_of(self)
        return Several(self.base, streams) if streams else self.base


def _base_of(line: Line | None) -> Line | None:
    return line.base if type(line) is Several else line


def _streams_of(line: Line | None) -> list[Streaming]:
    return [one for one in line.streams if not one.closed] if type(line) is Several else []


def _uninterruptible(wanted: Wanted, *_: object) -> bool:
    return block_plainly(Countdown(), wanted, None)


class CallPlace(CalledPlace):
    """One of this process.

    Args:
        dispatcher: of the runner whose caps count.
        line: the task's.
    """

    def __init__(self, dispatcher: _Dispatcher, line: Line) -> None:
        super().__init__()
        self._dispatcher = dispatcher
        self._line = line
        self._holds = False

    def give_up(self, wait: Wait, wake: Callable[[], None]) -> None:
        """See `Place`."""
        scheduler = self._dispatcher.scheduler
        with LOCK:
            self._waits += 1
            if self._waits == 1 and self._holds:
                self._holds = False
                scheduler.caps.free(self._line)
                scheduler.serve_caps()
            elif self._waits == 1:  # it would have gone on, and waits again
                scheduler.caps.withdraw(self)
                self._wake()
        self._dispatcher.drain()

    def _goes_on(self, wake: Callable[[], None]) -> bool:
        caps = self._dispatcher.scheduler.caps
        assert caps is not None  # there are lines
        with LOCK:
            self._waits -= 1
            if not self._waits:
                self._wake = wake
                self._holds = caps.go_on(self, self._line)
            return self._waits > 0 or self._holds

    def resume(self) -> None:
        """It has its place; with `LOCK` held."""
        self._holds = True
        self._wake()


async def called_async(place: CalledPlace, call: Call, coroutine: Coroutine[Any, Any, Any]) -> Any:
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
    place: CalledPlace, call: Call, stream: AsyncGenerator[Any, Any]
) -> AsyncGenerator[Any, Any]:
    """As `called_async`, for each item of an async generator by itself: in between others of the loop are at work, and who
    calls it has its own place.
    """
    import anyio

    held = _held(place, call)
    step: Callable[[], Awaitable[Any]] = partial(anext, stream)
    while True:
        try:
            async with held:
                item = await step()
        except StopAsyncIteration:
            return
        try:
            given = yield item
        except GeneratorExit:
            with anyio.CancelScope(shield=True):
                async with held:
                    await stream.aclose()
            raise
        except BaseException as error:
            step = partial(stream.athrow, error)
        else:
            step = partial(stream.asend, given)


class _held:  # reads as an adjective: `async with _held(place, call):`
    def __init__(self, place: CalledPlace, call: Call) -> None:
        self._place = place
        self._call = call

    async def __aenter__(self) -> None:
        self._around = around = place_here()
        turn = Wait((), ALL)
        if around is not None:
            around.give_up(turn, do_nothing)
        try:
            await self._place.take()
        except BaseException:
            await self._back(turn)
            raise
        PLACES[self._call.number] = self._place
        if around is not None:
            PLACES[self._call.number] = PlaceWithin(self._place, around)
            around.give_up(LENT, do_nothing)
            await around.take_again(turn)

    async def __aexit__(self, *_: object) -> None:
        del PLACES[self._call.number]
        self._place.give_up(LENT, do_nothing)
        await self._back(LENT)

    async def _back(self, wait: Wait) -> None:
        import anyio

        if self._around is not None:
            with anyio.CancelScope(shield=True):
                await self._around.take_again(wait)
