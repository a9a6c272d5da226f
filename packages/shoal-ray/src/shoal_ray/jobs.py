"""What Ray says of its tasks, in the words of the ledger; and what workers that have gone have left behind.

    Ray's task has ended      how: see `JobEnd`
    a worker has hung up      its record is read where it is: by this process, or by a Ray task on its node

Everything here happens on the I/O thread, but for the reading of records of other nodes, and the look at arguments, which
may take a while. May import `members`, `handles`, `natives` and the core's `remote` room.
"""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import ray
from ray import exceptions as of_ray
from shoal.calls import FAILED, NOT_READY
from shoal.engine.services import guarded
from shoal.exceptions import ClusterFailed, ResultLost, SerializationError, UpstreamTaskError
from shoal.safely import kind_of, repr_of, text_of
from shoal.scheduling.in_flight import Departure, JobEnd
from shoal.task_runners.remote.files import is_own
from shoal.task_runners.remote.record import outcomes_in, read_record

from shoal_ray.environment import explain_import
from shoal_ray.handles import Kept
from shoal_ray.natives import Borrowed

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal_ray.backend import RayBackend
    from shoal_ray.members import RayMember, RaySent

__all__ = ["Jobs"]

#: Seconds that another node has to read a record.
READ_WITHIN = 8.0
#: Seconds that a runner that is left waits for that.
JOINED_WITHIN = 2.0
#: Seconds that it waits for Ray to tell the ends of its tasks, whose runs have ended or were cancelled.
TOLD_WITHIN = 5.0

#: How Ray says that a task's worker has gone.
_CRASHES: tuple[type[BaseException], ...] = (
    of_ray.WorkerCrashedError,
    of_ray.NodeDiedError,
    of_ray.LocalRayletDiedError,
    of_ray.OutOfMemoryError,
    of_ray.RaySystemError,
)
#: What a cancel that comes too late for its task does to the next one where Ray ignores SIGINT, as all does that a shell
#: starts in the background: Ray calls the handler that it had put its own in place of.
_DEAF = "'Handlers' object is not callable"
#: How Ray says that it may have begun, whatever was heard of it.
_UNHEARD: tuple[type[BaseException], ...] = (of_ray.OutOfMemoryError, of_ray.NodeDiedError)
#: How Ray says that a value is nowhere.
_LOSSES: tuple[type[BaseException], ...] = (
    of_ray.ObjectLostError,
    of_ray.ReferenceCountingAssertionError,
)


class Jobs:
    """See the module.

    Args:
        backend: of the runner.
    """

    def __init__(self, backend: RayBackend) -> None:
        self._backend = backend
        self._readers: list[threading.Thread] = []
        self._awaited = 0  # references whose ends Ray is still to tell
        self._told = threading.Condition()

    def close(self) -> None:
        """Waits for the readers of records, and for what Ray is still to tell; the I/O thread has ended.

        Ray tells it in a thread of its own, where it makes references and drops them: if it is shut down just then, it
        ends the process ("the core worker has already been shutdown").
        """
        deadline = time.monotonic() + JOINED_WITHIN
        for reader in self._readers:
            reader.join(max(deadline - time.monotonic(), 0.0))
        if not self._backend.watch.has_lost:
            with self._told:
                self._told.wait_for(lambda: not self._awaited, TOLD_WITHIN)

    # ------------------------------------------------------------------ Ray's tasks

    def await_end(self, sent: RaySent) -> None:
        """A batch was given to Ray."""
        link = self._backend.link

        def ended(done: Any) -> None:
            if done.exception() is not None:
                for reference in sent.values:  # Ray complains of errors that nobody has seen
                    self._once_there(reference, lambda seen: seen.exception())
            link.do(lambda: self._ended(sent, done))

        assert sent.status is not None  # it was given just now
        self._once_there(sent.status, ended)

    def await_start(self, answer: Any) -> None:
        """The relay was made.

        Args:
            answer: a reference of what it says once it has started.
        """

        def started(done: Any) -> None:
            error = done.exception()
            if error is not None:
                problem = f"its actor for waiting runs could not be started: {text_of(error)}"
                failure = ClusterFailed(cluster="Ray", problem=problem, was_started=True)
                failure.__cause__ = error
                self._backend.failed(failure)

        self._once_there(answer, started)

    def _once_there(self, reference: Any, action: Callable[[Any], object]) -> None:
        """Calls a function with a reference's future once that is done, in a thread of Ray's."""

        def told(done: Any) -> None:
            try:
                guarded(action, self._backend.failed)(done)
            finally:
                with self._told:
                    self._awaited -= 1
                    if not self._awaited:
                        self._told.notify_all()

        future = reference.future()
        with self._told:
            self._awaited += 1
        future.add_done_callback(told)

    def _ended(self, sent: RaySent, done: Any) -> None:
        """A batch's Ray task has ended."""
        backend = self._backend
        if backend.stopping:
            return
        ledger = backend.ledger
        if backend.standby.ended(sent.number) is not None:
            sent = ledger.in_flight(sent.at) or sent
        number = sent.number
        try:
            begun = done.result()
        except Exception as error:  # of Ray's, or Ray Client's
            self._failed(sent, error)
            return
        if isinstance(begun, str):  # it could not reach us
            ledger.job_ended(number, JobEnd.BROKE, why=Departure(message=begun))
        else:
            ledger.job_ended(number, JobEnd.RAN if begun else JobEnd.NOT_BEGUN)

    def _failed(self, sent: RaySent, error: BaseException) -> None:
        ledger, number = self._backend.ledger, sent.number
        borrows = any(_is_borrowed(item) for item in sent.stored)
        if isinstance(error, _CRASHES) or sent.killed:
            may_have_begun = isinstance(error, _UNHEARD)
            text = f"Ray says: {text_of(error)}" if may_have_begun else None
            why = Departure(message=text, cause=error)
            if borrows and sent.worker is None and not may_have_begun:
                self._backend.calls.do(lambda: self._look_at_arguments(sent, why))
                return
            ledger.job_ended(number, JobEnd.DIED, why=why, may_have_begun=may_have_begun)
        elif _is_cancel(error) and sent.worker is None and (sent.withdrawn or not borrows):
            ledger.job_ended(number, JobEnd.NOT_BEGUN)
        elif isinstance(error, (of_ray.RuntimeEnvSetupError, of_ray.TaskUnschedulableError)):
            why = Departure(message=f"Ray could not begin it: {text_of(error)}", cause=error)
            ledger.job_ended(number, JobEnd.BROKE, why=why)
        else:
            self._unfit(sent, error)

    def _look_at_arguments(self, sent: RaySent, why: Departure) -> None:
        """Finds out whether it was a task of Ray's among a batch's arguments that failed; it may take a while."""
        has_failed = any(_has_failed(item.reference) for item in sent.stored if _is_borrowed(item))

        def go_on() -> None:
            if has_failed and why.cause is not None:
                self._unfit(sent, why.cause)
            else:
                self._backend.ledger.job_ended(sent.number, JobEnd.DIED, why=why)

        self._backend.link.do(go_on)

    def _unfit(self, sent: RaySent, error: BaseException) -> None:
        """The Ray task of a batch could not begin: of its arguments, or of what its worker cannot import."""
        cause = getattr(error, "cause", None)
        cause = cause if isinstance(cause, BaseException) else error
        end: BaseException
        phase = FAILED
        mismatch = explain_import(error)
        borrows = [_is_borrowed(item) for item in sent.stored]
        if mismatch is not None:
            end = mismatch
        elif isinstance(cause, _LOSSES) and not all(borrows):
            holder = next(item.place for item in sent.stored if not _is_borrowed(item))
            end = ResultLost(holder=holder or "Ray")
        elif any(borrows):
            end = UpstreamTaskError(
                run_name=None, task_name="(a reference of Ray's)", state="Failed", cause=cause
            )
            phase = NOT_READY
        else:
            end = SerializationError(
                path="arguments",
                type_name=kind_of(cause),
                problem=f"its Ray task could not begin: {text_of(error)}",
            )
            end.__cause__ = error

        def fails_with(name: str) -> BaseException:
            return ResultLost(run_name=name, holder=end.holder) if type(end) is ResultLost else end

        text = f"the Ray task of its batch failed: {repr_of(error)}"
        self._backend.ledger.job_ended(
            sent.number,
            JobEnd.UNFIT,
            why=Departure(message=text, cause=error),
            fails_with=fails_with,
            phase=phase,
        )

    # ------------------------------------------------------------------ workers that have gone

    def read(self, member: RayMember) -> None:
        """Reads what a worker that has gone has left behind."""
        path = member.hello.get("record")
        if path is None:
            self._read(member, None)
        elif member.host == socket.gethostname() and is_own(path):
            self._read(member, read_record(path))
        elif not member.batches and not member.blamed:
            self._backend.ledger.outcomes_read(member, {})  # it was idle, and has ended for that
        else:
            self._read_elsewhere(member, path)

    def _read(self, member: RayMember, content: bytes | None) -> None:
        outcomes = outcomes_in(content, lambda key: _lost(member), set(member.batches))
        self._backend.ledger.outcomes_read(member, outcomes)

    def _read_elsewhere(self, member: RayMember, path: str) -> None:
        """Has a worker's record read on its node."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        node: str = member.hello["node"]
        backend = self._backend

        def read() -> None:
            content: bytes | None = None
            try:
                where = NodeAffinitySchedulingStrategy(node, soft=False)
                reader = ray.remote(num_cpus=0, max_retries=0)(read_record)
                reference = reader.options(scheduling_strategy=where).remote(path)
                content = ray.get(reference, timeout=READ_WITHIN)
            except of_ray.RayError:
                content = None  # the node has gone too
            backend.link.do(lambda: self._read(member, content))

        thread = threading.Thread(
            target=guarded(read, backend.failed), name="shoal-ray-record", daemon=True
        )
        self._readers = [reader for reader in self._readers if reader.is_alive()]
        self._readers.append(thread)
        thread.start()


def _lost(member: RayMember) -> Kept:
    """The handle of a value that was to be returned, and went with its worker."""
    return Kept(None, f"Ray worker {member.pid}")


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
    """Whether a Ray task was cancelled: also as it began, while Ray looked for its function, and in another's stead."""
    cause = getattr(error, "cause", None)
    return (
        isinstance(error, of_ray.TaskCancelledError)
        or isinstance(cause, of_ray.TaskCancelledError)
        or (type(cause) is TypeError and str(cause) == _DEAF)
    )
