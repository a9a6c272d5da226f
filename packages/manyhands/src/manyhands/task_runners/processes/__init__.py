"""The process pool: worker processes of this machine.

driver     runner.py      `ProcessPoolTaskRunner`: what users configure
           backend.py     sends batches, hears what workers say, sees to their runs when they die
           contents.py    what a batch holds
           members.py     the books about workers
           nested.py      runs that workers submit
           spawning.py    how workers start and end
server     server.py      the process that workers are forked from
worker     worker.py      runs batches, reports, waits
           batches.py     a batch as its worker has it
           coroutines.py  async tasks
           remote.py      the driver's dispatcher, as runs on a worker see it
between    wire.py        messages
           record.py      outcomes, in memory that outlives the worker
           parcels.py     values as they cross; segments.py: large ones, in shared memory
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from manyhands.task_runners.processes.runner import ProcessPoolTaskRunner

__all__ = ["ProcessPoolTaskRunner"]


def __getattr__(name: str) -> Any:
    # On use only: a worker imports this package too, and has no use for the driver's half.
    if name != "ProcessPoolTaskRunner":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from manyhands.task_runners.processes.runner import ProcessPoolTaskRunner

    return ProcessPoolTaskRunner
