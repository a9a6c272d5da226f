"""What becomes of batches whose worker process has ended, and of the pool if that happens again and again.

    process has ended ─▶ I/O thread ─▶ what it said last is taken ─▶ its record is read ─▶ reported, lost, split

All of it happens on the I/O thread; `ProcessBackend.lock` is held where the books are changed, never while an event goes
to the dispatcher.

May import `members`, `record`, `remote` and what lies above task runners.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from shoal.exceptions import WorkerDied
from shoal.futures.maps import Span
from shoal.task_runners.processes.members import died
from shoal.task_runners.processes.record import TOLD
from shoal.task_runners.remote.batches import BEGUN, NOT_BEGUN, WITHDRAWN
from shoal.task_runners.remote.members import futures_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.task_runners.processes.backend import ProcessBackend
    from shoal.task_runners.processes.members import ProcessMember, Sent

__all__ = ["Deaths"]

#: Workers that may die, one after the other, before they have begun a run.
MOST_USELESS = 3
#: Words of runs that have not ended, or whose ends are told by message.
_OPEN = (NOT_BEGUN, BEGUN, TOLD, WITHDRAWN)


class Deaths:
    """See the module.

    Args:
        backend: of the runner.

    Attributes:
        useless: how many workers have ended, one after the other, before they began a run. The listener sets it to 0
            when runs end; it is written on the I/O thread only.
    """

    def __init__(self, backend: ProcessBackend) -> None:
        self._backend = backend
        self.useless = 0

    def bury(self, member: ProcessMember) -> None:
        """A worker's process has ended: what it said and wrote last counts, the rest is lost."""
        backend = self._backend
        if member.buried:
            return
        while backend.link.read(member):
            pass
        backend.link.unregister(member)
        with backend.lock:
            member.buried = True
            backend.pool.vacate(member)
            batches = list(member.batches.values())
            member.batches.clear()
        unpacking = member.record.unpacking
        error_of = self._error_of(member)
        broken = self._why_broken(member, batches)
        if broken is not None:
            backend.events.broken(broken)
        for sent in batches:
            number = sent.batch.number
            words = sent.lane.words[: len(sent.batch)].tolist()
            ended = [p for p, word in enumerate(words) if word not in _OPEN]
            with futures_of(member):
                report = backend.listener.report_of(sent, ended)
            report.last = False
            report.count = 0
            backend.events.reported(report)
            if type(sent.batch.runs) is Span:
                backend.listener.nested.tell_elements(sent.batch.runs, ended)
            begun = [p for p, word in enumerate(words) if word == BEGUN]
            if number == unpacking:
                task = member.record.task
                if task is not None and backend.contents.died_of(
                    task, member.process.pid, socket.gethostname()
                ):
                    begun = backend.contents.positions_of(sent.batch, task)
                elif not sent.was_alone():
                    backend.events.split(number)  # perhaps the arguments of one of them killed it
                    continue
                else:
                    begun = [0]
            backend.events.lost(number, error_of, begun)
        for helper in list(member.waits.values()):
            backend.events.resumed(helper)
        member.waits.clear()
        member.runs.clear()
        member.maps.clear()
        backend.pool.discard(member)

    def _error_of(self, member: ProcessMember) -> Callable[[str], BaseException]:
        """How the runs end that a worker had begun."""
        waited = {helper.run.name for helper in member.waits.values() if helper.run is not None}
        process = member.process
        pid = process.pid

        def error_of(run_name: str) -> BaseException:
            message = None
            if member.stopped_for is not None and run_name != member.stopped_for:
                does = "waited" if run_name in waited else "ran"
                message = (
                    f"it {does} on a worker that was killed to stop task run {member.stopped_for!r}"
                )
            elif run_name in waited:
                message = "it waited on a worker that died while it ran something else"
            return WorkerDied(
                run_name=run_name,
                host=socket.gethostname(),
                pid=pid,
                exit_code=process.exit_code,
                signal=process.signal,
                message=message,
            )

        return error_of

    def _why_broken(
        self, member: ProcessMember, batches: list[Sent]
    ) -> Callable[[str], BaseException] | None:
        """Why no worker is of any use, if that must be concluded from how one ended."""
        if self._backend.stopping or member.leaving:
            return None
        if member.unready is not None:
            error = member.unready
            text = f"the initializer of the worker processes raised {type(error).__name__}: {error}"
            return lambda run_name: died(run_name, text, error)
        if member.ready and (
            not batches
            or member.stopped_for is not None
            or member.record.unpacking
            or any(
                word != NOT_BEGUN for sent in batches for word in sent.lane.words[: len(sent.batch)]
            )
        ):
            self.useless = 0
            return None
        self.useless += 1
        if self.useless < MOST_USELESS:
            return None
        text = f"{self.useless} worker processes in a row ended before they began a run, the last one (pid {member.process.pid}) {member.process.fate()}"
        return lambda run_name: died(run_name, text)
