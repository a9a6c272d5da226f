"""Dask futures of our runs: each is the future of a small Dask task that ends when its run does.

May import `handles`, `side` and the core's `remote` room.
"""

from __future__ import annotations

import threading
from contextvars import Context
from typing import TYPE_CHECKING, Any

from manyhands.calls import COMPLETED
from manyhands.context import LOCK
from manyhands.serialization import dumps
from manyhands.task_runners.remote import messages
from manyhands.task_runners.remote.nested import End

from manyhands_dask.handles import Kept
from manyhands_dask.side import relay

if TYPE_CHECKING:
    from distributed import Future
    from manyhands.futures.run import TaskFuture

    from manyhands_dask.backend import DaskBackend
    from manyhands_dask.members import DaskMember

__all__ = ["Relays"]


class Relays:
    """Gives runs their Dask futures, and these their values.

    Args:
        backend: of the runner.
    """

    def __init__(self, backend: DaskBackend) -> None:
        self._backend = backend
        self._lock = threading.Lock()
        self._known: dict[int, tuple[TaskFuture[Any], Future[Any]]] = {}

    def clear(self) -> None:
        """Lets go of all."""
        with self._lock:
            self._known.clear()

    def native(self, run: TaskFuture[Any]) -> Future[Any]:
        """See `AnyBackend`: a Dask future that ends as the run does, with its plain value."""
        outcome = run._outcome
        if run._phase == COMPLETED and isinstance(outcome, Kept):
            return outcome.future
        with self._lock:
            known = self._known.get(run._number)
            if known is not None:
                return known[1]
        key = f"{run._task.name}-native-{self._backend.session}x{run._number}"
        future = Context().run(
            self._backend.client.submit,
            relay,
            self._backend.session,
            run._number,
            key,
            key=key,
            pure=False,
        )
        with self._lock:
            return self._known.setdefault(run._number, (run, future))[1]

    def wanted(self, member: DaskMember, number: int) -> None:
        """The value of a run is wanted by a Dask task that relays it."""
        entry = self._known.get(number)
        if entry is None:
            return
        run = entry[0]

        def tell(ended: TaskFuture[Any]) -> None:
            end = End.of(ended)
            phase = end.phase
            if isinstance(end.value, Kept):
                body = dumps((number, phase, end.value.number))
            else:
                if phase != COMPLETED:
                    end = end._replace(value=ended._error())
                body = dumps((number, *end.packed()))
            self._backend.down(member, messages.VALUE, body)

        with LOCK:
            watched = run.watch(tell)
        if not watched:
            tell(run)
