"""Section 7.5 to 7.7 on any runner: workers that die, exceptions that end programs, what cannot be pickled."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from shoal import flow, task
from shoal.exceptions import CrashedRun, SerializationError, UpstreamTaskError, WorkerDied
from shoal.testing.base import SuiteBase, covers
from shoal.testing.samples import BoomError, identity, inc
from shoal.testing.tools import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.task_runners import TaskRunner
    from shoal.testing.tools import Signals

__all__ = ["CrashTests", "SerializationTests"]


def die(driver: int, how: str) -> None:
    """Ends the process it is in, unless that is the driver."""
    if os.getpid() == driver:
        raise AssertionError(
            "this worker is in the driver's process, so it must not declare `isolated`"
        )
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(3)


class Unpicklable:
    """A lock with a name: something that plainly cannot be pickled."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


#: How the child of a forking run ends, and the exit code that says so.
ENDS = {"returns": 0, "returns more": 0, "raises": 1, "exits": 3}


def fork(signals: Signals, how: str) -> int | list[str]:
    """Forks; the child ends in this function, the parent gives its exit code."""
    child = os.fork()
    if child == 0:
        signals.append("children", how)
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - it is about to end
        if how == "raises":
            raise BoomError("in the child")
        if how == "exits":
            raise SystemExit(3)
        return -1 if how == "returns" else [how]
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class CrashTests(SuiteBase):
    """Sections 7.5 and 7.6."""

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
    @pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
    @pytest.mark.parametrize("kind", ["sync", "async"])
    @covers("7.5")
    def test_a_child_that_a_run_forks_is_no_worker(
        self, runner: TaskRunner, signals: Signals, kind: str
    ) -> None:
        def hook(task: Any, run: Any, state: Any) -> None:
            signals.append("hooks", run.parameters["how"])

        @task
        def forks(how: str) -> Any:
            return fork(signals, how)

        @task
        async def forks_async(how: str) -> Any:
            return fork(signals, how)

        work = forks if kind == "sync" else forks_async
        hooked = work.with_options(retries=1, on_completion=[hook], on_failure=[hook])

        @flow(task_runner=runner)
        def main() -> None:
            runs = [hooked.submit(how) for how in ENDS] + list(work.map(list(ENDS)))
            runs.append(work.submit("returns"))
            assert [run.result(timeout=PATIENCE) for run in runs] == [
                *ENDS.values(),
                *ENDS.values(),
                0,
            ]
            assert inc.map(range(20)).result(timeout=PATIENCE) == list(range(1, 21))

        main()
        assert sorted(signals.lines("children")) == sorted([*ENDS, *ENDS, "returns"])
        assert sorted(signals.lines("hooks")) == sorted(ENDS), "the children call none"

    @pytest.mark.parametrize("how", ["killed", "exited"])
    @covers("7.5", needs=("isolated", "survives_crashes"))
    def test_a_worker_that_dies(self, runner: TaskRunner, signals: Signals, how: str) -> None:
        driver = os.getpid()

        @task
        def dies() -> None:
            signals.append("pids", os.getpid())
            die(driver, how)

        @flow(task_runner=runner)
        def main() -> None:
            before = inc.map(range(10))
            assert before.result() == list(range(1, 11))
            crashed = dies.submit()
            with pytest.raises(WorkerDied) as caught:
                crashed.result(timeout=PATIENCE)
            assert crashed.state.is_crashed()
            assert caught.value.run_name == crashed.name
            assert caught.value.host
            if caught.value.pid is not None:  # not every engine tells
                assert [str(caught.value.pid)] == signals.lines("pids")
                if how == "killed":
                    assert caught.value.signal in (signal.SIGKILL, None)
                else:
                    assert caught.value.exit_code in (3, None)
            with pytest.raises(UpstreamTaskError):
                identity.submit(crashed).result(timeout=PATIENCE)
            assert inc.map(range(10)).result(timeout=PATIENCE) == list(range(1, 11))

        main()
        assert len(signals.lines("pids")) == 1, "what may have started is not repeated unasked"

    @covers("7.5", needs=("isolated", "survives_crashes"))
    def test_crash_retries(self, runner: TaskRunner, signals: Signals) -> None:
        driver = os.getpid()

        @task(crash_retries=2, retries=5)
        def dies(name: str, times: int) -> str:
            signals.append(name, "x")
            if len(signals.lines(name)) <= times:
                die(driver, "killed")
            return "survived"

        @flow(task_runner=runner)
        def main() -> None:
            assert dies.submit("twice", 2).result(timeout=PATIENCE) == "survived"
            crashed = dies.submit("always", 99)
            with pytest.raises(WorkerDied):
                crashed.result(timeout=PATIENCE)
            assert crashed.state.is_crashed()

        main()
        assert len(signals.lines("twice")) == 3
        assert len(signals.lines("always")) == 3

    @pytest.mark.parametrize("batch", [True, False])
    @covers("7.5", "6.5", needs=("isolated", "survives_crashes"))
    def test_a_crash_in_a_map(
        self, single_runner: TaskRunner, signals: Signals, batch: bool
    ) -> None:
        driver = os.getpid()

        @task(batch=batch)
        def element(x: int) -> int:
            signals.append("began", x)
            if x == 70:
                die(driver, "killed")
            return x

        @flow(task_runner=single_runner)
        def main() -> None:
            futures = element.map(range(100))
            futures.wait(PATIENCE)
            states = [future.state for future in futures]
            assert states[70].is_crashed()
            assert all(state.is_completed() or state.is_crashed() for state in states)
            for future, state in zip(futures, states, strict=True):
                if state.is_completed():
                    assert future.result() == futures.index(future)
            if not batch:  # else all may be CRASHED that were in one message with it
                assert sum(state.is_crashed() for state in states) <= 3
            assert inc.submit(1).result(timeout=PATIENCE) == 2

        main()
        assert len(signals.lines("began")) == len(set(signals.lines("began"))), "none began twice"

    @covers("7.6")
    def test_an_exception_that_would_end_a_program(self, runner: TaskRunner) -> None:
        @task
        def ends(error: BaseException) -> None:
            raise error

        @task
        async def ends_async(error: BaseException) -> None:
            raise error

        @flow(task_runner=runner)
        def main() -> None:
            for error in (SystemExit(3), KeyboardInterrupt()):
                for a_task in (ends, ends_async):
                    future = a_task.submit(error)
                    with pytest.raises(CrashedRun, match=type(error).__name__):
                        future.result(timeout=PATIENCE)
                    assert future.state.is_crashed()
            assert inc.submit(1).result(timeout=PATIENCE) == 2

        main()


def hidden_in_a_list() -> Any:
    """An argument that cannot be pickled, some way down."""
    return {"cfg": [1, Unpicklable()]}


class SerializationTests(SuiteBase):
    """Section 7.7."""

    @covers("7.7", needs="isolated")
    def test_arguments_that_cannot_be_pickled(self, runner: TaskRunner) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            future = identity.submit(hidden_in_a_list())
            with pytest.raises(SerializationError) as caught:
                future.result(timeout=PATIENCE)
            assert caught.value.path == "parameters['x']['cfg'][1].lock"
            assert caught.value.type_name.endswith("lock")
            assert caught.value.run_name == future.name
            assert inc.submit(1).result(timeout=PATIENCE) == 2

        main()

    @covers("7.7", "6.5", needs="isolated")
    def test_an_element_that_cannot_be_pickled_fails_alone(self, runner: TaskRunner) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            identity.map(range(100)).wait()
            futures = identity.map([1, threading.Lock(), 3])
            futures.wait(PATIENCE)
            assert [future.state.name for future in futures] == ["Completed", "Failed", "Completed"]
            with pytest.raises(SerializationError):
                futures[1].result()

        main()

    @covers("7.7", needs="isolated")
    def test_results_that_cannot_be_pickled(self, runner: TaskRunner) -> None:
        @task
        def gives(make: Callable[[], Any]) -> Any:
            return make()

        @flow(task_runner=runner)
        def main() -> None:
            for make in (threading.Lock, Unpicklable, lambda: [{"a": threading.Lock()}]):
                futures = [gives.submit(make), inc.submit(1)]
                with pytest.raises(SerializationError, match="result"):
                    futures[0].result(timeout=PATIENCE)
                assert futures[0].state.is_failed()
                assert futures[1].result(timeout=PATIENCE) == 2

        main()

    @covers("7.7", needs="isolated")
    def test_functions_that_cannot_be_pickled(self, runner: TaskRunner) -> None:
        lock = threading.Lock()

        @task
        def locks() -> None:
            with lock:
                pass

        @flow(task_runner=runner)
        def main() -> None:
            with pytest.raises(SerializationError):
                locks.submit().result(timeout=PATIENCE)
            assert inc.submit(1).result(timeout=PATIENCE) == 2

        main()

    @covers("7.7", needs="isolated")
    def test_exceptions_that_cannot_be_pickled(self, runner: TaskRunner) -> None:
        @task
        def fails() -> None:
            error = BoomError("with a lock")
            error.lock = threading.Lock()  # type: ignore[attr-defined]
            raise error

        @flow(task_runner=runner)
        def main() -> None:
            future = fails.submit()
            with pytest.raises(Exception, match="with a lock"):
                future.result(timeout=PATIENCE)
            assert future.state.is_failed()
            assert inc.submit(1).result(timeout=PATIENCE) == 2

        main()

    @covers("7.7", needs="isolated")
    def test_results_that_cannot_be_unpickled(self, runner: TaskRunner) -> None:
        @task
        def gives() -> Any:
            class Bad:
                def __reduce__(self) -> Any:
                    return int, ("not a number",)

            return Bad()

        @flow(task_runner=runner)
        def main() -> None:
            with pytest.raises(Exception, match="number"):
                gives.submit().result(timeout=PATIENCE)
            assert inc.submit(1).result(timeout=PATIENCE) == 2

        main()
