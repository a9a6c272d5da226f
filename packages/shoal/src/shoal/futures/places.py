"""A place that a run on a thread of this process shares with the threads that it has started.

It is lent from the first of their waits to the end of the last: while one waits, what it waits for may need the place, and
whether the others are at work or wait for that one (as `Executor.__exit__` does) is not known. Pure.

    guarantees   It is given back once, and taken again once, however many wait; when the run has ended it is not taken again.
    assumes      `LOCK` is held.

May import `blocking` and what lies above it.
"""

from __future__ import annotations

from shoal.futures.blocking import Decision

__all__ = ["LentPlace"]


class LentPlace:
    """Counts who waits that shares a place.

    Attributes:
        waits: how many wait.
        holds: whether it is held.
        left: whether the run has ended, so that it is taken no more.
    """

    __slots__ = ("_turns", "holds", "left", "waits")

    def __init__(self, *, holds: bool) -> None:
        self.waits = 0 if holds else 1
        self.holds = holds
        self.left = False
        self._turns: list[Decision] = []

    def free(self) -> None:
        """Gives it back."""
        raise NotImplementedError

    def take(self) -> bool:
        """Takes it; if there is none, False, and `resume` is called once it is taken."""
        raise NotImplementedError

    def withdraw(self) -> None:
        """It is not to be taken any more, as `take` had asked."""
        raise NotImplementedError

    def begin(self) -> None:
        """One of those who share it is about to wait."""
        self.waits += 1
        if self.waits == 1:
            self._give_back()

    def end(self) -> Decision | None:
        """One of them goes on: at once, or when it is decided."""
        self.waits -= 1
        if self.waits or self.holds or self.left:
            return None
        if not self._turns:
            self.holds = self.take()
            if self.holds:
                return None
        turn = Decision()
        self._turns.append(turn)
        return turn

    def leave(self) -> None:
        """The run has ended, or is given up."""
        self.left = True
        self._give_back()

    def _give_back(self) -> None:
        if self.holds:
            self.holds = False
            self.free()
        elif self._turns:
            self.withdraw()
            self._have_turns()  # one waits, so the others need no place to go on

    def resume(self) -> None:
        """It was taken."""
        self.holds = True
        self._have_turns()

    def _have_turns(self) -> None:
        turns, self._turns = self._turns, []
        for turn in turns:
            turn(None)
