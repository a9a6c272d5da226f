# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
# mypy: disable-error-code="ignore-without-code"
"""Typed use of the public names, for the type checkers; nothing here is run (SPEC 1.7).

A line that ends in a bare `# type: ignore` must be an error: where it is none, both checkers complain of the comment.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, assert_type

from shoal import (
    Flow,
    State,
    Task,
    allow_failure,
    flow,
    opaque,
    quote,
    task,
    unmapped,
)
from shoal.context import FlowRun, TaskRun
from shoal.futures import TaskFuture, TaskFutureList, as_completed, wait
from shoal.task_runners import (
    ProcessPoolTaskRunner,
    SequentialTaskRunner,
    ThreadPoolTaskRunner,
)


@task
def inc(number: int) -> int:
    return number + 1


@task(retries=2, retry_delay_seconds=[0.1, 1], timeout_seconds=5, tags=["fast"])
def repeat(text: str, times: int = 2) -> str:
    return text * times


@task
async def fetch(number: int) -> str:
    return str(number)


@task(name="fetch-again", retries=1)
async def fetch_again(number: int) -> str:
    return str(number)


@task
def add(left: int, right: int) -> int:
    return left + right


@task
def total(numbers: list[int]) -> int:
    return sum(numbers)


@task
def longest(words: Sequence[str]) -> str:
    return max(words, key=len)


@task
def table(rows: dict[str, list[list[int]]], *, scale: float = 1) -> float:
    return scale * len(rows)


@task
def measure(name: str, *sizes: int, unit: str, **marks: bool) -> float:
    return float(len(name))


@task
def five(one: int, two: str, three: bytes, four: float, five: bool) -> None: ...


@task
def count_down(start: int) -> Iterator[int]:
    yield start


@task
async def count_up(start: int) -> AsyncIterator[int]:
    yield start


@task
def down_to_zero(start: int) -> int:
    return down_to_zero.submit(start - 1) if start else 0  # the run waits for what it returns


@dataclass
class Order:
    number: int
    items: list[str]


@task
def price(order: Order) -> float:
    return float(len(order.items))


class Scale:
    @task
    def apply(self, number: int, times: int = 1) -> int:
        return number * times

    @task(retries=1)
    async def fetch(self, number: int) -> str:
        return str(number)

    @task
    @classmethod
    def named(cls, name: str) -> str:
        return name

    @task
    @staticmethod
    def unit(number: int) -> float:
        return number


class Report:
    @flow
    def write(self, numbers: list[int], title: str = "") -> str:
        return title

    @flow(retries=1)
    async def fetch(self, number: int) -> str:
        return str(number)

    @flow
    @classmethod
    def named(cls, name: str) -> Report:
        return cls()

    @flow
    @staticmethod
    def count(number: int) -> int:
        return number


@task
def refuse() -> NoReturn:
    raise ValueError


def plain(number: int) -> float:
    return number / 2


def wrapped() -> Task[..., float]:
    return task(plain)


def calls() -> None:
    assert_type(inc(1), int)
    assert_type(repeat("a", times=3), str)
    assert_type(task(plain)(1), float)

    inc("one")  # type: ignore
    inc()  # type: ignore
    repeat("a", count=3)  # type: ignore


async def async_calls() -> None:
    assert_type(await fetch(1), str)
    assert_type(await fetch_again(1), str)

    assert_type(await fetch(1, return_state=True), State[Any])
    assert_type(refuse(return_state=True), State[Any])
    assert_type(await count_up(1, return_state=True), State[Any])

    await fetch("one")  # type: ignore


def submits() -> None:
    assert_type(inc.submit(1), TaskFuture[int])
    assert_type(inc.submit(number=1), TaskFuture[int])
    assert_type(repeat.submit("a", times=3), TaskFuture[str])
    assert_type(fetch.submit(1), TaskFuture[str])
    assert_type(fetch_again.submit(1), TaskFuture[str])
    assert_type(task(plain).submit(1), TaskFuture[float])
    assert_type(inc.with_options(retries=3).submit(1), TaskFuture[int])
    assert_type(inc.submit(1, wait_for=[fetch.submit(1)]), TaskFuture[int])

    inc.submit("one")  # type: ignore
    inc.submit()  # type: ignore
    repeat.submit("a", count=3)  # type: ignore
    fetch.submit("one")  # type: ignore


def options() -> None:
    assert_type(task(plain, name="halve", retries=1).submit(1), TaskFuture[float])
    assert_type(flow(plain, name="halve", retries=1)(1), float)
    assert_type(inc.with_options(name="one more", tags=None, retry_delay_seconds=[1, 2])(1), int)
    assert_type(inc.submit(1, return_state=True), State[Any])
    assert_type(inc(1, return_state=True), State[Any])
    assert_type(inc.map([1], return_state=True), list[State[Any]])
    assert_type(inc(1, wait_for=[fetch.submit(1), [inc.map([1])], 3]), int)
    assert_type(count_down.submit(3), TaskFuture[list[int]])
    assert_type(count_up.submit(3), TaskFuture[list[int]])

    task(plain, retires=1)  # type: ignore
    flow(plain, retires=1)  # type: ignore
    inc.with_options(retires=3)  # type: ignore
    inc.with_options(retries="3")  # type: ignore
    add_up.with_options(retires=3)  # type: ignore
    add_up.with_options(task_runner=3)  # type: ignore


@inc.on_failure
def told(task: Task[..., Any], run: TaskRun, state: State) -> str:
    return run.name


def hooks(run: TaskRun, state: State) -> None:
    assert_type(told(task=inc, run=run, state=state), str)
    assert_type(state, State[Any])

    told(task=inc, run=run)  # type: ignore
    inc.on_failure(plain)  # type: ignore


def futures_as_arguments() -> None:
    number, text = inc.submit(1), fetch.submit(1)
    assert_type(inc.submit(number), TaskFuture[int])
    assert_type(inc(number), int)
    assert_type(add.submit(number, inc.submit(2)), TaskFuture[int])
    assert_type(add.submit(1, right=number), TaskFuture[int])
    assert_type(add.submit(left=1, right=number), TaskFuture[int])
    assert_type(repeat.submit(text, times=number), TaskFuture[str])
    assert_type(fetch.submit(number), TaskFuture[str])
    assert_type(measure.submit(text, 1, number, unit=text, old=inc.submit(1)), TaskFuture[float])

    add.submit(number)  # type: ignore
    add.submit(number, "one")  # type: ignore
    add.submit(number, rigth=number)  # type: ignore
    add.submit(number, right="one")  # type: ignore
    add(number, "one")  # type: ignore
    measure.submit(text, number, "one", unit="mm")  # type: ignore
    measure.submit(text, number)  # type: ignore
    measure.submit(text, unit=3)  # type: ignore
    five.submit(number, text, b"", 1.0)  # type: ignore
    five.submit(number, text, b"", 1.0, "no")  # type: ignore


def futures_in_arguments() -> None:
    number = inc.submit(1)
    assert_type(total.submit(inc.map(range(3))), TaskFuture[int])
    assert_type(total.submit([number, inc.submit(2), 3]), TaskFuture[int])
    assert_type(total.submit([*inc.map([1]), number]), TaskFuture[int])
    assert_type(longest.submit(fetch.map([1, 2])), TaskFuture[str])
    assert_type(longest.submit((fetch.submit(1), "two")), TaskFuture[str])
    assert_type(table.submit({"a": [inc.map([1]), [number, 2]]}, scale=number), TaskFuture[float])
    assert_type(price.submit(Order(number, [fetch.submit(1)])), TaskFuture[float])
    several: list[Any] = [number, number]
    assert_type(total.submit(several), TaskFuture[int])

    total.submit(3)  # type: ignore
    table.submit({"a": [["one"]]})  # type: ignore


def wrappers() -> None:
    number = inc.submit(1)
    assert_type(inc.submit(allow_failure(number)), TaskFuture[int])
    assert_type(add.submit(opaque(number), right=quote(2)), TaskFuture[int])
    assert_type(total.submit(allow_failure([number, number])), TaskFuture[int])
    assert_type(inc.submit(1, wait_for=allow_failure(number)), TaskFuture[int])
    assert_type(add.map(allow_failure(inc.map([1])), unmapped(number)), TaskFutureList[int])
    assert_type(measure.map(["a"], unit=unmapped("mm")), TaskFutureList[float])
    assert_type(unmapped([1]).unwrap(), list[int])


def maps() -> None:
    assert_type(inc.map([1, 2, 3]), TaskFutureList[int])
    assert_type(inc.map(range(3)).result(), list[int])
    assert_type(inc.map(number for number in range(3)), TaskFutureList[int])
    assert_type(repeat.map(["a", "b"], times=unmapped(3)), TaskFutureList[str])
    assert_type(repeat.map(["a", "b"], times=3), TaskFutureList[str])
    assert_type(repeat.map(["a", "b"], times=[1, 2]), TaskFutureList[str])
    assert_type(repeat.map(["a", "b"], [1, 2]), TaskFutureList[str])
    assert_type(repeat.map("a", [1, 2]), TaskFutureList[str])
    assert_type(repeat.map(text=["a", "b"], times=3), TaskFutureList[str])
    assert_type(add.map([1, 2], inc.submit(1)), TaskFutureList[int])
    assert_type(add.map(inc.map([1, 2]), [inc.submit(1), 2]), TaskFutureList[int])
    assert_type(total.map([[1], [2]]), TaskFutureList[int])
    assert_type(total.map([inc.map([1]), inc.map([2])]), TaskFutureList[int])
    assert_type(total.map(unmapped([1]), wait_for=inc.submit(1)), TaskFutureList[int])
    assert_type(measure.map(["a"], [1], [2], unit=unmapped("mm")), TaskFutureList[float])
    assert_type(five.map([1], ["a"], [b""], 1.0, True), TaskFutureList[None])
    assert_type(five.map([1], ["a"], [b""], [1.0], [True]), TaskFutureList[None])
    assert_type(fetch.map([1, 2]), TaskFutureList[str])
    assert_type(fetch_again.map([1, 2], wait_for=[inc.submit(1)]), TaskFutureList[str])
    assert_type(count_down.map([1, 2]), TaskFutureList[list[int]])
    assert_type(count_up.map([1, 2]), TaskFutureList[list[int]])
    assert_type(inc.map([1, 2])[0], TaskFuture[int])
    for future in inc.map([1, 2]):
        assert_type(future, TaskFuture[int])

    inc.map(["one"])  # type: ignore
    inc.map("one")  # type: ignore
    inc.map(1.5)  # type: ignore
    inc.map([[1]])  # type: ignore
    inc.map([1], [2])  # type: ignore
    inc.map().result()  # type: ignore
    add.map([1]).result()  # type: ignore
    add.map([1], ["one"])  # type: ignore
    add.map(inc.map([1]), ["one"])  # type: ignore
    repeat.map(["a"], count=3)  # type: ignore
    repeat.map(["a"], times=None)  # type: ignore
    total.map(["one"])  # type: ignore
    fetch.map(["one"])  # type: ignore
    five.map([1], ["a"], ["b"], [1.0], [True])  # type: ignore
    five.map([1], ["a"], [b""]).result()  # type: ignore
    total.submit(inc.map())  # type: ignore


def methods() -> None:
    scale = Scale()
    assert_type(scale.apply(1), int)
    assert_type(scale.apply.submit(inc.submit(1), times=2), TaskFuture[int])
    assert_type(scale.apply.map([1, 2], times=2), TaskFutureList[int])
    assert_type(scale.fetch.submit(1), TaskFuture[str])
    assert_type(Scale.apply.submit(scale, 1), TaskFuture[int])
    assert_type(Scale.named.submit("a"), TaskFuture[str])
    assert_type(scale.named.submit("a"), TaskFuture[str])
    assert_type(Scale.unit.submit(1), TaskFuture[float])
    assert_type(scale.unit.map([1]), TaskFutureList[float])

    scale.apply.submit("one")  # type: ignore
    scale.apply.submit()  # type: ignore
    scale.apply.map(["one"])  # type: ignore
    scale.fetch.submit("one")  # type: ignore
    scale.unit.submit("one")  # type: ignore


def futures() -> None:
    future = inc.submit(1)
    assert_type(future.result(), int)
    assert_type(future.result(timeout=1), int)
    assert_type(future.done(), bool)
    assert_type(future.cancel(), bool)
    assert_type(future.exception(), BaseException | None)
    both = [inc.submit(1), inc.submit(2)]
    assert_type(wait(both, timeout=1).done, set[TaskFuture[int]])
    for ended in as_completed(both):
        assert_type(ended, TaskFuture[int])

    mixed = [inc.submit(1), repeat.submit("a"), five.submit(1, "", b"", 1.0, True)]
    assert len(wait(mixed).done) == len(list(as_completed(mixed)))
    anything: TaskFuture[object] = future
    print(anything)

    text: str = future.result()  # type: ignore
    print(text)


async def async_futures() -> None:
    assert_type(await inc.submit(1), int)
    assert_type(await fetch.submit(1), str)
    async for ended in as_completed([fetch.submit(1)]):
        assert_type(ended, TaskFuture[str])


@flow
def add_up(numbers: list[int], offset: int = 0) -> int:
    return sum(inc.map(numbers).result()) + offset


@flow(name="fetch all", task_runner=ThreadPoolTaskRunner(2), retries=1)
async def fetch_all(numbers: list[int]) -> list[str]:
    return [await future for future in fetch.map(numbers)]


@fetch_all.on_crashed
async def told_of_flow(flow: Flow[..., Any], run: FlowRun, state: State) -> str:
    return run.name


def bound() -> Flow[..., int]:
    return add_up


def flows() -> None:
    assert_type(add_up([1, 2]), int)
    assert_type(add_up([1, 2], offset=3), int)
    assert_type(add_up.with_options(task_runner=SequentialTaskRunner())([1]), int)
    assert_type(add_up.with_options(task_runner="threads")([1]), int)

    assert_type(add_up(inc.map([1]), offset=inc.submit(1)), int)

    report = Report()
    assert_type(report.write([1], title="a"), str)
    assert_type(Report.write(report, [1]), str)
    assert_type(report.write.with_options(retries=1)([1]), str)
    assert_type(Report.named("a"), Report)
    assert_type(report.named("a"), Report)
    assert_type(Report.count(1), int)
    assert_type(report.count(1), int)

    report.write(["a"])  # type: ignore
    report.write([1], titel="a")  # type: ignore
    report.count("one")  # type: ignore
    add_up(["a"])  # type: ignore
    add_up([1], shift=1)  # type: ignore


async def async_flows() -> None:
    assert_type(await fetch_all([1, 2]), list[str])
    assert_type(await fetch_all([1, 2], return_state=True), State[Any])
    assert_type(await Report().fetch(1), str)

    await fetch_all("a")  # type: ignore


def runners() -> None:
    with ThreadPoolTaskRunner(2) as runner:
        assert_type(runner.submit(inc, {"number": 1}), TaskFuture[int])
        assert_type(runner.map(fetch, {"number": [1, 2]}), TaskFutureList[str])

    with ProcessPoolTaskRunner(2, env={"LANG": "C"}, max_tasks_per_worker=100) as processes:
        assert_type(processes.submit(inc, {"number": 1}), TaskFuture[int])
        assert_type(processes.map(fetch, {"number": [1, 2]}), TaskFutureList[str])

    ProcessPoolTaskRunner("2")  # type: ignore
    ProcessPoolTaskRunner(start_methods="spawn")  # type: ignore
