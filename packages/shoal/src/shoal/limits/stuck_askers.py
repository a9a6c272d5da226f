"""Who in this process waits for slots that it will never get, and what keeps the others waiting.

    who waits or holds (`Register`), and the runs behind them ─┐
    who holds what of a limit, as the store says ──────────────┴─▶ `Stuck` ─▶ refusals; what somebody has to run

Slots that other processes hold are waited for: nothing is known of what becomes of these.

For the keeper's thread, with `LOCK` held but where it says otherwise. May import `register`, scheduling and what lies above
them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from shoal.calls import QUEUED, READY, SENT
from shoal.exceptions import ConcurrencyLimitError
from shoal.futures.blocking import TIMED, Bearer, Decision
from shoal.futures.maps import MapRecord
from shoal.futures.run import TaskFuture
from shoal.limits.store import TAG
from shoal.scheduling.stuck import Needs, Stuck, Wanting
from shoal.scheduling.wait_graph import needs_of, wanted_by

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shoal.limits.lines import Asker
    from shoal.limits.register import Register
    from shoal.limits.store import Limit

__all__ = ["Found", "look", "names_at_risk"]


class Found(NamedTuple):
    """What is to be done.

    Attributes:
        refusals: who is refused, and with what.
        to_run: by dispatcher, what holders of slots wait for of which something could be run, if anybody did.
    """

    refusals: dict[Asker, ConcurrencyLimitError]
    to_run: dict[Any, list[Any]]


def names_at_risk(register: Register) -> set[str]:
    """The limits of which somebody here waits for slots, and of which some are held by who waits for others, or has not begun."""
    names: set[str] = set()
    for held in register.held.values():
        if held.who is not None and (wanted_by(held.who) is not None or _who_would_begin(held.who)):
            names |= held.names
    return {name for asker in _askers(register) for name in asker.request.names & names}


def _askers(register: Register) -> list[Asker]:
    """Those who wait for as long as it takes."""
    return [
        asker
        for asker in register.waiting.values()
        if asker.timeout is None
        and not asker.granted
        and asker.request.max_retries is None
        and asker.request.lease_seconds is not None
    ]


def look(register: Register, limits: Mapping[str, Limit]) -> Found:
    """Finds who is stuck, given limits as they were a moment ago."""
    graph = _Graph(register, limits)
    stuck = graph.stuck(starts=True)
    refusals = {asker: _error(stuck, asker, name) for asker, name in stuck.refusals().items()}
    return Found(refusals, {} if refusals else graph.not_run())


class _Graph:
    def __init__(self, register: Register, limits: Mapping[str, Limit]) -> None:
        limits = {
            name: limit
            for name, limit in limits.items()
            if limit.active and not limit.slot_decay_per_second
        }
        askers = sorted(asker for asker in _askers(register) if asker.request.names & limits.keys())
        self._requests: dict[Any, Wanting] = {
            asker: Wanting(asker.request.names, asker.request.occupy) for asker in askers
        }
        self._by_key = {asker.on_outcome: asker for asker in askers} | {
            asker.who: asker for asker in askers if type(asker.who) is TaskFuture
        }
        self._unbegun: dict[Any, Any] = {}  # what nobody has begun, and the dispatchers that would
        self._slots = {name: limit.limit for name, limit in limits.items()}
        self._held = {
            name: [
                (held.who, lease.occupy)
                for lease in limit.holders
                if (held := register.held.get(lease.holder.id)) is not None and held.who is not None
            ]
            for name, limit in limits.items()
        }

    def stuck(self, *, starts: bool) -> Stuck:
        """Who never goes on.

        Args:
            starts: whether what is ready is taken to start.
        """
        self._unbegun.clear()

        def needs(node: Any) -> Needs | None:
            if type(node) is Decision or (type(node) is TaskFuture and node._phase == QUEUED):
                asker = self._by_key.get(node)
                return Needs((asker,)) if asker is not None else None
            dispatcher = None if starts else _who_would_begin(node)
            if dispatcher is not None:
                self._unbegun[node] = dispatcher
                return Needs((), all=False)
            return needs_of(node)

        return Stuck(self._requests, self._held, self._slots, needs)

    def not_run(self) -> dict[Any, list[Any]]:
        """What holders of slots wait for without which nobody goes on, if nobody runs what is ready of it; and holders that have
        not begun.
        """
        stuck = self.stuck(starts=False)
        found: dict[Any, list[Any]] = {}
        if not any(request in stuck.nodes for request in self._requests):
            return found
        holders = {who for held in self._held.values() for who, _ in held}
        for holder in holders & stuck.nodes:
            wait = wanted_by(holder)
            needed = wait.wanted if wait is not None else (holder,)
            for node in stuck.reach([holder]):
                if node in self._unbegun:
                    wanted = found.setdefault(self._unbegun[node], [])
                    wanted.extend(item for item in needed if item not in wanted)
        return found


def _who_would_begin(node: Any) -> Any:
    """The dispatcher of a run, or of elements of a map, that nobody has begun; `None` if that is not what somebody waits for
    here.
    """
    if isinstance(node, MapRecord):
        return node.dispatcher if node.unclaimed and not node.task.is_async else None
    if type(node) is TaskFuture and _is_unbegun(node):
        return node._dispatcher
    wait = wanted_by(node) if type(node) in (TaskFuture, Bearer) else None
    for item in wait.wanted if wait is not None and wait.until != TIMED else ():
        if isinstance(item, MapRecord) and not item.done() and _is_queued(item, item.dispatcher):
            return item.dispatcher  # the elements of which nobody has the future are no nodes
    return None


def _is_unbegun(run: TaskFuture[Any]) -> bool:
    """Whether a thread or a worker could run it at once, or it is in a queue in front of workers."""
    if run._phase == SENT:
        return _is_queued(run, run._dispatcher)
    return run._phase == READY and hasattr(run, "_start") and not run._task.is_async


def _is_queued(item: Any, dispatcher: Any) -> bool:
    """Whether something of it stands in a queue that its execution system has in front of all workers."""
    capabilities = dispatcher.capabilities
    return bool(capabilities.queues and capabilities.ledger and dispatcher.ledger.is_unbegun(item))


def _error(stuck: Stuck, asker: Asker, name: str) -> ConcurrencyLimitError:
    holders = stuck.holders_before(asker, name)
    names = sorted({_name_of(holder) for holder in holders if _name_of(holder)})
    shown = f" ({', '.join(names[:5])})" if names else ""
    problem = (
        f"its slots are held by what waits for this one in turn{shown}, and it would wait for ever: have only one of both"
        " take them, or give back first"
    )
    return ConcurrencyLimitError(tag=name.removeprefix(TAG), problem=problem)


def _name_of(holder: Any) -> str:
    return holder.name if type(holder) is TaskFuture else ""
