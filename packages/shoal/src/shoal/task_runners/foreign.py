"""Runners that keep the `TaskRunner` protocol and nothing more, made fit for flows.

May import `base`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from shoal.annotations import unmapped
from shoal.context import Scope, scope_of

if TYPE_CHECKING:
    from types import TracebackType

    from shoal.futures import TaskFuture, TaskFutureList
    from shoal.task_runners.base import TaskRunner
    from shoal.tasks import Task

__all__ = ["ForeignRunner"]


class ForeignRunner:
    """Stands between a flow and such a runner; to `Task.submit` and `Task.map` it is a dispatcher."""

    in_place = False
    capped = False

    def __init__(self, runner: TaskRunner) -> None:
        self.runner = runner

    def start_late(self) -> None:
        """It starts as it likes."""

    def __enter__(self) -> Self:
        self.runner.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.runner.__exit__(kind, error, trace)

    def scope(self, flow_run: Any = None) -> Scope:
        """See `BaseTaskRunner`."""
        return scope_of(self, flow_run)

    def end(self) -> None:
        """Nothing can be awaited for all runs: leaving the runner waits for them."""

    def submit(
        self,
        task: Task[Any, Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        wait_for: Any,
        scope: Scope,
    ) -> TaskFuture[Any]:
        """Hands a run on."""
        return self.runner.submit(task, task.given(args, kwargs), wait_for)

    def submit_map(
        self,
        task: Task[Any, Any],
        positional: list[tuple[list[Any] | None, Any]],
        keywords: dict[str, tuple[list[Any] | None, Any]],
        size: int,
        wait_for: Any,
        scope: Scope,
    ) -> TaskFutureList[Any]:
        """Hands a map on."""
        args = tuple(unmapped(value) if column is None else column for column, value in positional)
        kwargs = {
            name: unmapped(value) if column is None else column
            for name, (column, value) in keywords.items()
        }
        return self.runner.map(task, task.given(args, kwargs), wait_for)
