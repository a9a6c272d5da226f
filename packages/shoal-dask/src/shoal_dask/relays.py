"""Dask futures of our runs: each is the future of a small Dask task that ends when its run does.

May import `handles`, `session` and the core's `remote` room.
"""

from __future__ import annotations

import threading
import weakref
from contextvars import Context
from typing import TYPE_CHECKING, Any

from shoal.calls import COMPLETED, DONE
from shoal.context import LOCK
from shoal.exceptions import RunnerStateError
from shoal.serialization import dumps
from shoal.task_runners.remote import messages
from shoal.task_runners.remote.nested import End

from shoal_dask.handles import Kept
from shoal_dask.session import fail, relay

if TYPE_CHECKING:
    from distributed import Future
    from shoal.futures.run import TaskFuture

    from shoal_dask.backend import DaskBackend
    from shoal_dask.members import DaskMember

__all__ = ["Relays"]


class Relays:
    """Gives runs their Dask futures, and these their values.

    Args:
        backend: of the runner.
    """

    def __init__(self, backend: DaskBackend) -> None:
        self._backend = backend
        self._lock = threading.Lock()
        self._known: dict[int, tuple[TaskFuture[Any], weakref.ref[Future[Any]]]] = {}

    def clear(self) -> None:
        """Lets go of all."""
        with self._lock:
            self._known.clear()

    def native(self, run: TaskFuture[Any]) -> Future[Any]:
        """See `Backend`: a Dask future that ends as the run does, with its plain value.

        Raises:
            RunnerStateError: the runner was left, so there is no client that it could belong to.
        """
        if self._backend.stopping or self._backend.client.status == "closed":
            raise RunnerStateError(
                runner="DaskTaskRunner",
                problem=f"it has been left, and the Dask futures of its runs with it: read the `native` of {run.name!r} "
                "before the flow ends",
            )
        outcome = run._outcome
        if run._phase == COMPLETED and isinstance(outcome, Kept):
            assert outcome.future is not None  # only an argument may be without
            return outcome.future
        with self._lock:
            self._prune()
            known = self._known.get(run._number)
            future: Any = known[1]() if known is not None else None
        if future is None:
            future = self._made(run)
            with self._lock:
                self._known[run._number] = (run, weakref.ref(future))
        return future  # type: ignore[no-any-return]

    def _made(self, run: TaskFuture[Any]) -> Future[Any]:
        client = self._backend.client
        if run._phase == COMPLETED:
            value = self._backend.events.value_of(run)
            scattered: Future[Any] = client.scatter([value], hash=False)[0]
            return scattered
        if run._phase >= DONE:
            return Context().run(client.submit, fail, run._error(), pure=False)
        key = f"{run._task.name}-native-{self._backend.session}x{run._number}"
        submit = client.submit
        return Context().run(
            submit, relay, self._backend.session, run._number, key, key=key, pure=False
        )

    def _prune(self) -> None:
        """Forgets futures that nobody has any more; with the lock held."""
        for number in [n for n, (_, future) in self._known.items() if future() is None]:
            del self._known[number]

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
