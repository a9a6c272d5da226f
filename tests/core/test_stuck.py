"""Who waits for slots for ever, against what comes of it if all who can go on do (SPEC 10.2)."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from shoal.scheduling.stuck import Needs, Stuck, Wanting

LIMITS = ("a", "b")
NODES = st.integers(0, 9)


class System:
    """Some who hold slots, wait for one another, or ask for slots; the rest does something else.

    Attributes:
        slots: of each limit.
        requests: who asks for what.
        needs: who waits for whom.
        held: who holds what, by limit.
    """

    def __init__(
        self,
        slots: dict[str, int],
        requests: dict[int, Wanting],
        needs: dict[int, Needs],
        held: dict[str, list[tuple[int, int]]],
    ) -> None:
        self.slots = slots
        self.requests = requests
        self.needs = needs
        self.held = held

    def stuck(self) -> Stuck:
        return Stuck(self.requests, self.held, self.slots, self.needs.get)

    def left_over(self, chance: random.Random) -> set[int]:
        """Who is left if everybody who can ends and gives back what it has, in whatever order."""
        left = {*range(10)}
        held = {name: list(holders) for name, holders in self.held.items()}

        def can_end(node: int) -> bool:
            if node in self.requests:
                names, occupy = self.requests[node]
                return all(
                    sum(n for _, n in held[name]) + occupy <= self.slots[name] for name in names
                )
            if node not in self.needs:
                return True
            of, every = self.needs[node]
            return (all if every else any)(one not in left for one in of)

        while able := [node for node in sorted(left) if can_end(node)]:
            node = chance.choice(able)
            left.discard(node)
            for name, holders in held.items():
                held[name] = [entry for entry in holders if entry[0] != node]
        return left


@st.composite
def systems(draw: st.DrawFn) -> System:
    slots = {name: draw(st.integers(1, 3)) for name in LIMITS}
    requests: dict[int, Wanting] = {}
    needs: dict[int, Needs] = {}
    held: dict[str, list[tuple[int, int]]] = {name: [] for name in LIMITS}
    for node in range(10):
        kind = draw(st.sampled_from(["asks", "waits", "waits", "works"]))
        if kind == "asks":
            names = draw(st.frozensets(st.sampled_from(LIMITS), min_size=1))
            most = min(slots[name] for name in names)
            requests[node] = Wanting(names, draw(st.integers(1, most)))
        elif kind == "waits":
            of = draw(st.lists(NODES, min_size=1, max_size=4))
            needs[node] = Needs(of, all=draw(st.booleans()))
    for name in LIMITS:
        room = slots[name]
        for node in draw(st.lists(NODES, max_size=3, unique=True)):
            occupy = draw(st.integers(1, 2))
            if node not in requests and occupy <= room:
                held[name].append((node, occupy))
                room -= occupy
    return System(slots, requests, needs, held)


@given(systems(), st.randoms(use_true_random=False))
def test_who_is_stuck_is_left_over_whatever_happens(system: System, chance: random.Random) -> None:
    left = system.left_over(chance)
    stuck = system.stuck()
    asked = {node for node in stuck.nodes if node in system.requests}
    assert asked == left & system.requests.keys()
    assert stuck.nodes <= left


@given(systems())
def test_refusals_let_all_others_go_on(system: System) -> None:
    """Those are refused that are stuck, until nobody is because of slots; and nobody if all go on."""
    while True:
        stuck = system.stuck()
        refusals = stuck.refusals()
        assert refusals.keys() <= stuck.nodes & system.requests.keys()
        for request, name in refusals.items():
            assert stuck.holders_before(request, name)
        if not refusals:
            break
        for request in refusals:
            del system.requests[request]  # it goes on, with an error
    circles_of_waits = Stuck({}, system.held, system.slots, system.needs.get).nodes
    asked = system.stuck().nodes & system.requests.keys()
    assert not asked or circles_of_waits, "what is left waits for a circle without any slots"


def needs(**entries: Any) -> Any:
    return entries.get


def test_who_waits_for_itself_is_refused() -> None:
    held = {"a": [("parent", 1)]}
    asks = {name: Wanting(frozenset("a"), 1) for name in ("other", "child")}
    stuck = Stuck(asks, held, {"a": 1}, needs(parent=Needs(["child"])))
    assert stuck.nodes == {"parent", "child", "other"}
    assert stuck.refusals() == {"child": "a"}, "the other has its slot then"


def test_what_another_holds_is_waited_for() -> None:
    held = {"a": [("parent", 1), ("another", 1)]}
    asks = {"child": Wanting(frozenset("a"), 1)}
    parent = needs(parent=Needs(["child"]))
    assert Stuck(asks, held, {"a": 2}, parent).nodes == set()
    assert Stuck(asks, {"a": [("parent", 1)]}, {"a": 2}, parent).nodes == set()


def test_of_a_circle_through_two_limits_the_latest_is_refused() -> None:
    held = {"a": [("first", 1)], "b": [("second", 1)]}
    asks = {
        "for b": Wanting(frozenset("b"), 1),
        "for a": Wanting(frozenset("a"), 1),
    }
    waits = needs(first=Needs(["for b"]), second=Needs(["for a"]))
    assert Stuck(asks, held, {"a": 1, "b": 1}, waits).refusals() == {"for a": "a"}


def test_a_holder_that_waits_for_any_of_several_goes_on() -> None:
    held = {"a": [("parent", 1)]}
    asks = {"child": Wanting(frozenset("a"), 1)}
    waits = needs(parent=Needs(["child", "sibling"], all=False))
    assert Stuck(asks, held, {"a": 1}, waits).nodes == set()
    waits = needs(parent=Needs(["child", "sibling"]))
    assert Stuck(asks, held, {"a": 1}, waits).refusals() == {"child": "a"}
