"""Workers that cannot start, come late, die, or are started from a worker: runs end, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import dask
import psutil
import pytest
from distributed import Scheduler, SpecCluster, Worker
from distributed.deploy.spec import ProcessInterface
from shoal import flow, task
from shoal.exceptions import ClusterFailed
from shoal.testing.samples import inc
from shoal.testing.tools import PATIENCE, Signals, eventually
from shoal_dask import DaskTaskRunner, forking, get_dask_client, link, watch
from shoal_dask.bus import kill
from shoal_dask.forking import SERVER, _environment, overruling
from shoal_dask.settings import is_client

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [
    pytest.mark.slow,
    pytest.mark.may_leave(
        "threads",
        "processes",
        reason="clusters replace workers that were killed, and are closed late",
    ),
]

TWO = {"n_workers": 2}


# ---------------------------------------------------------------------- clusters without workers


class NoSuchProgram(ProcessInterface):
    """A job that cannot be submitted."""

    async def start(self) -> None:
        raise FileNotFoundError(2, "No such file or directory", "sbatch")


class Silent(ProcessInterface):
    """A job that is submitted and never heard of."""


class Late(ProcessInterface):
    """A job that waits in a queue."""

    def __init__(self, scheduler: str, name: object = None) -> None:
        super().__init__()
        self._arguments = {"scheduler_ip": scheduler, "name": name}

    async def start(self) -> None:
        await super().start()
        self._started = asyncio.ensure_future(self._queue())

    async def _queue(self) -> Worker:
        await asyncio.sleep(1.0)
        return await Worker(**self._arguments, nthreads=1, dashboard=False)

    async def close(self) -> None:
        await (await self._started).close()
        await super().close()


class DiesAtOnce(Worker):
    """A worker that ends when it has just begun."""

    async def start_unsafe(self) -> Worker:
        await super().start_unsafe()
        asyncio.get_running_loop().call_soon(lambda: asyncio.ensure_future(self.close()))
        return self


def queue_of(kind: type, **options: Any) -> Callable[..., SpecCluster]:
    """A class of clusters that are told to start a worker when they are there already, as job queues are."""

    class Queue(SpecCluster):
        def __init__(self, n_workers: int = 1) -> None:
            scheduler = {"cls": Scheduler, "options": {"dashboard": False, "port": 0}}
            worker = {"cls": kind, "options": options}
            super().__init__(worker=worker, scheduler=scheduler, silence_logs=50)
            self.scale(n_workers)

    return Queue


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A watch that looks often, and believes early that there will be no workers."""
    monkeypatch.setattr(watch, "EVERY", 0.05)
    monkeypatch.setattr(watch, "STUCK_AFTER", 0.3)


def outcome_on(runner: DaskTaskRunner) -> Any:
    """What becomes of a run there: its value or its exception."""

    @flow(task_runner=runner)
    def main() -> Any:
        run = inc.submit(1)
        run.wait(PATIENCE)
        return run.state, run.result(raise_on_failure=False)

    return main()


CANNOT_START = {
    "a class": (queue_of(NoSuchProgram), {}),
    "a function": (lambda: queue_of(NoSuchProgram)(), {}),
    "adaptive": (
        queue_of(NoSuchProgram),
        {
            "cluster_kwargs": {"n_workers": 0},
            "adapt_kwargs": {"minimum": 0, "maximum": 2, "interval": "50ms"},
        },
    ),
}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("case", CANNOT_START)
def test_workers_that_cannot_start(case: str) -> None:
    make, options = CANNOT_START[case]
    state, error = outcome_on(DaskTaskRunner(cluster_class=make, **options))
    assert state.is_crashed()
    assert isinstance(error, ClusterFailed)
    assert "starts none" in str(error)
    if case != "a function":  # which has started them before anybody could look
        assert "sbatch" in str(error)
        assert isinstance(error.__cause__, FileNotFoundError)


@pytest.mark.usefixtures("impatient")
def test_workers_that_end_at_once() -> None:
    make = queue_of(DiesAtOnce, nthreads=1, dashboard=False)
    _, error = outcome_on(DaskTaskRunner(cluster_class=make))
    assert isinstance(error, ClusterFailed)


@pytest.mark.usefixtures("impatient")
def test_workers_that_queue_are_waited_for() -> None:
    assert outcome_on(DaskTaskRunner(cluster_class=queue_of(Late)))[1] == 2


@pytest.mark.usefixtures("impatient")
def test_a_time_limit_for_workers() -> None:
    """`worker_timeout` also holds on clusters of others, where it is `None` by default."""
    made = DaskTaskRunner(cluster_class=queue_of(Silent), worker_timeout=0.2)
    assert "worker_timeout" in str(outcome_on(made)[1])
    with queue_of(NoSuchProgram)() as given:
        error = outcome_on(DaskTaskRunner(given, worker_timeout=0.2))[1]
        assert isinstance(error, ClusterFailed)
        assert error.address == given.scheduler_address
    none = DaskTaskRunner(cluster_kwargs={"n_workers": 0}, worker_timeout=0.2)
    assert isinstance(outcome_on(none)[1], ClusterFailed)


async def no_cluster() -> None:
    """What somebody took for a cluster class."""


def test_a_coroutine_is_no_cluster() -> None:
    with pytest.raises(ClusterFailed, match="which is none"):
        outcome_on(DaskTaskRunner(cluster_class=no_cluster))  # type: ignore[arg-type]


# ---------------------------------------------------------------------- workers that die


@task
def pid() -> int:
    return os.getpid()


def test_a_worker_comes_back_though_it_was_dead_before() -> None:
    """Dask gives a nanny up whose worker is dead when an earlier death of it is looked into."""

    @flow(task_runner=DaskTaskRunner(cluster_kwargs={"n_workers": 1}))
    def main() -> bool:
        first = pid.submit().result()
        os.kill(first, signal.SIGKILL)
        return pid.submit().result(timeout=PATIENCE) != first

    with dask.config.set({"distributed.deploy.lost-worker-timeout": "1ms"}):
        assert main()


def test_a_stopped_fork_server() -> None:
    """It alone can tell that a worker has died, and start another."""

    @flow(task_runner=DaskTaskRunner(cluster_kwargs={"n_workers": 1}))
    def main() -> bool:
        first = pid.submit().result()
        os.kill(SERVER._server._forkserver_pid, signal.SIGSTOP)  # type: ignore[attr-defined]
        os.kill(first, signal.SIGKILL)
        return pid.submit().result(timeout=PATIENCE) != first

    assert main()
    os.kill(SERVER._server._forkserver_pid, signal.SIGSTOP)  # type: ignore[attr-defined]
    assert main()


def test_a_fork_server_that_is_stopped_before_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """SPEC 7.5. It is asked for a worker, and stopped before it hears of that."""
    wake = SERVER.wake
    woken: list[bool] = []

    def wakes_the_second_time() -> None:
        woken.append(True)
        if len(woken) > 1:
            wake()

    @flow(task_runner=DaskTaskRunner(cluster_kwargs={"n_workers": 1}))
    def main() -> int:
        return pid.submit().result(timeout=PATIENCE)

    assert main()
    monkeypatch.setattr(forking, "ANSWERS_WITHIN", 0.1)
    monkeypatch.setattr(SERVER, "wake", wakes_the_second_time)
    os.kill(SERVER._server._forkserver_pid, signal.SIGSTOP)  # type: ignore[attr-defined]
    assert main()
    assert len(woken) > 1


@task
def program(signals: Signals) -> int:
    with subprocess.Popen(["sleep", "1000"]) as process:
        signals.append("pids", process.pid)
        signals.append("pids", os.getpid())
        return process.wait()


def test_what_a_dead_worker_has_started_goes_with_it(tmp_path: Path) -> None:
    """SPEC 7.5"""
    signals = Signals(tmp_path)

    @flow(task_runner=DaskTaskRunner(cluster_kwargs={"n_workers": 1}))
    def main() -> None:
        run = program.submit(signals)
        eventually(lambda: len(signals.lines("pids")) == 2, "it runs")
        os.kill(int(signals.lines("pids")[1]), signal.SIGKILL)
        run.wait(PATIENCE)
        assert run.state.is_crashed()
        assert pid.submit().result(timeout=PATIENCE)

    main()
    eventually(lambda: not is_asleep(int(signals.lines("pids")[0])), "it has ended")


def is_asleep(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_killing_under_a_nanny_of_others() -> None:
    """Its worker has no process group of its own: the programs are found by whose children they are."""
    with subprocess.Popen(
        ["bash", "-c", "sleep 1000 & echo $!; wait"], stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout is not None
        child = int(worker.stdout.readline())
        kill(worker.pid)
        assert worker.wait(PATIENCE) == -signal.SIGKILL
    eventually(lambda: not is_asleep(child), "it has ended")
    kill(worker.pid)  # it has ended before


# ---------------------------------------------------------------------- forks


@task
def forks(_: int, how: str) -> int:
    child = os.fork()
    if child == 0:
        if how == "raises":
            raise ValueError("I am the child")
        if how == "exits":
            raise SystemExit(3)
        return -1
    return os.waitpid(child, 0)[1]


@task
async def forks_async(_: int) -> int:
    child = os.fork()
    return os.waitpid(child, 0)[1] if child else -1  # noqa: ASYNC222  # a moment


def test_a_forked_child_ends_with_its_run() -> None:
    """It neither reports, nor runs what else its worker was sent."""

    @flow(task_runner=DaskTaskRunner(cluster_kwargs={"n_workers": 1}))
    def main() -> list[list[int]]:
        maps = [forks.map(range(4), how) for how in ("returns", "raises", "exits")]
        return [each.result(timeout=PATIENCE) for each in (*maps, forks_async.map(range(2)))]

    codes = [{os.waitstatus_to_exitcode(status) for status in statuses} for statuses in main()]
    assert codes == [{0}, {1}, {3}, {0}]


# ---------------------------------------------------------------------- flows in tasks, flows of threads


def inner_on(runner: Any) -> Any:
    @flow(task_runner=runner)
    def inner(count: int) -> int:
        return sum(inc.map(range(count)).result())

    return inner


@task
def calls_a_flow(runner: Any) -> int:
    return inner_on(runner)(2)  # type: ignore[no-any-return]


@task
def calls_a_task_that_calls_a_flow() -> int:
    @flow(task_runner="dask:1")
    def middle() -> int:
        return calls_a_flow.submit("dask:1").result()

    return middle()


@task
def asks_in_a_flow() -> tuple[str, str]:
    """Of which clusters the clients are: in the task, and in a flow that it calls."""

    @flow(task_runner="dask:1")
    def inner() -> str:
        with get_dask_client() as client:
            return str(client.scheduler.address)

    with get_dask_client() as client:
        outer = str(client.scheduler.address)
    return outer, inner()


def test_a_flow_in_a_task() -> None:
    """SPEC 9.1: it has a runner, and so a temporary cluster, of its own."""
    same = DaskTaskRunner(cluster_kwargs={"n_workers": 1})

    @flow(task_runner=same)
    def main() -> None:
        for runner in ("dask:1", same, "threads", "processes:1"):
            assert calls_a_flow.submit(runner).result() == 3
        assert calls_a_task_that_calls_a_flow.submit().result() == 3
        outer, inner = asks_in_a_flow.submit().result()
        assert outer != inner

    main()


def test_flows_of_several_threads() -> None:
    """As in a web server."""
    main = inner_on(DaskTaskRunner(cluster_kwargs=TWO))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(main, [3] * 4)) == [6] * 4


def test_nobody_uses_a_bus_that_is_half_set_up() -> None:
    told: list[str] = []
    entered, go_on = threading.Event(), threading.Event()

    def register(plugin: Any) -> None:
        entered.set()
        assert go_on.wait(PATIENCE)
        told.append(plugin.name)

    ops = ("key-in-memory", "task-erred", "cancelled-keys", "lost-data")
    client: Any = SimpleNamespace(
        futures={},
        loop=SimpleNamespace(add_callback=lambda action: action()),
        register_plugin=register,
        scheduler_comm=SimpleNamespace(interval=0.01),
        run_on_scheduler=lambda function: False,
        _send_to_scheduler=lambda message: told.append(message["op"]),
        _stream_handlers=dict.fromkeys(ops),
    )
    links = [link.Link(client, f"mh{n}", 0.001, print, lambda error: None) for n in range(2)]
    threads = [threading.Thread(target=one.open) for one in links]
    threads[0].start()
    assert entered.wait(PATIENCE)
    threads[1].start()
    time.sleep(0.05)  # were there no lock, it would be through by now
    assert told == []
    go_on.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert told == ["shoal", "shoal", "shoal-open", "shoal-open"]
    for one in links:
        one.close(PATIENCE)


@pytest.mark.parametrize("name", ["dask.config", "distributed.client"])
def test_what_another_thread_is_just_importing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, ModuleType(name))
    assert _environment()["OMP_NUM_THREADS"] == "1"
    assert not is_client(3)


# ---------------------------------------------------------------------- numbers of threads


def test_the_users_number_of_threads_is_not_overruled(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenBLAS and MKL heed their own variables first, and Dask sets those too."""
    assert overruling({}) == []
    assert overruling({"OMP_NUM_THREADS", "MKL_NUM_THREADS"}) == ["OPENBLAS_NUM_THREADS"]
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    for name in names:
        monkeypatch.delenv(name, raising=False)

    @task
    def look() -> list[str | None]:
        return [os.environ.get(name) for name in names]

    @flow
    def main() -> list[str | None]:
        return look.submit().result()

    def on(**options: Any) -> list[str | None]:
        runner = DaskTaskRunner(cluster_kwargs={"n_workers": 1, **options})
        return main.with_options(task_runner=runner)()

    assert on() == ["1", "1", "1"]
    assert on(env={"OMP_NUM_THREADS": 3}) == ["3", None, None]
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert on() == ["2", None, None]
    assert on(env={"MKL_NUM_THREADS": 1}) == ["2", "1", None]
