"""Section 7.7 and its like on any runner: objects of the user's that misbehave when they are looked at, pickled or unpickled.

Each ends its own run, and no other. What is defined here is imported by workers.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from shoal import flow, runtime, tags, task
from shoal.exceptions import SerializationError, UpstreamTaskError, WorkerDied
from shoal.testing.base import SuiteBase, covers
from shoal.testing.samples import add, identity, inc
from shoal.testing.tools import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.futures import TaskFuture
    from shoal.task_runners import TaskRunner
    from shoal.testing.tools import Signals

__all__ = ["OddityTests"]


# ---------------------------------------------------------------------- what misbehaves


@dataclass(frozen=True)
class Frozen(Exception):  # as the others here: it says what it is like
    """An exception that takes no attributes: neither notes nor a traceback set from Python."""

    key: int = 1


class Silent(Exception):
    """An exception that cannot be shown."""

    def __str__(self) -> str:
        raise SystemExit("no text")

    __repr__ = __str__


class Wordy(Exception):
    """An exception whose text is no plain string."""

    class Text(str):
        """A string that is neither true nor false."""

        __slots__ = ()

        def __bool__(self) -> bool:
            raise RuntimeError("no bool")

        def __format__(self, spec: str) -> str:
            raise RuntimeError("no format")

    def __str__(self) -> str:
        return self.Text("wordy")


class Closed(Exception):
    """An exception that refuses whatever reporters ask exceptions for."""

    def __refuse(self, *_: Any) -> Any:
        raise RuntimeError("refused")

    add_note = with_traceback = __eq__ = __bool__ = __reduce__ = __refuse
    __hash__ = None  # type: ignore[assignment]
    __setattr__ = __refuse


class Hidden(Exception):
    """An exception that answers to no question at all."""

    def __getattribute__(self, name: str) -> Any:
        raise SystemExit(name)


class Leaving(SystemExit):
    """The end of a program that cannot be shown."""

    def __str__(self) -> str:
        raise KeyboardInterrupt

    __repr__ = __str__


ODD = [Frozen, Silent, Wordy, Closed, Hidden]


class Incomparable:
    """A value that is neither equal nor unequal, true nor false, and cannot be hashed."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no eq")

    def __bool__(self) -> bool:
        raise RuntimeError("no bool")

    def __hash__(self) -> int:
        raise SystemExit("no hash")


#: What nobody expects out of pickling.
ENDS = [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError]


class Raises:
    """A value whose pickling, or unpickling, raises.

    Args:
        kind: what.
        there: whether it is unpickling.
    """

    def __init__(self, kind: type[BaseException], there: bool = False) -> None:
        self.kind = kind
        self.there = there

    def __reduce__(self) -> Any:
        if not self.there:
            raise self.kind
        return raise_now, (self.kind,)


def raise_now(kind: type[BaseException]) -> Any:
    """Raises."""
    raise kind


class Deadly:
    """A value that ends every other process which unpickles it."""

    def __init__(self, size: int = 0) -> None:
        self.padding = bytes(size)

    def __reduce__(self) -> Any:
        return end_elsewhere, (os.getpid(), self.padding)


def end_elsewhere(home: int, padding: bytes) -> Any:
    """Ends every other process."""
    if os.getpid() != home:
        os._exit(7)
    return "home"


@task
def raises(kind: Any) -> Any:
    """Raises an instance of a class, gives anything else."""
    if isinstance(kind, type):
        raise kind
    return kind


@task
async def raises_later(kind: Any) -> Any:
    """As `raises`, as a coroutine."""
    if isinstance(kind, type):
        raise kind
    return kind


@task
def gives_odd(kind: type[BaseException], there: bool) -> Any:
    """Gives a `Raises`."""
    return Raises(kind, there)


@task
async def waits(signals: Signals, name: str) -> str:
    """Waits for an event."""
    signals.set(f"{name} began")
    while not signals.is_set(name):  # noqa: ASYNC110  # it is a file
        await asyncio.sleep(0.003)
    return name


def ends_of(runs: Any) -> Counter[str]:
    """How runs end, by state."""
    for run in runs:
        run.wait(PATIENCE)
    return Counter(run.state.name for run in runs)


# ---------------------------------------------------------------------- the tests


class OddityTests(SuiteBase):
    """Whoever reports a failure cannot fail, and nothing of the user's ends more than its run."""

    @pytest.mark.parametrize("each", [raises, raises_later], ids=["sync", "async"])
    @covers("7.7", "7.8", "5.3")
    def test_exceptions_that_misbehave(self, runner: TaskRunner, each: Any) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            alone = [each.submit(kind) for kind in ODD]
            mapped = each.map([*ODD, *range(20)])
            after = identity.submit(alone[0])
            assert ends_of(alone) == {"Failed": len(ODD)}
            assert ends_of(mapped) == {"Failed": len(ODD), "Completed": 20}
            for run in [*alone, *mapped[: len(ODD)]]:
                assert isinstance(str(run.state), str)
                assert issubclass(type(run.exception()), Exception)
            assert issubclass(type(after.exception(timeout=PATIENCE)), UpstreamTaskError)
            assert inc.submit(1).result(timeout=PATIENCE) == 2

        main()

    @pytest.mark.parametrize("each", [raises, raises_later], ids=["sync", "async"])
    @covers("7.6", "7.7")
    def test_ends_of_programs_that_cannot_be_shown(self, runner: TaskRunner, each: Any) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            assert ends_of(each.map([1, Leaving, 3])) == {"Completed": 2, "Crashed": 1}

        main()

    @covers("2.2", "3.4", "7.8")
    def test_flows_and_direct_calls_that_raise_what_misbehaves(self, runner: TaskRunner) -> None:
        for kind in ODD:

            @flow(task_runner=runner)
            def main(kind: Any = kind) -> None:
                with tags("odd"):
                    if kind is Frozen:
                        raise kind
                    raises(kind)

            with pytest.raises(Exception) as caught:  # noqa: PT011  # its type is looked at
                main()
            assert caught.type is kind
            state = main(return_state=True)
            assert state.is_failed()
            assert kind.__name__ in str(state)

    @covers("7.1", "8.1", "8.2")
    def test_what_decides_and_names_may_misbehave_too(
        self, runner: TaskRunner, signals: Signals
    ) -> None:
        def silent(*_: Any, **__: Any) -> Any:
            raise Silent

        def leaving(*_: Any, **__: Any) -> Any:
            raise Leaving

        def truthless(*_: Any) -> Any:
            return Incomparable()

        def seen(task: Any, run: Any, state: Any) -> None:
            signals.append("seen", run.task_name)

        runs: list[TaskFuture[Any]] = []

        @flow(task_runner=runner)
        def main() -> None:
            for odd in (silent, leaving, truthless):
                options: list[dict[str, Any]] = [
                    {"retries": 1, "retry_condition_fn": odd},
                    {"retries": 1, "retry_delay_seconds": odd},
                    {"on_failure": [odd, seen]},
                ]
                runs.extend(raises.with_options(**given).submit(Frozen) for given in options)
            assert ends_of(runs) == {"Failed": 9}
            named = raises.with_options(task_run_name=silent).submit(1)
            assert ends_of([named]) == {"Failed": 1}
            assert inc.submit(1).result(timeout=PATIENCE) == 2

        main()
        assert signals.lines("seen") == ["raises"] * 3

    @covers("2.8", "5.2")
    def test_results_that_cannot_be_compared(self, runner: TaskRunner) -> None:
        @task
        def gives() -> Any:
            return Incomparable()

        @flow(task_runner=runner)
        def main() -> None:
            given = gives.submit()
            assert type(given.result(timeout=PATIENCE)) is Incomparable
            assert type(identity.submit(given).result(timeout=PATIENCE)) is Incomparable
            assert ends_of(identity.map([Incomparable(), 1])) == {"Completed": 2}
            assert given.state == given.state

        main()

    @covers("7.4", needs="concurrent")
    def test_cancelled_elements_of_a_queued_async_map(
        self, single_runner: TaskRunner, signals: Signals
    ) -> None:
        @flow(task_runner=single_runner)
        def main() -> None:
            first = waits.submit(signals, "go")
            queued = raises_later.map([1, 2, 3])
            assert all(future.cancel() for future in queued)
            signals.set("go")
            assert first.result(timeout=PATIENCE) == "go"
            assert raises_later.submit(4).result(timeout=PATIENCE) == 4

        main()

    @covers("7.7", needs="isolated")
    def test_what_pickling_raises(self, runner: TaskRunner) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            for there in (False, True):
                odd = [Raises(kind, there) for kind in ENDS]
                alone = [identity.submit(value) for value in odd]
                mapped = identity.map([1, *odd, 2])
                given = [gives_odd.submit(kind, there) for kind in ENDS]
                for runs in (alone, mapped[1:-1], given):
                    assert ends_of(runs) == {"Failed": len(ENDS)}
                    assert {type(run.exception()) for run in runs} == {SerializationError}
                assert ends_of([mapped[0], mapped[-1]]) == {"Completed": 2}
            assert inc.map([1, 2]).result(timeout=PATIENCE) == [2, 3]

        main()

    @pytest.mark.parametrize("there", [False, True], ids=["pickling", "unpickling"])
    @covers("7.7", needs="isolated")
    def test_what_pickling_a_function_raises(self, runner: TaskRunner, there: bool) -> None:
        def make(kind: type[BaseException]) -> Callable[[int], int]:
            odd = Raises(kind, there)

            def function(x: int) -> int:
                return x if id(odd) else 0

            return function

        @flow(task_runner=runner)
        def main() -> None:
            odd = [task(make(kind)) for kind in ENDS]
            assert ends_of([each.submit(1) for each in odd]) == {"Failed": len(ENDS)}
            assert ends_of(odd[0].map([1, 2, 3])) == {"Failed": 3}
            assert inc.submit(1).result(timeout=PATIENCE) == 2

        main()

    @covers("7.7", "1.5", needs="isolated")
    def test_parameters_of_a_flow_that_nobody_asks_for(self, runner: TaskRunner) -> None:
        @task
        def asks() -> Any:
            return runtime.flow_run.parameters["given"]

        @flow(task_runner=runner)
        def main(given: Any) -> None:
            assert inc.map([1, 2]).result(timeout=PATIENCE) == [2, 3]
            assert ends_of([asks.submit()]) == {"Crashed": 1}

        main(Raises(SystemExit, there=True))

    @covers("7.5", "7.7", needs=("isolated", "survives_crashes"))
    def test_what_kills_whoever_unpickles_it(self, runner: TaskRunner) -> None:
        deadly = Deadly()

        @task
        def function(x: int) -> int:
            return x if id(deadly) else 0

        @flow(task_runner=runner)
        def main() -> None:
            assert inc.submit(0).result(timeout=PATIENCE) == 1
            poisoned = [function.submit(1), add.submit(1, deadly)]
            for run in poisoned:
                with pytest.raises(WorkerDied):
                    run.result(timeout=PATIENCE)
            assert inc.map(range(20)).result(timeout=PATIENCE) == list(range(1, 21))

        main()
