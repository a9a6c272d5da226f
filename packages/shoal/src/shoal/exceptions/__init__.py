"""Every error that Shoal raises on its own account, in one tree.

May import `safely`. Everything else may import this module.

    ShoalError
    ├── RunError                  a run was asked for its result and there is none (or none yet)
    │   ├── FailedRun             FAILED without an exception of its own
    │   ├── CrashedRun            CRASHED: killed, exited, or interrupted
    │   │   └── WorkerDied        ... because its worker process went away
    │   ├── CancelledRun          CANCELLED
    │   ├── UnfinishedRun         not settled yet
    │   ├── UpstreamTaskError     never started, because a run it needs did not complete
    │   ├── TaskRunTimeout        an attempt exceeded timeout_seconds        (TimeoutError)
    │   ├── FlowRunTimeout        the same for a flow                        (TimeoutError)
    │   ├── MissingResult         completed, but its value is no longer kept
    │   ├── ResultLost            completed, but what held its value died
    │   ├── WaitCycle             waits for itself, over however many runs
    │   └── NestingTooDeep        runs inside runs past Python's stack       (RecursionError)
    ├── WaitTimeout               result(timeout), as_completed(timeout)     (TimeoutError)
    ├── BlockingWaitInLoop        result() where only await can work         (RuntimeError)
    ├── MissingContextError       needs a flow or task run around it         (RuntimeError)
    ├── ParameterTypeError        a flow parameter has the wrong type        (TypeError)
    ├── ParameterBindError        arguments do not fit the signature         (TypeError)
    ├── ReservedArgumentError     a parameter has a name that is ours        (TypeError)
    ├── MappingLengthMismatch     map() over iterables of different lengths  (ValueError)
    ├── MappingMissingIterable    map() without anything to map over         (ValueError)
    ├── InvalidOption             an impossible option                       (ValueError, TypeError)
    │   ├── UnknownOption         there is none of this name
    │   └── UnknownRunner         a runner name that nobody registered
    ├── RunNameError              a run name template that cannot be used    (ValueError, TypeError)
    ├── SerializationError        something cannot cross to a worker or back
    ├── UnstableKeyError          something has no key that is the same in every process (TypeError)
    ├── VisualizationError        a flow that cannot be drawn
    ├── ConcurrencyLimitError     a limit that is unknown, zero or misused
    ├── ConcurrencySlotAcquisitionError     slots that cannot be had
    ├── AcquireConcurrencySlotTimeoutError  slots that were not free in time (TimeoutError)
    ├── BackendError              a backend told of what cannot be            (RuntimeError)
    ├── RecordError               the record of a run that cannot be written or read
    ├── JournalError              a journal that cannot be written, read or gone on with
    ├── JournalBusy               the flow run is under way                  (RuntimeError)
    ├── RunNotFound               no flow run of this name is remembered     (LookupError)
    ├── ResultStorageError        what keeps results cannot be read or written
    ├── RunnerStateError          a runner used before, after, or twice      (RuntimeError)
    ├── MissingExtraError         a package is not installed                 (ImportError)
    ├── ClusterError              there is no cluster to run anything on
    │   ├── ClusterUnreachable    none answers at an address                 (ConnectionError)
    │   ├── ClusterFailed         it could not be started, or would not be joined
    │   └── EnvironmentMismatch   driver and cluster are too different to work together
    ├── ScriptError               a CLI target that cannot be loaded
    └── FlowNotFound              a CLI target without the flow asked for

An error is written like a dataclass: annotations are its facts, `_text` makes the message from them. Constructors
take facts by keyword only. (The real `dataclasses` would import `inspect`, too dear for `import shoal`.)
"""

# base.py       `ShoalError`
# runs.py       runs without a result, and waits
# calls.py      calls, their arguments, and options
# runners.py    runners, limits, records, and packages that are not installed
# clusters.py   clusters
# targets.py    what the command line is to run

from __future__ import annotations

from typing import TYPE_CHECKING, Any

# In the order in which the reference shows them.
# isort: off
from shoal.exceptions.base import ShoalError
from shoal.exceptions.runs import (
    RunError,
    FailedRun,
    CrashedRun,
    CancelledRun,
    WorkerDied,
    UnfinishedRun,
    UpstreamTaskError,
    TaskRunTimeout,
    FlowRunTimeout,
    MissingResult,
    ResultLost,
    WaitCycle,
    NestingTooDeep,
    WaitTimeout,
    BlockingWaitInLoop,
)
from shoal.exceptions.calls import (
    MissingContextError,
    ParameterTypeError,
    ParameterBindError,
    ReservedArgumentError,
    MappingLengthMismatch,
    MappingMissingIterable,
    InvalidOption,
    UnknownOption,
    RunNameError,
    SerializationError,
    UnstableKeyError,
    VisualizationError,
)
from shoal.exceptions.runners import (
    ConcurrencyLimitError,
    ConcurrencySlotAcquisitionError,
    AcquireConcurrencySlotTimeoutError,
    RunnerStateError,
    RecordError,
    JournalError,
    JournalBusy,
    RunNotFound,
    ResultStorageError,
    BackendError,
    MissingExtraError,
    UnknownRunner,
)
from shoal.exceptions.clusters import (
    ClusterError,
    ClusterUnreachable,
    ClusterFailed,
    EnvironmentMismatch,
)
from shoal.exceptions.targets import (
    ScriptError,
    FlowNotFound,
)
# isort: on

__all__ = [
    "AcquireConcurrencySlotTimeoutError",
    "BackendError",
    "BlockingWaitInLoop",
    "CancelledRun",
    "ClusterError",
    "ClusterFailed",
    "ClusterUnreachable",
    "ConcurrencyLimitError",
    "ConcurrencySlotAcquisitionError",
    "CrashedRun",
    "EnvironmentMismatch",
    "FailedRun",
    "FlowNotFound",
    "FlowRunTimeout",
    "InvalidOption",
    "JournalBusy",
    "JournalError",
    "MappingLengthMismatch",
    "MappingMissingIterable",
    "MissingContextError",
    "MissingExtraError",
    "MissingResult",
    "NestingTooDeep",
    "ParameterBindError",
    "ParameterTypeError",
    "RecordError",
    "ReservedArgumentError",
    "ResultLost",
    "ResultStorageError",
    "RunError",
    "RunNameError",
    "RunNotFound",
    "RunnerStateError",
    "ScriptError",
    "SerializationError",
    "ShoalError",
    "TaskRunTimeout",
    "UnfinishedRun",
    "UnknownOption",
    "UnknownRunner",
    "UnstableKeyError",
    "UpstreamTaskError",
    "VisualizationError",
    "WaitCycle",
    "WaitTimeout",
    "WorkerDied",
]

# Whatever file it is in, an error is one of this module: so it is shown, and pickled.
for _name in __all__:
    globals()[_name].__module__ = __name__


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        from shoal.elsewhere import missing

        raise missing(__name__, name)
