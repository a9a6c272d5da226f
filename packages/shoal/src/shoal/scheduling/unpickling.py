"""Workers that die while they unpickle a batch: once may be chance, and then it is the doing of what is in it. Pure.

    the worker's file tells what it was at    arguments   the runs are sent alone; one that was alone is to blame
                                              a function  the same; a deadly one ends all runs of its task
    nothing tells, as our code had not begun  a large value that the system unpickles first: the same, by value

May import `in_flight`, `worker_errors` and what lies above them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoal.exceptions import WorkerDied
from shoal.scheduling import effects
from shoal.scheduling.in_flight import Departure

if TYPE_CHECKING:
    from shoal.scheduling.in_flight import Books, ErrorOf, InFlight, WorkerState
    from shoal.scheduling.pushing import PushingScheduler
    from shoal.scheduling.worker_errors import WorkerErrors

__all__ = ["DEADLY", "Unpickling"]

#: Workers that may die, one after the other, while they unpickle the function of one task, before that counts as deadly;
#: once a worker has unpickled it, the count begins anew.
DEADLY = 3


class Unpickling:
    """Says what becomes of batches that workers died of.

    Args:
        scheduler: whose runs these are.
        books: where they are.
        errors: what they end with.

    Attributes:
        deaths: by the key of a task, workers that died while they unpickled its function, since one did not.
    """

    def __init__(self, scheduler: PushingScheduler, books: Books, errors: WorkerErrors) -> None:
        self._effects = scheduler.effects
        self._books = books
        self._errors = errors
        self.deaths: dict[int, int] = {}

    def died(self, entry: InFlight, what: int, worker: WorkerState, now: float) -> None:
        """A worker died while it unpickled a batch: that may be chance once, and is the batch's doing then.

        Its runs are sent alone; one that was sent alone is to blame. A function that is deadly again and again ends all runs
        of its task.

        Args:
            entry: the batch.
            what: see `Outcomes.unpacking`.
            worker: the worker.
            now: seconds since the epoch.
        """
        part = "function" if what > 0 else "arguments"
        error = self._errors.unpickling(worker, part)
        if what > 0 and self._is_deadly(what - 1):
            task = entry.tasks[what - 1]
            told = f"{DEADLY} workers died while they unpickled the function of task {task.name!r}"
            end = WorkerDied(host=worker.host or "(a worker)", pid=worker.pid, message=told)
            self._effects.append((effects.DEADLY, what - 1, end))
            self._lose_task(what - 1, error, now)
            self._books.lose(entry, entry.positions_of_task(what - 1), now, error)
        elif entry.was_alone():
            self._books.lose(entry, [0], now, error)
        elif self._books.is_open(entry):
            self._books.split(entry)

    def _is_deadly(self, key: int) -> bool:
        deaths = self.deaths[key] = self.deaths.get(key, 0) + 1
        return deaths >= DEADLY

    def succeeded(self, entry: InFlight) -> None:
        """The tasks of a batch were unpickled by a worker: deaths before were chance."""
        for key in entry.tasks:
            self.deaths.pop(key, None)

    def _lose_task(self, key: int, error: ErrorOf, now: float) -> None:
        """What was sent of a deadly task and has not begun is asked back, and ends."""
        for entry in list(self._books.batches.values()):
            if key in entry.tasks and entry.worker is None:
                self._books.withdraw(entry)
                self._books.lose(entry, entry.positions_of_task(key), now, error)

    def died_in_silence(self, entry: InFlight, now: float) -> None:
        """A worker died before our code began there: perhaps one of the large values was its end."""
        for value in entry.suspects:
            value.deaths += 1
        worst = max(entry.suspects, key=lambda value: value.deaths)
        if worst.deaths >= DEADLY:
            text = (
                f"{worst.deaths} workers died when a large argument was about to be unpickled there"
            )
            why = Departure(message=text)
            for other in [
                e for e in self._books.batches.values() if worst in e.suspects and not e.worker
            ]:
                self._books.withdraw(other)
                self._books.lose(other, None, now, self._errors.of_unknown(why))
        elif len(entry.batch) > 1:
            self._books.split(entry)
        else:
            self._books.again(entry, now, most=1)
