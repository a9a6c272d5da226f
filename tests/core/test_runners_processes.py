"""The shared suite on the process pool."""

from __future__ import annotations

import pytest
from shoal.task_runners import ProcessPoolTaskRunner
from shoal.testing import TaskRunnerSuite


class TestProcessPool(TaskRunnerSuite):
    """Worker processes; nothing is excused but what needs one memory."""

    @pytest.fixture
    def runner(self) -> ProcessPoolTaskRunner:
        return ProcessPoolTaskRunner(max_workers=2)

    @pytest.fixture
    def single_runner(self) -> ProcessPoolTaskRunner:
        return ProcessPoolTaskRunner(max_workers=1)
