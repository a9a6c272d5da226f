"""Who may connect to a temporary local cluster: with a secret by default, with certificates, or everybody."""

from __future__ import annotations

import asyncio
import os
import pickle
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from dask import config
from distributed import Security
from distributed.comm.core import CommClosedError, FatalCommClosedError, connect, listen
from shoal import flow, task
from shoal.exceptions import ClusterUnreachable
from shoal.testing.tools import PATIENCE
from shoal_dask import DaskTaskRunner, get_dask_client, secret
from shoal_dask.connection import Connection
from shoal_dask.local import arguments
from shoal_dask.secret import PROTOCOL, Secret
from shoal_dask.settings import ClusterSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

# ---------------------------------------------------------------------- the proof


@asynccontextmanager
async def listening(
    security: Security, protocol: str = PROTOCOL
) -> AsyncIterator[tuple[str, list[Any]]]:
    """Somebody who listens, by address, and what he has read."""
    read: list[Any] = []

    async def handle(comm: Any) -> None:
        read.append(await comm.read())
        await comm.close()

    listener: Any = await listen(
        f"{protocol}127.0.0.1", handle, **security.get_listen_args("scheduler")
    )  # type: ignore[no-untyped-call]
    try:
        yield listener.contact_address, read
    finally:
        listener.stop()


async def say(address: str, security: Security | None, timeout: float = PATIENCE) -> None:
    """Connects and says something."""
    given = security.get_connection_args("client") if security is not None else {}  # type: ignore[no-untyped-call]
    comm: Any = await connect(address, timeout=timeout, **given)  # type: ignore[no-untyped-call]
    await comm.write({"said": 1})
    with pytest.raises(CommClosedError):
        await comm.read()


def test_who_knows_the_secret_is_let_in() -> None:
    known = Secret()

    async def main() -> list[Any]:
        async with listening(known) as (address, read):
            await say(address, pickle.loads(pickle.dumps(known)))
            return read

    assert asyncio.run(main()) == [{"said": 1}]


STRANGERS: dict[str, tuple[Any, str]] = {
    "another secret": (Secret, "another secret"),
    "none": (lambda: None, r"Client\(cluster\)"),
    "certificates": (lambda: Security.temporary(), r"Client\(cluster\)"),  # type: ignore[no-untyped-call]
}


@pytest.mark.parametrize(("security", "problem"), STRANGERS.values(), ids=STRANGERS)
def test_others_are_not(security: Any, problem: str) -> None:
    """And hear so at once."""

    async def main() -> list[Any]:
        async with listening(Secret()) as (address, read):
            with pytest.raises(FatalCommClosedError, match=problem):
                await say(address, security())
            return read

    assert asyncio.run(main()) == []


def test_dasks_own_tcp_is_not() -> None:
    async def main() -> list[Any]:
        async with listening(Secret()) as (address, read):
            with pytest.raises(OSError, match=r"closed|Timed out"):
                await say(address.replace(PROTOCOL, "tcp://"), None, timeout=1)
            return read

    assert asyncio.run(main()) == []


def test_who_connects_speaks_to_none_but_the_right_one() -> None:
    async def main() -> list[Any]:
        async with listening(Security(), "tcp://") as (address, read):
            with pytest.raises(FatalCommClosedError, match="another secret"):
                await say(address.replace("tcp://", PROTOCOL), Secret())
            return read

    assert asyncio.run(main()) == []


def test_nobody_listens_without_a_secret() -> None:
    async def main() -> None:
        async with listening(Security()):
            pass

    with pytest.raises(ValueError, match="without a secret"):
        asyncio.run(main())


def test_who_says_nothing_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secret, "_PROVES_WITHIN", 0.1)

    async def main() -> bytes:
        async with listening(Secret()) as (address, _):
            host, port = address.removeprefix(PROTOCOL).split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            try:
                return await asyncio.wait_for(reader.read(), PATIENCE)
            finally:
                writer.close()

    assert asyncio.run(main()) == b""


def test_a_proof_cannot_be_handed_on() -> None:
    """Who listens where a worker has listened hands on, to one that lives, all that a client says and hears."""
    known = Secret()

    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(1000):
            target.write(data)
        target.close()
        await target.wait_closed()

    async def main() -> list[Any]:
        relays: list[asyncio.Task[None]] = []

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there = await asyncio.open_connection("127.0.0.1", port)
            relays.append(asyncio.create_task(pump(reader, there[1])))
            relays.append(asyncio.create_task(pump(there[0], writer)))

        async with listening(known) as (address, read):
            port = int(address.rpartition(":")[2])
            server = await asyncio.start_server(relay, "127.0.0.1", 0)
            async with server:
                own = server.sockets[0].getsockname()[1]
                with pytest.raises(FatalCommClosedError, match="another secret"):
                    await say(f"{PROTOCOL}127.0.0.1:{own}", known)
            await asyncio.gather(*relays)
            return read

    assert asyncio.run(main()) == []


def test_it_is_not_shown() -> None:
    security = Secret()
    known = security.extra_conn_args["secret"]
    assert repr(known) not in repr(security)
    assert known.hex() not in repr(security)
    assert known != Secret().extra_conn_args["secret"]


# ---------------------------------------------------------------------- who decides

SAID: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a protocol": ({"protocol": "tcp://"}, {}),
    "certificates": ({"security": True}, {}),
    "a host with a protocol": ({"host": "tcp://127.0.0.1"}, {}),
    "no processes": ({"processes": False}, {}),
    "the configuration": ({}, {"distributed.comm.require-encryption": True}),
}


@pytest.mark.parametrize(("given", "configured"), SAID.values(), ids=SAID)
def test_what_the_user_says_holds(given: dict[str, Any], configured: dict[str, Any]) -> None:
    with config.set(configured):
        made = arguments(given, "nowhere")
    assert {name: made.get(name) for name in ("protocol", "security")} == {
        "protocol": given.get("protocol"),
        "security": given.get("security"),
    }


@pytest.mark.parametrize("given", [{}, {"host": "127.0.0.1"}, {"n_workers": 2}], ids=str)
def test_else_there_is_a_secret_for_each_cluster(given: dict[str, Any]) -> None:
    made = arguments(given, "nowhere")
    assert made["protocol"] == PROTOCOL
    assert isinstance(made["security"], Secret)


# ---------------------------------------------------------------------- clusters


def test_a_cluster_has_one_by_default(connection: Connection) -> None:
    addresses = [
        connection.client.scheduler.address,
        *connection.client.scheduler_info()["workers"],
    ]
    assert all(address.startswith(PROTOCOL) for address in addresses)
    with pytest.raises(ClusterUnreachable, match=r"Client\(cluster\)"):
        Connection(ClusterSettings(address=addresses[0])).acquire()


@task
def inc(x: int) -> int:
    return x + 1


@task
def nested(count: int) -> int:
    return sum(inc.map(range(count)).result())


@task
def with_client() -> int:
    with get_dask_client() as client:
        return int(client.submit(sum, [1, 2]).result())


@task
def large(size: int) -> bytes:
    return bytes(size)


@task
def length(data: bytes, other: bytes) -> int:
    return len(data) + len(other)


@task(crash_retries=1)
def dies_once(marker: str) -> str:
    if not os.path.exists(marker):
        open(marker, "w").close()
        os._exit(3)
    return "alive"


@pytest.mark.slow
@pytest.mark.parametrize(
    "said", [{}, {"security": True}, {"protocol": "tcp://"}], ids=["secret", "tls", "open"]
)
def test_everything_works(said: dict[str, Any], tmp_path: Any) -> None:
    """SPEC 9, 7.5: what speaks with the cluster from elsewhere than the runner, and with workers that came later."""

    @flow(task_runner=DaskTaskRunner(cluster_kwargs={"n_workers": 2, **said}))
    def main() -> None:
        assert nested.submit(20).result(timeout=PATIENCE) == 210
        assert with_client.submit().result(timeout=PATIENCE) == 3
        with get_dask_client() as client:
            assert client.submit(sum, [inc.submit(1).native, 1]).result() == 3
        values = [large.submit(1_000_000) for _ in range(4)]
        assert length.map(values, reversed(values)).result() == [2_000_000] * 4
        assert dies_once.submit(str(tmp_path / "marker")).result(timeout=PATIENCE) == "alive"
        assert sum(inc.map(range(10)).result()) == 55

    main()


# ---------------------------------------------------------------------- another user of the machine

#: Of nobody in particular.
STRANGER = 65533

#: It becomes another user once all is imported, which that one may not be allowed to read.
STRANGE = """
import logging, os, sys
from distributed import Client, LocalCluster, Security
import shoal_dask.secret
own = Security.temporary()
logging.disable(logging.CRITICAL)
os.setgroups([])
os.setgid(int(sys.argv[1]))
os.setuid(int(sys.argv[1]))
for address in sys.argv[2:]:
    try:
        with Client(address, timeout=2, security=own if address.startswith("tls") else None) as client:
            print(sorted(client.run(os.getuid).values())[0])
    except OSError:
        print("refused")
"""


def whose_code_a_stranger_runs(*addresses: str) -> list[str]:
    """What another user gets from each address: the number of him whose code runs there, or that he is refused."""
    ended = subprocess.run(
        [sys.executable, "-c", STRANGE, str(STRANGER), *addresses],
        capture_output=True,
        text=True,
        timeout=PATIENCE * 4,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.split()


def at(connection: Connection, protocol: str) -> str:
    """The scheduler's address as somebody may try it."""
    return protocol + str(connection.client.scheduler.address).partition("://")[2]


@pytest.fixture
def opened(request: pytest.FixtureRequest) -> Iterator[Connection]:
    connection = Connection(ClusterSettings(cluster_kwargs={"n_workers": 1, **request.param}))
    connection.acquire()
    yield connection
    connection.release(2.0)


only_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can be another user"
)


@only_root
@pytest.mark.slow
@pytest.mark.parametrize("opened", [{"protocol": "tcp://"}], indirect=True, ids=["open"])
def test_another_user_runs_code_as_the_owner_of_an_open_cluster(opened: Connection) -> None:
    """What SECURITY.md says of it."""
    assert whose_code_a_stranger_runs(at(opened, "tcp://")) == [str(os.getuid())]


@only_root
@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("opened", [{}, {"security": True}], indirect=True, ids=["secret", "tls"])
def test_another_user_is_not_let_in(opened: Connection) -> None:
    """Also not with a certificate of his own."""
    addresses = [at(opened, protocol) for protocol in ("tcp://", PROTOCOL, "tls://")]
    assert whose_code_a_stranger_runs(*addresses) == ["refused"] * 3
    assert opened.client.submit(int, 7).result() == 7
