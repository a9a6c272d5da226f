"""Ray's references of our runs, and references that pass between workers and the driver.

    has ended    the reference of its value, put into the store if it is not there already
    has not      the reference of a call of the relay's, which answers when the run ends

May import `handles`, `natives`, `session` and the core's `remote` room.
"""

from __future__ import annotations

import threading
import weakref
from itertools import count
from typing import TYPE_CHECKING, Any

import ray
from shoal.calls import COMPLETED, DONE
from shoal.context import LOCK
from shoal.exceptions import RunnerStateError
from shoal.serialization import find_culprit

from shoal_ray.handles import Kept
from shoal_ray.natives import PASSED_WITHIN, introduced
from shoal_ray.session import fail

if TYPE_CHECKING:
    from ray import ObjectRef
    from shoal.futures.run import TaskFuture

    from shoal_ray.backend import RayBackend

__all__ = ["Relays"]


class Relays:
    """Gives runs their references.

    Args:
        backend: of the runner.
    """

    def __init__(self, backend: RayBackend) -> None:
        self._backend = backend
        self._lock = threading.Lock()
        self._known: weakref.WeakKeyDictionary[TaskFuture[Any], Any]
        self._known = weakref.WeakKeyDictionary()
        self._keys = count(1)
        self.session = backend.session
        introduced(self)

    def clear(self) -> None:
        """Lets go of all."""
        with self._lock:
            self._known.clear()

    def lend(self, reference: Any) -> str:
        """See `Lender`."""
        key = f"{self.session}-{next(self._keys)}"
        self._backend.relay().lend.remote(key, [reference])
        return key

    def borrow(self, key: str) -> Any:
        """See `Lender`."""
        return ray.get(self._backend.relay().borrow.remote(key), timeout=PASSED_WITHIN)[0]

    def native(self, run: TaskFuture[Any]) -> ObjectRef[Any]:
        """See `Backend`: the reference of the plain value.

        Raises:
            RunnerStateError: Ray has been shut down.
            ResultLost: it has ended, and what held its value has gone.
        """
        if not ray.is_initialized():  # it would initialise itself
            raise RunnerStateError(
                runner=self._backend.events.runner_name,
                problem="Ray was shut down when the runner was left, and its references went with it: read `native` "
                "before that, or have Ray initialised around the flow",
            )
        outcome = run._outcome
        if run._phase == COMPLETED and isinstance(outcome, Kept) and outcome.reference is not None:
            return outcome.reference
        with self._lock:
            known = self._known.get(run)
            if known is None:
                known = self._made(run)
                if not self._backend.stopping:  # nobody would let go of it before Ray is shut down
                    self._known[run] = known
        return known  # type: ignore[no-any-return]

    def _made(self, run: TaskFuture[Any]) -> Any:
        if run._phase == COMPLETED:
            return ray.put(self._backend.events.value_of(run))
        if run._phase >= DONE:
            return ray.remote(num_cpus=0, max_retries=0)(fail).remote(run._error())
        relay = self._backend.relay()
        reference = relay.value.remote(run._number)

        def tell(ended: TaskFuture[Any]) -> None:
            error: BaseException | None = None
            value: Any = None
            if ended._phase != COMPLETED:
                error = ended._error()
            elif isinstance(ended._outcome, Kept):
                value = [ended._outcome.reference]
            else:
                value = (ended._outcome,)

            def send() -> None:
                try:
                    relay.ended.remote(ended._number, error, value)
                except TypeError as failure:  # of pickling
                    told = find_culprit(ended._outcome, "result")
                    told.__cause__ = failure
                    relay.ended.remote(ended._number, told, None)

            self._backend.calls.do(send)

        with LOCK:
            watched = run.watch(tell)
        if not watched:
            tell(run)
        return reference
