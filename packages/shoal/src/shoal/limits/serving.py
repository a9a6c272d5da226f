"""What the keeper's thread does with the store: slots are taken, kept, and given back.

Who has to wait stands in line at every name at which it had to, in the order of the requests, and keeps these places
until it is served; only the first of a line is tried, and so stands in the store's line too. It is tried again when
something is given back, here or by another process, or when the store has said that it may be free by then. So a slot
given back costs one try or two, however many wait.

For one thread. May import `register`, `refusals`, `alarms` and what lies above them.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from shoal.exceptions import ConcurrencyLimitError
from shoal.limits.lines import Asker, Lines
from shoal.limits.refusals import refused, too_late
from shoal.limits.store import TAG, Acquired, Busy
from shoal.logs import library_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from shoal.limits.alarms import Alarm, Alarms
    from shoal.limits.register import Held, News, Register
    from shoal.limits.store import LimitStore

__all__ = ["AGAIN", "STUCK", "STUCK_AFTER", "Serving"]

#: Seconds after which who stands in line tells the store at the latest that it still does; less than it waits for that.
REFRESH = 1.5

#: What has it looked whether somebody waits for ever, and so many seconds after there was reason to.
STUCK: Alarm = ("stuck", None)
STUCK_AFTER = 0.1

#: Seconds between two tries of a store that cannot be reached.
AGAIN = 0.5


class Serving:
    """See the module.

    Args:
        store: of limits.
        register: who waits and who holds.
        alarms: what is to be done when.
        after: calls a function in some seconds.
        clock: tells the time in seconds.

    Attributes:
        store: the store.
        lines: who stands in which.
    """

    def __init__(
        self,
        store: LimitStore,
        register: Register,
        alarms: Alarms,
        after: Callable[[float, Callable[[], Any]], Any],
        clock: Callable[[], float],
    ) -> None:
        self.store = store
        self._register = register
        self._alarms = alarms
        self._after = after
        self._clock = clock
        self.lines = Lines()
        self._standing: set[Asker] = set()  # in the store's lines: about the first of each line

    def work(self, news: News, due: Collection[Alarm]) -> None:
        """Does what there is to do; `due` are the timers that went off."""
        lines = self.lines
        self._give_back(news.released)
        self._forget(news.left)
        for what, which in due:
            if what == "renew":
                self._renew(which)
            elif what == "line":
                lines.stir((which,))
            elif what == "again":
                self._give_back(lines.take_owed())
            elif what == "stuck":
                self._look_for_stuck()
            elif what == "rung" or self.store.changed():
                lines.stir(list(lines.first))
        self._serve_lines()
        for asker in news.arrived:
            self._admit(asker)
        self._serve_lines()

    # ------------------------------------------------------------------ what is held

    def _give_back(self, released: dict[str, frozenset[str]]) -> None:
        if not released:
            return
        try:
            self.store.release(released)
        except ConcurrencyLimitError as error:
            if self.store.may_pass(error) and not self._register.closed:
                self.lines.owed.update(released)
                with self._register.changed:
                    self._alarms.start(("again", None), AGAIN)
                self._in_trouble(error)
            else:
                library_logger().warning(
                    "Slots are given back by the end of their leases: %s", error
                )
        else:
            self._out_of_trouble()
            for names in released.values():
                self.lines.stir(names)

    def _forget(self, left: Collection[Asker]) -> None:
        """Those who wait no more leave their lines."""
        standing = [asker.request.holder.id for asker in left if asker.stands]
        for asker in left:
            if asker.stands:
                self.lines.stir(asker.lines)
        if standing:
            try:
                self.store.withdraw(standing)
            except ConcurrencyLimitError as error:
                library_logger().warning("Places in line are left when they are over: %s", error)

    def _renew(self, seconds: float) -> None:
        with self._register.changed:
            held = self._register.held_for(seconds)
        if not held:
            return
        lost: list[Held] = []
        try:
            kept = self.store.renew(list(held), seconds)
            for id, it in held.items():
                gone = it.names - kept.get(id, set())
                if gone and not self._take_again(it, gone):
                    lost.append(it)
        except ConcurrencyLimitError as error:
            library_logger().warning("Leases could not be renewed, which is tried again: %s", error)
        if lost:
            ids = sorted(it.request.holder.id for it in lost)
            library_logger().warning(
                "%d holders go on without the slots of their limits, which were reset, deleted, or not renewed in time"
                " because this process stood still: %s",
                len(lost),
                ", ".join(ids[:10]),  # there may be thousands
            )

    def _take_again(self, it: Held, gone: frozenset[str]) -> bool:
        """Takes slots that were lost once more if there is room; else they are held no more, and it returns False."""
        id = it.request.holder.id
        answer = self.store.try_acquire(replace(it.request, names=gone, strict=False), stand=False)
        taken = answer.names if isinstance(answer, Acquired) else frozenset[str]()
        with self._register.changed:
            return not self._register.took_again(id, gone, taken)

    # ------------------------------------------------------------------ lines

    def _admit(self, asker: Asker) -> None:
        """A newcomer: tried unless others stand in line for what it wants."""
        if not self._register.waits(asker):
            return
        with self._register.changed:
            lines = asker.request.names & self.lines.first.keys()
            lines -= self._register.held_within(asker.request)
            if lines and not asker.once:
                self.lines.join(asker, lines)
                return
        self._try(asker, min(asker.request.names), 0)

    def _serve_lines(self) -> None:
        while (name := self.lines.next_stirred()) is not None:
            while (asker := self.lines.first_of(name, self._register.waits)) is not None:
                self._try(asker, name, self.lines.behind(name))
                if self._register.waits(asker):
                    break
            else:
                with self._register.changed:
                    self._alarms.stop(("line", name))

    def _try(self, asker: Asker, name: str, behind: int) -> None:
        """Tries to get a asker its slots; if it has to wait, it stands in line, and is tried again at its time."""
        waited = self._clock() - asker.asked if asker.tried or asker.lines else None
        patience = None if asker.timeout is None else max(0.0, asker.timeout - (waited or 0.0))
        try:
            answer = self.store.try_acquire(
                *(asker.request, waited),
                patience=patience,
                behind=behind,
                passes=self._standing_behind(asker),
            )
        except ConcurrencyLimitError as error:
            if not self.store.may_pass(error):
                self._register.decide(asker, error)
                return
            self._in_trouble(error)
            answer = Busy(asker.request.names, AGAIN)
        else:
            self._out_of_trouble()
            asker.tried = True
            asker.stands = asker.stands or isinstance(answer, Busy)
        if isinstance(answer, Busy):
            pause = REFRESH if answer.retry_after is None else min(answer.retry_after, REFRESH)
            asker.tries += 1
            most = asker.request.max_retries
            is_given_up = most is not None and asker.tries > most
            with self._register.changed:
                is_late = asker.once or is_given_up
                if not is_late:
                    self.lines.join(asker, answer.names)
                    self._standing.add(asker)
                    if name not in self.lines.first:
                        name = min(answer.names)
                    self._alarms.start(("line", name), max(pause, 0.0005), anew=True)
                    if self._register.may_be_stuck():
                        self._alarms.start(STUCK, STUCK_AFTER)
            if is_given_up:
                problem = f"it had no free slots, nor at {most} further tries"
                tag = min(answer.names).removeprefix(TAG)
                self._register.decide(asker, ConcurrencyLimitError(tag=tag, problem=problem))
            elif is_late:
                self._register.decide(asker, too_late(asker, self._register.trouble))
        elif not isinstance(answer, Acquired):
            self._register.decide(asker, refused(answer))
        elif answer.after:
            with self._register.changed:
                if self._register.waits(asker):
                    asker.cancel()  # it is not late any more
                    grant = partial(self._register.decide, asker, answer)
                    asker.timer = self._after(answer.after, grant)
                    asker.granted = True
            self.lines.stir(asker.lines)
        elif not self._register.decide(asker, answer) and asker.request.lease_seconds is not None:
            self._give_back({asker.request.holder.id: answer.names})

    def _standing_behind(self, asker: Asker) -> set[str]:
        """The ids of those of this process that stand in the store's lines, and come after a asker."""
        self._standing = {other for other in self._standing if self._register.waits(other)}
        return {other.request.holder.id for other in self._standing if asker < other}

    # ------------------------------------------------------------------ who waits for ever

    def _look_for_stuck(self) -> None:
        """Refuses who would wait for slots for ever, and has what is run that others wait for with theirs."""
        from shoal.limits.stuck_askers import (  # with what schedules runs, where there may be none
            look,
            names_at_risk,
        )

        with self._register.changed:
            names = names_at_risk(self._register)
        try:
            read = [self.store.read(name) for name in names]
        except ConcurrencyLimitError:
            return  # who stands in line asks again, and then it is looked again
        with self._register.changed:
            found = look(self._register, {limit.name: limit for limit in read if limit is not None})
            if found.refusals:
                self._alarms.start(STUCK, STUCK_AFTER)
        for asker, error in found.refusals.items():
            self._register.decide(asker, error)
        for dispatcher, wanted in found.to_run.items():
            dispatcher.help_out(wanted)

    def _in_trouble(self, error: ConcurrencyLimitError) -> None:
        if self._register.trouble is None:
            library_logger().warning("It is tried again until it works: %s", error)
        self._register.trouble = error

    def _out_of_trouble(self) -> None:
        if self._register.trouble is not None:
            library_logger().info("The limits can be used again")
            self._register.trouble = None
            self.lines.stir(list(self.lines.first))
