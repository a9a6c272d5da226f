"""Workers, nodes, control stores, drivers that die; two drivers at once; a store that must not fill up."""

from __future__ import annotations

import contextlib
import inspect
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from shoal import flow, task
from shoal.exceptions import CrashedRun, ResultLost, RunnerStateError, WorkerDied
from shoal.testing.samples import identity, inc
from shoal.testing.tools import PATIENCE, Signals, eventually
from shoal_ray import RayTaskRunner, remote_options

from tests.disturbed import pid_of_newest, run_disturbed
from tests.ray.alone import alone, without_ray
from tests.ray.clusters import head, node

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.ray.clusters import Head

pytestmark = [
    pytest.mark.slow,
    pytest.mark.may_leave(
        *("threads", "processes", "fds"),
        reason="Ray starts worker processes, threads and connections as it needs them",
    ),
]


@pytest.fixture
def runner(local_ray: RayTaskRunner) -> RayTaskRunner:
    return RayTaskRunner()


@pytest.fixture
def signals(tmp_path: Path) -> Signals:
    return Signals(tmp_path)


# ---------------------------------------------------------------------- workers that die


@pytest.mark.parametrize("singly", [False, True])
def test_workers_that_are_killed(runner: RayTaskRunner, tmp_path: Path, singly: bool) -> None:
    """SPEC 7.5: what has ended keeps its outcome, what was not begun is sent again, nothing runs twice."""

    def kill_some() -> None:
        for _ in range(3):
            time.sleep(0.4)
            pid = pid_of_newest(tmp_path)
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    ended = run_disturbed(runner, tmp_path, kill_some, 1500, singly=singly)
    assert ended.untraced <= 3, "only what had begun is CRASHED"
    assert ended.crashed <= 3 * 64, "what a worker has not reported in 50 ms, three times"
    assert ended.completed > 1000


@pytest.mark.parametrize("how", ["killed", "exited"])
def test_a_worker_dies_alone(runner: RayTaskRunner, signals: Signals, how: str) -> None:
    @task
    def dies() -> None:
        signals.append("pid", os.getpid())
        if how == "exited":
            os._exit(3)
        os.kill(os.getpid(), signal.SIGKILL)

    @flow(task_runner=runner)
    def main() -> None:
        run = dies.submit()
        began = time.monotonic()
        run.wait(PATIENCE)
        assert run.state.is_crashed()
        assert time.monotonic() - began < 15, "4 s where the machine is not busy"
        with pytest.raises(WorkerDied) as raised:
            run.result()
        assert raised.value.pid == int(signals.lines("pid")[0])
        assert raised.value.host == os.uname().nodename
        assert raised.value.run_name == run.name
        assert isinstance(raised.value.cause, ray.exceptions.WorkerCrashedError)
        assert inc.submit(1).result(timeout=PATIENCE) == 2

    main()


def test_crash_retries(runner: RayTaskRunner, tmp_path: Path) -> None:
    @task(crash_retries=3)
    def survives(number: int) -> int:
        mark = tmp_path / f"died-{number}"
        if number % 10 == 0 and not mark.exists():
            mark.touch()
            os._exit(1)
        return number

    @flow(task_runner=runner)
    def main() -> Any:
        return survives.map(range(30)).result()

    assert main() == list(range(30))


def test_a_worker_dies_beneath_a_wait(runner: RayTaskRunner) -> None:
    @task
    def dies() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    @task
    def parent() -> None:
        dies.submit().result()

    @flow(task_runner=runner)
    def main() -> None:
        run = parent.submit()
        with pytest.raises(CrashedRun):
            run.result(timeout=PATIENCE)
        assert inc.submit(1).result(timeout=PATIENCE) == 2

    main()


# ---------------------------------------------------------------------- the object store


@pytest.mark.exhaustive
def test_the_store_stays_flat(runner: RayTaskRunner) -> None:
    """SPEC 4.6: results whose futures are dropped."""
    from tests.ray.test_ray import bytes_in_store

    @task
    def large(number: int) -> Any:
        return np.full(1_250_000, float(number))  # 10 MB

    held: list[int] = []

    @flow(task_runner=runner)
    def main() -> None:
        for number in range(1000):
            future = large.submit(number)
            future.wait()
            assert future.state.is_completed()
            if number % 50 == 49:
                held.append(bytes_in_store())

    main()
    # Ray frees what nobody needs by the hundred, or once a second.
    assert max(held) < 1_500_000_000, held
    eventually(lambda: bytes_in_store() < 20_000_000, "the store is empty")


# ---------------------------------------------------------------------- what everything depends on


@pytest.fixture(scope="module", autouse=True)
def without_control_store(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A driver whose control store is killed; it has to live on for more than a minute, beside the other tests."""
    here = [item for item in request.session.items if item.path == request.path]
    if not any(
        "without_control_store" in inspect.signature(item.function).parameters for item in here
    ):  # type: ignore[attr-defined]
        yield None  # nobody asks
        return
    failures: list[BaseException] = []

    def run() -> None:
        try:
            alone(control_store_killed, timeout=150)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()

    def failed() -> list[BaseException]:
        thread.join(150)
        return failures

    yield failed
    thread.join(150)


def control_store_killed() -> None:
    @task
    def sleeps() -> None:
        for _ in range(600):
            time.sleep(0.1)

    @flow(task_runner=RayTaskRunner(init_kwargs={"num_cpus": 1}))
    def main() -> None:
        assert inc.submit(1).result() == 2
        running, queued = sleeps.submit(), [inc.submit(number) for number in range(3)]
        eventually(lambda: running.state.is_running(), "it has begun")
        began = time.monotonic()
        kill("gcs_server")
        for run in (running, *queued):
            run.wait(PATIENCE)
            assert run.state.is_crashed(), run.state
            with pytest.raises(WorkerDied, match="control store"):
                run.result()
        assert time.monotonic() - began < 20, "10 s where the machine is not busy"
        with pytest.raises(RunnerStateError, match="control store"):
            inc.submit(1)

    began = time.monotonic()
    with contextlib.suppress(CrashedRun):
        main()
    eventually(lambda: not ray_processes(), "no process is left")
    time.sleep(max(75 - (time.monotonic() - began), 0))  # Ray would end this process after a minute

    @flow(task_runner=RayTaskRunner(init_kwargs={"num_cpus": 1}))
    def again() -> Any:
        return inc.submit(1).result()

    assert again() == 2


@pytest.mark.exhaustive
def test_a_killed_raylet() -> None:
    alone(raylet_killed)


def raylet_killed() -> None:
    @task
    def sleeps() -> None:
        for _ in range(600):
            time.sleep(0.1)

    @flow(task_runner=RayTaskRunner(init_kwargs={"num_cpus": 1}))
    def main() -> None:
        assert inc.submit(1).result() == 2
        running, queued = sleeps.submit(), [inc.submit(number) for number in range(3)]
        eventually(lambda: running.state.is_running(), "it has begun")
        began = time.monotonic()
        kill("raylet")
        for run in (running, *queued):
            run.wait(PATIENCE)
            assert run.state.is_crashed(), run.state
            with pytest.raises(WorkerDied):
                run.result()
        assert time.monotonic() - began < 20, "10 s where the machine is not busy"
        eventually(lambda: "raylet" in _refusal(), "later ones are refused")

    def _refusal() -> str:
        try:
            inc.submit(1)
        except RunnerStateError as error:
            return str(error)
        return ""

    with contextlib.suppress(CrashedRun):
        main()
    eventually(lambda: not ray_processes(), "no process is left")


def kill(name: str) -> None:
    """Kills a process of this process's own Ray."""
    next(process for process in ray_processes() if process.name() == name).kill()


def ray_processes() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def test_a_killed_node() -> None:
    """Its runs are CRASHED, its values lost; the rest goes on."""
    # Else Ray finds out after half a minute.
    patient = {"RAY_health_check_period_ms": "500", "RAY_health_check_initial_delay_ms": "500"}
    with head(cpus=1, **patient) as first, node(first.address, cpus=1) as second:
        # `ray start --block` itself, so that it does not tidy up
        raylet = eventually(lambda: _child_of(second.pid, "raylet"), "the second node runs")
        assert raylet is not None
        alone(node_killed, first.address, str(raylet.pid))


def _child_of(pid: int, name: str) -> psutil.Process | None:
    children = psutil.Process(pid).children(recursive=True)
    return next((child for child in children if child.name() == name), None)


def node_killed(address: str, raylet: str) -> None:
    @task
    def sleeps() -> None:
        for _ in range(600):
            time.sleep(0.1)

    @task
    def ones() -> Any:
        return np.ones(1_000_000)

    @task
    def total(array: Any) -> float:
        return float(array.sum())

    @flow(task_runner=RayTaskRunner(address))
    def main() -> None:
        eventually(lambda: ray.cluster_resources().get("CPU") == 2, "both nodes are there")
        here = ray.get_runtime_context().get_node_id()
        there = next(node["NodeID"] for node in ray.nodes() if node["NodeID"] != here)
        with remote_options(scheduling_strategy=NodeAffinitySchedulingStrategy(there, soft=False)):
            array = ones.submit()
            array.wait(PATIENCE)
            assert array.state.is_completed()
            running = sleeps.submit()
        eventually(lambda: running.state.is_running(), "it has begun")
        queued = [identity.submit(number) for number in range(20)]
        began = time.monotonic()
        os.kill(int(raylet), signal.SIGKILL)
        running.wait(40)
        assert running.state.is_crashed(), running.state
        with pytest.raises(WorkerDied):
            running.result()
        print(f"crashed after {time.monotonic() - began:.1f} s")
        for number, run in enumerate(queued):
            assert run.result(timeout=PATIENCE) == number
        eventually(lambda: len([n for n in ray.nodes() if n["Alive"]]) == 1, "it is known", 40)
        assert array.state.is_completed()
        with pytest.raises(ResultLost):
            array.result(timeout=PATIENCE)
        with pytest.raises(ResultLost):
            total.submit(array).result(timeout=PATIENCE)
        assert inc.submit(1).result(timeout=PATIENCE) == 2

    main()


@pytest.mark.exhaustive
def test_out_of_memory() -> None:
    # Whatever runs is too much for a threshold of 1 %.
    alone(out_of_memory, RAY_memory_usage_threshold="0.01", RAY_memory_monitor_refresh_ms="50")


def out_of_memory() -> None:
    @task
    def sleeps() -> None:
        for _ in range(300):
            time.sleep(0.1)

    @flow(task_runner=RayTaskRunner(init_kwargs={"num_cpus": 1}))
    def main() -> None:
        run = sleeps.submit()
        run.wait(40)
        assert run.state.is_crashed(), run.state
        with pytest.raises(WorkerDied, match="memory") as raised:
            run.result()
        assert isinstance(raised.value.cause, ray.exceptions.OutOfMemoryError)

    main()


# ---------------------------------------------------------------------- drivers


@pytest.fixture(scope="module")
def cluster() -> Iterator[Head]:
    with head(cpus=2) as cluster:
        yield cluster


DRIVER = """
import sys
from shoal import flow, task
from shoal_ray import RayTaskRunner, remote_options
@task
def double(x):
    from shoal.runtime import task_run
    return 2 * x, task_run.id
@task
def parent(x):
    return [value for value, _ in double.map(range(x)).result()]
@flow(task_runner=RayTaskRunner(sys.argv[1]))
def main():
    futures = double.map(range(500))
    assert [value for value, _ in futures.result()] == [2 * x for x in range(500)]
    ids = [run_id for _, run_id in futures.result()]
    assert ids == [future.task_run_id for future in futures], "run ids read the same on workers"
    assert parent.submit(20).result() == [2 * x for x in range(20)]
main()
print("fine")
"""

ENDLESS = """
import os, sys, time
from shoal import flow, task
from shoal_ray import RayTaskRunner, remote_options
@task
def endless(number):
    open(os.path.join(FOLDER, f"begun-{os.getpid()}"), "w").close()
    while True:
        time.sleep(0.02)
runs = []
@flow(task_runner=RayTaskRunner(*sys.argv[1:], init_kwargs=None if sys.argv[1:] else {"num_cpus": 2}))
def main():
    runs.extend(endless.submit(number) for number in range(4))
    runs[0].result()
try:
    main()
finally:
    print(*sorted({run.state.type.value for run in runs}), flush=True)
"""


def driver(script: str, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    path = folder / "driver.py"
    path.write_text(textwrap.dedent(script).replace("FOLDER", repr(str(folder))))
    variables = {**without_ray(os.environ), "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    return subprocess.Popen(
        [sys.executable, str(path), *arguments],
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.exhaustive
def test_two_drivers_on_one_cluster(tmp_path: Path, cluster: Head) -> None:
    drivers = [driver(DRIVER, tmp_path, cluster.address) for _ in range(2)]
    for one in drivers:
        output, errors = one.communicate(timeout=50)
        assert output == "fine\n", errors


def begun_in(folder: Path) -> list[int]:
    return [int(path.name.partition("-")[2]) for path in folder.glob("begun-*")]


@pytest.mark.exhaustive
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_driver_that_is_asked_to_end(tmp_path: Path, number: signal.Signals) -> None:
    """SPEC 7.6."""
    with driver(ENDLESS, tmp_path) as one:
        eventually(lambda: len(begun_in(tmp_path)) == 2, "both CPUs are busy")
        processes = psutil.Process(one.pid).children(recursive=True)
        began = time.monotonic()
        one.send_signal(number)
        output, errors = one.communicate(timeout=30)
        seconds = time.monotonic() - began
    assert output.split() == ["CANCELLED"], errors
    assert one.returncode != 0
    assert seconds < 25, "5 s and Ray's own shutdown where the machine is not busy"
    eventually(lambda: not any(map(_runs, processes)), "nothing is left")


def test_a_driver_that_is_killed(tmp_path: Path, cluster: Head) -> None:
    """Its workers end what they run, and the cluster is free for others."""
    with driver(ENDLESS, tmp_path, cluster.address) as one:
        eventually(lambda: len(begun_in(tmp_path)) == 2, "both CPUs are busy")
        one.kill()
        one.communicate()
    workers = [psutil.Process(pid) for pid in begun_in(tmp_path) if psutil.pid_exists(pid)]
    eventually(lambda: not any(map(_runs, workers)), "its workers have gone")
    with driver(DRIVER, tmp_path, cluster.address) as other:
        output, errors = other.communicate(timeout=50)
        assert output == "fine\n", errors


STARTING = """
import ray
from shoal_ray.connection import Connection
from shoal_ray.settings import ClusterSettings

print("starting", flush=True)
Connection(ClusterSettings(init_kwargs={"num_cpus": 1})).acquire()
"""


#: Seconds for an instance of Ray on a busy machine.
STARTS_WITHIN = 150.0


@pytest.mark.timeout(240)
@pytest.mark.parametrize("moment", ["at work", "while Ray starts"])
def test_a_driver_with_an_instance_of_its_own_that_is_killed(tmp_path: Path, moment: str) -> None:
    """All of the instance goes with it: also what the raylet has started, which Ray leaves for a minute or longer."""
    with driver(ENDLESS if moment == "at work" else STARTING, tmp_path) as one:
        me = psutil.Process(one.pid)

        def processes() -> list[psutil.Process]:
            return me.children(recursive=True)

        if moment == "at work":
            eventually(lambda: len(begun_in(tmp_path)) == 2, "both CPUs are busy", STARTS_WITHIN)
        else:
            eventually(lambda: any(map(_is_raylet, processes())), "it starts", STARTS_WITHIN)
            time.sleep(0.5)
        before = processes()
        assert len(before) > 3
        one.kill()
        began = time.monotonic()
        one.communicate()
        eventually(lambda: not any(map(_runs, before)), "nothing is left")
        assert time.monotonic() - began < 10, "a fraction of a second where the machine is not busy"
        # Nor is left what was started as the driver was being killed.
        pattern = f"_{one.pid}/logs/"
        eventually(lambda: not _with_open(pattern), "nothing writes to its logs")


def _is_raylet(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return "/raylet/raylet" in " ".join(process.cmdline())
    return False


def _with_open(pattern: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(pattern in file.path for file in process.open_files()):
                found.append(process)
    return found


def _runs(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


@pytest.mark.exhaustive
def test_a_killed_server_of_ray_client(cluster: Head) -> None:
    """The last to use the cluster."""
    servers = [
        child
        for child in psutil.Process(cluster.process.pid).children(recursive=True)
        if "ray.util.client.server" in " ".join(child.cmdline())
    ]
    assert len(servers) == 1
    alone(client_server_killed, cluster.client, str(servers[0].pid))


def client_server_killed(address: str, server: str) -> None:
    @task
    def sleeps() -> None:
        for _ in range(600):
            time.sleep(0.1)

    @flow(task_runner=RayTaskRunner(address))
    def main() -> None:
        running, queued = sleeps.submit(), [sleeps.submit() for number in range(3)]
        eventually(lambda: running.state.is_running(), "it has begun")
        began = time.monotonic()
        for process in (*psutil.Process(int(server)).children(), psutil.Process(int(server))):
            process.kill()
        for run in (running, *queued):
            run.wait(PATIENCE)
            assert run.state.is_crashed(), run.state
            with pytest.raises(WorkerDied):
                run.result()
        assert time.monotonic() - began < 20, "10 s where the machine is not busy"

    with contextlib.suppress(CrashedRun):
        main()


@pytest.mark.exhaustive
def test_a_killed_control_store(without_control_store: Any) -> None:
    """Last, because its driver lives for long."""
    assert without_control_store() == []
