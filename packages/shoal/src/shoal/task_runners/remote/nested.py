"""Runs that runs on workers submit: the driver's half of `remote`.

    worker ──submitted, mapped──▶ dispatcher, as if submitted here ──ends──▶ worker
           ──waiting, question──▶

May import `batch_serializer`, `members` and what lies above task runners.
"""

from __future__ import annotations

import time
from contextvars import Context
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from shoal.calls import COMPLETED, DONE, FAILED
from shoal.context import LOCK, SUBMITTER, TAGS, Scope
from shoal.exceptions import InvalidOption, RunnerStateError, WaitCycle
from shoal.futures.maps import CANCELLED_UNSEEN, NO_VALUE, MapRecord, Span
from shoal.futures.run import TaskFuture
from shoal.scheduling.blocked_run import Entered
from shoal.scheduling.caps import caps_of
from shoal.serialization import Portable, dumps, loads, pack_error, unpicklable
from shoal.states import State
from shoal.task_runners.remote import messages
from shoal.task_runners.remote.members import Member, NestedMap, not_unpickled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from contextlib import AbstractContextManager

    from shoal.scheduling.dispatchers import PushingDispatcher
    from shoal.specs import TaskCap, TaskSpec
    from shoal.task_runners.remote.batch_serializer import BatchSerializer
    from shoal.task_runners.remote.messages import Message

__all__ = ["Carrier", "End", "NestedRuns"]


class End(NamedTuple):
    """How a run ended that a worker submitted.

    Attributes:
        number: of the run.
        phase: how it ended.
        since: when.
        name: the rendered run name where it is not the default one.
        value: its result or exception; perhaps a handle.
        state: the `State` that it returned, if any.
    """

    number: int
    phase: int
    since: float
    name: str | None
    value: Any
    state: State[Any] | None

    @classmethod
    def of(cls, run: TaskFuture[Any]) -> End:
        """Of a run that has ended."""
        detail = run._detail
        return cls(
            run._number,
            run._phase,
            run._since,
            detail.name if detail is not None else None,
            run._outcome,
            detail.state if detail is not None else None,
        )

    def packed(self) -> tuple[int, bytes]:
        """Its phase and its pickled value and state: a failure where these cannot be pickled."""
        value = self.value
        if isinstance(value, BaseException):
            value = Portable(value, self.name or "")
        try:
            return self.phase, dumps((value, self.state))
        except BaseException as problem:
            phase = FAILED if self.phase == COMPLETED else self.phase
            return phase, dumps((unpicklable(self.value, "result", problem), None))


class Carrier(Protocol):
    """How arguments and results of runs cross to and from workers."""

    def arguments(self, message: Message, packed: Any) -> Any:
        """What a worker packed.

        Raises:
            Exception: whatever unpickling raises.
        """

    def options(self, options: Any) -> AbstractContextManager[Any]:
        """Inside, the execution system's ambient options are those that a worker has captured."""

    def tell_ended(self, member: Member, ends: Sequence[End]) -> None:
        """Tells a worker how runs ended that it submitted."""


class NestedRuns:
    """Takes runs from workers and tells these how they end.

    Args:
        dispatcher: of the runner.
        serializer: of its batches.
        carrier: to and from them.
    """

    def __init__(
        self,
        dispatcher: PushingDispatcher[Any],
        serializer: BatchSerializer,
        carrier: Carrier,
    ) -> None:
        self._dispatcher = dispatcher
        self._serializer = serializer
        self._mapped_by: dict[int, Member] = {}  # by the first number of a map that has not ended
        self._carrier = carrier

    def _scope(self) -> Scope:
        outer = self._serializer.scope
        return Scope(self._dispatcher, outer.flow_run if outer is not None else None)

    def _take_content(self, message: Message, packed: Any) -> tuple[TaskSpec, Any]:
        key, data, plain, whole = packed
        task = self._serializer.task(key, data)
        return task, self._carrier.arguments(message, (plain, whole))

    def take_submitted(self, member: Member, message: Message) -> None:
        number, _, packed = loads(message.body)
        try:
            task, content = self._take_content(message, packed)
            args, kwargs, wait_for, tags, options, submitter = content
            context = _context(tags, submitter)
            scope = self._scope()
            given = task, args, kwargs, wait_for, scope, number
            run = context.run(self._within, options, self._dispatcher.submit, *given)
        except BaseException as error:
            # The runner is being left, or the run asks for what there is not; else its arguments are to blame.
            if not isinstance(error, (RunnerStateError, InvalidOption)):
                error = not_unpickled(error, "arguments")
            self._carrier.tell_ended(member, [End(number, FAILED, time.time(), None, error, None)])
            return
        with LOCK:
            member.runs[number] = run
            watched = run.watch(lambda ended: self._tell_ended(member, [ended]))
        if not watched:
            self._tell_ended(member, [run])

    def take_mapped(self, member: Member, message: Message) -> None:
        base, size, packed = loads(message.body)
        try:
            task, content = self._take_content(message, packed)
        except BaseException:
            member.channel.send(messages.SPLIT, dumps(base))
            return
        positional, keywords, wait_for, tags, options, submitter = content
        context = _context(tags, submitter)
        scope = self._scope()
        try:
            given = task, positional, keywords, size, wait_for, scope, base
            futures = context.run(self._within, options, self._dispatcher.submit_map, *given)
        except (RunnerStateError, InvalidOption) as error:
            now = time.time()
            ends = [End(base + index, FAILED, now, None, error, None) for index in range(size)]
            self._carrier.tell_ended(member, ends)
            return
        nested = NestedMap(futures)
        with LOCK:
            member.maps[base] = nested
            items = futures._items
            unwatched: list[TaskFuture[Any]] = []
            if isinstance(items, MapRecord):
                self._mapped_by[base] = member
                items.watch(lambda _: self._tell_rest(member, nested))
                items.each = lambda run: self._tell_some(member, nested, [run._number - base])
                for run in items.futures.values():
                    run.watch(items.each)
            else:
                unwatched = [
                    run
                    for run in items
                    if not run.watch(lambda ended: self._tell_ended(member, [ended]))
                ]
        if isinstance(items, MapRecord):
            self._tell_rest(member, nested)
        elif unwatched:
            self._tell_ended(member, unwatched)

    def _within(self, options: Any, take: Callable[..., Any], *given: Any) -> Any:
        """Takes runs as if the worker's ambient options were those here."""
        with self._carrier.options(options):
            return take(*given)

    def tell_elements(self, span: Span, positions: Sequence[int]) -> None:
        """Elements of a map have ended: if a worker submitted it, that worker is told."""
        base = span.record.base
        member = self._mapped_by.get(base)
        nested = member.maps.get(base) if member is not None else None
        if member is not None and nested is not None:
            self._tell_some(member, nested, [span.start + p for p in positions])

    def _tell_rest(self, member: Member, nested: NestedMap) -> None:
        if nested.futures._items.done():  # type: ignore[union-attr]
            self._mapped_by.pop(nested.futures._items.base, None)  # type: ignore[union-attr]
            self._tell_some(member, nested, [i for i, told in enumerate(nested.told) if not told])
        else:
            record: Any = nested.futures._items
            self._tell_some(member, nested, [i for i in list(record.futures) if not nested.told[i]])

    def _tell_some(self, member: Member, nested: NestedMap, indices: Sequence[int]) -> None:
        record: Any = nested.futures._items
        ended: list[End] = []
        for index in indices:
            if nested.told[index]:
                continue
            value = record.values[index]
            future = record.futures.get(index)
            if value is NO_VALUE or value is CANCELLED_UNSEEN:
                if value is CANCELLED_UNSEEN:
                    future = record.future(index)
                elif future is None or future._phase < DONE:
                    continue
            elif future is None:
                nested.told[index] = 1
                number = record.base + index
                ended.append(End(number, COMPLETED, record.since[index], None, value, None))
                continue
            nested.told[index] = 1
            ended.append(End.of(future if future is not None else record.future(index)))
        if ended:
            self._carrier.tell_ended(member, ended)

    def _tell_ended(self, member: Member, runs: Iterable[TaskFuture[Any]]) -> None:
        self._carrier.tell_ended(member, [End.of(run) for run in runs])

    def take_waiting(
        self,
        member: Member,
        wait: int,
        at: tuple[int, int | None] | None,
        numbers: list[int],
        maps: list[tuple[int, int]],
        blocks: bool,
        until: int,
        lends: bool,
        asked: str | None,
        kept: list[str],
        beside: bool,
    ) -> None:
        wanted: list[Any] = []
        for number in numbers:
            try:
                wanted.append(member.run_numbered(number))
            except KeyError:
                continue  # its arguments could not be unpickled, as its worker is being told
        for base, size in maps:
            nested = member.maps.get(base)
            if nested is not None:
                wanted.extend(nested.futures._wanted())
            else:  # its elements came one by one
                elements = [member.runs.get(number) for number in range(base, base + size)]
                wanted.extend(element for element in elements if element is not None)
        if asked in member.slots:
            wanted.append(member.slots[asked].answer)
        if at is None:
            return
        blocked_run = member.waits.get(wait)
        try:
            if blocked_run is not None:
                self._dispatcher.waits_for_more(blocked_run, wanted, until)
            else:
                blocked_run = self._dispatcher.waiting(
                    *(at[0], at[1], wanted),
                    blocks=blocks,
                    until=until,
                    lends=lends,
                    beside=beside,
                    tag=(member, wait),
                )
        except WaitCycle as error:
            member.channel.send(messages.REFUSED, dumps((wait, error)))
            return
        if blocked_run is not None:
            with LOCK:
                member.waits[wait] = blocked_run
                blocked_run.keep(
                    [member.slots[it].bearer for it in kept if it in member.slots], until
                )

    def take_entering(
        self, member: Member, number: int, task_caps: Sequence[TaskCap], is_async: bool
    ) -> None:
        """A task is called on a worker that needs places of caps of its own."""
        scheduler = self._dispatcher.scheduler
        with LOCK:
            line = caps_of(scheduler).line_under(task_caps, on_loop=is_async)
            assert line is not None  # there is a cap
            if not member.seen_off:
                entered = member.entered[number] = Entered(scheduler, line, (member, number))
                entered.ask()
        self._dispatcher.drain()

    def take_leaving(self, member: Member, number: int) -> None:
        """It needs that no more."""
        with LOCK:
            entered = member.entered.pop(number, None)
            if entered is not None:
                entered.leave()
        self._dispatcher.drain()

    def take_dropped(self, member: Member, numbers: Iterable[int]) -> None:
        """Futures of these runs are gone where they were submitted."""
        for number in numbers:
            member.runs.pop(number, None)
            nested = member.maps.pop(number, None)
            if nested is not None and isinstance(nested.futures._items, MapRecord):
                nested.futures._items.each = None  # it refers to `nested`

    def take_question(self, member: Member, question: int, what: str, number: int) -> None:
        try:
            run = member.run_numbered(number)
            answer: Any
            if what == "cancel":
                answer = self._dispatcher.cancel(run)
            else:
                state = run.state
                answer = State(state.type, state.name, state.message, timestamp=state.epoch)
            reply = dumps((question, False, answer))
        except BaseException as error:
            reply = dumps((question, True, loads(pack_error(error, "(asked for)"))))
        member.channel.send(messages.REPLY, reply)


def _context(tags: frozenset[str], submitter: tuple[int, int] | None) -> Context:
    """What surrounds a submit here of what a run submits on a worker."""
    context = Context()
    context.run(TAGS.set, tags)
    context.run(SUBMITTER.set, submitter)
    return context
