"""`ExecutorTaskRunner` on the executors of the standard library and of loky, and what is its own (SPEC 11.2, 11.4)."""

from __future__ import annotations

import os
import time
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import pytest
from loky import ProcessPoolExecutor as LokyExecutor
from manyhands import flow, task
from manyhands.exceptions import CrashedRun, InvalidOption, WorkerDied
from manyhands.task_runners import ExecutorTaskRunner
from manyhands.testing import TaskRunnerSuite
from manyhands.testing.samples import boom, hold, inc
from manyhands.testing.tools import PATIENCE, Signals, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SPAWN = get_context("forkserver")


class TestProcessPool(TaskRunnerSuite):
    """Made on entering, from a class and options."""

    @pytest.fixture
    def runner(self) -> ExecutorTaskRunner:
        return ExecutorTaskRunner(ProcessPoolExecutor, max_workers=2)

    @pytest.fixture
    def single_runner(self) -> ExecutorTaskRunner:
        return ExecutorTaskRunner(ProcessPoolExecutor, max_workers=1)


class TestThreadPool(TaskRunnerSuite):
    """Threads of this process: nothing is pickled."""

    @pytest.fixture
    def runner(self) -> ExecutorTaskRunner:
        return ExecutorTaskRunner(ThreadPoolExecutor, max_workers=2)

    @pytest.fixture
    def single_runner(self) -> ExecutorTaskRunner:
        return ExecutorTaskRunner(ThreadPoolExecutor, max_workers=1)
