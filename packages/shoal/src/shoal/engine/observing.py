"""Who is told what runs: observers, and the registry of them.

Nothing is told unless somebody has asked: a flow run looks once at its begin and end, a runner once when it is entered. If
there is an observer then, the runner is made of another scheduler, which tells it (`scheduling.observed`); one that was
entered before goes on untold.

An observer's methods are called from any thread, some of them under `LOCK` and between one run and the next: they keep
what they are told and do the work elsewhere, never wait, and never raise.

May import `context`, `calls` and what lies above them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from shoal.context import LOCK

if TYPE_CHECKING:
    from shoal.calls import Call, Outcome
    from shoal.context import FlowRun
    from shoal.states import State

__all__ = ["CARRIERS", "Observer", "add_observer", "be_traced", "observers", "remove_observer"]


class Observer(Protocol):
    """Is told of flow runs, of runners that are entered, and of tasks that are called directly."""

    def flow_run_began(self, run: FlowRun) -> None:
        """A flow run has its parameters and its name, and is about to begin."""

    def flow_run_entered(self, run: FlowRun, runner: Any) -> None:
        """An attempt of a flow run has entered its runner."""

    def flow_run_ended(self, run: FlowRun, state: State[Any]) -> None:
        """A flow run has ended; one whose parameters did not fit has not begun."""

    def runner_entered(self, runner: Any) -> Any:
        """A runner is about to start.

        Returns:
            A `RunnerObserver`, which is told of its runs; `None` if nobody is to be.
        """

    def called(self, call: Call, outcome: Outcome, began: float, ended: float) -> None:
        """An attempt of a task that was called directly has ended; times in seconds since the epoch."""


#: What travels with the runs of a flow run to their workers, by its number: W3C headers of its span, where it is traced.
CARRIERS: dict[int, dict[str, str]] = {}

_observers: tuple[Observer, ...] = ()


def observers() -> tuple[Observer, ...]:
    """All observers of this process."""
    return _observers


def add_observer(observer: Observer) -> None:
    """From now on it is told."""
    global _observers
    with LOCK:
        _observers = (*_observers, observer)


def be_traced(carrier: dict[str, str]) -> None:
    """On a worker, in the context of a run: spans that the user opens are children of the run's. Nothing without OpenTelemetry.

    Args:
        carrier: see `CARRIERS`.
    """
    try:
        from shoal.engine.tracing import continue_trace
    except ImportError:  # it is installed where the flow runs, and not here
        return
    continue_trace(carrier)


def remove_observer(observer: Observer) -> None:
    """It is told of no further flow runs and runners; of runners that it was told of, until they are left."""
    global _observers
    with LOCK:
        _observers = tuple(known for known in _observers if known is not observer)
