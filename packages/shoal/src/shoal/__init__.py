"""Shoal: write a flow of tasks once; run it on threads, or on any task runner.

    elsewhere                                   what Prefect has and Shoal has not, or in another place
    safely, markup, spelling, tracebacks        words that can always be found, and as HTML; what somebody meant; tracebacks
    exceptions, states, annotations, settings   what things are called
    specs, backoff, validation                  what a task and a flow are; retry delays; parameters of flows
    serialization                               what travels between processes
    context, run_records, logs, names, runtime  what surrounds a run
    calls, futures                              a run to be, and a run
    engine                                      runs one attempt
    scheduling                                  decides what runs when
    limits                                      how many of something run at once, or in a time
    recording                                   what ran when
    results                                     results that are kept
    task_runners                                where it runs
    signatures, checks                          what type checkers are told of tasks; what tasks and flows have alike
    logging, utilities, serializers, locking    names where Prefect has them
    concurrency, cache_policies                 limits for any code; what a kept result depends on
    transactions                                what is committed together, or rolled back together
    direct_calls                                tasks that are called, with caps and limits
    tasks, flows                                the decorators
    testing, cli                                for authors of runners; the command

Each imports only from those above it. The public names below load on first access. What the words mean is told by
`docs/glossary.md`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__path__.append(f"{__path__[0]}/absent")  # what Prefect has and Shoal has not; see `elsewhere`

if TYPE_CHECKING:
    from shoal.annotations import allow_failure, opaque, quote, unmapped
    from shoal.context import tags
    from shoal.flows import Flow, flow
    from shoal.logs import get_run_logger
    from shoal.recording.recording import Recording, record
    from shoal.states import State
    from shoal.tasks import Task, task
    from shoal.transactions import Transaction

    __version__: str

__all__ = [
    "Flow",
    "Recording",
    "State",
    "Task",
    "Transaction",
    "allow_failure",
    "flow",
    "get_run_logger",
    "opaque",
    "quote",
    "record",
    "tags",
    "task",
    "unmapped",
]

_HOMES = {
    "Flow": "flows",
    "Recording": "recording.recording",
    "State": "states",
    "Task": "tasks",
    "Transaction": "transactions",
    "allow_failure": "annotations",
    "flow": "flows",
    "get_run_logger": "logs",
    "opaque": "annotations",
    "quote": "annotations",
    "record": "recording.recording",
    "tags": "context",
    "task": "tasks",
    "unmapped": "annotations",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("shoal")
    from importlib import import_module

    home = _HOMES.get(name)
    if home is None:
        from shoal.elsewhere import missing

        raise missing(__name__, name)
    value = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
