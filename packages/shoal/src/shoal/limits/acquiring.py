"""Slots of limits for a block of code, or for one moment: what `shoal.concurrency` is made of.

    enter ─▶ `Acquisition` ─▶ the keeper of this process; on a worker, its driver's ─▶ decided ─▶ the block goes on
    leave ─▶ released

    guarantees   Whatever ends the wait or the block, nothing is held afterwards: an exception, an interrupt, a time limit,
                 or that nobody has the block any more (a generator that was dropped).
    assumes      What is entered in a thread, or in a task of an event loop, is left there too. So what is held there is
                 not given back while that thread or task waits for more, and the store is told of it (`Request.within`).

May import `holding` and what lies above it.
"""

from __future__ import annotations

import os
import sys
import threading
import uuid
import weakref
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from shoal.context import CALL, HERE, LOCK, SCOPE
from shoal.engine.interrupt import shielded
from shoal.engine.services import CALLBACKS
from shoal.exceptions import (
    AcquireConcurrencySlotTimeoutError,
    BlockingWaitInLoop,
    ConcurrencyLimitError,
    ConcurrencySlotAcquisitionError,
    InvalidOption,
)
from shoal.futures.blocking import Decision
from shoal.limits.holding import default_lease, holder_here, keeper_here, wait_for
from shoal.limits.settings import limits_in_use
from shoal.limits.slots import KEEPER
from shoal.limits.store import Acquired, Rate, Request
from shoal.logs import library_logger
from shoal.safely import repr_of

if TYPE_CHECKING:
    from shoal.limits.holding import Keeper

__all__ = [
    "Acquisition",
    "give_up",
    "holds_here",
    "in_event_loop",
    "keeper_here",
    "tell_of",
    "wanted",
]


def in_event_loop() -> bool:
    """Whether the caller runs on an event loop, of asyncio or of trio."""
    return _task_here() is not None


def _task_here() -> Any:
    """The task of an event loop in which the caller runs, if any."""
    # What another thread is just importing has no loop here, and perhaps not yet the function.
    running = getattr(sys.modules.get("asyncio"), "get_running_loop", None)
    if running is not None:
        with suppress(RuntimeError):
            loop = running()
            return sys.modules["asyncio"].current_task() or loop
    current = getattr(getattr(sys.modules.get("trio"), "lowlevel", None), "current_task", None)
    if current is not None:
        with suppress(RuntimeError):
            return current()
    return None


# ---------------------------------------------------------------------- what is asked for


def wanted(
    names: object,
    occupy: object,
    *,
    strict: bool,
    timeout_seconds: object = None,
    max_retries: object = None,
    lease_duration: object = None,
    holder: object = None,
    rate: tuple[object, float] | None = None,
    decays: bool = False,
) -> Wanted:
    """What a call of `concurrency` or `rate_limit` asks for.

    Args:
        names: a limit's name, or several.
        occupy: slots of each.
        strict: whether a limit that does not exist is an error.
        timeout_seconds: how long to wait at most, `None` for ever.
        max_retries: how often to try again, `None` for ever.
        lease_duration: seconds that the slots outlive this process.
        holder: what the holder is shown as.
        rate: at most so many slots in so many seconds, for a limit that does not exist.
        decays: whether the slots decay and are not given back.

    Raises:
        InvalidOption: one of these cannot be.
    """
    given = _names(names)
    if rate is not None:
        _number("per_minute" if rate[1] > 1 else "per_second", rate[0], whole=True, above=1)
    for option, value in (("timeout_seconds", timeout_seconds), ("lease_duration", lease_duration)):
        if value is not None:
            _number(option, value)
    if lease_duration == 0:
        raise _invalid("lease_duration", lease_duration, "a number of seconds above 0 is needed")
    if max_retries is not None:
        _number("max_retries", max_retries, whole=True)
    _number("occupy", occupy, whole=True, above=1)
    made: Any = (given, occupy, timeout_seconds, max_retries, lease_duration)
    return Wanted(
        *made,
        strict=bool(strict),
        label=_label(holder),
        rate=None if rate is None else Rate(rate[0], rate[1]),  # type: ignore[arg-type]  # checked above
        decays=decays,
    )


class Wanted:
    """What is asked for, checked; see `wanted`."""

    __slots__ = (
        "decays",
        "label",
        "lease_duration",
        "max_retries",
        "names",
        "occupy",
        "rate",
        "strict",
        "timeout_seconds",
    )

    def __init__(
        self,
        names: tuple[str, ...],
        occupy: int,
        timeout_seconds: float | None,
        max_retries: int | None,
        lease_duration: float | None,
        *,
        strict: bool,
        label: str,
        rate: Rate | None,
        decays: bool,
    ) -> None:
        self.names = names
        self.occupy = occupy
        self.timeout_seconds = timeout_seconds
        self.max_retries = max_retries
        self.lease_duration = lease_duration
        self.strict = strict
        self.label = label
        self.rate = rate
        self.decays = decays


def _names(names: object) -> tuple[str, ...]:
    given: tuple[Any, ...]
    if isinstance(names, str):
        given = (names,)
    elif isinstance(names, Iterable) and not isinstance(names, (bytes, Mapping)):
        given = tuple(names)
    else:
        given = (names,)
    for name in given:
        if not isinstance(name, str) or not name:
            raise _invalid("names", names, "the name of a limit is needed, or several")
    return tuple(dict.fromkeys(given))


def _number(option: str, value: object, *, whole: bool = False, above: int = 0) -> None:
    kinds = (int,) if whole else (int, float)
    right = isinstance(value, kinds) and not isinstance(value, bool)
    if not right or not above <= value < float("inf"):  # type: ignore[operator]
        kind = "a whole number" if whole else "a number"
        raise _invalid(option, value, f"{kind} from {above} up is needed")


def _label(holder: object) -> str:
    """What `holder` is shown as: text, or what has a type and an id, as Prefect's has."""
    if holder is None:
        return ""
    if isinstance(holder, str):
        return holder
    if isinstance(holder, Mapping):
        parts = [holder.get("type"), holder.get("id")]
    else:
        parts = [getattr(holder, "type", None), getattr(holder, "id", None)]
    return " ".join(str(part) for part in parts if part is not None) or repr_of(holder)


def _invalid(option: str, value: object, problem: str) -> InvalidOption:
    return InvalidOption(
        where="a call of shoal.concurrency", option=option, value=value, problem=problem
    )


# ---------------------------------------------------------------------- asking, holding, giving back

#: By thread, or task of an event loop, what was acquired there and is held.
_HELD: weakref.WeakKeyDictionary[Any, weakref.WeakSet[Acquisition]] = weakref.WeakKeyDictionary()


def holds_here() -> bool:
    """Whether the caller's thread, or task of an event loop, holds slots or has asked for some."""
    return (_task_here() or threading.current_thread()) in _HELD


def give_up(owner: Any) -> None:
    """A thread, or a task of an event loop, does not stop when it is interrupted: what it holds is given back for it."""
    with LOCK:
        held = list(_HELD.get(owner, ()))
    for acquisition in held:
        acquisition.release()


class Acquisition:
    """Slots, from when they are asked for until they are given back.

    Args:
        what: what is asked for.
    """

    _keeper: Keeper = None  # also where `__init__` was interrupted

    def __init__(self, what: Wanted) -> None:
        self._what = what
        self._id = str(uuid.uuid4())
        self._process = os.getpid()
        self._owner: Any = None
        self._decision = Decision()

    def acquire(self) -> None:
        """Waits for the slots in the caller's thread, which lends its worker meanwhile.

        Raises:
            AcquireConcurrencySlotTimeoutError: they were not free in time.
            ConcurrencySlotAcquisitionError: they cannot be had.
            BlockingWaitInLoop: this is the loop that runs async tasks.
        """
        if HERE.loop and self._what.names:
            raise BlockingWaitInLoop(limits=self._what.names)
        try:
            with shielded():
                if self._ask():
                    wait_for(self._decision)
                    self._conclude()
        except BaseException:
            self.release()
            raise

    async def acquire_async(self) -> None:
        """Waits for the slots without blocking the loop.

        Raises:
            AcquireConcurrencySlotTimeoutError: they were not free in time.
            ConcurrencySlotAcquisitionError: they cannot be had.
        """
        from shoal.futures.awaiting import settled

        try:
            if self._ask():
                await settled((self._decision,))
                self._conclude()
        except BaseException:
            self.release()
            raise

    def _ask(self) -> bool:
        """Asks for the slots; whether there is anything to wait for."""
        what = self._what
        keeper = keeper_here()
        if not what.names:
            return False
        if keeper is KEEPER and what.rate is None and not limits_in_use():
            answer = Acquired(frozenset(), frozenset(what.names))
            if what.strict:
                raise _refused(what.names, _no_limit(what.names))
            tell_of(answer)
            return False
        owner = _task_here() or threading.current_thread()
        with LOCK:
            held = _HELD.setdefault(owner, weakref.WeakSet())
            within = frozenset(other._id for other in held)
            held.add(self)
        self._owner = owner
        self._keeper = keeper
        keeper.request(self._request(within), self._decision, what.timeout_seconds)
        return True

    def _request(self, within: frozenset[str]) -> Request:
        what = self._what
        holder = holder_here(self._id, _run_here(), what.label)
        lease = what.lease_duration
        return Request(
            frozenset(what.names),
            holder,
            what.occupy,
            None if what.decays else default_lease(self._keeper) if lease is None else lease,
            what.rate,
            what.strict,
            within=within,
            max_retries=what.max_retries,
        )

    def _conclude(self) -> None:
        """Looks at the answer."""
        answer = self._decision.answer
        if isinstance(answer, AcquireConcurrencySlotTimeoutError):
            assert self._what.timeout_seconds is not None  # else there is no such answer
            late = AcquireConcurrencySlotTimeoutError(
                names=self._what.names, timeout_seconds=self._what.timeout_seconds
            )
            for note in getattr(answer, "__notes__", ()):
                late.add_note(note)
            raise late from answer.__cause__
        if isinstance(answer, ConcurrencyLimitError):
            raise _refused(self._what.names, f"{answer.tag!r}: {answer.problem}") from answer
        if isinstance(answer, BaseException):
            raise answer
        if self._keeper is KEEPER:  # else the driver tells
            tell_of(answer)
        if self._what.decays:
            self._forget()

    def release(self) -> None:
        """Gives the slots back, or takes the request for them back; once. Does not wait."""
        with shielded():
            keeper = self._forget()
            if keeper is not None and os.getpid() == self._process:  # else they are the parent's
                keeper.release(self._id)

    def _forget(self) -> Keeper:
        with LOCK:
            keeper, self._keeper = self._keeper, None
            owner, self._owner = self._owner, None
            held = _HELD.get(owner) if owner is not None else None
            if held is not None:
                held.discard(self)
                if not held:
                    del _HELD[owner]
        return keeper

    def __del__(self) -> None:
        # Whoever had it dropped it without a word. It may be dropped anywhere, also while its channel is in use.
        if self._keeper is not None and os.getpid() == self._process:
            CALLBACKS.put("Giving slots back", self._keeper.release, self._id)


def _run_here() -> str:
    """The name of the run around the caller; empty in plain code."""
    call = CALL.get()
    if call is not None:
        return call.run_name()
    scope = SCOPE.get()
    flow_run = scope.flow_run if scope is not None else None
    return flow_run.name if flow_run is not None else ""


# ---------------------------------------------------------------------- what there is to say

#: Of which limits it was said already that they are missing, or have another rate.
_TOLD: set[tuple[str, str]] = set()


def tell_of(answer: Acquired) -> None:
    """Says once of each limit that it does not exist, or has another rate than was asked for."""
    for name in sorted(answer.missing):
        if _is_new("missing", name):
            library_logger().warning("%s; what asks for its slots goes on", _no_limit((name,)))
    for name, decay in sorted(answer.other_rates.items()):
        if _is_new("rate", name):
            library_logger().warning(
                "The limit %r has another rate, which stands: %g slots are free again each second",
                name,
                decay,
            )


def _is_new(what: str, name: str) -> bool:
    with LOCK:
        new = (what, name) not in _TOLD
        _TOLD.add((what, name))
    return new


def _no_limit(names: Iterable[str]) -> str:
    shown = ", ".join(repr(name) for name in names)
    return f"There is no limit {shown} (`shoal global-concurrency-limit create NAME --limit N` makes one)"


def _refused(names: tuple[str, ...], problem: str) -> ConcurrencySlotAcquisitionError:
    return ConcurrencySlotAcquisitionError(names=names, problem=problem)
