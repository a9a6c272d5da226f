"""Opens one system and takes samples of it, as its parent asks: `python -m shoal_bench.live.child '{"adapter": …}'`.

Standard library only, and what the adapter imports: another interpreter may run this.
"""

from __future__ import annotations

import json
import platform
import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from shoal_bench.contestants.base import NotPossible, System
from shoal_bench.live.protocol import CLOCK, FAILED, OPENED, SAMPLED, VOID, WARMED, Pipe
from shoal_bench.scenarios import load, work
from shoal_bench.scenarios.base import CaseSpec, Clock, Scenario, WrongResults

__all__ = ["main"]

#: How often the workers of a system are called before those that have not answered are not waited for any more.
CALLS = 25


class Server:
    """Does what the parent asks for.

    Args:
        system: the open system.
        pipe: the way to the parent.
        speed: see `Scenario`.
    """

    def __init__(self, system: System, pipe: Pipe, speed: float) -> None:
        self._system = system
        self._speed = speed
        self._pipe = pipe
        self._scenarios: dict[str, Scenario] = {}

    def serve(self) -> None:
        """Takes requests until there are no more."""
        while (request := self._pipe.hear()) is not None:
            case = CaseSpec(**request["case"])
            try:
                if self._system.is_elsewhere:
                    self.arrive()  # Ray ends workers that are idle while others take their turn
                if request["do"] == "warm":
                    self._warm(request["scenario"], case)
                else:
                    self._sample(request["scenario"], case, request["size"])
            except (NotPossible, WrongResults) as error:
                self._pipe.say(VOID, reason=str(error))
            except Exception as error:
                self._pipe.say(VOID, reason=f"it failed with {_summary(error)}")

    def arrive(self) -> None:
        """Waits until all workers are there, as far as can be seen."""
        seen: set[tuple[int, int]] = set()
        for _ in range(CALLS):
            seen.update(map(tuple, self._system.map(work.arrive, range(2 * self._system.workers))))
            if len(seen) >= self._system.workers:
                break

    def _warm(self, scenario: str, case: CaseSpec) -> None:
        self._pipe.say(WARMED, size=self._scenario(scenario).warm(self._system, case))

    def _sample(self, scenario: str, case: CaseSpec, size: int) -> None:
        clock = Clock(self._tell)
        taken = self._scenario(scenario).sample(self._system, case, size, clock)
        self._pipe.say(SAMPLED, value=taken.value, wall=clock.total, quantities=taken.quantities)

    def _tell(self, running: bool) -> None:
        self._pipe.say(CLOCK, running=running)
        self._pipe.hear()  # whoever has gone will be missed at the next request

    def _scenario(self, name: str) -> Scenario:
        """The same object each time: it may remember what it has learned of the system."""
        if name not in self._scenarios:
            (self._scenarios[name],) = load([name], speed=self._speed)
        return self._scenarios[name]


def main(description: str) -> int:
    """Opens the system that is described, and serves.

    Args:
        description: JSON with `adapter`, `argument`, `workers` and `packages`, see `ContestantSpec`; and `speed`, see
            `Scenario`.

    Returns:
        The exit code.
    """
    wanted: dict[str, Any] = json.loads(description)
    pipe = Pipe()
    is_open = False

    def body() -> None:
        nonlocal is_open
        system.call_each(work.same, [(1,)])
        pipe.say(OPENED, python=platform.python_version(), versions=_versions(wanted["packages"]))
        is_open = True
        server = Server(system, pipe, wanted["speed"])
        server.arrive()
        server.serve()

    try:
        module, _, kind = wanted["adapter"].partition(":")
        adapter: type[System] = getattr(import_module(f"shoal_bench.contestants.{module}"), kind)
        system = adapter(wanted["workers"], wanted["argument"])
        system.run(body)
    except Exception as error:
        if is_open:
            raise  # it is on standard error, which the parent keeps
        pipe.say(FAILED, reason=_summary(error))
        return 1
    return 0


def _versions(packages: list[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # it is imported from a folder
            found[package] = "not installed"
    return found


def _summary(error: Exception) -> str:
    first, *_ = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {first}".rstrip(": ")[:200]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
