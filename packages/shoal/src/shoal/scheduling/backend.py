"""What an execution system has to offer, and what it may tell.

A backend carries messages and owns the workers; it decides nothing about runs. Three kinds:

    pulling   (`Capabilities.pulls`: workers are threads of this process)  an idle worker is woken, takes what is
              ready from the scheduler itself, and hands the outcome back in the same step.
    slots     pushing: the scheduler makes batches and `launch`es them; the backend reports.
    ledger    (`Capabilities.ledger`)  pushing, too; and the ledger knows the workers, and what became of each batch.

May import `calls` and what lies above it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from shoal.futures.blocking import ALL

if TYPE_CHECKING:
    from collections.abc import Callable
    from logging import LogRecord

    from shoal.calls import Batch, Report
    from shoal.futures import TaskFuture
    from shoal.futures.blocking import Wanted
    from shoal.futures.side_threads import RunAround
    from shoal.scheduling.blocked_run import BlockedRun
    from shoal.scheduling.capabilities import Capabilities
    from shoal.specs import TaskSpec

__all__ = [
    "Backend",
    "BackendEvents",
    "LaunchingBackend",
    "LedgerBackend",
    "PullingBackend",
    "SlotsBackend",
]


class BackendEvents(Protocol):
    """What a backend tells; each may be called from any thread and never blocks for long."""

    def slots(self, numbers: list[int], *, awaited: bool = False) -> None:
        """These slots (worker places) exist now.

        Args:
            numbers: of the slots.
            awaited: whether no worker has come yet; one batch then tells the system that some are wanted.
        """

    def started(self, batch: int, position: int) -> None:
        """The run at this position of a batch has begun."""

    def returned(self, batch: int, position: int) -> None:
        """The function of the run at this position has ended, and with it the time that counts; its value follows."""

    def reported(self, report: Report) -> None:
        """Runs of a batch have ended."""

    def handed_back(self, batch: int, positions: list[int], seconds: float = 0.0) -> None:
        """These runs of a batch were not started and will not be; one before them has run for so long."""

    def split(self, batch: int) -> None:
        """A batch could not be unpacked on the worker; its runs are sent again, each alone."""

    def lost(
        self,
        batch: int,
        error: Callable[[str], BaseException],
        maybe_started: list[int] | None = None,
    ) -> None:
        """A batch will not report any more.

        Args:
            batch: the batch.
            error: gives, for a run's name, what it ends with if it may have started.
            maybe_started: their positions; `None` for all that have not been reported.
        """

    def logged(self, record: LogRecord) -> None:
        """A run on a worker has logged something."""

    def broken(self, error: Callable[[str], BaseException]) -> None:
        """No worker can be started: all that is open, and all that comes, ends with this."""

    def failed(self, error: BaseException) -> None:
        """Something of the runner's own went wrong, and runs depend on it: they are CRASHED with that. Never raises.

        The last resort of whatever runs in a service thread, as a callback or on a loop.
        """

    def waiting(
        self,
        batch: int,
        position: int | None,
        wanted: list[Any],
        *,
        blocks: bool,
        until: int = ALL,
        lends: bool = False,
        beside: bool = False,
        tag: Any,
    ) -> BlockedRun | None:
        """A run on a worker is about to wait; see `WorkerWaits.run_waits`."""

    def resumed(self, blocked_run: BlockedRun) -> None:
        """It goes on."""


class Backend(Protocol):
    """What all kinds of backends have. One that names its kind as a base has the methods that few have an answer to."""

    capabilities: Capabilities
    #: Whether `capture` may give something: asked at every submit only then.
    captures: bool = False

    def start(self, events: Any) -> None:
        """Starts what must run before the first run; the rest may start on use.

        Args:
            events: a `BackendEvents`; for a pulling backend the dispatcher, whose scheduler its workers ask.
        """

    def stop(self, grace: float) -> None:
        """Joins, or stops within about `grace` seconds, all that was started."""

    def capture(self, task: TaskSpec) -> Any:
        """The system's ambient options for a run of a task, in the submitter's thread, or `None`.

        Raises:
            InvalidOption: they, or the task's `resources`, ask for what the system does not know.
        """
        return None

    def native(self, run: TaskFuture[Any]) -> Any:
        """The system's own future of a run, or `None`."""
        return None


class LaunchingBackend(Backend, Protocol):
    """An execution system that is given batches."""

    def launch(self, batch: Batch) -> None:
        """Sends a batch. Never blocks."""

    def slot_gone(self, slot: int) -> None:
        """A spare slot is not needed any more."""

    def refuse(self, blocked_run: BlockedRun, error: Exception) -> None:
        """A blocked run would wait for itself: its wait ends with this error."""


class SlotsBackend(LaunchingBackend, Protocol):
    """One of whose workers nothing is known: a batch is sent to its `slot`, and reported."""

    def interrupt(self, run: TaskFuture[Any]) -> None:
        """Stops a run that may be executing; does nothing if it is not. With the lock held."""

    def recall(self, batch: Batch) -> None:
        """Asks for what the worker has not begun of a batch (`Capabilities.recalls`)."""

    def has_begun(self, run: TaskFuture[Any]) -> bool:
        """Whether a run that was sent has begun, as far as can be known at once."""

    def force(self, run: TaskFuture[Any]) -> None:
        """Stops an interrupted run that still executes by force (`Capabilities.stops_hard`)."""


class LedgerBackend(LaunchingBackend, Protocol):
    """One whose workers come, are known, and go: a batch is sent to the worker at its `slot`, or, where the system has a
    queue of its own in front of all workers (`Capabilities.queues`), made a job of it or given to the worker where
    `batch.blocked_run` waits for it.

    What it has to say goes to `LedgerDispatcher.ledger`, whose ledger decides what becomes of batches. It carries out.
    Workers (`WorkerState`) and entries (`InFlight`) are those that it has told of: it may say of which classes it makes them.
    """

    def tell(self, worker: Any, what: str, about: Any) -> None:
        """Sends a worker word: "recall" a batch's number, "secede" a wait's, "place" the one of a wait that goes on."""

    def interrupt(self, worker: Any, entry: Any, run: TaskFuture[Any]) -> None:
        """Has a worker stop a run, or not begin it."""

    def closed(self, entry: Any) -> None:
        """A batch has said all."""
        return

    def withdraw(self, entry: Any) -> None:
        """Asks the system for a job that nobody has begun: `withdrawn` follows, or its worker says that it has begun."""
        return

    def kill(self, worker: Any, job: Any, run: TaskFuture[Any]) -> None:
        """Stops by force what executes a run: the worker goes, or `kill_refused` follows."""

    def give_up(self, entry: Any, run: TaskFuture[Any]) -> None:
        """A run does not stop, and its worker is not killed for it: what executes it is given up."""
        return

    def read_outcomes(self, worker: Any) -> None:
        """Has what a worker that has gone had written down read: `outcomes_read` follows, perhaps after a while."""

    def passed_on(self, entry: Any, report: Report) -> None:
        """A report that waited for the end of its job, or was written down, is known now; workers may be interested."""

    def deadly(self, key: int, error: BaseException) -> None:
        """Workers die of the function of a task: it is not to be sent any more, its runs end with this error."""

    def is_listening(self) -> bool:
        """Whether this thread is the one that hears the system: it must not wait for what that says."""


class PullingBackend(Backend, Protocol):
    """Workers of this process, which take runs from the scheduler."""

    def running(self) -> list[TaskFuture[Any]]:
        """Runs that execute, which the scheduler sees in no batch. With the lock held."""

    def wake(self, worker: Any) -> None:
        """There is something to take for this idle worker."""

    def interrupt(self, run: TaskFuture[Any]) -> None:
        """Stops a run that may be executing; does nothing if it is not. With the lock held."""

    def crowded(self) -> None:
        """A run is ready and no worker is idle."""
        return

    def wake_loop(self) -> None:
        """There are async runs to take."""

    def lend(self, *, sparingly: bool) -> bool:
        """A worker waits and does nothing else: another may work in its place; see `workers.Pool`."""
        return False

    def lend_back(self) -> None:
        """It has waited."""

    def run_around(self, number: int, *, certain: bool) -> RunAround | None:
        """See `Answers`."""
        return None

    def help_out(self, wanted: Wanted) -> None:
        """Everybody may wait for slots whose holders wait for these: somebody is to run them, or what they need."""
        return

    def give_up(self, run: TaskFuture[Any]) -> None:
        """An interrupted run has had its grace: what still executes it is given up."""
        return
