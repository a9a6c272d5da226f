"""What workers and the scheduler say, as the bus brings it; all of it on the I/O thread.

May import `handles`, `members`, `relays` and the core's `remote` room.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from dask.base import annotate
from manyhands.calls import FAILED, Outcome, Report
from manyhands.context import LOCK
from manyhands.exceptions import SerializationError
from manyhands.futures.maps import Span
from manyhands.logs import library_logger
from manyhands.names import process_entropy, reserve_block
from manyhands.serialization import dumps, loads
from manyhands.task_runners.remote import messages
from manyhands.task_runners.remote.members import futures_of, not_unpickled
from manyhands.task_runners.remote.messages import Message
from manyhands.task_runners.remote.nested import End, NestedRuns

from manyhands_dask.environment import check_worker
from manyhands_dask.handles import Kept
from manyhands_dask.members import DaskMember
from manyhands_dask.side import KEPT, PICKLED

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from distributed import Client
    from manyhands.task_runners.remote.contents import Contents

    from manyhands_dask.backend import DaskBackend

__all__ = ["Listener"]


class Listener:
    """Hears what is said, and carries what runs on workers want (see `Carrier`).

    Args:
        backend: of the runner.
        contents: of its batches.
        check: whether workers that join are to have fitting versions.
    """

    def __init__(self, backend: DaskBackend, contents: Contents, *, check: bool) -> None:
        self._backend = backend
        self._check = check
        self._nested = NestedRuns(backend.events, contents, backend.living, self)

    def hear(self, message: dict[str, Any]) -> None:
        """Takes a message from the bus; on the I/O thread."""
        if self._backend.stopping:
            return
        if "kind" in message:
            with self._backend.lock:
                member = self._backend.deaths.member_at(message["worker"])
            if member is not None:
                with futures_of(member):
                    self._take(member, Message(message["kind"], message["body"], []))
        elif "ended" in message:
            self._backend.deaths.dask_ended(message["ended"])
        elif "joined" in message:
            self._joined(message["joined"])
        elif "gone" in message:
            self._backend.deaths.worker_gone(*message["gone"])
            self._count_slots()
        elif "withdrawn" in message:
            self._backend.withdrawn(message["withdrawn"])
        elif "again" in message:
            self._backend.deaths.refused(message["again"])
        elif "spared" in message:
            self._backend.deaths.spared(*message["spared"])
        elif "pong" in message:
            self._backend.watch.answered(message["pong"])

    def _joined(self, joined: dict[str, Any]) -> None:
        with self._backend.lock:
            if joined["address"] in self._backend.members:
                return
            channel = _Down(self._backend)
            member = DaskMember(len(self._backend.members), channel, joined)
            channel.member = member
            self._backend.members[member.address] = member
        self._backend.arrived.set()
        self._backend.down(member, messages.NUMBERS, dumps((*reserve_block(), process_entropy())))
        self._count_slots()

    def _count_slots(self) -> None:
        with self._backend.lock:
            threads = sum(member.nthreads for member in self._backend.members.values())
        self._backend.events.slots(list(range(max(threads, 1))), awaited=not threads)

    def _take(self, member: DaskMember, message: Message) -> None:
        kind, body = message.kind, message.body
        if kind == messages.ENDS:
            self._take_ends(member, *loads(body))
        elif kind == messages.STARTED:
            self._take_started(member, loads(body))
        elif kind == messages.BACK:
            number, positions, seconds = loads(body)
            self._backend.events.handed_back(number, positions, seconds)
        elif kind == messages.BEGUN:
            self._backend.events.started(*loads(body))
        elif kind == messages.LOGGED:
            self._take_logged(body)
        elif kind == messages.SUBMITTED:
            self._nested.take_submitted(member, message)
        elif kind == messages.MAPPED:
            self._nested.take_mapped(member, message)
        elif kind == messages.WAITING:
            self._take_waiting(member, *loads(body))
        elif kind == messages.RESUMED:
            helper = member.waits.pop(loads(body), None)
            if helper is not None:
                self._backend.events.resumed(helper)
        elif kind == messages.QUESTION:
            self._nested.take_question(member, *loads(body))
        elif kind == messages.DROPPED:
            self._nested.take_dropped(member, loads(body))
        elif kind == messages.UNPACKABLE:
            self._take_unpackable(*loads(body))
        elif kind == messages.WANTED:
            self._backend.relays.wanted(member, loads(body))
        elif kind == messages.HELLO:
            self._take_hello(member, loads(body))
        elif kind == messages.FAREWELL:
            self._backend.deaths.farewell(member)

    def _take_hello(self, member: DaskMember, hello: dict[str, Any]) -> None:
        member.hello = hello
        problem = check_worker(hello["environment"]) if self._check else None
        if problem is not None:
            library_logger().warning("Dask worker %s: %s", member.address, problem)

    def _take_logged(self, body: bytes) -> None:
        try:
            self._backend.events.logged(loads(body))
        except Exception:  # what the user put into the record, or does with it
            library_logger().exception("A log record of a worker could not be handled")

    def _take_started(self, member: DaskMember, number: int) -> None:
        """A worker has a batch, and begins."""
        with self._backend.lock:
            sent = self._backend.sent.get(number)
            if sent is None:
                return
            sent.member = member
            member.begun.add(number)
            skipped, sent.skipped = sent.skipped, []
            recalled = sent.recalled
            wanting, sent.wanting = sent.wanting, []
            self._backend.settling.discard(number)
            self._backend.settled.notify_all()
        if sent.is_task and len(sent.batch) == 1 and not sent.is_limited():
            self._backend.events.started(number, 0)  # else `BEGUN` says so
        for run in skipped:
            self._backend.interrupt(run)
        if recalled:
            self._backend.down(member, messages.RECALL, dumps(number))
        if wanting:
            with LOCK:
                for helper in wanting:
                    helper.look_again()
            self._backend.events.drain()

    # ------------------------------------------------------------------ runs end

    def _take_ends(
        self,
        member: DaskMember,
        number: int,
        where: Any,
        kinds: bytes,
        values: list[Any],
        ends: list[float],
        seconds: float,
        last: bool,
    ) -> None:
        """Runs of a batch have ended. Hot."""
        positions: Sequence[int] = range(*where) if type(where) is tuple else where
        if PICKLED in kinds or KEPT in kinds:
            values = [
                value if kind not in (PICKLED, KEPT) else self._value(member, kind, value)
                for kind, value in zip(kinds, values, strict=True)
            ]
        with self._backend.lock:
            sent = self._backend.sent.get(number)
            if sent is not None and last:
                self._backend.forget(sent)
        if sent is None:
            return  # it was given up; handles to what it keeps have been made, and dropped
        self._backend.events.reported(Report(number, positions, values, ends, seconds, last=last))
        if type(sent.batch.runs) is Span and any(other.maps for other in self._backend.living()):
            self._nested.tell_elements(sent.batch.runs, positions)

    def _value(self, member: DaskMember, kind: int, told: Any) -> Any:
        if kind == KEPT:
            return Kept(_future_of(told, self._backend.client), member.address)
        try:
            return loads(told)
        except Exception as error:
            return Outcome(FAILED, not_unpickled(error))

    def _take_unpackable(self, number: int, data: bytes) -> None:
        with self._backend.lock:
            sent = self._backend.sent.get(number)
            if sent is None:
                return
            self._backend.forget(sent)
        if len(sent.batch) > 1:
            self._backend.events.split(number)
            return
        error = loads(data)
        told = SerializationError(
            path="arguments",
            type_name=type(error).__qualname__,
            problem=f"unpickling on the worker raised {error!r}",
        )
        told.__cause__ = error
        self._backend.fail(sent, lambda name: told)

    def arguments(self, message: Message, packed: Any) -> Any:
        """See `Carrier`."""
        return loads(packed[0])

    def options(self, options: Any) -> AbstractContextManager[Any]:
        """See `Carrier`: Dask's annotations."""
        return annotate(**options.annotations) if options is not None else nullcontext()

    def tell_ended(self, member: Any, ends: Sequence[End]) -> None:
        """See `Carrier`."""
        entries = []
        for end in ends:
            if isinstance(end.value, Kept):
                data: Any = end.value.number
                phase = end.phase
            else:
                phase, data = end.packed()
            entries.append((end.number, phase, end.since, end.name, data))
        member.channel.send(messages.RUNS_ENDED, dumps(entries))

    def _take_waiting(self, member: DaskMember, wait: int, *described: Any) -> None:
        self._nested.take_waiting(member, wait, *described)
        helper = member.waits.get(wait)
        if helper is not None and helper.spare is not None:
            self._backend.down(
                member, messages.STEP_ASIDE, dumps(wait)
            )  # who waits with a limit runs nothing


class _Down:
    """A channel to a worker."""

    member: DaskMember

    def __init__(self, backend: DaskBackend) -> None:
        self._backend = backend

    def send(self, kind: int, body: bytes = b"") -> None:
        """See `Channel`."""
        self._backend.down(self.member, kind, body)


def _future_of(key: str, client: Client) -> Any:
    """A future of a value that is there, and that the scheduler keeps for this client already."""
    from distributed import Future

    future: Any = Future(key, client)
    future._state.finish()  # the message that says so came before there was a future to tell
    return future
