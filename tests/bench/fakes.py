"""Contestants that are in this process and take no time: what a comparison does with them is the subject."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from shoal_bench.contestants import ContestantSpec
from shoal_bench.contestants.base import System
from shoal_bench.record import Sample
from shoal_bench.scenarios.base import CaseSpec, Clock, Sampled, Scenario


class Sequential(System):
    """Calls functions at once, in order."""

    def run(self, body: Callable[[], None]) -> None:
        body()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)

    def gather(self, futures: Any) -> list[Any]:
        return list(futures)


class Reversing(Sequential):
    """Gives the results of a map in the wrong order."""

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        return super().map(function, items)[::-1]


class Counting(Scenario):
    """Two cases, nothing to do."""

    name: ClassVar[str] = "counting"
    measures: ClassVar[str] = "nothing"
    source: ClassVar[str] = "made up"

    def cases(self, *, full: bool) -> Sequence[CaseSpec]:
        return [CaseSpec("one"), CaseSpec("two")]

    def sample(self, system: System, case: CaseSpec, size: int, clock: Clock) -> Sampled:
        raise AssertionError("live processes are faked")


@dataclass
class FakeLive:
    """A live process that gives a value, or raises what it is told to."""

    name: str
    log: list[str]
    value: float = 1.0
    errors: dict[str, BaseException] = field(default_factory=dict)
    opened: float = 0.5
    opened_cpu: float = 0.25
    python: str = "3.11.7"
    versions: dict[str, str] = field(default_factory=dict)

    def warm(self, scenario: str, case: CaseSpec) -> int:
        self.log.append(f"{self.name} warm {case.name}")
        self._maybe_raise(f"warm {case.name}")
        return 7

    def sample(self, scenario: str, case: CaseSpec, size: int, number: int) -> Sample:
        self.log.append(f"{self.name} {case.name} {number}")
        self._maybe_raise(f"{case.name} {number}")
        return Sample(round=number, value=self.value, wall=self.value)

    def close(self) -> float:
        self.log.append(f"{self.name} close")
        return 0.125

    def kill(self) -> None:
        self.log.append(f"{self.name} kill")

    def _maybe_raise(self, what: str) -> None:
        if what in self.errors:
            raise self.errors[what]


class Silent:
    """A listener that counts steps."""

    def __init__(self) -> None:
        self.steps = self.done = 0

    def planned(self, steps: int) -> None:
        self.steps = steps

    def begins(self, engine: str, what: str) -> None:
        return

    def did(self, steps: int) -> None:
        self.done += steps


A = ContestantSpec("a", "one", "ours:Shoal", bare="b")
B = ContestantSpec("b", "one", "futures:Threads")
C = ContestantSpec("c", "two", "futures:Threads")
