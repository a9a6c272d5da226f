"""`ExecutorTaskRunner` on the executors of the standard library and of loky, and what is its own (SPEC 11.2, 11.4)."""

from __future__ import annotations

import asyncio
import copy
import os
import pickle
import signal
import threading
import time
import traceback
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from typing import TYPE_CHECKING, Any

import pytest
from loky import ProcessPoolExecutor as LokyExecutor
from shoal import flow, runtime, task
from shoal.engine.loops import SERVICE_LOOP
from shoal.exceptions import (
    CancelledRun,
    InvalidOption,
    SerializationError,
    TaskRunTimeout,
    WorkerDied,
)
from shoal.task_runners import ExecutorTaskRunner
from shoal.testing import TaskRunnerSuite
from shoal.testing.samples import boom, hold, inc, note
from shoal.testing.tools import PATIENCE, Signals

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.mark.slow
class TestProcessPool(TaskRunnerSuite):
    """Made on entering, from a class and options."""

    @pytest.fixture
    def runner(self) -> ExecutorTaskRunner:
        return ExecutorTaskRunner(ProcessPoolExecutor, max_workers=2)

    @pytest.fixture
    def single_runner(self) -> ExecutorTaskRunner:
        return ExecutorTaskRunner(ProcessPoolExecutor, max_workers=1)


class TestThreadPool(TaskRunnerSuite):
    """Threads of this process: nothing is pickled."""

    @pytest.fixture
    def runner(self) -> ExecutorTaskRunner:
        return ExecutorTaskRunner(ThreadPoolExecutor, max_workers=2)

    @pytest.fixture
    def single_runner(self) -> ExecutorTaskRunner:
        return ExecutorTaskRunner(ThreadPoolExecutor, max_workers=1)


def loky_executor(workers: int) -> LokyExecutor:
    """A loky pool whose workers have started, so that no test is blamed for them."""
    executor = LokyExecutor(max_workers=workers)
    for future in [executor.submit(os.getpid) for _ in range(4 * workers)]:
        future.result()
    return executor


@pytest.fixture(scope="module")
def pair() -> Iterator[LokyExecutor]:
    executor = loky_executor(2)
    yield executor
    executor.shutdown()


@pytest.fixture(scope="module")
def single() -> Iterator[LokyExecutor]:
    executor = loky_executor(1)
    yield executor
    executor.shutdown()


@pytest.fixture(scope="module", autouse=True)
def pools_that_outlive_tests(pair: LokyExecutor, single: LokyExecutor) -> None:
    """Starts them before the first test, which else is blamed for their threads."""


@pytest.mark.slow
class TestLoky(TaskRunnerSuite):
    """One executor for all tests, as given: it outlives the runners (SPEC 11.2), and a death breaks it for good."""

    survives_crashes = False

    @pytest.fixture
    def runner(self, pair: LokyExecutor) -> ExecutorTaskRunner:
        return ExecutorTaskRunner(pair)

    @pytest.fixture
    def single_runner(self, single: LokyExecutor) -> ExecutorTaskRunner:
        return ExecutorTaskRunner(single)

    @pytest.mark.parametrize("pickler", [pickle])
    def test_it_can_be_pickled(self, runner: Any, pickler: Any) -> None:
        """An executor that exists cannot be, nor can its runner."""
        with pytest.raises(Exception, match=r"pickle|cannot|can.t|could not"):
            pickler.dumps(runner)

    def test_it_can_be_copied(self, runner: Any) -> None:
        assert copy.copy(runner) == runner

    def test_flows_inside_runs(self, runner: Any) -> None:
        """A flow whose runner has an executor that exists stays in this process."""
        inner = flow(task_runner=runner)(lambda_free)

        @task
        def parent() -> None:
            inner()

        with runner as entered, pytest.raises(SerializationError, match="parent"):
            entered.submit(parent, {}).result(timeout=PATIENCE)


def lambda_free() -> None:
    """A flow's body."""


# ---------------------------------------------------------------------- whose executor it is


@pytest.fixture
def signals(tmp_path: Path) -> Signals:
    return Signals(tmp_path)


def test_an_instance_is_never_shut_down() -> None:  # SPEC 11.2
    with ThreadPoolExecutor(2) as executor:
        runner = ExecutorTaskRunner(executor)
        for _ in range(2):
            with runner as entered:
                assert entered.submit(inc, {"x": 1}).result() == 2
        with pytest.raises(ValueError, match="in the block"), runner:
            raise ValueError("in the block")
        assert executor.submit(int, "7").result() == 7


def test_a_process_pool_that_is_an_instance() -> None:
    with ProcessPoolExecutor(1) as executor:

        @flow(task_runner=ExecutorTaskRunner(executor))
        def main() -> Any:
            return inc.map(range(100)).result()

        assert main() == main() == list(range(1, 101))
        assert executor.submit(int, "7").result() == 7


@pytest.mark.parametrize("raises", [False, True])
def test_what_was_made_is_shut_down(raises: bool) -> None:
    made: list[ThreadPoolExecutor] = []

    def make(workers: int) -> ThreadPoolExecutor:
        made.append(ThreadPoolExecutor(workers))
        return made[-1]

    runner = ExecutorTaskRunner(make, workers=3)
    assert made == [], "it is made when the runner is entered"
    try:
        with runner as entered:
            assert entered.submit(inc, {"x": 1}).result() == 2
            if raises:
                raise KeyError("in the block")
    except KeyError:
        assert raises
    assert len(made) == 1
    assert made[0]._max_workers == 3
    with pytest.raises(RuntimeError, match="shutdown"):
        made[0].submit(int)


def test_an_executor_of_the_users_own_kind() -> None:
    """Nothing is asked of it but `submit` and `shutdown`."""

    class Plain(ThreadPoolExecutor):
        pass

    @flow(task_runner=ExecutorTaskRunner(Plain, max_workers=2))
    def main() -> Any:
        return inc.map([inc.submit(1), inc.submit(2)]).result()

    assert main() == [3, 4]


def test_queued_work_of_an_instance_is_taken_back(signals: Signals) -> None:
    """SPEC 3.5, 11.2: a runner that leaves in disorder leaves none of its queued work on the user's executor."""
    with ThreadPoolExecutor(1) as executor:

        def use() -> None:
            with ExecutorTaskRunner(executor) as runner:
                runner.submit(hold, {"signals": signals, "name": "go"})
                signals.wait("go began")
                futures.extend(
                    runner.submit(note, {"signals": signals, "log": "log", "text": number})
                    for number in range(10)
                )
                raise ValueError("in the block")

        futures: list[Any] = []
        with pytest.raises(ValueError, match="in the block"):
            use()
        assert all(future.state.is_cancelled() for future in futures)
        signals.set("go")
        executor.submit(int).result(timeout=PATIENCE)
    assert signals.lines("log") == []


def test_a_broken_executor_of_the_users(signals: Signals) -> None:
    """SPEC 7.5: it is not ours to replace, so every run that comes after is CRASHED, and nothing hangs."""

    @task
    def dies() -> None:
        os._exit(3)

    with ProcessPoolExecutor(1) as executor, ExecutorTaskRunner(executor) as runner:
        first = runner.submit(dies, {})
        first.wait(PATIENCE)
        assert first.state.is_crashed()
        second = runner.submit(inc, {"x": 1})
        second.wait(PATIENCE)
        assert second.state.is_crashed()


def test_an_executor_that_breaks_while_it_holds_its_lock() -> None:
    """Process pools do from Python 3.12 on: a callback of theirs that submits would wait for itself."""
    made: list[Executor] = []

    class Breaks(Executor):
        def __init__(self) -> None:
            made.append(self)
            self.lock = threading.Lock()
            self.broken = False

        def submit(self, *work: Any, **options: Any) -> Future[Any]:
            with self.lock:
                if self.broken:
                    raise BrokenExecutor
                future: Future[Any] = Future()
                threading.Thread(target=self._break, args=(future,)).start()
                return future

        def _break(self, future: Future[Any]) -> None:
            with self.lock:
                self.broken = True
                future.set_exception(BrokenExecutor("by plan"))

        def shutdown(self, *args: Any, **options: Any) -> None:
            with self.lock:
                self.broken = True

    with ExecutorTaskRunner(Breaks) as runner:
        run = runner.submit(inc.with_options(crash_retries=2), {"x": 1})
        with pytest.raises(WorkerDied, match="by plan"):
            run.result(timeout=PATIENCE)
    assert 3 <= len(made) <= 4, "one for each attempt, and perhaps one for what may come"


def test_a_broken_pool_whose_workers_do_not_want_to_end(signals: Signals) -> None:
    """SPEC 7.5: the pool would wait for them for ever, and its `submit` from Python 3.12 on."""

    @task
    def stays() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signals.set("stays")
        time.sleep(600)

    @task
    def dies() -> None:
        os._exit(3)

    with ExecutorTaskRunner(ProcessPoolExecutor, max_workers=2) as runner:
        staying = runner.submit(stays, {})
        signals.wait("stays")
        for run in (runner.submit(dies, {}), staying):
            with pytest.raises(WorkerDied):
                run.result(timeout=PATIENCE)
        assert runner.submit(inc, {"x": 1}).result(timeout=PATIENCE) == 2


@pytest.mark.parametrize("retries", [0, 1])
def test_a_run_in_this_process_is_reported_at_its_limit(retries: int) -> None:
    """SPEC 7.3: where a call that blocks cannot be stopped, nobody waits for its end; hooks are called once."""
    failures: list[str] = []
    began = [threading.Event() for _ in range(retries + 1)]
    go_on = [threading.Event() for _ in range(retries + 1)]

    @task(
        timeout_seconds=0.1,
        retries=retries,
        on_failure=[lambda task, run, state: failures.append(state.name)],
    )
    def overruns() -> None:
        attempt = runtime.task_run.run_count - 1
        began[attempt].set()
        go_on[attempt].wait(PATIENCE)

    with ExecutorTaskRunner(ThreadPoolExecutor, max_workers=1) as runner:
        future = runner.submit(overruns, {})
        for attempt in range(retries):  # the next never overlaps one that still runs
            assert began[attempt].wait(PATIENCE)
            time.sleep(0.3)
            assert not began[attempt + 1].is_set()
            go_on[attempt].set()
        assert began[-1].wait(PATIENCE)
        with pytest.raises(TaskRunTimeout):
            future.result(timeout=PATIENCE)
        assert future.state.name == "TimedOut"
        go_on[-1].set()
        assert runner.submit(inc, {"x": 1}).result(timeout=PATIENCE) == 2
    assert failures == ["TimedOut"]


@pytest.mark.parametrize("arguments", ["wait=True", "wait=True, *, cancel_futures=False"])
def test_any_executor_that_is_made_is_shut_down(arguments: str) -> None:
    """loky's takes no `cancel_futures`; a thread that died of it was all that was to be seen."""
    ended: list[bool] = []

    class Made(ThreadPoolExecutor):
        pass

    space = {"ThreadPoolExecutor": ThreadPoolExecutor, "ended": ended}
    exec(
        f"def shutdown(self, {arguments}):\n"
        "    ThreadPoolExecutor.shutdown(self, wait)\n    ended.append(wait)",
        space,
    )
    Made.shutdown = space["shutdown"]  # type: ignore[method-assign, assignment]
    with ExecutorTaskRunner(Made, max_workers=1) as runner:
        assert runner.submit(inc, {"x": 1}).result(timeout=PATIENCE) == 2
    assert ended == [True]


def test_cancelling_what_runs_settles_it_at_once(signals: Signals) -> None:
    """SPEC 7.4: the work itself cannot be stopped, and its late end changes nothing."""
    with ExecutorTaskRunner(ThreadPoolExecutor, max_workers=1) as runner:
        future = runner.submit(hold, {"signals": signals, "name": "go"})
        signals.wait("go began")
        assert future.cancel()
        with pytest.raises(CancelledRun):
            future.result(timeout=0)
        signals.set("go")
        assert runner.submit(inc, {"x": 1}).result(timeout=PATIENCE) == 2
        assert future.state.is_cancelled()


# ---------------------------------------------------------------------- what crosses, and what does not


def test_ids_and_flow_runs_read_the_same_on_a_worker() -> None:
    @task
    def whoami() -> Any:
        return runtime.task_run.id, runtime.flow_run.id, runtime.flow_run.parameters

    @flow(task_runner=ExecutorTaskRunner(ProcessPoolExecutor, max_workers=1))
    def main(size: int = 3) -> None:
        future = whoami.submit()
        assert future.result() == (future.task_run_id, runtime.flow_run.id, {"size": 3})

    main()


def test_nested_runs_happen_on_the_worker_in_place() -> None:
    @task
    def where() -> int:
        return os.getpid()

    @task
    def parent() -> Any:
        return os.getpid(), where.submit().result()

    with ExecutorTaskRunner(ProcessPoolExecutor, max_workers=1) as runner:
        here, there = runner.submit(parent, {}).result()
        assert here == there != os.getpid()


def test_a_task_ships_its_globals_again_for_each_flow_run() -> None:
    """DESIGN: a shipped function freezes what it refers to, so every flow run ships it afresh."""
    seen = {"value": 1}

    @task
    def read() -> int:
        return seen["value"]

    @flow(task_runner=ExecutorTaskRunner(ProcessPoolExecutor, max_workers=1))
    def main() -> int:
        return read.submit().result()

    assert main() == 1
    seen["value"] = 2
    assert main() == 2


def test_many_short_runs_travel_together() -> None:
    """SPEC 2.7, 6.5: in far fewer items than runs, and each keeps its own outcome."""
    items: list[Any] = []

    class Counting(ThreadPoolExecutor):
        def submit(self, *args: Any, **kwargs: Any) -> Any:
            items.append(args)
            return super().submit(*args, **kwargs)

    @task
    def odd_fails(x: int) -> int:
        if x % 2:
            raise ValueError(x)
        return x

    with ExecutorTaskRunner(Counting, max_workers=2) as runner:
        futures = runner.map(odd_fails, {"x": range(5000)})
        values = futures.result(raise_on_failure=False)
    assert values[::2] == list(range(0, 5000, 2))
    assert [value.args for value in values[1::2]] == [(number,) for number in range(1, 5000, 2)]
    assert len(items) < 1000

    items.clear()
    with ExecutorTaskRunner(Counting, max_workers=2) as runner:
        runner.map(odd_fails.with_options(batch=False), {"x": range(0, 100, 2)}).wait()
        assert len(items) == 50
        items.clear()
        runner.map(odd_fails.with_options(batch=10), {"x": range(0, 1000, 2)}).wait()
        assert len(items) >= 50


# ---------------------------------------------------------------------- refusals


def test_bad_settings() -> None:
    with pytest.raises(InvalidOption, match="executor"):
        ExecutorTaskRunner(4)  # type: ignore[arg-type]
    with ThreadPoolExecutor(1) as executor, pytest.raises(InvalidOption, match="max_workers"):
        ExecutorTaskRunner(executor, max_workers=2)


def test_what_the_factory_raises_is_raised_on_entering() -> None:
    def broken() -> ThreadPoolExecutor:
        raise OSError("no licence for this pool")

    runner = ExecutorTaskRunner(broken)
    with pytest.raises(OSError, match="no licence"), runner:
        pass
    with pytest.raises(RuntimeError):
        runner.submit(inc, {"x": 1})


def test_equality() -> None:
    assert ExecutorTaskRunner(ThreadPoolExecutor, max_workers=2) == ExecutorTaskRunner(
        ThreadPoolExecutor, max_workers=2
    )
    assert ExecutorTaskRunner(ThreadPoolExecutor, max_workers=2) != ExecutorTaskRunner(
        ThreadPoolExecutor, max_workers=3
    )
    assert ExecutorTaskRunner(ThreadPoolExecutor) != ExecutorTaskRunner(ProcessPoolExecutor)


def test_failures_come_with_the_workers_traceback() -> None:  # SPEC 4.2
    @flow(task_runner=ExecutorTaskRunner(ProcessPoolExecutor, max_workers=1))
    def main() -> None:
        boom.submit("far away").result()

    with pytest.raises(Exception, match="far away") as caught:
        main()
    shown = traceback.extract_tb(caught.value.__traceback__)
    assert [os.path.basename(frame.filename) for frame in shown] == [
        *[os.path.basename(__file__)] * 2,
        "samples.py",
    ]
    assert shown[-1].line == "raise BoomError(text, code)"


@task
async def one_more(x: int) -> int:
    return x + 1


def test_coroutines_that_were_cancelled_before_they_began() -> None:
    """By a run that cancels all that it finds on its loop (SPEC 7.4)."""
    loop, held, scheduled = SERVICE_LOOP.get(), threading.Event(), threading.Event()
    loop.call_soon_threadsafe(held.wait)
    posted = loop.call_soon_threadsafe

    def post(*args: Any, **options: Any) -> Any:
        handle = posted(*args, **options)
        scheduled.set()
        return handle

    with ThreadPoolExecutor(1) as pool, pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "call_soon_threadsafe", post)
        runner = ExecutorTaskRunner(pool).__enter__()
        run = runner.submit(one_more, {"x": 1})
        assert scheduled.wait(PATIENCE)
        posted(lambda: [other.cancel() for other in asyncio.all_tasks()])
        held.set()
        run.wait(PATIENCE)
        assert run.state.name == "Cancelled"
        runner.__exit__(None, None, None)
