"""`shoal concurrency-limit`: sets, shows and removes the limits of tags."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from shoal.exceptions import ConcurrencyLimitError
from shoal.spelling import did_you_mean

if TYPE_CHECKING:
    from datetime import datetime

    from shoal.limits import ConcurrencyLimit

__all__ = ["concurrency_limit"]

concurrency_limit = App(
    help="Limit how many runs with a tag run at once, in all processes of this machine.",
)

NewTag = Annotated[str, Parameter(help="The tag", allow_leading_hyphen=True)]
Tag = Annotated[
    str,
    Parameter(help="The tag", allow_leading_hyphen=True, completer=names_for_shell(tags=True)),
]


@concurrency_limit.command
def create(
    tag: NewTag,
    limit: Annotated[int, Parameter(help="The most runs at once; at 0, runs are aborted")],
    /,
) -> None:
    """Set the limit of a tag, or change it."""
    from shoal.limits import ConcurrencyLimits

    ConcurrencyLimits().create_concurrency_limit(tag, limit)
    print(f"Limit of tag {tag!r}: {_most(limit)}.")


@concurrency_limit.command
def ls() -> None:
    """List all limits."""
    from shoal.limits import ConcurrencyLimits

    limits = ConcurrencyLimits().read_concurrency_limits()
    if not limits:
        print("There are no limits. Set one with `shoal concurrency-limit create TAG N`.")
        return
    width = max(3, *(len(limit.tag) for limit in limits))  # of the longest tag, or of "TAG"
    print(f"{'TAG':{width}}   LIMIT  ACTIVE")
    for limit in limits:
        active = len(limit.active_slots)
        print(f"{limit.tag:{width}}  {limit.concurrency_limit:>6}  {active:>6}")


@concurrency_limit.command
def read(tag: Tag, /) -> None:
    """Show the limit of a tag, and the ids of the runs that hold its slots."""
    limit = _limit(tag)
    print(f"tag:                {limit.tag}")
    print(f"id:                 {limit.id}")
    print(f"concurrency_limit:  {limit.concurrency_limit}")
    print(f"created:            {_local(limit.created)}")
    print(f"updated:            {_local(limit.updated)}")
    print(f"active_slots:       {len(limit.active_slots)}")
    for run_id in limit.active_slots:
        print(f"  {run_id}")


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


def _most(limit: int) -> str:
    if limit == 0:
        return "0, so its runs are aborted"
    return f"at most {limit} run{'' if limit == 1 else 's'} at once"


def _local(when: datetime) -> str:
    return f"{when.astimezone():%Y-%m-%d %H:%M:%S}"
