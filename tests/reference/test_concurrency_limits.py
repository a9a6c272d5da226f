"""The examples of the older page (Orion) about task run concurrency limits: command and client (SPEC 10.1).

Imports are renamed, and one slip is corrected: the page enters the class `OrionClient` where it means an instance.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from shoal.exceptions import ConcurrencyLimitError, InvalidOption
from shoal.limits import ConcurrencyLimit, ConcurrencyLimits
from shoal.limits.sqlite import SqliteStore

from tests.limits.tools import ask

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "limits.db"
    monkeypatch.setenv("SHOAL_LIMITS_URL", str(path))
    return path


# ---------------------------------------------------------------------- the command


@pytest.mark.parametrize("name", ["concurrency-limit", "concurrency_limit"])
def test_the_command(name: str, command: Callable[[str], str]) -> None:
    command(f"shoal {name} create small_instance 10")
    assert (
        ConcurrencyLimits().read_concurrency_limit_by_tag("small_instance").concurrency_limit == 10
    )
    assert "small_instance" in command(f"shoal {name} ls")
    assert "active_slots" in command(f"shoal {name} read small_instance")
    command(f"shoal {name} delete small_instance")
    assert ConcurrencyLimits().read_concurrency_limits() == []


# ---------------------------------------------------------------------- the client


def test_the_client() -> None:
    with ConcurrencyLimits() as client:
        # set a concurrency limit of 10 on the 'small_instance' tag
        limit_id = client.create_concurrency_limit(tag="small_instance", concurrency_limit=10)

    with ConcurrencyLimits() as client:
        # query the concurrency limit on the 'small_instance' tag
        limit = client.read_concurrency_limit_by_tag(tag="small_instance")
    assert str(uuid.UUID(limit_id)) == limit_id
    assert isinstance(limit, ConcurrencyLimit)
    assert limit.id == limit_id
    assert limit.tag == "small_instance"
    assert limit.concurrency_limit == 10
    assert limit.active_slots == []

    with ConcurrencyLimits() as client:
        assert client.read_concurrency_limits() == [limit]
        assert client.read_concurrency_limits(limit=10, offset=0) == [limit]
        assert client.read_concurrency_limits(limit=10, offset=1) == []

    with ConcurrencyLimits() as client:
        # remove a concurrency limit on the 'small_instance' tag
        client.delete_concurrency_limit_by_tag(tag="small_instance")
    with pytest.raises(ConcurrencyLimitError, match="has no limit"):
        client.read_concurrency_limit_by_tag(tag="small_instance")


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_the_client_is_async_too() -> None:
    async with ConcurrencyLimits() as client:
        limit_id = await client.create_concurrency_limit(tag="small_instance", concurrency_limit=10)
        limit = await client.read_concurrency_limit_by_tag(tag="small_instance")
        assert limit.id == limit_id
        assert await client.read_concurrency_limits(limit=5) == [limit]
        await client.reset_concurrency_limit_by_tag(tag="small_instance")
        await client.delete_concurrency_limit_by_tag(tag="small_instance")
        with pytest.raises(ConcurrencyLimitError, match="has no limit"):
            await client.delete_concurrency_limit_by_tag(tag="small_instance")


def test_the_client_need_not_be_entered() -> None:
    client = ConcurrencyLimits()
    first = client.create_concurrency_limit("small_instance", 10)
    assert client.create_concurrency_limit("small_instance", 2) == first
    assert client.read_concurrency_limit_by_tag("small_instance").concurrency_limit == 2


def test_active_slots_are_the_ids_of_runs() -> None:
    client = ConcurrencyLimits()
    client.create_concurrency_limit("small_instance", 1)
    store = SqliteStore()
    ask(store, ["tag:small_instance"], "a run")
    store.close()
    assert client.read_concurrency_limit_by_tag("small_instance").active_slots == ["a run"]
    client.reset_concurrency_limit_by_tag("small_instance")
    assert client.read_concurrency_limit_by_tag("small_instance").active_slots == []


def test_reading_makes_no_file(file: Path) -> None:
    assert ConcurrencyLimits().read_concurrency_limits() == []
    assert not file.exists()


@pytest.mark.parametrize("method", ["read", "delete", "reset"])
def test_a_tag_without_a_limit_is_an_error(method: str) -> None:
    act = getattr(ConcurrencyLimits(), f"{method}_concurrency_limit_by_tag")
    with pytest.raises(ConcurrencyLimitError, match="concurrency-limit create 'my db' N") as caught:
        act("my db")
    assert caught.value.tag == "my db"
    with pytest.raises(ConcurrencyLimitError, match="a tag is a string"):
        act(None)


@pytest.mark.parametrize("number", [-1, 1.5, "10", None, True, 1 << 63], ids=repr)
def test_a_limit_is_a_whole_number_from_0_up(number: object) -> None:
    with pytest.raises(ConcurrencyLimitError, match="whole number from 0 up") as caught:
        ConcurrencyLimits().create_concurrency_limit("db", number)
    assert caught.value.tag == "db"
    for parts in ({"limit": number}, {"offset": number}):
        if number is not None:
            with pytest.raises(ConcurrencyLimitError, match="whole number from 0 up"):
                ConcurrencyLimits().read_concurrency_limits(**parts)


@pytest.mark.parametrize("tag", ["", "a\0b", "\ud800", 7, None, b"db"], ids=repr)
def test_a_tag_is_text(tag: object) -> None:
    with pytest.raises(ConcurrencyLimitError):
        ConcurrencyLimits().create_concurrency_limit(tag, 1)


def test_the_largest_limit() -> None:
    client = ConcurrencyLimits()
    client.create_concurrency_limit("db", (1 << 63) - 1)
    assert client.read_concurrency_limit_by_tag("db").concurrency_limit == (1 << 63) - 1


def test_an_address_of_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_LIMITS_URL", "mysql://host/limits")
    with pytest.raises(InvalidOption, match="SHOAL_LIMITS_URL"):
        ConcurrencyLimits().read_concurrency_limits()
