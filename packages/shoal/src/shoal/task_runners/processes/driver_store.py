"""The driver's large values: arguments kept for workers, results had from them, freed when nobody here has them.

Segments are made and taken on any thread; workers are told of freed values on the I/O thread, with `ProcessBackend.lock`
held. May import `members`, `segments`, `stored`, `messages` and what lies above task runners.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from shoal.serialization import dumps
from shoal.task_runners.processes.stored import Store, Stored
from shoal.task_runners.remote import messages

if TYPE_CHECKING:
    from shoal.task_runners.processes.backend import ProcessBackend
    from shoal.task_runners.processes.segments import Layout, Segment
    from shoal.task_runners.remote.parcels import Packed

__all__ = ["DriverStore"]


class DriverStore:
    """See the module.

    Args:
        backend: of the runner.
    """

    def __init__(self, backend: ProcessBackend) -> None:
        self._backend = backend
        self._store = Store(1)
        self._freed: deque[tuple[int, bool]] = deque()

    def put(self, packed: Packed) -> Stored:
        """Puts the arguments of a batch into shared memory, for one message.

        Raises:
            NoSegment: there is no room for them.
        """
        return self._store.keep(packed.data, packed.buffers)

    def keep(self, value: Any, packed: Packed) -> Stored:
        """Puts a large argument into shared memory, for as long as somebody here has it."""
        stored = self._store.keep(packed.data, packed.buffers, self._on_freed)
        self._backend.carrier.stored[stored.number] = stored
        return stored

    def take(self, number: int, segment: Segment, layout: Layout) -> Stored:
        """Takes a value that a worker has put into shared memory."""
        stored = Stored(number, segment, layout, self._on_freed)
        self._backend.carrier.stored[number] = stored
        return stored

    def miss(self, number: int) -> None:
        """A value has come without its descriptor: its maker is to free it with the next that are freed."""
        self._freed.append((number, False))

    def _on_freed(self, number: int, loaded: bool) -> None:
        """Nobody here has a stored value any more. Called by finalizers."""
        self._freed.append((number, loaded))
        self._backend.link.do(_nothing)

    def tell_freed(self) -> None:
        """Tells workers which values they need not hold any more; on the I/O thread."""
        while self._freed:
            number, loaded = self._freed.popleft()
            with self._backend.lock:
                holders = [
                    member for member in self._backend.pool.alive if number in member.segments
                ]
                for member in holders:
                    member.segments.discard(number)
                    # Its maker may fill the segment anew only if nobody else may still look at it.
                    member.channel.send(
                        messages.FREED, dumps([(number, len(holders) == 1 and not loaded)])
                    )


def _nothing() -> None:
    pass
