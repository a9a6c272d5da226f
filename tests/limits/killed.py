"""Drivers that are killed while they hold slots: a slow test kills some, this as many as one likes::

    python -m tests.limits.killed --drivers 100
    python -m tests.limits.killed --drivers 100 --postgres

There are half as many slots as drivers, so half of them have slots that others were killed with. `--postgres` starts a server.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

from shoal.limits.opening import open_store
from shoal.limits.store import Acquired

from tests.limits.server import programs, server
from tests.limits.tools import ask, eventually, next_line, scripts, slots

__all__ = ["Killed", "kill_holders"]

#: Seconds in which all drivers have had a slot, however busy the machine is.
ENDS = 300.0

HOLDS = """
    import threading
    from shoal import flow, task
    from shoal.concurrency import concurrency

    @task
    def holds():
        with concurrency("many"):
            print("held", flush=True)
            threading.Event().wait(300)

    @flow
    def main():
        holds()

    main()
"""


class Killed(NamedTuple):
    """What came of drivers that were killed.

    Attributes:
        drivers: how many, each of which held a slot.
        limit: how many slots there are.
        known: how many of them the store knew as holders when they were killed.
        most: slots that were taken at once, as far as it was looked.
        late: seconds from the last kill until all slots were free.
        free: slots that could be taken then.
    """

    drivers: int
    limit: int
    known: int
    most: int
    late: float
    free: int

    def is_right(self) -> bool:
        """Whether no slot was lost, and none was there twice."""
        return self.known == self.drivers and self.most <= self.limit == self.free


def kill_holders(drivers: int) -> Killed:
    """Kills drivers as soon as each has a slot.

    Args:
        drivers: how many; it is even. The store, and how long a slot outlives its driver, are those of the settings.
    """
    limit, known, most = drivers // 2, 0, 0
    with closing(open_store()) as store, scripts() as python:
        store.upsert("many", limit)
        for part in range(0, drivers, 4):
            for process in [python(HOLDS) for _ in range(min(4, drivers - part))]:
                assert next_line(process) == "held"
                shown = store.read("many")
                assert shown is not None
                known += process.pid in {lease.holder.pid for lease in shown.holders}
                most = max(most, len(shown.holders))
                process.send_signal(signal.SIGKILL)
                process.communicate()
        killed = time.monotonic()
        eventually(lambda: not slots(store, "many"), ENDS)
        late = time.monotonic() - killed
        free = 0
        while isinstance(ask(store, ["many"], str(free), 600), Acquired):
            free += 1
    return Killed(drivers, limit, known, most, late, free)


def _main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--drivers", type=int, default=100)
    parser.add_argument("--lease", type=float, default=30.0, help="seconds")
    parser.add_argument("--postgres", action="store_true")
    given = parser.parse_args()
    with ExitStack() as stack:
        os.environ["SHOAL_LIMITS_LEASE_SECONDS"] = str(given.lease)
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        os.environ["SHOAL_LIMITS_URL"] = str(Path(folder, "limits.db"))
        bin = programs()
        if given.postgres:
            if bin is None:
                parser.error("PostgreSQL is not installed")
            os.environ["SHOAL_LIMITS_URL"] = stack.enter_context(server(bin)).url
        found = kill_holders(given.drivers)
    print(
        f"{found.drivers} drivers killed, {found.known} of them with one of {found.limit} slots; at most {found.most} taken at once;"
        f" all free {found.late:.1f} s after the last kill, then {found.free} could be taken"
    )
    return int(not found.is_right())


if __name__ == "__main__":
    sys.exit(_main())
