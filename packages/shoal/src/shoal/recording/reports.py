"""`SHOAL_REPORT`: a report of each outermost flow run, in a folder.

    flow run begins ──▶ a recording ──▶ flow run ends ──▶ folder/flow-name-of-the-run.html

May import `recording` and what lies above it.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from shoal import settings
from shoal.engine.observing import add_observer, remove_observer
from shoal.exceptions import RecordError
from shoal.logs import library_logger, log_failure
from shoal.recording.recording import Recording, check_writable

if TYPE_CHECKING:
    from shoal.calls import Call, Outcome
    from shoal.context import FlowRun
    from shoal.states import State

__all__ = ["report_to"]


def report_to(folder: str) -> None:
    """From now on each outermost flow run of this process is reported to a folder, which is made if need be.

    Raises:
        RecordError: it cannot be written.
    """
    global _reports
    if _reports is not None and folder == _reports.folder:
        return
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise RecordError(path=folder, problem=f"it cannot be made: {error}") from error
    check_writable(os.path.join(folder, "report.html"))
    if _reports is not None:
        remove_observer(_reports)
    _reports = _Reports(folder)
    add_observer(_reports)


def _no_more(reports: _Reports) -> None:
    """Nobody asks for reports any more: what runs from now on is not observed for their sake."""
    global _reports
    remove_observer(reports)
    if _reports is reports:
        _reports = None


class _Reports:
    """An observer that records each outermost flow run.

    Args:
        folder: of the reports.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._recordings: dict[int, Recording] = {}

    def flow_run_began(self, run: FlowRun) -> None:
        """See `Observer`."""
        if run.parent is not None:
            return
        if settings.report_folder() != self.folder:
            if not self._recordings:
                _no_more(self)
            return
        recording = Recording()
        try:
            recording.__enter__()
        except Exception as error:  # no room for a temporary file: the flow goes on
            log_failure(error, "Flow run %r is not recorded", run.name)
            return
        self._recordings[run.number] = recording
        recording.recorder.flow_run_began(run)  # it observes since, and was not told

    def flow_run_entered(self, run: FlowRun, runner: Any) -> None:
        """See `Observer`."""

    def flow_run_ended(self, run: FlowRun, state: State[Any]) -> None:
        """See `Observer`."""
        recording = self._recordings.pop(run.number, None)
        if recording is None:
            return
        name = re.sub(r"[^\w.-]+", "-", f"{run.flow.name}-{run.name}")
        try:
            recording.recorder.flow_run_ended(run, state)
            recording.__exit__(None, None, None)
            path = recording.report(os.path.join(self.folder, f"{name}.html"))
        except Exception as error:  # the flow has ended as it has
            log_failure(error, "The report of flow run %r could not be written", run.name)
        else:
            library_logger().info("The report of flow run %r is %s", run.name, path)

    def runner_entered(self, runner: Any) -> None:
        """See `Observer`."""

    def called(self, call: Call, outcome: Outcome, began: float, ended: float) -> None:
        """See `Observer`."""


_reports: _Reports | None = None
