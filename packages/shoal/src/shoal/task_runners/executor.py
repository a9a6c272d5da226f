"""Any `concurrent.futures.Executor` as a task runner: batches of runs as its work items.

    Scheduler ─ batch ─▶ pack ─▶ executor.submit(run_packed) ─▶ worker process
                                          │ done callback
    Scheduler ◀─ report ◀─ unpack ◀───────┘

An executor has no way to stop what runs, nor a way home from a worker: runs submitted inside a task run there, on a
thread of the worker's process. Log records come back with the report.

A done callback may be called by an executor that holds its own lock: of an item that failed with the executor, or was
cancelled with it. So such a callback never calls the executor, and never waits for a thread that might: the loss of a
batch is told on a thread of ours. May import `threads` and what lies above it.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import socket
import threading
import time
from collections import deque
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from shoal.calls import FAILED, Batch, Call, Outcome, Report
from shoal.context import SCOPE, TAGS, Scope, scope_of
from shoal.engine.batch_run import (
    Packed,
    pack_task,
    run_calls,
    run_packed,
    surroundings_of,
    unpack_report,
)
from shoal.engine.services import guarded
from shoal.exceptions import CrashedRun, InvalidOption, SerializationError, WorkerDied
from shoal.futures.run import TaskFuture
from shoal.logs import library_logger
from shoal.safely import in_words, is_error, kind_of, repr_of, text_of
from shoal.scheduling.backend import BackendEvents, SlotsBackend
from shoal.scheduling.batching import BatchPolicy
from shoal.scheduling.capabilities import Capabilities
from shoal.serialization import dumps
from shoal.task_runners.base import BaseTaskRunner
from shoal.task_runners.packing import calls_of, culprit_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.scheduling.blocked_run import BlockedRun
    from shoal.specs import TaskSpec

__all__ = ["ExecutorTaskRunner"]


class ExecutorBackend(SlotsBackend):
    """Work items of an executor.

    Args:
        make: gives the executor.
        owned: whether it is shut down at the end, and made again when it broke.
    """

    def __init__(self, make: Callable[[], Executor], owned: bool) -> None:
        self._make = make
        self._owned = owned
        self._executor = make()
        isolated = not isinstance(self._executor, ThreadPoolExecutor)
        self.capabilities = Capabilities(
            isolated=isolated,
            stops=False,
            tells_starts=False,
            recalls=False,
            keeps_values=not isolated,
            survives=False,
            nests=False,
            shares_context=not isolated,
            # Larger messages than a local pool's, as an executor's queues cost 50 to 100 µs an item; and one a slot,
            # as a queued item can neither be told from one that runs nor be taken back.
            policy=BatchPolicy(target=0.01, alone=0.03, cap=5000, window=1),
        )
        self._lock = threading.Lock()
        self._in_flight: dict[Future[Any], Batch] = {}
        # Batches that were lost, why and with which executor; told by a thread that lives while there are any.
        self._losses: deque[tuple[int, BaseException, Executor]] = deque()
        self._teller: threading.Thread | None = None
        self._tasks: dict[TaskSpec, tuple[bytes, bytes]] = {}
        self._scopes: dict[int, tuple[Scope | None, bytes]] = {}
        self._stopping = False
        self._nested: Any = None
        self._events: BackendEvents

    def start(self, events: BackendEvents) -> None:
        """See `Backend`."""
        self._events = events
        workers = getattr(self._executor, "_max_workers", None) or os.cpu_count() or 1
        events.slots(list(range(workers)))

    # -------------------------------------------------------------- sending

    def launch(self, batch: Batch) -> None:
        """See `Backend`."""
        calls, failed = calls_of(batch)
        packed: Packed | None = None
        if not self.capabilities.isolated:
            for call in calls.values():
                self._give_nested_runner(call)
        if self.capabilities.isolated:
            packed, unpackable = self._pack(calls)
            failed.update(unpackable)
        if failed:
            self._report(batch, list(failed), list(failed.values()), last=False)
        positions = [position for position in calls if position not in failed]
        if not positions:
            self._report(batch, [], [], last=True)
            return
        try:
            item, executor = self._submit(packed, calls, positions, batch)
        except (
            BaseException
        ) as error:  # what one raises that is broken or was shut down is its own affair
            self._events.lost(batch.number, _death(error))
            if not isinstance(error, Exception):
                raise
            return
        with self._lock:
            self._in_flight[item] = batch
        if packed is not None:  # a slot has one item, so it begins at once
            self._events.started(batch.number, positions[0])
        item.add_done_callback(
            guarded(lambda done: self._ended(done, batch, positions, executor), self._events.failed)
        )

    def _give_nested_runner(self, call: Call) -> None:
        """Runs submitted inside go to a runner of the worker's own: on this one they might wait for their own place."""
        if self._nested is None:
            self._nested = _nested_runner()
        scope = scope_of(
            self._nested.scope().dispatcher, call.scope.flow_run if call.scope is not None else None
        )
        call.scope = scope
        call.context.run(SCOPE.set, scope)

    def _submit(
        self, packed: Packed | None, calls: dict[int, Call], positions: list[int], batch: Batch
    ) -> tuple[Future[Any], Executor]:
        work: tuple[Any, ...] = (_run_on_worker, packed)
        if packed is None:

            def begins(index: int) -> None:
                self._events.started(batch.number, positions[index])

            def returns(index: int) -> None:
                self._events.returned(batch.number, positions[index])

            here = [calls[position] for position in positions]
            work = (run_calls, here, self.capabilities.policy.target * 4, begins, returns)
        executor = self._executor
        try:
            return executor.submit(*work), executor
        except BrokenExecutor:
            if not self._replace(executor):
                raise
            executor = self._executor
            return executor.submit(*work), executor

    def _replace(self, broken: Executor) -> bool:
        """Makes a new executor in place of a broken one, unless that is not ours; returns whether there is one."""
        with self._lock:
            if not self._owned or self._stopping:
                return False
            if self._executor is not broken:
                return True
            self._executor = self._make()
        # A broken pool terminates its workers and waits for them, for ever if one takes no notice.
        _kill_workers(broken)
        # From Python 3.12 on, that of a broken process pool waits for its workers' end, even with `wait=False`.
        threading.Thread(
            target=broken.shutdown,
            kwargs={"wait": False},
            name="shoal-executor-close",
            daemon=True,
        ).start()
        return True

    def _pack(self, calls: dict[int, Call]) -> tuple[Packed | None, dict[int, Outcome]]:
        tasks: dict[Any, int] = {}
        packed_tasks: list[tuple[bytes, bytes]] = []
        failed: dict[int, Outcome] = {}
        rows: dict[int, tuple[Any, ...]] = {}
        for position, call in calls.items():
            index = tasks.get(call.task)
            if index is None:
                try:
                    packed_tasks.append(self._packed_task(call.task))
                except SerializationError as error:
                    failed[position] = Outcome(FAILED, error)
                    continue
                index = tasks[call.task] = len(packed_tasks) - 1
            rows[position] = (
                index,
                call.number,
                call.attempt,
                call.args,
                call.kwargs,
                call.context.get(TAGS, frozenset()),
                call.earlier(),
            )
        try:
            data = dumps(list(rows.values()))
        except BaseException:
            for position in list(rows):
                culprit = culprit_of(calls[position])
                if culprit is not None:
                    failed[position] = Outcome(FAILED, culprit)
                    del rows[position]
            data = dumps(list(rows.values()))
        if not rows:
            return None, failed
        scope = calls[next(iter(rows))].scope
        return Packed(
            packed_tasks, self._surroundings(scope), data, self.capabilities.policy.target * 4
        ), failed

    def _packed_task(self, task: TaskSpec) -> tuple[bytes, bytes]:
        packed = self._tasks.get(task)
        if packed is None:
            packed = self._tasks[task] = pack_task(task)
        return packed

    def _surroundings(self, scope: Scope | None) -> bytes:
        known = self._scopes.get(id(scope))
        if known is None:
            known = self._scopes[id(scope)] = (scope, surroundings_of(scope))
        return known[1]

    # -------------------------------------------------------------- what comes back

    def _ended(
        self, item: Future[Any], batch: Batch, positions: list[int], executor: Executor
    ) -> None:
        with self._lock:
            self._in_flight.pop(item, None)
        try:
            result = item.result()
            report = unpack_report(batch.number, result) if isinstance(result, bytes) else result
        except BaseException as error:
            self._lost(batch.number, error, executor)
            return
        if isinstance(report, BaseException):
            self._unpacking_failed(batch, positions, report)
            return
        if isinstance(report, tuple):
            values, ends, seconds = report
            report = Report(batch.number, (), values, ends, seconds)
        report.positions = positions[: len(report.values)]
        self._events.reported(report)

    def _lost(self, number: int, error: BaseException, executor: Executor) -> None:
        """Sees to it that the loss of a batch is told, by another thread (see the module)."""
        with self._lock:
            stopping = self._stopping
            if not stopping:
                self._losses.append((number, error, executor))
            if self._teller is None and not stopping:
                self._teller = threading.Thread(
                    target=guarded(self._tell_losses, self._events.failed),
                    name="shoal-executor-losses",
                    daemon=True,
                )
                self._teller.start()
        if stopping:  # every run has ended, and nothing is sent again
            self._events.lost(number, _death(error))

    def _tell_losses(self) -> None:
        while True:
            with self._lock:
                if not self._losses:
                    self._teller = None
                    return
                number, error, executor = self._losses.popleft()
            if isinstance(error, BrokenExecutor):
                # Before anything is sent again: `submit` of a process pool that has just broken waits for its workers.
                # Where none can be made, `launch` will hear of it again, and tell it to the run it is about.
                with contextlib.suppress(Exception):
                    self._replace(executor)
            try:
                self._events.lost(number, _death(error))
            except BaseException as failure:  # the next one is to be told all the same
                self._events.failed(failure)

    def _unpacking_failed(self, batch: Batch, positions: list[int], error: BaseException) -> None:
        """The worker could not unpack the batch: the run that is to blame is found by sending each alone."""
        if len(positions) > 1:
            self._events.split(batch.number)
            return
        told = SerializationError(
            path="arguments",
            type_name=kind_of(error),
            problem=f"unpickling on the worker raised {repr_of(error)}",
        )
        told.__cause__ = error
        self._report(batch, positions, [Outcome(FAILED, told)], last=True)

    def _report(self, batch: Batch, positions: list[int], values: list[Any], last: bool) -> None:
        now = time.time()
        self._events.reported(
            Report(batch.number, positions, values, [now] * len(values), 0.0, last=last)
        )

    # -------------------------------------------------------------- the rest of a backend

    def stop(self, grace: float) -> None:
        """See `Backend`."""
        with self._lock:
            self._stopping = True
            teller = self._teller
        if teller is not None:
            teller.join(grace)
        if self._nested is not None:
            self._nested.__exit__(None, None, None)
        if not self._owned:
            with self._lock:
                items = list(self._in_flight)
            for item in items:
                item.cancel()
            return
        executor = self._executor
        # `shutdown` has no time limit of its own, so it waits on a thread that can be left.
        closing = threading.Thread(
            target=_shut_down,
            args=(executor,),
            name="shoal-executor-close",
            daemon=True,
        )
        closing.start()
        closing.join(grace)
        if closing.is_alive():
            library_logger().warning(
                "The executor did not shut down in %g s; its %d processes are ended",
                grace,
                _kill_workers(executor),
            )
            closing.join(1.0)

    def interrupt(self, run: TaskFuture[Any]) -> None:
        """See `Backend`: an executor cannot."""

    def recall(self, batch: Batch) -> None:
        """See `Backend`: a queued item cannot be taken back."""

    def slot_gone(self, slot: int) -> None:
        """See `Backend`: there are no spare slots."""

    def has_begun(self, run: TaskFuture[Any]) -> bool:
        """See `Backend`."""
        return False

    def refuse(self, blocked_run: BlockedRun, error: Exception) -> None:
        """See `Backend`: waits inside runs are not known here."""

    def force(self, run: TaskFuture[Any]) -> None:
        """See `Backend`: an executor cannot."""


def _shut_down(executor: Executor) -> None:
    """Ends an executor that nobody waits for any more, and waits for its workers."""
    parameters = inspect.signature(executor.shutdown).parameters
    if "cancel_futures" in parameters:
        executor.shutdown(wait=True, cancel_futures=True)
    else:  # loky's, and others that are older than the argument
        executor.shutdown(wait=True)


def _kill_workers(executor: Executor) -> int:
    """Ends the processes of an executor, as far as it has any and shows them; returns how many."""
    processes = list((getattr(executor, "_processes", None) or {}).values())
    for process in processes:
        with contextlib.suppress(ValueError):  # it has been joined and closed meanwhile
            try:
                process.kill()
            except AttributeError:  # loky's know one way only
                process.terminate()
    return len(processes)


def _death(error: BaseException) -> Callable[[str], BaseException]:
    """What the runs of a lost batch end with, given their names."""

    def of(run_name: str) -> BaseException:
        kind = type(error)
        if issubclass(kind, BrokenExecutor):
            message = text_of(error) or "a worker of the executor died"
        elif issubclass(kind, CancelledError):
            message = "the executor was shut down"
        elif is_error(error):
            return error
        else:
            message = f"the executor raised {in_words(error)}"
            return CrashedRun(run_name=run_name, message=message, cause=error)
        return WorkerDied(
            run_name=run_name, host=socket.gethostname(), message=message, cause=error
        )

    return of


def _run_on_worker(packed: Packed) -> bytes:
    """What the executor's worker is given to call."""
    return run_packed(packed, _nested_runner)


def _nested_runner() -> Any:
    """Takes the runs that are submitted inside others on a worker."""
    from shoal.task_runners.threads import ThreadPoolTaskRunner

    return ThreadPoolTaskRunner(max_workers=1).__enter__()


class ExecutorTaskRunner(BaseTaskRunner):
    """Runs tasks on any `concurrent.futures.Executor`: a ProcessPoolExecutor, loky's, an MPI pool.

    Short runs travel in batches. What is beyond an executor: stopping a run that executes (a cancelled run is settled
    at once, its work goes on), and nesting on other workers (runs submitted inside a task run in its process).
    At its time limit a run is stopped where it runs, and told; one in another process that is inside C code then is told
    when that returns.

    Args:
        executor: an executor, used as it is and never shut down; or its class, or any callable that gives one, which
            is called when the runner is entered; that one is shut down when it is left.
        options: keyword arguments for the callable.

    Raises:
        InvalidOption: it is neither.

    Examples:
        >>> runner = ExecutorTaskRunner(ProcessPoolExecutor, max_workers=4)
    """

    name = "executor"

    def __init__(self, executor: Executor | Callable[..., Executor], **options: Any) -> None:
        super().__init__()
        if not isinstance(executor, Executor) and not callable(executor):
            raise InvalidOption(
                where="ExecutorTaskRunner",
                option="executor",
                value=executor,
                problem="an executor, or a callable that gives one, is needed",
            )
        if isinstance(executor, Executor) and options:
            raise InvalidOption(
                where="ExecutorTaskRunner",
                option=next(iter(options)),
                value=next(iter(options.values())),
                problem="options go with an executor's class, not with one that exists",
            )
        self.executor = executor
        self.options = options

    def settings(self) -> dict[str, Any]:
        """See `BaseTaskRunner`."""
        return {"executor": self.executor, **self.options}

    def make_backend(self) -> tuple[ExecutorBackend, int | None]:
        """See `BaseTaskRunner`."""
        executor = self.executor
        if isinstance(executor, Executor):
            return ExecutorBackend(lambda: executor, owned=False), None
        return ExecutorBackend(lambda: executor(**self.options), owned=True), None
