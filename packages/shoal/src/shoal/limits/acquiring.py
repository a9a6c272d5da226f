"""Slots of limits for a block of code, or for one moment: what `shoal.concurrency` is made of.

    enter ─▶ `Acquisition` ─▶ the keeper of this process; on a worker, its driver's ─▶ decided ─▶ the block goes on
    leave ─▶ released

May import `holding` and what lies above it.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from shoal.context import CALL, HERE, LOCK, SCOPE
from shoal.engine.interrupt import shielded
from shoal.exceptions import (
    AcquireConcurrencySlotTimeoutError,
    BlockingWaitInLoop,
    ConcurrencyLimitError,
    ConcurrencySlotAcquisitionError,
    InvalidOption,
)
from shoal.futures.awaiting import task_here
from shoal.limits.holding import Slots, default_lease, holder_here, keeper_here
from shoal.limits.settings import limits_in_use
from shoal.limits.slots import KEEPER
from shoal.limits.store import Acquired, Rate, Request
from shoal.logs import library_logger
from shoal.safely import repr_of

__all__ = ["Acquisition", "in_event_loop", "tell_of", "wanted"]


def in_event_loop() -> bool:
    """Whether the caller runs on an event loop, of asyncio or of trio."""
    return task_here() is not None


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
    where = "a call of rate_limit" if decays else "a call of concurrency"
    given = _names(names, where)
    if rate is not None:
        per = "per_minute" if rate[1] > 1 else "per_second"
        _number(per, rate[0], where, whole=True, above=1)
    for option, value in (("timeout_seconds", timeout_seconds), ("lease_duration", lease_duration)):
        if value is not None:
            _number(option, value, where)
    if lease_duration == 0:
        problem = "a number of seconds above 0 is needed"
        raise _invalid("lease_duration", lease_duration, problem, where)
    if max_retries is not None:
        _number("max_retries", max_retries, where, whole=True)
    _number("occupy", occupy, where, whole=True, above=1)
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


def _names(names: object, where: str) -> tuple[str, ...]:
    given: tuple[Any, ...]
    if isinstance(names, str):
        given = (names,)
    elif isinstance(names, Iterable) and not isinstance(names, (bytes, Mapping)):
        given = tuple(names)
    else:
        given = (names,)
    for name in given:
        if not isinstance(name, str) or not name.strip():
            raise _invalid("names", names, "the name of a limit is needed, or several", where)
    return tuple(dict.fromkeys(given))


def _number(option: str, value: object, where: str, *, whole: bool = False, above: int = 0) -> None:
    kinds = (int,) if whole else (int, float)
    right = isinstance(value, kinds) and not isinstance(value, bool)
    if not right or not above <= value < float("inf"):  # type: ignore[operator]
        kind = "a whole number" if whole else "a number"
        raise _invalid(option, value, f"{kind} from {above} up is needed", where)


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


def _invalid(option: str, value: object, problem: str, where: str) -> InvalidOption:
    return InvalidOption(where=where, option=option, value=value, problem=problem)


# ---------------------------------------------------------------------- asking, holding, giving back


class Acquisition:
    """Slots for code, from when they are asked for until they are given back.

    Args:
        what: what is asked for.
        stays: see `Held`.
    """

    def __init__(self, what: Wanted, *, stays: bool = True) -> None:
        self._what = what
        self._slots = Slots(str(uuid.uuid4()))
        self._slots.stays = stays

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
                    self._slots.wait()
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
        try:
            if self._ask():
                await self._slots.wait_async()
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
            if what.strict:
                raise _refused(what.names, _no_limit(what.names))
            tell_of(Acquired(frozenset(), frozenset(what.names)))
            return False
        lease = what.lease_duration
        if what.decays:
            lease = None
        elif lease is None:
            lease = default_lease(keeper)

        def request(within: frozenset[str]) -> Request:
            return Request(
                frozenset(what.names),
                holder_here(self._slots.id, _run_here(), what.label),
                what.occupy,
                lease,
                what.rate,
                what.strict,
                what.max_retries,
                within,
            )

        self._slots.ask(keeper, request, what.timeout_seconds)
        return True

    def _conclude(self) -> None:
        """Looks at the answer."""
        answer = self._slots.answer
        names, timeout = self._what.names, self._what.timeout_seconds
        if isinstance(answer, AcquireConcurrencySlotTimeoutError) and timeout is not None:
            late = AcquireConcurrencySlotTimeoutError(names=names, timeout_seconds=timeout)
            for note in getattr(answer, "__notes__", ()):
                late.add_note(note)
            raise late from answer.__cause__
        if isinstance(answer, ConcurrencyLimitError):
            raise _refused(names, f"{answer.tag!r}: {answer.problem}") from answer
        if isinstance(answer, BaseException):
            raise answer
        if self._slots.keeper is KEEPER:  # else the driver tells
            tell_of(answer)
        if self._what.decays:
            self._slots.forget()

    def release(self) -> None:
        """Gives the slots back, or takes the request for them back; once. Does not wait."""
        self._slots.release()


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
