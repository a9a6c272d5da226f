"""Signal handlers of ours, in force in this process only: a child that user code forks has what was there before.

    install ─▶ handler in force ──fork──┬─▶ parent: goes on
                                        └─▶ child: `previous` is back before any of the user's code runs

Inherited, ours would raise in the worker of somebody's process pool, which takes that for an error of its task and lives
on. A child may be sent a signal before it has run at all (a pool that is left at once); the interpreter then calls the
handler too early, or forgets the signal. So such signals are blocked from before the fork until the child has got rid of
the handler, and reach it then. In the parent, whose hooks must not raise (the exception would be lost), one that comes
meanwhile is sent again a moment later.

Handlers are called, installed and removed in the main thread. May import `services`.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from shoal.engine.services import TIMERS

__all__ = ["install", "remove"]

#: Seconds after which a signal is sent again that came while the main thread forked.
AGAIN = 0.001

#: By signal, what is in force, and what was there before.
_installed: dict[int, tuple[Callable[[int, FrameType | None], Any], Any]] = {}


class _Forking(threading.local):
    """How many forks this thread is at, and the signals that it had blocked before each."""

    def __init__(self) -> None:
        self.masks: list[Any] = []


_forking = _Forking()


def install(number: int, handler: Callable[[int, FrameType | None], Any]) -> None:
    """Puts a handler in force, in the main thread."""

    def handle(number: int, frame: FrameType | None) -> Any:
        if not _forking.masks:
            return handler(number, frame)
        return TIMERS.after(AGAIN, lambda: os.kill(os.getpid(), number))

    previous = signal.signal(number, handle)
    _installed[number] = (handle, signal.SIG_DFL if previous is None else previous)


def remove(number: int) -> None:
    """Brings back what was there before, unless others have put their own in its place."""
    handle, previous = _installed.pop(number, (None, None))
    if handle is not None and signal.getsignal(number) is handle:
        signal.signal(number, previous)


def _before_fork() -> None:
    _forking.masks.append(None)  # first, so that no handler raises in here
    if _installed:
        _forking.masks[-1] = signal.pthread_sigmask(signal.SIG_BLOCK, list(_installed))


def _after_fork_in_parent() -> None:
    blocked = _forking.masks[-1]
    if blocked is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    _forking.masks.pop()


def _after_fork_in_child() -> None:
    for number in list(_installed):
        remove(number)
    _after_fork_in_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
