"""The examples of the reference's page on running work concurrently. Two more are scripts: `test_logged_examples`."""

import asyncio
import threading
import time
from typing import Any

import pytest
from shoal import flow, task, unmapped
from shoal.futures import wait
from shoal.states import State


@task
def stop_at_floor(floor: int):
    print(f"elevator moving to floor {floor}")
    time.sleep(floor)
    print(f"elevator stops on floor {floor}")


def check_ride(lines: list[str], floors: list[int]) -> None:
    """Each moved and then stopped, and several were under way at the same time."""
    moves = [f"elevator moving to floor {floor}" for floor in floors]
    stops = [f"elevator stops on floor {floor}" for floor in floors]
    assert sorted(lines) == sorted(moves + stops)
    for move, stop in zip(moves, stops, strict=True):
        assert lines.index(move) < lines.index(stop)
    assert min(map(lines.index, stops)) > 1


@pytest.mark.usefixtures("hasty")
def test_calling_tasks_directly(capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()

    stop_at_floor(0.1)  # blocks for 0.1 seconds
    stop_at_floor(0.2)  # blocks for 0.2 seconds
    stop_at_floor(0.3)  # blocks for 0.3 seconds

    assert time.monotonic() - began >= 0.6 / 100
    assert capsys.readouterr().out.splitlines() == [
        f"elevator {does} {floor}"
        for floor in (0.1, 0.2, 0.3)
        for does in ("moving to floor", "stops on floor")
    ]


@pytest.mark.usefixtures("hasty")
def test_using_submit(capsys: pytest.CaptureFixture[str]) -> None:
    @flow
    def elevator():
        floors = []
        for floor in range(10, 0, -1):
            floors.append(stop_at_floor.submit(floor))  # noqa: PERF401 - the example's text
        wait(floors)

    elevator()

    check_ride(capsys.readouterr().out.splitlines(), list(range(10, 0, -1)))


# ---------------------------------------------------------------------- handling futures


@task
def cool_task():
    return "sup"


@pytest.mark.usefixtures("each_pool")
def test_the_result_of_a_future(capsys: pytest.CaptureFixture[str]) -> None:
    @flow
    def my_workflow():
        future = cool_task.submit()
        result = future.result()
        print(result)

    my_workflow()

    assert capsys.readouterr().out == "sup\n"


@pytest.mark.usefixtures("each_pool")
def test_waiting_for_a_future() -> None:
    futures = []

    @flow
    def my_workflow():
        future = cool_task.submit()
        future.wait()
        assert future.state.is_completed()
        futures.append(future)

    my_workflow()

    assert futures[0].result() == "sup"


@pytest.mark.usefixtures("each_pool")
def test_waiting_for_several_futures() -> None:
    @flow
    def my_workflow():
        futures = [cool_task.submit() for _ in range(10)]
        wait(futures)
        assert all(future.state.is_completed() for future in futures)

    my_workflow()


@pytest.mark.usefixtures("each_pool")
def test_passing_futures_between_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    @task
    def what_did_cool_task_say(what_it_said: str):
        return f"cool task said {what_it_said}"

    @flow
    def my_workflow():
        future = cool_task.submit()
        print(what_did_cool_task_say(future))

    my_workflow()

    assert capsys.readouterr().out == "cool task said sup\n"


@pytest.mark.usefixtures("each_pool")
def test_passing_futures_to_flows() -> None:
    """The page says so of flows too."""

    @flow
    def what_did_cool_task_say(what_it_said: str):
        return f"cool task said {what_it_said}"

    @flow
    def my_workflow():
        return what_did_cool_task_say(cool_task.submit())

    assert my_workflow() == "cool task said sup"


# ---------------------------------------------------------------------- using map


@pytest.mark.usefixtures("hasty")
def test_using_map(capsys: pytest.CaptureFixture[str]) -> None:
    @flow
    def elevator():
        floors = list(range(10, 0, -1))
        floors = stop_at_floor.map(floors)
        wait(floors)

    elevator()

    check_ride(capsys.readouterr().out.splitlines(), list(range(10, 0, -1)))


@pytest.mark.usefixtures("each_pool")
def test_values_that_are_not_iterable_are_not_mapped() -> None:
    @task
    def add_together(x, y):
        return x + y

    @flow
    def sum_it(numbers: list[int], static_value: int):
        futures = add_together.map(numbers, static_value)
        return futures.result()

    resulting_sum = sum_it([1, 2, 3], 5)
    assert resulting_sum == [6, 7, 8]


@pytest.mark.usefixtures("each_pool")
def test_using_the_unmapped_annotation() -> None:
    @task
    def sum_plus(x, static_iterable):
        return x + sum(static_iterable)

    @flow
    def sum_it(numbers, static_iterable):
        futures = sum_plus.map(numbers, unmapped(static_iterable))
        return futures.result()

    resulting_sum = sum_it([4, 5, 6], [1, 2, 3])
    assert resulting_sum == [10, 11, 12]


@pytest.mark.usefixtures("each_pool")
def test_bulk_operations() -> None:
    @task
    def some_task(x):
        return x * 2

    @flow
    def my_workflow(some_iterable):
        futures = some_task.map(some_iterable)
        results = futures.result()
        assert results == [future.result() for future in futures]

        futures = some_task.map(some_iterable)
        futures.wait()
        assert all(future.done() for future in futures)
        return results

    assert my_workflow([1, 2, 3]) == [2, 4, 6]


# ---------------------------------------------------------------------- state dependencies, failures


def test_creating_state_dependencies() -> None:
    ended = []
    a_may_end = threading.Event()

    @task
    def task_a():
        a_may_end.wait(30)
        ended.append("a")

    @task
    def task_b():
        ended.append("b")
        a_may_end.set()

    @task
    def task_c():
        ended.append("c")

    @task
    def task_d():
        ended.append("d")

    @flow
    def my_flow():
        a = task_a.submit()
        b = task_b.submit()
        # Wait for task_a and task_b to complete
        c = task_c.submit(wait_for=[a, b])
        # task_d will wait for task_c to complete
        # Note: If waiting for one task it must still be in a list.
        d = task_d(wait_for=[c])
        assert d is None

    my_flow()

    assert ended == ["b", "a", "c", "d"]


@pytest.mark.usefixtures("each_pool")
def test_handling_failures_in_concurrent_work(capsys: pytest.CaptureFixture[str]) -> None:
    states: list[State] = []

    @task
    def process_data(item: int) -> str:
        if item < 0:
            raise ValueError(f"Cannot process negative value: {item}")
        return f"Processed {item}"

    @flow
    def batch_processing():
        items = [1, -2, 3, -4, 5]

        # Submit all tasks and return the futures
        futures = process_data.map(items)

        # Wait for all futures to complete concurrently
        done, not_done = wait(futures)
        assert not not_done

        # Check each future's state
        successful: list[Any] = []
        failed: list[State] = []

        for future in done:
            if future.state.is_completed():
                successful.append(future.result())
            else:
                failed.append(future.state)

        print(f"Processed {len(successful)} items successfully")
        print(f"Failed to process {len(failed)} items")

        states.extend(failed)
        return successful

    assert sorted(batch_processing()) == ["Processed 1", "Processed 3", "Processed 5"]
    assert capsys.readouterr().out.splitlines() == [
        "Processed 3 items successfully",
        "Failed to process 2 items",
    ]
    assert all(state.is_failed() for state in states)
    assert sorted(str(state.data) for state in states) == [
        "Cannot process negative value: -2",
        "Cannot process negative value: -4",
    ]


# ---------------------------------------------------------------------- asyncio


@pytest.mark.usefixtures("hasty")
def test_using_asyncio(capsys: pytest.CaptureFixture[str]) -> None:
    @task
    async def stop_at_floor(floor: int):
        print(f"elevator moving to floor {floor}")
        await asyncio.sleep(floor)
        print(f"elevator stops on floor {floor}")

    @flow
    async def elevator():
        floors = list(range(10, 0, -1))
        await asyncio.gather(*[stop_at_floor(floor) for floor in floors])

    asyncio.run(elevator())

    check_ride(capsys.readouterr().out.splitlines(), list(range(10, 0, -1)))
