"""One attempt of a run whose result is kept: found, or made and kept.

    key ─▶ is it there? ─▶ yes: COMPLETED, in the state `Cached`
            └▶ no: the key's lock ─▶ is it there now? ─▶ no: the function ─▶ written ─▶ the lock is given back ─▶ told

    guarantees   A result can be found from the moment its run is COMPLETED. Whatever ends an attempt, it holds no lock
                 afterwards. What is wrong with the storage fails no run: it goes on as if nothing was to be kept.
    assumes      Who has a lock waits only a while for another: so do all that it submits or calls (see `Within`). So two runs
                 that wait for each other's results go on, whatever their keys are. Who holds slots of limits waits only a
                 while for one that waits itself: that may be for these slots (see `turns`).

May import `kept`, `run_keys`, `turns`, `within` and what lies above task runners.
"""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Any, TypeVar

from shoal.calls import COMPLETED, FAILED, WAITING, Outcome
from shoal.context import CALL, LOCK, TAGS
from shoal.engine import inputs
from shoal.engine.interrupt import Interrupt, raise_if_due, shielded
from shoal.engine.loops import cancelled_class
from shoal.engine.task_run import begin, raised, resolved
from shoal.exceptions import ResultStorageError, UnstableKeyError
from shoal.futures.awaiting import settled, task_here
from shoal.futures.blocking import Countdown, block, block_plainly
from shoal.limits.holding import Held, holds_here
from shoal.limits.settings import limits_in_use
from shoal.logs import log_failure
from shoal.results.kept import keep, recall
from shoal.results.run_keys import RunKey
from shoal.results.serializers import serializer_of
from shoal.results.telling import warn_once
from shoal.results.turns import TURNS, NoTurn, Turn
from shoal.results.within import A_WHILE, NOTED, Within, locked_around
from shoal.safely import in_words
from shoal.states import Completed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from shoal.calls import Call
    from shoal.engine.task_run import EndLimit
    from shoal.results.options import ResultOptions
    from shoal.results.storage import KeyLock

__all__ = ["attempt", "attempt_async"]

T = TypeVar("T")


def attempt(
    options: ResultOptions,
    call: Call,
    end_limit: EndLimit | None,
    execute: Callable[[Call, EndLimit | None, bool], Outcome],
) -> Outcome:
    """One attempt; in the run's context.

    Args:
        options: what was said about its result.
        call: the run.
        end_limit: see `shoal.engine.task_run.attempt`.
        execute: that.

    Raises:
        Interrupt: the run was stopped from outside.
    """
    call.clock = time.perf_counter()
    result: _Result | None = None
    outcome: Outcome | None
    try:
        try:
            begin(call)
            result = _Result(options, call)
            with shielded():
                outcome = result.found()
                if outcome is None:
                    result.begin()
                    if result.must_wait():
                        _wait(result)
                    outcome = result.found_meanwhile()
        except Interrupt:
            raise
        except UnstableKeyError as error:  # it is the same at the next attempt
            outcome = Outcome(FAILED, error, name=call.name)
        except BaseException as error:  # of what makes the key
            outcome = raised(call, error)
        if outcome is None:
            assert result is not None  # else there was an error
            with result.within():
                outcome = execute(call, end_limit, True)
            if outcome.phase == WAITING:
                block(inputs.runs_in(outcome.value))
                outcome = resolved(call, outcome.value)
            with shielded():
                result.keep(outcome)
        elif end_limit is not None:
            with shielded():
                end_limit()
        return outcome
    finally:
        if result is not None and result.is_begun:
            with shielded():
                result.release()


def _wait(result: _Result) -> None:
    """Waits for the turn in the caller's thread, which lends its worker meanwhile; in a shield.

    Raises:
        Interrupt: the run that waits is to end.
    """
    turn = result.ask()
    block((turn.decision,), result.patience)
    raise_if_due(shielded=True)
    if not turn.decision.done() and result.patience is None:
        # Interrupted was a run beneath this one, and its turn comes when this one has ended.
        block_plainly(Countdown(), (turn.decision,), None)
    result.waited(turn)


async def attempt_async(
    options: ResultOptions,
    call: Call,
    end_limit: EndLimit | None,
    execute: Callable[[Call, EndLimit | None, bool], Awaitable[Outcome]],
) -> Outcome:
    """As `attempt`, on a loop; cancellation of the coroutine passes through."""
    import anyio  # takes long, and is there where a coroutine runs

    call.clock = time.perf_counter()
    cancelled = cancelled_class()
    result: _Result | None = None
    outcome: Outcome | None
    try:
        try:
            begin(call)
            result = _Result(options, call)
            outcome = await result.beside(result.found)
            if outcome is None:
                result.begin()
                if await result.beside(result.must_wait):
                    turn = result.ask()
                    await settled((turn.decision,), result.patience)
                    result.waited(turn)
                outcome = await result.beside(result.found_meanwhile)
        except cancelled:
            raise
        except UnstableKeyError as error:  # it is the same at the next attempt
            outcome = Outcome(FAILED, error, name=call.name)
        except BaseException as error:  # of what makes the key
            outcome = raised(call, error)
        if outcome is None:
            assert result is not None  # else there was an error
            with result.within():
                outcome = await execute(call, end_limit, True)
            if outcome.phase == WAITING:
                await settled(inputs.runs_in(outcome.value))
                outcome = resolved(call, outcome.value)
            await result.beside(result.keep, outcome)
        elif end_limit is not None:
            end_limit()
        return outcome
    finally:
        if result is not None and result.is_begun:
            with anyio.CancelScope(shield=True):
                await result.beside(result.release)


def _has_tags(call: Call) -> bool:
    """Whether a run, or one that has led to it in this process, has tags, of which there may be limits."""
    if not (limits_in_use() or (call.scope is not None and call.scope.limited)):
        return False
    around = call
    while not around.task.tags:
        outer = around.context.get(CALL)
        if outer is None or outer is around:  # a plain run is itself what its context has
            return bool(TAGS.get())
        around = outer
    return True


class _Result(Held):
    """The result of one attempt, as it is looked for and kept.

    Args:
        options: what was said about it.
        call: the run.

    Attributes:
        is_begun: whether there may be something to be released.
        patience: seconds to wait for another's computation, `None` for however long it takes.

    Raises:
        Exception: what makes its key has raised it.
    """

    def __init__(self, options: ResultOptions, call: Call) -> None:
        self._options = options
        self._call = call
        self._key = key = RunKey(options, call)
        self._storage = options.open_storage() if key.text is not None else None
        self._serializer = options.serializer or serializer_of(None)
        self._lock: KeyLock | None = None
        self._turn: Turn | None = None
        self._on_loop = False
        self._holds_slots = False
        self.is_begun = False
        self._around = locked_around()
        self.patience = A_WHILE if options.within or self._around else None

    def found(self) -> Outcome | None:
        """How the run ends by what was kept; `None` where nothing is."""
        if self._storage is None or self._key.text is None or self._options.refresh:
            return None
        try:
            kept = recall(self._storage, self._key.text, self._serializer)
        except Exception as error:
            self._go_without(error)
            return None
        if kept is None:
            return None
        state = Completed(name="Cached", data=kept.value)
        return Outcome(COMPLETED, kept.value, state, name=self._call.name)

    def begin(self) -> None:
        """It is to be made here: in this thread, or task of an event loop, which may hold its lock from now on."""
        self.is_begun = True
        self._on_loop = not self._call.task.is_async and task_here() is not None
        self._holds_slots = holds_here() or _has_tags(self._call)
        self._hold()

    async def beside(self, ask: Callable[..., T], *args: Any) -> T:
        """Asks the storage without holding up the loop: in a thread, where it takes its time to answer."""
        if self._storage is None or self._storage.is_near:
            return ask(*args)
        from anyio import to_thread

        return await to_thread.run_sync(ask, *args)

    def must_wait(self) -> bool:
        """Whether another computes it; else the key's lock is taken, where there is one to be had."""
        if self._storage is None or self._key.text is None or self._options.refresh:
            return False
        lock = self._options.lock_of(self._storage, self._key.text)
        if lock is None:
            return False
        try:
            if lock.try_acquire():
                self._lock = lock
                return False
        except Exception as error:
            self._go_without(error)
            return False
        if self._key.text in self._around:
            return False
        # A function that a coroutine calls would keep its loop from going on, and perhaps whom it waits for.
        return not self._on_loop

    def ask(self) -> Turn:
        """Stands in line for the lock, where `must_wait` has said so."""
        assert self._storage is not None
        assert self._key.text is not None
        lock = self._options.lock_of(self._storage, self._key.text)
        assert lock is not None
        place = self._storage.place, self._key.text
        self._turn = Turn(place, lock, holds_slots=self._holds_slots)
        TURNS.ask(self._turn)
        return self._turn

    def waited(self, turn: Turn) -> None:
        """The turn has come, or nobody has the patience to wait for it."""
        self._turn = None
        if not turn.decision.done():
            TURNS.leave(turn)
        elif turn.decision.answer is None:
            self._lock = turn.lock
        elif not isinstance(turn.decision.answer, NoTurn):
            self._go_without(turn.decision.answer)

    def found_meanwhile(self) -> Outcome | None:
        """As `found`, now that nobody else writes it; if it is not, the function comes next."""
        outcome = None if self._lock is None else self.found()
        if outcome is None and self._storage is not None:
            self._key.learn_parts()
        return outcome

    def within(self) -> Within:
        """What surrounds the function."""
        return Within(self._options, self._key.text if self._lock is not None else None)

    def keep(self, outcome: Outcome) -> None:
        """Keeps the result, if the attempt has given one."""
        if self._storage is None or self._key.text is None or outcome.phase != COMPLETED:
            return
        now = time.time()
        seconds = self._options.expiration
        flow_run = self._call.scope.flow_run if self._call.scope is not None else None
        try:
            ref = keep(
                self._storage,
                self._key.text,
                outcome.value,
                self._serializer,
                created=now,
                expires=None if seconds is None else now + seconds,
                task_name=self._call.task.name,
                run_name=self._call.run_name(),
                flow_run_name=flow_run.name if flow_run is not None else "",
                parts=self._key.parts,
            )
        except Exception as error:
            self._go_without(error)
            return
        noted = NOTED.get()
        if noted is not None:
            noted.append(ref)

    def tell(self, *, waits: bool) -> None:
        """See `Held`."""
        lock = self._lock
        if lock is not None:
            lock.tell(waits=waits)

    def release(self) -> None:
        """See `Held`: waits no more, and gives the lock back."""
        with LOCK:
            self._hold_no_more()
            turn, self._turn = self._turn, None
            lock, self._lock = self._lock, None
        if turn is not None:
            TURNS.leave(turn)
        if lock is not None:
            try:
                lock.release()
            except Exception as error:
                log_failure(error, "The lock of a result could not be given back")
            TURNS.ring()

    def _go_without(self, error: BaseException) -> None:
        """The storage cannot be used, or the value not be written: each is said once."""
        assert self._storage is not None  # it has just been tried
        place, self._storage = self._storage.place, None
        of_all = isinstance(error.__cause__, OSError)
        # Another machine may reach the storage where this one does not.
        here = f" on {socket.gethostname()}" if of_all else ""
        text = str(error) if isinstance(error, ResultStorageError) else in_words(error)
        warn_once(
            f"{place}\0{here or self._call.task.name}",
            "%s. Runs go on, and their results are not kept%s: this was %s, and of others%s nothing more is said",
            text.removesuffix("."),
            here,
            self._call.run_name(),
            " there" if of_all else f" of task {self._call.task.name!r}",
        )
