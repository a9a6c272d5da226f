"""The driver's dispatcher, as runs on a worker see it.

A run that submits others tells the driver of them; their futures here are settled by what the driver says in turn.
They are numbered here, from the worker's own block, so that `submit` returns at once.

    submit, map ──▶ driver's scheduler ──▶ some worker ──▶ driver ──runs ended──▶ futures here

Futures among the arguments travel as run numbers and become the driver's futures there. The driver keeps a run that
was submitted here for as long as its future lives here.

May import `messages`, `parcels`, `submitted`, `untold` and what lies above task runners.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import contextmanager
from contextvars import copy_context
from functools import cached_property
from itertools import count
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NoReturn

from shoal import names
from shoal.calls import CANCELLED, COMPLETED, DONE, FAILED, SENT, Call
from shoal.context import LOCK, TAGS
from shoal.engine.batch_run import pack_task
from shoal.engine.interrupt import shielded
from shoal.exceptions import ResultLost, RunnerStateError, SerializationError
from shoal.futures import TaskFuture, TaskFutureList
from shoal.futures.awaiting import task_here
from shoal.futures.blocking import ALL, BEARERS, Decision
from shoal.futures.maps import MapRecord
from shoal.futures.run import TRAVEL
from shoal.safely import is_raisable, repr_of
from shoal.scheduling.answers import NOT_HERE, Answers
from shoal.scheduling.wait_graph import tell_wanting
from shoal.serialization import dumps, loads
from shoal.states import State, StateType
from shoal.task_runners.remote import messages
from shoal.task_runners.remote.parcels import LARGE, pack, run_numbered
from shoal.task_runners.remote.untold import (
    Submitted,
    Untold,
    itself,
    run_here,
    submitter,
    told,
)
from shoal.tracebacks import folded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shoal.context import Scope
    from shoal.futures.awaiting import CalledPlace
    from shoal.futures.blocking import Wanted
    from shoal.futures.side_threads import RunAround
    from shoal.scheduling.answers import CallingHere
    from shoal.specs import TaskSpec
    from shoal.task_runners.remote.limit_slots import RemoteKeeper
    from shoal.task_runners.remote.messages import Message
    from shoal.task_runners.remote.worker import RemoteWorker

__all__ = ["RemoteDispatcher"]


class RemoteDispatcher(Answers):
    """Takes runs that are submitted inside runs of this worker.

    Args:
        worker: the worker.
        numbers: gives runs their numbers: `next_number` and `reserve`.

    Attributes:
        refusals: by wait, the error that the driver answered it with.
        untold: runs that the driver does not know of yet.
    """

    runner_name = "the runner of the enclosing flow"
    closed = False
    gate = None
    scheduler = None  # it is the driver's: no thread of this process can run these runs itself

    def __init__(self, worker: RemoteWorker, numbers: Any = names) -> None:
        super().__init__()
        self._numbers = numbers
        self.refusals: dict[int, Exception] = {}
        self._worker = worker
        self._keys: dict[Any, int | bytes] = {}
        self._dropped: deque[Any] = deque()
        self._submitted = Submitted(self._dropped)
        self.untold = Untold(self)
        self._one_by_one: dict[int, Callable[[], None]] = {}
        self._waits = count(1)
        self._questions = count(1)
        self._answers: dict[int, SimpleQueue[tuple[bool, Any]]] = {}
        self._sending = threading.Lock()

    @cached_property
    def keeper(self) -> RemoteKeeper:
        """Where runs here take slots of limits."""
        from shoal.task_runners.remote.limit_slots import RemoteKeeper

        return RemoteKeeper(self._worker.channel)

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
            self._submitted.add(future, run_here())
            content = (args, kwargs, wait_for, TAGS.get(), self._worker.capture(), submitter())

            def tell() -> None:
                if not future.done():
                    self._tell_run(task, future, call, content)

            self.untold.when_foreign_ended(number, future, (args, kwargs, wait_for), tell)
        return future

    def _tell_run(
        self, task: TaskSpec, future: TaskFuture[Any], call: Call, content: tuple[Any, ...]
    ) -> None:
        try:
            self._tell(messages.SUBMITTED, task, call.number, 1, content)
        except BaseException as error:
            self._settle(future, FAILED, told(error, call), time.time(), None, None)

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
            self._submitted.add_map(record, run_here())
            more = TAGS.get(), self._worker.capture(), submitter()

            def one_by_one() -> None:
                self._submitted.split(record)
                for index in range(size):
                    args = tuple([v if c is None else c[index] for c, v in positional])
                    kwargs = {
                        name: v if c is None else c[index] for name, (c, v) in keywords.items()
                    }
                    call = Call(task, args, kwargs or None, base + index, record.context, scope)
                    future = record.future(index)
                    if not future.done():
                        self._tell_run(task, future, call, (args, kwargs or None, wait_for, *more))
                self.untold.tell_watchers()

            def tell() -> None:
                if record.failed:  # elements were cancelled before the driver was told
                    one_by_one()
                    return
                self._one_by_one[base] = one_by_one  # should the driver be unable to unpickle them
                try:
                    content = (positional, keywords, wait_for, *more)
                    self._tell(messages.MAPPED, task, base, size, content)
                except BaseException:
                    # One element may be to blame: each goes by itself, and fails by itself.
                    del self._one_by_one[base]
                    one_by_one()

            self.untold.when_foreign_ended(base, record, (positional, keywords, wait_for), tell)
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
        return itself, (future.state,)  # of a runner of this process; it has ended

    def tell_dropped(self) -> None:
        """Tells of futures that are gone here, so that their values can go too."""
        if self._dropped:
            with self._sending:
                self._tell_dropped(at_once=True)

    def _tell_dropped(self, at_once: bool) -> None:
        """Tells of futures that are gone here; with `_sending` held."""
        numbers = self._submitted.take_dropped(at_once=at_once)
        if not numbers:
            return
        for number in numbers:
            self._one_by_one.pop(number, None)
        self._worker.flush()  # outcomes may refer to runs whose futures are gone by now
        self._worker.channel.send(messages.DROPPED, dumps(numbers))

    # ------------------------------------------------------------------ places of caps

    def calling(self, task: TaskSpec, *, streams: bool = False) -> CallingHere:
        """See `Answers`."""
        from shoal.task_runners.remote.calling import calling

        assert (
            task.cap is not None
        )  # what a run calls is a part of it, as far as the flow's cap goes
        return calling(self._worker, task.cap, task.name, streams=streams)

    def place_of_call(self, task: TaskSpec) -> CalledPlace:
        """See `Answers`."""
        from shoal.task_runners.remote.calling import CallPlace

        assert task.cap is not None  # as above
        return CallPlace(self._worker, task.cap)

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
        until: int = ALL,
        at: tuple[int, int | None] | None = None,
        watcher: Any = None,
        beside: bool = False,
    ) -> None:
        """Tells the driver that a run is about to wait; it is to be told of the end too.

        Args:
            wait: the number of the wait.
            run: its number, if it is on a worker_thread.
            wanted: what it waits for.
            until: what the wait lasts until; see `Wait`.
            at: batch and position of a coroutine's run, or (`beside`) of one that has started the thread that waits.
            watcher: its `look_again` is called when there is more to tell.
        """
        blocks = at is None
        if at is None and run is not None:
            at = self._worker.batch_of(run)
        lends = Decision.awaited(wanted)
        asked = self.keeper.known_by(wanted[0]) if lends else None
        with LOCK:
            numbers, maps = self.untold.reach(wanted, watcher)
            bearer = BEARERS.get(task_here() or threading.current_thread()) if BEARERS else None
            staying = [held for held in bearer.held if held.stays] if bearer is not None else []
            kept = self.keeper.known(staying)
        with self._sending:
            self._tell_dropped(at_once=False)
            self._worker.channel.send(
                messages.WAITING,
                dumps((wait, at, numbers, maps, blocks, until, lends, asked, kept, beside)),
            )

    def run_around(self, number: int, *, certain: bool) -> RunAround | None:
        """See `Answers`."""
        from shoal.task_runners.remote.side_waits import run_around

        return run_around(self._worker.worker_threads, number, certain=certain)

    def submitter_of(self, item: TaskFuture[Any] | MapRecord[Any]) -> int | None:
        """See `Answers`."""
        return self._submitted.submitter_of(item)

    # ------------------------------------------------------------------ what futures ask

    def open_state(self, future: TaskFuture[Any]) -> State[Any]:
        """See `Answers`: the driver knows."""
        if self.untold.holds(future):
            return State(StateType.PENDING, timestamp=future._since)
        state: State[Any] = self._ask("state", future._number)
        return state

    def cancel(self, future: TaskFuture[Any]) -> bool:
        """See `Dispatcher.cancel`."""
        if future._phase >= DONE:
            return False
        if self.untold.holds(future):
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
        future = self._submitted.find(number)
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
            tell_wanting(detail.wanting)
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
