"""Ray's own vocabulary around a submit: `with remote_options(num_gpus=1): ...`.

What a call is sent with, the nearest to it first: the innermost `remote_options` around its submit, those around that,
the task's `resources`, Ray's defaults. May import the exceptions of the core; Ray on use.
"""

from __future__ import annotations

from contextlib import ContextDecorator, contextmanager
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any, Self

from shoal.exceptions import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "Options",
    "RemoteOptionsContext",
    "captured",
    "check_resources",
    "for_task",
    "max_calls",
    "remote_options",
]

_AMBIENT: ContextVar[Options | None] = ContextVar("shoal_ray_options", default=None)

#: What Ray takes by these names; other resources of a task are custom ones.
_BY_NAME = ("num_cpus", "num_gpus", "memory")
#: The strategies that go by name.
_STRATEGIES = ("DEFAULT", "SPREAD")
#: What Ray calls these on its nodes, and refuses in a task's custom resources.
_ON_NODES = {"CPU": "num_cpus", "GPU": "num_gpus"}

#: What is ours to say, and what to say instead.
_OURS = {
    "name": "tasks have names; see `name` and `task_run_name` of `@task`",
    "num_returns": "several runs may travel in one Ray task, whose returns are ours",
    "max_retries": "a run is sent again by `crash_retries` of its task; Ray would run what has ended again",
    "retry_exceptions": "a run is retried by `retries` of its task, in a state of its own; Ray would run it again unseen",
    "_generator_backpressure_num_objects": "tasks do not stream from workers",
    "_num_objects_per_yield": "tasks do not stream from workers",
}


class remote_options(ContextDecorator):
    """Runs that are submitted inside are sent to Ray with these options.

    Nested ones add up: an inner value prevails over an outer one, `resources` and the fields and `env_vars` of
    `runtime_env` are united, and `None` takes an outer value back. Runs of different options never share a batch.
    Other runners than Ray's take no notice.

    Args:
        **options: those of Ray's `RemoteFunction.options` and `ray.remote`: `num_cpus`, `num_gpus`, `memory` (bytes),
            `resources`, `accelerator_type`, `max_calls`, `scheduling_strategy`, `label_selector`, `runtime_env` and
            others; not those that say what a run is called, what it returns and when it is retried.

    Raises:
        InvalidOption: on entering: Ray knows no such option, does not take this value for it, or it is not for the
            user to say.

    Examples:
        >>> with remote_options(num_gpus=1, runtime_env={"env_vars": {"PRECISION": "16"}}):
        ...     models = train.map(range(8))
    """

    # No generator: `contextlib` sets attributes of the exception that passes, which some refuse.

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._tokens: list[Token[Options | None]] = []

    def __enter__(self) -> None:
        _check(self._options, "remote_options")
        outer = _AMBIENT.get()
        merged = _merged(outer.given if outer is not None else {}, self._options)
        self._tokens.append(_AMBIENT.set(Options(merged)))

    def __exit__(self, *_: object) -> None:
        _AMBIENT.reset(self._tokens.pop())

    def _recreate_cm(self) -> remote_options:
        return remote_options(**self._options)  # a decorated function may run in several threads


class RemoteOptionsContext:
    """The options in force at a point of the program, as Prefect gives them.

    As a context manager it puts its own in the place of those in force, where `remote_options` adds to them.

    Args:
        current_remote_options: by name, as for `remote_options`; none by default.

    Attributes:
        current_remote_options: these.

    Examples:
        >>> with remote_options(num_cpus=2):
        ...     RemoteOptionsContext.get().current_remote_options
        {'num_cpus': 2}
    """

    def __init__(self, current_remote_options: Mapping[str, Any] | None = None) -> None:
        self.current_remote_options = dict(current_remote_options or {})
        self._tokens: list[Token[Options | None]] = []

    @classmethod
    def get(cls) -> RemoteOptionsContext:
        """The options in force here, empty where there are none."""
        options = captured()
        return cls(options.given if options is not None else None)

    def __enter__(self) -> Self:
        _check(self.current_remote_options, "RemoteOptionsContext")
        self._tokens.append(_AMBIENT.set(Options(self.current_remote_options)))
        return self

    def __exit__(self, *_: object) -> None:
        _AMBIENT.reset(self._tokens.pop())

    def __repr__(self) -> str:
        return f"RemoteOptionsContext({self.current_remote_options!r})"


class Options:
    """The options in force where a run was submitted.

    Equal if they say the same: only such runs share a batch.

    Attributes:
        given: by name.
        alone: whether each run is to be a Ray task of its own, because Ray is to count them.
    """

    __slots__ = ("_key", "alone", "given")

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.given = dict(given)
        self.alone = bool(self.given.get("max_calls"))
        self._key = repr(_comparable(self.given))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Options) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"Options({self.given!r})"

    def __reduce__(self) -> Any:
        return Options, (self.given,)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Inside, these are in force, and nothing else."""
        token = _AMBIENT.set(self)
        try:
            yield
        finally:
            _AMBIENT.reset(token)


def captured() -> Options | None:
    """The options in force here, `None` if there are none."""
    options = _AMBIENT.get()
    return options if options is not None and options.given else None


def for_task(options: Options | None, resources: Mapping[str, float] | None) -> dict[str, Any]:
    """What `RemoteFunction.options` is called with for a run. `max_calls` is not among it: see there.

    Args:
        options: where it was submitted.
        resources: of its task.
    """
    given = options.given if options is not None else {}
    if not resources:
        return {name: value for name, value in given.items() if name != "max_calls"}
    merged = _merged(_of_resources(resources), given)
    merged.pop("max_calls", None)
    return merged


def max_calls(options: Options | None, resources: Mapping[str, float] | None) -> int:
    """How many Ray tasks a worker process executes of those that ask for the same, 0 for any number.

    `ray.remote` takes it, `RemoteFunction.options` does not. As with Ray's own tasks, a process that has had a GPU is
    not used again unless the user says so: else it would keep the GPU's memory.
    """
    given = options.given if options is not None else {}
    most: int | None = given.get("max_calls")
    if most is not None:
        return most
    gpus = given.get("num_gpus")
    if gpus is None:
        gpus = _of_resources(resources or {}).get("num_gpus")
    return 1 if gpus else 0


def check_resources(resources: Mapping[str, float], task: str | None = None) -> None:
    """Refuses what Ray would refuse of a task's `resources`.

    Args:
        resources: these.
        task: its name, for the error.

    Raises:
        InvalidOption: there is such.
    """
    where = "a task" if task is None else f"task {task!r}"
    for name, amount in resources.items():
        given: Any = amount
        if isinstance(given, bool) or not isinstance(given, (int, float)) or not given >= 0:
            raise InvalidOption(
                where=where,
                option=f"resources[{name!r}]",
                value=amount,
                problem="a number from 0 up is needed",
            )
    for ray_name, ours in _ON_NODES.items():
        if ray_name in resources and ours in resources:
            problem = f"it is the same as {ours!r}, which is there too"
            raise InvalidOption(
                where=where,
                option=f"resources[{ray_name!r}]",
                value=resources[ray_name],
                problem=problem,
            )
    _check(_of_resources(resources), where)


def _of_resources(resources: Mapping[str, float]) -> dict[str, Any]:
    """A task's `resources` as Ray's options."""
    found: dict[str, Any] = {}
    custom = {}
    for name, amount in resources.items():
        name = _ON_NODES.get(name, name)
        if name in _BY_NAME:
            found[name] = amount
        else:
            custom[name] = amount
    if custom:
        found["resources"] = custom
    return found


def _merged(outer: Mapping[str, Any], inner: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(outer)
    for name, value in inner.items():
        if value is None:
            merged.pop(name, None)
        elif name == "resources":
            merged[name] = {**(merged.get(name) or {}), **value}
        elif name == "runtime_env":
            before = merged.get(name) or {}
            merged[name] = {**before, **value}
            if before.get("env_vars") and value.get("env_vars"):
                merged[name]["env_vars"] = {**before["env_vars"], **value["env_vars"]}
        else:
            merged[name] = value
    return merged


def _comparable(value: Any) -> Any:
    """What is written alike where it means the same: Ray's scheduling strategies compare by identity."""
    if isinstance(value, dict):
        return sorted((str(name), _comparable(part)) for name, part in value.items())
    if isinstance(value, (list, tuple)):
        return [_comparable(part) for part in value]
    if "__repr__" not in _methods(type(value)) and hasattr(value, "__dict__"):
        return type(value).__qualname__, _comparable(vars(value))
    return value


def _methods(kind: type) -> set[str]:
    return {name for base in kind.__mro__[:-1] for name in vars(base)}


# ------------------------------------------------------------------ what Ray makes of them


def _check(options: Mapping[str, Any], where: str) -> None:
    """Refuses what is ours, what Ray does not know, and values that Ray does not take."""
    for name, value in options.items():
        if name in _OURS:
            raise InvalidOption(where=where, option=name, value=value, problem=_OURS[name])
    known = _known()
    if known is None:
        return
    for name, value in options.items():
        if name not in known:
            likely = ", ".join(sorted(one for one in known if one not in _OURS))
            problem = f"Ray knows no such option of a task; it knows {likely}"
            raise InvalidOption(where=where, option=name, value=value, problem=problem)
        try:
            _check_numbers(name, value)
            known[name].validate(name, value)
            _check_further(name, value)
        except (TypeError, ValueError) as error:
            problem = " ".join(str(error).split())
            raise InvalidOption(where=where, option=name, value=value, problem=problem) from error


def _known() -> Any:
    """Ray's own table of the options of tasks; `None` where a version of Ray keeps it elsewhere."""
    try:
        from ray._common.ray_option_utils import task_options
    except ImportError:
        return None
    return task_options


def _check_numbers(name: str, value: Any) -> None:
    """What Ray compares without a look at what it is."""
    if name in (*_BY_NAME, "max_calls"):
        amounts = [value]
    elif name == "resources" and isinstance(value, dict):
        amounts = list(value.values())
    else:
        return
    for amount in amounts:
        if isinstance(amount, bool) or not isinstance(amount, (int, float, type(None))):
            raise TypeError("a number is needed")


def _check_further(name: str, value: Any) -> None:
    """What Ray finds out only when a task is sent."""
    if name == "scheduling_strategy" and isinstance(value, str) and value not in _STRATEGIES:
        raise ValueError(
            "'DEFAULT', 'SPREAD' or one of Ray's strategies for placement groups, nodes and labels is needed"
        )
    if name == "runtime_env" and value:
        from ray._private.utils import parse_runtime_env_for_task_or_actor

        if not isinstance(value, dict):
            raise TypeError("a dictionary is needed")
        parse_runtime_env_for_task_or_actor(value)
