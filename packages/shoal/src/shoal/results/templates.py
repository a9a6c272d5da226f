"""What keys name, looked at when a task is made; and keys as format strings, filled in for each run.

    result_storage_key="{flow_run.name}/{parameters[day]}"    parameters, and what is known of the run and its flow run
    cache_policy=INPUTS - "conn"                              parameters

May import `keys` and what lies above task runners.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from shoal import runtime
from shoal.exceptions import InvalidOption
from shoal.exceptions.base import names_of
from shoal.results.keys import bound_arguments
from shoal.safely import in_words
from shoal.spelling import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from shoal.specs import TaskSpec

__all__ = ["check_names", "filled"]


def check_names(task: TaskSpec, template: str | None, policy: Any) -> None:
    """Checks that a task has the parameters that what makes its keys names.

    Args:
        task: the task.
        template: a format string that makes them; `None` for the policy.
        policy: a cache policy.

    Raises:
        InvalidOption: it has not, or the template is no format string.
    """
    if task.signature is None:
        return
    where = f"task {task.name!r}"
    names = list(task.signature.parameters)
    if template is not None:
        _fill(template, where, _Names(names), _Run)
        return
    names += [name for name in bound_arguments(task.fn) if name not in names]
    for name in sorted(getattr(policy, "without", ())):
        if name not in names:
            problem = _no_parameter(name, names)
            raise InvalidOption(where=where, option="cache_policy", value=policy, problem=problem)


def filled(template: str, where: str, parameters: Mapping[str, Any]) -> str:
    """The key of the run around the caller.

    Args:
        template: the format string.
        where: its task, for errors.
        parameters: its parameters.

    Raises:
        InvalidOption: there is nothing to be put in somewhere, as the name of a flow run where there is none.
    """
    return _fill(template, where, parameters, _RunNow)


def _fill(template: str, where: str, parameters: Any, run: type[_Run]) -> str:
    roots = _Roots(
        parameters=parameters,
        flow_run=run("flow_run", runtime.flow_run),
        task_run=run("task_run", runtime.task_run),
    )
    try:
        return template.format_map(roots)
    except _Problem as problem:
        raise _refused(template, where, str(problem)) from None
    except (LookupError, AttributeError, ValueError, TypeError) as error:
        raise _refused(template, where, f"it cannot be filled in: {in_words(error)}") from error


def _refused(template: str, where: str, problem: str) -> InvalidOption:
    return InvalidOption(where=where, option="result_storage_key", value=template, problem=problem)


class _Problem(ValueError):
    """What is wrong with a format string, in words."""


class _Roots(dict[str, Any]):
    """What a format string may begin with."""

    def __missing__(self, name: str) -> NoReturn:
        known = [f"parameters[{each}]" for each in self["parameters"] if each == name]
        question = f"; did you mean {{{known[0]}}}?" if known else ""
        raise _Problem(f"it names {name!r}, and there are {names_of(self)}{question}")


class _Names:
    """Stands for the parameters of a run that is not there yet."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names

    def __iter__(self) -> Any:
        return iter(self._names)

    def __getitem__(self, name: str) -> _Anything:
        if name not in self._names:
            raise _Problem(_no_parameter(name, self._names))
        return _Anything()

    def __getattr__(self, name: str) -> NoReturn:
        raise _Problem(f"parameters are named in brackets, as in parameters[{name}]")


class _Anything:
    """Stands for a value that is not there yet."""

    def __getattr__(self, name: str) -> _Anything:
        return self

    def __getitem__(self, name: Any) -> _Anything:
        return self

    def __format__(self, how: str) -> str:
        return ""


class _Run:
    """What is known of a run.

    Args:
        name: what it is called.
        view: `runtime.flow_run`, or `runtime.task_run`.
    """

    def __init__(self, name: str, view: Any) -> None:
        self._name = name
        self._view = view

    def __getattr__(self, name: str) -> Any:
        known = [each for each in dir(self._view) if not each.startswith("_")]
        if name not in known:
            raise _Problem(f"there is no {self._name}.{name}: there are {names_of(known)}")
        return self._told(name)

    def _told(self, name: str) -> Any:
        return _Anything()

    def __format__(self, how: str) -> str:
        raise _Problem(f"it does not say what of the {self._name}; say {self._name}.name")


class _RunNow(_Run):
    """The run around the caller."""

    def _told(self, name: str) -> Any:
        value = getattr(self._view, name)
        if self._view.id is None:
            raise _Problem(f"there is no {self._name} around the call, so it has no {name}")
        if value is None:
            raise _Problem(f"the {self._name} has no {name}")
        return value


def _no_parameter(name: str, parameters: Collection[str]) -> str:
    """Says that a task has no parameter of a name."""
    question = did_you_mean(name, parameters)
    text = f"the task has no parameter {name!r}, but {names_of(parameters)}"
    return f"{text}. {question}" if question else text
