"""The examples of the older page on task runners, with runners of this machine in place of Dask's.

Those of concurrency limits, their client and their command line are in `test_concurrency_limits`.
"""

import threading

import pytest
from shoal import flow, task
from shoal.task_runners import ConcurrentTaskRunner, SequentialTaskRunner, ThreadPoolTaskRunner


@task
def thread_of_a_task():
    return threading.current_thread()


def test_using_a_task_runner() -> None:
    @flow(task_runner=SequentialTaskRunner())
    def my_flow():
        return thread_of_a_task.submit().result()

    assert my_flow() is threading.current_thread()


@pytest.mark.parametrize(
    "runner",
    [SequentialTaskRunner, ThreadPoolTaskRunner, ConcurrentTaskRunner],
    ids=["sequential", "threads", "concurrent"],
)
def test_a_type_stands_for_an_instance_with_default_settings(runner: type) -> None:
    @flow(task_runner=runner)
    def my_flow():
        return thread_of_a_task.submit().result()

    in_place = my_flow() is threading.current_thread()
    assert in_place is (runner is SequentialTaskRunner)
    assert my_flow.task_runner in (runner, runner())


def test_instances_can_be_passed_for_additional_configuration() -> None:
    @flow(task_runner=ThreadPoolTaskRunner(max_workers=1))
    def my_flow():
        return {future.result() for future in [thread_of_a_task.submit() for _ in range(5)]}

    assert len(my_flow()) == 1


def test_using_multiple_task_runners(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    threads = []

    @task
    def hello_local():
        print("Hello!")
        threads.append(threading.current_thread())

    @task
    def hello_pool():
        print("Hello from the pool!")
        threads.append(threading.current_thread())

    @flow(task_runner=SequentialTaskRunner())
    def my_flow():
        hello_local.submit()
        my_subflow()
        hello_local.submit()

    @flow(task_runner=ThreadPoolTaskRunner())
    def my_subflow():
        hello_pool.submit()

    caplog.set_level("INFO", logger="shoal")
    my_flow()

    assert capsys.readouterr().out.splitlines() == ["Hello!", "Hello from the pool!", "Hello!"]
    here = threading.current_thread()
    assert [thread is here for thread in threads] == [True, False, True]
    outer, inner = (r.run_name for r in caplog.records if r.getMessage().startswith("Beginning"))
    assert [
        (r.run_name.partition("-")[0] if "hello" in r.run_name else r.run_name)
        for r in caplog.records
    ] == [
        outer,
        "hello_local",
        inner,
        "hello_pool",
        inner,
        "hello_local",
        outer,
    ]


def test_a_parent_with_nested_flows_on_different_runners(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The newer page's variant: a parent flow on the default runner, its nested flows each on their own."""

    @task
    def hello_local(name: str):
        print(f"Hello {name}!")

    @flow  # implicitly uses the default task runner, ThreadPoolTaskRunner
    def concurrent_nested_flow():
        marvin = hello_local.submit("marvin")
        ford = hello_local.submit("ford")
        marvin.wait(), ford.wait()

    @task
    def hello_in_order(name: str):
        print(f"Hello {name}, in order!")

    @flow(task_runner=SequentialTaskRunner())
    def sequential_nested_flow():
        hello_in_order.submit("zaphod")
        hello_in_order.submit("trillian")

    @flow  # implicitly uses the default task runner, ThreadPoolTaskRunner
    def parent_flow():
        concurrent_nested_flow()
        sequential_nested_flow()

    parent_flow()

    lines = capsys.readouterr().out.splitlines()
    assert sorted(lines[:2]) == ["Hello ford!", "Hello marvin!"]
    assert lines[2:] == ["Hello zaphod, in order!", "Hello trillian, in order!"]
