"""What becomes of batches whose Ray task has ended, or whose worker has gone.

    Ray says that a task has ended ─┬─ by itself: what it returned exists; reports that waited for that are passed on
                                    ├─ cancelled, and was asked back: it was not begun
                                    └─ otherwise ─┐
    a worker has hung up ─────────────────────────┴─▶ the worker's record: what had begun?

        in the record          what has begun and was not reported is CRASHED; the rest is sent again
        no record to be had    whatever was there may have run: CRASHED, and says so
        worker never spoke     it was not begun: sent again, at no cost in retries

Everything here happens on the I/O thread, but for the reading of records of other nodes, which may take a while. May
import `members`, `handles`, `natives` and the core's `remote` room.
"""

from __future__ import annotations

import socket
import threading
import time
from itertools import count
from typing import TYPE_CHECKING, Any

import ray
from ray import exceptions as of_ray
from shoal.calls import NOT_READY
from shoal.engine.services import TIMERS
from shoal.exceptions import ResultLost, SerializationError, UpstreamTaskError, WorkerDied
from shoal.task_runners.remote.files import is_own
from shoal.task_runners.remote.record import begun_in, read_record

from shoal_ray.environment import explain_import
from shoal_ray.natives import Borrowed

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.engine.services import Timer

    from shoal_ray.backend import RayBackend
    from shoal_ray.members import RayMember, RaySent

__all__ = ["Deaths"]

#: Seconds that Ray has to say how a worker died that has hung up, and a worker to hang up of whose death Ray speaks.
WORDS_WITHIN = 3.0
#: Seconds that another node has to read a record.
READ_WITHIN = 8.0
#: Seconds that a runner that is left waits for that.
JOINED_WITHIN = 2.0

#: How Ray says that a task's worker has gone.
_CRASHES: tuple[type[BaseException], ...] = (
    of_ray.WorkerCrashedError,
    of_ray.NodeDiedError,
    of_ray.LocalRayletDiedError,
    of_ray.OutOfMemoryError,
    of_ray.RaySystemError,
)
#: How Ray says that a value is nowhere.
_LOSSES: tuple[type[BaseException], ...] = (
    of_ray.ObjectLostError,
    of_ray.ReferenceCountingAssertionError,
)


class Deaths:
    """See the module.

    Args:
        backend: of the runner.
    """

    def __init__(self, backend: RayBackend) -> None:
        self._backend = backend
        self._readers: list[threading.Thread] = []
        self._timers: dict[int, Timer] = {}
        self._numbers = count()

    def _later(self, action: Callable[[], None]) -> None:
        """Does something on the I/O thread when what a worker has said last must have come."""
        number = next(self._numbers)

        def fire() -> None:
            self._timers.pop(number, None)
            self._backend.link.do(action)

        self._timers[number] = TIMERS.after(WORDS_WITHIN, fire)

    def close(self) -> None:
        """Waits for the readers of records, and for nothing else; the I/O thread has ended."""
        for timer in list(self._timers.values()):
            timer.cancel()
        self._timers.clear()
        deadline = time.monotonic() + JOINED_WITHIN
        for reader in self._readers:
            reader.join(max(deadline - time.monotonic(), 0.0))

    # ------------------------------------------------------------------ what Ray says of its tasks

    def await_end(self, sent: RaySent) -> None:
        """A batch was given to Ray."""
        link = self._backend.link

        def ended(done: Any) -> None:
            if done.exception() is not None:
                for reference in sent.values:  # Ray complains of errors that nobody has seen
                    reference.future().add_done_callback(lambda seen: seen.exception())
            link.do(lambda: self._ray_ended(sent, done))

        assert sent.status is not None  # it was given just now
        sent.status.future().add_done_callback(ended)

    def _ray_ended(self, sent: RaySent, done: Any) -> None:
        """A batch's Ray task has ended."""
        backend = self._backend
        if backend.stopping:
            return
        try:
            begun = done.result()
        except Exception as error:  # of Ray's, or Ray Client's
            self._failed(sent, error)
            return
        sent.has_ended = True
        if isinstance(begun, str):  # it could not reach us
            self._lost(sent, lambda name: backend.died(name, begun), None)
        elif begun:
            for report in sent.held:
                backend.listener.reported(sent, report)
            sent.held.clear()
            if sent.member is None:  # what it said is on its way, or was lost with its connection
                self._later(lambda: self._unheard(sent))
        elif sent.withdrawn:
            backend.withdrawn(sent.batch.number)
        else:
            backend.send_again(sent)

    def _unheard(self, sent: RaySent) -> None:
        """A batch's Ray task has ended by itself, and its worker has never spoken of it."""
        if sent.member is None:
            text = "its worker has run it, and what it said was lost"
            self._lost(sent, lambda name: self._backend.died(name, text), None)

    def _failed(self, sent: RaySent, error: BaseException) -> None:
        backend = self._backend
        with backend.lock:
            if not backend.is_open(sent):
                return
            member = sent.member
        sent.error = error
        if _is_cancel(error) and not sent.is_killed and member is None:
            if sent.withdrawn:
                backend.withdrawn(sent.batch.number)
            elif any(_is_borrowed(item) for item in sent.stored):
                self._not_begun(sent, error)  # one of these was cancelled
            else:
                backend.send_again(sent)
        elif member is None and explain_import(error) is not None:
            self._not_begun(sent, error)  # and would not begin if it were sent again
        elif isinstance(error, _CRASHES) or sent.is_killed:
            if member is None:
                # What it said last may still be on its way.
                self._later(lambda: self._silent(sent))
            elif member.has_gone:
                self._look_into(member)
            else:
                self._later(lambda: self.worker_gone(member))
        elif member is not None:
            text = f"the Ray task of its batch failed: {error!r}"
            self._lost(sent, lambda name: backend.died(name, text, error), None)
        else:
            self._not_begun(sent, error)

    def _silent(self, sent: RaySent) -> None:
        """A batch was lost with a worker that has never spoken of it."""
        backend = self._backend
        if sent.member is not None or not backend.is_open(sent):
            return
        error = sent.error
        if isinstance(error, (of_ray.OutOfMemoryError, of_ray.NodeDiedError)):
            text = f"Ray says: {error}"
            self._lost(sent, lambda name: backend.died(name, text, error), None)
        elif any(_is_borrowed(item) for item in sent.stored):
            backend.calls.do(lambda: self._look_at_arguments(sent))
        else:
            backend.send_again(sent)

    def _look_at_arguments(self, sent: RaySent) -> None:
        """Finds out whether it was a task of Ray's among a batch's arguments that failed; it may take a while."""
        backend = self._backend
        has_failed = any(_has_failed(item.reference) for item in sent.stored if _is_borrowed(item))

        def go_on() -> None:
            if not backend.is_open(sent):
                return
            if has_failed and sent.error is not None:
                self._not_begun(sent, sent.error)
            else:
                backend.send_again(sent)

        backend.link.do(go_on)

    def _lost(
        self,
        sent: RaySent,
        error: Callable[[str], BaseException],
        maybe_started: list[int] | None,
    ) -> None:
        backend = self._backend
        with backend.lock:
            if not backend.is_open(sent):
                return
            backend.forget(sent)
        backend.events.lost(sent.batch.number, error, maybe_started)

    def _not_begun(self, sent: RaySent, error: BaseException) -> None:
        """The Ray task of a batch could not begin: of its arguments, or of what it asks for."""
        backend = self._backend
        number = sent.batch.number
        with backend.lock:
            backend.forget(sent)
        cause = getattr(error, "cause", None)
        cause = cause if isinstance(cause, BaseException) else error
        mismatch = explain_import(error)
        if mismatch is not None:
            backend.fail(sent, lambda name: mismatch)
        elif isinstance(error, (of_ray.RuntimeEnvSetupError, of_ray.TaskUnschedulableError)):
            text = f"Ray could not begin it: {error}"
            backend.events.lost(number, lambda name: backend.died(name, text, error))
        elif len(sent.batch) > 1:
            backend.events.split(number)
        elif isinstance(cause, _LOSSES) and not all(_is_borrowed(item) for item in sent.stored):
            holder = next(item.place for item in sent.stored if not _is_borrowed(item))
            backend.fail(sent, lambda name: ResultLost(run_name=name, holder=holder or "Ray"))
        elif any(_is_borrowed(item) for item in sent.stored):
            upstream = UpstreamTaskError(
                run_name=None, task_name="(a reference of Ray's)", state="Failed", cause=cause
            )
            backend.fail(sent, lambda name: upstream, NOT_READY)
        else:
            told = SerializationError(
                path="arguments",
                type_name=type(cause).__qualname__,
                problem=f"its Ray task could not begin: {error}",
            )
            told.__cause__ = error
            backend.fail(sent, lambda name: told)

    # ------------------------------------------------------------------ workers go

    def worker_gone(self, member: RayMember) -> None:
        """A worker has hung up."""
        if member.has_gone:
            return
        member.has_gone = True
        backend = self._backend
        with backend.lock:
            backend.members.pop(member.number, None)
            tasks = self._tasks_at(member)
        if not tasks:
            self._bury(member, {})  # it was idle, and has ended for that reason
            if member.hello.get("host") == socket.gethostname() and member.hello["record"]:
                read_record(member.hello["record"])  # nobody else will remove it
        elif all(sent.error is not None for sent in tasks):
            self._look_into(member)
        else:
            self._later(lambda: self._look_into(member))

    def _tasks_at(self, member: RayMember) -> list[RaySent]:
        """Ray tasks that a worker has begun; with the lock held."""
        sent = self._backend.sent
        return [
            found
            for number in member.begun
            if (found := sent.get(number)) is not None and found.is_task
        ]

    def _look_into(self, member: RayMember) -> None:
        """Reads what a worker has left behind, and then sees to its batches."""
        if member.buried or member.is_read:
            return
        member.is_read = True
        path = member.hello.get("record")
        if path is None:
            self._bury(member, None)
        elif member.hello["host"] == socket.gethostname() and is_own(path):
            self._bury(member, begun_in(read_record(path)))
        else:
            self._read_elsewhere(member, path)

    def _read_elsewhere(self, member: RayMember, path: str) -> None:
        """Has a worker's record read on its node."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        node: str = member.hello["node"]
        backend = self._backend

        def read() -> None:
            found: dict[int, list[int]] | None = None
            try:
                where = NodeAffinitySchedulingStrategy(node, soft=False)
                reader = ray.remote(num_cpus=0, max_retries=0)(read_record)
                reference = reader.options(scheduling_strategy=where).remote(path)
                found = begun_in(ray.get(reference, timeout=READ_WITHIN))
            except of_ray.RayError:
                found = None  # the node has gone too
            backend.link.do(lambda: self._bury(member, found))

        thread = threading.Thread(target=read, name="shoal-ray-record", daemon=True)
        self._readers = [reader for reader in self._readers if reader.is_alive()]
        self._readers.append(thread)
        thread.start()

    def _bury(self, member: RayMember, begun: dict[int, list[int]] | None) -> None:
        """Ends what a worker had begun, and has the rest sent again."""
        backend = self._backend
        if member.buried:
            return
        with backend.lock:
            member.buried = True
            there = [s for number in list(member.begun) if (s := backend.sent.get(number))]
        waited = {helper.run.name for helper in member.waits.values() if helper.run is not None}
        error = self._error_of(member, waited, there, unknown=begun is None)
        for sent in there:
            positions = None if begun is None else begun.get(sent.batch.number, [])
            self._lost(sent, error, positions)
        for helper in list(member.waits.values()):
            backend.events.resumed(helper)
        member.waits.clear()
        member.runs.clear()
        member.maps.clear()

    def _error_of(
        self, member: RayMember, waited: set[str], there: list[RaySent], *, unknown: bool
    ) -> Callable[[str], BaseException]:
        host, pid = member.hello.get("host"), member.hello.get("pid")
        cause = next((sent.error for sent in there if sent.error is not None), None)

        def error(run_name: str) -> BaseException:
            message = None
            if member.stopped_for is not None and run_name != member.stopped_for:
                does = "waited" if run_name in waited else "ran"
                message = f"it {does} on a Ray worker that was killed to stop task run {member.stopped_for!r}"
            elif run_name in waited:
                message = "it waited on a Ray worker that died while it ran something else"
            elif isinstance(cause, (of_ray.OutOfMemoryError, of_ray.NodeDiedError)):
                message = f"Ray says: {cause}"
            elif unknown:
                message = f"Ray worker {pid} died; the run may have run, as nothing tells what had begun there"
            return WorkerDied(
                run_name=run_name,
                host=host or "(a Ray worker)",
                pid=pid,
                message=message,
                cause=cause,
            )

        return error


def _has_failed(reference: Any) -> bool:
    """Whether Ray's reference will never have a value."""
    ready, _ = ray.wait([reference], timeout=0, fetch_local=False)
    if not ready:
        return False
    try:
        ray.get(reference, timeout=READ_WITHIN)
    except of_ray.GetTimeoutError:
        return False
    except Exception:  # whatever its task has raised
        return True
    return False


def _is_borrowed(stored: Any) -> bool:
    return isinstance(stored, Borrowed)


def _is_cancel(error: BaseException) -> bool:
    """Whether a Ray task was cancelled: also as it began, while Ray looked for its function."""
    cause = getattr(error, "cause", None)
    return isinstance(error, of_ray.TaskCancelledError) or isinstance(
        cause, of_ray.TaskCancelledError
    )
