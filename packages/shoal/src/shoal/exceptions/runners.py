"""A runner, a limit, a record or a package cannot be used.

May import `base` and `calls`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoal.exceptions.base import ShoalError, names_of
from shoal.exceptions.calls import InvalidOption
from shoal.spelling import or_perhaps

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "AcquireConcurrencySlotTimeoutError",
    "BackendError",
    "ConcurrencyLimitError",
    "ConcurrencySlotAcquisitionError",
    "JournalBusy",
    "JournalError",
    "MissingExtraError",
    "RecordError",
    "ResultStorageError",
    "RunNotFound",
    "RunnerStateError",
    "UnknownRunner",
]


class ConcurrencyLimitError(ShoalError):
    """A concurrency limit is unknown, is zero, or cannot be used as asked.

    Attributes:
        tag: the limit's tag or name; `*` for all of them.
        problem: what is wrong, and what to do.
        run_name: the run that needed it, or `None`.
    """

    tag: str
    problem: str
    run_name: str | None = None

    def _text(self) -> str:
        needed = "" if self.run_name is None else f", needed by run {self.run_name!r}"
        which = "limits" if self.tag == "*" else f"limit {self.tag!r}"
        return f"Concurrency {which}{needed}: {self.problem}"


class ConcurrencySlotAcquisitionError(ShoalError):
    """Slots of limits could not be had, and waiting would not change that.

    Attributes:
        names: of the limits.
        problem: what is wrong, and what to do.
    """

    names: tuple[str, ...]
    problem: str

    def _text(self) -> str:
        return f"No slots of {names_of(self.names)} could be acquired: {self.problem}"


class AcquireConcurrencySlotTimeoutError(ShoalError, TimeoutError):
    """Slots of limits were not free within the time that the caller gave.

    Attributes:
        names: of the limits.
        timeout_seconds: how long was waited.
    """

    names: tuple[str, ...]
    timeout_seconds: float

    def _text(self) -> str:
        return f"Slots of {names_of(self.names)} were not free within {self.timeout_seconds:g} s."


class RunnerStateError(ShoalError, RuntimeError):
    """A task runner was used before it was entered or after it was left, or was entered twice.

    Attributes:
        runner: the runner's name.
        problem: what was attempted, and what to do instead.
    """

    runner: str
    problem: str

    def _text(self) -> str:
        return f"{self.runner}: {self.problem}"


class BackendError(ShoalError, RuntimeError):
    """A task runner's backend has told of something that cannot be; this is in the log, and harms no run.

    Attributes:
        runner: the runner's name.
        event: what it called.
        batch: the number of the batch that it spoke of.
        problem: what cannot be.
    """

    runner: str
    event: str
    batch: int
    problem: str

    def _text(self) -> str:
        return f"{self.runner}'s backend told {self.event!r} of batch {self.batch}: {self.problem}"


class RecordError(ShoalError):
    """The record of a run cannot be written or read.

    Attributes:
        path: of the file or folder.
        problem: what is wrong, and what to do.
    """

    path: str
    problem: str

    def _text(self) -> str:
        return f"Record {self.path!r}: {self.problem}"


class ResultStorageError(ShoalError):
    """What keeps results cannot be used: written, read, or trusted. A run goes on without it.

    Attributes:
        place: the folder or URL.
        problem: what is wrong, and what to do.
    """

    place: str
    problem: str

    def _text(self) -> str:
        return f"Results in {self.place}: {self.problem}"


class JournalError(ShoalError):
    """The journal of a flow run cannot be read or written, or its flow cannot be found.

    Attributes:
        path: of the file or folder.
        problem: what is wrong, and what to do.
    """

    path: str
    problem: str

    def _text(self) -> str:
        return f"Journal {self.path!r}: {self.problem}"


class JournalBusy(ShoalError, RuntimeError):
    """Somebody is at the journal: the flow run has not ended yet, or is being resumed.

    Attributes:
        name: of the flow run.
    """

    name: str

    def _text(self) -> str:
        return f"flow run {self.name!r} is under way, here or in another process: it can be resumed, or removed, once that has ended"


class RunNotFound(ShoalError, LookupError):
    """There is no journal of a flow run of this name.

    Attributes:
        name: what was asked for.
        folder: where it was looked for.
        known: names of those that there are.
    """

    name: str
    folder: str
    known: Sequence[str] = ()

    def _text(self) -> str:
        text = f"no flow run {self.name!r} is remembered in {self.folder}"
        if not self.known:
            return f"{text}, nor any other; `shoal run FLOW --journal` begins one that is"
        return f"{text}{or_perhaps(self.name, self.known)} `shoal runs ls` lists those that are"


class MissingExtraError(ShoalError, ImportError):
    """A feature needs a package that is not installed.

    Attributes:
        feature: what was asked for, say "the task runner 'dask'".
        requirement: what to install, say "shoal-dask" or "bokeh".
    """

    feature: str
    requirement: str

    @property
    def command(self) -> str:
        """The exact command that installs it; for packages of ours, in a clone of the repository."""
        if self._ours:  # there are no releases yet
            if self.requirement.startswith("shoal["):
                return _install(f'"./packages/{self.requirement}"')
            return _install(f"./packages/shoal ./packages/{self.requirement}")
        return _install(f'"{self.requirement}"')

    @property
    def _ours(self) -> bool:
        return self.requirement.startswith(("shoal-", "shoal["))

    def _text(self) -> str:
        where = " (in a clone of Shoal's repository)" if self._ours else ""
        return f"{self.feature} needs a package that is not installed: {self.command}{where}"


def _install(packages: str) -> str:
    """The command that installs into the environment in which this program runs, and into no other."""
    import shlex
    import sys
    from importlib.util import find_spec

    python = shlex.quote(sys.executable or "python3")
    if find_spec("pip") is None:  # an environment that uv has made has none of its own
        return f"uv pip install {packages} --python {python}"
    return f"{python} -m pip install {packages}"


class UnknownRunner(InvalidOption):
    """No task runner has this name or address.

    Attributes:
        runner: what was asked for, say "treads:4".
        known: names that would do.
    """

    runner: str
    known: Sequence[str] = ()
    option: str = "task_runner"
    value: object = None
    problem: str = "there is no such task runner"

    def _prepare(self) -> None:
        self.value = self.runner
        super()._prepare()

    def _text(self) -> str:
        there = "There" if self.where is None else f"{self.where}: there"
        perhaps = or_perhaps(self.runner.partition(":")[0], self.known)
        return f"{there} is no task runner {self.runner!r}{perhaps} Known: {names_of(self.known)}."
