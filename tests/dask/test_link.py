"""The driver's end of the bus, without a cluster."""

from __future__ import annotations

import weakref
from functools import partial
from types import SimpleNamespace
from typing import Any

from shoal.testing.tools import PATIENCE, eventually
from shoal_dask.link import Link


class Large:
    """What an action holds."""


def never(error: BaseException) -> None:
    """The link has not failed."""
    raise error


def test_what_comes_after_its_end_is_dropped() -> None:
    heard: list[Any] = []
    client: Any = SimpleNamespace(
        futures={},
        loop=SimpleNamespace(add_callback=lambda action: None),
        register_plugin=lambda plugin: None,
        scheduler_comm=SimpleNamespace(interval=0.01),
        run_on_scheduler=lambda function: True,
        _stream_handlers=dict.fromkeys(
            ("key-in-memory", "task-erred", "cancelled-keys", "lost-data")
        ),
    )
    link = Link(client, "mh1", 0.001, heard.append, never)
    link.open()
    link.brought({"body": 1})
    eventually(lambda: heard == [{"body": 1}], "it is heard")
    link.close(PATIENCE)
    assert not link.thread.is_alive()
    values = [Large(), Large()]
    known = [weakref.ref(value) for value in values]
    link.do(partial(repr, values[0]))
    link.brought({"body": values[1]})
    values.clear()
    assert [value() for value in known] == [None, None]
    assert len(heard) == 1


def test_what_cannot_be_sent_or_heard_is_told_and_holds_up_nothing() -> None:
    """SPEC 7.5: else whatever depends on it would wait for ever."""
    sent: list[str] = []
    failures: list[str] = []
    due: list[Any] = []
    client: Any = SimpleNamespace(
        futures={},
        loop=SimpleNamespace(add_callback=due.append),
        register_plugin=lambda plugin: None,
        scheduler_comm=SimpleNamespace(interval=0.01),
        run_on_scheduler=lambda function: True,
        _send_to_scheduler=lambda message: None,
        _stream_handlers=dict.fromkeys(
            ("key-in-memory", "task-erred", "cancelled-keys", "lost-data")
        ),
    )

    def leave(message: dict[str, Any]) -> None:
        raise SystemExit(message["body"])

    link = Link(client, "mh1", 0.001, leave, lambda error: failures.append(str(error)))
    link.open()
    link.brought({"body": "heard"})
    eventually(lambda: failures == ["heard"], "it is told")

    def fail() -> None:
        raise ValueError("sent")

    link.post(fail)
    link.post(lambda: sent.append("behind it"))
    while due:
        due.pop(0)()
    assert failures == ["heard", "sent"]
    assert sent == ["behind it"]
    link.close(PATIENCE)
