"""States: what can be said of a run at a moment, and how its value or exception is had from one.

A `State` is a value: it is made often, so it is cheap to make, and it is never changed after it was. The scheduler
keeps plain integers instead (`shoal.calls`) and makes a state when somebody asks for one.
"""

# state.py          `State`, and the exception that stands for one
# several.py        what becomes of a run that returned states
# constructors.py   `Completed()` and so on
#
# May import `exceptions` and `safely`.

from __future__ import annotations

# In the order in which the reference shows them.
# isort: off
from shoal.states.state import (
    TERMINAL_TYPES,
    StateType,
    State,
    get_state_exception,
    raise_state_exception,
)
from shoal.states.several import aggregate_states
from shoal.states.constructors import (
    Pending,
    Queued,
    NotReady,
    Running,
    Retrying,
    Completed,
    Failed,
    TimedOut,
    Crashed,
    Cancelled,
    Cancelling,
    Paused,
    Scheduled,
    AwaitingRetry,
)
# isort: on

__all__ = [
    "TERMINAL_TYPES",
    "AwaitingRetry",
    "Cancelled",
    "Cancelling",
    "Completed",
    "Crashed",
    "Failed",
    "NotReady",
    "Paused",
    "Pending",
    "Queued",
    "Retrying",
    "Running",
    "Scheduled",
    "State",
    "StateType",
    "TimedOut",
    "aggregate_states",
    "get_state_exception",
    "raise_state_exception",
]

# Whatever file it is in, each is one of this module: so it is shown, and pickled.
for _name in __all__:
    if callable(globals()[_name]):
        globals()[_name].__module__ = __name__
