"""The runner of the page "Writing a runner": the shared suite on it, and what is its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from shoal import flow, task
from shoal.exceptions import WorkerDied
from shoal.testing import TaskRunnerSuite

from examples import subprocess_runner
from examples.subprocess_runner import SubprocessTaskRunner


class TestSubprocesses(TaskRunnerSuite):
    """Worker processes that a command starts; nothing is excused but what needs one memory."""

    @pytest.fixture
    def runner(self) -> SubprocessTaskRunner:
        return SubprocessTaskRunner(workers=2)

    @pytest.fixture
    def single_runner(self) -> SubprocessTaskRunner:
        return SubprocessTaskRunner(workers=1)


@task
def make(size: int) -> bytes:
    return bytes(size)


@task
def measure(data: bytes) -> int:
    return len(data)


@task
def fall_over() -> None:
    os._exit(3)


def test_it_is_short() -> None:
    path = subprocess_runner.__file__
    assert path is not None
    assert len(Path(path).read_text().splitlines()) <= 250


def test_nothing_is_left_of_values_and_records(tmp_path: Path) -> None:
    """Not of those that workers made which have died, either."""

    @flow(task_runner=SubprocessTaskRunner(2, folder=str(tmp_path)))
    def main() -> None:
        made = make.submit(1_000_000)
        assert measure.submit(made).result() == 1_000_000
        assert [path for path in tmp_path.iterdir() if path.is_file()], "it stays in a file"
        assert isinstance(fall_over.submit().exception(), WorkerDied)
        assert len(made.result()) == 1_000_000, "its worker may be gone"
        assert measure.map([made, bytes(100_000)]).result() == [1_000_000, 100_000]

    main()
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_starts_no_worker() -> None:
    """Runs end; none waits for ever, nor is one worker started after another."""
    with SubprocessTaskRunner(2, command=("false",)) as runner:
        ended = runner.map(make, {"size": [1, 2, 3]})
        for run in ended:
            with pytest.raises(WorkerDied, match="before it said anything"):
                run.result(timeout=30)
