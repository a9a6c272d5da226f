from __future__ import annotations

import pytest
from manyhands.task_runners import SequentialTaskRunner
from manyhands.testing import TaskRunnerSuite

class TestSequential(TaskRunnerSuite):
    @pytest.fixture
    def runner(self):
        return SequentialTaskRunner()
    @pytest.fixture
    def single_runner(self):
        return SequentialTaskRunner()
