"""The driver's dispatcher, as runs on a worker see it.

A run that submits others tells the driver of them; their futures here are settled by what the driver says in turn.
They are numbered here, from the worker's own block, so that `submit` returns at once.

    submit, map ──▶ driver's scheduler ──▶ some worker ──▶ driver ──runs ended──▶ futures here

Futures among the arguments travel as run numbers and become the driver's futures there. The driver keeps a run that
was submitted here for as long as its future lives here.

May import `parcels`, `wire`, and what lies above task runners.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from contextlib import contextmanager
from contextvars import copy_context
from itertools import count
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from manyhands import names
from manyhands.calls import COMPLETED, DONE, FAILED, SENT, Call
from manyhands.context import LOCK, TAGS
from manyhands.engine import inputs
from manyhands.engine.batch_run import pack_task
from manyhands.exceptions import SerializationError
from manyhands.futures import TaskFuture, TaskFutureList
from manyhands.futures.maps import MapRecord
from manyhands.futures.run import TRAVEL
from manyhands.scheduling.answers import Answers
from manyhands.serialization import dumps, loads
from manyhands.task_runners.packing import culprit_of
from manyhands.task_runners.processes import wire
from manyhands.task_runners.processes.parcels import LARGE, pack, run_numbered
from manyhands.task_runners.processes.segments import NoSegment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from manyhands.context import Scope
    from manyhands.futures.blocking import Wanted
    from manyhands.states import State
    from manyhands.task_runners.processes.wire import Message
    from manyhands.task_runners.processes.worker import Worker
    from manyhands.tasks import Task

__all__ = ["RemoteDispatcher"]

#: Dropped futures that the driver is told of together.
DROPPED_TOGETHER = 256


class RemoteDispatcher(Answers):
    """Takes runs that are submitted inside runs of this worker.

    Args:
        worker: the worker.

    Attributes:
        refusals: by wait, the error that the driver answered it with.
    """

    closed = False
    gate = None

    def __init__(self, worker: Worker) -> None:
        self.refusals: dict[int, Exception] = {}
        self._worker = worker
        self._keys: dict[Any, int | bytes] = {}
        self._futures: dict[int, _Reference] = {}
        self._records: list[tuple[int, int, _Reference]] = []
        self._dropped: deque[int] = deque()
        self._waits = count(1)
        self._questions = count(1)
        self._answers: dict[int, SimpleQueue[tuple[bool, Any]]] = {}
        self._sending = threading.Lock()

    # ------------------------------------------------------------------ runs go out

    def know(self, task: Task[Any, Any], key: int) -> None:
        """A task that came from the driver, which knows it by this key."""
        self._keys[task] = key

    def submit(
        self,
        task: Task[Any, Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        wait_for: Any,
        scope: Scope,
    ) -> TaskFuture[Any]:
        """See `Dispatcher.submit`."""
        number = names.next_number()
        call = Call(task, args, kwargs, number, copy_context(), scope)
        future: TaskFuture[Any] = TaskFuture(self, task, number, None, time.time(), SENT)  # type: ignore[arg-type]
        dropped = self._dropped
        self._futures[number] = weakref.ref(future, lambda _: dropped.append(number))
        tags = TAGS.get()

        def tell() -> None:
            try:
                self._tell(
                    wire.SUBMITTED,
                    task,
                    (number, call.args, call.kwargs, wait_for, tags),
                )
            except Exception as error:
                self._settle(future, FAILED, _told(error, call), time.time(), None, None)

        self._when_foreign_ended((args, kwargs, wait_for), tell)
        return future

    def submit_map(
        self,
        task: Task[Any, Any],
        positional: list[tuple[list[Any] | None, Any]],
        keywords: dict[str, tuple[list[Any] | None, Any]],
        size: int,
        wait_for: Any,
        scope: Scope,
    ) -> TaskFutureList[Any]:
        """See `Dispatcher.submit_map`."""
        if size == 0:
            return TaskFutureList()
        base = names.reserve(size)
        record: MapRecord[Any] = MapRecord(
            self,  # type: ignore[arg-type]
            task,
            base,
            size,
            [],
            None,
            copy_context(),
            scope,
        )
        record.unclaimed.clear()
        dropped = self._dropped
        with LOCK:
            self._records.append((base, size, weakref.ref(record, lambda _: dropped.append(base))))
        tags = TAGS.get()

        def tell() -> None:
            try:
                self._tell(wire.MAPPED, task, (base, positional, keywords, size, wait_for, tags))
            except Exception:
                # One element may be to blame: each goes by itself, and fails by itself.
                for index in range(size):
                    args = tuple([v if c is None else c[index] for c, v in positional])
                    kwargs = {
                        name: v if c is None else c[index] for name, (c, v) in keywords.items()
                    }
                    call = Call(task, args, kwargs or None, base + index, record.context, scope)
                    try:
                        self._tell(
                            wire.SUBMITTED,
                            task,
                            (base + index, args, kwargs or None, wait_for, tags),
                        )
                    except Exception as error:
                        future = record.future(index)
                        self._settle(future, FAILED, _told(error, call), time.time(), None, None)

        self._when_foreign_ended((positional, keywords, wait_for), tell)
        return TaskFutureList(record)

    def _tell(self, kind: int, task: Task[Any, Any], content: tuple[Any, ...]) -> None:
        """Tells the driver of a run or a map.

        Raises:
            Exception: whatever pickling raises.
        """
        key = self._keys.get(task)
        data: bytes | None = None
        if key is None:
            key, data = pack_task(task)
        with self.futures_travel():
            packed = pack(content)
        worker = self._worker
        stored = [(item.number, item.layout) for item in packed.stored]
        with self._sending:
            self._tell_dropped(at_once=False)
            if packed.size > LARGE:
                try:
                    whole = worker.store.keep(packed.data, packed.buffers)
                except NoSegment:
                    pass
                else:
                    body = dumps((key, data, None, (whole.segment.size, whole.layout), stored))
                    worker.channel.send(kind, body, [whole.segment.fileno()])
                    whole.segment.close()
                    self._keys[task] = key
                    return
            if packed.buffers:
                with self.futures_travel():
                    plain = dumps(content)
            else:
                plain = packed.data
            worker.channel.send(kind, dumps((key, data, plain, None, stored)))
            self._keys[task] = key

    @contextmanager
    def futures_travel(self) -> Iterator[None]:
        """Inside, futures are pickled as what the driver knows them by."""
        outer, TRAVEL.reduce = TRAVEL.reduce, self._reduce
        try:
            yield
        finally:
            TRAVEL.reduce = outer

    def _reduce(self, future: TaskFuture[Any]) -> Any:
        if future._dispatcher is self:  # type: ignore[comparison-overlap]
            return run_numbered, (future._number,)
        return _itself, (future.state,)  # of a runner of this process; it has ended

    def _when_foreign_ended(self, value: Any, then: Callable[[], None]) -> None:
        """Calls `then` once all runs of other runners of this process among some arguments have ended."""
        pending = {
            entry.future
            for entry in inputs.collect((value,), None)
            if isinstance(entry.future, TaskFuture)
            and entry.future._dispatcher is not self  # type: ignore[comparison-overlap]
            and not entry.future.done()
        }
        if not pending:
            then()
            return

        def one_ended(upstream: TaskFuture[Any]) -> None:
            with LOCK:
                pending.discard(upstream)
                finished = not pending
            if finished:
                then()

        with LOCK:
            pending -= {upstream for upstream in list(pending) if not upstream.watch(one_ended)}
            finished = not pending
        if finished:
            then()

    def _tell_dropped(self, at_once: bool) -> None:
        """Tells of futures that are gone here; with `_sending` held."""
        dropped = self._dropped
        if not dropped or (len(dropped) < DROPPED_TOGETHER and not at_once):
            return
        numbers = [dropped.popleft() for _ in range(len(dropped))]
        for number in numbers:
            self._futures.pop(number, None)
        gone = set(numbers)
        with LOCK:
            self._records = [entry for entry in self._records if entry[0] not in gone]
        self._worker.channel.send(wire.DROPPED, dumps(numbers))

    # ------------------------------------------------------------------ waits

    def tell_waiting(
        self,
        run: int | None,
        wanted: Wanted,
        *,
        timed: bool,
        at: tuple[int, int] | None = None,
    ) -> int:
        """Tells the driver that a run is about to wait.

        Args:
            run: its number, if it is on the main thread.
            wanted: what it waits for.
            timed: whether the wait has a time limit.
            at: batch and position of a coroutine's run.

        Returns:
            The number of the wait; the driver is to be told of its end too.
        """
        blocks = at is None
        if at is None and run is not None:
            at = self._worker.batch_of(run)
        numbers: list[int] = []
        maps: list[int] = []
        for item in wanted:
            if item.done():
                continue
            if isinstance(item, MapRecord) and item.dispatcher is self:  # type: ignore[comparison-overlap]
                maps.append(item.base)
            elif isinstance(item, TaskFuture) and item._dispatcher is self:  # type: ignore[comparison-overlap]
                numbers.append(item._number)
        wait = next(self._waits)
        with self._sending:
            self._tell_dropped(at_once=False)
            self._worker.channel.send(wire.WAITING, dumps((wait, at, numbers, maps, blocks, timed)))
        return wait

    # ------------------------------------------------------------------ what futures ask

    def open_state(self, future: TaskFuture[Any]) -> State[Any]:
        """See `Answers`: the driver knows."""
        state: State[Any] = self._ask("state", future._number)
        return state

    def cancel(self, future: TaskFuture[Any]) -> bool:
        """See `Dispatcher.cancel`."""
        if future._phase >= DONE:
            return False
        cancelled: bool = self._ask("cancel", future._number)
        return cancelled

    def native(self, future: TaskFuture[Any]) -> Any:
        """There is none."""
        return None

    def drain(self) -> None:
        """Nothing is decided here."""

    def _ask(self, what: str, argument: Any) -> Any:
        question = next(self._questions)
        answer: SimpleQueue[tuple[bool, Any]] = SimpleQueue()
        self._answers[question] = answer
        self._worker.channel.send(wire.QUESTION, dumps((question, what, argument)))
        failed, value = answer.get()
        if failed:
            raise value
        return value

    # ------------------------------------------------------------------ what the driver says

    def take(self, message: Message) -> None:
        """A message about runs that were submitted here; on the receiver's thread."""
        if message.kind == wire.REPLY:
            question, failed, value = loads(message.body)
            answer = self._answers.pop(question, None)
            if answer is not None:
                answer.put((failed, value))
        elif message.kind == wire.RUNS_ENDED:
            described, entries = loads(message.body)
            self._worker.adopt(described, message.fds)
            for entry in entries:
                self._take_end(*entry)
            with self._sending:
                self._tell_dropped(at_once=True)

    def _take_end(
        self, number: int, phase: int, since: float, name: str | None, data: bytes | int
    ) -> None:
        future = self._future(number)
        if future is None:
            return
        state = None
        value: Any
        if isinstance(data, int):
            value = self._worker.attached[data]
        else:
            try:
                value, state = loads(data)
            except Exception as error:
                value = SerializationError(
                    run_name=future.name,
                    path="result",
                    type_name="unknown",
                    problem=f"unpickling raised {error!r}",
                )
                phase = FAILED
        if isinstance(future, TaskFuture):
            self._settle(future, phase, value, since, name, state)

    def _future(self, number: int) -> TaskFuture[Any] | None:
        reference = self._futures.get(number)
        if reference is not None:
            return reference()
        with LOCK:
            for base, size, record_reference in self._records:
                if 0 <= number - base < size:
                    record = record_reference()
                    return record.materialize(number - base) if record is not None else None
        return None

    def _settle(
        self,
        future: TaskFuture[Any],
        phase: int,
        value: Any,
        since: float,
        name: str | None,
        state: State[Any] | None,
    ) -> None:
        waiters: list[Any] = []
        record: MapRecord[Any] | None = None
        with LOCK:
            try:
                del future._open
            except AttributeError:
                return
            detail = future._details()
            detail.state = state
            detail.name = name
            detail.traceback = value.__traceback__ if isinstance(value, BaseException) else None
            future._outcome = value
            future._since = since
            future._phase = phase
            waiters, detail.waiters = detail.waiters or [], None
            if detail.wanted:
                for helper in detail.wanted:
                    helper.look_again()
                detail.wanted.clear()
            if detail.origin is not None:
                record, index = detail.origin
                if phase == COMPLETED:
                    record.values[index] = value
                record.since[index] = since
                first_failure = phase != COMPLETED and not record.failed
                record.failed = record.failed or phase != COMPLETED
                record.ended = next(record.counter) == record.size
                if not (record.ended or first_failure):
                    record = None
        for waiter in waiters:
            waiter(future)
        if record is not None:
            with LOCK:
                waiters = list(record.waiters)
                if record.ended:
                    record.waiters.clear()
            for waiter in waiters:
                waiter(record)


def _itself(value: Any) -> Any:
    return value


def _told(error: Exception, call: Call) -> Exception:
    return error if isinstance(error, SerializationError) else culprit_of(call)
