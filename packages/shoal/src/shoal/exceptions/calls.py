"""A call, its arguments or an option cannot be used.

May import `base`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoal.elsewhere import purpose_of_option
from shoal.exceptions.base import ShoalError, names_of, shown
from shoal.spelling import or_perhaps

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "InvalidOption",
    "MappingLengthMismatch",
    "MappingMissingIterable",
    "MissingContextError",
    "ParameterBindError",
    "ParameterTypeError",
    "ReservedArgumentError",
    "RunNameError",
    "SerializationError",
    "UnknownOption",
    "UnstableKeyError",
    "VisualizationError",
]


class MissingContextError(ShoalError, RuntimeError):
    """Something was used outside the run it needs.

    Attributes:
        task_name: the task that was submitted, or `None`.
        what: what else was attempted, say "get_run_logger()", or `None`.
    """

    task_name: str | None = None
    what: str | None = None

    def _text(self) -> str:
        if self.what is not None:
            return f"{self.what} works only inside a flow run or a task run."
        task = "A task" if self.task_name is None else f"Task {self.task_name!r}"
        return (
            f"{task} was submitted outside a flow. Submit it inside a function decorated with @flow, call it "
            "directly, or use a runner by itself: `with ThreadPoolTaskRunner() as runner: runner.submit(...)`."
        )


class ParameterTypeError(ShoalError, TypeError):
    """A flow was called with a parameter that does not fit its annotation.

    Attributes:
        flow_name: the flow.
        parameter: the parameter, with the path inside it where that is known ("config.retries").
        value: the value; kept as a short repr.
        problem: what is wrong with it.
    """

    flow_name: str
    parameter: str
    value: object
    problem: str

    def _prepare(self) -> None:
        self.value = shown(self.value)

    def _text(self) -> str:
        return (
            f"Flow {self.flow_name!r}: parameter {self.parameter!r} is {self.value}: {self.problem}"
        )


class ParameterBindError(ShoalError, TypeError):
    """The arguments of a call do not fit the signature of the task or flow.

    Attributes:
        task_name: the task or flow.
        problem: what does not fit.
        argument: the argument that is missing or too much, `None` where no single one is.
    """

    task_name: str
    problem: str
    argument: str | None = None

    def _text(self) -> str:
        return f"Cannot call {self.task_name!r}: {self.problem}"


class ReservedArgumentError(ShoalError, TypeError):
    """A decorated function has a parameter whose name `submit` and `map` need for themselves.

    Attributes:
        task_name: the task or flow.
        argument: the parameter.
    """

    task_name: str
    argument: str

    def _text(self) -> str:
        return (
            f"{self.task_name!r} has a parameter {self.argument!r}, which is reserved: rename it."
        )


class MappingLengthMismatch(ShoalError, ValueError):
    """The iterables given to `map` have different lengths.

    Attributes:
        task_name: the task.
        lengths: the length of each mapped argument, by name.
    """

    task_name: str
    lengths: Mapping[str, int]

    def _text(self) -> str:
        each = ", ".join(f"{name!r} has {length}" for name, length in self.lengths.items())
        return (
            f"Cannot map {self.task_name!r} over iterables of different lengths: {each}. "
            "Wrap what is the same for every run in unmapped(...)."
        )


class MappingMissingIterable(ShoalError, ValueError):
    """`map` was called without an argument to map over.

    Attributes:
        task_name: the task.
        arguments: names of the arguments that were given, all of them static.
    """

    task_name: str
    arguments: Sequence[str] = ()

    def _text(self) -> str:
        return (
            f"Cannot map {self.task_name!r} over nothing (static arguments: {names_of(self.arguments)}). "
            "Pass an iterable, or use submit for a single run."
        )


class InvalidOption(ShoalError, ValueError, TypeError):
    """An option does not exist, or its value is of the wrong type or out of range.

    Attributes:
        option: the option.
        value: its value; kept as a short repr.
        problem: what is wrong with it.
        where: the task, flow, runner or else it was given to, or `None`.
    """

    option: str
    value: object
    problem: str
    where: str | None = None

    def _prepare(self) -> None:
        self.value = shown(self.value)

    def _text(self) -> str:
        where = "" if self.where is None else f" in {self.where}"
        return f"The option {self.option}={self.value}{where} is not valid: {self.problem}"


class UnknownOption(InvalidOption):
    """There is no option of this name.

    Attributes:
        known: the options that there are.
    """

    known: Sequence[str] = ()
    problem: str = "there is no such option"

    def _text(self) -> str:
        there = "There" if self.where is None else f"{self.where}: there"
        text = f"{there} is no option {self.option!r}"
        if purpose := purpose_of_option(self.option):
            return f"{text}: {purpose}"
        return f"{text}{or_perhaps(self.option, self.known)}"


class RunNameError(ShoalError, ValueError, TypeError):
    """A `task_run_name` or `flow_run_name` could not be turned into a name.

    Attributes:
        template: the format string, or the callable's name.
        task_name: the task or flow whose run it would have named.
        problem: what went wrong.
    """

    template: str
    task_name: str
    problem: str

    def _text(self) -> str:
        return f"The run name {self.template!r} of {self.task_name!r} cannot be rendered: {self.problem}"


class SerializationError(ShoalError):
    """Something cannot be pickled, so it can neither reach a worker nor come back; only this run fails.

    Attributes:
        path: where it sits, say "parameters['cfg'].lock" or "result".
        type_name: the type of what cannot be pickled.
        problem: what the pickler said.
        run_name: the run, or `None`.
    """

    path: str
    type_name: str
    problem: str
    run_name: str | None = None

    def _text(self) -> str:
        of = "" if self.run_name is None else f" of run {self.run_name!r}"
        return (
            f"{self.path}{of} ({self.type_name}) cannot be pickled: {self.problem}. "
            "Make it inside the task, or run the task on threads."
        )


class UnstableKeyError(ShoalError, TypeError):
    """Something has no key that is the same in every process, so that no kept result can be found by it.

    Attributes:
        path: where it sits, say "parameters['conn']".
        type_name: the type of what has no key.
        problem: why it has none.
        task_name: the task whose key was asked for, or `None`.
        policy: the policy that makes the key, in words; `None` for none of ours.
    """

    path: str
    type_name: str
    problem: str
    task_name: str | None = None
    policy: str | None = None

    def _text(self) -> str:
        of = "" if self.task_name is None else f" of task {self.task_name!r}"
        way_out = "make a key of your own with cache_key_fn."
        head, _, rest = self.path.partition("[")
        if head == "parameters":
            name = rest.partition("]")[0]
            way_out = (
                f"leave it out with cache_policy={self.policy or 'INPUTS'} - {name}, or {way_out}"
            )
        elif head == "flow_parameters":
            way_out = f"leave FLOW_PARAMETERS out of the cache_policy, or {way_out}"
        way_out = way_out[0].upper() + way_out[1:]
        return f"{self.path}{of} ({self.type_name}) has no stable key: {self.problem}. {way_out}"


class VisualizationError(ShoalError):
    """A flow could not be drawn.

    Attributes:
        task_name: the task whose result the flow used though it was not executed; `None` if it is about something else.
        problem: what is wrong, and what to do.
    """

    task_name: str | None = None
    problem: str

    def _text(self) -> str:
        return f"The flow cannot be drawn: {self.problem}."
