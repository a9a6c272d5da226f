"""`StateDetails`: what is known of a state beyond its type, name, message and data. May import `names`, on use."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["StateDetails", "uuid_of"]


class StateDetails(NamedTuple):
    """What is known of a state beyond its type, name, message and data.

    Attributes:
        flow_run_id: the UUID of the flow run that it is a state of, or in which its task run was submitted; `None`
            outside a flow, and for a state that belongs to no run yet.
        task_run_id: the UUID of the task run that it is a state of; `None` for a flow run's.
        scheduled_time: when the run is to start, in UTC; `None` where nothing is planned.
        cache_key: always `None`: `shoal cache` shows the keys of results.
        cache_expiration: likewise.
    """

    flow_run_id: str | None = None
    task_run_id: str | None = None
    scheduled_time: datetime | None = None
    cache_key: str | None = None
    cache_expiration: datetime | None = None


def uuid_of(run: int | str | None) -> str | None:
    """The UUID of a run, by its number or its UUID."""
    from shoal.names import run_uuid

    return run_uuid(run) if isinstance(run, int) else run
