"""`System`: what every contestant can be asked for. Standard library only."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from itertools import chain
from typing import Any, ClassVar

from shoal_bench.contestants.traffic import through_pipes_and_tcp

__all__ = ["Layer", "NotPossible", "Results", "System"]

#: Nodes of a task graph that may run side by side: of each, the positions of what it needs in the layer before.
Layer = Sequence[tuple[int, ...]]


class NotPossible(Exception):
    """The system cannot do what the scenario is about; the message says why."""


class Results:
    """What a system gives of a map whose results come one after another; for `first` and `gather`.

    Args:
        coming: the results.
    """

    def __init__(self, coming: Iterable[Any]) -> None:
        self._coming = iter(coming)
        self._taken: list[Any] = []

    def first(self) -> Any:
        """The first one, as soon as it is there."""
        self._taken.append(next(self._coming))
        return self._taken[0]

    def all(self) -> list[Any]:
        """All of them."""
        return list(chain(self._taken, self._coming))


class System(ABC):
    """A way to run functions on workers.

    Functions belong to modules that workers can import; arguments and results can be pickled.

    Args:
        workers: how many may run at once; of a cluster that runs, how many it has.
        argument: see `ContestantSpec.argument`.
    """

    #: Whether futures can be arguments of `submit`, so that the system knows what needs what.
    takes_futures: ClassVar[bool] = False

    def __init__(self, workers: int, argument: str = "") -> None:
        self.workers = workers
        self.argument = argument

    @property
    def is_elsewhere(self) -> bool:
        """Whether it is a cluster that runs anyway, and that others may use."""
        return "://" in self.argument

    @abstractmethod
    def run(self, body: Callable[[], None]) -> None:
        """Calls `body` while the system is there: starts it before, ends it afterwards."""

    @abstractmethod
    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """One call; gives its future.

        Raises:
            NotPossible: the system has no such thing.
        """

    @abstractmethod
    def gather(self, futures: Any) -> list[Any]:
        """The results of futures, in order; of what `submit` gave in a list, or of what `start_map` gave."""

    def start_map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Any:
        """A call for each item, begun and not waited for; gives what `gather` takes and `first` too."""
        return [self.submit(function, item) for item in items]

    def first(self, futures: Any) -> Any:
        """The result of the first of what `start_map` gave."""
        return self.gather(futures[:1])[0]

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        """The results of a call for each item."""
        return self.gather(self.start_map(function, items))

    def call_each(self, function: Callable[..., Any], rows: Iterable[Iterable[Any]]) -> list[Any]:
        """The results of calls with these arguments, each submitted by itself."""
        return self.gather([self.submit(function, *row) for row in rows])

    def graph(
        self, function: Callable[..., Any], argument: Any, layers: Iterable[Layer]
    ) -> list[Any]:
        """The results of the last layer of a task graph.

        A node calls the function with the argument and with the results that it needs. A system that takes no futures
        gets a layer after the other, as its users have to do it.
        """
        before: list[Any] = []
        for layer in layers:
            rows = [(argument, *(before[position] for position in needed)) for needed in layer]
            if self.takes_futures:
                before = [self.submit(function, *row) for row in rows]
            else:
                before = self.call_each(function, rows)
        return self.gather(before) if self.takes_futures else before

    def traffic(self) -> AbstractContextManager[Callable[[], int]]:
        """Counts meanwhile the bytes that pass through this process, which is the driver; gives what gives the count."""
        return through_pipes_and_tcp()

    def map_retrying(
        self, function: Callable[[Any], Any], items: Sequence[Any], retries: int
    ) -> list[Any]:
        """As `map`, where a call that raises is made again so many times.

        By default the caller sees to it, as the users of a system without retries have to.
        """
        futures = [self.submit(function, item) for item in items]
        results = []
        for item, future in zip(items, futures, strict=True):
            for left in range(retries, -1, -1):
                try:
                    (result,) = self.gather([future])
                except Exception:
                    if not left:
                        raise
                    future = self.submit(function, item)
                else:
                    results.append(result)
                    break
        return results

    def map_surviving(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """As `map`, where a call may end its worker and is then made again.

        Raises:
            NotPossible: a call that ended its worker would end everything.
        """
        raise NotPossible("it does not outlive the death of a worker")
