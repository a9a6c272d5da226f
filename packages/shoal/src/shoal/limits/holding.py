"""What is held where, and slots of the limits of tags: for runs that a dispatcher asks for, and around direct calls.

    guarantees   Whatever ends a wait or a block of code, nothing is held afterwards: an exception, an interrupt, a time
                 limit, or that nobody has the block any more (a generator that was dropped).
    assumes      What is asked for in a thread, or in a task of an event loop, is given back there, but for what does not `stay`.
                 So what is held there is not given back while that thread or task waits for more, and the store is told of it
                 (`Request.within`).

May import `slots` and what lies above it.
"""

from __future__ import annotations

import os
import socket
import threading
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

from shoal.context import CALL, LOCK, SCOPE
from shoal.engine.interrupt import raise_if_due, shielded
from shoal.engine.services import CALLBACKS
from shoal.exceptions import ShoalError
from shoal.futures.awaiting import settled, task_here
from shoal.futures.blocking import BEARERS, Bearer, Countdown, Decision, block, block_plainly
from shoal.limits.settings import lease_seconds
from shoal.limits.slots import KEEPER
from shoal.limits.store import TAG, Acquired, Holder, Request
from shoal.names import run_uuid, task_run_name

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator
    from typing import TypeAlias

    from shoal.calls import Call
    from shoal.futures.run import TaskFuture

    #: Of whom slots are asked: the keeper of this process, or a worker's way to its driver's.
    Keeper: TypeAlias = Any

__all__ = [
    "GATE",
    "Gate",
    "Held",
    "Slots",
    "default_lease",
    "give_up",
    "holder_here",
    "holding",
    "holding_async",
    "holds_here",
    "keeper_here",
    "streaming",
    "streaming_async",
]


def holder_here(id: str, run: str = "", label: str = "") -> Holder:
    """Who asks for slots in this process; see `Holder`."""
    return Holder(id, run, socket.gethostname(), os.getpid(), label)


def keeper_here() -> Keeper:
    """Of whom code here asks slots."""
    scope = SCOPE.get()
    keeper = scope.keeper if scope is not None else None
    return KEEPER if keeper is None else keeper


def default_lease(keeper: Keeper) -> float:
    """How long slots outlive who keeps the leases, in seconds; 0 for as long as the driver says, where that does."""
    return lease_seconds() if keeper is KEEPER else 0.0


# ---------------------------------------------------------------------- what is held where

if hasattr(
    os, "register_at_fork"
):  # a forked child may wait for what its parent holds: it is not itself
    os.register_at_fork(after_in_child=BEARERS.clear)


def holds_here() -> bool:
    """Whether the caller's thread, or task of an event loop, holds what others may wait for, or has asked for some."""
    return (task_here() or threading.current_thread()) in BEARERS


def give_up(owner: Any) -> None:
    """A thread, or a task of an event loop, does not stop when it is interrupted: what it holds is given back for it."""
    with LOCK:
        bearer = BEARERS.get(owner)
        held = list(bearer.held) if bearer is not None else []
    for what in held:
        what.release()


class Held:
    """What others may wait for, from when it is asked for until it is given back, in one thread or task of an event loop.

    Attributes:
        id: by which the store of limits knows it, if it does.
        stays: whether it is given back where it was asked for; else it may be whatever is waited for there.
    """

    id: str | None = None
    stays = True
    _owner: Any = None
    _run: str | None = None

    def _hold(self) -> tuple[Bearer, set[str | None]]:
        """It is about to be asked for here; returns by whom, and the ids of what is held here already and of the runs for
        which.
        """
        owner = task_here() or threading.current_thread()
        with LOCK:
            bearer = BEARERS.setdefault(owner, Bearer())
            around = {
                id
                for other in bearer.held
                if other.stays
                or other._run == self._run  # else that run waits, and this one is on top of it
                for id in (other.id, other._run)
            }
            bearer.held.add(self)
        self._owner = owner
        return bearer, around

    def _hold_no_more(self) -> None:
        """It was given back; with `LOCK` held."""
        owner, self._owner = self._owner, None
        bearer = BEARERS.get(owner) if owner is not None else None
        if bearer is not None:
            bearer.held.discard(self)
            if not (bearer.held or bearer.waits):
                del BEARERS[owner]

    def tell(self, *, waits: bool) -> None:
        """Who has it is about to wait, or goes on."""

    def release(self) -> None:
        """Gives it back; once. Does not wait. In any thread."""
        raise NotImplementedError


class Slots(Held):
    """Slots of limits, from when they are asked for until they are given back, in one thread or task of an event loop.

    Args:
        id: by which they are given back.

    Attributes:
        keeper: of whom they were asked; `None` when there is nothing to give back.
        answer: of the keeper.
    """

    keeper: Keeper = None  # also where `__init__` was interrupted

    id: str

    def __init__(self, id: str) -> None:
        self.id = id
        self._process = os.getpid()
        self._decision = Decision()

    @property
    def answer(self) -> Any:
        """Of the keeper."""
        return self._decision.answer

    def ask(
        self,
        keeper: Keeper,
        request: Callable[[frozenset[str]], Request],
        timeout: float | None = None,
    ) -> None:
        """Asks for them.

        Args:
            keeper: who is asked.
            request: makes what is asked for, given the ids of what the asker holds already.
            timeout: seconds to wait at most.
        """
        call = CALL.get()
        self._run = run_uuid(call.number) if call is not None else None
        bearer, around = self._hold()
        around.add(self._run)
        wanted = request(frozenset(id for id in around if id is not None))
        self.keeper = keeper
        keeper.request(wanted, self._decision, timeout, bearer if self.stays else Bearer())

    def wait(self) -> None:
        """Waits for the answer in the caller's thread, which lends its worker meanwhile; in a shield.

        Raises:
            Interrupt: the run that waits is to end.
        """
        block((self._decision,))
        raise_if_due(shielded=True)
        if not self._decision.done():
            # Interrupted was a run beneath this one, and its turn comes when this one has ended.
            block_plainly(Countdown(), (self._decision,), None)

    async def wait_async(self) -> None:
        """Waits for the answer without blocking the loop."""
        await settled((self._decision,))

    def release(self) -> None:
        """Gives the slots back, or takes the request for them back; once. Does not wait."""
        with shielded():
            keeper = self.forget()
            if keeper is not None and os.getpid() == self._process:  # else they are the parent's
                keeper.release(self.id)

    def forget(self) -> Keeper:
        """There is nothing to give back any more; returns who was asked."""
        with LOCK:
            keeper, self.keeper = self.keeper, None
            self._hold_no_more()
        return keeper

    def __del__(self) -> None:
        # Whoever had it dropped it without a word. It may be dropped anywhere, also while its channel is in use.
        if self.keeper is not None and os.getpid() == self._process:
            CALLBACKS.put("Giving slots back", self.keeper.release, self.id)


# ---------------------------------------------------------------------- slots of tags


def _request(
    keeper: Keeper,
    tags: frozenset[str],
    run_id: str,
    run: str,
    within: frozenset[str] = frozenset(),
) -> Request:
    names = frozenset(TAG + tag for tag in tags)
    lease = default_lease(keeper)
    return Request(names, holder_here(run_id, run), lease_seconds=lease, within=within)


class Gate:
    """Slots of the tags of runs; see `shoal.scheduling.intake.Gate`.

    Args:
        keeper: of whom they are asked.
    """

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

    def request(
        self,
        tags: frozenset[str],
        run_id: str,
        run_name: str,
        on_outcome: Callable[[ShoalError | None], object],
        run: TaskFuture[Any],
    ) -> None:
        """See `SlotKeeper.request`."""

        def decided(outcome: Acquired | ShoalError) -> None:
            on_outcome(None if isinstance(outcome, Acquired) else outcome)

        try:
            request = _request(self._keeper, tags, run_id, run_name)
        except ShoalError as error:  # a setting
            on_outcome(error)
        else:
            self._keeper.request(request, decided, None, run)

    def release(self, run_id: str) -> None:
        """See `SlotKeeper.release`."""
        self._keeper.release(run_id)


#: What dispatchers ask where there are limits.
GATE = Gate(KEEPER)


class holding:  # reads as a verb: `with holding(tags, call):`
    """Holds a slot of every limit of a run's tags, waiting for them first.

    Args:
        tags: of the run.
        call: the run.

    Raises:
        ConcurrencyLimitError: on entering: a limit is 0.
    """

    # No generator: `contextlib` sets attributes of the exception that passes, which some refuse.

    def __init__(self, tags: frozenset[str], call: Call) -> None:
        self._tags = tags
        self._call = call

    def __enter__(self) -> None:
        self._slots = Slots(run_uuid(self._call.number))
        try:
            with shielded():
                _ask(self._slots, self._tags, self._call)
                self._slots.wait()
            _see(self._slots)
        except BaseException:
            self._slots.release()
            raise

    def __exit__(self, *_: object) -> None:
        self._slots.release()


def _ask(slots: Slots, tags: frozenset[str], call: Call) -> None:
    keeper = keeper_here()
    name = task_run_name(call.task.name, call.number)
    slots.ask(keeper, lambda within: _request(keeper, tags, slots.id, name, within))


def _see(slots: Slots) -> None:
    """Raises the error that a keeper has answered with, if it was one."""
    if not isinstance(slots.answer, Acquired):
        raise slots.answer


async def holding_async(
    tags: frozenset[str], call: Call, coroutine: Coroutine[Any, Any, Any]
) -> Any:
    """As `holding`, around a coroutine.

    Raises:
        ConcurrencyLimitError: a limit is 0.
    """
    try:
        async with _held(tags, call):
            return await coroutine
    finally:
        coroutine.close()  # it may not have begun


@asynccontextmanager
async def _held(tags: frozenset[str], call: Call) -> AsyncIterator[None]:
    slots = Slots(run_uuid(call.number))
    try:
        _ask(slots, tags, call)
        await slots.wait_async()
        _see(slots)
        yield
    finally:
        slots.release()


def streaming(
    tags: frozenset[str], call: Call, stream: Generator[Any, Any, Any]
) -> Generator[Any, Any, Any]:
    """As `holding`, from the first item of a generator to its end.

    Raises:
        ConcurrencyLimitError: a limit is 0.
    """
    with holding(tags, call):
        return (yield from stream)


async def streaming_async(
    tags: frozenset[str], call: Call, stream: AsyncGenerator[Any, Any]
) -> AsyncGenerator[Any, Any]:
    """As `streaming`, for an async generator.

    Raises:
        ConcurrencyLimitError: a limit is 0.
    """
    async with _held(tags, call), aclosing(stream):
        async for item in stream:
            yield item
