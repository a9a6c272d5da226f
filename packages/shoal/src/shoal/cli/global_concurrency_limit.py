"""`shoal global-concurrency-limit`, or `gcl`: makes, shows, changes and removes limits for any code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from shoal.cli.console import UsageError
from shoal.cli.limits_shown import as_json_of_both, names_for_shell, print_limit, whole_number
from shoal.cli.tables import AsJson, Output, local, print_json, table_of
from shoal.exceptions import ConcurrencyLimitError
from shoal.spelling import did_you_mean

if TYPE_CHECKING:
    from shoal.limits import Limit

__all__ = ["global_concurrency_limit"]

global_concurrency_limit = App(
    help="Limit any code, by `concurrency` and `rate_limit`: how many at once, or how many a second.",
)

NewName = Annotated[str, Parameter(help="The name", allow_leading_hyphen=True)]
Name = Annotated[
    str,
    Parameter(
        help="The limit's name", allow_leading_hyphen=True, completer=names_for_shell(tags=False)
    ),
]
Slots = Annotated[
    int,
    Parameter(name=["--limit", "-l"], help="How many slots there are", converter=whole_number),
]
Decay = Annotated[
    float,
    Parameter(help="Slots that are free again each second without being given back, for rates"),
]
Active = Annotated[int, Parameter(help="How many slots count as taken now", converter=whole_number)]


@global_concurrency_limit.command
def create(
    name: NewName,
    /,
    *,
    limit: Slots,
    slot_decay_per_second: Decay = 0.0,
    disable: Annotated[
        bool, Parameter(negative=(), help="It limits nothing until enabled")
    ] = False,
    active_slots: Active = 0,
) -> None:
    """Make a limit."""
    from shoal.limits import ConcurrencyLimits, GlobalConcurrencyLimitCreate

    ConcurrencyLimits().create_global_concurrency_limit(
        GlobalConcurrencyLimitCreate(
            name=name,
            limit=limit,
            active=not disable,
            active_slots=active_slots,
            slot_decay_per_second=slot_decay_per_second,
        )
    )
    print(_sentence(_limit(name)))


@global_concurrency_limit.command
def ls(*, json: AsJson = False, output: Output = None) -> None:
    """List all limits."""
    from shoal.limits import ConcurrencyLimits

    limits = ConcurrencyLimits().read_global_concurrency_limits()
    if json or output:
        print_json([_as_json(limit) for limit in limits])
    elif not limits:
        print(
            "There are no limits. Make one with `shoal global-concurrency-limit create NAME --limit N`."
        )
    else:
        table_of(
            ("NAME", "LIMIT", "ACTIVE SLOTS", "DECAY PER SECOND", "WAITING", "ENABLED"),
            [
                (
                    *(limit.name, limit.limit, limit.active_slots),
                    *(limit.slot_decay_per_second, _waiting(limit)),
                    "yes" if limit.active else "no",
                )
                for limit in limits
            ],
        )


@global_concurrency_limit.command
def inspect(name: Name, /, *, json: AsJson = False, output: Output = None) -> None:
    """Show a limit: which runs hold its slots, where, since when, and who waits."""
    limit = _limit(name)
    if json or output:
        print_json(_as_json(limit))
        return
    facts = {
        "name": limit.name,
        "id": limit.id,
        "limit": limit.limit,
        "active": limit.active,
        "slot_decay_per_second": limit.slot_decay_per_second,
        "active_slots": limit.active_slots,
        "created": local(limit.created),
        "updated": local(limit.updated),
    }
    print_limit(limit, facts)


@global_concurrency_limit.command
def update(
    name: Name,
    /,
    *,
    limit: Slots | None = None,
    slot_decay_per_second: Decay | None = None,
    active_slots: Active | None = None,
    enable: Annotated[
        bool | None, Parameter(negative="--disable", help="Whether it limits anything")
    ] = None,
) -> None:
    """Change a limit; what is not given stays as it is."""
    if (limit, slot_decay_per_second, active_slots, enable) == (None,) * 4:
        raise UsageError("nothing is to be changed: give --limit, say, or --active-slots")
    _update(name, limit, slot_decay_per_second, active_slots, enable)


@global_concurrency_limit.command
def enable(name: Name, /) -> None:
    """Have a limit limit again."""
    _update(name, active=True)


@global_concurrency_limit.command
def disable(name: Name, /) -> None:
    """Have a limit limit nothing until it is enabled."""
    _update(name, active=False)


@global_concurrency_limit.command
def delete(name: Name, /) -> None:
    """Remove a limit; what asks for its slots is free from then on."""
    from shoal.limits import ConcurrencyLimits

    _limit(name)
    ConcurrencyLimits().delete_global_concurrency_limit_by_name(name)
    print(f"There is no limit {name!r} any more.")


def _update(
    name: str,
    limit: int | None = None,
    decay: float | None = None,
    active_slots: int | None = None,
    active: bool | None = None,
) -> None:
    from shoal.limits import ConcurrencyLimits, GlobalConcurrencyLimitUpdate

    _limit(name)
    ConcurrencyLimits().update_global_concurrency_limit(
        name,
        GlobalConcurrencyLimitUpdate(
            limit=limit, active=active, active_slots=active_slots, slot_decay_per_second=decay
        ),
    )
    print(_sentence(_limit(name)))


def _limit(name: str) -> Limit:
    """The limit of this name; the error, if there is none, suggests what may have been meant."""
    from shoal.limits import ConcurrencyLimits

    limits = ConcurrencyLimits()
    try:
        return limits.read_global_concurrency_limit_by_name(name)
    except ConcurrencyLimitError as error:
        known = [limit.name for limit in limits.read_global_concurrency_limits()]
        error.add_note(did_you_mean(name, known))
        raise


def _as_json(limit: Limit) -> dict[str, object]:
    rate = limit.rate
    return {
        "id": limit.id,
        "name": limit.name,
        "limit": limit.limit,
        "active": limit.active,
        "slot_decay_per_second": limit.slot_decay_per_second,
        "rate": None if rate is None else {"count": rate.count, "seconds": rate.seconds},
        "active_slots": limit.active_slots,
        **as_json_of_both(limit),
    }


def _sentence(limit: Limit) -> str:
    slots = f"{limit.limit} slot{'' if limit.limit == 1 else 's'}"
    decay = limit.slot_decay_per_second
    again = f", of which {decay:g} are free again each second" if decay else ""
    state = "" if limit.active else "; it is disabled, and limits nothing"
    return f"Limit {limit.name!r}: {slots}{again}{state}."


def _waiting(limit: Limit) -> int:
    return sum(1 + waiter.behind for waiter in limit.waiters)
