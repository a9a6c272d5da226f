"""States: what can be said of a run at a moment, and how its value or exception is had from one.

A `State` is a value: it is made often, so it is cheap to make, and it is never changed after it was. The scheduler
keeps plain integers instead (`shoal.calls`) and makes a state when somebody asks for one.
"""

# state.py          `State`, and the exception that stands for one
# details.py        `StateDetails`: what else is known of one
# several.py        what becomes of a run that returned states
# constructors.py   `Completed()` and so on
# derived.py        several counted, and states made of exceptions; on use
#
# May import `details`, `elsewhere`, `exceptions` and `safely`.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal import elsewhere

# In the order in which the reference shows them.
# isort: off
from shoal.states.state import (
    TERMINAL_TYPES,
    StateType,
    State,
    StateDetails,
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
    AwaitingConcurrencySlot,
)
# isort: on

if TYPE_CHECKING:
    from shoal.states.derived import (
        StateGroup,
        exception_to_crashed_state,
        exception_to_failed_state,
    )

__all__ = [
    "TERMINAL_TYPES",
    "AwaitingConcurrencySlot",
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
    "StateDetails",
    "StateGroup",
    "StateType",
    "TimedOut",
    "aggregate_states",
    "exception_to_crashed_state",
    "exception_to_failed_state",
    "get_state_exception",
    "raise_state_exception",
]

# Whatever file it is in, each is one of this module: so it is shown, and pickled.
for _name in __all__:
    if callable(globals().get(_name)):
        globals()[_name].__module__ = __name__

elsewhere.mark(State)

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name in __all__:  # and not above
            from shoal.states import derived

            value = globals()[name] = getattr(derived, name)
            return value
        raise elsewhere.missing(__name__, name)
