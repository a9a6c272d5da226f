"""Dask's performance report of what happens while a runner is entered.

`distributed.performance_report` does the same for the ambient client, which may be another one, or none. May import
Shoal's errors and logs; fsspec on use.
"""

from __future__ import annotations

import importlib.util
import os
import time
from typing import Any

from shoal.exceptions import MissingExtraError
from shoal.logs import library_logger

__all__ = ["Report", "check_bokeh"]


def check_bokeh() -> None:
    """Makes sure that a report could be drawn.

    Raises:
        MissingExtraError: bokeh is not installed.
    """
    if importlib.util.find_spec("bokeh") is None:
        raise MissingExtraError(feature="performance_report_path", requirement="bokeh")


class Report:
    """A report that begins now.

    Args:
        client: the `distributed.Client`.
        path: where the HTML goes; anything that fsspec can write to.
    """

    def __init__(self, client: Any, path: str | os.PathLike[str]) -> None:
        def beginning(dask_scheduler: Any = None) -> int:
            count: int = dask_scheduler.monitor.count
            return count

        self._client = client
        self._path = os.fspath(path)
        self._start = time.time()
        self._count = client.run_on_scheduler(beginning)
        client.get_task_stream(
            start=0, stop=0
        )  # from now on the scheduler keeps what it is drawn from

    def write(self) -> None:
        """Draws and writes it. That this fails must not hide how the flow ended: it is a warning."""
        import fsspec

        try:
            html = self._client.sync(self._draw)
            opened: Any = fsspec.open(self._path, mode="w", compression="infer")
            with opened as file:
                file.write(html)
        except Exception as error:
            library_logger().warning(
                "The performance report %s could not be written: %r", self._path, error
            )

    async def _draw(self) -> Any:
        return await self._client.scheduler.performance_report(
            start=self._start, last_count=self._count, code="", mode=None
        )
