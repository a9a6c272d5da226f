"""Futures beyond what the suite asks of every runner: misuse, callbacks, loops, odd waits (SPEC 4)."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import gc
import pickle
import threading
import time
import weakref
from typing import Any

import anyio
import pytest
from shoal import flow, task
from shoal.exceptions import (
    BlockingWaitInLoop,
    CancelledRun,
    CrashedRun,
    RunnerStateError,
    WaitCycle,
)
from shoal.futures import (
    TaskFuture,
    TaskFutureList,
    as_completed,
    resolve_futures_to_results,
    resolve_futures_to_states,
    wait,
)
from shoal.task_runners import SequentialTaskRunner, ThreadPoolTaskRunner
from shoal.testing.base import LOOPS
from shoal.testing.samples import BoomError, Box, Pair, Weighed, add, boom, identity, inc
from shoal.testing.tools import PATIENCE, eventually

COLOUR = contextvars.ContextVar("colour", default="none")


@task
def hold(go: threading.Event, value: Any = None) -> Any:
    """Waits to be let go."""
    assert go.wait(PATIENCE)
    return value


# ---------------------------------------------------------------------- misuse


def test_a_future_cannot_be_pickled() -> None:
    @flow
    def main() -> None:
        future = inc.submit(1)
        with pytest.raises(TypeError, match="argument of a task"):
            pickle.dumps(future)
        assert copy.copy([future]) == [future]

    main()


def test_a_future_is_no_truth_and_no_iterable() -> None:
    """`if future:` and `for x in future:` are mistakes; at least the second is told."""

    @flow
    def main() -> None:
        with pytest.raises(TypeError):
            iter(inc.submit(1))  # type: ignore[call-overload]
        with pytest.raises(TypeError):
            len(inc.submit(1))  # type: ignore[arg-type]

    main()


def test_futures_outlive_their_runner() -> None:
    with ThreadPoolTaskRunner(1) as runner:
        good, bad = runner.submit(inc, {"x": 1}), runner.submit(boom, {})
        mapped = runner.map(inc, {"x": [1, 2]})
    assert good.result() == 2
    assert isinstance(bad.exception(), BoomError)
    assert mapped.result() == [2, 3]
    assert wait([good, bad]).not_done == set()
    assert good.cancel() is False
    assert set(as_completed([good, bad, *mapped])) == {good, bad, *mapped}
    called: list[Any] = []
    good.add_done_callback(called.append)
    eventually(lambda: called == [good], "a callback of a run that ended long ago is called")


def test_a_runner_that_was_left_takes_no_more() -> None:
    with ThreadPoolTaskRunner(1) as runner:
        scope = runner.scope()
    from shoal.context import SCOPE

    token = SCOPE.set(scope)
    try:
        for use in (inc.submit, lambda x: inc.map([x])):
            with pytest.raises(RunnerStateError, match="left"):
                use(1)
    finally:
        SCOPE.reset(token)


def test_exceptions_of_odd_ends() -> None:
    go = threading.Event()

    @task
    def ends() -> None:
        raise SystemExit(3)

    @flow
    def main() -> None:
        ended, waiting = ends.submit(), inc.submit(hold.submit(go))
        waiting.cancel()
        go.set()
        assert isinstance(ended.exception(), CrashedRun)
        assert isinstance(ended.exception().__cause__, SystemExit)  # type: ignore[union-attr]
        assert isinstance(waiting.exception(), CancelledRun)
        assert isinstance(waiting.result(raise_on_failure=False), CancelledRun)
        after = inc.submit(boom.submit())
        assert after.exception() is after.exception()

    main()


# ---------------------------------------------------------------------- SPEC 4.1: callbacks


def test_callbacks_run_in_order_in_their_context_and_survive_anything(
    caplog: pytest.LogCaptureFixture,
) -> None:
    go, calls = threading.Event(), []

    def call(name: str) -> Any:
        def callback(future: TaskFuture[Any]) -> None:
            calls.append((name, COLOUR.get()))
            if name == "breaks":
                raise ValueError("a broken callback")
            if name == "ends":
                raise SystemExit

        return callback

    @flow
    def main() -> None:
        future = hold.submit(go)
        for name in ("one", "breaks", "ends", "two"):
            COLOUR.set(name)
            future.add_done_callback(call(name))
        go.set()
        eventually(lambda: len(calls) == 4, "all are called")

    contextvars.copy_context().run(main)
    assert calls == [(name, name) for name in ("one", "breaks", "ends", "two")]
    assert "a broken callback" in caplog.text


def test_a_slow_callback_holds_up_no_run() -> None:
    go, done = threading.Event(), threading.Event()

    @flow(task_runner=ThreadPoolTaskRunner(1))
    def main() -> None:
        first = inc.submit(1)
        first.add_done_callback(lambda future: (go.wait(PATIENCE), done.set()))
        assert [inc.submit(n).result(timeout=PATIENCE) for n in range(50)] == list(range(1, 51))
        assert not done.is_set()
        go.set()
        assert done.wait(PATIENCE)

    main()


def test_a_callback_may_wait_for_runs() -> None:
    got: list[Any] = []

    @flow(task_runner=ThreadPoolTaskRunner(1))
    def main() -> None:
        future = inc.submit(1)
        future.add_done_callback(lambda done: got.append(inc.submit(done.result()).result()))
        eventually(lambda: got == [3], "the callback has its value")

    main()


def test_callbacks_of_elements() -> None:
    called: list[Any] = []

    @flow
    def main() -> None:
        futures = identity.map(range(50))
        for future in futures:
            future.add_done_callback(lambda done: called.append(done.result()))
        eventually(lambda: len(called) == 50, "one call for each element")
        assert sorted(called) == list(range(50))

    main()


# ---------------------------------------------------------------------- SPEC 4.1, 4.7: loops


@pytest.mark.parametrize("loop", LOOPS)
def test_awaiting_many_at_once(loop: str) -> None:
    @flow
    async def main() -> Any:
        total: list[int] = []

        async def one(number: int) -> None:
            total.append(await inc.submit(number))

        async with anyio.create_task_group() as group:
            for number in range(200):
                group.start_soon(one, number)
        return sorted(total)

    assert anyio.run(main, backend=loop) == list(range(1, 201))


def test_awaiting_with_asyncio_gather_and_wait_for() -> None:
    go = threading.Event()

    @flow
    async def main() -> Any:
        async def value_of(future: TaskFuture[Any]) -> Any:
            return await future

        slow = hold.submit(go, "slow")
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(value_of(slow), timeout=0.02)
        go.set()
        return await asyncio.gather(*map(value_of, [slow, inc.submit(1)]))

    assert asyncio.run(main()) == ["slow", 2]


def test_awaiting_outside_of_any_flow() -> None:
    with ThreadPoolTaskRunner(1) as runner:
        future = runner.submit(inc, {"x": 1})

        async def main() -> Any:
            return await future

        assert asyncio.run(main()) == 2
        assert anyio.run(main, backend="trio") == 2


def test_a_loop_that_ends_while_it_is_awaited() -> None:
    """The run ends after the loop that waited for it: nobody is woken, nothing breaks."""
    go = threading.Event()
    with ThreadPoolTaskRunner(1) as runner:
        future = runner.submit(hold, {"go": go, "value": 5})

        async def main() -> None:
            with anyio.move_on_after(0.02):
                await future

        asyncio.run(main())
        anyio.run(main, backend="trio")
        go.set()
        assert future.result(timeout=PATIENCE) == 5


def test_the_loop_of_async_tasks_is_not_blocked() -> None:
    go = threading.Event()

    @task
    async def blocks(how: str) -> str:
        future = hold.submit(go)
        mapped = hold.map([go])
        uses = {
            "result": future.result,
            "exception": future.exception,
            "wait": future.wait,
            "list": mapped.result,
            "function": lambda: wait([future]),
            "iterate": lambda: list(as_completed([future])),
            "timed": lambda: future.result(timeout=5),
        }
        with pytest.raises(BlockingWaitInLoop, match="await") as caught:
            uses[how]()
        return str(caught.value)

    @task
    async def asks() -> Any:
        ended = inc.submit(1)
        await ended
        return (
            ended.result(),
            ended.exception(),
            ended.result(timeout=0),
            wait([ended]).done == {ended},
        )

    @flow
    def main() -> None:
        try:
            for how in ("result", "exception", "wait", "list", "function", "iterate", "timed"):
                assert blocks.submit(how).result(timeout=PATIENCE)
        finally:
            go.set()
        assert asks.submit().result(timeout=PATIENCE) == (2, None, 2, True), (
            "what has ended may be asked"
        )

    main()


def test_breaking_out_of_an_async_iteration() -> None:
    go = threading.Event()

    @flow
    async def main() -> None:
        slow, quick = hold.submit(go), inc.submit(1)
        async for future in as_completed([slow, quick]):
            assert future == quick
            break
        go.set()
        assert await slow is None

    asyncio.run(main())


# ---------------------------------------------------------------------- SPEC 4.3, 4.4: waits of many kinds


def test_as_completed_while_runs_are_submitted() -> None:
    @flow
    def main() -> None:
        ended = as_completed([inc.submit(n) for n in range(20)])
        seen = [inc.submit(future.result()).result() for future in ended]
        assert sorted(seen) == list(range(2, 22))

    main()


def test_as_completed_takes_iterators_and_lists_of_futures() -> None:
    @flow
    def main() -> None:
        futures = inc.map(range(5))
        assert set(as_completed(iter(futures))) == set(futures)
        assert set(as_completed(futures[1:3])) == {futures[1], futures[2]}
        assert wait(future for future in futures).done == set(futures)

    main()


def test_breaking_out_of_an_iteration_leaves_nothing_behind() -> None:
    go = threading.Event()

    @flow
    def main() -> None:
        slow, quick = hold.submit(go), inc.submit(1)
        quick.wait()
        iterators = [iter(as_completed([slow, quick])) for _ in range(3)]
        assert all(next(each) == quick for each in iterators)
        ends = [weakref.ref(each) for each in iterators]
        iterators.clear()
        gc.collect()
        assert not any(end() for end in ends)
        go.set()

    main()


def test_waits_that_expire_leave_nothing_behind() -> None:
    """A future that many have waited for in vain has not grown."""
    go = threading.Event()

    @flow
    def main() -> None:
        future = hold.submit(go)

        def count() -> int:
            gc.collect()
            return len(gc.get_objects())

        def in_vain(times: int) -> None:
            for _ in range(times):
                future.wait(0)
                wait([future], timeout=0)
                with pytest.raises(TimeoutError):
                    future.result(timeout=0)
                with pytest.raises(TimeoutError):
                    list(as_completed([future], timeout=0))

        in_vain(20)
        before = count()
        in_vain(200)
        assert count() - before < 100
        go.set()

    main()


def test_lists_of_futures_made_by_hand() -> None:
    @flow
    def main() -> None:
        futures = TaskFutureList([inc.submit(1), inc.submit(2)])
        assert futures.result() == [2, 3]
        assert TaskFutureList() == []
        assert TaskFutureList().result() == []
        assert futures == [futures[0], futures[1]]
        assert futures != [futures[1], futures[0]]
        assert inc.map(futures).result() == [3, 4]
        assert identity.submit([futures]).result() == [[2, 3]]
        assert add.submit(*futures).result() == 5
        assert isinstance(futures + [futures[0]], TaskFutureList)  # noqa: RUF005 - `+` is the subject
        assert (futures + (futures[0],))[2] == futures[0]  # noqa: RUF005
        with pytest.raises(TypeError):
            futures + 5  # type: ignore[operator]

    main()


def test_resolving_keeps_what_holds_no_future() -> None:
    @flow
    def main() -> None:
        plain = [1, {"a": object()}]
        assert resolve_futures_to_results(plain) is plain
        assert resolve_futures_to_states(5) == 5
        value = Box(Pair(inc.submit(1), {inc.submit(2)}))
        assert resolve_futures_to_results(value) == Box(Pair(2, {3}))

    main()


def test_a_wait_for_ever_in_a_circle_is_refused() -> None:
    """SPEC 9.1: also over `wait` and `as_completed`, and timed or not."""
    own: list[Any] = []

    @task
    def waits(how: str) -> None:
        eventually(lambda: own, "its own future is known")
        if how == "wait":
            wait(own)
        elif how == "timed":
            own[0].result(timeout=PATIENCE)
        elif how == "iterate":
            list(as_completed(own))
        else:
            inc.submit(own[0]).result()

    @task
    async def waits_async() -> None:
        while not own:  # noqa: ASYNC110 - it is set by another thread
            await anyio.sleep(0.001)
        await own[0]

    @flow(task_runner=ThreadPoolTaskRunner(2))
    def main() -> None:
        for how in ("wait", "timed", "iterate", "dependant", "async"):
            own.clear()
            own.append(waits_async.submit() if how == "async" else waits.submit(how))
            error = own[0].exception(timeout=PATIENCE)
            assert isinstance(error, WaitCycle), (how, error)

    main()


# ---------------------------------------------------------------------- SPEC 4.6: memory


def test_memory_stays_flat(caplog: pytest.LogCaptureFixture) -> None:
    """100,000 runs whose futures are dropped leave nothing behind."""
    living = weakref.WeakSet[Weighed]()

    @task
    def make(thing: Weighed) -> Weighed:
        made = Weighed(thing.number)
        living.add(made)
        return made

    @flow(task_runner=ThreadPoolTaskRunner(2))
    def main() -> None:
        for _ in range(20):
            for number in range(250):
                thing = Weighed(number)
                living.add(thing)
                make.submit(thing)
            make.map([Weighed(n) for n in range(750)])
            inc.map(range(4000))
            inc.submit(0).wait()
        eventually(lambda: gc.collect() >= 0 and len(living) <= 1, "all is released", timeout=10)

    caplog.set_level("WARNING", "shoal")
    main()


def test_log_records_keep_no_value_alive(caplog: pytest.LogCaptureFixture) -> None:
    """A handler that keeps records, as many do, must not keep every result of the program with them."""
    caplog.set_level("INFO", "shoal")
    living: list[Any] = []

    @task
    def make() -> Weighed:
        made = Weighed()
        living.append(weakref.ref(made))
        return made

    @flow(task_runner=SequentialTaskRunner())
    def main() -> None:
        make.submit().wait()

    main()
    assert any("Finished in state" in record.getMessage() for record in caplog.records)
    gc.collect()
    assert living[0]() is None


def test_dropping_a_map_releases_its_values(caplog: pytest.LogCaptureFixture) -> None:
    references: list[Any] = []

    @task
    def make(number: int) -> Weighed:
        made = Weighed(number)
        references.append(weakref.ref(made))
        return made

    @flow
    def main() -> None:
        futures = make.map(range(20))
        futures.wait()
        kept = futures[7]
        del futures
        eventually(
            lambda: gc.collect() >= 0 and sum(bool(ref()) for ref in references) <= 1,
            "only the value with a living view is kept",
            timeout=10,
        )
        assert kept.result().number == 7
        again = make.map([1])
        dependant = identity.submit([again[0]])
        del again
        assert dependant.result()[0].number == 1

    caplog.set_level("WARNING", "shoal")
    main()


def test_waiting_wakes_at_once() -> None:
    """SPEC 4.7: nothing polls. A thousand hand-overs between two threads take no thousand ticks of a clock."""
    with ThreadPoolTaskRunner(1) as runner:
        runner.submit(inc, {"x": 1}).result()
        before = time.monotonic()
        for number in range(1000):
            assert runner.submit(inc, {"x": number}).result(timeout=PATIENCE) == number + 1
        assert time.monotonic() - before < 5
