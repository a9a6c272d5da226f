"""The cluster and the client of a runner: that they come and go, whose they are, and what happens if they do not."""

from __future__ import annotations

import gc
import logging
import os
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import pytest
from distributed import Client, LocalCluster, Nanny
from shoal.exceptions import ClusterFailed, ClusterUnreachable, InvalidOption
from shoal.testing.tools import eventually
from shoal_dask.connection import Connection, quiet
from shoal_dask.settings import ClusterSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Seconds that connecting may take in tests that want it to fail, and the margin of a busy machine.
TIMEOUT, MARGIN = 0.6, 8.0


def settings(**options: Any) -> ClusterSettings:
    made = ClusterSettings(**options)
    made.check()
    return made


@pytest.fixture
def quick() -> Connection:
    """Not open; one worker, a thread of this process."""
    return Connection(settings(cluster_kwargs={"processes": False, "threads_per_worker": 1}))


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path) -> Iterator[Callable[[], list[Path]]]:
    """What clusters have on disk at the moment."""
    with dask.config.set({"temporary-directory": str(tmp_path)}):
        yield lambda: list(tmp_path.glob("shoal-dask-*"))


# ------------------------------------------------------------------------ a local cluster


@pytest.mark.slow
def test_one_worker_process_for_each_processor(
    monkeypatch: pytest.MonkeyPatch, scratch: Callable[[], list[Path]]
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {1, 3, 5})
    connection = Connection(settings())
    assert not connection.is_open
    connection.acquire()
    try:
        assert connection.is_local
        assert connection.dashboard_link is None
        workers = connection.client.scheduler_info(n_workers=-1)["workers"].values()
        assert [worker["nthreads"] for worker in workers] == [1, 1, 1]
        pids = set(connection.client.run(os.getpid).values())
        assert len(pids | {os.getpid()}) == 4
        assert scratch() != []
    finally:
        connection.release(2.0)
    assert not connection.is_open
    assert scratch() == []


def test_workers_find_the_surroundings_of_the_driver(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SHOAL_TEST", "now")
    monkeypatch.setenv("__DASK_PARENT_PID", str(os.getpid()))  # as Dask does, once for a process
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))

    def look() -> Any:
        import os
        import signal
        import sys

        ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        return os.environ.get("SHOAL_TEST"), os.getcwd(), sys.path, ignored

    expected: Any = None
    for value in ("now", None):
        if value is None:
            monkeypatch.delenv("SHOAL_TEST")  # the server that workers are forked from has it
        before = dict(os.environ)
        connection = Connection(settings(cluster_kwargs={"n_workers": 1}))
        connection.acquire()
        try:
            (expected,) = connection.client.run(look).values()
        finally:
            connection.release(2.0)
        variable, directory, path, ignores_interrupts = expected
        assert (variable, directory, ignores_interrupts) == (value, str(tmp_path), True)
        assert [entry for entry in path if "dask-scratch-space" not in entry] == sys.path
        assert dict(os.environ) == before


@pytest.mark.slow
def test_arguments_of_the_cluster() -> None:
    options = {"n_workers": 1, "threads_per_worker": 3, "name": "mine", "worker_class": Nanny}
    connection = Connection(settings(cluster_kwargs=options))
    connection.acquire()
    try:
        assert connection.cluster.name == "mine"
        (worker,) = connection.client.scheduler_info(n_workers=-1)["workers"].values()
        assert worker["nthreads"] == 3
    finally:
        connection.release(2.0)


def test_threads_of_this_process(quick: Connection) -> None:
    quick.acquire()
    try:
        assert quick.client.submit(os.getpid).result(timeout=20) == os.getpid()
        assert quick.cluster.scheduler_address.startswith("inproc://")
    finally:
        quick.release(2.0)


def test_adaptive() -> None:
    connection = Connection(
        settings(
            cluster_kwargs={"n_workers": 0},
            adapt_kwargs={"minimum": 0, "maximum": 1, "interval": "20ms"},
        )
    )
    connection.acquire()
    try:
        assert connection.client.run(os.getpid) == {}
        assert connection.client.submit(int, 7).result(timeout=20) == 7
    finally:
        connection.release(2.0)


def test_it_is_silent_also_while_something_runs(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    connection = Connection(settings(cluster_kwargs={"n_workers": 2}))
    connection.acquire()
    futures = connection.client.map(time.sleep, [50, 51, 52])
    eventually(lambda: any(connection.client.processing().values()), "something runs")
    began = time.monotonic()
    connection.release(0.5)
    assert time.monotonic() - began < 0.5 + MARGIN
    del futures
    assert capfd.readouterr() == ("", "")
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == []
    assert logging.getLogger("distributed.client").level != logging.CRITICAL + 1


# ------------------------------------------------------------------------ sharing


def test_the_last_one_closes_it(quick: Connection) -> None:
    quick.acquire()
    client = quick.client
    quick.acquire()
    assert quick.client is client
    quick.release(2.0)
    assert client.submit(int, 3).result(timeout=20) == 3
    quick.release(2.0)
    assert client.status == "closed"
    with pytest.raises(RuntimeError, match="not open"):
        _ = quick.client
    quick.acquire()
    assert quick.client is not client
    quick.release(2.0)


def test_many_threads_open_one(quick: Connection) -> None:
    together = threading.Barrier(8)

    def use() -> object:
        together.wait()
        quick.acquire()
        client = quick.client
        together.wait()
        quick.release(2.0)
        return client

    with ThreadPoolExecutor(8) as pool:
        clients = [future.result() for future in [pool.submit(use) for _ in range(8)]]
    assert len(set(map(id, clients))) == 1
    assert not quick.is_open


# ------------------------------------------------------------------------ what is given


@pytest.fixture(scope="module")
def theirs() -> Iterator[LocalCluster]:
    """A cluster of the user's own, at a TCP address."""
    with LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        processes=False,
        protocol="tcp",
        dashboard_address="127.0.0.1:0",
    ) as cluster:
        assert still_works(cluster)  # its threads have started
        yield cluster


def still_works(cluster: LocalCluster) -> bool:
    with Client(cluster, set_as_default=False) as client:
        return bool(client.submit(int, 1).result(timeout=20) == 1)


def test_a_given_cluster(theirs: LocalCluster) -> None:
    connection = Connection(settings(cluster=theirs))
    connection.acquire()
    assert connection.cluster is theirs
    assert not connection.is_local
    assert connection.client.submit(int, 5).result(timeout=20) == 5
    connection.release(2.0)
    assert still_works(theirs)


def test_an_address(theirs: LocalCluster) -> None:
    connection = Connection(settings(address=theirs.scheduler_address))
    connection.acquire()
    assert connection.cluster is None
    assert connection.dashboard_link is None
    assert connection.client.submit(int, 5).result(timeout=20) == 5
    connection.release(2.0)
    assert still_works(theirs)


def test_a_given_client(theirs: LocalCluster) -> None:
    with Client(theirs.scheduler_address, set_as_default=False) as client:
        connection = Connection(settings(address=client))
        connection.acquire()
        assert connection.client is client
        connection.release(2.0)
        assert client.submit(int, 5).result(timeout=20) == 5
    with pytest.raises(ClusterUnreachable, match="closed"):
        connection.acquire()


@pytest.mark.parametrize("late", [False, True], ids=["there already", "written late"])
@pytest.mark.parametrize("as_address", [False, True], ids=["client_kwargs", "address"])
def test_a_scheduler_file(
    theirs: LocalCluster, tmp_path: Path, *, as_address: bool, late: bool
) -> None:
    path = tmp_path / "scheduler.json"
    content = f'{{"address": "{theirs.scheduler_address}"}}'
    timer = threading.Timer(0.2 if late else 0.0, path.write_text, [content])
    timer.start()
    connection = Connection(
        settings(address=path)
        if as_address
        else settings(client_kwargs={"scheduler_file": str(path)})
    )
    connection.acquire()
    timer.join()
    assert connection.client.submit(int, 5).result(timeout=20) == 5
    connection.release(2.0)


def test_an_ambient_client_changes_nothing(theirs: LocalCluster, quick: Connection) -> None:
    with Client(theirs.scheduler_address) as ambient:
        quick.acquire()
        assert quick.client is not ambient
        assert quick.cluster is not theirs
        assert Client.current() is ambient
        quick.release(2.0)
        assert Client.current() is ambient


class Made(LocalCluster):
    """A cluster class of the user's own."""


@pytest.mark.parametrize("by_name", [False, True], ids=["class", "dotted name"])
def test_a_cluster_class(*, by_name: bool) -> None:
    options = {"processes": False, "n_workers": 1, "dashboard_address": ":0"}
    kind: Any = f"{__name__}.Made" if by_name else Made
    connection = Connection(settings(cluster_class=kind, cluster_kwargs=options))
    connection.acquire()
    cluster = connection.cluster
    assert isinstance(cluster, Made)
    assert not connection.is_local
    assert connection.client.submit(int, 5).result(timeout=20) == 5
    connection.release(2.0)
    assert cluster.status.name == "closed"


# ------------------------------------------------------------------------ what fails


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("tcp://127.0.0.1:1", "no answer"),
        ("127.0.0.1:1", "no answer"),
        ("tcp://no-such-host.invalid:8786", ""),
        ("no-scheme://somewhere:8786", "no-scheme"),
        ("/no/such/scheduler.json", "No such file"),
    ],
)
def test_a_wrong_address(address: str, problem: str) -> None:
    connection = Connection(settings(address=address, client_kwargs={"timeout": TIMEOUT}))
    began = time.monotonic()
    with pytest.raises(ClusterUnreachable) as raised:
        connection.acquire()
    assert time.monotonic() - began < TIMEOUT + MARGIN
    assert raised.value.address == address
    assert address in str(raised.value)
    assert problem in str(raised.value)
    assert isinstance(raised.value, ConnectionError)
    assert not connection.is_open


def test_somebody_else_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        connection = Connection(settings(address=address, client_kwargs={"timeout": TIMEOUT}))
        began = time.monotonic()
        with pytest.raises(ClusterUnreachable, match="no answer within"):
            connection.acquire()
        assert time.monotonic() - began < TIMEOUT + MARGIN


@pytest.mark.parametrize("name", ["no_such_module.Cluster", "distributed.NoSuchCluster", "os.sep"])
def test_a_class_that_is_not_there(name: str) -> None:
    connection = Connection(settings(cluster_class=name))
    with pytest.raises(InvalidOption, match=name):
        connection.acquire()


class Failing:
    """Starts nothing."""

    def __init__(self) -> None:
        raise OSError("no account on this machine")


@pytest.mark.parametrize(
    ("kind", "options", "problem"),
    [
        (Failing, {}, "no account on this machine"),
        (dict, {}, "which is none"),
        (None, {"security": "no security"}, "Security"),
        (None, {"n_workers": 1, "resources": "many"}, "LocalNanny failed to start"),
    ],
    ids=["raises", "makes something else", "local", "local worker"],
)
@pytest.mark.filterwarnings("ignore:unclosed cluster:ResourceWarning")
def test_a_class_that_fails(
    kind: Any, options: dict[str, Any], problem: str, scratch: Callable[[], list[Path]]
) -> None:
    connection = Connection(settings(cluster_class=kind, cluster_kwargs=options))
    # Without its log: pytest would keep the records, these the error, and that what was not started.
    with quiet(), pytest.raises(ClusterFailed, match=problem) as raised:
        connection.acquire()
    assert raised.value.__cause__ is not None or kind is dict
    assert getattr(kind, "__name__", "LocalCluster") in str(raised.value)
    assert scratch() == []
    del raised
    gc.collect()  # Dask complains where the constructor of a cluster has not come to its end


def test_it_can_be_tried_again(theirs: LocalCluster, tmp_path: Path) -> None:
    path = tmp_path / "scheduler.json"
    connection = Connection(settings(address=path, client_kwargs={"timeout": 0.05}))
    with pytest.raises(ClusterUnreachable):
        connection.acquire()
    path.write_text(f'{{"address": "{theirs.scheduler_address}"}}')
    connection = Connection(settings(address=path))
    connection.acquire()
    connection.release(2.0)
