"""Messages that cannot be sent: the other side is told, rather than left waiting for them."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest
from shoal.task_runners.processes import wire
from shoal.task_runners.processes.wire import DriverChannel, Inbox
from shoal.task_runners.remote import messages


@pytest.mark.parametrize("blocked", [False, True])
def test_a_message_that_cannot_be_sent_ends_the_stream(
    monkeypatch: pytest.MonkeyPatch, blocked: bool
) -> None:
    ours, theirs = socket.socketpair()
    channel, inbox = DriverChannel(ours, lambda: None), Inbox(theirs)
    channel.send(messages.STOP, b"before")
    errors = [BlockingIOError()] if blocked else []
    errors.append(OSError(errno.ETOOMANYREFS, "too many references"))

    def fails(*_: Any) -> int:
        raise errors.pop(0)

    with monkeypatch.context() as patch:
        patch.setattr(wire, "_send", fails)
        channel.send(messages.BATCH, b"lost")
        if blocked:
            assert channel.is_blocked()
            assert channel.flush()
    assert not channel.is_blocked()
    channel.send(messages.BATCH, b"after")  # without what came before, it would mislead
    assert inbox.receive()
    assert [message.body for message in inbox.messages()] == [b"before"]
    assert not inbox.receive(), "the worker sees the end"
    channel.close()
    theirs.close()
