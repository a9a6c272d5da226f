"""The driver's dispatcher, as runs on a worker see it.

A run that submits others tells the driver of them; their futures here are settled by what the driver says in turn.
They are numbered here, from the worker's own block, so that `submit` returns at once.

    submit, map ──▶ driver's scheduler ──▶ some worker ──▶ driver ──runs ended──▶ futures here

Futures among the arguments travel as run numbers and become the driver's futures there. The driver keeps a run that
was submitted here for as long as its future lives here.

May import `messages`, `parcels` and what lies above task runners.
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
from typing import TYPE_CHECKING, Any, NoReturn, Self

from shoal import names
from shoal.calls import CANCELLED, COMPLETED, DONE, FAILED, SENT, Call
from shoal.context import LOCK, TAGS
from shoal.engine import inputs
from shoal.engine.batch_run import pack_task
from shoal.engine.interrupt import shielded
from shoal.exceptions import ResultLost, RunnerStateError, SerializationError
from shoal.futures import TaskFuture, TaskFutureList
from shoal.futures.maps import MapRecord
from shoal.futures.run import TRAVEL
from shoal.safely import is_raisable, repr_of
from shoal.scheduling.answers import NOT_HERE, Answers
from shoal.serialization import dumps, loads
from shoal.states import State, StateType
from shoal.task_runners.packing import culprit_of
from shoal.task_runners.remote import messages
from shoal.task_runners.remote.parcels import LARGE, pack, run_numbered
from shoal.tracebacks import folded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shoal.context import Scope
    from shoal.futures.blocking import Wanted
    from shoal.specs import TaskSpec
    from shoal.task_runners.remote.messages import Message
    from shoal.task_runners.remote.worker import RemoteWorker

__all__ = ["RemoteDispatcher"]

#: Dropped futures that the driver is told of together.
DROPPED_TOGETHER = 256


class RemoteDispatcher(Answers):
    """Takes runs that are submitted inside runs of this worker.

    Args:
        worker: the worker.
        numbers: gives runs their numbers: `next_number` and `reserve`.

    Attributes:
        refusals: by wait, the error that the driver answered it with.
        watchers: of the waits under way on worker threads.
    """

    runner_name = "the runner of the enclosing flow"
    closed = False
    gate = None
    scheduler = None  # it is the driver's: no thread of this process can run these runs itself

    def __init__(self, worker: RemoteWorker, numbers: Any = names) -> None:
        super().__init__()
        self._numbers = numbers
        self.refusals: dict[int, Exception] = {}
        self.watchers: list[Any] = []
        self._worker = worker
        self._keys: dict[Any, int | bytes] = {}
        self._futures: dict[int, _Reference] = {}
        self._records: list[tuple[int, int, _Reference]] = []
        self._dropped: deque[_Reference] = deque()
        self._untold: set[int] = set()
        self._one_by_one: dict[int, Callable[[], None]] = {}
        self._split: dict[int, int] = {}
        self._waits = count(1)
        self._questions = count(1)
        self._answers: dict[int, SimpleQueue[tuple[bool, Any]]] = {}
        self._sending = threading.Lock()

    def leave_to_parent(self) -> None:
        """See `Answers`."""

        def refuse(*args: Any, **kwargs: Any) -> NoReturn:
            raise RunnerStateError(runner=self.runner_name, problem=NOT_HERE)

        self.submit = self.submit_map = refuse  # type: ignore[method-assign]

    # ------------------------------------------------------------------ runs go out

    def know(self, task: TaskSpec, key: int) -> None:
        """A task that came from the driver, which knows it by this key."""
        self._keys[task] = key

    def submit(
        self,
        task: TaskSpec,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        wait_for: Any,
        scope: Scope,
    ) -> TaskFuture[Any]:
        """See `Dispatcher.submit`."""
        with shielded():
            number = self._numbers.next_number()
            call = Call(task, args, kwargs, number, copy_context(), scope)
            future: TaskFuture[Any] = TaskFuture(self, task, number, None, time.time(), SENT)
            self._futures[number] = _Reference(future, number, self._dropped)
            content = (args, kwargs, wait_for, TAGS.get(), self._worker.capture())

            def tell() -> None:
                if not future.done():
                    self._tell_run(task, future, call, content)

            self._when_foreign_ended(number, future, (args, kwargs, wait_for), tell)
        return future

    def _tell_run(
        self, task: TaskSpec, future: TaskFuture[Any], call: Call, content: tuple[Any, ...]
    ) -> None:
        try:
            self._tell(messages.SUBMITTED, task, call.number, 1, content)
        except BaseException as error:
            self._settle(future, FAILED, _told(error, call), time.time(), None, None)

    def submit_map(
        self,
        task: TaskSpec,
        positional: list[tuple[list[Any] | None, Any]],
        keywords: dict[str, tuple[list[Any] | None, Any]],
        size: int,
        wait_for: Any,
        scope: Scope,
    ) -> TaskFutureList[Any]:
        """See `Dispatcher.submit_map`."""
        if size == 0:
            return TaskFutureList()
        with shielded():
            return self._submit_map(task, positional, keywords, size, wait_for, scope)

    def _submit_map(
        self,
        task: TaskSpec,
        positional: list[tuple[list[Any] | None, Any]],
        keywords: dict[str, tuple[list[Any] | None, Any]],
        size: int,
        wait_for: Any,
        scope: Scope,
    ) -> TaskFutureList[Any]:
        base = self._numbers.reserve(size)
        record: MapRecord[Any] = MapRecord(
            self,
            task,
            base,
            size,
            [],
            None,
            copy_context(),
            scope,
        )
        record.unclaimed.clear()
        with LOCK:
            self._records.append((base, size, _Reference(record, base, self._dropped)))
        tags, options = TAGS.get(), self._worker.capture()

        def one_by_one() -> None:
            self._split[base] = size
            for index in range(size):
                args = tuple([v if c is None else c[index] for c, v in positional])
                kwargs = {name: v if c is None else c[index] for name, (c, v) in keywords.items()}
                call = Call(task, args, kwargs or None, base + index, record.context, scope)
                future = record.future(index)
                if not future.done():
                    self._tell_run(
                        task, future, call, (args, kwargs or None, wait_for, tags, options)
                    )
            self._tell_watchers()

        def tell() -> None:
            if record.failed:  # elements were cancelled before the driver was told
                one_by_one()
                return
            self._one_by_one[base] = one_by_one  # should the driver be unable to unpickle them
            try:
                self._tell(
                    messages.MAPPED,
                    task,
                    base,
                    size,
                    (positional, keywords, wait_for, tags, options),
                )
            except BaseException:
                # One element may be to blame: each goes by itself, and fails by itself.
                del self._one_by_one[base]
                one_by_one()

        self._when_foreign_ended(base, record, (positional, keywords, wait_for), tell)
        return TaskFutureList(record)

    def _tell(
        self, kind: int, task: TaskSpec, number: int, size: int, content: tuple[Any, ...]
    ) -> None:
        """Tells the driver of a run or a map.

        Args:
            kind: of the message.
            task: the task.
            number: the run's, or that of the map's first.
            size: how many runs.
            content: what the driver is to unpickle.

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
        with self._sending:
            self._tell_dropped(at_once=False)
            if packed.size > LARGE and worker.send_apart(kind, number, size, packed, (key, data)):
                self._keys[task] = key
                return
            if packed.buffers:
                with self.futures_travel():
                    plain = dumps(content)
            else:
                plain = packed.data
            worker.channel.send(kind, dumps((number, size, (key, data, plain, None))))
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
        if future._dispatcher is self:
            return run_numbered, (future._number,)
        return _itself, (future.state,)  # of a runner of this process; it has ended

    def _when_foreign_ended(
        self,
        number: int,
        told: TaskFuture[Any] | MapRecord[Any],
        value: Any,
        tell: Callable[[], None],
    ) -> None:
        """Calls `tell` once all runs of other runners of this process among some arguments have ended."""
        pending = {
            entry.future
            for entry in inputs.collect((value,), None)
            if isinstance(entry.future, TaskFuture)
            and entry.future._dispatcher is not self
            and not entry.future.done()
        }
        if not pending:
            tell()
            return
        self._untold.add(number)

        def ended() -> None:
            with LOCK:
                self._untold.discard(number)
            tell()
            with LOCK:
                if isinstance(told, TaskFuture):
                    told._details().waits_on = None
            self._tell_watchers()

        def one_ended(upstream: TaskFuture[Any]) -> None:
            with LOCK:
                pending.discard(upstream)
                finished = not pending
            if finished:
                ended()

        with LOCK:
            if isinstance(told, TaskFuture):
                told._details().waits_on = list(pending)
            pending -= {upstream for upstream in list(pending) if not upstream.watch(one_ended)}
            finished = not pending
        if finished:
            ended()

    def _tell_watchers(self) -> None:
        """Waits have to be told again: the driver knows of more runs."""
        for watcher in list(self.watchers):
            watcher.look_again()

    def _is_untold(self, future: TaskFuture[Any]) -> bool:
        """Whether the driver does not know of a run yet."""
        detail = future._detail
        if detail is not None and detail.origin is not None:
            return detail.origin[0].base in self._untold
        return future._number in self._untold

    def tell_dropped(self) -> None:
        """Tells of futures that are gone here, so that their values can go too."""
        if self._dropped:
            with self._sending:
                self._tell_dropped(at_once=True)

    def _tell_dropped(self, at_once: bool) -> None:
        """Tells of futures that are gone here; with `_sending` held."""
        dropped = self._dropped
        if not dropped or (len(dropped) < DROPPED_TOGETHER and not at_once):
            return
        numbers = [dropped.popleft().number for _ in range(len(dropped))]
        for number in numbers:
            self._futures.pop(number, None)
            self._one_by_one.pop(number, None)
        gone = set(numbers)
        for base in self._split.keys() & gone:
            numbers += range(base + 1, base + self._split.pop(base))
        self._worker.flush()  # outcomes may refer to runs whose futures are gone by now
        with LOCK:
            self._records = [entry for entry in self._records if entry[0] not in gone]
        self._worker.channel.send(messages.DROPPED, dumps(numbers))

    # ------------------------------------------------------------------ waits

    def new_wait(self) -> int:
        """The number of a wait that is about to be told: who waits has to be found by it before it is told."""
        return next(self._waits)

    def tell_waiting(
        self,
        wait: int,
        run: int | None,
        wanted: Wanted,
        *,
        timed: bool,
        at: tuple[int, int] | None = None,
        watcher: Any = None,
    ) -> None:
        """Tells the driver that a run is about to wait; it is to be told of the end too.

        Args:
            wait: the number of the wait.
            run: its number, if it is on a worker_thread.
            wanted: what it waits for.
            timed: whether the wait has a time limit.
            at: batch and position of a coroutine's run.
            watcher: its `look_again` is called when there is more to tell.
        """
        blocks = at is None
        if at is None and run is not None:
            at = self._worker.batch_of(run)
        with LOCK:
            numbers, maps = self._reach(wanted, watcher)
        with self._sending:
            self._tell_dropped(at_once=False)
            self._worker.channel.send(
                messages.WAITING, dumps((wait, at, numbers, maps, blocks, timed))
            )

    def _reach(self, wanted: Wanted, watcher: Any) -> tuple[list[int], list[tuple[int, int]]]:
        """Runs and maps of ours that a wait is for, or that runs of this process's other runners need for it."""
        numbers: list[int] = []
        maps: list[tuple[int, int]] = []
        seen: set[Any] = set()
        stack: list[Any] = list(reversed(wanted))
        while stack:
            item = stack.pop()
            if item in seen or item.done():
                continue
            seen.add(item)
            if isinstance(item, MapRecord):
                if item.dispatcher is self and item.base not in self._untold:
                    maps.append((item.base, item.size))
                    continue
                watching = item.wanted
                stack.extend(item.futures.values())
            else:
                if item._dispatcher is self and not self._is_untold(item):
                    numbers.append(item._number)
                    continue
                detail = item._details()
                if detail.wanted is None:
                    detail.wanted = []
                watching = detail.wanted
                upstreams = [entry.future for entry in detail.upstreams]
                stack.extend(u for u in upstreams if isinstance(u, TaskFuture))
                stack.extend(detail.waits_on or ())
            if watcher is not None and watcher not in watching:
                watching.append(watcher)
        return numbers, maps

    # ------------------------------------------------------------------ what futures ask

    def open_state(self, future: TaskFuture[Any]) -> State[Any]:
        """See `Answers`: the driver knows."""
        if self._is_untold(future):
            return State(StateType.PENDING, timestamp=future._since)
        state: State[Any] = self._ask("state", future._number)
        return state

    def cancel(self, future: TaskFuture[Any]) -> bool:
        """See `Dispatcher.cancel`."""
        if future._phase >= DONE:
            return False
        if self._is_untold(future):
            return self._settle(future, CANCELLED, None, time.time(), None, None)
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
        with shielded():
            self._worker.channel.send(messages.QUESTION, dumps((question, what, argument)))
            failed, value = answer.get()
        if failed:
            raise value
        return value

    # ------------------------------------------------------------------ what the driver says

    def take(self, message: Message) -> None:
        """A message about runs that were submitted here; on the receiver's thread."""
        if message.kind == messages.REPLY:
            question, failed, value = loads(message.body)
            answer = self._answers.pop(question, None)
            if answer is not None:
                answer.put((failed, value))
        elif message.kind == messages.SPLIT:
            one_by_one = self._one_by_one.pop(loads(message.body), None)
            if one_by_one is not None:
                one_by_one()
        elif message.kind == messages.RUNS_ENDED:
            for entry in self._worker.adopt_ended(message):
                self._take_end(*entry)
            with self._sending:
                self._tell_dropped(at_once=True)

    def _take_end(self, number: int, phase: int, since: float, name: str | None, data: Any) -> None:
        future = self._future(number)
        if future is None:
            return
        if self._one_by_one and future._detail is not None and future._detail.origin is not None:
            self._one_by_one.pop(future._detail.origin[0].base, None)
        state = None
        value: Any
        if not isinstance(data, bytes):
            value = self._worker.handle_of(data)
            if value is None:
                value = ResultLost(run_name=future.name, holder="the descriptor of its memory")
                phase = FAILED
        else:
            try:
                value, state = loads(data)
            except BaseException as error:
                value = SerializationError(
                    run_name=future.name,
                    path="result",
                    type_name="unknown",
                    problem=f"unpickling raised {repr_of(error)}",
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
    ) -> bool:
        """Ends a run as the driver says, and tells who waits for it; whether it was open."""
        waiters: list[Any] = []
        record: MapRecord[Any] | None = None
        others: list[Any] = []
        with LOCK:
            try:
                del future._open
            except AttributeError:
                return False
            detail = future._details()
            detail.state = state
            detail.name = name
            detail.waits_on = None
            detail.traceback = folded(value) if is_raisable(value) else None
            future._outcome = value
            future._since = since
            future._phase = phase
            waiters, detail.waiters = detail.waiters or [], None
            _look_again(detail.wanted)
            dependants, detail.dependants = detail.dependants, None
            for dependant, allow_failure in dependants or ():  # of other runners of this process
                others.append(dependant._dispatcher)
                dependant._dispatcher.scheduler.upstream_ended(dependant, future, allow_failure)
            if detail.origin is not None:
                record, index = detail.origin
                detail.origin = None  # a cycle, which would keep large values until it is collected
                if phase == COMPLETED:
                    record.values[index] = value
                record.since[index] = since
                first_failure = phase != COMPLETED and not record.failed
                record.failed = record.failed or phase != COMPLETED
                record.ended = next(record.counter) == record.size
                if not (record.ended or first_failure):
                    record = None
        for waiter in waiters:
            self._tell_waiter(waiter, future)
        for dispatcher in others:
            dispatcher.drain()
        if record is not None:
            with LOCK:
                waiters = list(record.waiters)
                if record.ended:
                    record.waiters.clear()
            for waiter in waiters:
                self._tell_waiter(waiter, record)
        return True

    def _tell_waiter(self, waiter: Callable[[Any], object], ended: Any) -> None:
        """One that fails must not keep others from being told."""
        try:
            waiter(ended)
        except BaseException as error:
            self._worker.failed(error)


class _Reference(weakref.ref):  # type: ignore[type-arg]  # it cannot be subscripted at run time
    """Refers to a future, or to a map's record, and joins the dropped ones when that is gone.

    In C alone: an interrupt of the run that drops the future would be lost in Python code here.
    """

    __slots__ = ("number",)
    number: int

    def __new__(cls, item: Any, number: int, dropped: deque[_Reference]) -> Self:
        reference = super().__new__(cls, item, dropped.append)
        reference.number = number
        return reference

    def __init__(self, item: Any, number: int, dropped: deque[_Reference]) -> None:
        super().__init__(item, dropped.append)  # type: ignore[call-arg]


def _look_again(wanted: list[Any] | None) -> None:
    if wanted:
        for watcher in wanted:
            watcher.look_again()
        wanted.clear()


def _itself(value: Any) -> Any:
    return value


def _told(error: BaseException, call: Call) -> BaseException:
    if isinstance(error, SerializationError):
        return error
    return culprit_of(call) or error
