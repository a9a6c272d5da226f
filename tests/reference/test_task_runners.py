"""The examples of the reference's page on task runners, and what it says about them."""

import os
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from shoal import flow, task
from shoal.futures import TaskFuture, wait
from shoal.states import State
from shoal.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner
from shoal.testing.tools import Signals


def hurry() -> None:
    """Makes a worker process as hasty as the fixture makes this one."""
    sleep = time.sleep
    time.sleep = lambda seconds: sleep(seconds / 100)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    "pool",
    [ThreadPoolTaskRunner, partial(ProcessPoolTaskRunner, initializer=hurry)],
    ids=["threads", "processes"],
)
def test_configure_a_task_runner(pool: type, capfd: pytest.CaptureFixture[str]) -> None:
    @task
    def stop_at_floor(floor):
        print(f"elevator moving to floor {floor}")
        time.sleep(floor)
        print(f"elevator stops on floor {floor}")

    @flow(task_runner=pool(max_workers=3))
    def elevator():
        floors = []

        for floor in range(10, 0, -1):
            floors.append(stop_at_floor.submit(floor))  # noqa: PERF401 - the example's text

        wait(floors)  # wait for the sequence of futures to complete

    elevator()

    lines = capfd.readouterr().out.splitlines()
    assert sorted(lines) == sorted(
        f"elevator {does} {floor}"
        for does in ("moving to floor", "stops on floor")
        for floor in range(1, 11)
    )
    under_way = 0
    for line in lines:
        under_way += 1 if "moving" in line else -1
        assert under_way <= 3, "max_workers controls the number of workers"
    if pool is ThreadPoolTaskRunner:  # a process may have one more run waiting for it
        moving = [line for line in lines if "moving" in line]
        assert moving[-1].endswith(" 1")


@pytest.mark.usefixtures("each_pool")
def test_submit_tasks_to_a_task_runner(capfd: pytest.CaptureFixture[str]) -> None:
    @task
    def say_hello(name):
        return f"Hello {name}!"

    @task
    def print_result(result):
        print(type(result))
        print(result)

    @flow(name="hello-flow")
    def hello_world():
        future = say_hello.submit("Marvin")
        print_result.submit(future).wait()

    hello_world()

    assert capfd.readouterr().out == "<class 'str'>\nHello Marvin!\n"


@pytest.mark.usefixtures("each_pool")
def test_access_results_from_submitted_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    @task
    def my_task():
        return 42

    @flow
    def my_flow():
        future = my_task.submit()
        result = future.result()
        print(result)

    my_flow()

    assert capsys.readouterr().out == "42\n"


@pytest.mark.usefixtures("each_pool")
@pytest.mark.parametrize("fails", [False, True], ids=["completes", "fails"])
def test_results_without_raising(fails: bool) -> None:
    outcome = []

    @task
    def my_task():
        if fails:
            raise ValueError("no task")
        return "I'm a task!"

    @flow
    def my_flow():
        future = my_task.submit()
        result = future.result(raise_on_failure=False)
        if future.state.is_failed():
            # `result` is an exception! handle accordingly
            outcome.append(("handled", str(result)))
        else:
            # `result` is the expected return value of our task
            outcome.append(("expected", result))

    my_flow()

    assert outcome == [("handled", "no task") if fails else ("expected", "I'm a task!")]


# ---------------------------------------------------------------------- what the page says without an example


def test_calling_a_task_runs_it_in_the_main_thread_and_blocks() -> None:
    @task
    def where():
        return threading.current_thread()

    assert where() is threading.main_thread()


def test_the_process_pool_runs_tasks_in_processes_of_their_own(tmp_path: Path) -> None:
    signals = Signals(tmp_path)

    @task
    def where():
        signals.meet("both", 2)
        return os.getpid()

    @flow(task_runner=ProcessPoolTaskRunner(max_workers=2))
    def my_flow():
        return [future.result() for future in [where.submit() for _ in range(2)]]

    assert len({*my_flow(), os.getpid()}) == 3


def test_the_default_task_runner_runs_tasks_in_threads_of_their_own() -> None:
    meeting = threading.Barrier(3, timeout=30)

    @task
    def meet():
        meeting.wait()
        return threading.current_thread()

    @flow
    def my_flow():
        return [future.result() for future in [meet.submit() for _ in range(3)]]

    threads = my_flow()
    assert len({*threads, threading.main_thread()}) == 4


@pytest.mark.usefixtures("each_pool")
def test_a_future_gives_access_to_state_and_result() -> None:
    @task
    def my_task():
        return "I'm a task!"

    @flow
    def my_flow():
        future = my_task.submit()
        assert isinstance(future, TaskFuture)
        assert isinstance(future.state, State)
        future.wait()
        assert future.state.is_completed()
        assert future.result() == "I'm a task!"

    my_flow()


@pytest.mark.usefixtures("each_pool")
def test_result_raises_the_exception_of_the_task() -> None:
    @task
    def my_task():
        raise KeyError("no such thing")

    @flow
    def my_flow():
        my_task.submit().result()

    with pytest.raises(KeyError, match="no such thing"):
        my_flow()


def test_only_terminal_futures_need_to_be_resolved() -> None:
    seen = []

    @task
    def first():
        seen.append("first")
        return 1

    @task
    def then(number):
        seen.append("then")
        return number + 1

    @task
    def last(number):
        seen.append("last")
        return number + 1

    @flow
    def my_flow():
        return last.submit(then.submit(first.submit()))

    assert my_flow() == 3
    assert seen == ["first", "then", "last"]


@pytest.mark.usefixtures("each_pool")
def test_simple_mapping(capsys: pytest.CaptureFixture[str]) -> None:
    @task
    def print_nums(nums: list[int]):
        for n in nums:
            print(n)

    @task
    def square_num(num: int) -> int:
        return num**2

    @flow
    def map_flow(nums: list[int]):
        print_nums(nums)
        squared_nums = square_num.map(nums)
        print_nums(squared_nums)

    map_flow([1, 2, 3, 5, 8, 13])

    assert capsys.readouterr().out.split() == [
        "1",
        "2",
        "3",
        "5",
        "8",
        "13",
        "1",
        "4",
        "9",
        "25",
        "64",
        "169",
    ]


def test_wait_for_can_also_be_used_with_map() -> None:
    seen = []

    @task
    def prepare():
        time.sleep(0.02)
        seen.append("prepared")

    @task
    def process(item):
        seen.append(item)

    @flow
    def my_flow():
        process.map([1, 2, 3], wait_for=[prepare.submit()]).wait()

    my_flow()

    assert seen[0] == "prepared"
    assert sorted(seen[1:]) == [1, 2, 3]
