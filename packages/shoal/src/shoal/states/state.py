"""`State` and its types, and the exception that stands for one.

May import `exceptions` and `safely`.
"""

from __future__ import annotations

import threading
from enum import StrEnum
from time import time
from typing import TYPE_CHECKING, Any, Generic, Literal, overload

from shoal.exceptions import CancelledRun, CrashedRun, FailedRun, ResultLost, UnfinishedRun
from shoal.safely import is_error, is_raisable, repr_of
from shoal.states.details import StateDetails, uuid_of
from shoal.tracebacks import fold

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from typing_extensions import TypeVar

    R_co = TypeVar("R_co", covariant=True, default=Any)
else:
    from typing import TypeVar

    R_co = TypeVar("R_co", covariant=True)

__all__ = [
    "TERMINAL_TYPES",
    "State",
    "StateDetails",
    "StateType",
    "exception_of",
    "get_state_exception",
    "raise_state_exception",
    "values_of",
]


class StateType(StrEnum):
    """The kinds of state. A state's name may say more than its type: `Retrying` is of type RUNNING."""

    SCHEDULED = "SCHEDULED"
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    CRASHED = "CRASHED"
    PAUSED = "PAUSED"
    CANCELLING = "CANCELLING"


# Looking up an enum member costs 30 ns each time; a global does not.
_SCHEDULED = StateType.SCHEDULED
_PENDING = StateType.PENDING
_RUNNING = StateType.RUNNING
_COMPLETED = StateType.COMPLETED
_FAILED = StateType.FAILED
_CANCELLED = StateType.CANCELLED
_CRASHED = StateType.CRASHED
_PAUSED = StateType.PAUSED
_CANCELLING = StateType.CANCELLING

#: Types that a run never leaves, each with the error that stands in where such a state holds no exception.
_BAD_ENDS: dict[StateType, type[FailedRun | CrashedRun | CancelledRun]] = {
    _FAILED: FailedRun,
    _CRASHED: CrashedRun,
    _CANCELLED: CancelledRun,
}

#: Types that a run never leaves.
TERMINAL_TYPES: frozenset[StateType] = frozenset({_COMPLETED, *_BAD_ENDS})

_NOT_READY = "NotReady"
_new = object.__new__
_DEFAULT_NAMES = {type_: type_.capitalize() for type_ in StateType}


class _Remote:
    """A value that is somewhere else until it is asked for."""

    __slots__ = ("fetch", "lock")

    def __init__(self, fetch: Callable[[], Any]) -> None:
        self.fetch = fetch
        self.lock = threading.Lock()


class State(Generic[R_co]):
    """What a run's state is, or was: `Completed()`, `Failed('message')`.

    States are equal if type, name, message and data are; when they were entered does not matter. Data that cannot
    be compared with yes or no (an array) is equal only to itself.

    Args:
        type: the kind of state, a `StateType` or its name.
        name: the state's name; the type's by default (`Completed`).
        message: why, for people.
        data: the run's value if COMPLETED, its exception if it ended badly.
        timestamp: when it was entered, in seconds since the epoch; now by default.
        scheduled_time: when the run is to start, as an aware datetime or in seconds since the epoch.
        fetch: gives the data, if they stayed where the run was. Called once, by whoever first needs them: `data`,
            `result()`, comparing with an otherwise equal state, copying or pickling. If it raises, so does that
            use, and the next one tries again.

    Attributes:
        type: see above.
        name: see above.
        message: see above.
        epoch: when the state was entered, in seconds since the epoch.
    """

    __slots__ = (
        "_data",
        "_flow_run",
        "_remote",
        "_scheduled",
        "_task_run",
        "epoch",
        "message",
        "name",
        "type",
    )

    type: StateType
    name: str
    message: str | None
    epoch: float

    def __init__(
        self,
        type: StateType | str,
        name: str | None = None,
        message: str | None = None,
        *,
        data: Any = None,
        timestamp: float | None = None,
        scheduled_time: float | datetime | None = None,
        fetch: Callable[[], R_co] | None = None,
    ) -> None:
        if not isinstance(type, StateType):
            type = StateType(type)
        self.type = type
        self.name = name or _DEFAULT_NAMES[type]
        self.message = message
        self.epoch = time() if timestamp is None else timestamp
        self._data = data
        self._remote = None if fetch is None else _Remote(fetch)
        # Whose it is: numbers of runs, or their UUIDs if it came from another process. Two slots: a pair would be one more
        # object for the garbage collector, and reading a state would take twice as long.
        self._task_run: int | str | None = None
        self._flow_run: int | str | None = None
        if scheduled_time is None or isinstance(scheduled_time, (int, float)):
            self._scheduled = scheduled_time
        else:
            self._scheduled = scheduled_time.timestamp()

    @classmethod
    def of_completed(
        cls, data: Any, epoch: float, task_run: int, flow_run: int | None
    ) -> State[Any]:
        """For the library: that of a run with a value, by the numbers of the runs. Hot."""
        state: State[Any] = _new(State)
        state.type = _COMPLETED
        state.name = "Completed"
        state.message = None
        state.epoch = epoch
        state._data = data
        state._remote = None
        state._scheduled = None
        state._task_run = task_run
        state._flow_run = flow_run
        return state

    @property
    def timestamp(self) -> datetime:
        """When the state was entered, in UTC."""
        return _datetime(self.epoch)

    @property
    def scheduled_time(self) -> datetime | None:
        """When the run is to start, in UTC; `None` where nothing is planned."""
        return None if self._scheduled is None else _datetime(self._scheduled)

    @property
    def state_details(self) -> StateDetails:
        """What more is known of it: whose state it is, and what is planned."""
        return StateDetails(uuid_of(self._flow_run), uuid_of(self._task_run), self.scheduled_time)

    def belong(self, task_run: int | None, flow_run: int | None) -> None:
        """For the library: says whose state it is, by the numbers of the runs, while nobody else has it."""
        self._task_run, self._flow_run = task_run, flow_run

    def of_run(self, task_run: int | None, flow_run: int | None) -> State[R_co]:
        """For the library: this state if it belongs to these runs, else one that does: a user may give several one."""
        whose = task_run, flow_run
        if (self._task_run, self._flow_run) == whose != (None, None):
            return self
        own: State[R_co] = State.__new__(State)
        own._remote = self._remote  # before the data, which are there once this is `None`
        for name in ("_data", "_scheduled", "epoch", "message", "name", "type"):
            setattr(own, name, getattr(self, name))
        own._task_run, own._flow_run = whose
        return own

    @property
    def data(self) -> Any:
        """The run's value if COMPLETED, its exception if it ended badly, else mostly `None`."""
        remote = self._remote
        if remote is not None:
            with remote.lock:
                if self._remote is not None:
                    self._data = remote.fetch()
                    self._remote = None
        return self._data

    @overload
    def result(self, raise_on_failure: Literal[True] = True) -> R_co: ...
    @overload
    def result(self, raise_on_failure: bool) -> R_co | BaseException: ...
    def result(self, raise_on_failure: bool = True) -> R_co | BaseException:
        """The run's value.

        Args:
            raise_on_failure: whether to raise the exception of a run that did not complete, or to return what there
                is instead: the data of the state (`x` of `Failed("m", data=x)`); for a run that returned several
                others the collection of their values, an exception in the place of each that did not complete; else
                the exception.

        Raises:
            UnfinishedRun: the run has not ended.
            ResultLost: the run completed, but what held its value died.
            Exception: the run's own exception; `FailedRun`, `CrashedRun`, `CancelledRun` where it has none;
                `UpstreamTaskError` if it never started.

        Examples:
            >>> Completed(data=1).result()
            1
        """
        if self.type is _COMPLETED:
            try:
                return self.data  # type: ignore[no-any-return]
            except ResultLost as lost:
                if raise_on_failure:
                    raise
                return lost
        error = exception_of(self)
        try:
            if raise_on_failure or not self.is_done():
                raise error
            data = self.data
            if data is None or isinstance(data, BaseException):
                return error
            return values_of(data) if _only_states(data) else data  # type: ignore[no-any-return]
        except BaseException:
            fold(error)
            raise
        finally:
            del error  # or the exception's traceback and this frame keep each other alive

    def exception(self) -> BaseException | None:
        """The exception of a run that did not complete, `None` if it did.

        Raises:
            UnfinishedRun: the run has not ended.
        """
        if self.type is _COMPLETED:
            return None
        error = exception_of(self)
        if not self.is_done():
            raise error
        return error

    def is_scheduled(self) -> bool:
        """Whether the run starts at a later time: SCHEDULED, also `AwaitingRetry`."""
        return self.type is _SCHEDULED

    def is_pending(self) -> bool:
        """Whether the run has not started: PENDING, also `Queued` and `NotReady`."""
        return self.type is _PENDING

    def is_running(self) -> bool:
        """Whether the run is going on: RUNNING, also `Retrying`."""
        return self.type is _RUNNING

    def is_completed(self) -> bool:
        """Whether the run ended well: COMPLETED."""
        return self.type is _COMPLETED

    def is_failed(self) -> bool:
        """Whether the run ended with an exception: FAILED, also `TimedOut`."""
        return self.type is _FAILED

    def is_crashed(self) -> bool:
        """Whether the run was lost: CRASHED."""
        return self.type is _CRASHED

    def is_cancelled(self) -> bool:
        """Whether the run was cancelled: CANCELLED."""
        return self.type is _CANCELLED

    def is_cancelling(self) -> bool:
        """Whether the run is being cancelled: CANCELLING."""
        return self.type is _CANCELLING

    def is_paused(self) -> bool:
        """Whether the run waits for a person: PAUSED."""
        return self.type is _PAUSED

    def is_final(self) -> bool:
        """Whether the type is one that a run never leaves: COMPLETED, FAILED, CANCELLED, CRASHED."""
        return self.type in TERMINAL_TYPES

    def is_done(self) -> bool:
        """Whether the run is settled: final, or `NotReady` because an upstream did not complete."""
        return self.type in TERMINAL_TYPES or (self.type is _PENDING and self.name == _NOT_READY)

    def __str__(self) -> str:
        says = [] if self.message is None else [repr_of(self.message)]
        if self.name.upper() != self.type:
            says.append(f"type={self.type}")
        return f"{self.name}({', '.join(says)})"

    def __repr__(self) -> str:
        return f"<State {self} of {self._when()}>"

    def _repr_html_(self) -> str:
        from shoal.markup import card

        facts = [("type", self.type), ("message", self.message), ("since", self._when())]
        return card("State", self.name, facts)

    def _when(self) -> str:
        try:
            return self.timestamp.isoformat(timespec="seconds")
        except (OverflowError, ValueError, OSError):  # beyond what there are dates for
            return str(self.epoch)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, State):
            return NotImplemented
        return self is other or (
            self.type is other.type
            and self.name == other.name
            and self.message == other.message
            and _same(self.data, other.data)
        )

    def __hash__(self) -> int:
        return hash((self.type, self.name, self.message))  # data need not be hashable

    def __getstate__(self) -> tuple[Any, ...]:
        whose = uuid_of(self._task_run), uuid_of(self._flow_run)
        return self.type, self.name, self.message, self.epoch, self.data, self._scheduled, whose

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.type, self.name, self.message, self.epoch, self._data, self._scheduled, whose = state
        self._task_run, self._flow_run = whose
        self._remote = None


def _datetime(epoch: float) -> datetime:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(epoch, UTC)


def _same(one: object, other: object) -> bool:
    if one is other:
        return True
    try:
        return bool(one == other)
    except Exception:  # arrays and data frames answer element by element, others not at all
        return False


# ---------------------------------------------------------------------- from states to exceptions


def get_state_exception(state: State[Any], *, run_name: str | None = None) -> BaseException | None:
    """The exception that stands for a state.

    Args:
        state: the state. One that aggregates others (a list of states as its data) has the exception of the first
            of them that ended badly.
        run_name: the run, for the message of an exception made here.

    Returns:
        `None` for a completed run. Else the exception the state holds; `FailedRun`, `CrashedRun` or `CancelledRun`
        if it holds none, or one that would end the program (SystemExit), which is then its cause; `UnfinishedRun`
        if the run has not ended.
    """
    return None if state.type is _COMPLETED else exception_of(state, run_name)


def raise_state_exception(state: State[Any]) -> None:
    """Raises what `get_state_exception` gives; does nothing for a completed run."""
    error = get_state_exception(state)
    try:
        if error is not None:
            raise error
    except BaseException as raised:
        fold(raised)
        raise
    finally:
        del error  # as in `State.result`


def exception_of(state: State[Any], run_name: str | None = None) -> BaseException:
    """What stands for a state that is not COMPLETED."""
    data = state.data if state.is_done() else None
    if is_error(data):
        return data
    if isinstance(data, State):
        data = [data]
    if isinstance(data, (list, tuple, set, frozenset)):
        inner = _first_bad([item for item in data if isinstance(item, State)])
        if inner is not None:
            return exception_of(inner, run_name)
    wrapper = _BAD_ENDS.get(state.type)
    if wrapper is None:
        return UnfinishedRun(state_name=state.name, run_name=run_name)
    cause = data if is_raisable(data) else None
    return wrapper(message=state.message, run_name=run_name, cause=cause)


def _first_bad(states: Sequence[State[Any]]) -> State[Any] | None:
    """The first state that ended badly, else the first that did not complete at all."""
    incomplete = [state for state in states if state.type is not _COMPLETED]
    for state in incomplete:
        if state.type in _BAD_ENDS:
            return state
    return incomplete[0] if incomplete else None


def _only_states(data: object) -> bool:
    """Whether a state's data are the states of several runs."""
    return (
        isinstance(data, (list, tuple, set, frozenset))
        and bool(data)
        and all(isinstance(item, State) for item in data)
    )


def values_of(states: Any) -> Any:
    """Values in the place of states, exceptions where there are none; a list for a list, else a tuple."""
    values = [
        state.result(raise_on_failure=False) if state.is_done() else exception_of(state)
        for state in states
    ]
    return values if isinstance(states, list) else tuple(values)
