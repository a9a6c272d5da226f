"""Cache policies: what a run's result depends on, and so which kept result may take its place.

    INPUTS              the task's name, and the arguments; those, too, that a partial or a method has
    TASK_SOURCE         the task's code, with all of the user's own code that it reaches
    FLOW_PARAMETERS     the parameters of the flow run around it
    RUN_ID              the flow run around it; outside a flow, the task run
    DEFAULT             INPUTS + TASK_SOURCE + RUN_ID
    NO_CACHE, NONE      nothing is kept

Policies are added, `INPUTS + TASK_SOURCE`, and arguments left out, `INPUTS - "conn"`. May import `exceptions` and `results`.
"""

from __future__ import annotations

import copy
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from shoal.exceptions import InvalidOption
from shoal.results.keys import (
    bound_arguments,
    digest,
    digest_arguments,
    digest_call,
    freed,
    function_digest,
    function_parts,
    function_texts,
)
from shoal.results.keys.explaining import code_name, text_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Self, TypeAlias

    from shoal.context import TaskRunContext

    #: Arguments by name, and digests of what a key is made of.
    Named: TypeAlias = dict[str, Any]
    Parts: TypeAlias = dict[str, bytes]

__all__ = [
    "DEFAULT",
    "FLOW_PARAMETERS",
    "INPUTS",
    "NONE",
    "NO_CACHE",
    "RUN_ID",
    "TASK_SOURCE",
    "CacheKeyFnPolicy",
    "CachePolicy",
    "task_input_hash",
]


class CachePolicy:
    """Makes the key under which a run's result is kept and looked for. Subclass it for keys of your own.

    Attributes:
        key_storage: where results are kept that have its keys: a folder or a URL; `None` for where the others are.
        isolation_level: how runs that ask for one key at once are kept apart; `None` for one after the other.
        lock_manager: what holds their locks; `None` for the storage itself.
        without: the arguments that are left out.
    """

    key_storage: str | Path | None = None
    isolation_level: Any = None
    lock_manager: Any = None
    without: frozenset[str] = frozenset()
    _label: str | None = None

    def compute_key(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],
        **kwargs: Any,
    ) -> str | None:
        """The key of one run.

        Args:
            task_ctx: the run: `task_ctx.task`, `task_ctx.task_run`.
            inputs: its arguments by name, with results in the place of futures.
            flow_parameters: those of the flow run around it; empty outside a flow.
            kwargs: for later versions.

        Returns:
            Any text; `None` if the result is not to be kept.

        Raises:
            UnstableKeyError: something that the key is made of is not the same in every process.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a method compute_key")

    def key_parts(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],
    ) -> dict[str, bytes]:
        """What the key is made of, for `explain`: a digest for each part. Arguments and errors as for `compute_key`."""
        key = self.compute_key(task_ctx, inputs, flow_parameters)
        return {} if key is None else {f"the key of {type(self).__name__}": digest(key)}

    def key_texts(self, task_ctx: TaskRunContext) -> dict[str, str]:
        """The source that the key depends on, for `explain`: the text of each function, by the name of its part."""
        return {}

    def configure(
        self,
        key_storage: str | Path | None = None,
        isolation_level: Any = None,
        lock_manager: Any = None,
    ) -> Self:
        """A copy that says where and how results are kept; `None` leaves as it was. Arguments as the attributes."""
        changed = copy.copy(self)
        if key_storage is not None:
            changed.key_storage = key_storage
        if isolation_level is not None:
            changed.isolation_level = isolation_level
        if lock_manager is not None:
            changed.lock_manager = lock_manager
        return changed

    @classmethod
    def from_cache_key_fn(
        cls, cache_key_fn: Callable[[TaskRunContext, dict[str, Any]], str | None]
    ) -> CacheKeyFnPolicy:
        """A policy whose keys a function makes of the run and its arguments."""
        return CacheKeyFnPolicy(cache_key_fn)

    def __repr__(self) -> str:
        label = self._label or f"<{type(self).__name__}>"
        return label + "".join(f" - {argument!r}" for argument in sorted(self.without))

    def __add__(self, other: CachePolicy) -> CachePolicy:
        if not isinstance(other, CachePolicy):
            return NotImplemented
        if isinstance(other, _Nothing):
            return self
        return _Sum((self, other))

    def __sub__(self, argument: str) -> CachePolicy:
        if not isinstance(argument, str):
            raise TypeError(
                f"the name of an argument is subtracted from a policy, not {type(argument).__name__}"
            )
        changed = copy.copy(self)
        changed.without = self.without | {argument}
        return changed


class _Ours(CachePolicy):
    """A policy of ours, which takes no more than there is now."""

    def compute_key(
        self, task_ctx: TaskRunContext, inputs: Named, flow_parameters: Named, **kwargs: Any
    ) -> str | None:
        return self._key(task_ctx, inputs, flow_parameters)

    def _key(self, task_ctx: TaskRunContext, inputs: Named, flow_parameters: Named) -> str | None:
        raise NotImplementedError


class CacheKeyFnPolicy(_Ours):
    """Keys that a function makes, as the option `cache_key_fn` gives it.

    Attributes:
        cache_key_fn: takes the run's context and its arguments by name; gives the key, or `None` to keep nothing.
    """

    def __init__(
        self, cache_key_fn: Callable[[TaskRunContext, dict[str, Any]], str | None]
    ) -> None:
        self.cache_key_fn = cache_key_fn

    def _key(self, task_ctx: TaskRunContext, inputs: Named, flow_parameters: Named) -> str | None:
        return self.cache_key_fn(task_ctx, inputs)


class _Sum(_Ours):
    """Several policies: a run depends on all that one of them says."""

    def __init__(self, policies: tuple[CachePolicy, ...]) -> None:
        self.policies = policies
        self.without = frozenset().union(*(each.without for each in policies))
        labels = [each._label or repr(each) for each in policies]
        is_default = labels == ["INPUTS", "TASK_SOURCE", "RUN_ID"]
        self._label = "DEFAULT" if is_default else " + ".join(labels)
        for option in ("key_storage", "isolation_level", "lock_manager"):
            given = [value for each in policies if (value := getattr(each, option)) is not None]
            if any(value != given[0] for value in given):
                raise InvalidOption(
                    option=option,
                    value=given[-1],
                    problem=f"the policy it is added to has {given[0]!r}",
                    where="a cache policy",
                )
            if given:
                setattr(self, option, given[0])

    def _key(self, task_ctx: TaskRunContext, inputs: Named, flow_parameters: Named) -> str | None:
        found = (each.compute_key(task_ctx, inputs, flow_parameters) for each in self.policies)
        keys = [f"{len(key)}:{key}" for key in found if key is not None]
        return _hex("".join(keys)) if keys else None

    def key_parts(self, task_ctx: TaskRunContext, inputs: Named, flow_parameters: Named) -> Parts:
        parts: dict[str, bytes] = {}
        for each in self.policies:
            parts.update(each.key_parts(task_ctx, inputs, flow_parameters))
        return parts

    def key_texts(self, task_ctx: TaskRunContext) -> dict[str, str]:
        texts: dict[str, str] = {}
        for each in self.policies:
            texts.update(each.key_texts(task_ctx))
        return texts

    def __add__(self, other: CachePolicy) -> CachePolicy:
        added = super().__add__(other)
        return (
            _Sum((*self.policies, other))
            if isinstance(added, _Sum) and added is not self
            else added
        )

    def __sub__(self, argument: str) -> CachePolicy:
        changed = copy.copy(self)
        changed.without = super().__sub__(argument).without
        changed.policies = tuple(each - argument for each in self.policies)
        return changed


class _Nothing(_Ours):
    """No key: nothing is kept. Added to another policy it changes nothing."""

    _label = "NO_CACHE"

    def _key(self, task_ctx: TaskRunContext, inputs: Named, flow_parameters: Named) -> None:
        return None

    def __add__(self, other: CachePolicy) -> CachePolicy:
        return other


class _Inputs(_Ours):
    """The task's name and the arguments, those that its function is bound to among them, but for those left out."""

    _label = "INPUTS"

    def _key(self, task_ctx: TaskRunContext, inputs: Named, flow_parameters: Named) -> str:
        return digest_call(task_ctx.task.name, self._counted(task_ctx, inputs)).hex()

    def key_parts(self, task_ctx: TaskRunContext, inputs: Named, flow_parameters: Named) -> Parts:
        task = task_ctx.task.name
        digests = {"the task's name": digest(task)}
        for name, value in digest_arguments(self._counted(task_ctx, inputs), task).items():
            digests[f"argument {name!r}"] = value
        return digests

    def _counted(self, task_ctx: TaskRunContext, inputs: dict[str, Any]) -> dict[str, Any]:
        bound = bound_arguments(task_ctx.task.fn)
        if not (bound or self.without):
            return inputs
        counted = {**bound, **inputs}
        for argument in self.without:
            counted.pop(argument, None)
        return counted


class _TaskSource(_Ours):
    """The task's code, and what its function is bound to, but for what is left out."""

    _label = "TASK_SOURCE"

    def _key(self, task_ctx: TaskRunContext, inputs: Named, flow_parameters: Named) -> str:
        return function_digest(self._function(task_ctx)).hex()

    def key_parts(self, task_ctx: TaskRunContext, inputs: Named, flow_parameters: Named) -> Parts:
        parts = function_parts(self._function(task_ctx))
        return {code_name(name): value for name, value in parts.items()}

    def key_texts(self, task_ctx: TaskRunContext) -> dict[str, str]:
        texts = function_texts(self._function(task_ctx))
        return {text_name(name): text for name, text in texts.items()}

    def _function(self, task_ctx: TaskRunContext) -> Any:
        return freed(task_ctx.task.fn, self.without) if self.without else task_ctx.task.fn


class _FlowParameters(_Ours):
    """The parameters of the flow run around the run."""

    _label = "FLOW_PARAMETERS"

    def _key(self, task_ctx: TaskRunContext, inputs: Named, flow_parameters: Named) -> str | None:
        if not flow_parameters:
            return None
        parts = self.key_parts(task_ctx, inputs, flow_parameters)
        return _hex("".join(f"{len(name)}:{name}{parts[name].hex()}" for name in sorted(parts)))

    def key_parts(self, task_ctx: TaskRunContext, inputs: Named, flow_parameters: Named) -> Parts:
        return {
            f"flow parameter {name!r}": digest(value, f"flow_parameters[{name!r}]")
            for name, value in (flow_parameters or {}).items()
        }


class _RunId(_Ours):
    """The flow run around the run; outside a flow, the run itself."""

    _label = "RUN_ID"

    def _key(self, task_ctx: TaskRunContext, inputs: Named, flow_parameters: Named) -> str:
        run = task_ctx.task_run
        return str(run.flow_run_id or run.id)

    def key_parts(self, task_ctx: TaskRunContext, inputs: Named, flow_parameters: Named) -> Parts:
        return {"the run": digest(self.compute_key(task_ctx, inputs, flow_parameters))}


def _hex(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


INPUTS: CachePolicy = _Inputs()
TASK_SOURCE: CachePolicy = _TaskSource()
FLOW_PARAMETERS: CachePolicy = _FlowParameters()
RUN_ID: CachePolicy = _RunId()
NO_CACHE: CachePolicy = _Nothing()
NONE: CachePolicy = NO_CACHE
DEFAULT: CachePolicy = INPUTS + TASK_SOURCE + RUN_ID

_SAME_CALL = TASK_SOURCE + INPUTS


def task_input_hash(context: TaskRunContext, arguments: dict[str, Any]) -> str | None:
    """A `cache_key_fn`: the task's code and its arguments.

    Args:
        context: the run.
        arguments: its arguments by name.

    Raises:
        UnstableKeyError: one has no stable key.
    """
    return _SAME_CALL.compute_key(context, arguments, {})
