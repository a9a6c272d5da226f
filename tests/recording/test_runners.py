"""Recordings on threads and processes; see the suite. Dask's and Ray's are beside their other tests."""

from __future__ import annotations

import pytest

from tests.recording.suite import RecordingSuite


class TestThreads(RecordingSuite):
    """Two threads of this process."""

    travels = False

    @pytest.fixture
    def runner(self) -> str:
        return "threads:2"


@pytest.mark.slow
class TestProcesses(RecordingSuite):
    """Two worker processes."""

    @pytest.fixture
    def runner(self) -> str:
        return "processes:2"
