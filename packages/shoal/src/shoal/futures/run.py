"""`TaskFuture`: the driver's record of one run, and `Owner`: what futures ask of whoever runs them. See the package for
who writes what.

May import `blocking`.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from shoal.annotations import StandIn
from shoal.calls import COMPLETED, DONE, READY, RUNNING, Call
from shoal.exceptions import CancelledRun, WaitTimeout
from shoal.futures.blocking import ALL, Wanted, block, check_timeout
from shoal.names import run_uuid, task_run_name
from shoal.safely import is_raisable, with_traceback
from shoal.tracebacks import fold

if TYPE_CHECKING:
    from types import TracebackType

    from shoal.futures.maps import MapRecord
    from shoal.specs import TaskSpec
    from shoal.states import State

__all__ = ["TRAVEL", "Detail", "Owner", "TaskFuture"]

R_co = TypeVar("R_co", covariant=True)

#: Whether type checkers tell a future from its value. They do in this repository (see pyproject.toml), where to confuse
#: them is a mistake; users give their tasks the one for the other.
STRICT_FUTURES: Final = False

if TYPE_CHECKING:
    if not STRICT_FUTURES:
        Base = StandIn
    else:
        Base = object

    class Pending(Awaitable[R_co], Base):
        """A base of futures. That they can be awaited is said here, as pyright asks no further where a class fits all."""

else:

    class Pending:
        def __class_getitem__(cls, result):
            return object  # nothing of it is there at run time


class _Travel(threading.local):
    """How this thread pickles futures at the moment.

    Attributes:
        reduce: gives what `__reduce__` is to give, while a worker tells its driver of a run; else `None`.
    """

    reduce: Callable[[TaskFuture[Any]], Any] | None = None


TRAVEL = _Travel()


class Detail:
    """What only some runs need beyond the common fields of a future.

    Attributes:
        alone: whether it must not share a batch.
        waiters: called once with the future when the run ended, outside the lock; never user code.
        dependants: runs that wait for this one, and whether they start if it does not complete.
        upstreams: the runs this one waits for, with whether their failure is allowed.
        blockers: how many of the upstreams have not ended.
        wanting: threads and blocked runs that wait for this run and could run it themselves.
        waits_on: what this run, executing, is blocked on.
        waits_until: what that lasts until; see `Wait`.
        state: a final state that says more than phase and outcome do.
        name: the run's name where it is not the default one.
        attempts: attempts that have begun.
        crashes: attempts that were lost with their worker.
        limited: tags whose concurrency limits it needs a slot of; it holds one, or asks for one, once it is ready.
        due: when the next attempt begins, seconds since the epoch.
        overdue: the running attempt is past its limit and will be retried once it has stopped.
        code_ended: whether its code has ended, though the run has not: what that means is still to be found out.
        traceback: of the exception that the run ended with.
        timer: what will wake a run that waits for its retry, or end one that is past its limit.
        origin: the map record and index of a mapped run.
    """

    __slots__ = (
        "alone",
        "attempts",
        "blockers",
        "code_ended",
        "crashes",
        "dependants",
        "due",
        "limited",
        "name",
        "origin",
        "overdue",
        "state",
        "timer",
        "traceback",
        "upstreams",
        "waiters",
        "waits_beside",
        "waits_on",
        "waits_until",
        "wanting",
    )

    def __init__(self) -> None:
        self.alone = False
        self.waiters: list[Callable[[Any], object]] | None = None
        self.dependants: list[tuple[TaskFuture[Any], bool]] | None = None
        self.upstreams: Sequence[Any] = ()
        self.blockers = 0
        self.wanting: list[Any] | None = None
        self.waits_on: Wanted | None = None
        self.waits_beside: Wanted | None = None
        self.waits_until = ALL
        self.state: State[Any] | None = None
        self.name: str | None = None
        self.attempts = 0
        self.crashes = 0
        self.due: float | None = None
        self.limited: frozenset[str] = frozenset()
        self.overdue = False
        self.code_ended = False
        self.timer: Any = None
        self.traceback: TracebackType | None = None
        self.origin: tuple[MapRecord[Any], int] | None = None

    def cancel_timer(self) -> None:
        """Nothing is to happen at a time any more."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class TaskFuture(Generic[R_co], Pending[R_co]):  # noqa: PYI059  # `Pending[R_co]` is `object`
    """A run of a task: its state at every moment, and its result once there is one.

    Made by `task.submit` and `task.map`. Dropping it neither cancels nor loses the work. Futures compare by their run.
    """

    __slots__ = (
        "__weakref__",
        "_call",
        "_detail",
        "_dispatcher",
        "_number",
        "_open",
        "_outcome",
        "_phase",
        "_since",
        "_start",
        "_task",
    )

    _open: bool
    _start: bool

    def __init__(
        self,
        dispatcher: Owner,
        task: TaskSpec,
        number: int,
        call: Call | None,
        since: float,
        phase: int = READY,
        outcome: Any = None,
    ) -> None:
        self._dispatcher = dispatcher
        self._task = task
        self._number = number
        self._call = call
        self._since = since
        self._phase = phase
        self._outcome = outcome
        self._detail: Detail | None = None
        if phase < DONE:
            self._open = True

    # ------------------------------------------------------------------ what it is

    @property
    def task_run_id(self) -> str:
        """The run's UUID."""
        return run_uuid(self._number)

    @property
    def name(self) -> str:
        """The run's name, for example `inc-3f2`, or what `task_run_name` gave once the run began."""
        detail = self._detail
        if detail is not None and detail.name is not None:
            return detail.name
        return task_run_name(self._task.name, self._number)

    @property
    def state(self) -> State[R_co]:
        """The run's state as it is now, without waiting."""
        return self._dispatcher.state_of(self)

    @property
    def native(self) -> Any:
        """The execution system's own future of this run; `None` on runners of this machine."""
        return self._dispatcher.native(self)

    def __repr__(self) -> str:
        return f"<TaskFuture {self.name!r} {self.state}>"

    def _repr_html_(self) -> str:
        from shoal.markup import card

        state = self.state
        return card("TaskFuture", self.name, [("task", self._task.name), ("state", state)])

    def __reduce__(self) -> Any:
        if TRAVEL.reduce is not None:
            return TRAVEL.reduce(self)
        raise TypeError(
            f"the future of task run {self.name!r} cannot be pickled: pass it as an argument of a task, "
            "which then receives the value"
        )

    # ------------------------------------------------------------------ waiting

    def done(self) -> bool:
        """Whether the run has ended; it never changes afterwards."""
        return self._phase >= DONE

    def wait(self, timeout: float | None = None) -> None:
        """Blocks until the run has ended or `timeout` seconds are over; never raises on expiry."""
        if timeout is not None:
            check_timeout(timeout)
        if self._phase < DONE:
            block((self,), timeout)

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> R_co:
        """The task's return value, waiting for it.

        Args:
            timeout: seconds to wait at the most, `None` for as long as it takes.
            raise_on_failure: whether to raise the exception of a run that did not complete, or to return it (or what
                `State.result` says, if the task returned a State).

        Raises:
            WaitTimeout: (a `TimeoutError`) the run had not ended in time; it goes on.
            Exception: the task's own exception; `CancelledRun`, `CrashedRun`, `UpstreamTaskError` for runs that
                ended so.
        """
        try:
            if timeout is not None:
                check_timeout(timeout)
            if self._phase < DONE and not block((self,), timeout):
                raise WaitTimeout(run_name=self.name, timeout=timeout)
            if self._phase == COMPLETED:
                return self._dispatcher.value_of(self)  # type: ignore[no-any-return]
            if raise_on_failure:
                raise self._error()
            detail = self._detail
            state = detail.state if detail is not None else None
            if state is None or state.data is None or isinstance(state.data, BaseException):
                return self._error()  # type: ignore[return-value]
            return state.result(raise_on_failure=False)  # type: ignore[return-value]  # the task returned that state
        except BaseException as error:
            fold(error)
            raise

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The exception of a run that did not complete, `None` if it did; waits like `result`."""
        if timeout is not None:
            check_timeout(timeout)
        if self._phase < DONE and not block((self,), timeout):
            raise WaitTimeout(run_name=self.name, timeout=timeout)
        return None if self._phase == COMPLETED else self._error()

    def _error(self) -> BaseException:
        """The exception of a run that did not complete, with the traceback that it came with."""
        outcome = self._outcome
        if is_raisable(outcome):
            detail = self._detail
            # Each raise adds to an exception's traceback, and this one may be raised many times.
            return with_traceback(outcome, detail.traceback if detail is not None else None)
        from shoal.states import get_state_exception

        error = get_state_exception(self.state, run_name=self.name)
        return error if error is not None else CancelledRun(run_name=self.name)

    def cancel(self) -> bool:
        """Ends the run as CANCELLED at once: it never starts, or what runs is stopped.

        Returns:
            False if the run had already ended.
        """
        return self._dispatcher.cancel(self)

    def add_done_callback(self, fn: Callable[[TaskFuture[R_co]], object]) -> None:
        """Calls `fn(future)` on the callback thread once the run has ended, at once if it has.

        An exception in it is logged.
        """
        self._dispatcher.add_callback(self, fn)

    def __await__(self) -> Generator[Any, None, R_co]:
        """Waits without blocking the loop, under asyncio and trio; being cancelled only detaches."""
        if self._phase < DONE:
            from shoal.futures.awaiting import settled

            yield from settled((self,)).__await__()
        try:
            return self.result()
        except BaseException as error:
            fold(error)
            raise

    # ------------------------------------------------------------------ for the library

    def _claim(self) -> bool:
        """Whether the caller, and nobody else, may start the run."""
        try:
            del self._start
        except AttributeError:
            return False
        return True

    def _is_running(self) -> bool:
        """Whether an attempt is under way."""
        return self._phase == RUNNING or (self._phase == READY and not hasattr(self, "_start"))

    def watch(self, waiter: Callable[[Any], object]) -> bool:
        """See `Waitable`: for the library, with its lock held."""
        if self._phase >= DONE:
            return False
        detail = self._details()
        if detail.waiters is None:
            detail.waiters = []
        detail.waiters.append(waiter)
        if self._phase >= DONE and waiter in detail.waiters:
            detail.waiters.remove(
                waiter
            )  # it ended meanwhile, and who ended it has not seen the waiter
            return False
        return True

    def unwatch(self, waiter: Callable[[Any], object]) -> None:
        """See `Waitable`."""
        detail = self._detail
        if detail is not None and detail.waiters is not None and waiter in detail.waiters:
            detail.waiters.remove(waiter)

    def flawed(self) -> bool:
        """Whether the run has ended and did not complete."""
        return self._phase > COMPLETED

    def _details(self) -> Detail:
        """The run's `Detail`; with `LOCK` held."""
        detail = self._detail
        if detail is None:
            detail = self._detail = Detail()
        return detail


class Owner(Protocol):
    """A dispatcher, as its futures see it, in the driver and on workers alike.

    Attributes:
        scheduler: decides about its runs; schedulers ask each other where runs of several wait for each other.
        runner_name: for messages.
    """

    scheduler: Any
    runner_name: str

    def state_of(self, future: TaskFuture[Any]) -> State[Any]:
        """The state of a run as it is now."""

    def value_of(self, future: TaskFuture[Any]) -> Any:
        """The value of a completed run.

        Raises:
            MissingResult: it is an element of a map whose list was dropped before anybody took the future.
            ResultLost: what held it is gone.
        """

    def values_of(self, record: MapRecord[Any]) -> list[Any]:
        """The values of a map all of whose elements completed."""

    def native(self, future: TaskFuture[Any]) -> Any:
        """The execution system's own future of a run, `None` where there is none."""

    def cancel(self, future: TaskFuture[Any]) -> bool:
        """Ends a run as CANCELLED; False if it had ended."""

    def add_callback(
        self, future: TaskFuture[Any], fn: Callable[[TaskFuture[Any]], object]
    ) -> None:
        """Arranges for a user's callback."""
