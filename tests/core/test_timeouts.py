"""Time limits where the run's own thread keeps them: direct calls and flows; and limits on waits (SPEC 7.3, 4.1)."""

from __future__ import annotations

import asyncio
import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any, Self

import anyio
import pytest
from shoal import flow, task
from shoal.exceptions import FlowRunTimeout, InvalidOption, TaskRunTimeout, WaitTimeout
from shoal.futures import as_completed, wait
from shoal.task_runners import SequentialTaskRunner, ThreadPoolTaskRunner
from shoal.testing.base import LOOPS
from shoal.testing.samples import inc
from shoal.testing.tools import PATIENCE

#: A limit, and how long nobody would wait who is interrupted.
LIMIT, FOR_EVER = 0.1, 2 * PATIENCE


def dawdle(seconds: float = FOR_EVER) -> None:
    """Sleeps in small steps."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.002)


@task(timeout_seconds=LIMIT)
def late() -> None:
    """Takes for ever, if it may."""
    dawdle()


# ---------------------------------------------------------------------- what is timed

FIRST_COROUTINE = """
import sys
from shoal import flow, task

@task(timeout_seconds=60)
async def backends() -> list[str]:
    return [name for name in sys.modules if name.startswith("anyio._backends")]

@flow(task_runner=sys.argv[1])
def main() -> None:
    print(backends.submit().result())

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("runner", ["threads", "processes:1"])
def test_the_first_coroutine_is_not_late_for_imports(runner: str) -> None:
    """A limit began, then anyio's backend was imported: on a cold disk, no time was left for the function."""
    command = (sys.executable, "-c", FIRST_COROUTINE, runner)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


class Slow(ThreadPoolTaskRunner):
    """A runner that takes longer to start than the limit of a flow."""

    def __enter__(self) -> Self:
        time.sleep(12 * LIMIT)
        super().__enter__()
        return self


@pytest.mark.parametrize("loop", ["none", *LOOPS])
def test_the_start_of_a_runner_is_no_part_of_its_flow(loop: str) -> None:
    @flow(task_runner=Slow(1), timeout_seconds=10 * LIMIT)
    def main() -> int:
        return inc.submit(1).result()

    @flow(task_runner=Slow(1), timeout_seconds=10 * LIMIT)
    async def main_async() -> int:
        await anyio.sleep(0.01)  # where a limit that had expired would end it
        return await inc.submit(1)

    assert (main() if loop == "none" else anyio.run(main_async, backend=loop)) == 2


# ---------------------------------------------------------------------- direct calls


def test_a_direct_call_at_top_level() -> None:
    with pytest.raises(TaskRunTimeout, match=r"0\.1 s") as caught:
        late()
    assert caught.value.timeout == LIMIT
    assert caught.value.run_name is not None
    assert caught.value.run_name.startswith("late-")
    assert isinstance(caught.value, TimeoutError)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.timeout) == (str(caught.value), LIMIT)


def test_the_state_of_a_direct_call() -> None:
    state = late(return_state=True)
    assert (state.type, state.name) == ("FAILED", "TimedOut")
    with pytest.raises(TaskRunTimeout):
        state.result()


def test_a_direct_call_in_another_thread() -> None:
    caught: list[BaseException] = []

    def call() -> None:
        try:
            late()
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join(PATIENCE)
    assert [type(error) for error in caught] == [TaskRunTimeout]


def test_the_inner_limit_is_caught_by_the_outer_task() -> None:
    @task(timeout_seconds=PATIENCE)
    def outer() -> str:
        with pytest.raises(TaskRunTimeout, match="late"):
            late()
        return "goes on"

    assert outer() == "goes on"


def test_the_outer_limit_passes_through_the_inner_task() -> None:
    caught: list[str] = []

    @task(timeout_seconds=PATIENCE)
    def inner() -> None:
        try:
            dawdle()
        except Exception:
            caught.append("an Exception, which an interrupt is not")
            raise

    @task(timeout_seconds=LIMIT)
    def outer() -> None:
        inner()

    with pytest.raises(TaskRunTimeout, match="outer"):
        outer()
    assert caught == []


def test_an_exception_raised_on_the_way_out_is_still_a_timeout() -> None:
    @task(timeout_seconds=LIMIT)
    def clumsy() -> None:
        try:
            dawdle()
        finally:
            raise KeyError("while cleaning up")

    with pytest.raises((TaskRunTimeout, KeyError)):
        clumsy()
    assert clumsy(return_state=True).is_failed()


def test_a_direct_call_inside_a_run_past_its_own_limit() -> None:
    @task
    def parent() -> str:
        with pytest.raises(TaskRunTimeout, match="late"):
            late()
        return "goes on"

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=1))
    def main() -> None:
        assert parent.submit().result(timeout=PATIENCE) == "goes on"

    main()


def test_a_direct_call_that_waits_for_runs() -> None:
    go = threading.Event()

    @task
    def child() -> None:
        go.wait()

    @task(timeout_seconds=LIMIT)
    def parent() -> None:
        child.submit().result()

    @flow
    def main() -> None:
        with pytest.raises(TaskRunTimeout, match="parent"):
            parent()
        go.set()

    main()


@pytest.mark.parametrize("loop", LOOPS)
def test_async_direct_calls(loop: str) -> None:
    ended: list[str] = []

    @task(timeout_seconds=LIMIT, retries=1)
    async def slow() -> None:
        try:
            await anyio.sleep(FOR_EVER)
        finally:
            ended.append("stopped")

    async def main() -> None:
        with pytest.raises(TaskRunTimeout):
            await slow()
        state = await slow(return_state=True)  # type: ignore[misc, unused-ignore]
        assert state.name == "TimedOut"

    anyio.run(main, backend=loop)
    assert ended == ["stopped"] * 4


def test_hooks_of_a_timeout() -> None:
    seen: list[Any] = []
    hooked = late.with_options(
        on_failure=[lambda a_task, run, state: seen.append((run.name, state.name))],
        on_completion=[lambda a_task, run, state: seen.append("completed")],
    )

    @flow
    def main() -> str:
        future = hooked.submit()
        future.wait()
        return future.name

    name = main()
    deadline = time.monotonic() + PATIENCE
    while not seen and time.monotonic() < deadline:
        time.sleep(0.005)
    assert seen == [(name, "TimedOut")]
    with pytest.raises(TaskRunTimeout):
        hooked()
    assert [entry[1] for entry in seen] == ["TimedOut"] * 2


@pytest.mark.parametrize("loop", LOOPS)
def test_the_limit_of_a_direct_call_is_not_for_its_hooks(loop: str) -> None:  # SPEC 8.1
    seen: list[str] = []

    def takes_long(a_task: Any, run: Any, state: Any) -> None:
        time.sleep(0.6)
        seen.append(state.name)

    @task(timeout_seconds=0.5, on_completion=[takes_long], on_failure=[takes_long])
    def work() -> int:
        return 1

    @task(timeout_seconds=0.5, on_completion=[takes_long], on_failure=[takes_long])
    async def coroutine() -> int:
        return 1

    assert work() == 1
    assert anyio.run(coroutine, backend=loop) == 1
    assert seen == ["Completed"] * 2


@pytest.mark.parametrize("loop", LOOPS)
def test_a_coroutine_that_never_looks_at_the_loop_is_late_all_the_same(loop: str) -> None:
    @task(timeout_seconds=LIMIT)
    async def blocks() -> int:
        time.sleep(2 * LIMIT)  # noqa: ASYNC251  as users do
        return 1

    with pytest.raises(TaskRunTimeout):
        anyio.run(blocks, backend=loop)


def test_a_timer_that_was_due_when_it_was_called_off() -> None:  # SPEC 8.1
    """The timer thread may have taken it already, and wait for the lock: then it finds that nothing is to expire."""

    @task(timeout_seconds=FOR_EVER)
    def work() -> int:
        future: Any = runtime_future()
        dispatcher = future._dispatcher
        assert dispatcher.end_limit(future)
        dispatcher._expired(future, 1, FOR_EVER)
        return 1

    made: list[Any] = []

    def runtime_future() -> Any:
        while not made:
            time.sleep(0.001)
        return made[0]

    @flow
    def main() -> int:
        made.append(work.submit())
        return made[0].result()

    assert main() == 1


# ---------------------------------------------------------------------- flows


def test_a_flow_past_its_limit() -> None:
    @flow(timeout_seconds=LIMIT)
    def main() -> None:
        dawdle()

    with pytest.raises(FlowRunTimeout, match=r"0\.1 s") as caught:
        main()
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.timeout == LIMIT
    state = main(return_state=True)
    assert (state.type, state.name) == ("FAILED", "TimedOut")


@pytest.mark.parametrize("loop", LOOPS)
def test_an_async_flow_past_its_limit(loop: str) -> None:
    @flow(timeout_seconds=LIMIT)
    async def main() -> None:
        await anyio.sleep(FOR_EVER)

    with pytest.raises(FlowRunTimeout):
        anyio.run(main, backend=loop)


def test_a_flow_past_its_limit_is_retried() -> None:
    tries: list[int] = []

    @flow(timeout_seconds=LIMIT, retries=2)
    def main() -> str:
        tries.append(1)
        if len(tries) < 3:
            dawdle()
        return "in time"

    assert main() == "in time"
    assert len(tries) == 3


def test_a_flow_that_waits_for_a_stuck_run() -> None:
    """The wait ends at the limit, though the thread that is waited for cannot be stopped."""
    go = threading.Event()

    @task
    def stuck() -> None:
        go.wait()

    threading.Timer(0.7, go.set).start()

    @flow(timeout_seconds=LIMIT)
    def main() -> None:
        stuck.submit().result()

    assert main(return_state=True).name == "TimedOut"
    go.set()


def test_a_nested_flow_past_its_limit() -> None:
    @flow(timeout_seconds=LIMIT)
    def inner() -> None:
        dawdle()

    @flow(timeout_seconds=PATIENCE)
    def outer() -> str:
        with pytest.raises(FlowRunTimeout):
            inner()
        return inc.submit(1).result() and "goes on"

    assert outer() == "goes on"


def test_the_outer_flows_limit_ends_the_inner_flow() -> None:
    @flow
    def inner() -> None:
        dawdle()

    @flow(timeout_seconds=LIMIT)
    def outer() -> None:
        inner()

    with pytest.raises(FlowRunTimeout):
        outer()


# ---------------------------------------------------------------------- calls that block, in the main thread


def _blocked_in(call: Callable[[], Any]) -> float:
    """How long a call held up a flow, and a task called directly, each with a limit."""
    began = time.monotonic()
    assert flow(name="blocked", timeout_seconds=LIMIT)(call)(return_state=True).name == "TimedOut"
    assert task(name="blocked", timeout_seconds=LIMIT)(call)(return_state=True).name == "TimedOut"
    return time.monotonic() - began


def _read_what_never_comes() -> None:
    reader, writer = socket.socketpair()
    with reader, writer:
        reader.recv(1)


@pytest.mark.skipif(not hasattr(signal, "SIGURG"), reason="there is no signal to use")
@pytest.mark.parametrize(
    "call",
    [
        lambda: time.sleep(PATIENCE),
        lambda: threading.Event().wait(),
        lambda: queue.Queue[int]().get(),
        lambda: _read_what_never_comes(),
        lambda: subprocess.check_call(["sleep", str(PATIENCE)]),
        lambda: asyncio.run(asyncio.sleep(PATIENCE)),
    ],
    ids=["sleep", "event", "queue", "socket", "subprocess", "loop"],
)
def test_a_call_that_blocks_the_main_thread(call: Callable[[], Any]) -> None:
    assert _blocked_in(call) < PATIENCE / 4
    assert signal.getsignal(signal.SIGURG) is signal.SIG_DFL


@pytest.mark.skipif(not hasattr(signal, "SIGURG"), reason="there is no signal to use")
def test_nested_limits_of_calls_that_block() -> None:
    @task(timeout_seconds=LIMIT)
    def short() -> None:
        time.sleep(PATIENCE)

    ends: list[str] = []

    @flow(timeout_seconds=4 * LIMIT)
    def outer() -> None:
        ends.append(short(return_state=True).name)
        try:
            short.with_options(timeout_seconds=PATIENCE)()
        finally:
            time.sleep(LIMIT)
            ends.append("cleaned up")

    began = time.monotonic()
    with pytest.raises(FlowRunTimeout):
        outer()
    assert ends == ["TimedOut", "cleaned up"], "the interrupt came once"
    assert time.monotonic() - began < PATIENCE / 4


@pytest.mark.skipif(not hasattr(signal, "SIGURG"), reason="there is no signal to use")
@pytest.mark.parametrize("when", ["before", "during"])
def test_a_handler_of_the_users_is_left_alone(when: str) -> None:
    calls: list[int] = []

    def handler(number: int, frame: Any) -> None:
        calls.append(number)

    @flow(timeout_seconds=LIMIT)
    def main() -> None:
        if when == "during":
            signal.signal(signal.SIGURG, handler)
        dawdle()

    if when == "before":
        signal.signal(signal.SIGURG, handler)
    try:
        with pytest.raises(FlowRunTimeout):
            main()
        assert signal.getsignal(signal.SIGURG) is handler
        assert calls == []
    finally:
        signal.signal(signal.SIGURG, signal.SIG_DFL)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no such timers")
def test_a_timer_of_the_users_is_left_alone() -> None:
    calls: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: calls.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, LIMIT / 2)
        _blocked_in(lambda: time.sleep(PATIENCE))
        assert calls == [signal.SIGALRM]
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_is_not_interrupted() -> None:
    @flow(timeout_seconds=PATIENCE)
    def main() -> int:
        child = os.fork()
        if child == 0:
            defaults = all(
                signal.getsignal(number) is signal.SIG_DFL
                for number in (signal.SIGURG, signal.SIGTERM)
            )
            os._exit(0 if defaults else 1)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert main() == 0


@pytest.mark.skipif(not hasattr(signal, "SIGURG"), reason="there is no signal to use")
def test_what_the_sequential_runner_blocks_on() -> None:
    @task
    def nap() -> None:
        time.sleep(PATIENCE)

    @flow(task_runner=SequentialTaskRunner())
    def limited_task() -> Any:
        return nap.with_options(timeout_seconds=LIMIT).submit().state.name

    @flow(task_runner=SequentialTaskRunner(), timeout_seconds=LIMIT)
    def limited_flow() -> Any:
        nap.submit()

    began = time.monotonic()
    assert limited_task() == "TimedOut"
    with pytest.raises(FlowRunTimeout):
        limited_flow()
    assert time.monotonic() - began < PATIENCE / 4


# ---------------------------------------------------------------------- generators


def test_the_limit_of_a_generator_is_for_what_it_does() -> None:
    """The time that its caller takes with an item is the caller's."""

    @task(timeout_seconds=2 * LIMIT)
    def items() -> Iterator[int]:
        yield from range(3)

    @flow(timeout_seconds=2 * LIMIT)
    def flow_of_items() -> Iterator[int]:
        yield from range(3)

    for make in (items, flow_of_items):
        got = []
        for item in make():
            got.append(item)
            time.sleep(LIMIT)
        assert got == [0, 1, 2]


@pytest.mark.parametrize("loop", LOOPS)
def test_the_limit_of_an_async_generator(loop: str) -> None:
    @task(timeout_seconds=LIMIT, retries=1)
    async def items() -> AsyncIterator[int]:
        yield 1
        await anyio.sleep(PATIENCE)

    @flow(timeout_seconds=LIMIT, retries=1)
    async def flow_of_items() -> AsyncIterator[int]:
        yield 1
        await anyio.sleep(PATIENCE)

    async def main() -> None:
        for make, error in ((items, TaskRunTimeout), (flow_of_items, FlowRunTimeout)):
            stream = make()
            assert [await anext(stream), await anext(stream)] == [1, 1]
            with pytest.raises(error):
                await anext(stream)

    anyio.run(main, backend=loop)


# ---------------------------------------------------------------------- waits


@pytest.mark.parametrize("timeout", [-1, -0.01, float("nan"), "1"], ids=str)
def test_waits_that_cannot_be(timeout: Any) -> None:
    """Also of what has ended, so that it does not depend on who is faster."""

    @flow
    def main() -> None:
        futures = inc.map([1, 2])
        for _ in range(2):
            one = futures[0]
            waits = [one.result, one.wait, one.exception, futures.result, futures.wait]
            for call in (
                *waits,
                lambda timeout: wait(futures, timeout),
                partial(as_completed, futures),
            ):
                with pytest.raises(ValueError, match="timeout") as caught:
                    call(timeout=timeout)
                assert isinstance(caught.value, InvalidOption)
            futures.wait()

    main()


@pytest.mark.parametrize("timeout", [0, 0.01])
def test_limits_of_waits(timeout: float) -> None:
    go = threading.Event()

    @task
    def hold(number: int) -> None:
        go.wait()

    @flow
    def main() -> None:
        futures = hold.map([1, 2, 3])
        future = futures[1]
        for call in (future.result, future.exception):
            with pytest.raises(WaitTimeout) as caught:
                call(timeout=timeout)
            assert caught.value.run_name == future.name
        with pytest.raises(WaitTimeout, match=r"3 \(of 3\) futures unfinished"):
            futures.result(timeout=timeout)
        with pytest.raises(WaitTimeout, match=r"3 \(of 3\) futures unfinished"):
            next(iter(as_completed(futures, timeout=timeout)))
        future.wait(timeout=timeout)
        futures.wait(timeout=timeout)
        assert wait(futures, timeout=timeout) == (set(), set(futures))
        go.set()
        futures.result(timeout=PATIENCE)

    main()


@pytest.mark.parametrize("bad", [float("nan"), "1", [1]])
def test_limits_that_are_no_numbers(bad: Any) -> None:
    go = threading.Event()

    @task
    def hold() -> None:
        go.wait()

    @flow
    def main() -> None:
        future = hold.submit()
        try:
            for call in (future.result, future.wait, future.exception):
                with pytest.raises((ValueError, TypeError)):
                    call(timeout=bad)
        finally:
            go.set()

    main()


def test_very_long_limits() -> None:
    @flow
    def main() -> None:
        assert inc.submit(1).result(timeout=float("inf")) == 2
        assert inc.submit(1).result(timeout=1e12) == 2
        assert inc.with_options(timeout_seconds=1e12).submit(1).result() == 2

    main()
    assert inc.with_options(timeout_seconds=1e12)(1) == 2


@pytest.mark.parametrize("bad", [0, -1, "5", float("inf"), float("nan"), True])
def test_bad_time_limits(bad: Any) -> None:
    with pytest.raises(InvalidOption, match="timeout_seconds"):
        task(timeout_seconds=bad)(dawdle)
    with pytest.raises(InvalidOption, match="timeout_seconds"):
        flow(timeout_seconds=bad)(dawdle)
