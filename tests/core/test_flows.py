"""Flows: parameters, final states, retries, hooks, names, nesting (SPEC 3). How they end with their program: `test_runners_exit.py`."""

from __future__ import annotations

import functools
import itertools
import re
import sys
import threading
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, Unpack

import anyio
import anyio.lowlevel
import pydantic
import pytest
from shoal import Flow, State, flow, get_run_logger, runtime, tags, task
from shoal.exceptions import (
    CancelledRun,
    FailedRun,
    InvalidOption,
    MissingContextError,
    MissingExtraError,
    ParameterBindError,
    ParameterTypeError,
    ReservedArgumentError,
    RunNameError,
    UnknownRunner,
)
from shoal.states import (
    Cancelled,
    Cancelling,
    Completed,
    Crashed,
    Failed,
    NotReady,
    Paused,
    Running,
)
from shoal.task_runners import SequentialTaskRunner, ThreadPoolTaskRunner, registry
from shoal.testing.base import LOOPS
from shoal.testing.samples import BoomError, Box, Model, add, boom, identity, inc
from shoal.testing.tools import PATIENCE
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

if TYPE_CHECKING:
    from nowhere import Ghost  # type: ignore[import-not-found]

REPOSITORY = Path(__file__).parents[2]

# ---------------------------------------------------------------------- SPEC 3.1: the decorator


def plain_function(number: int = 1) -> int:
    """Doubles.

    At length.
    """
    return number * 2


def test_a_flow_knows_its_function() -> None:
    bare = flow(plain_function)
    assert isinstance(bare, Flow)
    assert bare.name == "plain-function"
    assert bare.__name__ == "plain_function"
    assert bare.__doc__ == plain_function.__doc__
    assert bare.__module__ == __name__
    assert bare.__wrapped__ is plain_function
    assert bare.description == "Doubles.\n\nAt length."
    assert bare(4) == 8
    named = flow(name="Named", description="says so", version="2")(plain_function)
    assert (named.name, named.description, named.version) == ("Named", "says so", "2")
    assert flow(name="of a lambda")(lambda: 3)() == 3
    assert "plain-function" in repr(bare)


def test_with_options() -> None:
    hooks: list[Any] = [lambda a_flow, run, state: None]
    first = flow(name="first", retries=2, timeout_seconds=9, on_failure=hooks)(plain_function)
    second = first.with_options(retries=5, timeout_seconds=None)
    assert (first.retries, first.timeout_seconds) == (2, 9)
    assert (second.retries, second.timeout_seconds, second.name) == (5, None, "first")
    second.on_failure(lambda a_flow, run, state: None)
    assert (len(first.on_failure_hooks), len(second.on_failure_hooks), len(hooks)) == (1, 2, 1)
    with pytest.raises(InvalidOption, match="colour"):
        first.with_options(colour="red")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("retries", -1),
        ("retries", 1.5),
        ("retries", "3"),
        ("retry_delay_seconds", -1),
        ("retry_delay_seconds", [1, 2]),
        ("timeout_seconds", -1),
        ("max_concurrency", 0),
        ("max_concurrency", -1),
        ("max_concurrency", True),
        ("max_concurrency", 2.0),
        ("max_concurrency", "4"),
        ("flow_run_name", 5),
        ("task_runner", 5),
        ("on_running", plain_function),
        ("on_completion", ["no function"]),
        ("on_failure", plain_function),
        ("on_crashed", [None]),
        ("on_cancellation", 3),
        ("colour", "red"),
    ],
)
def test_bad_options(option: str, value: Any) -> None:
    with pytest.raises(InvalidOption, match=option) as caught:
        flow(**{option: value})(plain_function)  # type: ignore[call-overload]
    assert caught.value.option == option
    assert isinstance(caught.value, ValueError)


def test_what_cannot_be_a_flow() -> None:
    with pytest.raises(InvalidOption, match="lambda"):
        flow(lambda: 1)
    with pytest.raises(InvalidOption, match="function"):
        flow(5)  # type: ignore[call-overload]
    with pytest.raises(InvalidOption, match="function"):
        flow(Path)

    def waits(wait_for: Any) -> None: ...

    def returns(return_state: Any) -> None: ...

    for function, argument in ((waits, "wait_for"), (returns, "return_state")):
        with pytest.raises(ReservedArgumentError, match=argument):
            flow(function)


def test_methods_as_flows() -> None:
    class Shop:
        def __init__(self, owner: str) -> None:
            self.owner = owner

        @flow
        def sell(self, amount: int) -> str:
            return f"{self.owner} sells {inc.submit(amount).result()}"

    ann, bob = Shop("ann"), Shop("bob")
    assert (ann.sell(1), bob.sell("2"), ann.sell(3)) == (
        "ann sells 2",
        "bob sells 3",
        "ann sells 4",
    )


class Stall:
    """Flows as methods, with the decorators in either order."""

    def __init__(self, owner: str) -> None:
        self.owner = owner

    @flow(flow_run_name="{self.owner} sells {amount}")
    def sell(self, amount: int) -> Any:
        return runtime.flow_run.name, runtime.flow_run.parameters, inc.submit(amount).result()

    @flow
    async def sell_later(self, amount: int) -> str:
        return f"{self.owner} sells {await inc.submit(amount)}"

    @flow
    def stream(self, upto: int) -> Any:
        for number in range(upto):
            yield f"{self.owner} {number}"

    @flow
    @classmethod
    def below(cls, amount: int) -> str:
        return f"{cls.__name__} {amount}"

    @classmethod
    @flow(flow_run_name="{cls.__name__}")
    def above(cls, amount: int) -> str:
        assert runtime.flow_run.name == cls.__name__
        return f"{cls.__name__} {amount}"

    @flow
    @staticmethod
    def plain_below(amount: int) -> int:
        return amount

    @staticmethod
    @flow
    def plain_above(amount: int) -> int:
        return amount


class Booth(Stall): ...


def test_flows_of_instances() -> None:
    ann, bob = Stall("ann"), Booth("bob")
    given: Any = "1"
    assert ann.sell(given) == ("ann sells 1", {"amount": 1}, 2)
    assert bob.sell(2) == ("bob sells 2", {"amount": 2}, 3)
    assert bob.sell.with_options(name="sale")(3)[0] == "bob sells 3"
    assert Stall.sell(ann, 1)[2] == 2
    assert anyio.run(bob.sell_later, given) == "bob sells 2"
    assert list(ann.stream(2)) == ["ann 0", "ann 1"]
    assert list(bob.stream(1)) == ["bob 0"]
    with pytest.raises(ParameterTypeError, match="amount"):
        ann.sell("much")  # type: ignore[arg-type, call-overload, unused-ignore]


def test_flows_of_classes() -> None:
    given: Any = "1"
    for method in ("below", "above"):
        assert getattr(Stall, method)(given) == getattr(Stall("ann"), method)(1) == "Stall 1"
        assert getattr(Booth, method)(given) == getattr(Booth("bob"), method)(1) == "Booth 1"
        if method == "above" and sys.version_info >= (3, 13):
            continue  # it is bound as any function is there, so its methods are those of the flow
        changed = getattr(Booth, method).with_options(retries=1)
        assert (changed(given), changed.retries) == ("Booth 1", 1)
    for method in ("plain_below", "plain_above"):
        assert getattr(Stall, method)(given) == getattr(Stall("ann"), method)(given) == 1
        assert getattr(Booth, method).with_options(name="other")(given) == 1


def test_methods_as_flows_in_tasks() -> None:
    """On a worker, too: what the flow is bound to travels with the task."""
    ann = Stall("ann")

    @task
    def calls() -> Any:
        return ann.sell(4)[2], Stall.above(5)

    @flow(task_runner="processes:1")
    def main() -> Any:
        return calls.submit()

    assert main() == (5, "Stall 5")


def test_generators_as_flows() -> None:
    @flow
    def count(upto: int) -> Any:
        for number in range(upto):
            yield inc.submit(number)

    assert list(count(3)) == [1, 2, 3]
    assert count(3, return_state=True).result() == [1, 2, 3]


def test_a_generator_flow_is_a_generator() -> None:
    calls: list[str] = []

    def told(a_flow: Any, run: Any, state: Any) -> None:
        calls.append(state.name)

    hooks: Any = {"on_running": [told], "on_completion": [told], "on_cancellation": [told]}

    @flow(retries=1, **hooks)
    def echo(number: int) -> Any:
        try:
            given = yield number
            while True:
                try:
                    given = yield given, runtime.flow_run.run_count
                except BoomError as error:
                    given = error.text
                if given == "fail":
                    raise BoomError("once more")
        finally:
            calls.append("left")

    stream = echo("1")
    assert calls == [], "nothing happens before the first item is asked for"
    assert next(stream) == 1
    assert stream.send("a") == ("a", 1)
    assert stream.throw(BoomError("b")) == ("b", 1)
    assert runtime.flow_run.id is None, "its context is its own"
    assert stream.send("fail") == 1, "the next attempt emits again"
    assert stream.send("c") == ("c", 2)
    stream.close()
    assert calls == ["Running", "left", "Running", "left", "Cancelled"]
    with pytest.raises(ParameterTypeError):
        next(echo("one"))


def test_a_yielded_run_that_failed_fails_the_flow() -> None:
    @flow
    def main() -> Any:
        yield inc.submit(1)
        yield boom.submit("on the way")
        yield inc.submit(3)

    stream = main()
    assert next(stream) == 2
    with pytest.raises(BoomError, match="on the way"):
        next(stream)


@pytest.mark.parametrize("loop", LOOPS)
def test_an_async_generator_flow_that_is_left_early(loop: str) -> None:
    ends: list[str] = []

    @flow(on_cancellation=[lambda a_flow, run, state: ends.append(str(state))])
    async def count() -> Any:
        try:
            yield 1
            yield 2
        finally:
            await anyio.lowlevel.checkpoint()
            ends.append("left")

    async def main() -> None:
        async with aclosing(count()) as stream:
            assert await anext(stream) == 1
        assert [item async for item in count()] == [1, 2]

    anyio.run(main, backend=loop)
    assert ends == ["left", "Cancelled('the generator was closed')", "left"]


# ---------------------------------------------------------------------- SPEC 3.1, 3.3, 11.3: runners


@pytest.mark.parametrize(
    ("option", "kind"),
    [
        (None, ThreadPoolTaskRunner),
        (ThreadPoolTaskRunner(3), ThreadPoolTaskRunner),
        (SequentialTaskRunner, SequentialTaskRunner),
        ("threads", ThreadPoolTaskRunner),
        ("threads:4", ThreadPoolTaskRunner),
        ("sequential", SequentialTaskRunner),
    ],
    ids=str,
)
def test_runners_by_instance_class_and_name(option: Any, kind: type[Any]) -> None:
    a_flow = flow(task_runner=option)(plain_function)
    made = a_flow.make_runner()
    assert type(made) is kind
    assert made is not option
    assert a_flow(3) == 6


def test_the_environment_names_the_default_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_TASK_RUNNER", "sequential")
    threads: list[int] = []

    @task
    def where() -> None:
        threads.append(threading.get_ident())

    @flow
    def main() -> None:
        where.submit()

    main()
    assert threads == [threading.get_ident()]
    assert isinstance(
        flow(task_runner="threads")(plain_function).make_runner(), ThreadPoolTaskRunner
    )


def test_runners_that_there_are_not() -> None:
    """Refused where they are written, and not where the flow runs (SPEC 3.1)."""
    message = "flow 'plain-function': there is no task runner 'treads:4'; did you mean 'threads'?"
    for make in (
        flow(task_runner="treads:4"),
        lambda fn: flow(fn).with_options(task_runner="treads:4"),
    ):
        with pytest.raises(UnknownRunner, match=re.escape(message)) as caught:
            make(plain_function)
        assert "threads" in caught.value.known
        assert isinstance(caught.value, InvalidOption)
    with pytest.raises(InvalidOption, match="max_workers"):
        flow(task_runner="threads:many")(plain_function)()


@pytest.mark.parametrize(
    "runner",
    ["threads:4", "processes", "dask", "tcp://host:8786", "dask:tcp://host:8786", "ray://host:1"],
)
def test_naming_a_runner_of_ours_looks_nothing_up(
    monkeypatch: pytest.MonkeyPatch, runner: str
) -> None:
    """Nor must its package be installed where the flow is only defined (SPEC 11.3)."""
    monkeypatch.setattr("shoal.task_runners.registry.installed", None)
    assert flow(task_runner=runner)(plain_function).task_runner == runner


@pytest.mark.parametrize(
    ("name", "address"), [("dask", "tcp://host:8786"), ("ray", "ray://host:10001")]
)
def test_an_address_may_stand_after_the_name_of_its_runner(name: str, address: str) -> None:
    pytest.importorskip(f"shoal_{name}")
    by_both = registry.load(f"{name}:{address}")
    assert by_both == registry.load(address)
    assert by_both.settings()["address"] == address


@pytest.mark.parametrize("runner", ["sequential", "threads:2", "processes:2"])
def test_loading_a_runner_of_ours_looks_nothing_up(
    monkeypatch: pytest.MonkeyPatch, runner: str
) -> None:
    """To read what is installed takes longer than to start threads (SPEC 11.3)."""
    expected = registry.installed()[runner.partition(":")[0]].load()
    monkeypatch.setattr(registry, "installed", None)
    assert type(registry.load(runner)) is expected


def test_a_misspelt_option_is_named_with_its_flow() -> None:
    message = "flow 'plain-function': there is no option 'task_runer'; did you mean 'task_runner'?"
    with pytest.raises(InvalidOption, match=re.escape(message)):
        flow(task_runer="threads")(plain_function)  # type: ignore[call-overload]
    with pytest.raises(InvalidOption, match="flow 'mine'"):
        flow(task_runer="threads", name="mine")(plain_function)  # type: ignore[call-overload]


def test_a_runner_of_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.task_runners.registry.installed", dict)
    for text, package in (
        ("dask", "shoal-dask"),
        ("tcp://host:8786", "shoal-dask"),
        ("ray", "shoal-ray"),
        ("ray://host:10001", "shoal-ray"),
    ):
        with pytest.raises(MissingExtraError, match=package) as caught:
            flow(task_runner=text)(plain_function)()
        command = caught.value.command
        assert command in str(caught.value)
        folders = [word for word in command.split() if word.startswith("./")]
        assert folders == ["./packages/shoal", f"./packages/{package}"]
        assert all((REPOSITORY / folder / "pyproject.toml").is_file() for folder in folders)


def test_a_runner_that_only_keeps_the_protocol() -> None:
    """SPEC 11.1: `TaskRunner` is a protocol; nothing of `BaseTaskRunner` is asked for beyond it."""
    from shoal.task_runners import TaskRunner

    class Delegating:
        name = "delegating"

        def __init__(self) -> None:
            self.inner = ThreadPoolTaskRunner(1)

        def submit(self, a_task: Any, parameters: Any, wait_for: Any = None) -> Any:
            return self.inner.submit(a_task, parameters, wait_for)

        def map(self, a_task: Any, parameters: Any, wait_for: Any = None) -> Any:
            return self.inner.map(a_task, parameters, wait_for)

        def cancel_all(self) -> None:
            self.inner.cancel_all()

        def duplicate(self) -> Delegating:
            return Delegating()

        def __enter__(self) -> Self:
            self.inner.__enter__()
            return self

        def __exit__(self, *error: object) -> None:
            self.inner.__exit__(*error)  # type: ignore[arg-type]

    runner = Delegating()
    assert isinstance(runner, TaskRunner)

    @flow(task_runner=runner)
    def main() -> Any:
        return inc.submit(1).result(), inc.map([1, 2]).result()

    assert main() == (2, [2, 3])


def test_the_flows_own_runner_is_left_alone() -> None:
    """SPEC 3.3: a run enters a duplicate."""
    mine = ThreadPoolTaskRunner(1)

    @flow(task_runner=mine)
    def main() -> Any:
        return inc.submit(1).result()

    assert main() == 2
    with mine as entered:
        assert main() == 2, "also while mine is entered by myself"
        assert entered.submit(inc, {"x": 2}).result() == 3


# ---------------------------------------------------------------------- SPEC 3.2: parameters


@dataclass
class Config:
    retries: int
    name: str = "config"


@flow
def typed(count: int, config: Config, path: Path, many: list[float], model: Model) -> Any:
    """Says what it was given."""
    return count, config, path, many, model


def test_parameters_are_coerced() -> None:
    given = ("3", {"retries": "4"}, "/tmp/x", ("1.5", 2), {"content": 1})
    count, config, path, many, model = typed(*given)  # type: ignore[arg-type, call-overload, misc, unused-ignore]
    assert (count, config, path, many) == (3, Config(4), Path("/tmp/x"), [1.5, 2.0])
    assert model == Model(content=1)


def test_starred_parameters_are_coerced() -> None:
    @flow
    def main(*numbers: int, **named: float) -> Any:
        return numbers, named, runtime.flow_run.parameters

    assert main("1", 2, a="0.5") == (  # type: ignore[arg-type, call-overload, unused-ignore]
        (1, 2),
        {"a": 0.5},
        {"numbers": (1, 2), "named": {"a": 0.5}},
    )


def test_a_bad_parameter() -> None:
    entered: list[Any] = []
    seen: list[str] = []

    @flow(name="strict", on_failure=[lambda a_flow, run, state: seen.append(state.name)])
    def strict(count: int, config: Config) -> None:
        entered.append(count)

    with pytest.raises(ParameterTypeError) as caught:
        strict("three", Config(1))  # type: ignore[arg-type, call-overload, unused-ignore]
    error = caught.value
    assert (error.flow_name, error.parameter) == ("strict", "count")
    assert "three" in str(error.value)
    assert isinstance(error, TypeError)
    assert all(part in str(error) for part in ("strict", "count", "three"))
    state = strict(1, {"retries": "many"}, return_state=True)
    assert state.is_failed()
    with pytest.raises(ParameterTypeError, match=r"config\.retries"):
        state.result()
    assert entered == []
    assert seen == ["Failed", "Failed"]


def test_wrong_arguments() -> None:
    with pytest.raises(ParameterBindError, match="plain-function") as caught:
        flow(plain_function)(1, 2)  # type: ignore[call-overload]
    assert isinstance(caught.value, TypeError)
    with pytest.raises(ParameterBindError, match="colour"):
        flow(plain_function)(colour="red")  # type: ignore[call-overload]
    assert flow(plain_function)(1, 2, return_state=True).is_failed()


def test_without_validation() -> None:
    @flow(validate_parameters=False)
    def loose(count: int, *more: int) -> Any:
        return count, more

    assert loose("three", "four") == ("three", ("four",))  # type: ignore[arg-type, call-overload, unused-ignore]


def test_what_is_not_annotated_passes_as_it_is() -> None:
    @flow
    def main(x, y: Any, z: Box) -> Any:  # type: ignore[no-untyped-def]
        return x, y, z

    x, y, z = object(), [1], Box(1)
    got = main(x, y, z)
    assert (got[0] is x, got[1] is y, got[2] is z) == (True, True, True)


def test_defaults_are_parameters_too() -> None:
    @flow
    def main(count: int = 3, *, name: str = "x") -> Any:
        return runtime.flow_run.parameters

    assert main() == {"count": 3, "name": "x"}
    assert main("4") == {"count": 4, "name": "x"}  # type: ignore[arg-type, call-overload, unused-ignore]


def test_defaults_are_validated() -> None:
    @flow
    def main(box: Model = {"content": 1}, count: int = "2", many: list[int] = []) -> Any:  # type: ignore[assignment]  # noqa: B006
        many.append(count)
        return box, count, many

    for _ in range(2):
        assert main() == (Model(content=1), 2, [2])

    @flow
    def implicit(count: int = None) -> int | None:  # type: ignore[assignment]  # noqa: RUF013
        return count

    assert (implicit(), implicit(None), implicit("2")) == (None, None, 2)  # type: ignore[arg-type]

    @flow
    def wrong(count: int = "two") -> None:  # type: ignore[assignment]
        raise AssertionError

    with pytest.raises(ParameterTypeError) as caught:
        wrong()
    assert caught.value.parameter == "count"
    assert wrong(1, return_state=True).is_failed()
    assert wrong.with_options(validate_parameters=False)(return_state=True).is_failed()

    @flow
    def field(count: int = pydantic.Field(default=3, gt=2)) -> int:
        return count

    assert (field(), field("4")) == (3, 4)  # type: ignore[arg-type]
    with pytest.raises(ParameterTypeError, match="greater than 2"):
        field(1)


class Odd:
    """A type that pydantic knows nothing of."""


class Going(Protocol):
    """A type that it can make nothing of."""

    def go(self) -> None: ...


@dataclass
class Job:
    """A dataclass without a word about its fields."""

    name: str
    odd: Odd
    times: int = 1


@dataclass
class Haunted:
    """A dataclass of a type that only type checkers see."""

    ghost: Ghost
    times: int = 1


class Options(TypedDict, total=False):
    """Keyword arguments."""

    count: int
    odd: Odd


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Odd, Odd()),
        (Odd | None, Odd()),
        (Job, Job("a", Odd())),
        (Job | None, Job("a", Odd())),
        (Haunted, Haunted(1)),
        (Haunted | None, Haunted(1)),
        (Going, Odd()),
        ("Ghost", Odd()),
        (threading.Lock, threading.Lock()),
        (Self, Odd()),
    ],
    ids=lambda value: str(value).partition(" at 0x")[0],
)
def test_a_parameter_of_an_odd_type(annotation: Any, value: Any) -> None:
    def function(value, times=1, *odds, **named):  # type: ignore[no-untyped-def]
        return value, times, odds, named

    function.__annotations__ = {
        "value": annotation, "times": int, "odds": Odd, "named": Odd, "return": "Nowhere"
    }  # fmt: skip
    odd = Odd()
    got, times, odds, named = flow(function)(value, "2", odd, more=odd)
    assert got is value
    assert (times, odds, named) == (2, (odd,), {"more": odd})


def test_what_is_around_an_odd_type_is_converted() -> None:
    odd = Odd()

    @flow
    def main(job: Job, jobs: list[Job], **options: Unpack[Options]) -> Any:
        return job, jobs, options

    given: Any = {"name": "a", "odd": odd, "times": "2"}
    job, jobs, options = main(given, [given], count="3", odd=odd)  # type: ignore[typeddict-item]
    assert job == jobs[0] == Job("a", odd, 2)
    assert options == {"count": 3, "odd": odd}
    with pytest.raises(ParameterTypeError) as caught:
        main(job, [{"name": "a", "odd": odd, "times": "x"}])  # type: ignore[list-item]
    assert caught.value.parameter == "jobs[0].times"


def test_functions_of_all_kinds_are_validated() -> None:
    def add_up(a: int, b: int) -> int:
        return a + b

    class Adder:
        def __call__(self, a: int) -> int:
            return a + 1

    class Shop:
        @flow
        @classmethod
        def named(cls, number: int) -> tuple[str, int]:
            return cls.__name__, number

        @flow
        @staticmethod
        def plain(number: int) -> int:
            return number

    class Kiosk(Shop):
        pass

    assert flow(functools.partial(add_up, 1), name="partial")(b="2") == 3
    assert flow(Adder(), name="object")("1") == 2
    given: Any = "1"
    assert Kiosk.named(given) == Kiosk().named.with_options(retries=1)(given) == ("Kiosk", 1)
    assert Shop.plain(given) == Shop().plain(given) == 1


def test_futures_are_resolved_before_they_are_validated() -> None:
    @flow
    def inner(count: int) -> int:
        return count

    @flow
    def outer() -> Any:
        with pytest.raises(ParameterTypeError, match="count"):
            inner(identity.submit("three"))  # type: ignore[arg-type, call-overload, unused-ignore]
        return inner(identity.submit("4"))  # type: ignore[arg-type, call-overload, unused-ignore]

    assert outer() == 4


# ---------------------------------------------------------------------- SPEC 3.4: final states


def final(body: Callable[[], Any], **options: Any) -> State[Any]:
    return flow(name="main", **options)(body)(return_state=True)  # type: ignore[call-overload, no-any-return]


def test_plain_values() -> None:
    for value in (None, 0, "", [], {}, [1, 2], (), {"a": 1}, object()):
        state = final(lambda: value)  # noqa: B023
        assert state.is_completed()
        assert state.result() is value or state.result() == value


def test_returned_states() -> None:
    assert final(lambda: Completed(data=3)).result() == 3
    assert str(final(lambda: Failed("no good"))) == "Failed('no good')"
    assert final(Cancelled).is_cancelled()
    assert final(Crashed).is_crashed()
    assert final(lambda: Completed(name="Skipped")).name == "Skipped"
    with pytest.raises(FailedRun, match="no good"):
        flow(name="main")(lambda: Failed("no good"))()
    with pytest.raises(CancelledRun):
        flow(name="main")(Cancelled)()


def test_returned_collections_of_states() -> None:
    assert final(lambda: [Completed(data=1), Completed(data=2)]).is_completed()
    assert str(final(lambda: [Completed(), Failed("a"), Failed("b")])) == (
        "Failed('2/3 states failed.')"
    )
    assert final(lambda: (Completed(), Failed("a"), Cancelled())).is_cancelled()
    assert final(lambda: {Crashed("x"), Completed()}).is_failed()
    mixed = final(lambda: [Completed(), 5])
    assert mixed.is_completed()
    assert mixed.result() == [Completed(), 5]


def test_returned_futures_and_states_together() -> None:
    assert final(lambda: [inc.submit(1), Completed(data=5)]).is_completed()
    state = final(lambda: (boom.submit(), Completed(), inc.submit(1)))
    assert str(state) == "Failed('1/3 states failed.')"


def test_a_returned_future_that_is_not_ready() -> None:
    state = final(lambda: inc.submit(boom.submit()))
    assert not state.is_completed()
    with pytest.raises(Exception, match="boom"):
        state.result()


def test_a_nested_failure_in_the_value_fails_the_flow() -> None:
    state = final(lambda: {"good": inc.submit(1), "bad": boom.submit("nested")})
    assert state.is_failed()
    with pytest.raises(BoomError, match="nested"):
        state.result()


def test_an_exception() -> None:
    def body() -> None:
        raise BoomError("in the flow", code=5)

    state = final(body)
    assert state.is_failed()
    assert "in the flow" in str(state)
    with pytest.raises(BoomError) as caught:
        flow(body)()
    assert caught.value.code == 5
    assert caught.traceback[-1].name == "body"


@pytest.mark.parametrize("error", [CancelledRun(), SystemExit(2), KeyboardInterrupt()], ids=repr)
def test_exceptions_that_say_more(error: BaseException) -> None:
    seen: list[str] = []
    states: list[str] = []

    def body() -> None:
        seen.append("entered")
        raise error

    a_flow = flow(
        body,
        retries=3,
        on_crashed=[lambda a_flow, run, state: states.append(state.name)],
        on_cancellation=[lambda a_flow, run, state: states.append(state.name)],
        on_failure=[lambda a_flow, run, state: states.append("failed")],
    )  # type: ignore[call-overload]
    with pytest.raises(type(error)):
        a_flow()
    assert seen == ["entered"], "such an end is not retried"
    assert states == ["Cancelled" if isinstance(error, CancelledRun) else "Crashed"]


# ---------------------------------------------------------------------- SPEC 3.6: retries


def test_retries() -> None:
    counts: list[int] = []
    delays: list[float] = []

    @flow(retries=3, retry_delay_seconds=0.05)
    def main() -> str:
        counts.append(runtime.flow_run.run_count)
        delays.append(time.monotonic())
        if len(counts) < 3:
            raise BoomError("again")
        return "done"

    assert main() == "done"
    assert counts == [1, 2, 3]
    assert all(after - before >= 0.045 for before, after in itertools.pairwise(delays))


def test_retries_run_out() -> None:
    tries: list[int] = []

    @flow(retries=2)
    def main() -> None:
        tries.append(1)
        raise BoomError(f"attempt {len(tries)}")

    with pytest.raises(BoomError, match="attempt 3"):
        main()
    assert len(tries) == 3


def test_a_returned_failure_is_retried() -> None:
    tries: list[int] = []

    @flow(retries=2)
    def main() -> Any:
        tries.append(1)
        return [boom.submit(), inc.submit(1)] if len(tries) < 3 else "done"

    assert main() == "done"


@pytest.mark.parametrize("loop", LOOPS)
def test_retries_of_async_flows(loop: str) -> None:
    tries: list[int] = []

    @flow(retries=2, retry_delay_seconds=0.01)
    async def main() -> Any:
        tries.append(1)
        if len(tries) < 3:
            await boom.submit()
        return "done"

    assert anyio.run(main, backend=loop) == "done"


@pytest.mark.parametrize("loop", LOOPS)
def test_an_async_flow_that_returns_an_awaitable(loop: str) -> None:
    @flow
    async def inner() -> int:
        return 7

    @task
    async def work() -> Any:
        return inner()

    @flow
    async def outer() -> Any:
        return inner()

    @flow
    async def of_tasks() -> Any:
        return work(), work.submit()

    @flow
    async def of_a_task() -> Any:
        return work()

    async def main() -> None:
        assert await outer() == 7
        assert await of_a_task() == 7
        assert (await work.with_options(name="direct")()) == 7
        coroutine, value = await of_tasks()
        assert value == 7
        assert await coroutine == 7, "only what is returned itself is awaited"

    anyio.run(main, backend=loop)


def test_a_returned_state_that_is_not_final() -> None:
    for state, end in (
        (Cancelling("c"), "Cancelled('c')"),
        (Running(), "Failed('Running() was returned, which is not final')"),
        (Paused(), "Failed('Paused() was returned, which is not final')"),
        (NotReady("n"), "Failed('n')"),
    ):
        assert str(flow(name="sync")(lambda: state)(return_state=True)) == end  # noqa: B023


# ---------------------------------------------------------------------- SPEC 8.1, 8.2, 1.5: hooks, names, context


def test_hooks_know_their_flow_run(caplog: pytest.LogCaptureFixture) -> None:
    problems: list[Any] = []

    def hook(a_flow: Any, run: Any, state: Any) -> None:
        get_run_logger().info("a hook at %s", state.name)
        assert (runtime.flow_run.id, runtime.task_run.id) == (run.id, None)
        assert inc(1) == 2
        with pytest.raises(MissingContextError) as caught:
            inc.submit(1)
        problems.append(caught.value)

    async def async_hook(a_flow: Any, run: Any, state: Any) -> None:
        await anyio.lowlevel.checkpoint()
        get_run_logger().info("an async hook at %s", state.name)

    both: Any = [hook, async_hook]

    @flow(on_running=both, on_completion=both, on_failure=both)
    def work(fails: bool) -> None:
        if fails:
            raise BoomError("no")

    @flow(on_running=both, on_completion=both)
    async def work_async() -> None: ...

    work(False)
    work(True, return_state=True)
    work("perhaps", return_state=True)  # type: ignore[call-overload]  # its body is not entered
    anyio.run(work_async)
    said = [record.getMessage() for record in caplog.records if "hook at" in record.getMessage()]
    names = ["Running", "Completed", "Running", "Failed", "Failed", "Running", "Completed"]
    assert said == [f"{who} at {name}" for name in names for who in ("a hook", "an async hook")]
    assert len(problems) == len(names)


def test_a_name_function_knows_the_run() -> None:
    def named() -> str:
        return f"{runtime.flow_run.flow_name} of {runtime.flow_run.parameters['day']}"

    @flow(flow_run_name=named)
    def etl(day: int) -> str | None:
        return runtime.flow_run.name

    assert etl(3) == "etl of 3"


@pytest.mark.parametrize("name", [5, b"name", ["name"]], ids=str)
def test_a_name_is_a_string(name: Any) -> None:
    for decorator, options in (
        (flow, ("name", "flow_run_name", "description", "version")),
        (task, ("name", "task_run_name", "description", "version")),
    ):
        for option in options:
            with pytest.raises(TypeError, match=option):
                decorator(**{option: name})(plain_function)  # type: ignore[operator]
    with pytest.raises(TypeError, match="not a string"):
        flow(flow_run_name=lambda: name)(plain_function)()


def test_hooks() -> None:
    calls: list[Any] = []

    def note(name: str) -> Any:
        return lambda a_flow, run, state: calls.append((name, a_flow.name, state.name))

    async def note_async(a_flow: Any, run: Any, state: Any) -> None:
        await anyio.lowlevel.checkpoint()
        calls.append(("async", run.name, state.name))

    def broken(a_flow: Any, run: Any, state: Any) -> None:
        raise ValueError("a broken hook")

    @flow(
        name="hooked",
        flow_run_name="the run",
        on_running=[note("r1"), broken, note("r2")],
        on_completion=[broken, note_async, note("c")],
        on_failure=[note("f")],
    )
    def main(fails: bool) -> None:
        if fails:
            raise BoomError("no")

    @main.on_failure
    def added(a_flow: Any, run: Any, state: Any) -> None:
        calls.append(("added", run.parameters, state.name))

    main(False)
    assert calls == [
        ("r1", "hooked", "Running"),
        ("r2", "hooked", "Running"),
        ("async", "the run", "Completed"),
        ("c", "hooked", "Completed"),
    ]
    calls.clear()
    with pytest.raises(BoomError):
        main(True)
    assert calls[2:] == [("f", "hooked", "Failed"), ("added", {"fails": True}, "Failed")]


def test_hooks_run_once_though_the_flow_is_retried() -> None:
    calls: list[str] = []
    tries: list[int] = []

    @flow(
        retries=2,
        on_failure=[lambda a_flow, run, state: calls.append("failure")],
        on_completion=[lambda a_flow, run, state: calls.append("completion")],
    )
    def main() -> None:
        tries.append(1)
        if len(tries) < 3:
            raise BoomError("again")

    main()
    assert calls == ["completion"]


@pytest.mark.parametrize("loop", LOOPS)
def test_hooks_of_async_flows(loop: str) -> None:
    calls: list[str] = []

    async def note(a_flow: Any, run: Any, state: Any) -> None:
        await anyio.sleep(0.001)
        calls.append(state.name)

    @flow(on_running=[note], on_completion=[note], on_cancellation=[note], on_crashed=[note])
    async def main(ends: bool) -> None:
        if not ends:
            await anyio.sleep(PATIENCE)

    async def cancel() -> None:
        with anyio.move_on_after(0.05):
            await main(False)

    anyio.run(main, True, backend=loop)
    assert calls == ["Running", "Completed"]
    calls.clear()
    anyio.run(cancel, backend=loop)
    assert calls == ["Running", "Cancelled"]


def test_names() -> None:
    def make() -> str:
        return "made"

    @flow
    def main(x: int = 5) -> Any:
        return runtime.flow_run.name

    assert re.fullmatch(r"[a-z]+-[a-z]+", main())
    assert main.with_options(flow_run_name="x is {x:02}")() == "x is 05"
    assert main.with_options(flow_run_name=make)() == "made"
    with pytest.raises(RunNameError, match="missing"):
        main.with_options(flow_run_name="{missing}")()


def test_what_a_flow_knows_of_itself() -> None:
    @flow
    def main(x: int) -> Any:
        run = runtime.flow_run
        return run.flow_name, run.parameters, run.run_count, run.parent_flow_run_id, run.id

    name, parameters, count, parent, run_id = main(3)
    assert (name, parameters, count, parent) == ("main", {"x": 3}, 1, None)
    assert re.fullmatch(r"[0-9a-f-]{36}", run_id)
    assert (runtime.flow_run.id, runtime.flow_run.name, runtime.flow_run.flow_name) == (None,) * 3
    assert (runtime.flow_run.parameters, runtime.flow_run.tags) == ({}, [])
    assert (runtime.task_run.id, runtime.task_run.tags, runtime.task_run.run_count) == (None, [], 0)


def test_the_context_is_left_as_it_was() -> None:
    @flow
    def main() -> None:
        with tags("inside"):
            pass

    main()
    with pytest.raises(MissingContextError, match="inc"):
        inc.submit(1)
    with pytest.raises(MissingContextError):
        inc.map([1])


def test_flows_in_several_threads_do_not_mix() -> None:
    barrier = threading.Barrier(4)
    names: list[Any] = []

    @task
    def look() -> Any:
        return runtime.flow_run.parameters["number"]

    @flow
    def main(number: int) -> None:
        barrier.wait(PATIENCE)
        names.append((number, look.submit().result()))

    threads = [threading.Thread(target=main, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(names) == [(number, number) for number in range(4)]


@pytest.mark.parametrize("loop", LOOPS)
def test_async_flows_side_by_side_on_one_loop(loop: str) -> None:
    seen: list[Any] = []

    @flow
    async def main(number: int) -> None:
        first = runtime.flow_run.id
        await inc.submit(number)
        await anyio.sleep(0.01)
        seen.append((number, first == runtime.flow_run.id, await inc.submit(number)))

    async def driver() -> None:
        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(main, number)

    anyio.run(driver, backend=loop)
    assert sorted(seen) == [(number, True, number + 1) for number in range(5)]


def test_a_sync_flow_called_on_an_event_loop() -> None:
    """It blocks the loop, as any function would, and works."""

    @flow
    def inner() -> Any:
        return add.submit(inc.submit(1), 2).result()

    async def main() -> Any:
        return inner()

    assert anyio.run(main) == 4


def test_an_async_flow_inside_an_async_task() -> None:
    @flow
    async def inner(x: int) -> Any:
        return await inc.submit(x)

    @task
    async def middle(x: int) -> Any:
        return await inner(x)

    @flow
    def main() -> Any:
        return middle.submit(1).result(timeout=PATIENCE)

    assert main() == 2
