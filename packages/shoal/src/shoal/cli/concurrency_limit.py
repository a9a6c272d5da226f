"""`shoal concurrency-limit`: sets, shows and removes the limits of tags."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from shoal.cli.limits_shown import as_json_of_both, names_for_shell, print_limit, whole_number
from shoal.cli.tables import AsJson, Output, local, print_json, table_of
from shoal.exceptions import ConcurrencyLimitError
from shoal.spelling import did_you_mean

if TYPE_CHECKING:
    from shoal.limits import ConcurrencyLimit

__all__ = ["concurrency_limit"]

concurrency_limit = App(
    help="Limit how many runs with a tag run at once, in all processes that share the limits.",
)

NewTag = Annotated[str, Parameter(help="The tag", allow_leading_hyphen=True)]
Tag = Annotated[
    str,
    Parameter(help="The tag", allow_leading_hyphen=True, completer=names_for_shell(tags=True)),
]


@concurrency_limit.command
def create(
    tag: NewTag,
    limit: Annotated[
        int,
        Parameter(help="The most runs at once; at 0, runs are aborted", converter=whole_number),
    ],
    /,
) -> None:
    """Set the limit of a tag, or change it."""
    from shoal.limits import ConcurrencyLimits

    ConcurrencyLimits().create_concurrency_limit(tag, limit)
    print(f"Limit of tag {tag!r}: {_most(limit)}.")


@concurrency_limit.command
def ls(*, json: AsJson = False, output: Output = None) -> None:
    """List all limits."""
    from shoal.limits import ConcurrencyLimits

    limits = ConcurrencyLimits().read_concurrency_limits()
    if json or output:
        print_json([_as_json(limit) for limit in limits])
    elif not limits:
        print("There are no limits. Set one with `shoal concurrency-limit create TAG N`.")
    else:
        table_of(
            ("TAG", "LIMIT", "ACTIVE"),
            [(limit.tag, limit.concurrency_limit, len(limit.active_slots)) for limit in limits],
        )


@concurrency_limit.command
def read(tag: Tag, /, *, json: AsJson = False, output: Output = None) -> None:
    """Show the limit of a tag: which runs hold its slots, where, since when, and who waits."""
    limit = _limit(tag)
    if json or output:
        print_json(_as_json(limit))
        return
    facts = {
        "tag": tag,
        "id": limit.id,
        "concurrency_limit": limit.concurrency_limit,
        "created": local(limit.created),
        "updated": local(limit.updated),
        "active_slots": len(limit.active_slots),
    }
    print_limit(limit, facts)


@concurrency_limit.command
def delete(tag: Tag, /) -> None:
    """Remove the limit of a tag; its runs are free from then on."""
    from shoal.limits import ConcurrencyLimits

    _limit(tag)
    ConcurrencyLimits().delete_concurrency_limit_by_tag(tag)
    print(f"Tag {tag!r} has no limit any more.")


@concurrency_limit.command
def reset(tag: Tag, /) -> None:
    """Free all slots of a tag at once; runs that hold one go on."""
    from shoal.limits import ConcurrencyLimits

    held = len(_limit(tag).active_slots)
    ConcurrencyLimits().reset_concurrency_limit_by_tag(tag)
    print(f"Limit of tag {tag!r}: {held} slot{'' if held == 1 else 's'} freed.")


def _limit(tag: str) -> ConcurrencyLimit:
    """The limit of a tag; the error, if it has none, suggests what may have been meant."""
    from shoal.limits import ConcurrencyLimits

    limits = ConcurrencyLimits()
    try:
        return limits.read_concurrency_limit_by_tag(tag)
    except ConcurrencyLimitError as error:
        error.add_note(did_you_mean(tag, [limit.tag for limit in limits.read_concurrency_limits()]))
        raise


def _as_json(limit: ConcurrencyLimit) -> dict[str, object]:
    return {
        "id": limit.id,
        "tag": limit.tag,
        "concurrency_limit": limit.concurrency_limit,
        "active_slots": limit.active_slots,
        **as_json_of_both(limit),
    }


def _most(limit: int) -> str:
    if limit == 0:
        return "0, so its runs are aborted"
    return f"at most {limit} run{'' if limit == 1 else 's'} at once"
