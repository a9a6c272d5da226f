"""Who waits for a key that another computes: on a thread, or a coroutine; one looks for all of this process.

    ask ─▶ a line for each key ─▶ its first is tried, at most every 50 ms ─▶ it has the key's lock ─▶ decided

Who holds slots of limits may keep the one waiting that has the lock. When that one has waited for a while, they get no turn: they go
on without the lock.

guarantees   Who has left holds nothing. The thread ends when nobody waits.
who writes   All fields under `_changed`. Locks are tried without it, and by the thread alone.

May import `storage` and what lies above task runners.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from shoal.futures.blocking import Decision
from shoal.results import within

if TYPE_CHECKING:
    from shoal.results.storage import KeyLock

__all__ = ["TURNS", "NoTurn", "Turn", "Turns"]


class NoTurn(Exception):
    """Who has the lock waits itself, and perhaps for what the asker holds."""


class Turn:
    """A place in line.

    Args:
        place: of the storage, and the key.
        lock: of the key; it is held once the turn has come.
        holds_slots: whether who asks may hold what others wait for.

    Attributes:
        decision: `None` when the turn has come, or why it never will.
    """

    __slots__ = ("decision", "holds_slots", "lock", "place", "since", "stalled_since")

    def __init__(self, place: tuple[str, str], lock: KeyLock, *, holds_slots: bool = False) -> None:
        self.place = place
        self.lock = lock
        self.holds_slots = holds_slots
        self.decision = Decision()
        self.since = time.monotonic()
        self.stalled_since: float | None = None


class Turns:
    """The lines of this process. `TURNS` is the one to use."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._changed = threading.Lock()
        self._lines: dict[tuple[str, str], deque[Turn]] = {}
        self._bell = threading.Event()
        self._thread: threading.Thread | None = None

    def ask(self, turn: Turn) -> None:
        """Stands in line; does not wait."""
        with self._changed:
            self._lines.setdefault(turn.place, deque()).append(turn)
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="shoal-keys", daemon=True)
                self._thread.start()
        self._bell.set()

    def leave(self, turn: Turn) -> None:
        """Waits no more; a lock that it has got meanwhile is given back."""
        with self._changed:
            waited = self._remove(turn)
        if not waited:
            turn.lock.release()
        self._bell.set()

    def ring(self) -> None:
        """A lock was given back here."""
        if self._lines:
            self._bell.set()

    def _remove(self, turn: Turn) -> bool:
        line = self._lines.get(turn.place)
        if line is None or turn not in line:
            return False
        line.remove(turn)
        if line:
            line[0].since = time.monotonic()
        else:
            del self._lines[turn.place]
        return True

    def _serve(self) -> None:
        while True:
            self._bell.clear()
            with self._changed:
                if not self._lines:
                    self._thread = None
                    return
                first = [line[0] for line in self._lines.values()]
            for turn in first:
                self._try(turn)
            # A quarter of what the one waited that came last, from 1 to 50 ms.
            waited = time.monotonic() - max(turn.since for turn in first)
            self._bell.wait(min(max(waited / 4, 0.001), 0.05))

    def _try(self, turn: Turn) -> None:
        problem: BaseException | None = None
        try:
            if not turn.lock.try_acquire():
                self._see_whether_stalled(turn)
                return
        except BaseException as error:  # whoever it is, a run waits for the answer
            problem = error
        with self._changed:
            waited = self._remove(turn)
        if waited:
            turn.decision(problem)
        else:
            turn.lock.release()

    def _see_whether_stalled(self, first: Turn) -> None:
        """Ends the wait of those in a line who may keep the one waiting that has the lock."""
        now = time.monotonic()
        if not first.lock.holder_waits:
            first.stalled_since = None
            return
        if first.stalled_since is None:
            first.stalled_since = now
        if now - first.stalled_since < within.A_WHILE:
            return
        with self._changed:
            line = self._lines.get(first.place, ())
            gone = [turn for turn in list(line) if turn.holds_slots and self._remove(turn)]
        for turn in gone:
            turn.decision(NoTurn())


#: The lines of this process.
TURNS = Turns()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=TURNS._reset)
