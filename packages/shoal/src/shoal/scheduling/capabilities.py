"""`Capabilities`: what a backend can do, as flags; where systems truly differ.

May import `batching`.
"""

from __future__ import annotations

from typing import NamedTuple

from shoal.scheduling.batching import BatchPolicy

__all__ = ["Capabilities", "LedgerRules"]


class LedgerRules(NamedTuple):
    """What is special about an execution system.

    Attributes:
        name: what it is called in messages, say "Dask".
        host: the machine of its workers, if that is known before they say so.
        words_within: seconds that what a worker and what the system say of the same end may be apart.
        leaves_within: seconds that a worker that leaves in order may go on with what it runs.
        shares: whether a worker executes several jobs at once, so that killing it for one run may harm others.
        spares_coroutines: whether a worker is not killed for one of several coroutines that its loop is at.
    """

    name: str
    host: str | None = None
    words_within: float = 0.0
    leaves_within: float = 0.0
    shares: bool = False
    spares_coroutines: bool = True


class Capabilities:
    """What a backend can do. The suite in `shoal.testing` excuses the paragraphs that a missing flag names.

    Attributes:
        pulls: workers live in this process and take runs themselves.
        isolated: arguments and results cross a process border, so they are pickled.
        concurrent: several runs at once.
        stops: a running run can be interrupted.
        stops_hard: also one that is inside C code.
        sends_logs: log records made on a worker reach the driver.
        shares_context: the submitter's context variables are visible in the run.
        tells_starts: the driver learns when each run begins; else a batch counts as begun with its first run.
        recalls: runs of a batch can be taken back from a worker that has not started them.
        resources: knows what a task's `resources=` asks for.
        keeps_values: a large value that one run hands to another does not pass through the driver.
        survives: the death of a worker ends only what it was executing.
        nests: runs submitted inside a run go to the same workers.
        fuses: a run may travel in one batch with what it waits for.
        loops: each worker has a loop that runs coroutines beside its other work.
        queues: the system has a queue of its own, in front of all workers: a slot is any worker's.
        ledger: workers come, are known, and go (`LedgerBackend`), and what is special about the system.
        sorts: not every run may share a batch with every other: see `BatchMaker.company_of`.
        policy: how batches are made.
    """

    __slots__ = (
        "concurrent",
        "fuses",
        "isolated",
        "keeps_values",
        "ledger",
        "loops",
        "nests",
        "policy",
        "pulls",
        "queues",
        "recalls",
        "resources",
        "sends_logs",
        "shares_context",
        "sorts",
        "stops",
        "stops_hard",
        "survives",
        "tells_starts",
    )

    def __init__(
        self,
        *,
        pulls: bool = False,
        isolated: bool = False,
        concurrent: bool = True,
        stops: bool = True,
        stops_hard: bool = False,
        sends_logs: bool = True,
        shares_context: bool = False,
        tells_starts: bool = True,
        recalls: bool = True,
        resources: bool = False,
        keeps_values: bool = True,
        survives: bool = True,
        nests: bool = True,
        fuses: bool = False,
        loops: bool = False,
        queues: bool = False,
        ledger: LedgerRules | None = None,
        sorts: bool = False,
        policy: BatchPolicy | None = None,
    ) -> None:
        self.pulls = pulls
        self.isolated = isolated
        self.concurrent = concurrent
        self.stops = stops
        self.stops_hard = stops_hard
        self.sends_logs = sends_logs
        self.shares_context = shares_context
        self.tells_starts = tells_starts
        self.recalls = recalls
        self.resources = resources
        self.keeps_values = keeps_values
        self.survives = survives
        self.nests = nests
        self.fuses = fuses
        self.loops = loops
        self.queues = queues
        self.ledger = ledger
        self.sorts = sorts
        self.policy = policy if policy is not None else BatchPolicy()
