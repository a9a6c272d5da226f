"""Section 5 on any runner: futures as arguments, failed upstreams, `wait_for`, annotations, large values."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from shoal import allow_failure, flow, opaque, quote, task, unmapped
from shoal.exceptions import CancelledRun, UpstreamTaskError
from shoal.futures import TaskFuture
from shoal.states import Completed, Failed
from shoal.testing.base import SuiteBase, covers, in_flow
from shoal.testing.samples import (
    BoomError,
    Box,
    Model,
    Pair,
    Traced,
    add,
    boom,
    hold,
    identity,
    inc,
    note,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.task_runners import TaskRunner
    from shoal.testing.tools import Signals

__all__ = ["DependencyTests"]

#: Containers around a future of 2, and what the task receives.
CONTAINERS: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "list": (lambda f: [1, f], [1, 2]),
    "tuple": (lambda f: (f, f), (2, 2)),
    "set": (lambda f: {f, 5}, {2, 5}),
    "frozenset": (lambda f: frozenset([f]), frozenset([2])),
    "dict-value": (lambda f: {"a": {"b": f}}, {"a": {"b": 2}}),
    "dict-key": (lambda f: {f: "v"}, {2: "v"}),
    "named-tuple": (lambda f: Pair(f, [f]), Pair(2, [2])),
    "dataclass": (lambda f: Box(Box([f])), Box(Box([2]))),
    "pydantic": (lambda f: Model(content=[f]), Model(content=[2])),
    "deep": (lambda f: [({"a": [Box({"b": (f,)})]},)], [({"a": [Box({"b": (2,)})]},)]),
    "annotated": (lambda f: [allow_failure([opaque(f)])], [[2]]),
}

#: What `wait_for` may be, made of a future.
SHAPES: dict[str, Callable[[Any], Any]] = {
    "one": lambda f: f,
    "list": lambda f: [f],
    "nested": lambda f: [[f], ()],
    "tuple": lambda f: (f, f),
    "set": lambda f: {f},
    "allowed": allow_failure,
    "allowed-list": lambda f: [allow_failure([f])],
    "state": lambda f: [Completed(), f],
    "iterator": lambda f: iter([f]),
}


class DependencyTests(SuiteBase):
    """Section 5."""

    # ------------------------------------------------------------------ values of upstreams

    @covers("5.1")
    def test_futures_in_containers(self, runner: TaskRunner) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            for kind, (wrap, expected) in CONTAINERS.items():
                future = inc.submit(1)
                assert identity.submit(wrap(future)).result() == expected, kind
                assert identity.submit(x=wrap(future)).result() == expected, kind

        main()

    @covers("5.1")
    def test_cycles_and_shared_parts(self, runner: TaskRunner) -> None:
        @task
        def look(x: Any) -> Any:
            return x[0] is x[1], x[2] is x, x[0]

        @flow(task_runner=runner)
        def main() -> None:
            shared = [inc.submit(1)]
            cyclic: list[Any] = [shared, shared]
            cyclic.append(cyclic)
            assert look.submit(cyclic).result() == (True, True, [2])

        main()

    @covers("5.1")
    def test_states_as_arguments(self, runner: TaskRunner) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            assert identity.submit([Completed(data=3)]).result() == [3]
            state = inc.submit(1, return_state=True)
            assert add.submit(state, state).result() == 4
            bad = identity.submit(Failed("no good"))
            bad.wait()
            assert bad.state.name == "NotReady"
            assert isinstance(identity.submit(allow_failure(Failed("no"))).result(), Exception)

        main()

    @covers("5.2")
    def test_graphs(self, runner: TaskRunner) -> None:
        @task
        def total(numbers: Any) -> Any:
            return sum(numbers)

        @flow(task_runner=runner)
        def main() -> None:
            root = inc.submit(0)
            left, right = add.submit(root, 1), add.submit(root, 2)
            assert add.submit(left, right).result() == 5
            wide = [add.submit(root, n) for n in range(200)]
            assert total.submit(wide).result() == 200 + sum(range(200))
            assert total.submit(inc.map(wide)).result() == 400 + sum(range(200))

        main()

    @covers("5.2")
    def test_a_chain_of_a_thousand_with_one_slot(self, single_runner: TaskRunner) -> None:
        @flow(task_runner=single_runner)
        def main() -> Any:
            link: Any = 0
            for _ in range(1000):
                link = inc.submit(link)
            return link.result()

        assert main() == 1000

    @covers("5.2", needs="concurrent")
    def test_waiting_for_an_upstream_holds_no_slot(
        self, runner: TaskRunner, signals: Signals
    ) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            first = hold.submit(signals, "go", 1)
            waiting = [inc.submit(first) for _ in range(20)]
            assert [inc.submit(n).result() for n in range(5)] == [1, 2, 3, 4, 5]
            assert not any(future.done() for future in waiting)
            signals.set("go")
            assert [future.result() for future in waiting] == [2] * 20

        main()

    # ------------------------------------------------------------------ failed upstreams

    @covers("5.3")
    def test_a_failed_upstream(self, runner: TaskRunner, signals: Signals) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            failed = boom.submit("the first")
            after = note.submit(signals, "log", failed)
            last = note.submit(signals, "log", [after])
            for future in (after, last):
                with pytest.raises(UpstreamTaskError, match="boom") as caught:
                    future.result()
                assert caught.value.run_name == failed.name
                assert caught.value.task_name == "boom"
                assert isinstance(caught.value.__cause__, BoomError)
                assert future.done()
                assert future.state.name == "NotReady"
                assert future.state.is_pending()
                assert isinstance(future.exception(), UpstreamTaskError)

        main()
        assert signals.lines("log") == []

    @covers("5.3", needs="concurrent")
    def test_a_failure_cascades_when_it_comes_later(
        self, runner: TaskRunner, signals: Signals
    ) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            first = hold.submit(signals, "go", "text")
            failed = boom.submit(first)
            link: Any = failed
            links = []
            for _ in range(100):
                link = inc.submit(link)
                links.append(link)
            mapped = add.map([1, 2], unmapped(failed))
            signals.set("go")
            with pytest.raises(UpstreamTaskError, match="boom"):
                link.result()
            with pytest.raises(UpstreamTaskError, match="boom"):
                mapped.result()
            assert {future.state.name for future in [*links, *mapped]} == {"NotReady"}

        main()

    @covers("5.3", "2.2")
    def test_a_direct_call_with_a_failed_upstream(
        self, runner: TaskRunner, signals: Signals
    ) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            failed = boom.submit()
            with pytest.raises(UpstreamTaskError, match="boom"):
                note(signals, "log", failed)  # type: ignore[arg-type, unused-ignore]
            assert note(signals, "log", failed, return_state=True).name == "NotReady"

        main()
        assert signals.lines("log") == []

    @covers("5.4")
    def test_allow_failure(self, runner: TaskRunner) -> None:
        @task
        def describe(x: Any) -> Any:
            errors = x if isinstance(x, list) else [x]
            return [f"{type(error).__name__}: {error}" for error in errors]

        @flow(task_runner=runner)
        def main() -> None:
            failed, good = boom.submit("no"), inc.submit(1)
            not_ready = inc.submit(failed)
            assert describe.submit(allow_failure(failed)).result() == ["BoomError: no"]
            assert describe.submit(allow_failure([failed, good])).result()[1] == "int: 2"
            cascaded = describe.submit(allow_failure(not_ready)).result()
            assert cascaded[0].startswith("UpstreamTaskError")
            assert describe.map(allow_failure([failed, good])).result() == [
                ["BoomError: no"],
                ["int: 2"],
            ]
            assert describe.map([1, 2], wait_for=[allow_failure(failed)]).result() == [
                ["int: 1"],
                ["int: 2"],
            ]

        main()

    @covers("5.4", "7.4", needs="concurrent")
    def test_allow_failure_of_cancelled_runs(self, runner: TaskRunner, signals: Signals) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            waiting = inc.submit(hold.submit(signals, "go"))
            assert waiting.cancel()
            signals.set("go")
            assert isinstance(identity.submit(allow_failure(waiting)).result(), CancelledRun)
            with pytest.raises(UpstreamTaskError):
                identity.submit(waiting).result()

        main()

    # ------------------------------------------------------------------ wait_for

    @covers("5.5")
    def test_wait_for(self, runner: TaskRunner, signals: Signals) -> None:
        @task
        def look(log: str) -> Any:
            return signals.lines(log)

        @flow(task_runner=runner)
        def main() -> None:
            for kind, shape in SHAPES.items():
                first = note.submit(signals, kind, "first")
                assert look.submit(kind, wait_for=shape(first)).result() == ["first"], kind

        main()

    @covers("5.5")
    def test_wait_for_on_maps_and_direct_calls(self, runner: TaskRunner, signals: Signals) -> None:
        @task
        def look(x: Any) -> Any:
            return x, signals.lines("order")

        @flow(task_runner=runner)
        def main() -> None:
            first = note.submit(signals, "order", "first")
            assert look.map([1, 2], wait_for=first).result() == [(1, ["first"]), (2, ["first"])]
            second = note.submit(signals, "order", "second")
            assert look(3, wait_for=[second]) == (3, ["first", "second"])
            lines = note.map(signals, "order", ["a", "b", "c"])
            assert len(look.submit(4, wait_for=lines).result()[1]) == 5

        main()

    @covers("5.5")
    def test_wait_for_values(self, runner: TaskRunner, signals: Signals) -> None:
        @flow(task_runner=runner)
        def nested() -> list[str]:
            return signals.lines("order")

        @flow(task_runner=runner)
        def main() -> None:
            value = inc(1)
            waits = [value, None, {"a": [note.submit(signals, "order", "first")]}]
            assert inc.submit(1, wait_for=waits).result() == 2
            assert signals.lines("order") == ["first"]
            assert inc.submit(1, wait_for=value).result() == inc(1, wait_for=[value])
            assert inc.map([1], wait_for=[[value], None]).result() == [2]
            assert nested(wait_for=[value]) == ["first"]

        main()

    @covers("5.5", "5.3")
    def test_wait_for_a_failed_run(self, runner: TaskRunner, signals: Signals) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            failed = boom.submit()
            waits = note.submit(signals, "log", "never", wait_for=[failed])
            mapped = inc.map([1, 2], wait_for=failed)
            for future in (waits, *mapped):
                with pytest.raises(UpstreamTaskError):
                    future.result()
                assert future.state.name == "NotReady"
            with pytest.raises(UpstreamTaskError):
                note(signals, "log", "never", wait_for=[failed])
            allowed = note.submit(signals, "log", "yes", wait_for=[allow_failure(failed)])
            assert allowed.result() == "yes"

        main()
        assert signals.lines("log") == ["yes"]

    # ------------------------------------------------------------------ annotations

    @covers("5.6")
    def test_quote_and_opaque(self, runner: TaskRunner) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            assert identity.submit(quote([1, {"a": 2}])).result() == [1, {"a": 2}]
            assert identity.submit(opaque(inc.submit(1))).result() == 2
            state = Completed(data=1)
            assert identity.submit([quote(state)]).result() == [state]
            assert add.map([1, 2], quote(5)).result() == [6, 7]
            assert add.map([[1], [2]], unmapped(quote([5]))).result() == [[1, 5], [2, 5]]

        main()

    @covers("5.6", needs="shares_memory")
    def test_quoted_futures_stay_futures(self, runner: TaskRunner) -> None:
        @task
        def kinds(x: Any) -> Any:
            return [isinstance(item, TaskFuture) for item in x]

        @flow(task_runner=runner)
        def main() -> None:
            future = inc.submit(1)
            assert kinds.submit(quote([future, 1])).result() == [True, False]
            assert kinds.submit(opaque([future, 1])).result() == [True, False]

        main()

    # ------------------------------------------------------------------ large values

    @covers("5.7", "2.3")
    def test_large_values(self, runner: TaskRunner) -> None:
        @task
        def make(size: int) -> bytes:
            return bytes(size)

        @task
        def measure(data: Any) -> int:
            return len(data)

        @flow(task_runner=runner)
        def main() -> None:
            for size in (65_535, 65_537, 3_000_000):
                big = make.submit(size)
                assert measure.submit(big).result() == size
                assert measure.map([big, big]).result() == [size, size]
                assert len(big.result()) == size
            here = bytes(3_000_000)
            assert measure.map([here, b"x"]).result() == [3_000_000, 1]
            assert add.map([b"a", b"b"], unmapped(here)).result()[1][:1] == b"b"

        main()

    @covers("5.7", needs=("isolated", "keeps_values"))
    def test_a_large_value_passes_the_driver_by(self, runner: TaskRunner, signals: Signals) -> None:
        @task
        def make() -> Any:
            return Traced(signals, size=1_000_000)

        @task
        def measure(x: Any) -> int:
            return len(x.payload)

        assert in_flow(runner, lambda: measure.submit(make.submit()).result()) == 1_000_000
        assert f"unpickled {os.getpid()}" not in signals.lines("traced")

    @covers("5.7", needs=("isolated", "keeps_values"))
    def test_a_large_argument_is_shipped_once(self, runner: TaskRunner, signals: Signals) -> None:
        @task
        def measure(number: int, x: Any) -> int:
            return len(x.payload) + number

        big = Traced(signals, size=1_000_000)
        values = in_flow(runner, lambda: measure.map(range(20), unmapped(big)).result())
        assert values == [1_000_000 + number for number in range(20)]
        pickled = signals.lines("traced").count(f"pickled {os.getpid()}")
        assert pickled <= 2, f"20 runs on two slots pickled it {pickled} times"
