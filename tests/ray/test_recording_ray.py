"""Recordings of runs on Ray; see the suite."""

from __future__ import annotations

import pytest
from shoal_ray import RayTaskRunner

from tests.recording.suite import RecordingSuite

pytestmark = [
    pytest.mark.slow,
    pytest.mark.may_leave(
        "threads",
        "processes",
        "fds",
        reason="Ray starts worker processes, threads and connections as it needs them",
    ),
]


class TestRay(RecordingSuite):
    """An instance of two CPUs, which the session keeps."""

    @pytest.fixture
    def runner(self, local_ray: RayTaskRunner) -> RayTaskRunner:
        return RayTaskRunner()
