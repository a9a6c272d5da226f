"""Ray in a process: that it comes and goes, whose it is, and what happens if it does not."""

from __future__ import annotations

import contextlib
import faulthandler
import itertools
import json
import logging
import os
import signal
import socket
import stat
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from shoal.exceptions import (
    ClusterFailed,
    ClusterUnreachable,
    EnvironmentMismatch,
    InvalidOption,
    MissingExtraError,
)
from shoal.testing.tools import eventually
from shoal_ray import ray_thread
from shoal_ray.connection import Connection
from shoal_ray.joining import ANSWERS_WITHIN, explain, knock, which
from shoal_ray.settings import ClusterSettings

from tests.ray.alone import alone, overheard
from tests.ray.clusters import Head, head
from tests.ray.test_wire import certificates

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.ray.conftest import Keeper

pytestmark = pytest.mark.slow

#: What a busy machine may take longer, in seconds.
MARGIN = 8.0


def has(name: str) -> bool:
    """Whether this version of Ray has something that has to do with tokens."""
    try:
        from ray._private.authentication import authentication_token_setup as tokens
    except ImportError:
        return False
    return hasattr(tokens, name)


needs_tokens = pytest.mark.skipif(
    not has("ensure_token_if_auth_enabled"), reason="this version of Ray knows no tokens"
)
makes_tokens = pytest.mark.skipif(
    not has("enable_token_auth_by_default"), reason="this version of Ray makes no tokens by itself"
)


def settings(address: str | None = None, **options: Any) -> ClusterSettings:
    made = ClusterSettings(address, options or None)
    made.check()
    return made


def connected(address: str | None = None, **options: Any) -> Connection:
    connection = Connection(settings(address, **options))
    connection.acquire()
    return connection


@contextlib.contextmanager
def caught(name: str) -> Iterator[list[logging.LogRecord]]:
    """The records of a logger, and of those beneath it."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logging.getLogger(name).addHandler(handler)
    try:
        yield records
    finally:
        logging.getLogger(name).removeHandler(handler)


def ray_processes() -> list[psutil.Process]:
    """Those of Ray that this process has started, and theirs."""
    return [
        process
        for process in psutil.Process().children(recursive=True)
        if process.status() != psutil.STATUS_ZOMBIE
    ]


# ------------------------------------------------------------------------ an instance of this machine


def test_an_instance_is_shared_and_gone_when_the_last_one_leaves() -> None:
    out, err = alone(shared, PYTHONBREAKPOINT="mine")
    assert (out + err).count("printed by a task") == 1
    assert "Token" not in err
    assert "INFO" not in err


def shared() -> None:
    handler = signal.signal(signal.SIGTERM, lambda *_: None)
    environment = dict(os.environ)
    threads = set(threading.enumerate())
    first, second = Connection(settings(num_cpus=1)), Connection(settings("local"))
    with pytest.raises(RuntimeError, match="not open"):
        _ = first.is_local
    first.acquire()
    second.acquire()
    import ray

    level = logging.getLogger("ray").level
    assert level == logging.WARNING
    assert signal.getsignal(signal.SIGTERM) is not handler
    assert callable(signal.getsignal(signal.SIGTERM))
    assert os.environ["PYTHONBREAKPOINT"] == "mine"
    assert "RAY_USAGE_STATS_ENABLED" not in os.environ
    for one in (first, second):
        assert one.is_open
        assert one.is_local
        assert one.shares_path
        assert not one.is_client
        assert one.client_address is None
        assert one.dashboard_link is None
        assert one.gcs_address is not None
        assert one.node_ip is not None
        assert one.gcs_address.startswith(one.node_ip)
    assert ray.cluster_resources()["CPU"] == 1

    @ray.remote
    def look() -> Any:
        print("printed by a task")
        return os.getcwd(), sys.path

    said = overheard()
    directory, path = ray.get(look.remote())
    eventually(lambda: "printed by a task" in "".join(said), "what a task prints is shown")
    assert directory == os.getcwd()
    assert [entry for entry in path if entry in sys.path]
    assert set(map(os.path.abspath, sys.path)) <= set(path)

    first.release(2.0)
    assert not first.is_open
    assert ray.is_initialized()
    first.acquire()
    second.release(2.0)
    assert ray.get(ray.put(3)) == 3
    began = time.monotonic()
    first.release(2.0)
    assert time.monotonic() - began < ray_thread.SHUT_DOWN_WITHIN + MARGIN
    assert not ray.is_initialized()
    assert ray_processes() == []
    assert dict(os.environ) == {**environment, "RAY_CLIENT_MODE": "0"}
    assert logging.getLogger("ray").level == logging.INFO  # as importing Ray leaves it
    assert not faulthandler.is_enabled()
    assert set(threading.enumerate()) == threads


def test_ray_of_the_user_is_used_as_it_is() -> None:
    alone(of_the_user)


def of_the_user() -> None:
    import ray

    ray.init(address="local", num_cpus=1, include_dashboard=False)
    connection = connected()
    assert not connection.is_local
    assert connection.gcs_address == ray.get_runtime_context().gcs_address
    with caught("shoal") as records:
        connected("nowhere:6379").release(2.0)  # no matter: a process has one Ray
        connected(connection.gcs_address).release(2.0)
    assert len(records) == 1
    assert "nowhere:6379" in records[0].getMessage()
    connection.release(2.0)
    assert ray.is_initialized()
    # The user may end it while somebody holds it, and begin anew.
    connection.acquire()
    ray.shutdown()
    later = Connection(settings("local", num_cpus=1))
    with ThreadPoolExecutor(4) as pool:  # none of them the main thread
        list(pool.map(lambda _: later.acquire(), range(4)))
    assert later.is_local
    connection.release(2.0)
    assert ray.is_initialized()
    for _ in range(4):
        assert ray.is_initialized()
        later.release(2.0)
    assert not ray.is_initialized()
    assert ray_processes() == []


def test_ray_comes_and_goes_from_any_thread() -> None:
    """As in a web server. What threads submit and put has names of its own, and Ray outlives who began it."""
    alone(from_threads)


def from_threads() -> None:
    import ray

    connection = Connection(settings("local", num_cpus=1))

    @ray.remote
    def echo(value: Any) -> Any:
        return value

    def asks(number: int) -> tuple[str, str]:
        put = ray.put(number)
        reference = echo.remote(number)
        assert ray.get([put, reference]) == [number, number]
        return put.hex(), reference.hex()

    names: list[str] = []
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        for first, second in ((one, other), (other, one)):
            first.submit(connection.acquire).result()
            second.submit(connection.acquire).result()
            both = [thread.submit(asks, 1) for thread in (first, second)]
            names = [*(name for asked in both for name in asked.result()), *asks(1)]
            assert len(set(names)) == len(names)
            first.submit(connection.release, 2.0).result()
            if first is one:
                second.submit(connection.release, 2.0).result()
    # Who began it has ended, and another goes on.
    assert len(set(asks(1))) == 2
    connection.release(2.0)
    assert not ray.is_initialized()
    assert ray_processes() == []


def test_interrupts_leave_nothing() -> None:
    """SPEC 7.6."""
    alone(interrupted)


def interrupted() -> None:
    import ray  # noqa: F401  # what an interrupt makes of an import is Python's business

    for delay in (0.7, 2.0):
        threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT)).start()
        connection = Connection(settings("local", num_cpus=1))
        with contextlib.suppress(KeyboardInterrupt):
            connection.acquire()
            time.sleep(5)
            raise AssertionError("it was not interrupted")
        if connection.is_open:
            connection.release(2.0)
        assert ray_processes() == []


def test_an_interrupt_leaves_no_core_worker_of_which_nobody_knows() -> None:
    """SPEC 7.6: its threads would take the process with them at its end; and there could not be another."""
    alone(interrupted_as_it_connects)


def interrupted_as_it_connects() -> None:
    import ray

    make: Any = ray._raylet.CoreWorker

    def make_interrupted(*args: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return make(*args)

    connection = Connection(settings("local", num_cpus=1))
    vars(ray._raylet)["CoreWorker"] = make_interrupted
    with pytest.raises(KeyboardInterrupt):
        connection.acquire()
    vars(ray._raylet)["CoreWorker"] = make
    assert ray_processes() == []
    connection.acquire()
    connection.release(2.0)


def test_an_interrupt_leaves_no_process_that_ray_was_about_to_start() -> None:
    """SPEC 7.6: Ray does not know it yet, and it is called as its parent."""
    alone(forked)


def forked() -> None:
    import ray

    child = os.fork()
    if child == 0:
        time.sleep(0.3)
        home = os.path.dirname(ray.__file__)
        os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(60)", f"{home}/"])
    ray_thread._see_off_new(set())
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_references_that_are_dropped_while_ray_is_shut_down(keeper: Keeper) -> None:
    """By another thread; Ray would end the process."""
    keeper.let_go()
    out, _ = alone(dropped_meanwhile)
    assert out.endswith("it lives\n")


def dropped_meanwhile() -> None:
    import ray
    from shoal_ray import RayTaskRunner

    references: list[Any] = []

    def drop() -> None:
        while references:
            del references[-5:]
            time.sleep(0.0005)

    dropper = threading.Thread(target=drop)
    with RayTaskRunner(init_kwargs={"num_cpus": 1}):
        references += [ray.put(number) for number in range(30_000)]
        dropper.start()
    assert references, "there would be no more to drop"
    references.clear()
    dropper.join()
    print("it lives", flush=True)


def test_values_end_with_their_instance(keeper: Keeper) -> None:
    """Nobody waits for them, and Ray does not come back for their sake."""
    keeper.let_go()
    alone(asked_afterwards)


def asked_afterwards() -> None:
    import ray
    from shoal import flow, task
    from shoal.exceptions import ResultLost
    from shoal_ray import RayTaskRunner

    @task
    def large() -> bytes:
        return bytes(1_000_000)

    @task
    def size(value: bytes) -> int:
        return len(value)

    runner = RayTaskRunner(init_kwargs={"num_cpus": 1})

    runs: list[Any] = []

    @flow(task_runner=runner)
    def makes() -> None:
        runs.append(large.submit())
        runs[0].wait()

    @flow(task_runner=runner)
    def uses() -> int:
        run = size.submit(runs[0])
        run.wait()
        assert isinstance(run.state.data, ResultLost), run.state
        return size.submit(large.submit()).result()

    makes()
    began = time.monotonic()
    with pytest.raises(ResultLost):
        runs[0].result()
    assert time.monotonic() - began < MARGIN
    assert not ray.is_initialized()
    assert uses(return_state=True).data == 1_000_000


@pytest.mark.exhaustive
@pytest.mark.parametrize("victim", ["gcs_server", "raylet"])
def test_a_dead_instance_is_given_up(victim: str) -> None:
    alone(given_up, victim)


def given_up(victim: str) -> None:
    connection = connected("local", num_cpus=1)
    import ray

    for process in ray_processes():
        if process.name() == victim:
            process.kill()
    began = time.monotonic()
    connection.lost()
    assert time.monotonic() - began < ray_thread.SHUT_DOWN_WITHIN + MARGIN
    assert connection.is_lost
    assert connection.is_open
    connection.lost()
    assert not ray.is_initialized()
    assert ray_processes() == []
    with pytest.raises(Exception, match="not been started"):  # and does not start by itself
        ray.get(ray.put(3))
    # Who comes now gets another; who held the lost one leaves that, and not this.
    connection.acquire()
    assert not connection.is_lost
    connection.release(2.0)
    assert ray.is_initialized()
    connection.release(2.0)
    assert not connection.is_open
    assert ray_processes() == []


# ------------------------------------------------------------------------ what cannot be started


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"nonsense": 3}, "no such argument"),
        ({"object_store_memory": 1}, "at least 78,643,200 bytes"),
        ({"object_store_memory": "much"}, "at least"),
        ({"runtime_env": {"pip": 3}}, "pip"),
    ],
    ids=["unknown", "a small store", "no number", "no environment"],
)
def test_arguments_that_ray_refuses(options: dict[str, Any], named: str) -> None:
    alone(refused, json.dumps(options), named)


def refused(options: str, named: str) -> None:
    connection = Connection(settings("local", **json.loads(options)))
    began = time.monotonic()
    with pytest.raises(InvalidOption, match=named) as raised:
        connection.acquire()
    assert time.monotonic() - began < 20, "Ray itself is asked for a minute"
    assert "RayTaskRunner" in str(raised.value)
    assert not connection.is_open


@makes_tokens
@pytest.mark.parametrize("name", ["home", "home/none"])
def test_a_home_that_cannot_be_written_to(tmp_path: Path, name: str) -> None:
    (tmp_path / "home").touch()
    alone(without_home, HOME=str(tmp_path / name))


def without_home() -> None:
    with pytest.raises(ClusterFailed, match="Set HOME to a directory") as raised:
        connected("local", num_cpus=1)
    assert os.environ["HOME"] in str(raised.value)
    assert ray_processes() == []
    assert "RAY_AUTH_MODE" not in os.environ


@makes_tokens
def test_nobody_else_can_read_the_token_of_an_instance(tmp_path: Path) -> None:
    alone(with_new_token, HOME=str(tmp_path))


def with_new_token() -> None:
    os.umask(0)
    connection = connected("local", num_cpus=1)
    try:
        token = Path.home() / ".ray" / "auth_token"
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
        assert len(token.read_text()) == 64
    finally:
        connection.release(5)


def test_what_is_in_the_way_of_an_instance() -> None:
    alone(in_the_way)


def in_the_way() -> None:
    with pytest.raises(ClusterFailed, match=r"/proc/none"):
        connected("local", _temp_dir="/proc/none")
    with pytest.raises(MissingExtraError, match=r'pip install "ray\[default\]"'):
        connected("local", include_dashboard=True)
    assert ray_processes() == []


# ------------------------------------------------------------------------ where it is


def test_the_order_of_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert which(settings()) == which(settings("local")) == "local"
    assert which(settings("h:1")) == "h:1"
    monkeypatch.setenv("RAY_ADDRESS", "ray://h:2")
    assert which(settings()) == which(settings("auto")) == "ray://h:2"
    assert which(settings("h:1")) == "h:1"
    assert which(settings("local", num_cpus=2)) == "local"
    with pytest.raises(InvalidOption, match="RAY_ADDRESS"):
        which(settings(num_cpus=2))
    monkeypatch.setenv("RAY_ADDRESS", "http://h:8265")
    with pytest.raises(InvalidOption, match="RAY_ADDRESS"):
        which(settings())


def test_no_cluster_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import services

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(services, "find_gcs_addresses", set)  # others may run here
    monkeypatch.setattr(services, "find_bootstrap_address", lambda temporary: None)
    with pytest.raises(ClusterUnreachable, match="ray start --head"):
        which(settings("auto"))


@pytest.mark.parametrize("scheme", ["", "ray://"], ids=["cluster", "client"])
def test_nobody_listens(scheme: str) -> None:
    address = f"{scheme}127.0.0.1:1"
    with pytest.raises(ClusterUnreachable, match="refused") as raised:
        knock(address)
    assert raised.value.address == address
    assert isinstance(raised.value, ConnectionError)


@pytest.mark.parametrize("scheme", ["", "ray://"], ids=["cluster", "client"])
def test_somebody_else_listens(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        began = time.monotonic()
        with pytest.raises(ClusterUnreachable, match="did not answer within"):
            knock(f"{scheme}127.0.0.1:{server.getsockname()[1]}")
        assert time.monotonic() - began < ANSWERS_WITHIN + MARGIN


def test_no_answer_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, timeout: float) -> None:
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection", never)
    with pytest.raises(ClusterUnreachable, match="no answer within 4 s"):
        knock("10.0.0.1:6379")


def test_a_server_of_ray_client_that_did_not_start() -> None:
    said = ConnectionAbortedError(
        "Initialization failure from server:\nTraceback (most recent call last):\n"
        "RuntimeError: Starting Ray client server failed. See ray_client_server_23003.err"
    )
    error = explain(said, "ray://h:10001", settings("ray://h:10001"))
    assert isinstance(error, ClusterFailed)
    assert error.address == "ray://h:10001"
    assert "GRPC_ENABLE_FORK_SUPPORT=0" in str(error)


# ------------------------------------------------------------------------ a cluster that runs


keeps_workers = pytest.mark.may_leave("processes", reason="a cluster keeps its workers for later")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Head]:
    with head() as found:
        yield found


@keeps_workers
def test_a_cluster_is_joined_and_left(cluster: Head) -> None:
    out, err = alone(joined, cluster.address, cluster.client)
    for word in WORDS:
        assert (out + err).count(f"{word} printed by a task") == 1
    assert "SIGTERM" not in out + err


WORDS = ("this", "that", "more")  # Ray holds back lines that differ by figures only


def joined(address: str, client: str) -> None:
    import ray

    said = overheard()
    for target, word in zip((address, client, client), WORDS, strict=True):
        connection = connected(target)
        assert not connection.is_local
        assert not connection.shares_path
        assert connection.is_client == target.startswith("ray://")
        if connection.is_client:
            assert connection.client_address == client.removeprefix("ray://")
            assert connection.gcs_address is None
            assert connection.node_ip is None
        else:
            assert connection.gcs_address is not None
            assert connection.gcs_address.partition(":")[2] == address.partition(":")[2]

        @ray.remote
        def look(text: str) -> int:
            print(text)
            return os.getpid()

        text = f"{word} printed by a task"
        assert ray.get(look.remote(text)) != os.getpid()
        eventually(lambda text=text: text in "".join(said), f"{target} shows what is printed")
        connection.release(2.0)
        assert not ray.is_initialized()
    os.environ["RAY_ADDRESS"] = address
    connection = connected()
    assert not connection.is_local
    connection.release(2.0)


def test_one_port_for_the_other(cluster: Head) -> None:
    with pytest.raises(ClusterUnreachable, match=r"address='127\.0\.0\.1"):
        knock(f"ray://{cluster.address}")
    with pytest.raises(ClusterUnreachable, match=r"'ray://127\.0\.0\.1"):
        knock(cluster.client.removeprefix("ray://"))


@keeps_workers
def test_another_version(cluster: Head) -> None:
    alone(mismatched, cluster.address, cluster.client)


def mismatched(address: str, client: str) -> None:
    import ray
    from ray._private import utils

    python = ".".join(map(str, sys.version_info[:3]))
    vars(utils)["compute_version_info"] = lambda: ("2.0.0", "3.9.1")
    for target in (address, client):
        with pytest.raises(EnvironmentMismatch) as raised:
            connected(target)
        rows = raised.value.rows
        assert rows["ray"] == {"driver": "2.0.0", "cluster": ray.__version__}
        assert rows["python"] == {"driver": "3.9.1", "cluster": python}
        assert not ray.is_initialized()
        assert "3.9.1" in str(raised.value)


@pytest.mark.exhaustive
@keeps_workers
@pytest.mark.parametrize("whose", ["Shoal's", "Ray's"])
def test_a_cluster_without_tokens_after_an_instance_with_one(cluster: Head, whose: str) -> None:
    """Ray reads once a process whether there are tokens: it would refuse what the cluster asks about the relay."""
    alone(joined_later, cluster.address, whose)


def joined_later(address: str, whose: str) -> None:
    import ray

    if whose == "Shoal's":
        connected("local", num_cpus=1).release(2.0)
        ray.init(address, logging_level="ERROR")
    else:
        ray.init(num_cpus=1, include_dashboard=False)
        ray.shutdown()
        os.environ.pop("RAY_AUTH_MODE", None)  # as who joins then is told to
    assert "RAY_AUTH_MODE" not in os.environ
    _check_that_it_has_a_relay(address)


def _check_that_it_has_a_relay(address: str) -> None:
    import ray

    connection = connected(address)
    assert ray.get(connection.relay().is_there.remote(), timeout=60)
    connection.release(2.0)


@needs_tokens
def test_a_process_that_asks_for_tokens_on_a_cluster_that_does_not(ray_cluster: Head) -> None:
    """Such a process refuses what the cluster tells it of actors, and runs that wait would do so for ever."""
    alone(not_joined, ray_cluster.address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="t" * 40)


def not_joined(address: str) -> None:
    with pytest.raises(ClusterUnreachable, match="unset"):
        connected(address)


@pytest.mark.exhaustive
@needs_tokens
def test_a_cluster_that_asks_for_a_token(keeper: Keeper, tmp_path: Path) -> None:
    """Also after an instance that had another one, which Ray would keep for as long as its process lives."""
    keeper.let_go()  # with an instance of its own this process has a token too
    token = "a token of thirty-two characters or more"
    with head(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token) as cluster:
        for address in (cluster.address, cluster.client):
            with pytest.raises(ClusterUnreachable, match="RAY_AUTH_TOKEN"):
                knock(address)
        addresses = cluster.address, cluster.client
        alone(joined_with_a_token, token, *addresses, HOME=str(tmp_path))


@pytest.mark.exhaustive
@pytest.mark.timeout(120)
def test_a_cluster_with_tls(
    keeper: Keeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs and their driver say to each other is encrypted as what Ray says is."""
    keeper.let_go()
    here = {info.address for info in itertools.chain(*psutil.net_if_addrs().values())}
    hosts = sorted(address for address in here if address.count(".") == 3)
    variables = certificates(tmp_path / "tls", "localhost", *hosts)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with head(cpus=2) as cluster:
        alone(flows_with_tls, cluster.address, cluster.client, timeout=100)


def flows_with_tls(address: str, client: str) -> None:
    from shoal import flow, task
    from shoal_ray import RayTaskRunner

    @task
    def square(x: int) -> int:
        return x * x

    @flow
    def main(is_reached: bool) -> int:
        squares = square.map(range(100))
        assert sum(squares.result()) == 328_350
        if is_reached:
            _check_that_nothing_is_said_plainly()
        return square.submit(square.submit(3)).result()

    for target in (address, client):
        there = main.with_options(task_runner=RayTaskRunner(target))
        assert there(target == address) == 81


def _check_that_nothing_is_said_plainly() -> None:
    listening = [
        one.laddr for one in psutil.Process().net_connections("tcp") if one.status == "LISTEN"
    ]
    assert listening
    for where in listening:
        with socket.create_connection(where, 5) as plain:
            plain.settimeout(0.5)
            with contextlib.suppress(OSError):
                assert len(plain.recv(32)) < 32, "a challenge"


def joined_with_a_token(token: str, address: str, client: str) -> None:
    connected("local", num_cpus=1).release(2.0)
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token)
    for target in (address, client):
        _check_that_it_has_a_relay(target)
