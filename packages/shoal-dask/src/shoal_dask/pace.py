"""How often Dask's streams send: of all that is said on a way of several hops, each one waits for the next message of its stream.

A stream (`distributed.batched.BatchedSend`) sends what it is given at once, and nothing more before an interval is over: 10 ms
from a client, 5 to a worker, 2 from a worker and to a client. Where runs wait for each other, a few at a time, that is most
of what there is to wait for. The interval is an attribute that Dask does not document, and each use of a stream is on its loop.

Imported by schedulers and workers too. May import nothing of ours.
"""

from __future__ import annotations

from typing import Any

__all__ = ["hurry", "take_time"]

#: Where a stream has its own interval, and how often which session wants it to send.
_OWN, _WISHES = "shoal_own_interval", "shoal_wishes"


def hurry(stream: Any, session: str, seconds: float) -> None:
    """Has a stream send at least as often as a session wants, until that takes its time again; others may use it meanwhile.

    Args:
        stream: of Dask's.
        session: the session.
        seconds: between what it sends.
    """
    known = vars(stream)
    known.setdefault(_OWN, stream.interval)
    wishes: dict[str, float] = known.setdefault(_WISHES, {})
    wishes[session] = seconds
    stream.interval = min(wishes.values())


def take_time(stream: Any, session: str) -> None:
    """A session wants nothing of a stream any more: after the last one it sends as often as it did before the first."""
    wishes: dict[str, float] = vars(stream).get(_WISHES, {})
    if wishes.pop(session, None) is not None:
        stream.interval = min(wishes.values(), default=getattr(stream, _OWN))
