"""Runs that runs on workers submit: the driver's half of `remote`.

    worker ──submitted, mapped──▶ dispatcher, as if submitted here ──ends──▶ worker
           ──waiting, question──▶

May import `contents`, `members` and what lies above task runners.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from contextvars import Context
from typing import TYPE_CHECKING, Any

from manyhands.calls import COMPLETED, DONE, FAILED, Handle
from manyhands.context import LOCK, TAGS, Scope
from manyhands.exceptions import RunnerStateError, WaitCycle
from manyhands.futures.maps import CANCELLED_UNSEEN, NO_VALUE, MapRecord, Span
from manyhands.futures.run import TaskFuture
from manyhands.serialization import dumps, find_culprit, loads
from manyhands.states import State
from manyhands.task_runners.processes import parcels, wire
from manyhands.task_runners.processes.members import Member, NestedMap, not_unpickled
from manyhands.task_runners.processes.parcels import Stored
from manyhands.task_runners.processes.segments import Segment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from manyhands.scheduling.dispatcher import Dispatcher
    from manyhands.task_runners.processes.contents import Contents
    from manyhands.task_runners.processes.wire import Message
    from manyhands.tasks import Task

__all__ = ["NestedRuns"]


class NestedRuns:
    """Takes runs from workers and tells these how they end.

    Args:
        dispatcher: of the runner.
        contents: of its batches.
        members: its living workers.
        lock: guards the books about them.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        contents: Contents,
        members: set[Member],
        lock: threading.RLock,
    ) -> None:
        self._dispatcher = dispatcher
        self._contents = contents
        self._members = members
        self._lock = lock

    def _scope(self) -> Scope:
        outer = self._contents.scope
        return Scope(self._dispatcher, outer.flow_run if outer is not None else None)

    def _take_content(self, message: Message, packed: Any) -> tuple[Task[Any, Any], Any]:
        key, data, plain, whole = packed
        task = self._contents.task(key, data)
        outer, parcels.HERE.attached = parcels.HERE.attached, self._contents.stored.__getitem__
        try:
            if message.is_cut:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            if whole is not None:
                size, layout = whole
                content = Stored(0, Segment(message.fds[0], size), layout).load()
            else:
                content = loads(plain)
        finally:
            parcels.HERE.attached = outer
        return task, content

    def take_submitted(self, member: Member, message: Message) -> None:
        number, _, packed = loads(message.body)
        try:
            task, (args, kwargs, wait_for, tags) = self._take_content(message, packed)
            context = Context()
            context.run(TAGS.set, tags)
            scope = self._scope()
            run = context.run(self._dispatcher.submit, task, args, kwargs, wait_for, scope, number)
        except Exception as error:
            if not isinstance(error, RunnerStateError):  # that is: the runner is being left
                error = not_unpickled(error, "arguments")
            self._tell_ended(member, [(number, FAILED, time.time(), None, error, None)])
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
        except Exception:
            member.channel.send(wire.SPLIT, dumps(base))
            return
        positional, keywords, wait_for, tags = content
        context = Context()
        context.run(TAGS.set, tags)
        scope = self._scope()
        try:
            futures = context.run(
                self._dispatcher.submit_map, task, positional, keywords, size, wait_for, scope, base
            )
        except RunnerStateError as error:
            now = time.time()
            ends = [(base + index, FAILED, now, None, error, None) for index in range(size)]
            self._tell_ended(member, ends)
            return
        nested = NestedMap(futures)
        with LOCK:
            member.maps[base] = nested
            items = futures._items
            unwatched: list[TaskFuture[Any]] = []
            if isinstance(items, MapRecord):
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

    def tell_elements(self, span: Span, positions: Sequence[int]) -> None:
        """Elements of a map have ended: if a worker submitted it, that worker is told."""
        record = span.record
        for member in list(self._members):
            nested = member.maps.get(record.base)
            if nested is not None:
                self._tell_some(member, nested, [span.start + p for p in positions])

    def _tell_rest(self, member: Member, nested: NestedMap) -> None:
        if nested.futures._items.done():  # type: ignore[union-attr]
            self._tell_some(member, nested, [i for i, told in enumerate(nested.told) if not told])
        else:
            record: Any = nested.futures._items
            self._tell_some(member, nested, [i for i in list(record.futures) if not nested.told[i]])

    def _tell_some(self, member: Member, nested: NestedMap, indices: Sequence[int]) -> None:
        record: Any = nested.futures._items
        ended: list[Any] = []
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
                ended.append(
                    (record.base + index, COMPLETED, record.since[index], None, value, None)
                )
                continue
            nested.told[index] = 1
            ended.append(future if future is not None else record.future(index))
        if ended:
            self._tell_ended(member, ended)

    def _tell_ended(self, member: Member, runs: Sequence[Any]) -> None:
        """Tells a worker how runs ended that it submitted."""
        described: list[Any] = []
        fds: list[int] = []
        entries: list[Any] = []
        kept: list[Any] = []
        with self._lock:
            if member.buried:
                return
            for run in runs:
                if isinstance(run, TaskFuture):
                    detail = run._detail
                    state = detail.state if detail is not None else None
                    name = detail.name if detail is not None else None
                    number, phase, since, value = run._number, run._phase, run._since, run._outcome
                else:
                    number, phase, since, name, value, state = run
                data: Any
                if isinstance(value, Handle) and not isinstance(value, Stored):
                    value = value.value()
                if isinstance(value, Stored):
                    is_new = value.number not in member.segments
                    if is_new:
                        member.segments.add(value.number)
                        fds.append(value.segment.fileno())
                    described.append(tuple(value.describe(is_new)))
                    kept.append(value)
                    data = value.number
                else:
                    try:
                        data = dumps((value, state))
                    except Exception:
                        phase = FAILED if phase == COMPLETED else phase
                        data = dumps((find_culprit(value, "result"), None))
                entries.append((number, phase, since, name, data))
                if len(fds) == wire.MOST_FDS:
                    member.channel.send(wire.RUNS_ENDED, dumps((described, entries)), fds)
                    described, entries, fds = [], [], []
            if entries:
                member.channel.send(wire.RUNS_ENDED, dumps((described, entries)), fds)

    def take_waiting(
        self,
        member: Member,
        wait: int,
        at: tuple[int, int] | None,
        numbers: list[int],
        maps: list[tuple[int, int]],
        blocks: bool,
        timed: bool,
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
        if at is None:
            return
        try:
            helper = self._dispatcher.waiting(
                at[0], at[1], wanted, blocks=blocks, timed=timed, tag=(member, wait)
            )
        except WaitCycle as error:
            member.channel.send(wire.REFUSED, dumps((wait, error)))
            return
        if helper is not None:
            member.waits[wait] = helper

    def take_question(self, member: Member, question: int, what: str, number: int) -> None:
        try:
            run = member.run_numbered(number)
            answer: Any
            if what == "cancel":
                answer = self._dispatcher.cancel(run)
            else:
                state = run.state
                answer = State(state.type, state.name, state.message, timestamp=state.epoch)
            reply = (question, False, answer)
        except Exception as error:
            reply = (question, True, error)
        member.channel.send(wire.REPLY, dumps(reply))
