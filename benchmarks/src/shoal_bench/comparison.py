"""Compares contestants: opens those of one engine, has them take turns at every case, closes them, goes on to the next.

    threads                 processes               …
    open A, B               open C, D
    case 1: A B A B A B     case 1: C D C D C D
    case 2: A B A B A B     case 2: C D C D C D
    close A, B              close C, D

Only one engine is there at a time, so none is measured beside the heartbeats of another; within it, ours and the others
alternate, so that ratios are made of neighbours. What opening and closing takes is measured by doing it several times,
as long as a part of the engine's time lasts.

Whatever a contestant does, the others go on: a case that it cannot do, does wrongly or too slowly is void for it, and a
process that is lost is opened again. What was taken is in the book at any time, also after an interruption.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Protocol, TypeVar

from shoal_bench.book import Book
from shoal_bench.contestants import ContestantSpec
from shoal_bench.derive import ENOUGH
from shoal_bench.live.process import Lost, Void
from shoal_bench.record import Options, Record, Sample
from shoal_bench.scenarios.base import CaseSpec, Scenario
from shoal_bench.scenarios.start import START, STOP, Start

__all__ = ["Comparison", "Listener", "Live", "Opener"]

T = TypeVar("T")

#: For so much of an engine's time, before that, it is opened more often than is needed for a figure.
OPENING = 0.2


class Live(Protocol):
    """A contestant that is open; see `live.process.LiveProcess`."""

    opened: float
    opened_cpu: float
    python: str
    versions: dict[str, str]

    def warm(self, scenario: str, case: CaseSpec) -> int:
        """See `LiveProcess`."""
        ...

    def sample(self, scenario: str, case: CaseSpec, size: int, number: int) -> Sample:
        """See `LiveProcess`."""
        ...

    def close(self) -> float:
        """See `LiveProcess`."""
        ...

    def kill(self) -> None:
        """See `LiveProcess`."""
        ...


#: Opens a contestant with so many workers; raises `Lost` if that fails.
Opener = Callable[[ContestantSpec, int], Live]


class Listener(Protocol):
    """Is told how a comparison gets on. A step is a sample, a warm-up, or an opening."""

    def planned(self, steps: int) -> None:
        """So many steps there are at most."""
        ...

    def begins(self, engine: str, what: str) -> None:
        """This is what is done now."""
        ...

    def did(self, steps: int) -> None:
        """So many steps are done, or will not be needed."""
        ...


class Comparison:
    """See the module.

    Args:
        contestants: who takes part, those of an engine together.
        scenarios: what is measured.
        options: as they go into the record. Rounds, workers, and whether it is the full set are taken from them.
        open_live: opens a contestant.
        listener: is told how it gets on.
        speed: as it goes into the record.
        seconds: how long all cases may take, without openings, and the engines alike; rounds beyond the third are left
            out where they would not fit in, and beyond the first when an engine's time is over, so that its figures are
            called noisy.
        clock: tells the time, in seconds.

    Attributes:
        book: what was taken.
    """

    def __init__(
        self,
        contestants: Sequence[ContestantSpec],
        scenarios: Sequence[Scenario],
        options: Options,
        *,
        open_live: Opener,
        listener: Listener,
        speed: float | None = None,
        seconds: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.book = Book(contestants, scenarios, options, speed)
        self._engines = [list(specs) for _, specs in groupby(contestants, lambda s: s.engine)]
        self._cases = [
            (scenario, case)
            for scenario in scenarios
            if not scenario.is_of_opening
            for case in scenario.cases(full=options.full)
        ]
        are_measured = any(scenario.is_of_opening for scenario in scenarios)
        self._openings = 1 + (max(ENOUGH, options.rounds) if are_measured else 0)
        self._options = options
        self._open_live = open_live
        self._listener = listener
        self._seconds = seconds
        self._clock = clock
        self._lives: dict[str, Live] = {}
        self._complete = False

    def run(self) -> None:
        """Takes all samples. However it ends, nothing that it has started is left."""
        left = self._seconds
        for_each = self._openings + len(self._cases) * (1 + self._options.rounds)
        self._listener.planned(for_each * sum(map(len, self._engines)))
        try:
            for position, specs in enumerate(self._engines):
                left -= self._compare(specs, left / (len(self._engines) - position))
        finally:
            _kill_all(self._lives)
        self._complete = True

    def record(self) -> Record:
        """What was taken so far."""
        return self.book.record(complete=self._complete)

    def _share(self, end: float, parts: int) -> float:
        """When the next of so many parts should have ended, if all are to end by then."""
        now = self._clock()
        return now + (end - now) / parts

    def _compare(self, specs: Sequence[ContestantSpec], seconds: float) -> float:
        """All cases, by the contestants of one engine, which have so many seconds for them; gives how many they took.

        Openings come on top: those of Ray would take all the time that its cases have.
        """
        opened = self._open_all(specs, self._clock() + OPENING * seconds)
        began = self._clock()
        end = began + seconds
        for position, (scenario, case) in enumerate(self._cases):
            self._listener.begins(specs[0].engine, f"{scenario.name}: {case.name}")
            until = self._share(end, len(self._cases) - position)
            apart = case.workers not in (None, self._options.workers)
            take = self._take_apart if apart else self._take
            take(specs, scenario, case, until, end)
        taken = self._clock() - began
        for spec in specs:
            self._close(spec, opened)
        return taken

    def _take(
        self,
        specs: Sequence[ContestantSpec],
        scenario: Scenario,
        case: CaseSpec,
        until: float,
        end: float,
    ) -> None:
        """A case: all are warmed up, then take turns.

        Args:
            specs: who.
            scenario: of which the case is.
            case: it.
            until: when its share of the time is over.
            end: when that of all cases is.
        """
        name = scenario.name
        sizes: dict[str, int] = {}
        for spec in specs:
            size = self._ask(spec, scenario, case, lambda live: live.warm(name, case))
            if size is not None:
                sizes[spec.name] = size
        done = 0
        while done < self._options.rounds and (
            done == 0 or self._clock() < (end if done < ENOUGH else until)
        ):
            done += 1
            for spec in specs:
                if case.is_fresh and spec.name in sizes and spec.name in self._lives:
                    self._close(spec, 0)
                    self._open(spec, case.workers)
                self._sample(spec, scenario, case, sizes, done)
        self._listener.did(len(specs) * (self._options.rounds - done))

    def _sample(
        self,
        spec: ContestantSpec,
        scenario: Scenario,
        case: CaseSpec,
        sizes: dict[str, int],
        number: int,
    ) -> None:
        """A contestant's turn in a round, unless it is out of this case."""
        size = sizes.get(spec.name)
        if size is None:
            self._listener.did(1)
            return
        sample = self._ask(
            spec, scenario, case, lambda live: live.sample(scenario.name, case, size, number)
        )
        if sample is None:
            del sizes[spec.name]
        else:
            self.book.add(scenario.name, case.name, spec.name, sample)

    def _take_apart(
        self,
        specs: Sequence[ContestantSpec],
        scenario: Scenario,
        case: CaseSpec,
        until: float,
        end: float,
    ) -> None:
        """A case with another number of workers, for which all are opened once more."""
        usual, self._lives = self._lives, {}
        try:
            for spec in specs:
                if spec.name in usual:
                    self._open(spec, case.workers)
            self._take(specs, scenario, case, until, end)
        finally:
            _kill_all(self._lives)
            self._lives = usual

    def _ask(
        self,
        spec: ContestantSpec,
        scenario: Scenario,
        case: CaseSpec,
        request: Callable[[Live], T],
    ) -> T | None:
        """What a contestant answers, if it is open and its answer counts."""
        live = self._lives.get(spec.name)
        try:
            return request(live) if live is not None else None
        except Void as error:
            self.book.void(scenario.name, case.name, spec.name, str(error))
        except Lost as error:
            self.book.void(scenario.name, case.name, spec.name, str(error))
            del self._lives[spec.name]
            self._open(spec, case.workers)
        finally:
            self._listener.did(1)
        return None

    # ---------------------------------------------------------------------- opening and closing

    def _open_all(self, specs: Sequence[ContestantSpec], until: float) -> int:
        """Opens them; several times, if that is what is measured. Gives the number of the last round of that.

        Args:
            specs: whom.
            until: after which they are opened no more often than is needed for a figure.
        """
        self._listener.begins(specs[0].engine, "start")
        last = 0
        for number in range(self._openings):
            if number > ENOUGH and self._clock() >= until:
                self._listener.did(len(specs) * (self._openings - number))
                break
            last = number
            for spec in specs:
                # The first opening, which compiles and fills caches, does not count, nor does its closing.
                if number == 0 or self._close(spec, number - 1):
                    self._open(spec, number=number)
                self._listener.did(1)
        return last

    def _open(self, spec: ContestantSpec, workers: int | None = None, number: int = 0) -> None:
        """Opens a contestant, or notes why that fails.

        Args:
            spec: whom.
            workers: with how many; by default as many as everywhere.
            number: of the round that it counts for; 0 for none.
        """
        try:
            live = self._open_live(spec, workers or self._options.workers)
        except Lost as error:
            self.book.is_absent(spec, str(error))
            return
        self._lives[spec.name] = live
        self.book.takes_part(spec, live.python, live.versions)
        if number > 0:
            sample = Sample(round=number, value=live.opened, wall=live.opened, cpu=live.opened_cpu)
            self.book.add(Start.name, START, spec.name, sample)

    def _close(self, spec: ContestantSpec, number: int) -> bool:
        """Closes a contestant; says whether it was open and has closed as it should."""
        live = self._lives.pop(spec.name, None)
        if live is None:
            return False
        try:
            seconds = live.close()
        except Lost as error:
            self.book.void(Start.name, STOP, spec.name, str(error))
            return False
        if self._openings > 1 and number > 0:
            sample = Sample(round=number, value=seconds, wall=seconds)
            self.book.add(Start.name, STOP, spec.name, sample)
        return True


def _kill_all(lives: dict[str, Live]) -> None:
    for live in lives.values():
        live.kill()
    lives.clear()
