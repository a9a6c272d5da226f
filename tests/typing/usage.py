# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
# mypy: disable-error-code="ignore-without-code"
"""Typed use of the public names, for the type checkers; nothing here is run (SPEC 1.7).

A line that ends in a bare `# type: ignore` must be an error: where it is none, both checkers complain of the comment.
"""

from __future__ import annotations

from typing import assert_type

from shoal import Flow, Task, flow, task, unmapped
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


def maps() -> None:
    assert_type(inc.map([1, 2, 3]), TaskFutureList[int])
    assert_type(inc.map(range(3)).result(), list[int])
    assert_type(repeat.map(["a", "b"], times=unmapped(3)), TaskFutureList[str])
    assert_type(fetch.map([1, 2]), TaskFutureList[str])
    assert_type(fetch_again.map([1, 2], wait_for=[inc.submit(1)]), TaskFutureList[str])
    assert_type(inc.map([1, 2])[0], TaskFuture[int])
    for future in inc.map([1, 2]):
        assert_type(future, TaskFuture[int])


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


def bound() -> Flow[..., int]:
    return add_up


def flows() -> None:
    assert_type(add_up([1, 2]), int)
    assert_type(add_up([1, 2], offset=3), int)
    assert_type(add_up.with_options(task_runner=SequentialTaskRunner())([1]), int)
    assert_type(add_up.with_options(task_runner="threads")([1]), int)

    add_up(["a"])  # type: ignore
    add_up([1], shift=1)  # type: ignore


async def async_flows() -> None:
    assert_type(await fetch_all([1, 2]), list[str])

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
