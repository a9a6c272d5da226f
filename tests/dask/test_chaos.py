"""Workers that are killed, retired, or live for a short time only; a scheduler that dies or freezes; elastic clusters."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING, Any

import pytest
from shoal import flow, task
from shoal.exceptions import CrashedRun, RunnerStateError, WorkerDied
from shoal.testing.samples import inc
from shoal.testing.tools import PATIENCE, eventually
from shoal_dask import DaskTaskRunner, get_dask_client
from shoal_dask.listening import Listener

from tests.dask.clusters import commands
from tests.disturbed import run_disturbed

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.slow,
    pytest.mark.may_leave(
        "threads", "processes", reason="clusters replace workers, and go with their fixtures"
    ),
]


@pytest.mark.parametrize("singly", [False, True])
def test_workers_that_are_killed(tmp_path: Path, singly: bool) -> None:
    """SPEC 7.5: what has ended keeps its outcome, what was not begun is sent again, nothing runs twice."""

    def kill_some() -> None:
        with get_dask_client() as client:
            for _ in range(3):
                time.sleep(0.4)
                pids = client.run(os.getpid, on_error="ignore")
                if pids:
                    os.kill(random.choice(list(pids.values())), signal.SIGKILL)

    runner = DaskTaskRunner(cluster_kwargs={"n_workers": 2, "threads_per_worker": 1})
    ended = run_disturbed(runner, tmp_path, kill_some, singly=singly)
    assert ended.untraced <= 3, "only what had begun is CRASHED"
    assert ended.crashed <= 3 * 64, "what a worker has not reported in 50 ms, three times"
    assert ended.completed > 1000


def test_a_worker_that_is_killed_before_it_was_heard_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SPEC 7.5: nothing has begun there, as nobody would know where that is written down."""
    told: list[Any] = []
    monkeypatch.setattr(Listener, "_take_hello", lambda self, *hello: told.append(hello))

    def kill_it() -> None:
        with get_dask_client() as client:
            eventually(lambda: told and any(client.processing().values()), "it has something to do")
            (pid,) = client.run(os.getpid).values()
            monkeypatch.undo()
            os.kill(pid, signal.SIGKILL)

    runner = DaskTaskRunner(cluster_kwargs={"n_workers": 1, "threads_per_worker": 1})
    ended = run_disturbed(runner, tmp_path, kill_it, count=100, singly=False)
    assert ended.completed == 100


def test_workers_that_are_retired(tmp_path: Path) -> None:
    def retire_some() -> None:
        with get_dask_client() as client:
            for _ in range(3):
                time.sleep(0.4)
                addresses = list(client.scheduler_info(n_workers=-1)["workers"])
                client.retire_workers([random.choice(addresses)], close_workers=True)

    runner = DaskTaskRunner(cluster_kwargs={"n_workers": 4})
    assert run_disturbed(runner, tmp_path, retire_some, singly=False).completed == 2000


def _close_it(dask_worker: Any) -> None:
    async def close() -> None:
        closing = asyncio.ensure_future(dask_worker.close(nanny=False))
        await asyncio.sleep(0)  # it has begun
        late = dask_worker.stream_handlers["worker-status-change"]
        late(status="running", stimulus_id="it is not retired")
        await closing

    dask_worker.loop.add_callback(close)


def test_a_worker_that_closes_and_is_told_to_run_on(tmp_path: Path) -> None:
    """SPEC 7.5: as it is at the end of its lifetime if no other worker can have its values."""

    def close_it() -> None:
        with get_dask_client() as client:
            eventually(lambda: len(os.listdir(tmp_path)) > 500, "batches are large by now")
            client.run(_close_it)

    runner = DaskTaskRunner(cluster_kwargs={"n_workers": 1, "threads_per_worker": 1})
    assert run_disturbed(runner, tmp_path, close_it, singly=False).completed == 2000


def test_workers_that_live_for_a_short_time(tmp_path: Path) -> None:
    folder = tmp_path / "effects"
    folder.mkdir()
    with commands(tmp_path / "cluster", 0) as cluster:
        for _ in range(2):
            cluster.add_worker("--lifetime", "2s", "--lifetime-restart")
        runner = DaskTaskRunner(address=cluster.address)
        assert run_disturbed(runner, folder, lambda: None, singly=False).completed == 2000


def test_crash_retries(tmp_path: Path) -> None:
    @task(crash_retries=3)
    def survives(number: int) -> int:
        mark = tmp_path / f"died-{number}"
        if number % 10 == 0 and not mark.exists():
            mark.touch()
            os._exit(1)
        return number

    @flow(task_runner=DaskTaskRunner(cluster_kwargs={"n_workers": 2}))
    def main() -> Any:
        return survives.map(range(30)).result()

    assert main() == list(range(30))


def test_a_run_that_does_not_stop_is_killed() -> None:
    """SPEC 7.3: C code included, and the slot comes back."""

    @task(timeout_seconds=0.3)
    def sleeps() -> None:
        time.sleep(600)

    @flow(task_runner=DaskTaskRunner(cluster_kwargs={"n_workers": 1}))
    def main() -> float:
        assert inc.submit(1).result() == 2
        began = time.monotonic()
        run = sleeps.submit()
        run.wait(PATIENCE)
        assert run.state.name == "TimedOut"
        assert inc.submit(1).result(timeout=PATIENCE) == 2
        return time.monotonic() - began

    assert main() < 15, "0.3 s, half a second of grace, and 1 s for another worker"


def test_a_killed_scheduler(tmp_path: Path) -> None:
    @task
    def sleeps() -> None:
        time.sleep(60)

    with commands(tmp_path, 1) as cluster:

        @flow(task_runner=DaskTaskRunner(address=cluster.address))
        def main() -> None:
            running, queued = sleeps.submit(), [inc.submit(number) for number in range(3)]
            time.sleep(0.5)
            began = time.monotonic()
            cluster.processes[0].kill()
            for run in (running, *queued):
                run.wait(PATIENCE)
                assert run.state.is_crashed(), run.state
                with pytest.raises(WorkerDied, match="scheduler"):
                    run.result()
            assert time.monotonic() - began < 20, "10 s where the machine is not busy"
            with pytest.raises(RunnerStateError, match="scheduler"):
                inc.submit(1)

        with contextlib.suppress(CrashedRun):
            main()


def test_a_frozen_scheduler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SHOAL_DASK_FROZEN_SECONDS", "12")
    with commands(tmp_path, 1) as cluster:

        @flow(task_runner=DaskTaskRunner(address=cluster.address))
        def main() -> None:
            assert inc.submit(1).result() == 2
            cluster.processes[0].send_signal(signal.SIGSTOP)
            try:
                run = inc.submit(1)
                run.wait(40)
                assert run.state.is_crashed()
                assert "has not answered for 10 s" in caplog.text
            finally:
                cluster.processes[0].send_signal(signal.SIGCONT)

        with contextlib.suppress(CrashedRun):
            main()


def test_no_workers_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with commands(tmp_path, 0) as cluster:

        @flow(task_runner=DaskTaskRunner(address=cluster.address))
        def main() -> Any:
            run = inc.submit(1)
            eventually(lambda: "no worker" in caplog.text, "it is warned of", 20)
            cluster.add_worker()
            return run.result(timeout=PATIENCE)

        assert main() == 2


@pytest.mark.timeout(150)
def test_an_adaptive_cluster_grows(tmp_path: Path) -> None:
    """60 s of 20 ms tasks reach the maximum of a cluster that starts empty."""
    grown = tmp_path / "grown"

    @task
    def sleeps(number: int) -> int:
        if not grown.exists():
            time.sleep(0.02)
        return os.getpid()

    runner = DaskTaskRunner(
        cluster_kwargs={"n_workers": 0},
        adapt_kwargs={"minimum": 0, "maximum": 4, "interval": "200 ms"},
    )

    @flow(task_runner=runner)
    def main() -> int:
        most = 0
        futures = sleeps.map(range(3000))
        with get_dask_client() as client:
            while not futures._items.done():  # type: ignore[union-attr]
                most = max(most, len(client.scheduler_info(n_workers=-1)["workers"]))
                if most >= 4:
                    grown.touch()
                time.sleep(0.2)
        return max(most, len(set(futures.result())))

    assert main() >= 4


DRIVER = """
import sys
from shoal import flow, task
from shoal_dask import DaskTaskRunner
@task
def double(x):
    from shoal.runtime import task_run
    return 2 * x, task_run.id
@task
def parent(x):
    return [value for value, _ in double.map(range(x)).result()]
@flow(task_runner=DaskTaskRunner(address=sys.argv[1]))
def main():
    futures = double.map(range(500))
    assert [value for value, _ in futures.result()] == [2 * x for x in range(500)]
    ids = [run_id for _, run_id in futures.result()]
    assert ids == [future.task_run_id for future in futures], "run ids read the same on workers"
    assert parent.submit(20).result() == [2 * x for x in range(20)]
main()
print("fine")
"""


def test_two_drivers_on_one_scheduler(tmp_path: Path) -> None:
    script = tmp_path / "driver.py"
    script.write_text(textwrap.dedent(DRIVER))
    with commands(tmp_path / "cluster", 2) as cluster:
        drivers = [
            subprocess.Popen(
                [sys.executable, str(script), cluster.address],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]
        for driver in drivers:
            output, errors = driver.communicate(timeout=60)
            assert output == "fine\n", errors


# ---------------------------------------------------------------------- what else may go wrong


class Odd:
    """Can be unpickled in one process only."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def __reduce__(self) -> Any:
        return make_odd, (self.pid,)


def make_odd(pid: int) -> Odd:
    if os.getpid() != pid:
        raise RuntimeError("not here")
    return Odd(pid)


def test_a_nested_task_that_its_worker_cannot_unpickle() -> None:
    here = os.getpid()

    @task
    def parent() -> str:
        thing = Odd(here)

        @task
        def child() -> bool:
            return thing is not None

        return repr(child.submit().exception())

    @flow(task_runner=DaskTaskRunner(cluster_kwargs={"n_workers": 1}))
    def main() -> None:
        assert "not here" in parent.submit().result(timeout=PATIENCE)
        assert inc.submit(1).result(timeout=PATIENCE) == 2, "the worker goes on"

    main()


def test_a_time_limit_begins_anew_after_a_crash(tmp_path: Path) -> None:
    mark = tmp_path / "died"

    @task(timeout_seconds=4, crash_retries=1)
    def works() -> str:
        if not mark.exists():
            mark.touch()
            time.sleep(2.2)
            os.kill(os.getpid(), signal.SIGKILL)
        for _ in range(22):
            time.sleep(0.1)
        return "done"

    @flow(task_runner=DaskTaskRunner(cluster_kwargs={"n_workers": 2}))
    def main() -> Any:
        return works.submit().result(timeout=PATIENCE)

    assert main() == "done"


def test_a_connection_that_breaks_and_comes_back(tmp_path: Path) -> None:
    """What the scheduler knew of the runs went with the connection."""

    @task
    def sleeps() -> None:
        time.sleep(60)

    with commands(tmp_path, 1) as cluster:

        @flow(task_runner=DaskTaskRunner(address=cluster.address))
        def main() -> None:
            run = sleeps.submit()
            with get_dask_client() as client:
                eventually(lambda: run.state.is_running(), "it has begun")
                client.loop.add_callback(client.scheduler_comm.comm.abort)
            run.wait(PATIENCE)
            assert run.state.is_crashed()
            with pytest.raises(RunnerStateError, match="connection"):
                inc.submit(1)

        with contextlib.suppress(CrashedRun):
            main()


def test_leaving_stops_what_runs_and_takes_its_values_along() -> None:
    """SPEC 3.5, 11.2: on a cluster that goes on without the runner."""

    @task
    def sleeps() -> None:
        time.sleep(60)

    @task
    def large() -> bytes:
        return os.urandom(200_000)

    with DaskTaskRunner(cluster_kwargs={"n_workers": 1}) as warm:
        cluster = warm._connection.cluster
        with contextlib.suppress(ZeroDivisionError), DaskTaskRunner(cluster) as runner:
            kept = [runner.submit(large, {}) for _ in range(5)]
            kept[0].wait()
            runner.submit(sleeps, {})
            time.sleep(0.3)
            raise ZeroDivisionError
        began = time.monotonic()
        assert warm.submit(inc, {"x": 1}).result(timeout=PATIENCE) == 2
        assert time.monotonic() - began < 15, "2 s where the machine is not busy"
        del kept
        states = warm._connection.client.run_on_scheduler
        eventually(
            lambda: (
                not states(
                    lambda dask_scheduler: [
                        k for k, t in dask_scheduler.tasks.items() if not t.run_spec
                    ]
                )
            ),
            "no value is left",
        )


def test_a_coroutine_is_not_killed_for_another_run() -> None:
    @task
    async def calm() -> str:
        import asyncio

        await asyncio.sleep(3)
        return "calm"

    @task(timeout_seconds=0.3)
    def stuck() -> None:
        time.sleep(5)

    @flow(task_runner=DaskTaskRunner(cluster_kwargs={"n_workers": 1}))
    def main() -> Any:
        quiet = calm.submit()
        eventually(lambda: quiet.state.is_running(), "it has begun")
        late = stuck.submit()
        late.wait(PATIENCE)
        assert late.state.name == "TimedOut"
        assert inc.submit(1).result(timeout=PATIENCE) == 2, "its place was given to another thread"
        return quiet.result(timeout=PATIENCE)

    assert main() == "calm"
