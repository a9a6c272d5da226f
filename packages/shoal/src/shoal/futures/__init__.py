"""Futures: what a submitted run gives back, alone, as a list, or as a view of one element of a map.

A `TaskFuture` is the driver's record of one run. The common run is claimed, run and settled without a lock, by two
tokens: slots that exist until somebody deletes them. Deleting a slot is one step of the interpreter that fails where
the slot is gone, so exactly one thread succeeds.

    _start    exists while the run is ready; who deletes it may start the run (a worker) or see that none does (cancel)
    _open     exists until the run ends; who deletes it writes the end: `_outcome`, `_since`, and last `_phase`
    _phase    otherwise written by the scheduler under `LOCK`; "running" is READY without `_start`, or RUNNING
    _detail   made under `LOCK` by whoever first needs it: a waiter, a dependant, a retry

Readers take no lock: who sees a done phase sees its outcome. The window between "not done" and "registered" closes
because one side writes `_detail` and then reads `_phase`, and the other writes `_phase` and then reads `_detail`.

A map is one `MapRecord`: columns of arguments, times and values. An element has a `TaskFuture` as soon as anything
asks for more than its value: the user takes it, it fails, somebody depends on it.

    blocking.py      how a thread waits
    side_threads.py  and one that a run has started
    awaiting.py      how a coroutine waits
    places.py        what a run lends while it waits
    run.py           `TaskFuture`, and what it asks of its `Owner`
    maps.py          `MapRecord`
    collections.py   `TaskFutureList`, `wait`, `as_completed`

May import `calls`, what surrounds a run, and what things are called.
"""

from typing import TYPE_CHECKING, Any

from shoal.futures.blocking import Countdown, Waitable, Wanted, block, block_plainly
from shoal.futures.collections import (
    DoneAndNotDoneFutures,
    TaskFutureList,
    as_completed,
    resolve_futures_to_results,
    resolve_futures_to_states,
    wait,
)
from shoal.futures.maps import NO_VALUE, MapRecord, Span
from shoal.futures.run import Detail, TaskFuture

__all__ = [
    "DoneAndNotDoneFutures",
    "TaskFuture",
    "TaskFutureList",
    "as_completed",
    "resolve_futures_to_results",
    "resolve_futures_to_states",
    "wait",
]

# The names that Prefect's kinds of futures have: here there is one.
PrefectFuture = TaskFuture
PrefectTaskRunFuture = TaskFuture
PrefectWrappedFuture = TaskFuture
PrefectConcurrentFuture = TaskFuture
PrefectDistributedFuture = TaskFuture
PrefectFutureList = TaskFutureList

# For the rest of the library.
_INTERNAL = (
    NO_VALUE,
    Countdown,
    Detail,
    MapRecord,
    Span,
    Waitable,
    Wanted,
    block,
    block_plainly,
)

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        from shoal.elsewhere import missing

        raise missing(__name__, name)
