"""What every cluster is measured by, beside its own client: the same work, as users of each would write it.

A suite says how work is timed in a flow and natively, and takes its samplers from here.

* Native code submits functions and gathers results; that is the part of an engine's API that is needed here.
* A task costs an engine the same however many there are, so it gets fewer of them where it would take many seconds.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from importlib.util import find_spec
from typing import Any, ClassVar, Protocol, TypeVar

from shoal import State, task

from shoal_bench import workloads
from shoal_bench.measurement import BYTES, SECONDS, Figure, Measurement

__all__ = ["ClusterSamples", "Native", "cold"]

T = TypeVar("T")

#: Seconds that a link of a chain takes which does something.
LINK = 5e-3
#: Seconds that a long task takes.
LONG = 0.1


def slow_increment(x: int) -> int:
    """A link that does something: it sleeps, which takes as long on a busy machine."""
    time.sleep(LINK)
    return x + 1


def sleep(number: int) -> int:
    """A task of a length that does not depend on the machine."""
    time.sleep(LONG)
    return number


slow_increment_task = task(slow_increment)
sleep_task = task(sleep)


def bare_work(links: int) -> float:
    """Seconds for a link that does something, of a loop that calls the function."""

    def work() -> int:
        value = 0
        for _ in range(links):
            value = slow_increment(value)
        return value

    return workloads.seconds(work, links) / links


class Native(Protocol):
    """An engine's own client."""

    def submit(self, function: Callable[[Any], Any], argument: Any) -> Any:
        """A future of a call; the argument may be one."""

    def map(self, function: Callable[[Any], Any], arguments: Iterable[Any]) -> Any:
        """Futures of calls."""

    def gather(self, futures: Any) -> Any:
        """The results of futures, together."""


class ClusterSamples(ABC):
    """Samplers of both sides.

    Attributes:
        size_of_map: how many tasks one has.
        fewer_mapped: how many times fewer of these the engine gets.
    """

    size_of_map: ClassVar[int] = 10_000
    fewer_mapped: ClassVar[int] = 5

    @abstractmethod
    def ours(self, work: Callable[[], T], expected: T, module: str | None = None) -> float:
        """Seconds that work takes in a flow.

        Args:
            work: what is timed.
            expected: what it should give.
            module: what the workers are to have imported before.
        """

    @abstractmethod
    def native(self, work: Callable[[Native], T], expected: T, module: str | None = None) -> float:
        """Seconds that work takes which is given the engine's client."""

    @abstractmethod
    def traffic(self) -> AbstractContextManager[Callable[[], int]]:
        """Counts the bytes of values and messages that pass through the driver meanwhile."""

    # ---------------------------------------------------------------------- many tasks

    def submit(self, count: int) -> float:
        """Seconds for a task."""

        def work() -> list[int]:
            futures = [workloads.no_op_task.submit(i) for i in range(count)]
            return [future.result() for future in futures]

        return self.ours(work, list(range(count))) / count

    def native_submit(self, count: int) -> float:
        """Seconds for a task; of fewer."""
        count //= 5

        def work(client: Native) -> Any:
            return client.gather([client.submit(workloads.no_op, i) for i in range(count)])

        return self.native(work, list(range(count))) / count

    def mapped(self, count: int) -> float:
        """Seconds for a task whose result and state are read."""
        states: list[State[int]] = []

        def work() -> list[int]:
            futures = workloads.no_op_task.map(range(count))
            results = futures.result()
            states.extend([future.state for future in futures])
            return results

        taken = self.ours(work, list(range(count)))
        workloads.check(sum(state.is_completed() for state in states), count)
        return taken / count

    def native_mapped(self, count: int) -> float:
        """Seconds for a task; of fewer."""
        count //= self.fewer_mapped

        def work(client: Native) -> Any:
            return client.gather(client.map(workloads.no_op, range(count)))

        return self.native(work, list(range(count))) / count

    # ---------------------------------------------------------------------- one task after another

    def round_trips(self, count: int) -> float:
        """Seconds for a task."""

        def work() -> list[int]:
            return [workloads.no_op_task.submit(i).result() for i in range(count)]

        return self.ours(work, list(range(count))) / count

    def native_round_trips(self, count: int) -> float:
        """Seconds for a task."""

        def work(client: Native) -> list[int]:
            return [client.gather(client.submit(workloads.no_op, i)) for i in range(count)]

        return self.native(work, list(range(count))) / count

    def chain(self, links: int) -> float:
        """Seconds for a link that does nothing."""
        return self._chain(workloads.increment_task, links)

    def native_chain(self, links: int) -> float:
        """Seconds for a link that does nothing."""
        return self._native_chain(workloads.increment, links)

    def working_chain(self, links: int) -> float:
        """Seconds for a link that does something."""
        return self._chain(slow_increment_task, links)

    def native_working_chain(self, links: int) -> float:
        """Seconds for a link that does something."""
        return self._native_chain(slow_increment, links)

    def _chain(self, link: Any, links: int) -> float:
        def work() -> int:
            future = link.submit(0)
            for _ in range(links - 1):
                future = link.submit(future)
            result: int = future.result()
            return result

        return self.ours(work, links) / links

    def _native_chain(self, link: Callable[[int], int], links: int) -> float:
        def work(client: Native) -> Any:
            future = client.submit(link, 0)
            for _ in range(links - 1):
                future = client.submit(link, future)
            return client.gather(future)

        return self.native(work, links) / links

    # ---------------------------------------------------------------------- tasks that are worth a message

    def long_tasks(self, count: int) -> float:
        """Seconds for all."""
        return self.ours(lambda: sleep_task.map(range(count)).result(), list(range(count)))

    def native_long_tasks(self, count: int) -> float:
        """Seconds for all."""

        def work(client: Native) -> Any:
            return client.gather(client.map(sleep, range(count)))

        return self.native(work, list(range(count)))

    # ---------------------------------------------------------------------- large values

    def array(self, megabytes: int) -> float:
        """Seconds for all."""
        return self.ours(
            lambda: workloads.sums_of_one(megabytes), workloads.sums(megabytes), "numpy"
        )

    def native_array(self, megabytes: int) -> float:
        """Seconds for all."""
        return self.native(
            lambda client: _sums_of_one_on(client, megabytes), workloads.sums(megabytes), "numpy"
        )

    def array_bytes(self, megabytes: int) -> float:
        """Bytes through the driver."""
        moved = 0

        def work() -> list[float]:
            nonlocal moved
            with self.traffic() as count:
                given = workloads.sums_of_one(megabytes)
                moved = count()
            return given

        self.ours(work, workloads.sums(megabytes), "numpy")
        return float(moved)

    def native_array_bytes(self, megabytes: int) -> float:
        """Bytes through the driver."""
        moved = 0

        def work(client: Native) -> Any:
            nonlocal moved
            with self.traffic() as count:
                given = _sums_of_one_on(client, megabytes)
                moved = count()
            return given

        self.native(work, workloads.sums(megabytes), "numpy")
        return float(moved)

    # ---------------------------------------------------------------------- all of them

    def measurements(self, expected: Mapping[str, tuple[float, float]]) -> tuple[Measurement, ...]:
        """What is measured, in the order in which it is reported.

        Args:
            expected: floor and aim of each measurement, by its name.
        """

        def made(name: str, compares: str, **more: Any) -> Measurement:
            floor, aim = expected[name]
            options = {"unit": SECONDS, **more}
            return Measurement(name=name, compares=compares, floor=floor, aim=aim, **options)

        common = (
            made(
                "submit",
                "no-ops submitted in a loop, then every result taken: time a task",
                ours=self.submit,
                bare=self.native_submit,
                figure=Figure.TIMES_FASTER,
                size=10_000,
                quick_size=1_000,
            ),
            made(
                "map",
                "no-ops in one map, every result and state read; the engine's client knows no states: time a task",
                ours=self.mapped,
                bare=self.native_mapped,
                figure=Figure.TIMES_FASTER,
                size=self.size_of_map,
                quick_size=self.size_of_map // 10,
            ),
            made(
                "round-trip",
                "one no-op after another, `submit(x).result()`: time a task",
                ours=self.round_trips,
                bare=self.native_round_trips,
                figure=Figure.TIMES_THE_COST,
                size=200,
                quick_size=50,
            ),
            made(
                "chain",
                "200 no-ops, each takes the one before as its argument: time a link",
                ours=self.chain,
                bare=self.native_chain,
                figure=Figure.TIMES_FASTER,
                size=200,
                quick_size=50,
            ),
            made(
                "chain-of-work",
                "60 tasks of 5 ms, each takes the one before as its argument; beside a loop too: time a link",
                ours=self.working_chain,
                bare=self.native_working_chain,
                also={"a loop": bare_work},
                figure=Figure.TIMES_THE_COST,
                size=60,
                quick_size=20,
            ),
            made(
                "long",
                "200 tasks of 100 ms in one map: time for all",
                ours=self.long_tasks,
                bare=self.native_long_tasks,
                figure=Figure.TIMES_THE_COST,
                size=200,
                quick_size=20,
                repeats=1 / 3,
            ),
        )
        if not find_spec("numpy"):
            return common
        return (
            *common,
            made(
                "array",
                "one task makes an array of 100 MB, four sum it up: time for all",
                ours=self.array,
                bare=self.native_array,
                figure=Figure.TIMES_THE_COST,
                size=100,
                quick_size=10,
            ),
            made(
                "array-bytes",
                "the same: bytes that pass through the process of the driver",
                ours=self.array_bytes,
                bare=self.native_array_bytes,
                unit=BYTES,
                figure=Figure.COST,
                size=100,
                quick_size=10,
                repeats=1 / 3,
            ),
        )


def cold(runner: str) -> str:
    """A script that prints when a flow on this runner has its first result."""
    return f"""
import os
os.environ["SHOAL_LOGGING_LEVEL"] = "WARNING"
import time
from shoal import flow, task

@task
def one():
    return 1

@flow(task_runner={runner!r})
def first():
    print(one.submit().result() and time.perf_counter())

first()
"""


def _sums_of_one_on(client: Native, megabytes: int) -> Any:
    made = client.submit(workloads.make_array, megabytes)
    return client.gather(client.map(workloads.sum_up, [made] * workloads.CONSUMERS))
