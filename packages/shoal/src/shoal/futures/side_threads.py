"""Threads that the code of a run has started: a `ThreadPoolExecutor` of its own, `asyncio.to_thread`, a bare `Thread`.

What such a thread waits for may need the very worker that its run has, or its place under a cap. So the run is found, and
lends these meanwhile, as if it waited itself. Whether the rest of its code goes on cannot be known (it may sit in
`Executor.__exit__`); then one run more is at work for a while, which is better than to wait for ever.

    the context was copied   `CALL` says which run it is, or which task it calls
    it was not               what is waited for says who submitted it, most likely the run that has started the thread: so the
                             worker is lent, but the wait is not taken for one of that run

May import `context`.
"""

from __future__ import annotations

from threading import current_thread, main_thread
from typing import TYPE_CHECKING, Any, TypeAlias

from shoal.context import CALL, SCOPE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shoal.calls import Call

__all__ = ["COROUTINES", "Blocker", "blocker_beside", "outermost"]

#: How a thread waits; it takes what `block` takes, with a deadline of `time.monotonic` for the timeout.
Blocker: TypeAlias = "Callable[[Any, float | None, bool, bool], bool]"


class _Coroutines:
    """Threads that coroutines have started, as far as those have places; set once there is a loop.

    Attributes:
        blocker_beside: as of a dispatcher; the number may be that of a call, too.
    """

    def blocker_beside(self, number: int, *, certain: bool) -> Blocker | None:
        return None


COROUTINES = _Coroutines()


def blocker_beside(wanted: Sequence[Any]) -> Blocker | None:
    """How a thread waits that a run has started; `None` if it is no such thread.

    Args:
        wanted: what it waits for.
    """
    call = CALL.get()
    while call is not None:
        dispatcher = call.scope.own_dispatcher if call.scope is not None else None
        found = _blocker_of(call.number, dispatcher, certain=True)
        if found is not None:
            return found
        call = getattr(call, "caller", None)
    if not wanted or SCOPE.get() is not None or current_thread() is main_thread():
        return None
    item = wanted[0]
    owner: Any = getattr(item, "_dispatcher", None) or getattr(item, "dispatcher", None)
    submitter: int | None = owner.submitter_of(item) if hasattr(owner, "submitter_of") else None
    return _blocker_of(submitter, owner, certain=False) if submitter is not None else None


def _blocker_of(number: int, dispatcher: Any, *, certain: bool) -> Blocker | None:
    found = COROUTINES.blocker_beside(number, certain=certain)
    if found is not None:
        return found
    find = getattr(dispatcher, "blocker_beside", None)
    return find(number, certain=certain) if find is not None else None


def outermost(call: Call) -> Call:
    """The run that a direct call is a part of, as far as it is known; itself if it is no direct call."""
    while (caller := getattr(call, "caller", None)) is not None:
        call = caller
    return call
