"""How often streams send while sessions are open, and after that: they are others' too."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import permutations
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from distributed.batched import BatchedSend
from shoal.testing.samples import inc
from shoal.testing.tools import eventually
from shoal_dask import DaskTaskRunner
from shoal_dask.backend import SEND_SECONDS
from shoal_dask.bus import NAME, SchedulerBus, WorkerBus
from shoal_dask.pace import hurry, take_time

if TYPE_CHECKING:
    from shoal_dask.connection import Connection

OWN = 0.01


def stream() -> Any:
    return SimpleNamespace(interval=OWN)


def test_an_interval_is_what_a_stream_of_dasks_has() -> None:
    assert BatchedSend("5ms", loop=SimpleNamespace()).interval == 0.005


@pytest.mark.parametrize("order", list(permutations("abc")), ids="".join)
def test_the_last_one_leaves_a_stream_as_the_first_one_found_it(order: tuple[str, ...]) -> None:
    used = stream()
    wishes = {"a": 0.001, "b": 0.002, "c": 0.02}
    for session, seconds in wishes.items():
        hurry(used, session, seconds)
        assert used.interval == 0.001
    for session in order:
        take_time(used, session)
        take_time(used, session)  # it is told more than once
        del wishes[session]
        assert used.interval == min(wishes.values(), default=OWN)
    hurry(used, "d", 0.02)
    assert used.interval == 0.02
    take_time(used, "d")
    assert used.interval == OWN


def test_workers_that_join_hurry_too() -> None:
    streams: dict[str, Any] = {"first": stream()}
    clients = {"client": stream(), "other": stream()}
    told: list[tuple[str, dict[str, Any]]] = []
    bus: Any = SchedulerBus()
    bus._scheduler = SimpleNamespace(
        workers=streams,
        stream_comms=streams,
        client_comms=clients,
        worker_send=lambda address, message: told.append((address, message)),
    )
    bus._say = bus._tell_joined = lambda *args, **message: None
    bus._open("client", "mh1", 0.001)
    streams["second"] = stream()
    bus.add_worker(bus._scheduler, "second")
    hurried = {"op": NAME, "session": "mh1", "every": 0.001}
    assert told == [("first", hurried), ("second", hurried)]
    assert [streams["first"].interval, streams["second"].interval] == [0.001, 0.001]
    assert [used.interval for used in clients.values()] == [0.001, OWN]
    del clients["client"]  # its connection is lost
    bus.remove_client(bus._scheduler, "client")
    assert [used.interval for used in streams.values()] == [OWN, OWN]


def test_a_worker_is_told() -> None:
    worker: Any = SimpleNamespace(
        batched_stream=stream(),
        shoal_sessions={},
        shoal_ended=[],
        stream_handlers={},
        periodic_callbacks={},
    )
    WorkerBus().setup(worker)
    hear = worker.stream_handlers[NAME]
    hear(session="mh1", every=0.001)
    assert worker.batched_stream.interval == 0.001
    assert not worker.shoal_sessions
    hear(session="mh1", end=True)
    assert worker.batched_stream.interval == OWN


def every(client: Any) -> list[float]:
    """Seconds between what each stream of a client's cluster sends: the client's, those to workers, to the client, from workers."""

    def on_scheduler(dask_scheduler: Any = None, name: str = "") -> list[float]:
        streams = [*dask_scheduler.stream_comms.values(), dask_scheduler.client_comms[name]]
        return [stream.interval for stream in streams]

    def on_worker(dask_worker: Any = None) -> Any:
        return dask_worker.batched_stream.interval

    seconds = client.run_on_scheduler(on_scheduler, name=client.id)
    return [client.scheduler_comm.interval, *seconds, *client.run(on_worker).values()]


@pytest.mark.slow
def test_each_stream_of_a_cluster(connection: Connection) -> None:
    """SPEC 11.2: a client and a cluster that were given are left as they were."""
    client: Any = connection.client
    before = every(client)
    with ExitStack() as last:
        with DaskTaskRunner(client) as first:
            second = last.enter_context(DaskTaskRunner(client))
            assert [r.submit(inc, {"x": 1}).result() for r in (first, second)] == [2, 2]
            assert set(every(client)) == {SEND_SECONDS}
        assert second.submit(inc, {"x": 2}).result() == 3
        assert set(every(client)) == {SEND_SECONDS}
    eventually(lambda: every(client) == before, "all send as often as they did")
