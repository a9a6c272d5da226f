"""What worker processes of a local cluster do not log: that they lost a driver that was killed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from shoal_dask import nanny

if TYPE_CHECKING:
    import pytest

LOST = "Failed to communicate with scheduler during heartbeat."


def record(text: str) -> Any:
    return logging.makeLogRecord({"name": "distributed.worker", "msg": text})


class Driver:
    """In the place of the process that a worker belongs to."""

    def __init__(self, *is_alive: bool) -> None:
        self._is_alive = list(is_alive)
        self.waited = 0

    def join(self, timeout: float) -> None:
        self.waited += 1

    def is_alive(self) -> bool:
        return self._is_alive.pop(0)


def test_a_lost_scheduler_is_news_while_the_driver_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(True, False)
    monkeypatch.setattr(nanny, "parent_process", lambda: driver)
    assert nanny._is_news(record(LOST))
    assert not nanny._is_news(record(LOST))
    assert driver.waited == 2  # one that is just ending has its time
    assert nanny._is_news(record("Scheduler was unaware of this worker; shutting down."))
    assert not nanny._is_news(record("Compute Failed, ended with CancelledError"))
