"""A start that waits for the first run."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from shoal.task_runners.remote.late_start import LateStart


class Taker:
    """As much of a dispatcher as there is to it."""

    closed = False
    problem = ""

    def __init__(self) -> None:
        self.taken: list[Any] = []

    def submit(self, what: Any) -> Any:
        self.taken.append(what)
        return what

    def submit_map(self, *, some: list[Any]) -> Any:
        self.taken += some
        return some

    def close_for(self, problem: str) -> None:
        self.closed, self.problem = True, problem


def late(taker: Any, start: Any) -> LateStart:
    return LateStart(taker, start)


@pytest.mark.parametrize("first", ["submit", "submit_map"])
def test_the_first_run_starts_it(first: str) -> None:
    taker, started = Taker(), list[int]()
    start = late(taker, lambda which: started.append(len(which.taken)))
    assert not start.has_started()
    assert taker.submit(1) == 1 if first == "submit" else taker.submit_map(some=[1]) == [1]
    assert started == [0]  # before it was taken
    assert start.has_started()
    taker.submit(2)
    taker.submit_map(some=[3])
    assert taker.taken == [1, 2, 3]
    assert started == [0]


def test_several_threads_start_it_once_and_all_wait_for_that() -> None:
    taker, started = Taker(), list[int]()
    all_are_there = threading.Barrier(4)
    late(taker, lambda which: started.append(len(which.taken)))

    def submit(number: int) -> None:
        all_are_there.wait()
        taker.submit(number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(submit, range(4)))
    assert started == [0]
    assert sorted(taker.taken) == [0, 1, 2, 3]


def test_what_cannot_start_says_so_to_who_submits_and_there_is_nothing_to_be_stopped() -> None:
    taker = Taker()

    def start(which: Any) -> None:
        raise OSError("no cluster")

    starts = late(taker, start)
    with pytest.raises(OSError, match="no cluster"):
        taker.submit(1)
    assert taker.closed
    assert "could not be started" in taker.problem
    assert taker.taken == []
    assert not starts.has_started()


def test_who_has_been_left_is_not_started() -> None:
    taker, started = Taker(), list[int]()
    starts = late(taker, started.append)
    taker.closed = True
    taker.submit(1)  # a dispatcher refuses that
    assert started == []
    assert not starts.has_started()
