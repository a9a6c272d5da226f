"""Slots of limits that runs on workers take: they go through the driver, so a worker needs neither the file of limits nor
the database.

    worker ──wanted, released──▶ `WorkerSlots` ─▶ the driver's keeper
           ◀──answer────────────

What a worker holds or waits for is given back when it has gone. When the driver has gone, the leases run out.

May import `messages` and what lies above task runners.
"""

from __future__ import annotations

import uuid
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from shoal.context import LOCK
from shoal.futures.blocking import Bearer, Decision
from shoal.limits.acquiring import tell_of
from shoal.limits.holding import default_lease
from shoal.limits.slots import KEEPER
from shoal.serialization import dumps, loads, pack_error
from shoal.task_runners.remote import messages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from shoal.limits.holding import Held
    from shoal.limits.store import Request
    from shoal.scheduling.dispatchers import LedgerDispatcher
    from shoal.task_runners.remote.members import Member
    from shoal.task_runners.remote.messages import Channel

__all__ = ["RemoteKeeper", "WorkerSlots"]


class Asked:
    """Slots that a run on a worker has asked for and not given back.

    Attributes:
        keeper: who keeps them.
        answer: of the keeper.
        bearer: stands for the thread there, or the task of its loop.
    """

    __slots__ = ("answer", "bearer", "keeper")

    def __init__(self, keeper: Any) -> None:
        self.keeper = keeper
        self.answer = Decision()
        self.bearer = Bearer()


class WorkerSlots:
    """Takes slots for the runs on workers: the driver's half.

    Args:
        dispatcher: of the runner.
    """

    def __init__(self, dispatcher: LedgerDispatcher) -> None:
        self._dispatcher = dispatcher

    def take_wanted(self, member: Member, request: Request, timeout: float | None) -> None:
        """A run wants slots."""
        acquisition = request.holder.id
        keeper = self._dispatcher.keeper or KEEPER
        asked = Asked(keeper)
        with LOCK:
            if member.seen_off:
                return
            member.slots[acquisition] = asked

        def decided(decision: Decision) -> None:
            outcome = decision.answer
            if isinstance(outcome, Exception):
                answer = pack_error(outcome, "(slots of limits)")
            else:
                if keeper is KEEPER:
                    tell_of(outcome)
                answer = dumps(outcome)
            if request.lease_seconds is None:
                member.slots.pop(acquisition, None)  # there is nothing to give back
            with suppress(OSError):  # the worker has gone, and what it held is given back for that
                member.channel.send(messages.SLOTS, dumps((acquisition, answer)))

        with LOCK:
            asked.answer.watch(decided)
        try:
            leased = request
            if request.lease_seconds == 0:
                leased = replace(request, lease_seconds=default_lease(keeper))
            keeper.request(leased, asked.answer, timeout, asked.bearer)
        except Exception as error:  # whoever it is, a run waits for the answer
            asked.answer(error)
        with LOCK:
            has_gone = member.seen_off
        if has_gone:  # perhaps between the two, and then nobody else gives them back
            keeper.release(acquisition)

    def take_released(self, member: Member, acquisition: str) -> None:
        """A run needs its slots no more, or no longer waits for them."""
        asked = member.slots.pop(acquisition, None)
        if asked is not None:
            asked.keeper.release(acquisition)


class RemoteKeeper:
    """The driver's keeper of slots, as runs on a worker see it; see `SlotKeeper`.

    The driver knows an acquisition by an id that is made here: what is called on workers has numbers that several of them
    give.

    Args:
        channel: to the driver.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._known_as: dict[str, str] = {}
        self._waiting: dict[str, tuple[str, Request, Callable[[Any], object]]] = {}

    def request(
        self,
        request: Request,
        on_outcome: Callable[[Any], object],
        timeout: float | None = None,
        who: object = None,
    ) -> None:
        """Asks for slots; does not wait.

        Args:
            request: what is wanted.
            on_outcome: called once with the answer or the error, on the receiver's thread; not after `release`.
            timeout: seconds to wait at most.
            who: see `SlotKeeper`; the driver is told with each wait.
        """
        id = request.holder.id
        acquisition = self._known_as[id] = str(uuid.uuid4())
        within = frozenset(self._known_as[one] for one in request.within if one in self._known_as)
        holder = replace(request.holder, id=acquisition)
        self._waiting[acquisition] = id, request, on_outcome
        told = replace(request, holder=holder, within=within)
        self._channel.send(messages.SLOTS_WANTED, dumps((told, timeout)))

    def release(self, id: str) -> None:
        """Gives slots back, or takes the request for them back; does not wait."""
        acquisition = self._known_as.pop(id, None)
        if acquisition is not None:
            self._waiting.pop(acquisition, None)
            with suppress(OSError):  # the driver has gone
                self._channel.send(messages.SLOTS_RELEASED, dumps(acquisition))

    def known_by(self, on_outcome: Any) -> str | None:
        """As what the driver knows the slots that `on_outcome` waits for; `None` if they have been decided about."""
        waiting = list(self._waiting.items())
        return next((known for known, (_, _, told) in waiting if told is on_outcome), None)

    def known(self, held: Iterable[Held]) -> list[str]:
        """As what the driver knows the slots among what is held here."""
        return [self._known_as[it.id] for it in list(held) if it.id in self._known_as]

    def take(self, body: bytes) -> None:
        """The driver has answered."""
        acquisition, answer = loads(body)
        waiting = self._waiting.pop(acquisition, None)
        if waiting is not None:
            id, request, on_outcome = waiting
            if request.lease_seconds is None:
                self._known_as.pop(id, None)  # there is nothing to give back
            on_outcome(loads(answer))
