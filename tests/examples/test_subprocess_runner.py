"""The runner of the page "Writing a runner": the shared suite on it, and what is its own."""

from __future__ import annotations

import pytest
from shoal.testing import TaskRunnerSuite

from examples.subprocess_runner import SubprocessTaskRunner


class TestSubprocesses(TaskRunnerSuite):
    """Worker processes that a command starts; nothing is excused but what needs one memory."""

    @pytest.fixture
    def runner(self) -> SubprocessTaskRunner:
        return SubprocessTaskRunner(workers=2)

    @pytest.fixture
    def single_runner(self) -> SubprocessTaskRunner:
        return SubprocessTaskRunner(workers=1)
