"""Threads that the code of a run has started: a `ThreadPoolExecutor` of its own, `asyncio.to_thread`, a bare `Thread`.

What such a thread waits for may need the very worker that its run has, or its place under a cap. So the run is found, and
lends these meanwhile, as if it waited itself. Whether the rest of its code goes on cannot be known (it may sit in
`Executor.__exit__`); then one run more is at work for a while, which is better than to wait for ever. So it is with a loop that
the run has in its own thread (`asyncio.run`), or in such a one: which of its tasks go on while one waits cannot be known either.

    the context was copied   `CALL` says which run it is, or which task it calls
    it was not               what is waited for says who submitted it, most likely the run that has started the thread: so the
                             worker is lent, but the wait is not taken for one of that run

May import `context`.
"""

from __future__ import annotations

from threading import current_thread, main_thread
from typing import TYPE_CHECKING, Any, Protocol

from shoal.context import CALL, SCOPE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shoal.calls import Call

__all__ = ["COROUTINES", "CoroutineAround", "RunAround", "outermost", "run_around"]


class RunAround(Protocol):
    """The run whose code a thread is at that waits."""

    def block(self, wanted: Any, deadline: float | None, fail_fast: bool, first: bool, /) -> bool:
        """How the thread waits: as `block` does, with a deadline of `time.monotonic` for the timeout."""

    def place(self) -> Any:
        """The `Place` that a coroutine on a loop in the thread gives up while it waits; `None` if it has one as it is."""


class CoroutineAround(RunAround, Protocol):
    """A coroutine, or a call of one."""

    def within(self, run: RunAround, /) -> RunAround:
        """It is a part of a run that is at a loop of its own: what waits lends what that has, too."""


class _Coroutines:
    """Threads that coroutines have started, as far as those have places; set once there is a loop.

    Attributes:
        run_around: as of a dispatcher; the number may be that of a call, too.
    """

    def run_around(self, number: int, *, certain: bool) -> CoroutineAround | None:
        return None


COROUTINES = _Coroutines()


def run_around(wanted: Sequence[Any]) -> RunAround | None:
    """The run that has started this thread, or is at a loop in it; `None` if there is none.

    Args:
        wanted: what it waits for.
    """
    call = CALL.get()
    coroutine: CoroutineAround | None = None
    while call is not None:
        run = _run_on_thread(call.number, _dispatcher_of(call), certain=True)
        if run is not None:  # at a loop of its own, if it is at a coroutine
            return coroutine.within(run) if coroutine is not None else run
        coroutine = coroutine or COROUTINES.run_around(call.number, certain=True)
        call = getattr(call, "caller", None)
    if coroutine is not None:
        return coroutine
    if not wanted or SCOPE.get() is not None or current_thread() is main_thread():
        return None
    item = wanted[0]
    owner: Any = getattr(item, "_dispatcher", None) or getattr(item, "dispatcher", None)
    submitter: int | None = owner.submitter_of(item) if hasattr(owner, "submitter_of") else None
    if submitter is None:
        return None
    coroutine = COROUTINES.run_around(submitter, certain=False)
    return coroutine or _run_on_thread(submitter, owner, certain=False)


def _dispatcher_of(call: Call) -> Any:
    return call.scope.own_dispatcher if call.scope is not None else None


def _run_on_thread(number: int, dispatcher: Any, *, certain: bool) -> RunAround | None:
    find = getattr(dispatcher, "run_around", None)
    return find(number, certain=certain) if find is not None else None


def outermost(call: Call) -> Call:
    """The run that a direct call is a part of, as far as it is known; itself if it is no direct call."""
    while (caller := getattr(call, "caller", None)) is not None:
        call = caller
    return call
