"""Runs that the driver is not told of yet: they wait for runs of other runners of this process, of which it knows nothing.

    submit ──▶ upstreams here, not ended ──▶ the last has ended ──▶ the driver is told, and waits are told again

May import what lies above task runners.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.context import LOCK
from shoal.engine import inputs
from shoal.futures import TaskFuture
from shoal.futures.maps import MapRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.futures.blocking import Wanted
    from shoal.futures.run import Owner

__all__ = ["Untold"]


class Untold:
    """Holds runs back until the driver can be told of them.

    Args:
        owner: whose runs these are; those of others are foreign.

    Attributes:
        watchers: of the waits under way on worker threads.
    """

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._numbers: set[int] = set()
        self.watchers: list[Any] = []

    def when_foreign_ended(
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
            and entry.future._dispatcher is not self._owner
            and not entry.future.done()
        }
        if not pending:
            tell()
            return
        self._numbers.add(number)

        def ended() -> None:
            with LOCK:
                self._numbers.discard(number)
            tell()
            with LOCK:
                if isinstance(told, TaskFuture):
                    told._details().waits_on = None
            self.tell_watchers()

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

    def tell_watchers(self) -> None:
        """Waits have to be told again: the driver knows of more runs."""
        for watcher in list(self.watchers):
            watcher.look_again()

    def holds(self, future: TaskFuture[Any]) -> bool:
        """Whether the driver does not know of a run yet."""
        detail = future._detail
        if detail is not None and detail.origin is not None:
            return detail.origin[0].base in self._numbers
        return future._number in self._numbers

    def reach(self, wanted: Wanted, watcher: Any) -> tuple[list[int], list[tuple[int, int]]]:
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
                if item.dispatcher is self._owner and item.base not in self._numbers:
                    maps.append((item.base, item.size))
                    continue
                watching = item.wanting
                stack.extend(item.futures.values())
            else:
                if item._dispatcher is self._owner and not self.holds(item):
                    numbers.append(item._number)
                    continue
                detail = item._details()
                if detail.wanting is None:
                    detail.wanting = []
                watching = detail.wanting
                upstreams = [entry.future for entry in detail.upstreams]
                stack.extend(u for u in upstreams if isinstance(u, TaskFuture))
                stack.extend(detail.waits_on or ())
            if watcher is not None and watcher not in watching:
                watching.append(watcher)
        return numbers, maps
