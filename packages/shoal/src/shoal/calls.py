"""The words that a driver and its workers share: what is to be run, and how it ended.

Everything here is plain data with slots. Nothing here runs a task, decides anything or waits. May import what
surrounds a run (`context`) and what things are called, never futures or schedulers.
"""

from __future__ import annotations

from time import perf_counter, time
from typing import TYPE_CHECKING, Any

from shoal.names import task_run_name

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextvars import Context

    from shoal.context import Scope
    from shoal.specs import TaskSpec
    from shoal.states import State

__all__ = [
    "AWAITING_RETRY",
    "CANCELLED",
    "COMPLETED",
    "CRASHED",
    "DONE",
    "FAILED",
    "NEXT_PHASES",
    "NOT_READY",
    "QUEUED",
    "READY",
    "RUNNING",
    "SENT",
    "WAITING",
    "Batch",
    "Call",
    "Handle",
    "Outcome",
    "Report",
]

# The phases of a run as the driver sees them. Plain integers, because every run passes several of them; a `State`
# is made from a phase when somebody asks for one. A run is done from `DONE` upwards, and never leaves such a phase.
WAITING = 0  # for upstreams that have not ended
READY = 1  # could start now, waits for a slot
SENT = 2  # in a batch that was launched; not known to have started
RUNNING = 3
AWAITING_RETRY = 4
QUEUED = 5  # for a slot of the concurrency limits of its tags
DONE = 8
COMPLETED = 8
FAILED = 9
CANCELLED = 10
CRASHED = 11
NOT_READY = 12

#: By phase, those that may come next, besides the end, which may come from any that is not done. The tests check every
#: change of a phase against it.
NEXT_PHASES = {
    WAITING: {READY, SENT, QUEUED},
    READY: {READY, WAITING, SENT, RUNNING, AWAITING_RETRY},
    SENT: {READY, WAITING, RUNNING, AWAITING_RETRY},
    RUNNING: {
        READY,
        WAITING,
        RUNNING,
        AWAITING_RETRY,
    },  # RUNNING: what it has returned is waited for
    AWAITING_RETRY: {READY, QUEUED},
    QUEUED: {READY},
}


class Call:
    """A run to be: what the engine needs for its attempts, and nothing of the scheduler's.

    Attributes:
        task: the task; its function and its options.
        args: positional arguments. Futures in them are replaced by values before the engine sees the call.
        kwargs: keyword arguments, `None` where there are none.
        number: the run's integer id; its UUID and its name are made from it on demand.
        context: the submitter's context variables; each attempt runs in it or in a copy of it.
        scope: where runs submitted from inside go: the runner, and the flow run around it; `None` outside a flow.
        attempt: which comes next, or is under way; 1 for the first.
        name: the run's name, once it was rendered from `task_run_name`.
        options: what the backend captured in the submitter's thread (annotations, remote options), or `None`.
        caller: of a direct call, the call that it is a part of. Unset in others.
        clock: what `time.perf_counter` said when the attempt began; later a tuple of the time of day. Unset in tasks that
            ask for nothing special; see `began`.
    """

    __slots__ = (
        "_earlier",
        "args",
        "attempt",
        "caller",
        "clock",
        "context",
        "kwargs",
        "name",
        "number",
        "options",
        "scope",
        "task",
    )

    caller: Call
    clock: float | tuple[float]

    def __init__(
        self,
        task: TaskSpec,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        number: int,
        context: Context,
        scope: Scope | None,
        attempt: int = 1,
    ) -> None:
        self.task = task
        self.args = args
        self.kwargs = kwargs
        self.number = number
        self.context = context
        self.scope = scope
        self.attempt = attempt
        self.name: str | None = None
        self.options: Any = None

    def run_name(self) -> str:
        """The name of its run."""
        return self.name if self.name is not None else task_run_name(self.task.name, self.number)

    def began(self) -> float | None:
        """When the attempt began, in seconds since the epoch; `None` where that is not known."""
        clock = getattr(self, "clock", None)
        if type(clock) is float:
            clock = self.clock = (
                time() - (perf_counter() - clock),
            )  # the same whenever it is asked for
        return clock[0] if clock is not None else None

    def ran_since(self, clock: float) -> tuple[float, float]:
        """How long the attempt has run, and when it ends: the moment by which whoever asks counts.

        Args:
            clock: what `time.perf_counter` said when it began.

        Returns:
            Seconds, and the time in seconds since the epoch; the one is the other's distance from `began`.
        """
        seconds = perf_counter() - clock
        began = self.began()
        assert began is not None  # who asks has set the clock
        ended = began + seconds
        return ended - began, ended

    def must_have_begun(self, when: float) -> None:
        """The attempt began elsewhere, and what is known here is when, in seconds since the epoch."""
        if not hasattr(self, "clock"):
            self.clock = (when,)

    def earlier(self) -> tuple[float, float] | None:
        """When the first attempt began and how long those before this one ran; `None` in the first, or if not known."""
        return getattr(self, "_earlier", None)

    def follow(self, earlier: tuple[float, float] | None) -> None:
        """What `earlier` gives, where the call comes from elsewhere."""
        if earlier is not None:
            self._earlier = earlier

    def next_attempt(self, seconds: float, now: float) -> None:
        """Makes it the call of the next attempt.

        Args:
            seconds: how long the last one took, 0 where that is not known.
            now: seconds since the epoch.
        """
        self.attempt += 1
        began = self.began()
        if began is None and seconds:
            began = now - seconds
        if began is not None:
            first, ran = self.earlier() or (began, 0.0)
            self._earlier = first, ran + (seconds or now - began)
        if hasattr(self, "clock"):
            del self.clock

    def own(self, state: State[Any]) -> State[Any]:
        """A state of this run, which tells whose it is."""
        flow_run = self.scope.flow_run if self.scope is not None else None
        return state.of_run(self.number, flow_run.number if flow_run is not None else None)


class Outcome:
    """How an attempt ended.

    Attributes:
        phase: a done phase; `AWAITING_RETRY` if there is to be another attempt; `WAITING` if it returned futures of runs
            that have not ended, which settle it.
        value: the result, or the exception of a run that did not complete.
        state: the `State` that the task returned, where it returned one.
        delay: seconds until the next attempt (only with `AWAITING_RETRY`).
        name: the rendered run name where it is not the default one.
        seconds: how long the task's function ran.
    """

    __slots__ = ("delay", "name", "phase", "seconds", "state", "value")

    def __init__(
        self,
        phase: int,
        value: Any,
        state: State[Any] | None = None,
        delay: float = 0.0,
        name: str | None = None,
        seconds: float = 0.0,
    ) -> None:
        self.phase = phase
        self.value = value
        self.state = state
        self.delay = delay
        self.name = name
        self.seconds = seconds


class Handle:
    """A value that stays where the execution system keeps it: shared memory, a worker, an object store.

    Runs of the same runner are given the handle; who asks for the value fetches it.

    Attributes:
        place: which of the system's places holds it, where that matters to who shall use it.
    """

    __slots__ = ("__weakref__",)
    place: Any = None

    def value(self, run_name: str | None = None) -> Any:
        """The value, fetched.

        Args:
            run_name: of the run whose value it is, for the message.

        Raises:
            ResultLost: what held it is gone.
        """
        raise NotImplementedError


class Batch:
    """An ordered list of runs that travel to one worker slot in one message.

    Attributes:
        number: identifies the batch among those of its runner.
        slot: the slot it was made for.
        runs: the driver's futures in the order in which they are to be run, or a `Span` of a map.
        seconds: how long it is expected to take, `None` where a task's duration is not known yet.
        blocked_run: what waits at the slot, if the batch is sent because that needs it.
        linked: how many of the runs wait for others of the batch.
    """

    __slots__ = ("blocked_run", "linked", "number", "runs", "seconds", "slot")

    def __init__(self, number: int, slot: int, runs: Any, seconds: float | None) -> None:
        self.number = number
        self.slot = slot
        self.runs = runs
        self.seconds = seconds
        self.blocked_run: Any = None
        self.linked = 0

    def __len__(self) -> int:
        return len(self.runs)


class Report:
    """What a worker says of runs of one batch, in columns.

    A batch's number names the attempts in it too: runs that are sent again are in another batch, so a report of a
    batch that was given up is dropped.

    Attributes:
        batch: the batch's number.
        positions: in the batch, of the runs reported.
        values: for each run its result, or an `Outcome` where there is more to say.
        ends: when each ended, seconds since the epoch.
        seconds: how long the runs took together.
        logs: log records of these runs, in order.
        last: whether the batch has nothing more to report; runs it never reported were not started then.
        count: how many runs `seconds` is about.
    """

    __slots__ = ("batch", "count", "ends", "last", "logs", "positions", "seconds", "values")

    def __init__(
        self,
        batch: int,
        positions: Sequence[int],
        values: Sequence[Any],
        ends: Sequence[float],
        seconds: float,
        logs: Sequence[Any] = (),
        last: bool = True,
        count: int | None = None,
    ) -> None:
        self.batch = batch
        self.count = len(values) if count is None else count
        self.positions = positions
        self.values = values
        self.ends = ends
        self.seconds = seconds
        self.logs = logs
        self.last = last
