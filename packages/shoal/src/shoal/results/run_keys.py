"""The key of a run's result: by a policy, or a format string, from what the run is given.

May import `options`, `templates` and what lies above task runners.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from shoal.context import TaskRunContext
from shoal.exceptions import InvalidOption, UnstableKeyError
from shoal.results.templates import filled
from shoal.safely import repr_of

if TYPE_CHECKING:
    from shoal.calls import Call
    from shoal.context import FlowRun
    from shoal.results.options import ResultOptions
    from shoal.specs import TaskSpec

__all__ = ["RunKey"]


class RunKey:
    """The key of one run's result.

    Args:
        options: what was said about it.
        call: the run, with values in the place of futures.

    Attributes:
        text: the key; `None` where nothing is to be kept.
        parts: what it is made of, by name, as hexadecimal digests, and the source of the task's functions; empty before
            `learn_parts`.

    Raises:
        Exception: what makes the key has raised it.
    """

    def __init__(self, options: ResultOptions, call: Call) -> None:
        self.text: str | None = None
        self.parts: dict[str, str] = {}
        self._policy: Any = None
        if not options.persist:
            return
        context = TaskRunContext(call)
        parameters = context.task_run.parameters
        if options.storage_key is not None:
            self.text = filled(options.storage_key, f"task {call.task.name!r}", parameters)
            if not self.text:
                raise _no_key(call, "result_storage_key", options.storage_key, self.text)
            return
        flow_run = call.scope.flow_run if call.scope is not None else None
        self._policy = options.policy
        self._made_of = {
            "task_ctx": context,
            "inputs": parameters,
            "flow_parameters": _flow_parameters(flow_run, call),
        }
        try:
            key = self._policy.compute_key(**self._made_of)
        except UnstableKeyError as error:
            raise _refused(error, call.task, self._policy) from error.__cause__
        if key is not None and not (isinstance(key, str) and key):
            function = getattr(self._policy, "cache_key_fn", None)
            option = "cache_policy" if function is None else "cache_key_fn"
            raise _no_key(call, option, function or self._policy, key)
        self.text = key

    def learn_parts(self) -> None:
        """Looks what the key is made of; before the function can change its arguments.

        Raises:
            Exception: what makes the key has raised it.
        """
        if hasattr(self._policy, "key_parts"):
            found = self._policy.key_parts(**self._made_of)
            self.parts = {name: digest.hex() for name, digest in found.items()}
            self.parts |= self._policy.key_texts(self._made_of["task_ctx"])


def _flow_parameters(flow_run: FlowRun | None, call: Call) -> Mapping[str, Any]:
    if flow_run is None:
        return {}
    if getattr(flow_run, "left_out", False):
        return _LeftOut(call.task.name)
    return flow_run.parameters


class _LeftOut(Mapping[str, Any]):
    """Stands on a worker for parameters of the flow run that have stayed in the driver."""

    def __init__(self, task_name: str) -> None:
        self._task_name = task_name

    def _refuse(self, *_: object) -> NoReturn:
        raise UnstableKeyError(
            path="flow_parameters",
            type_name="dict",
            problem="they are not known on the worker, as they are too large (64 kB) or cannot be pickled",
            task_name=self._task_name,
        )

    __getitem__ = __iter__ = __len__ = _refuse


def _no_key(call: Call, option: str, value: object, key: object) -> InvalidOption:
    return InvalidOption(
        where=f"task {call.task.name!r}",
        option=option,
        value=value,
        problem=f"it gives {repr_of(key)}, and a key is a text that is not empty",
    )


def _refused(error: UnstableKeyError, task: TaskSpec, policy: Any) -> UnstableKeyError:
    """The error with the task and the policy, which know the way out."""
    said = repr(policy)
    facts = {
        "task_name": task.name,
        "policy": None if "<" in said else said,
    }  # else nobody can type it
    return UnstableKeyError(**{**vars(error), **facts})
