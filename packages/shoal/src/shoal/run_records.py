"""The records of runs, as hooks, logs and `shoal.runtime` see them: what is alike, and the one of a flow run.

That of a task run is in `context`, as the tags around it belong to it. May import `names`, `settings` and what things are called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from shoal import settings

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from shoal.specs import FlowSpec, Keeping
    from shoal.states import State, StateType

__all__ = ["FlowLabel", "FlowRun", "RunRecord"]


class FlowLabel(NamedTuple):
    """What logs and states say of the flow run around a run; it keeps nothing of the user's alive."""

    number: int
    name: str
    flow_name: str


class RunRecord:
    """What the records of task runs and flow runs say alike, each worked out when it is asked for.

    Attributes:
        started: when its first attempt began, in seconds since the epoch; `None` where that is not known.
    """

    __slots__ = ()

    state: State[Any] | None
    started: float | None

    @property
    def state_type(self) -> StateType | None:
        """The type of the state, such as RUNNING; `None` before there is a state."""
        return self.state.type if self.state is not None else None

    @property
    def state_name(self) -> str | None:
        """The name of the state, such as `Retrying`; `None` before there is a state."""
        return self.state.name if self.state is not None else None

    @property
    def start_time(self) -> datetime | None:
        """When its first attempt began, in UTC; `None` where that is not known."""
        from datetime import UTC, datetime

        return None if self.started is None else datetime.fromtimestamp(self.started, UTC)

    @property
    def end_time(self) -> datetime | None:
        """When it entered its final state, in UTC; `None` while it has none."""
        state = self.state
        return state.timestamp if state is not None and state.is_done() else None

    @property
    def total_run_time(self) -> timedelta:
        """How long it has run, up to now or up to its end: retry delays are not in it, nor what is not known."""
        from datetime import timedelta

        return timedelta(seconds=max(self._seconds(), 0.0))

    def _seconds(self) -> float:
        raise NotImplementedError

    def _until(self) -> float:
        """When it ended, or now, in seconds since the epoch."""
        from time import time

        state = self.state
        return state.epoch if state is not None and state.is_done() else time()


class FlowRun(RunRecord):
    """A run of a flow, as hooks, logs and `shoal.runtime.flow_run` see it.

    Attributes:
        flow: the flow; on a worker, what is known of it there: its name.
        number: the run's integer id.
        name: for example `hilarious-collie`.
        parameters: the validated parameters by name.
        tags: the tags in force when it began.
        run_count: attempts so far, 1 in the first.
        parent: the flow run around it, if any.
        log_prints: whether prints beneath it are logged, where nothing else is said: as the flow says, or the one above,
            or the setting.
        keeping: what the flow and those above it say about keeping results; `None` for nothing.
        state: the latest state.
        started: when its first attempt began, in seconds since the epoch.
        ran: how long its attempts before this one took, in seconds.
        began: when this attempt began, in seconds since the epoch.
    """

    __slots__ = (
        "began",
        "flow",
        "keeping",
        "log_prints",
        "name",
        "number",
        "parameters",
        "parent",
        "ran",
        "run_count",
        "started",
        "state",
        "tags",
    )

    def __init__(
        self,
        flow: FlowSpec,
        number: int,
        name: str,
        parameters: dict[str, Any],
        tags: frozenset[str],
        parent: FlowRun | None,
    ) -> None:
        self.flow = flow
        self.number = number
        self.name = name
        self.parameters = parameters
        self.tags = tags
        self.parent = parent
        if flow.log_prints is not None:
            self.log_prints: bool = flow.log_prints
        else:
            self.log_prints = parent.log_prints if parent is not None else settings.log_prints()
        around = parent.keeping if parent is not None else None
        self.keeping: Keeping | None = around if flow.keeping is None else flow.keeping.over(around)
        self.run_count = 0
        self.state = None
        self.started = None
        self.began: float | None = None
        self.ran = 0.0

    def enter(self, state: State[Any]) -> None:
        """The run enters a state, which is nobody else's: it is told whose it is."""
        state.belong(None, self.number)
        if state.is_running():
            if self.began is None:
                self.began = state.epoch
                if self.started is None:
                    self.started = state.epoch
        elif self.began is not None:
            self.ran += state.epoch - self.began
            self.began = None
        self.state = state

    def _seconds(self) -> float:
        return self.ran + (self._until() - self.began if self.began is not None else 0.0)

    @property
    def id(self) -> str:
        """The run's UUID, made from its number."""
        from shoal.names import run_uuid

        return run_uuid(self.number)

    @property
    def flow_name(self) -> str:
        """The name of the flow."""
        return self.flow.name

    @property
    def root(self) -> FlowRun:
        """The outermost flow run around this one, itself if there is none."""
        run = self
        while run.parent is not None:
            run = run.parent
        return run

    @property
    def home(self) -> str | None:
        """Where its driver keeps results of who does not say; `None` in the driver itself."""
        return getattr(self.root.flow, "home", None)

    @property
    def label(self) -> FlowLabel:
        """What logs and states say of it."""
        return FlowLabel(self.number, self.name, self.flow.name)
