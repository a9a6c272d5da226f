"""Checks of the options of both decorators.

May import the registry of runners, `cache_policies` and `results`, on use, and what lies above calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from shoal.exceptions import InvalidOption, UnknownOption
from shoal.logs import library_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from shoal.specs import Keeping

__all__ = ["Checks", "check_names", "name_of_function", "named_after"]


#: Options that make the keys of results; the first that is given does.
_KEY_MAKERS = ("cache_key_fn", "cache_policy", "result_storage_key")


class Checks:
    """Checks options of a decorator; every refusal names the task or flow and the option."""

    def __init__(self, where: str) -> None:
        self.where = where

    def refuse(self, option: str, value: Any, problem: str) -> InvalidOption:
        return InvalidOption(where=self.where, option=option, value=value, problem=problem)

    def whole(self, option: str, value: Any) -> int:
        if value is None:
            return 0
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self.refuse(option, value, "a whole number from 0 up is needed")
        return value

    def count(self, option: str, value: Any) -> int | None:
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            problem = "a whole number from 1 up, or None for no limit, is needed"
            raise self.refuse(option, value, problem)
        return value

    def seconds(self, option: str, value: Any) -> float | None:
        if value is None:
            return None
        if (
            not isinstance(value, (int, float))
            or isinstance(value, bool)
            or not 0 <= value < float("inf")
        ):
            raise self.refuse(option, value, "a number from 0 up is needed")
        return float(value)

    def timeout(self, value: Any) -> float | None:
        seconds = self.seconds("timeout_seconds", value)
        if seconds == 0:
            problem = "a number above 0 is needed, or None for no limit"
            raise self.refuse("timeout_seconds", value, problem)
        return seconds

    def delays(self, value: Any) -> Any:
        if value is None:
            return 0.0
        if callable(value):
            return value
        if isinstance(value, (list, tuple)):
            return [self.seconds("retry_delay_seconds", item) for item in value]
        return self.seconds("retry_delay_seconds", value)

    def tags(self, value: Iterable[str] | None) -> frozenset[str]:
        if isinstance(value, str):
            raise self.refuse("tags", value, "a list of strings is needed, this is a single one")
        tags = frozenset(value or ())
        for tag in tags:
            if not isinstance(tag, str):
                raise self.refuse("tags", tag, "tags are strings")
        return tags

    def text(self, option: str, value: Any) -> str | None:
        if value is not None and not isinstance(value, str):
            raise self.refuse(option, value, "a string is needed")
        return value

    def run_name(self, option: str, value: Any) -> Any:
        if value is not None and not isinstance(value, str) and not callable(value):
            raise self.refuse(option, value, "a format string or a function is needed")
        return value

    def flag(self, option: str, value: Any) -> bool | None:
        if value is not None and not isinstance(value, bool):
            raise self.refuse(
                option, value, "True, False, or None where nothing is to be said is needed"
            )
        return value

    def resources(self, value: Any) -> dict[str, float]:
        if value is None:
            return {}
        if not isinstance(value, Mapping) or not all(
            isinstance(name, str) and isinstance(amount, (int, float)) and amount >= 0
            for name, amount in value.items()
        ):
            raise self.refuse("resources", value, "a mapping of names to numbers is needed")
        return dict(value)

    def function(self, option: str, value: Any) -> Any:
        if value is not None and not callable(value):
            raise self.refuse(option, value, "a function is needed")
        return value

    def functions(self, option: str, value: Any) -> list[Any]:
        if value is None:
            return []
        if not isinstance(value, (list, tuple)):
            raise self.refuse(option, value, "a list of functions is needed")
        if not all(callable(hook) for hook in value):
            raise self.refuse(option, value, "a list of functions is needed")
        return list(value)

    def runner(self, value: Any) -> Any:
        from shoal.task_runners.base import TaskRunner

        if value is None or isinstance(value, (str, type, TaskRunner)):
            return value
        raise self.refuse(
            "task_runner", value, "a runner, its class, or a string such as 'threads:4' is needed"
        )

    def keeping(self, options: Mapping[str, Any]) -> Keeping | None:
        """What options about keeping results say; `None` if none is given, which imports nothing."""
        given = {option: value for option, value in options.items() if value is not None}
        if not given:
            return None
        from shoal.cache_policies import DEFAULT, CacheKeyFnPolicy
        from shoal.results.options import checked

        policy, key_fn = given.get("cache_policy"), given.get("cache_key_fn")
        if policy is not None and not hasattr(policy, "compute_key"):
            problem = "a policy of shoal.cache_policies is needed"
            raise self.refuse("cache_policy", policy, problem)
        if key_fn is not None:
            self.function("cache_key_fn", key_fn)
            policy = CacheKeyFnPolicy(key_fn)
        makers = [option for option in _KEY_MAKERS if option in given]
        for unused in makers[1:]:
            library_logger().warning(
                "%s: %s makes the keys, and %s is not used", self.where, makers[0], unused
            )
        if makers and makers[0] != "result_storage_key":
            given.pop("result_storage_key", None)
        return checked(self.where, given, DEFAULT if policy is None else policy)

    def batch(self, value: Any) -> bool | int:
        if value is None:
            return True
        if isinstance(value, bool):
            return value
        if not isinstance(value, int) or value < 1:
            raise self.refuse(
                "batch", value, "True, False, or the most runs that may travel together"
            )
        return value


def check_names(where: str, options: Mapping[str, Any], make: Callable[..., Any]) -> None:
    """Checks that a decorator has the options that it was given.

    Args:
        where: the task or flow, for an error.
        options: what it was given.
        make: what takes the options, after itself and the function.

    Raises:
        UnknownOption: it has not.
    """
    import inspect

    known = list(inspect.signature(make).parameters)[2:]
    for option, value in options.items():
        if option not in known:
            raise UnknownOption(where=where, option=option, value=value, known=known)


def name_of_function(function: Any) -> str:
    import functools

    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", type(function).__name__)


def named_after(coroutine: Any, function: Any) -> Any:
    """Gives a coroutine the name of the user's function: warnings of what is never awaited show it, and debuggers."""
    coroutine.__name__ = name_of_function(function)
    coroutine.__qualname__ = getattr(function, "__qualname__", coroutine.__name__)
    return coroutine
