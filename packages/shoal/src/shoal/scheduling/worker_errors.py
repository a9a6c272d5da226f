"""What runs end with whose worker has gone: which worker that was, how it went, and what the run had to do with it. Pure.

May import `in_flight` and what lies above it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoal.exceptions import WorkerDied
from shoal.scheduling.in_flight import Departure

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shoal.scheduling.capabilities import LedgerRules
    from shoal.scheduling.in_flight import ErrorOf, InFlight, WorkerState

__all__ = ["WorkerErrors"]


class WorkerErrors:
    """Makes the errors of one entered runner.

    Args:
        rules: what is special about the system.
    """

    def __init__(self, rules: LedgerRules) -> None:
        self._system = rules.name
        self._nowhere = rules.host or f"(a {rules.name} worker)"

    def of_unknown(self, why: Departure | None = None) -> ErrorOf:
        """How runs end of whose worker no more is known."""
        known = why if why is not None else Departure()

        def error(run_name: str) -> BaseException:
            return WorkerDied(
                run_name=run_name,
                host=self._nowhere,
                message=known.message,
                cause=known.cause,
            )

        return error

    def at(self, worker: WorkerState, there: Iterable[InFlight], *, unknown: bool) -> ErrorOf:
        """How runs end that were at a worker that has gone.

        Args:
            worker: the worker.
            there: what it had.
            unknown: whether nothing tells what had begun there.
        """
        waited = {h.run.name for h in worker.waits.values() if h.run is not None}
        departure = worker.departure if worker.departure is not None else Departure()
        said = next((e.why for e in there if e.why.cause is not None), departure)

        def error(run_name: str) -> BaseException:
            message = departure.message or said.message
            if worker.stopped_for is not None and run_name != worker.stopped_for:
                does = "waited" if run_name in waited else "ran"
                message = (
                    f"it {does} on a worker that was killed to stop task run {worker.stopped_for!r}"
                )
            elif run_name in waited:
                message = "it waited on a worker that died while it ran something else"
            elif message is None and unknown:
                message = (
                    f"its {self._system} worker died; the run may have run, as nothing tells what "
                    "had begun there"
                )
            return WorkerDied(
                run_name=run_name,
                host=worker.host or self._nowhere,
                pid=worker.pid,
                exit_code=departure.exit_code,
                signal=departure.signal,
                message=message,
                cause=said.cause,
            )

        return error

    def unpickling(self, worker: WorkerState, part: str) -> ErrorOf:
        """How runs end whose worker died while it unpickled a part of them."""
        host, pid = worker.host or "(a worker)", worker.pid
        departure = worker.departure if worker.departure is not None else Departure()

        def error(run_name: str) -> BaseException:
            return WorkerDied(
                run_name=run_name,
                host=host,
                pid=pid,
                exit_code=departure.exit_code,
                signal=departure.signal,
                message=f"its worker on {host} (pid {pid}) died while it unpickled its {part}",
            )

        return error
