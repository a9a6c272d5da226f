"""The suite on `ThreadPoolTaskRunner` (SPEC 11.4). What is the pool's own: `test_threads.py`."""

from __future__ import annotations

import pytest
from shoal.task_runners import ConcurrentTaskRunner, ThreadPoolTaskRunner
from shoal.testing import TaskRunnerSuite


class TestThreads(TaskRunnerSuite):
    @pytest.fixture
    def runner(self) -> ThreadPoolTaskRunner:
        return ThreadPoolTaskRunner(max_workers=2)

    @pytest.fixture
    def single_runner(self) -> ThreadPoolTaskRunner:
        return ThreadPoolTaskRunner(max_workers=1)

    def test_nothing_is_excused_but_what_needs_processes(self, flags: dict[str, bool]) -> None:
        missing = {flag for flag, present in flags.items() if not present}
        assert missing == {"isolated", "stops_hard"}


def test_alias() -> None:
    assert ConcurrentTaskRunner is ThreadPoolTaskRunner  # SPEC 1.4
