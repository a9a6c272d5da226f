"""The examples of the pages about global concurrency limits and rate limits: imports are renamed (SPEC 10.1, 10.3)."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest
from shoal import flow, task
from shoal.concurrency.asyncio import concurrency as concurrency_async
from shoal.concurrency.asyncio import rate_limit as rate_limit_async
from shoal.concurrency.sync import concurrency, rate_limit
from shoal.exceptions import ConcurrencySlotAcquisitionError
from shoal.limits import (
    ConcurrencyLimits,
    GlobalConcurrencyLimitCreate,
    GlobalConcurrencyLimitUpdate,
)
from shoal.testing.section_10_limits import limits_of_a_test

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ConcurrencyLimits:
    return limits_of_a_test(tmp_path, monkeypatch)


class Crowd:
    """How many are inside at once, at the most."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = self.most = 0

    def __enter__(self) -> None:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._now -= 1


# ---------------------------------------------------------------------- the command


@pytest.mark.parametrize("name", ["gcl", "global-concurrency-limit"])
def test_the_command(name: str, limits: ConcurrencyLimits, command: Callable[[str], str]) -> None:
    command(f"shoal {name} create my-concurrency-limit --limit 5 --slot-decay-per-second 1.0")
    assert "my-concurrency-limit" in command(f"shoal {name} ls")
    shown = json.loads(command(f"shoal {name} inspect my-concurrency-limit -o json"))
    assert (shown["limit"], shown["slot_decay_per_second"], shown["active"]) == (5, 1.0, True)
    command(f"shoal {name} update my-concurrency-limit --limit 10")
    command(f"shoal {name} update my-concurrency-limit --disable")
    limit = limits.read_global_concurrency_limit_by_name("my-concurrency-limit")
    assert (limit.limit, limit.active) == (10, False)
    command(f"shoal {name} delete my-concurrency-limit")
    assert limits.read_global_concurrency_limits() == []


# ---------------------------------------------------------------------- the client


def test_the_client(limits: ConcurrencyLimits) -> None:
    with limits as client:
        made = GlobalConcurrencyLimitCreate(name="my-limit", limit=5, slot_decay_per_second=0.5)
        id = client.create_global_concurrency_limit(concurrency_limit=made)
        limit = client.read_global_concurrency_limit_by_name(name="my-limit")
        assert (limit.id, limit.name, limit.limit, limit.active) == (id, "my-limit", 5, True)
        assert client.read_global_concurrency_limits(limit=10, offset=0)[0].id == id
        client.update_global_concurrency_limit(
            name="my-limit",
            concurrency_limit=GlobalConcurrencyLimitUpdate(name="my-other-limit", limit=6),
        )
        client.upsert_global_concurrency_limit_by_name("my-other-limit", 7)
        limit = client.read_global_concurrency_limit_by_name(name="my-other-limit")
        assert (limit.id, limit.limit, limit.slot_decay_per_second) == (id, 7, 0.5)
        client.delete_global_concurrency_limit_by_name(name="my-other-limit")
        assert client.read_global_concurrency_limits() == []


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_the_client_is_async_too(limits: ConcurrencyLimits) -> None:
    async with limits as client:
        id = await client.create_global_concurrency_limit(
            concurrency_limit=GlobalConcurrencyLimitCreate(name="my-limit", limit=5)
        )
        await client.update_global_concurrency_limit(
            "my-limit", GlobalConcurrencyLimitUpdate(active_slots=2)
        )
        await client.upsert_global_concurrency_limit_by_name("my-limit", 6)
        limit = await client.read_global_concurrency_limit_by_name("my-limit")
        assert (limit.id, limit.limit, limit.active_slots) == (id, 6, 2)
        assert await client.read_global_concurrency_limits() == [limit]
        await client.delete_global_concurrency_limit_by_name("my-limit")
        assert await client.read_global_concurrency_limits() == []


# ---------------------------------------------------------------------- slots


def test_a_task_that_takes_a_slot(limits: ConcurrencyLimits) -> None:
    limits.upsert_global_concurrency_limit_by_name("database", 2)
    crowd = Crowd()

    @task
    def process_data(x: int, y: int) -> int:
        with concurrency("database", occupy=1), crowd:
            return x + y

    @flow
    def my_flow() -> list[int]:
        futures = [process_data.submit(x, y) for x, y in [(1, 2), (2, 3), (3, 4), (4, 5)]]
        return [future.result() for future in futures]

    assert my_flow() == [3, 5, 7, 9]
    assert crowd.most <= 2


def test_an_async_task_that_takes_a_slot(limits: ConcurrencyLimits) -> None:
    limits.upsert_global_concurrency_limit_by_name("database", 1)
    crowd = Crowd()

    @task
    async def process_data(x: int, y: int) -> int:
        async with concurrency_async("database", occupy=1):
            with crowd:
                await asyncio.sleep(0)
                return x + y

    @flow
    async def my_flow() -> list[int]:
        futures = [process_data.submit(x, y) for x, y in [(1, 2), (2, 3), (3, 4), (4, 5)]]
        return [await future for future in futures]

    assert asyncio.run(my_flow()) == [3, 5, 7, 9]
    assert crowd.most == 1


def test_connections_of_a_database(limits: ConcurrencyLimits) -> None:
    limits.upsert_global_concurrency_limit_by_name("database-connections", 3)
    crowd = Crowd()
    three = asyncio.Event()

    class Connection:
        async def __aenter__(self) -> Self:
            crowd.__enter__()
            return self

        async def __aexit__(self, *error: object) -> None:
            crowd.__exit__()

        async def fetch(self, query: str) -> str:
            if crowd.most == 3:
                three.set()
            await three.wait()
            return query.upper()

    async def query_database(query: str) -> str:
        async with concurrency_async("database-connections", occupy=1), Connection() as connection:
            return await connection.fetch(query)

    async def main() -> list[str]:
        return await asyncio.gather(*(query_database(f"select {n}") for n in range(10)))

    assert asyncio.run(main()) == [f"SELECT {n}" for n in range(10)]
    assert crowd.most == 3


def test_several_slots_at_once(limits: ConcurrencyLimits) -> None:
    limits.upsert_global_concurrency_limit_by_name("data-processing", 5)
    crowd = Crowd()

    @task
    def process_chunk(chunk: list[int]) -> int:
        with concurrency("data-processing", occupy=5), crowd:
            return sum(chunk)

    @flow
    def main() -> list[int]:
        return process_chunk.map([[1, 2], [3, 4], [5, 6]]).result()

    assert main() == [3, 7, 11]
    assert crowd.most == 1


def test_strict(limits: ConcurrencyLimits) -> None:
    with pytest.raises(ConcurrencySlotAcquisitionError):
        concurrency("no-such-limit", strict=True).__enter__()
    with pytest.raises(ConcurrencySlotAcquisitionError):
        rate_limit("no-such-limit", strict=True)


# ---------------------------------------------------------------------- rates


@pytest.fixture
def api(limits: ConcurrencyLimits) -> Iterator[str]:
    limits.create_global_concurrency_limit(
        GlobalConcurrencyLimitCreate("rate-limited-api", limit=2, slot_decay_per_second=200.0)
    )
    yield "rate-limited-api"
    assert limits.read_global_concurrency_limit_by_name("rate-limited-api").holders == ()


def test_tasks_that_keep_a_rate(api: str) -> None:
    calls: list[int] = []

    @task
    def make_http_request(number: int) -> None:
        rate_limit(api)
        calls.append(number)

    @flow
    def my_flow() -> None:
        for number in range(10):
            make_http_request.submit(number)

    my_flow()
    assert sorted(calls) == list(range(10))


def test_an_async_flow_that_keeps_a_rate(api: str) -> None:
    calls: list[int] = []

    @task
    async def make_http_request(number: int) -> None:
        await rate_limit_async(api)
        calls.append(number)

    @flow
    async def my_flow() -> None:
        for number in range(10):
            make_http_request.submit(number)

    asyncio.run(my_flow())
    assert sorted(calls) == list(range(10))


def test_submitting_at_a_rate(api: str) -> None:
    @task
    def step(number: int) -> int:
        return number

    @flow
    def slow_my_flow() -> list[int]:
        futures = []
        for number in range(5):
            rate_limit(api, occupy=1)
            futures.append(step.submit(number))
        return [future.result() for future in futures]

    assert slow_my_flow() == list(range(5))


def test_a_rate_outside_of_flows(api: str) -> None:
    sent: list[str] = []

    async def send_mail(address: str) -> None:
        await rate_limit_async(api)
        sent.append(address)

    async def main() -> None:
        for number in range(5):
            await send_mail(f"{number}@example.org")

    asyncio.run(main())
    assert len(sent) == 5
