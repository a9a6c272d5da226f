"""Worker processes that die, or that are given what cannot travel (SPEC 7.5, 7.7): who bears it, and that nothing hangs."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import resource
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest
from shoal import allow_failure, flow, task
from shoal.context import current_scope
from shoal.exceptions import (
    InvalidOption,
    SerializationError,
    UpstreamTaskError,
    WorkerDied,
)
from shoal.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner
from shoal.task_runners.processes.spawning import default_method
from shoal.testing.tools import PATIENCE, Signals, eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from shoal.futures import TaskFuture

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(default_method() != "forkserver", reason="there is no forking here"),
]

#: How a worker may end: what does it, and the exit code and signal that are told.
DEATHS: dict[str, tuple[Callable[[], object], int | None, int | None]] = {
    "leaves at once": (lambda: os._exit(7), 7, None),
    "is killed": (lambda: os.kill(os.getpid(), signal.SIGKILL), None, signal.SIGKILL),
    "is told to end": (lambda: os.kill(os.getpid(), signal.SIGTERM), None, signal.SIGTERM),
    "breaks its memory": (lambda: ctypes.string_at(0), None, signal.SIGSEGV),
}


@pytest.fixture
def signals(tmp_path: Path) -> Signals:
    return Signals(tmp_path)


@task
def inc(x: int) -> int:
    return x + 1


@task
def pid(x: Any = None) -> int:
    return os.getpid()


@task
def die(x: Any = None) -> None:
    os._exit(7)


@task
def counted(signals: Signals, x: int) -> int:
    signals.append("runs", x)
    return x


@task
def hold(signals: Signals, name: str = "held") -> int:
    signals.set(f"{name} began")
    signals.set(f"{name} by {os.getpid()}")
    signals.wait(name)
    return os.getpid()


def pool(workers: int = 1, **options: Any) -> ProcessPoolTaskRunner:
    return ProcessPoolTaskRunner(workers, **options)


def worker_pids() -> list[int]:
    """The worker processes that there are; a fork server's children."""
    backend = current_scope("").dispatcher.backend
    return [member.process.wait_pid() for member in list(backend.pool.alive)]


def died(run: TaskFuture[Any]) -> WorkerDied:
    """The error of a run that died with its worker."""
    error = run.exception(timeout=PATIENCE)
    assert run.state.is_crashed(), run.state
    assert isinstance(error, WorkerDied), repr(error)
    return error


# ------------------------------------------------------------------------ who bears a death


# SPEC 7.5
@pytest.mark.parametrize("how", DEATHS)
def test_what_is_told_of_a_death(how: str) -> None:
    death, exit_code, number = DEATHS[how]

    @task
    def ends() -> None:
        death()

    @flow(task_runner=pool())
    def main() -> None:
        before = pid.submit().result()
        run = ends.submit()
        error = died(run)
        assert (error.pid, error.exit_code, error.signal) == (before, exit_code, number)
        assert error.host
        assert error.run_name == run.name
        assert pid.submit().result() != before

    main()


# SPEC 7.5
def test_deaths_within_a_large_map(signals: Signals) -> None:
    bad = set(range(50, 1000, 100))

    @task
    def element(x: int) -> int:
        signals.append("runs", x)
        if x in bad:
            os._exit(9)
        return x

    @flow(task_runner=pool(2))
    def main() -> None:
        runs = element.map(range(1000))
        values = runs.result(raise_on_failure=False)
        assert [x for x, run in enumerate(runs) if run.state.is_crashed()] == sorted(bad)
        assert [v for x, v in enumerate(values) if x not in bad] == [
            x for x in range(1000) if x not in bad
        ]
        assert {died(runs[x]).exit_code for x in bad} == {9}

    main()
    assert sorted(map(int, signals.lines("runs"))) == list(range(1000)), "each once"


def test_deaths_within_a_burst_of_single_runs(signals: Signals) -> None:
    @task
    def element(x: int) -> str:
        signals.append("runs", x)
        if x % 50 == 25:
            os._exit(9)
        return f"value {x}"

    @flow(task_runner=pool(2))
    def main() -> None:
        runs = [element.submit(x) for x in range(300)]
        for x, run in enumerate(runs):
            if x % 50 == 25:
                died(run)
            else:
                assert run.result(timeout=PATIENCE) == f"value {x}"

    main()
    assert sorted(map(int, signals.lines("runs"))) == list(range(300)), "each once"


# SPEC 7.5
def test_runs_may_be_repeated_after_crashes(signals: Signals) -> None:
    @task(crash_retries=2)
    def ends(times: int) -> int:
        signals.append("pids", os.getpid())
        if len(signals.lines("pids")) <= times:
            os._exit(1)
        return len(signals.lines("pids"))

    @flow(task_runner=pool())
    def main() -> None:
        assert ends.submit(2).result() == 3
        assert len(set(signals.lines("pids"))) == 3
        again = ends.submit(6)
        died(again)
        assert len(signals.lines("pids")) == 6

    main()


def test_crash_retries_of_an_element(signals: Signals) -> None:
    @task(crash_retries=1)
    def element(x: int) -> int:
        signals.append(f"runs-{x}", os.getpid())
        if x in (3, 5) and len(signals.lines(f"runs-{x}")) == 1:
            os._exit(1)
        return x

    @flow(task_runner=pool(2))
    def main() -> None:
        assert element.map(range(20)).result() == list(range(20))

    main()
    assert [len(signals.lines(f"runs-{x}")) for x in range(20)] == [
        2 if x in (3, 5) else 1 for x in range(20)
    ]


# SPEC 7.5
def test_a_worker_killed_from_outside_while_it_is_idle() -> None:
    @flow(task_runner=pool())
    def main() -> None:
        for _ in range(5):
            before = pid.submit().result()
            os.kill(before, signal.SIGKILL)  # and at once, before that is noticed:
            assert pid.submit().result(timeout=PATIENCE) != before

    main()


@pytest.mark.skipif(default_method() != "forkserver", reason="there is no server elsewhere")
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_a_worker_dies_while_the_server_is_stopped(signals: Signals, busy: bool) -> None:
    """SPEC 7.5. The server, which alone can tell, is continued; the runner ends though it is stopped once more."""

    @flow(task_runner=pool())
    def main() -> None:
        first = pid.submit().result()
        server = psutil.Process(first).parent()
        assert server is not None
        run = hold.submit(signals) if busy else None
        if run is not None:
            signals.wait("held began")
        server.suspend()
        os.kill(first, signal.SIGKILL)
        assert run is None or isinstance(run.exception(timeout=PATIENCE), WorkerDied)
        assert pid.submit().result(timeout=PATIENCE) != first
        server.suspend()

    main()


def test_a_worker_killed_from_outside_while_it_is_busy(signals: Signals) -> None:
    @flow(task_runner=pool())
    def main() -> None:
        run = hold.submit(signals)
        others = [counted.submit(signals, x) for x in range(20)]
        signals.wait("held began")
        (worker,) = worker_pids()
        os.kill(worker, signal.SIGKILL)
        assert died(run).signal == signal.SIGKILL
        assert [other.result() for other in others] == list(range(20))

    main()
    assert sorted(map(int, signals.lines("runs"))) == list(range(20))


def test_what_hangs_on_a_crashed_run() -> None:
    @flow(task_runner=pool())
    def main() -> None:
        run = die.submit()
        after, allowed = inc.submit(run), pid.submit(allow_failure(run))
        with pytest.raises(UpstreamTaskError):
            after.result()
        assert after.state.name == "NotReady"
        assert allowed.result() > 0

    main()


def test_a_chain_that_travels_together(signals: Signals) -> None:
    @task
    def link(x: int) -> int:
        signals.append("runs", x)
        if x == 5:
            os._exit(1)
        return x + 1

    @flow(task_runner=pool())
    def main() -> None:
        first = hold.submit(signals)
        chain = [link.submit(0)]
        for _ in range(9):
            chain.append(link.submit(chain[-1]))
        signals.set("held")
        assert [run.result() for run in chain[:5]] == [1, 2, 3, 4, 5]
        died(chain[5])
        assert [run.state.name for run in chain[6:]] == ["NotReady"] * 4
        first.result()

    main()
    assert signals.lines("runs") == ["0", "1", "2", "3", "4", "5"]


# SPEC 7.5
def test_a_death_takes_along_what_waited_beneath() -> None:
    @task
    def parent() -> None:
        die.submit().result()

    @flow(task_runner=pool())
    def main() -> None:
        error = died(parent.submit())
        assert "waited" in str(error)
        assert pid.submit().result()

    main()


def test_children_of_a_run_that_died_go_on(signals: Signals) -> None:
    @task
    def parent() -> None:
        counted.map([signals] * 30, range(30))
        counted.submit(signals, 30)
        signals.wait("the parent may die")
        os._exit(1)

    @flow(task_runner=pool(2))
    def main() -> None:
        run = parent.submit()
        eventually(lambda: len(signals.lines("runs")) == 31, "the children run elsewhere")
        signals.set("the parent may die")
        died(run)

    main()
    assert sorted(map(int, signals.lines("runs"))) == list(range(31))


def test_children_of_a_run_that_died_before_they_could_begin(signals: Signals) -> None:
    @task
    def parent() -> None:
        counted.map([signals] * 30, range(30))
        os._exit(1)

    @flow(task_runner=pool())
    def main() -> None:
        died(parent.submit())

    main()
    assert sorted(map(int, signals.lines("runs"))) == list(range(30))


def test_a_death_in_a_coroutine(signals: Signals) -> None:
    @task
    async def naps(x: int) -> int:
        signals.append("runs", x)
        await asyncio.sleep(0.001)
        if x == 1:
            eventually(lambda: len(signals.lines("runs")) == 3, "all have begun")
            os._exit(3)
        await asyncio.sleep(60)
        return x

    @flow(task_runner=pool())
    def main() -> None:
        runs = naps.map(range(3))
        assert {died(run).exit_code for run in runs} == {3}, "they ran side by side"
        assert inc.submit(1).result() == 2

    main()


# SPEC 5.7
def test_values_outlive_the_worker_that_made_them() -> None:
    @task
    def make(x: int) -> tuple[int, Any]:
        return os.getpid(), np.full(100_000, x)

    @task
    def total(pair: tuple[int, Any]) -> int:
        return int(pair[1].sum())

    @flow(task_runner=pool())
    def main() -> None:
        runs = [make.submit(x) for x in range(3)]
        maker, _ = runs[0].result()
        runs[2].wait()
        os.kill(maker, signal.SIGKILL)
        assert [total.submit(run).result() for run in runs] == [0, 100_000, 200_000]
        assert int(runs[1].result()[1][-1]) == 1

    main()


def test_states_while_a_worker_dies() -> None:
    """Nobody reads what a dead worker wrote down once that is unmapped."""
    stop = threading.Event()

    @flow(task_runner=pool(2))
    def main() -> None:
        runs: list[TaskFuture[Any]] = []

        def look() -> None:
            while not stop.is_set():
                for run in runs:
                    assert run.state is not None

        looker = threading.Thread(target=look)
        looker.start()
        try:
            for _ in range(20):
                runs[:] = [die.submit(), inc.submit(1)]
                died(runs[0])
        finally:
            stop.set()
            looker.join()

    main()


# ------------------------------------------------------------------------ workers that do not start


def _raise(text: str) -> None:
    raise ValueError(text)


def test_an_initializer_that_raises() -> None:
    @flow(task_runner=pool(2, initializer=_raise, initargs=("no database",)))
    def main() -> None:
        runs = [*[inc.submit(x) for x in range(30)], *inc.map(range(30))]
        for run in runs:
            error = died(run)
            assert "initializer" in str(error)
            assert "ValueError: no database" in str(error)
        died(inc.submit(1))
        assert inc.submit(runs[0]).state.name == "NotReady"
        assert inc.map([1, 2])[1].state.is_crashed()

    main()


def test_an_initializer_that_ends_the_process() -> None:
    @flow(task_runner=pool(2, initializer=os._exit, initargs=(4,)))
    def main() -> None:
        runs = inc.map(range(30))
        assert "4" in str(died(runs[0]))
        assert all(run.state.is_crashed() for run in runs)

    main()


def test_an_initializer_that_cannot_be_pickled() -> None:
    lock = threading.Lock()

    @flow(task_runner=pool(initializer=lambda: lock.acquire()))
    def main() -> None:
        pytest.fail("it is entered")

    with pytest.raises(SerializationError, match="initializer"):
        main()


def _remember(*values: object) -> None:
    os.environ["REMEMBERED"] = repr(values)


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_options(method: str) -> None:
    runner = pool(
        2,
        initializer=_remember,
        initargs=(1, "two"),
        start_method=method,
        env={"OF_THE_WORKERS": "only"},
    )

    @task
    def reads() -> tuple[str | None, ...]:
        return os.environ.get("REMEMBERED"), os.environ.get("OF_THE_WORKERS")

    @flow(task_runner=runner)
    def main() -> None:
        assert reads.submit().result() == ("(1, 'two')", "only")
        assert sorted(inc.map(range(10)).result()) == list(range(1, 11))
        assert died(die.submit()).exit_code == 7

    main()
    assert "OF_THE_WORKERS" not in os.environ


def test_workers_retire() -> None:
    @task
    async def naps(x: int) -> int:
        await asyncio.sleep(0.01)
        return os.getpid()

    @task
    async def nests(x: int) -> int:
        return await pid.submit() + await naps.submit(x)

    @flow(task_runner=pool(2, max_tasks_per_worker=5))
    def main() -> None:
        assert len({pid.submit().result() for _ in range(11)}) >= 2
        pids = [*pid.map(range(10)), *naps.map(range(8)), *[naps.submit(x) for x in range(8)]]
        pids += [nests.submit(x) for x in range(5)]
        for run in pids:
            assert run.result(timeout=PATIENCE) > 0
        eventually(lambda: len(worker_pids()) <= 2, "those that had their five have ended")

    main()


@pytest.mark.parametrize(
    "options",
    [
        {"max_workers": 0},
        {"max_workers": -1},
        {"max_workers": True},
        {"max_workers": "2"},
        {"max_tasks_per_worker": 0},
        {"initializer": 3},
        {"initargs": [1]},
        {"start_method": "fork"},
        {"env": {"A": 1}},
        {"env": 3},
    ],
    ids=repr,
)
def test_options_that_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match=next(iter(options))):
        ProcessPoolTaskRunner(**options)


# ------------------------------------------------------------------------ what cannot travel


class Unpicklable:
    """Cannot be pickled."""

    def __reduce__(self) -> Any:
        raise TypeError("not this one")


class Trap:
    """Does something where it is unpickled."""

    def __init__(self, does: Callable[..., object], *args: object) -> None:
        self.does = does
        self.args = args

    def __reduce__(self) -> Any:
        return self.does, self.args


class OddError(Exception):
    """Pickles, and does not unpickle."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


@task
def takes(signals: Signals, x: Any) -> Any:
    signals.append("runs", x)
    return x


# SPEC 7.7
@pytest.mark.parametrize("what", ["submit", "map"])
def test_arguments_that_raise_where_they_are_unpickled(signals: Signals, what: str) -> None:
    values = [Trap(_raise, "on arrival") if x == 7 else x for x in range(30)]

    @flow(task_runner=pool())
    def main() -> None:
        first = hold.submit(signals)
        if what == "map":
            runs = list(takes.map([signals] * 30, values))
        else:
            runs = [takes.submit(signals, value) for value in values]
        signals.set("held")
        first.result()
        for x, run in enumerate(runs):
            if x == 7:
                error = run.exception(timeout=PATIENCE)
                assert isinstance(error, SerializationError)
                assert "on arrival" in str(error)
            else:
                assert run.result(timeout=PATIENCE) == x

    main()
    assert sorted(map(int, signals.lines("runs"))) == [x for x in range(30) if x != 7]


# SPEC 7.5, 7.7
@pytest.mark.parametrize("what", ["submit", "map", "alone"])
def test_arguments_that_kill_where_they_are_unpickled(signals: Signals, what: str) -> None:
    count = 1 if what == "alone" else 30
    values = [Trap(os._exit, 5) if x in (0, 7) else x for x in range(count)]

    @flow(task_runner=pool())
    def main() -> None:
        first = hold.submit(signals)
        if what == "map":
            runs = list(takes.map([signals] * count, values))
        else:
            runs = [takes.submit(signals, value) for value in values]
        signals.set("held")
        first.wait()
        innocent = []
        for x, run in enumerate(runs):
            if x in (0, 7):
                assert died(run).exit_code == 5
            elif run.exception(timeout=PATIENCE) is None:
                assert run.result() == x
            else:  # what its worker executed at that moment
                assert died(run).exit_code == 5
                innocent.append(x)
        assert len(innocent) <= 2, "a death takes one run along at the most"
        completed = {x for x in range(count) if x not in (0, 7, *innocent)}
        begun = [int(line) for line in signals.lines("runs")]
        assert completed <= set(begun) <= completed | set(innocent)
        assert len(begun) == len(set(begun)), "none began twice"

    main()


def test_functions_that_do_not_unpickle() -> None:
    trap = Trap(_raise, "on arrival")

    @task
    def uses(x: int) -> Any:
        return trap

    @flow(task_runner=pool())
    def main() -> None:
        before = pid.submit().result()
        runs = [*[uses.submit(x) for x in range(5)], *[inc.submit(x) for x in range(5)]]
        runs += uses.map(range(5))
        errors = [run.exception(timeout=PATIENCE) for run in runs]
        assert [type(e).__name__ for e in errors] == [
            *["SerializationError"] * 5,
            *["NoneType"] * 5,
            *["SerializationError"] * 5,
        ]
        assert all("on arrival" in str(error) for error in errors if error is not None)
        assert pid.submit().result() == before, "the worker lives"

    main()


# SPEC 7.7
def test_ends_that_cannot_travel() -> None:
    @task
    def returns(x: int) -> Any:
        if x == 3:
            return Unpicklable()
        if x == 5:
            return Trap(_raise, "at home")
        if x == 7:
            raise OddError(1, 2)
        if x == 9:
            error = ValueError("with something")
            error.extra = threading.Lock()  # type: ignore[attr-defined]
            raise error
        if x == 11:
            return [bytes(200_000), Trap(_raise, "at home")]
        return x

    @flow(task_runner=pool(2))
    def main() -> None:
        for runs in (returns.map(range(20)), [returns.submit(x) for x in range(20)]):
            for x, run in enumerate(runs):
                if x == 11:
                    with pytest.raises(SerializationError, match="at home"):
                        run.result(timeout=PATIENCE)
                    continue
                error = run.exception(timeout=PATIENCE)
                assert isinstance(error, SerializationError) == (x in (3, 5)), (x, error)
                assert error is not None or run.result() == x
        assert "result" in str(returns.submit(3).exception())
        assert isinstance(returns.submit(7).exception(), OddError)
        told = returns.submit(9).exception()
        assert isinstance(told, ValueError)
        assert told.__notes__ == ["Left behind, as it cannot be pickled: .extra (lock)"]

    main()


def test_nested_runs_with_what_cannot_travel() -> None:
    """The driver unpickles what runs submit, and must survive that."""

    @task
    def parent() -> list[str]:
        bad = [Unpicklable(), Trap(_raise, "on arrival")]
        runs: list[Any] = [inc.submit(value) for value in bad]
        for value in bad:
            runs += inc.map([1, value, 3])
        runs += inc.map([1, 2])
        return [type(run.exception()).__name__ for run in runs]

    @flow(task_runner=pool())
    def main() -> None:
        wrong, right = "SerializationError", "NoneType"
        assert parent.submit().result(timeout=PATIENCE) == [
            *[wrong] * 2,
            *[right, wrong, right] * 2,
            *[right] * 2,
        ]
        assert inc.submit(1).result() == 2

    main()


# ------------------------------------------------------------------------ without room


def _few_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))


def test_workers_without_room_for_large_values(caplog: pytest.LogCaptureFixture) -> None:
    @task
    def make(x: int) -> Any:
        return np.full(20_000, x)

    @task
    def total(values: list[Any]) -> int:
        return int(sum(value[0] for value in values))

    @flow(task_runner=pool(2, initializer=_few_files))
    def main() -> None:
        runs = make.map(range(100))
        assert [int(value[-1]) for value in runs.result(timeout=PATIENCE)] == list(range(100))
        error = total.submit(list(runs)).exception(timeout=PATIENCE)
        assert error is None or "Too many open files" in str(error)
        assert inc.submit(1).result() == 2

    with caplog.at_level(logging.WARNING):
        main()
    assert any("no room in shared memory" in record.getMessage() for record in caplog.records)


def test_a_driver_that_may_have_few_files() -> None:
    @task
    def make(x: int) -> Any:
        return np.full(20_000, x)

    @task
    def total(values: list[Any]) -> int:
        return int(sum(value[0] for value in values))

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = len(os.listdir("/proc/self/fd"))

    @flow(task_runner=pool(2))
    def main() -> None:
        runs = make.map(range(300))
        assert [int(value[-1]) for value in runs.result(timeout=PATIENCE)] == list(range(300))
        assert total.submit(list(runs)).result(timeout=PATIENCE) == sum(range(300))

    resource.setrlimit(resource.RLIMIT_NOFILE, (opened + 200, hard))
    try:
        main()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_more_large_values_than_go_with_one_message() -> None:
    @task
    def make(x: int) -> bytes:
        return bytes([x % 256]) * 70_000

    @task
    def lengths(values: list[bytes]) -> int:
        return sum(map(len, values))

    @task
    def nested() -> int:
        return lengths.submit(list(make.map(range(300)))).result()

    @flow(task_runner=pool(2))
    def main() -> None:
        assert lengths.submit(list(make.map(range(300)))).result(timeout=PATIENCE) == 300 * 70_000
        assert nested.submit().result(timeout=PATIENCE) == 300 * 70_000

    main()


# ------------------------------------------------------------------------ crowds


def test_a_fork_bomb_of_tasks_is_none() -> None:
    @task
    def leaf(x: int) -> int:
        return x

    @task
    def branch(x: int) -> int:
        return sum(leaf.map(range(30)).result())

    @task
    def tree(x: int) -> int:
        return sum(branch.map(range(30)).result())

    most = 0
    stop = threading.Event()

    @flow(task_runner=pool(2))
    def main() -> None:
        pid.map(range(4)).result()
        backend = current_scope("").dispatcher.backend

        def watch() -> None:
            nonlocal most
            while not stop.wait(0.002):
                most = max(most, len(backend.pool.alive))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            assert tree.map(range(30)).result(timeout=PATIENCE) == [30 * sum(range(30))] * 30
        finally:
            stop.set()
            watcher.join()

    main()
    assert 0 < most <= 2


def test_timed_waits_do_not_multiply_the_workers() -> None:
    @task
    def child(x: int) -> int:
        time.sleep(0.01)
        return x

    @task
    def parent(x: int) -> int:
        return child.submit(x).result(timeout=PATIENCE)

    most = 0
    stop = threading.Event()

    @flow(task_runner=pool(2))
    def main() -> None:
        backend = current_scope("").dispatcher.backend

        def watch() -> None:
            nonlocal most
            while not stop.wait(0.002):
                most = max(most, len([m for m in list(backend.pool.alive) if not m.leaving]))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            assert parent.map(range(20)).result(timeout=PATIENCE) == list(range(20))
            eventually(lambda: len(backend.pool.alive) <= 2, "spare workers go away")
        finally:
            stop.set()
            watcher.join()

    main()
    assert most <= 4, "two, and a spare for each that waits"


def test_forks_inside_runs(signals: Signals) -> None:
    @task
    def forks(x: int) -> str:
        child = os.fork()
        if child == 0:
            signals.append("children", x)
            if x % 2:
                raise SystemExit(3)
            return "the child"
        os.waitpid(child, 0)
        return "the parent"

    @flow(task_runner=pool())
    def main() -> None:
        runs = [
            *[forks.submit(x) for x in range(4)],
            *[takes.submit(signals, x) for x in range(50)],
        ]
        assert [run.result(timeout=PATIENCE) for run in runs] == [*["the parent"] * 4, *range(50)]

    main()
    assert sorted(signals.lines("children")) == ["0", "1", "2", "3"]
    assert sorted(map(int, signals.lines("runs"))) == list(range(50)), "each once, by no child"


def test_multiprocessing_inside_runs() -> None:
    @task
    def spreads(x: int) -> int:
        import multiprocessing

        with multiprocessing.get_context("fork").Pool(2) as inner:
            return sum(inner.map(abs, range(x)))

    @flow(task_runner=pool())
    def main() -> None:
        assert spreads.submit(10).result(timeout=PATIENCE) == 45
        assert not psutil.Process(pid.submit().result()).children()

    main()


def test_large_values_of_one_runner_on_another() -> None:
    @task
    def make() -> Any:
        return np.arange(100_000)

    @flow(task_runner=ThreadPoolTaskRunner(1))
    def inner(values: Any) -> int:
        return int(task(lambda v: v.sum()).submit(values).result())

    @flow(task_runner=pool())
    def main() -> None:
        assert inner(make.submit()) == sum(range(100_000))

    main()
