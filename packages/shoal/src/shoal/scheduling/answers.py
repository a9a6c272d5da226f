"""What futures ask of whoever runs them: the same wherever that is.

May import futures and what lies above them.
"""

from __future__ import annotations

import os
import weakref
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Protocol, Self

from shoal.calls import CANCELLED, COMPLETED, CRASHED, DONE, FAILED, Handle
from shoal.context import INHERITED, LOCK
from shoal.engine.services import CALLBACKS
from shoal.exceptions import MissingResult
from shoal.futures.maps import RELEASED
from shoal.names import task_run_name
from shoal.safely import text_of
from shoal.states import State, StateType

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context

    from shoal.context import FlowLabel
    from shoal.futures import TaskFuture
    from shoal.futures.awaiting import CalledPlace
    from shoal.futures.maps import MapRecord
    from shoal.futures.side_threads import RunAround
    from shoal.specs import TaskSpec

__all__ = ["NOT_HERE", "Answers", "CallingHere"]

#: Why a child that user code forks cannot use what it inherited.
NOT_HERE = (
    "its runs belong to the process that entered it, and this one was forked from that; "
    "what is to run here needs a flow or a runner of its own"
)

#: The dispatchers of this process.
_ENTERED: weakref.WeakSet[Answers] = weakref.WeakSet()


class CallingHere(Protocol):
    """See `Answers.calling`."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def pause(self, wait: Callable[[], Any], /) -> Any:
        """Waits without a place."""

    def step(self, step: Callable[[], Any], /) -> Any:
        """Does a step of what streams."""


class Answers:
    """The half of a dispatcher that futures know: with what is left to subclasses, an `Owner`."""

    #: The flow run whose runs these are, as far as there is one and only one.
    flow_run: FlowLabel | None = None
    _works_for: FlowLabel | None = None
    #: Whether all runs are under a cap, the flow's.
    capped = False
    #: Whether there may be limits of tags.
    limited = False

    def __init__(self) -> None:
        _ENTERED.add(self)

    def works_for(self, flow_run: FlowLabel) -> None:
        """Runs of a flow run are about to be submitted."""
        if self._works_for is None:
            self.flow_run = self._works_for = flow_run
        elif self._works_for != flow_run:
            self.flow_run = None  # a run that has ended does not tell which of them it was of

    def leave_to_parent(self) -> None:
        """In a child that user code has forked: from now on it takes no runs."""
        raise NotImplementedError

    def calling(self, task: TaskSpec, *, streams: bool = False) -> CallingHere:
        """Within it, a capped task that this thread calls has a place of its caps.

        Args:
            task: the task.
            streams: whether the thread is at other things too, between `step`s.
        """
        raise NotImplementedError

    def place_of_call(self, task: TaskSpec) -> CalledPlace:
        """A place of the caps of a task that a coroutine calls, which is to be taken first."""
        raise NotImplementedError

    def run_around(self, number: int, *, certain: bool) -> RunAround | None:
        """A run as a thread sees it that it has started; `None` if no thread executes that run here.

        Args:
            number: of the run.
            certain: whether it has; if not, nothing but its worker is lent.
        """
        return None

    def submitter_of(self, item: TaskFuture[Any] | MapRecord[Any]) -> int | None:
        """The number of the run that has submitted a run or a map, as far as it is known as long as that has not begun."""
        return None

    def open_state(self, future: TaskFuture[Any]) -> State[Any]:
        """The state of a run that has not ended."""
        raise NotImplementedError

    def native(self, future: TaskFuture[Any]) -> Any:
        """The system's own future of a run, `None` where there is none."""
        raise NotImplementedError

    def cancel(self, future: TaskFuture[Any]) -> bool:
        """Ends a run as CANCELLED; False if it had ended."""
        raise NotImplementedError

    def state_of(self, future: TaskFuture[Any]) -> State[Any]:
        """The state of a run as it is now."""
        flow_run = self.flow_run
        whose = flow_run.number if flow_run is not None else None
        phase, detail = future._phase, future._detail  # the phase is set last
        if detail is not None and detail.state is not None and phase >= DONE:
            state = detail.state = detail.state.of_run(future._number, whose)
            return state
        outcome = future._outcome
        if phase == COMPLETED and not isinstance(outcome, Handle):
            return State.of_completed(outcome, future._since, future._number, whose)
        state = self._made_state_of(future)
        state.belong(future._number, whose)
        return state

    def _made_state_of(self, future: TaskFuture[Any]) -> State[Any]:
        phase = future._phase
        if phase < DONE:
            return self.open_state(future)
        outcome = future._outcome
        now = future._since
        if phase == COMPLETED:
            return State(StateType.COMPLETED, timestamp=now, fetch=lambda: self.value_of(future))
        if phase == FAILED:
            from shoal.engine.hooks import failure_message

            return State(
                StateType.FAILED, None, failure_message(outcome), data=outcome, timestamp=now
            )
        if phase == CANCELLED:
            return State(StateType.CANCELLED, timestamp=now)
        if phase == CRASHED:
            return State(StateType.CRASHED, None, text_of(outcome), data=outcome, timestamp=now)
        return State(StateType.PENDING, "NotReady", text_of(outcome), data=outcome, timestamp=now)

    def value_of(self, future: TaskFuture[Any]) -> Any:
        """The value of a completed run.

        Raises:
            MissingResult: it is an element of a map whose list was dropped before anybody took the future.
            ResultLost: what held it is gone.
        """
        value = future._outcome
        if isinstance(value, Handle):
            return value.value(future.name)
        if value is RELEASED:
            raise MissingResult(run_name=future.name)
        return value

    def values_of(self, record: MapRecord[Any]) -> list[Any]:
        """The values of a map all of whose elements completed."""
        return [
            value.value(task_run_name(record.task.name, record.base + index))
            if isinstance(value, Handle)
            else value
            for index, value in enumerate(record.values)
        ]

    def add_callback(
        self, future: TaskFuture[Any], fn: Callable[[TaskFuture[Any]], object]
    ) -> None:
        """Arranges for a user's callback."""
        context = copy_context()
        with LOCK:
            if future.watch(lambda ended: self._call_back(ended, fn, context)):
                return
        self._call_back(future, fn, context)

    def _call_back(
        self, future: TaskFuture[Any], fn: Callable[[TaskFuture[Any]], object], context: Context
    ) -> None:
        CALLBACKS.put(f"A callback of task run {future.name!r}", context.run, fn, future)


def _after_fork() -> None:
    for dispatcher in list(_ENTERED):
        dispatcher.leave_to_parent()
        INHERITED.add(dispatcher)
    _ENTERED.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
