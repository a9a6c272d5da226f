from __future__ import annotations

import pytest
from manyhands.task_runners import ThreadPoolTaskRunner
from manyhands.testing import TaskRunnerSuite

class TestThreads(TaskRunnerSuite):
    @pytest.fixture
    def runner(self):
        return ThreadPoolTaskRunner(max_workers=2)
    @pytest.fixture
    def single_runner(self):
        return ThreadPoolTaskRunner(max_workers=1)
