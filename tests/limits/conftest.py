"""Each test has limits of its own."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from shoal.limits import postgres as limits_postgres
from shoal.limits.opening import open_store
from shoal.limits.sqlite import SqliteStore

from tests.limits.server import programs, server
from tests.limits.tools import FakeTime, scripts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from shoal.limits.store import LimitStore

    from tests.limits.server import Server
    from tests.limits.tools import Python


VARIABLES = (
    "SHOAL_LIMITS_URL",
    "SHOAL_LIMITS_LEASE_SECONDS",
    "SHOAL_LIMITS_POLL_SECONDS",
    "XDG_STATE_HOME",
)


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where limits are kept in a test, also in the processes that it starts; there is no file yet."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "state" / "limits.db"
    monkeypatch.setenv("SHOAL_LIMITS_URL", str(path))
    return path


@pytest.fixture
def clock() -> FakeTime:
    return FakeTime()


@pytest.fixture
def python() -> Iterator[Python]:
    """Starts a script in a process of its own, which is ended with the test."""
    with scripts() as start:
        yield start


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    """What is to be closed with the test, also if it fails."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server | None]:
    """A PostgreSQL server; it takes a second or two. `None` if it is not installed."""
    bin = programs()
    if bin is None:
        yield None
        return
    with server(bin) as running:
        yield running


@pytest.fixture
def postgres(postgres_server: Server | None, monkeypatch: pytest.MonkeyPatch) -> Server:
    """Limits are kept in a database in this test, and there are none."""
    if postgres_server is None:
        pytest.skip("PostgreSQL is not installed (Debian's package `postgresql`)")
    postgres_server.empty()
    monkeypatch.setenv("SHOAL_LIMITS_URL", postgres_server.url)
    return postgres_server


# It needs the server by name, so that this is there before each test's own processes are looked at.
@pytest.fixture(params=["sqlite", "postgres"])
def kind(request: pytest.FixtureRequest, postgres_server: Server | None) -> str:
    """Where limits are kept in a test, by the settings: it runs with each kind of store."""
    kind: str = request.param
    request.getfixturevalue({"sqlite": "file", "postgres": "postgres"}[kind])
    return kind


@pytest.fixture
def make_store(
    kind: str, clock: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], LimitStore]:
    """Makes stores whose clock is moved by hand."""
    if kind == "sqlite":
        return lambda: SqliteStore(clock=clock.time)
    now: Any = property(lambda _: clock.now)
    monkeypatch.setattr(limits_postgres._Transaction, "now", now)
    return open_store


@pytest.fixture
def store(make_store: Callable[[], LimitStore]) -> Iterator[LimitStore]:
    store = make_store()
    yield store
    store.close()
