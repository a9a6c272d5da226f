"""Who waits for slots of limits and will never get them. Pure.

    a request ── for slots that these hold ──▶ holders ── wait for ──▶ runs ── wait for ──▶ ... ──▶ a request

Who waits for nothing goes on; so does who waits for what goes on, and a request once those of the holders that go on have
left it enough slots. Whoever is left is stuck for ever. What is not known is taken to go on, so who is found stuck is.

Imports nothing of ours.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

__all__ = ["Needs", "Stuck", "Wanting"]


#: A request, who holds slots, or a run: anything that can be in a set.
Node: TypeAlias = Any


class Needs(NamedTuple):
    """What somebody needs to go on: that all of these go on, or one of them; of none, one never does."""

    of: Sequence[Node]
    all: bool = True


class Wanting(NamedTuple):
    """A request, which needs slots of each of some limits."""

    names: frozenset[str]
    occupy: int


class Stuck:
    """Those who never go on.

    Args:
        requests: those that wait, the earliest first.
        held: by limit, who holds how many of its slots. What others hold need not be in it.
        slots: of each limit in `held`.
        needs: what somebody needs, `None` for nothing; not asked about requests.

    Attributes:
        nodes: requests, holders and runs.
    """

    def __init__(
        self,
        requests: Mapping[Node, Wanting],
        held: Mapping[str, Sequence[tuple[Node, int]]],
        slots: Mapping[str, int],
        needs: Callable[[Node], Needs | None],
    ) -> None:
        self._requests = requests
        self._held = held
        self._slots = slots
        self._needs: dict[Node, Needs] = {}
        self.nodes: set[Node] = set()
        self._find(self._reach(needs))

    def _reach(self, needs: Callable[[Node], Needs | None]) -> list[Node]:
        """Finds all that the requests wait for; returns who of them waits for nothing."""
        free: list[Node] = []
        stack: list[Node] = [*self._requests]
        stack.extend(holder for holders in self._held.values() for holder, _ in holders)
        while stack:
            node = stack.pop()
            if node in self.nodes:
                continue
            self.nodes.add(node)
            if node in self._requests:
                continue
            needed = needs(node)
            if needed is None:
                free.append(node)
            else:
                self._needs[node] = needed
                stack.extend(needed.of)
        return free

    def _find(self, going_on: list[Node]) -> None:
        """Takes all that go on out of `nodes`."""
        waiting: dict[Node, set[Node]] = defaultdict(set)
        left: dict[Node, int] = {}
        for node, needed in self._needs.items():
            of = set(needed.of)
            left[node] = len(of) if needed.all else 1
            for one in of:
                waiting[one].add(node)
            if needed.all and not of:
                going_on.append(node)
        holds: dict[Node, set[str]] = defaultdict(set)
        for name, holders in self._held.items():
            for holder, _ in holders:
                holds[holder].add(name)
        going_on.extend(request for request in self._requests if not self._short_of(request))
        while going_on:
            node = going_on.pop()
            if node not in self.nodes:
                continue
            self.nodes.remove(node)
            for other in waiting[node]:
                left[other] -= 1
                if left[other] == 0:
                    going_on.append(other)
            names = holds[node]
            if names:
                going_on.extend(
                    request
                    for request, wanting in self._requests.items()
                    if names & wanting.names and not self._short_of(request)
                )

    def _short_of(self, request: Node) -> list[str]:
        """The limits of which those who are stuck hold too many slots for a request."""
        wanting = self._requests[request]
        return [
            name
            for name in wanting.names
            if name in self._held
            and sum(occupy for holder, occupy in self._held[name] if holder in self.nodes)
            + wanting.occupy
            > self._slots[name]
        ]

    # ------------------------------------------------------------------ who is to be told

    def refusals(self) -> dict[Node, str]:
        """Requests that are to be refused, so that others go on, and the limit of which each gets no slots.

        All for whose own end the holders wait; where there are none, the latest one of a circle through several limits.
        """
        reached = self._reached_by_holders()
        found: dict[Node, str] = {}
        for request in self._requests:
            if request in self.nodes:
                for name in self._short_of(request):
                    if self._waits_for_itself(request, name, reached):
                        found[request] = name
                        break
        if found:
            return found
        for request in reversed([*self._requests]):
            if request in self.nodes and self._is_in_circle(request, reached):
                return {request: min(self._short_of(request))}
        return {}

    def holders_before(self, request: Node, name: str) -> list[Node]:
        """Who of those that are stuck holds slots of a limit that a request waits for."""
        return [holder for holder, _ in self._held[name] if holder in self.nodes]

    def _reached_by_holders(self) -> dict[Node, set[Node]]:
        """By holder that is stuck, the requests for which it waits, not by way of other requests."""
        holders = {holder for held in self._held.values() for holder, _ in held}
        return {
            holder: {node for node in self.reach([holder]) if node in self._requests}
            for holder in holders & self.nodes
        }

    def reach(self, nodes: Iterable[Node]) -> set[Node]:
        """All stuck ones for which some of those wait, themselves too; not by way of requests."""
        seen: set[Node] = set()
        stack = list(nodes)
        while stack:
            node = stack.pop()
            if node not in seen and node in self.nodes:
                seen.add(node)
                if node in self._needs:
                    stack.extend(self._needs[node].of)
        return seen

    def _waits_for_itself(
        self, request: Node, name: str, reached: Mapping[Node, set[Node]]
    ) -> bool:
        """Whether those who wait for a request have so many slots that it never gets its own."""
        own = sum(
            occupy for holder, occupy in self._held[name] if request in reached.get(holder, ())
        )
        return own + self._requests[request].occupy > self._slots[name]

    def _is_in_circle(self, request: Node, reached: Mapping[Node, set[Node]]) -> bool:
        """Whether a request waits for itself by way of others."""
        seen: set[Node] = set()
        stack = [request]
        while stack:
            node = stack.pop()
            for name in self._short_of(node):
                for holder in self.holders_before(node, name):
                    if request in reached[holder]:
                        return True
                    stack.extend(reached[holder] - seen)
                    seen |= reached[holder]
        return False
