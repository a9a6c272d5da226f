"""What the current run is: `shoal.runtime.task_run` and `shoal.runtime.flow_run`.

Attributes read the context at the moment of access; outside a run they are empty values, so that code may be used
with and without a run around it. May import `context` and `names`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.context import CALL, SCOPE, TAGS, FlowRun
from shoal.names import run_uuid

__all__ = ["flow_run", "task_run"]


def _flow_run() -> FlowRun | None:
    scope = SCOPE.get()
    return scope.flow_run if scope is not None else None


class _TaskRunView:
    """The task run around the caller."""

    __slots__ = ()

    @property
    def id(self) -> str | None:
        """The run's UUID."""
        call = CALL.get()
        return run_uuid(call.number) if call is not None else None

    @property
    def name(self) -> str | None:
        """The run's name, for example `inc-3f2`."""

        call = CALL.get()
        return call.run_name() if call is not None else None

    @property
    def task_name(self) -> str | None:
        """The task's name."""
        call = CALL.get()
        return call.task.name if call is not None else None

    @property
    def tags(self) -> list[str]:
        """The task's own tags and those in force where the run was submitted, sorted."""
        call = CALL.get()
        return sorted(call.task.tags | TAGS.get()) if call is not None else []

    @property
    def parameters(self) -> dict[str, Any]:
        """The run's parameters by name, upstream results filled in."""
        call = CALL.get()
        return call.task.parameters(call.args, call.kwargs) if call is not None else {}

    @property
    def run_count(self) -> int:
        """Which attempt this is, 1 for the first; 0 outside a run."""
        call = CALL.get()
        return call.attempt if call is not None else 0

    def __repr__(self) -> str:
        return f"<task_run {self.name!r}>"


class _FlowRunView:
    """The flow run around the caller."""

    __slots__ = ()

    @property
    def id(self) -> str | None:
        """The run's UUID."""
        run = _flow_run()
        return run.id if run is not None else None

    @property
    def name(self) -> str | None:
        """The run's name, for example `hilarious-collie`."""
        run = _flow_run()
        return run.name if run is not None else None

    @property
    def flow_name(self) -> str | None:
        """The flow's name."""
        run = _flow_run()
        return run.flow.name if run is not None else None

    @property
    def tags(self) -> list[str]:
        """The tags in force when the flow run began, sorted."""
        run = _flow_run()
        return sorted(run.tags) if run is not None else []

    @property
    def parameters(self) -> dict[str, Any]:
        """The validated parameters by name."""
        run = _flow_run()
        return dict(run.parameters) if run is not None else {}

    @property
    def run_count(self) -> int:
        """Which attempt this is, 1 for the first; 0 outside a run."""
        run = _flow_run()
        return run.run_count if run is not None else 0

    @property
    def parent_flow_run_id(self) -> str | None:
        """The UUID of the flow run that called this one."""
        run = _flow_run()
        return run.parent.id if run is not None and run.parent is not None else None

    @property
    def root_flow_run_id(self) -> str | None:
        """The UUID of the outermost flow run."""
        run = _flow_run()
        return run.root.id if run is not None else None

    def __repr__(self) -> str:
        return f"<flow_run {self.name!r}>"


task_run = _TaskRunView()
flow_run = _FlowRunView()


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        from shoal.elsewhere import missing

        raise missing(__name__, name)
