"""What the driver keeps of runs that have not begun."""

from __future__ import annotations

import ctypes
import ctypes.util
import gc
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from shoal_bench.contestants.base import NotPossible, System
from shoal_bench.scenarios import work
from shoal_bench.scenarios.base import CaseSpec, Clock, Sampled, Scenario, check

__all__ = ["Memory"]

#: Where the kernel says how many pages this process holds.
STATM = Path("/proc/self/statm")
#: Seconds that workers may take to be held.
PATIENCE = 15.0
#: A process that uses less of a processor than this, for so many seconds, has taken in what it was given: some systems go on in
#: the background. Dask's scheduler, which lives in the driver's process, uses 5 % when it has nothing to do.
IDLE, LOOK = 0.1, 0.2
COUNTS = (1_000, 10_000, 100_000, 1_000_000)
SHORT = (10_000,)
#: Seconds that a sample of so many as in the short set may take; larger ones in proportion.
SAMPLE = 3.0


class Memory(Scenario):
    """See `measures`. A system that gives no futures and waits in `map` cannot take part."""

    name: ClassVar[str] = "memory"
    measures: ClassVar[str] = (
        "Growth of the driver's resident memory for each run of one map that is pending, with all workers held. Each sample "
        "has a process of its own, as one uses again what it has freed before."
    )
    source: ClassVar[str] = "It bounds how many tasks a driver can have."
    in_short_set: ClassVar[bool] = False

    def cases(self, *, full: bool) -> Sequence[CaseSpec]:
        """See `Scenario`."""
        return [
            CaseSpec(
                f"{count:,} pending",
                unit="bytes",
                axes={"tasks": count},
                least=min(1_000, count),
                most=count,
                is_fresh=True,
                limit=60.0 if count < 100_000 else 600.0,
            )
            for count in (COUNTS if full else SHORT)
        ]

    def warm(self, system: System, case: CaseSpec) -> int:
        """See `Scenario`. The runs are executed too, at last, which the clock does not see."""
        began = time.perf_counter()
        self.sample(system, case, case.least, Clock())
        fits = case.least * SAMPLE * case.most / SHORT[0] / (time.perf_counter() - began)
        return max(case.least, min(case.most, round(fits)))

    def sample(self, system: System, case: CaseSpec, size: int, clock: Clock) -> Sampled:
        """See `Scenario`. The numbers are there before."""
        if not STATM.exists():
            raise NotPossible("only Linux says how much memory a process holds")
        numbers = list(range(1_000_000, 1_000_000 + size))
        with _held(system):
            before = _resident()
            with clock:
                pending = system.start_map(work.same, numbers)
            grown = _at_rest() - before
        check(system.gather(pending), numbers)
        return Sampled(max(grown, 1) / size, {"tasks": size})


@contextmanager
def _held(system: System) -> Iterator[None]:
    """Keeps all workers of a system."""
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        places = [(folder, number) for number in range(system.workers)]
        held = system.start_map(work.hold, places)
        try:
            _wait_for(lambda: len(os.listdir(folder)) >= system.workers)
            yield
        finally:
            Path(folder, "go").touch()
            system.gather(held)


def _wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise NotPossible("its workers could not all be held")
        time.sleep(0.01)


def _resident() -> int:
    """Bytes that this process holds, once what it does not need has gone back to the system."""
    gc.collect()
    if name := ctypes.util.find_library("c"):
        trim = getattr(ctypes.CDLL(name), "malloc_trim", None)  # glibc has it
        if trim is not None:
            trim(0)
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _at_rest() -> int:
    """Bytes that this process holds once it does nothing more. Waited for as long as a sample may take."""
    share = 1.0
    while share > IDLE:
        used, began = time.process_time(), time.perf_counter()
        time.sleep(LOOK)
        share = (time.process_time() - used) / (time.perf_counter() - began)
    return _resident()
