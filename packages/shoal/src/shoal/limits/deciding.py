"""Whether who asks gets slots of limits, has to wait, or is refused. Pure: what the tables say in, an answer out.

May import `store`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from shoal.limits.store import TAG, Acquired, Busy, Refused

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from shoal.limits.store import Answer, Request

__all__ = [
    "AHEAD",
    "STANDING",
    "Given",
    "LinePlace",
    "Row",
    "Use",
    "Verdict",
    "decide",
    "free_of_limits",
]

#: Seconds for which a waiter keeps its places in line without asking again.
STANDING = 5.0

#: Seconds that slots of a rate are given out ahead of their time. So no slot's time passes by unused while who has
#: asked for it is being told.
AHEAD = 0.15

#: How much faster than it says a rate gives out slots after nobody came for some; how many it gives out in a window is seen
#: to beside it.
CATCHING_UP = 1.1

#: What is left of a sum of floats that should be 0.
ALMOST = 1e-6


class Row(NamedTuple):
    """A limit; see `Limit`. What is stored of it falls by `pace` a second since `stored_at`."""

    name: str
    slots: int
    active: int
    decay: float
    stored: float
    stored_at: float
    rate_count: int | None
    rate_seconds: float | None

    @property
    def pace(self) -> float:
        """Slots that are free again each second."""
        return self.decay if self.rate_count is None else CATCHING_UP * self.decay

    def level(self, now: float) -> float:
        """What is left of `stored`."""
        return max(0.0, self.stored - self.pace * max(0.0, now - self.stored_at))


class Use(NamedTuple):
    """What of a limit is leased.

    Attributes:
        taken: slots of others.
        over: slots of others whose leases are over.
        mine: whether one asks again for what one has.
        ends: when the next lease of others is over.
        own: slots of what the asker holds already.
    """

    taken: int = 0
    over: int = 0
    mine: int = 0
    ends: float | None = None
    own: int = 0


class Given(NamedTuple):
    """What a rate has given out.

    Attributes:
        total: slots, ever.
        opens: from when on no window has too many with those that are asked for.
    """

    total: int = 0
    opens: float = 0.0


class LinePlace(NamedTuple):
    """A place in line, and the address of who stands there."""

    name: str
    since: float
    id: str
    expires: float
    address: str


class Verdict(NamedTuple):
    """What is to be done.

    Attributes:
        answer: for who asks.
        since: since when it waits.
        stood: whether it stood in line.
        stored: what is stored of limits with slot decay from now on, by name.
        rings: addresses of those who may have their turn now.
    """

    answer: Answer
    since: float
    stood: bool = False
    stored: Mapping[str, float] = {}
    rings: frozenset[str] = frozenset()


def decide(
    request: Request,
    rows: Sequence[Row],
    uses: Mapping[str, Use],
    places: Sequence[LinePlace],
    given: Mapping[str, Given],
    *,
    now: float,
    waited_seconds: float,
    patience: float | None,
    passes: Collection[str] = (),
) -> Verdict:
    """What becomes of a request.

    Args:
        request: what is asked for.
        rows: its limits.
        uses: what of these is leased, by name.
        places: who stands in line there, itself too, in the order of the lines.
        given: what of these was given out at a rate, by name.
        now: the store's clock.
        waited_seconds: how long its owner has waited.
        patience: how long it will wait at most.
        passes: ids of others before which it comes, whenever they came.
    """
    me = request.holder.id
    mine = [place for place in places if place.id == me]
    since = min((place.since for place in mine), default=now - waited_seconds)
    others = [place for place in places if place.id != me]
    limits = [row for row in rows if row.active]
    if refusal := _refusal(request, rows, limits, uses):
        rings = _next_ones(others, [row.name for row in limits])
        return Verdict(refusal, since, bool(mine), rings=rings)
    waits: dict[str, float] = {}
    for place in others:
        # Who holds slots there already gives them back only after this, so that others would wait for one another.
        is_within = place.name in uses and uses[place.name].own > 0
        is_before = (place.since, place.id) < (since, me) and place.id not in passes
        if is_before and not is_within:
            waits[place.name] = max(waits.get(place.name, 0.0), place.expires - now)
    stored: dict[str, float] = {}
    after = 0.0
    roomy: list[str] = []
    for row in limits:
        use = uses[row.name]
        if row.decay and not use.mine:
            level = max(0.0, row.level(now) - use.over)
            opens = given[row.name].opens - now
            wait, free_after = _fit_decay(row, level, opens, request, patience)
            stored[row.name], after = level + request.occupy, max(after, free_after)
        elif row.decay or use.taken + row.stored + request.occupy <= row.slots:
            wait = None
        else:
            wait = max(0.0, (use.ends or now + STANDING) - now)
        if wait is not None:
            waits[row.name] = max(wait, waits.get(row.name, 0.0))
        if row.decay or use.taken + row.stored + request.occupy < row.slots:
            roomy.append(row.name)
    if waits:
        return Verdict(Busy(frozenset(waits), max(waits.values())), since, bool(mine))
    rings = _next_ones(others, roomy) if mine else frozenset[str]()
    return Verdict(_acquired(request, rows, after), since, bool(mine), stored, rings)


def free_of_limits(request: Request) -> Answer:
    """The answer where none of the names has a limit."""
    if request.strict:
        return Refused(min(request.names), _NO_LIMIT)
    return _acquired(request, [], 0.0)


_NO_LIMIT = "there is no limit of this name"


def _refusal(
    request: Request, rows: Sequence[Row], limits: Sequence[Row], uses: Mapping[str, Use]
) -> Refused | None:
    missing = request.names - {row.name for row in rows}
    if request.strict and missing:
        return Refused(min(missing), _NO_LIMIT)
    for row in limits:
        if problem := _impossible(row, request):
            return Refused(row.name, problem)
    for row in limits:
        own = uses[row.name].own
        if own and not row.decay and own + request.occupy > row.slots:
            return Refused(row.name, _for_itself(row, own, request.occupy))
    return None


def _next_ones(others: Iterable[LinePlace], names: Iterable[str]) -> frozenset[str]:
    """Addresses of the first in some lines."""
    first: dict[str, str] = {}
    for place in others:
        first.setdefault(place.name, place.address)
    return frozenset(first[name] for name in names if name in first)


def _fit_decay(
    row: Row, level: float, opens: float, request: Request, patience: float | None
) -> tuple[float | None, float]:
    """Seconds to wait before a request fits a limit with slot decay, `None` for none, and after which it may be used."""
    over = level + min(request.occupy, row.slots) - row.slots - ALMOST
    after = max(0.0, over / row.pace, opens)
    if request.lease_seconds is not None:
        return after or None, 0.0
    if after - AHEAD > ALMOST:
        return after - AHEAD, after
    if patience is not None and after > patience:
        return after, after
    return None, after


def _impossible(row: Row, request: Request) -> str | None:
    """Why waiting for this limit is no use."""
    if request.lease_seconds is None and not row.decay:
        return "its slots do not decay, so it gives no rate: set a slot decay, or use `concurrency`"
    most = row.slots
    if request.lease_seconds is None and row.rate_count is not None:
        most = row.rate_count
    if request.occupy <= most:
        return None
    if row.slots == 0:
        what = "runs with this tag" if row.name.startswith(TAG) else "what needs a slot of it"
        return f"it is 0, so {what} must not start; set a higher one to allow them"
    return f"it has {most} slots, fewer than the {request.occupy} that are asked for at once"


def _for_itself(row: Row, own: int, occupy: int) -> str:
    return (
        f"who asks for {occupy} of its {row.slots} slots holds {own} already, and would wait for itself: take all that is"
        " needed at once, or give back first"
    )


def _acquired(request: Request, rows: Sequence[Row], after: float) -> Acquired:
    missing = request.names - {row.name for row in rows}
    taken = frozenset(row.name for row in rows if row.active)
    rate = request.rate
    others = {
        row.name: row.decay
        for row in rows
        if rate is not None and (rate.count, rate.seconds) != (row.rate_count, row.rate_seconds)
    }
    return Acquired(taken, missing, after, others)
