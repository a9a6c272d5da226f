"""A block of code that holds slots, and a moment that takes some: what the public modules are made of.

May import `limits` and what lies above it.
"""

from __future__ import annotations

import functools
import inspect
import sys
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from shoal.exceptions import BlockingWaitInLoop, InvalidOption
from shoal.limits.acquiring import Acquisition, in_event_loop, wanted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import FrameType
    from typing import Self

__all__ = ["AsyncBlock", "Block", "SyncBlock", "rate", "refuse_in_loop"]

P = ParamSpec("P")
R = TypeVar("R")


class Block:
    """A block of code that holds slots of limits; also as a decorator.

    Args:
        names: a limit's name, or several: slots of all are taken, or of none.
        occupy: slots of each.
        timeout_seconds: how long to wait for them at most; `None` for as long as it takes.
        max_retries: how often to try again where they are not free at once; `None` for as often as it takes.
        lease_duration: seconds after which the slots are free should this process die (on a worker: its driver); it is
            renewed as long as the process lives. By default `SHOAL_LIMITS_LEASE_SECONDS`, 30.
        strict: whether a limit that does not exist is an error. Else it limits nothing, and a warning says so once.
        holder: what `shoal global-concurrency-limit inspect` shows as the holder, beside the run: text, or what has a
            `type` and an `id`.
        raise_on_lease_renewal_failure: accepted for Prefect's sake. Slots that are lost (the process stood still for
            longer than its lease, or somebody reset the limit) are told in the log; what runs is never ended for it.

    Raises:
        InvalidOption: one of these cannot be.
    """

    def __init__(
        self,
        names: str | Iterable[str],
        occupy: int = 1,
        timeout_seconds: float | None = None,
        max_retries: int | None = None,
        lease_duration: float | None = None,
        strict: bool = False,
        holder: object = None,
        raise_on_lease_renewal_failure: bool | None = None,
    ) -> None:
        self._what = wanted(
            names,
            occupy,
            strict=strict,
            timeout_seconds=timeout_seconds,
            max_retries=max_retries,
            lease_duration=lease_duration,
            holder=holder,
        )
        self._held: list[Acquisition] = []

    def _again(self) -> Self:
        """A block like this one: a decorated function may run several times at once."""
        other = type(self).__new__(type(self))
        other._what = self._what
        other._held = []
        return other


_ENTER = {"__enter__", "__aenter__"}
_GENERATOR = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR


def _ends_here(frame: FrameType | None) -> bool:
    """Whether a block ends in the thread, or the task of a loop, that enters it: a `with` statement sees to that. What calls
    `__enter__` itself, as an `ExitStack` does, may be ended by another.

    Args:
        frame: in which the block is entered. One of a context manager of the user's is within that which enters it.
    """
    while frame is not None:
        code = frame.f_code
        is_ours = frame.f_globals.get("__name__", "").startswith("shoal.concurrency.")
        if not is_ours and not _ENTER.isdisjoint(code.co_names):
            return False  # a `with` statement names neither
        if code.co_name not in _ENTER and not code.co_flags & _GENERATOR:
            return True
        frame = frame.f_back
    return True


class SyncBlock(Block):
    """One that is entered with `with`."""

    def __enter__(self) -> None:
        acquisition = Acquisition(self._what, stays=_ends_here(sys._getframe(1)))
        acquisition.acquire()
        self._held.append(acquisition)

    def __exit__(self, *error: object) -> None:
        self._held.pop().release()

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Has a function hold slots whenever it is called."""
        if inspect.iscoroutinefunction(function):
            if isinstance(self, AsyncBlock):
                return cast("Callable[P, R]", AsyncBlock.__call__(self, function))
            raise _ends_too_early(function, "use `shoal.concurrency.asyncio`")
        _refuse_generator(function)

        @functools.wraps(function)
        def within(*args: P.args, **kwargs: P.kwargs) -> R:
            with self._again():
                return function(*args, **kwargs)

        return within


class AsyncBlock(Block):
    """One that is entered with `async with`."""

    async def __aenter__(self) -> None:
        acquisition = Acquisition(self._what, stays=_ends_here(sys._getframe(1)))
        await acquisition.acquire_async()
        self._held.append(acquisition)

    async def __aexit__(self, *error: object) -> None:
        self._held.pop().release()

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Has a coroutine function hold slots whenever it is called."""
        _refuse_generator(function)

        @functools.wraps(function)
        async def within(*args: Any, **kwargs: Any) -> Any:
            async with self._again():
                return await function(*args, **kwargs)  # type: ignore[misc]

        return within  # type: ignore[return-value]


def _refuse_generator(function: Callable[..., Any]) -> None:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise _ends_too_early(function, "write `with` or `async with` in it")


def _ends_too_early(function: Callable[..., Any], advice: str) -> InvalidOption:
    return InvalidOption(
        where="a call of concurrency",
        option="function",
        value=function,
        problem=f"its slots would be given back before its code begins: {advice}",
    )


def refuse_in_loop(names: tuple[str, ...]) -> None:
    """Refuses what would block a running event loop.

    Raises:
        BlockingWaitInLoop: one runs here.
    """
    if in_event_loop():
        raise BlockingWaitInLoop(limits=names)


def rate(
    names: str | Iterable[str],
    occupy: int,
    timeout_seconds: float | None,
    *,
    strict: bool,
    per_minute: int | None,
    per_second: int | None,
) -> Acquisition:
    """What takes slots that decay; see `shoal.concurrency.sync.rate_limit`.

    Raises:
        InvalidOption: one of these cannot be.
    """
    given: tuple[Any, float] | None = None
    if per_second is not None:
        given = per_second, 1.0
        if per_minute is not None:
            raise InvalidOption(
                where="a call of rate_limit",
                option="per_minute",
                value=per_minute,
                problem="`per_second` is given already",
            )
    elif per_minute is not None:
        given = per_minute, 60.0
    what = wanted(
        names, occupy, strict=strict, timeout_seconds=timeout_seconds, rate=given, decays=True
    )
    return Acquisition(what)
