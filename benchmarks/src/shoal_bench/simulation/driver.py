"""The driver: the real scheduler and ledger as one server, which does one thing after another.

    cluster ──word, after its latency──▶ step: scheduler, ledger ─▶ effects ──batch, word──▶ cluster
                                         └──── measured ───────┘   └─ a cost each ─┘

What comes while it is busy waits, in the order in which it came. What a step sends leaves while the step goes on, one
message after the other, as the dispatcher carries out one effect after the other.

Of the dispatcher itself only the loop over the effects is played here: it knows the time of day and threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextvars import copy_context
from typing import Any, Protocol

from shoal.calls import CRASHED, Report
from shoal.context import Scope
from shoal.futures.maps import MapRecord
from shoal.names import reserve
from shoal.scheduling import effects
from shoal.scheduling.in_flight import Departure, InFlight, Outcomes, WorkerState
from shoal.scheduling.ledger import Ledger

from shoal_bench.simulation.clock import VirtualTime
from shoal_bench.simulation.costs import RULES, DriverCosts, dispatcher_of_nothing, played

__all__ = ["Driver", "System"]


class System(Protocol):
    """The cluster, as the driver speaks to it; each is called when the message is there."""

    def submit(self, entry: InFlight, /) -> None:
        """Takes a batch as a job."""

    def recall(self, worker: WorkerState, number: int, /) -> None:
        """Asks a worker for what it has not begun of a batch."""

    def read_outcomes(self, worker: WorkerState, /) -> None:
        """Has what a worker that has gone had written down read."""


class Driver:
    """See the module.

    Args:
        time: virtual time.
        costs: what its time is made of.
        system: the cluster.
        latency: seconds that its messages take.

    Attributes:
        record: the runs of the map that it was given.
        busy: seconds that it has worked.
        decided: of these, what scheduler and ledger took; the rest went into messages.
        messages: how many it has sent and heard.
        crashed: runs that ended with their worker.
        ended: when it learned of the last end; 0 while it has not.
    """

    record: MapRecord[None]

    def __init__(
        self, time: VirtualTime, costs: DriverCosts, system: System, latency: float
    ) -> None:
        self._time = time
        self._costs = costs
        self._clock = costs.clock
        self._system = system
        self._latency = latency
        self._dispatcher = dispatcher_of_nothing()
        self._scheduler = self._dispatcher.scheduler
        self._scheduler.tells_ends = False  # the log is at WARNING, as in the other benchmarks
        self._ledger = Ledger(self._scheduler, RULES)
        self._effects = self._scheduler.effects
        self._patience = self._scheduler.policy.patience
        self._is_looking = False
        self._free_at = 0.0
        self._leaving: list[tuple[float, Callable[..., None], tuple[Any, ...]]] = []
        self._later: list[tuple[float, Callable[..., None], tuple[Any, ...]]] = []
        self.busy = 0.0
        self.decided = 0.0
        self.messages = 0
        self.crashed = 0
        self.ended = 0.0

    # ------------------------------------------------------------------ what happens to it

    def begin(self, workers: Iterable[WorkerState], slots: int, *, awaited: bool) -> None:
        """These workers are there before anything is measured.

        Args:
            workers: the workers.
            slots: how many runs they take at once.
            awaited: whether none of them has come yet.
        """
        for worker in workers:
            self._ledger.joined(worker)
        self._scheduler.slots_changed(range(slots), awaited=awaited)

    def map(self, tasks: int, crash_retries: int) -> None:
        """The user's program maps a task over so many items."""
        task = played.with_options(crash_retries=crash_retries)
        self.record = MapRecord(
            self._dispatcher,
            task,
            reserve(tasks),
            tasks,
            [(list(range(tasks)), None)],
            None,
            copy_context(),
            Scope(self._dispatcher, None),
        )
        self._step(0.0, self._scheduler.submit_map, self.record)

    def arrived(self, worker: WorkerState, number: int) -> None:
        """A worker says that it has a batch."""
        self.messages += 1
        self._step(self._costs.word, self._ledger.arrived, worker, number)

    def reported(self, report: Report) -> None:
        """A worker says how runs ended."""
        self.messages += 1
        cost = self._costs.report.of(len(report.positions))
        self._step(cost, self._ledger.reported, report)

    def handed_back(self, number: int, positions: list[int]) -> None:
        """A worker gives back what it has not begun of a batch."""
        self.messages += 1
        self._step(self._costs.word, self._scheduler.batch_handed_back, number, positions)

    def joined(self, worker: WorkerState, slots: int) -> None:
        """A worker has come; there are so many slots now."""
        self.messages += 1
        self._step(self._costs.word, self._join, worker, slots)

    def left(self, worker: WorkerState, slots: int) -> None:
        """A worker has died; there are so many slots now."""
        self.messages += 1
        self._step(self._costs.word, self._leave, worker, slots)

    def outcomes_read(self, worker: WorkerState, outcomes: dict[int, Outcomes]) -> None:
        """What a worker that has died had written down is known."""
        self.messages += 1
        now = self._time.now
        self._step(self._costs.word, self._ledger.outcomes_read, worker, outcomes, now)

    # ------------------------------------------------------------------ what it decides

    def _join(self, worker: WorkerState, slots: int) -> None:
        self._ledger.joined(worker)
        self._scheduler.slots_changed(range(slots))

    def _leave(self, worker: WorkerState, slots: int) -> None:
        self._ledger.worker_left(worker, Departure(signal=9))
        self._scheduler.slots_changed(range(max(slots, 1)), awaited=not slots)

    def _recall(self) -> None:
        self._is_looking = False
        self._scheduler.recall()

    def _step(self, cost: float, action: Callable[..., Any], *arguments: Any) -> None:
        """Does one thing, and what follows from it. Hot.

        Args:
            cost: seconds that it took to hear of it.
            action: what scheduler or ledger make of it.
            arguments: of the action.
        """
        clock = self._clock
        started = clock()
        action(*arguments)
        sent = self._carry_out() if self._effects else 0.0
        decided = clock() - started

        at = max(self._time.now, self._free_at) + cost
        self._free_at = at + decided + sent
        self.busy += cost + decided + sent
        self.decided += decided
        if self._leaving:
            each = decided / len(self._leaving)
            for own_cost, word, about in self._leaving:
                at += each + own_cost
                self._time.at(at + self._latency, word, *about)
            self._leaving.clear()
        if self._later:
            for seconds, look, about in self._later:
                self._time.at(self._free_at + seconds, self._step, 0.0, look, *about)
            self._later.clear()
        if self.record.ended:
            self.ended = self._free_at
            self._time.stopped = True

    # ------------------------------------------------------------------ what follows

    def _carry_out(self) -> float:
        """Carries out effects, as the dispatcher does; gives the cost of the messages. Hot."""
        cost = 0.0
        while self._effects:
            effect = self._effects.popleft()
            kind = effect[0]
            if kind == effects.LAUNCH:
                entry = InFlight(effect[1], is_job=True)
                self._ledger.sent(entry)
                own = self._costs.batch.of(len(entry.batch)) + self._costs.job
                cost += self._send(own, self._system.submit, entry)
            elif kind == effects.FILL:
                self._scheduler.fill()
            elif kind == effects.CLOSED:
                pass  # of no interest to a cluster's backend
            else:
                cost += self._carry_out_rare(effect)
        return cost

    def _carry_out_rare(self, effect: tuple[Any, ...]) -> float:
        kind = effect[0]
        if kind == effects.RECALL:
            self._ledger.recall(effect[1])
        elif kind == effects.TELL and effect[2] == "recall":
            return self._send(self._costs.word, self._system.recall, effect[1], effect[3])
        elif kind == effects.READ:
            return self._send(self._costs.word, self._system.read_outcomes, effect[1])
        elif kind == effects.IDLE:
            if not self._is_looking:
                self._is_looking = True
                self._later.append((self._patience, self._recall, ()))
        elif kind == effects.UNKNOWN:
            self._later.append((self._patience, self._scheduler.is_slow, (effect[1],)))
        elif kind == effects.SETTLED:
            self.crashed += effect[1]._phase == CRASHED
        elif kind not in (effects.RECORD, effects.PASSED_ON):  # nobody waits but us
            raise ValueError(f"effect {effect} has no part in a simulation")
        return 0.0

    def _send(self, cost: float, word: Callable[..., None], *about: Any) -> float:
        self.messages += 1
        self._leaving.append((cost, word, about))
        return cost
