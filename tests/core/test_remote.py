"""Workers across a process border: what they hold."""

from __future__ import annotations

from typing import Any

import pytest
from manyhands import task
from manyhands.task_runners.remote.batches import Batch, Rows
from manyhands.task_runners.remote.worker import RemoteWorker


@task
def work(x: int) -> int:
    return x


def batch_of_runs(number: int, runs: list[int]) -> Batch:
    """A batch as a worker has it."""
    lane: Any = None
    scope: Any = None
    rows = Rows({1: work}, ("calls", 1, runs, [(run,) for run in runs]), [frozenset()])
    return Batch(number, lane, rows, scope, 0)


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_a_run_that_was_handed_back_belongs_to_the_batch_it_came_with_again(
    order: tuple[int, int],
) -> None:
    """SPEC 9.1. Else its wait would be taken for one in the other batch, and would end with that."""
    worker = RemoteWorker(None, 1.0)
    held = {1: batch_of_runs(order[0], [7, 8]), 2: batch_of_runs(order[1], [8])}
    for batch in held.values():
        worker.batches[batch.number] = batch
    assert worker.batch_of(8) == (order[1], 0), "the one that came last"
    assert worker.batch_of(7) == (order[0], 0)
    assert worker.batch_of(9) is None
