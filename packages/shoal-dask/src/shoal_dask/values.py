"""Values that a worker session has from elsewhere: from another worker of the cluster, or of a run that the driver knows.

May import what lies above task runners; no other file of this package.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from distributed.metrics import time as dask_time
from distributed.worker_state_machine import SecedeEvent
from shoal.calls import COMPLETED
from shoal.serialization import dumps, loads
from shoal.task_runners.remote import messages

if TYPE_CHECKING:
    from collections.abc import Callable

    from distributed import Worker
    from shoal.task_runners.remote.messages import Channel

__all__ = ["ClusterValues"]

#: Instead of a phase: the run will not end, as its runner has been left.
LEFT = -1


class ClusterValues:
    """Fetches values, and waits for those of the driver's runs.

    Args:
        worker: Dask's worker.
        channel: to the driver.
    """

    def __init__(self, worker: Worker, channel: Channel) -> None:
        self._worker = worker
        self._channel = channel
        self._wanted: dict[int, asyncio.Future[Any]] = {}

    def fetch(self, key: str) -> Any:
        """The value of a Dask key, wherever in the cluster it is; not for Dask's loop.

        Raises:
            KeyError: it is nowhere.
        """
        from distributed.utils import sync

        return sync(self._worker.loop, self._fetch, key)

    async def _fetch(self, key: str) -> Any:
        from distributed.utils_comm import gather_from_workers

        if key in self._worker.data:
            return self._worker.data[key]
        holders = await self._worker.scheduler.who_has(keys=[key])
        found, *_ = await gather_from_workers(holders, rpc=self._worker.rpc)
        return found[key]

    async def of_run(self, number: int, key: str) -> Callable[[], Any]:
        """What gives the value of a driver's run, once that has ended, for a Dask task that relays it."""
        now = dask_time()
        event = SecedeEvent(key=key, compute_duration=0.0, stimulus_id=f"secede-{now}")
        self._worker.handle_stimulus(event)
        wanted = self._wanted.get(number)
        if wanted is None:
            wanted = self._wanted[number] = asyncio.get_running_loop().create_future()
            self._channel.send(messages.WANTED, dumps(number))
        phase, data = await wanted
        self._wanted.pop(number, None)
        if phase == LEFT:
            raise RuntimeError("the runner of this run has been left")
        if not isinstance(data, bytes):
            value = await self._fetch(data)
            return lambda: value

        def give() -> Any:
            value, _ = loads(data)
            if phase != COMPLETED:
                raise value
            return value

        return give

    def refuse(self) -> None:
        """The runner has been left: what is waited for will not come. On Dask's loop."""
        error = (LEFT, None)
        for wanted in self._wanted.values():
            if not wanted.done():
                wanted.set_result(error)

    def take(self, number: int, phase: int, data: Any) -> None:
        """The driver says how a run has ended that was asked for."""

        def told() -> None:
            wanted = self._wanted.get(number)
            if wanted is not None and not wanted.done():
                wanted.set_result((phase, data))

        self._worker.loop.add_callback(told)
