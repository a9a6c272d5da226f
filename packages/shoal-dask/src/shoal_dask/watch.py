"""Watches the connection to Dask's scheduler while runs are open, and whether there are workers at all.

May import the core's services.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from shoal.exceptions import InvalidOption
from shoal.logs import library_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal_dask.backend import DaskBackend

__all__ = ["Watch"]

#: Seconds between two looks.
EVERY = 1.0
#: Seconds without an answer, or without workers, after which that is warned of.
WARN_AFTER = 10.0
#: Seconds that a lost connection is given to come back.
LOST_AFTER = 3.0
#: Seconds without workers after which a cluster that is known to start no more is given up.
STUCK_AFTER = 5.0
#: Seconds without workers after which a temporary cluster of this machine is given up, where nobody said how many.
LOCAL_TIMEOUT = 60.0


def _frozen_after() -> float:
    """Seconds without an answer after which every open run is CRASHED: `SHOAL_DASK_FROZEN_SECONDS`, 60."""
    text = os.environ.get("SHOAL_DASK_FROZEN_SECONDS", "60")
    try:
        return float(text)
    except ValueError:
        raise InvalidOption(
            where="the environment",
            option="SHOAL_DASK_FROZEN_SECONDS",
            value=text,
            problem="a number of seconds is needed",
        ) from None


class Watch:
    """See the module.

    Args:
        backend: of the runner.
        worker_timeout: seconds without any worker after which open runs end; `None` for never, `"auto"` to decide by
            the cluster.
    """

    def __init__(self, backend: DaskBackend, worker_timeout: float | str | None) -> None:
        self._backend = backend
        self._worker_timeout = worker_timeout
        self._frozen_after = _frozen_after()
        self._stopped = False
        self._asked: float | None = None
        self._warned = False
        self._warned_of_workers = False
        self._lost_since: float | None = None
        self._lonely_since: float | None = None
        self._stuck_since: float | None = None

    def start(self) -> None:
        """Begins to look."""
        self._backend.events.after(EVERY, self._look)

    def stop(self) -> None:
        """Looks no more."""
        self._stopped = True

    def answered(self, known: bool) -> None:
        """The scheduler has answered; it should know the session."""
        self._asked = None
        if not known and not self._stopped:
            self._give_up(
                "the connection to Dask's scheduler was lost, and what it knew of these runs"
            )
        elif self._warned:
            self._warned = False
            library_logger().warning("Dask's scheduler answers again")

    def _look(self) -> None:
        if self._stopped:
            return
        try:
            self._look_at_connection(time.monotonic())
        finally:
            self._backend.events.after(EVERY, self._look)

    def _look_at_connection(self, now: float) -> None:
        backend = self._backend
        is_open = backend.ledger.is_waited_for()
        status = backend.client.status
        if status != "running":
            self._lost_since = self._lost_since or now
            if now - self._lost_since >= LOST_AFTER or status == "closed":
                self._give_up(
                    f"the connection to Dask's scheduler was lost (the client is {status})"
                )
            return
        self._lost_since = None
        asked = self._asked = self._asked or now
        backend.send("ping")
        silent = now - asked
        if silent >= self._frozen_after:
            self._give_up(f"Dask's scheduler has not answered for {silent:.0f} s")
        elif silent >= WARN_AFTER and not self._warned:
            self._warned = True
            library_logger().warning("Dask's scheduler has not answered for %.0f s", silent)
        if not is_open:
            self._lonely_since = self._stuck_since = None
            return
        self._look_for_workers(now)
        waiting = [sent for sent in backend.ledger.all_in_flight() if sent.demands]
        for sent in waiting:
            backend.warn_of_demands(sent)

    def _look_for_workers(self, now: float) -> None:
        if self._backend.ledger.workers():
            self._lonely_since = self._stuck_since = None
            self._warned_of_workers = False
            return
        self._lonely_since = self._lonely_since or now
        lonely = now - self._lonely_since
        connection = self._backend.connection
        if not connection.starts_no_workers():
            self._stuck_since = None
        elif self._stuck_since is None:
            self._stuck_since = now
        elif now - self._stuck_since >= STUCK_AFTER:
            self._no_workers("it has no worker, and starts none any more")
            return
        limit = self._worker_timeout
        if limit == "auto":
            limit = LOCAL_TIMEOUT if connection.is_local else None
        if isinstance(limit, (int, float)) and lonely >= limit:
            self._no_workers(f"it has had no worker for {lonely:.0f} s (worker_timeout)")
        elif lonely >= WARN_AFTER and not self._warned_of_workers:
            self._warned_of_workers = True
            library_logger().warning(
                "The Dask cluster has had no worker for %.0f s; %d batches wait for one",
                lonely,
                len(self._backend.ledger.all_in_flight()),
            )

    def _no_workers(self, problem: str) -> None:
        connection = self._backend.connection
        self._give_up(problem, lambda name: connection.failure(problem))

    def _give_up(self, text: str, error: Callable[[str], BaseException] | None = None) -> None:
        self._stopped = True
        backend = self._backend
        backend.events.close_for(text)
        backend.events.broken(error or (lambda name: backend.died(name, text)))
