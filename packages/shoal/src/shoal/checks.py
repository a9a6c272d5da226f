"""What both decorators have alike: functions with options, and checks of these.

May import the interface of runners, `cache_policies` and `results`, on use, and what lies above calls.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from shoal.exceptions import InvalidOption, UnknownOption
from shoal.logs import library_logger
from shoal.specs import KEEPING_OPTIONS, KeepsResults

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shoal.specs import Keeping

__all__ = ["Checks", "Decorated", "name_of_function", "named_after"]

H = TypeVar("H", bound="Callable[..., Any]")

#: Options that make the keys of results; the first that is given does.
_KEY_MAKERS = ("cache_key_fn", "cache_policy", "result_storage_key")


class Checks:
    """Checks options of a decorator; every refusal names the task or flow and the option.

    Args:
        where: the task or flow.
        options: what it was given; `None` is as if it was not.
        known: the options that there are.

    Raises:
        UnknownOption: it was given another.
    """

    def __init__(self, where: str, options: Mapping[str, object], known: Sequence[str]) -> None:
        self.where = where
        for option, value in options.items():
            if option not in known:
                raise UnknownOption(where=where, option=option, value=value, known=known)
        self.given: dict[str, Any] = {o: value for o, value in options.items() if value is not None}

    def refuse(self, option: str, value: Any, problem: str) -> InvalidOption:
        return InvalidOption(where=self.where, option=option, value=value, problem=problem)

    def whole(self, option: str) -> int:
        value = self.given.get(option, 0)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self.refuse(option, value, "a whole number from 0 up is needed")
        return value

    def count(self, option: str) -> int | None:
        value = self.given.get(option)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            problem = "a whole number from 1 up, or None for no limit, is needed"
            raise self.refuse(option, value, problem)
        return value

    def seconds(self, option: str) -> float | None:
        value = self.given.get(option)
        return None if value is None else self._seconds(option, value)

    def _seconds(self, option: str, value: Any) -> float:
        if (
            not isinstance(value, (int, float))
            or isinstance(value, bool)
            or not 0 <= value < float("inf")
        ):
            raise self.refuse(option, value, "a number from 0 up is needed")
        return float(value)

    def timeout(self) -> float | None:
        seconds = self.seconds("timeout_seconds")
        if seconds == 0:
            problem = "a number above 0 is needed, or None for no limit"
            raise self.refuse("timeout_seconds", self.given["timeout_seconds"], problem)
        return seconds

    def delays(self) -> Any:
        option = "retry_delay_seconds"
        value = self.given[option]
        if callable(value):
            return value
        if isinstance(value, (list, tuple)):
            return [self._seconds(option, item) for item in value]
        return self._seconds(option, value)

    def tags(self) -> frozenset[str]:
        value = self.given.get("tags", ())
        if isinstance(value, str):
            raise self.refuse("tags", value, "a list of strings is needed, this is a single one")
        tags = frozenset(value)
        for tag in tags:
            if not isinstance(tag, str):
                raise self.refuse("tags", tag, "tags are strings")
        return tags

    def text(self, option: str) -> str | None:
        value = self.given.get(option)
        if value is not None and not isinstance(value, str):
            raise self.refuse(option, value, "a string is needed")
        return value

    def run_name(self, option: str) -> Any:
        value = self.given.get(option)
        if value is not None and not isinstance(value, str) and not callable(value):
            raise self.refuse(option, value, "a format string or a function is needed")
        return value

    def flag(self, option: str) -> bool | None:
        value = self.given.get(option)
        if value is not None and not isinstance(value, bool):
            raise self.refuse(
                option, value, "True, False, or None where nothing is to be said is needed"
            )
        return value

    def resources(self) -> dict[str, float]:
        value = self.given.get("resources", {})
        if not isinstance(value, Mapping) or not all(
            isinstance(name, str) and isinstance(amount, (int, float)) and amount >= 0
            for name, amount in value.items()
        ):
            raise self.refuse("resources", value, "a mapping of names to numbers is needed")
        return dict(value)

    def function(self, option: str) -> Any:
        value = self.given.get(option)
        if value is not None and not callable(value):
            raise self.refuse(option, value, "a function is needed")
        return value

    def functions(self, option: str) -> list[Any]:
        value = self.given.get(option, ())
        if not isinstance(value, (list, tuple)) or not all(callable(hook) for hook in value):
            raise self.refuse(option, value, "a list of functions is needed")
        return list(value)

    def runner(self) -> Any:
        from shoal.task_runners.base import TaskRunner

        value = self.given.get("task_runner")
        if value is not None and not isinstance(value, (str, type, TaskRunner)):
            problem = "a runner, its class, or a string such as 'threads:4' is needed"
            raise self.refuse("task_runner", value, problem)
        return value

    def keeping(self) -> tuple[dict[str, Any], Keeping | None]:
        """The options about keeping results, and what they say; `None` if none is given, which imports nothing."""
        about_results = {o: value for o, value in self.given.items() if o in KEEPING_OPTIONS}
        if not about_results:
            return about_results, None
        from shoal.cache_policies import DEFAULT, CacheKeyFnPolicy
        from shoal.results.options import checked

        given = dict(about_results)
        policy, key_fn = given.get("cache_policy"), self.function("cache_key_fn")
        if policy is not None and not hasattr(policy, "compute_key"):
            problem = "a policy of shoal.cache_policies is needed"
            raise self.refuse("cache_policy", policy, problem)
        if key_fn is not None:
            policy = CacheKeyFnPolicy(key_fn)
        makers = [option for option in _KEY_MAKERS if option in given]
        for unused in makers[1:]:
            library_logger().warning(
                "%s: %s makes the keys, and %s is not used", self.where, makers[0], unused
            )
        if makers and makers[0] != "result_storage_key":
            given.pop("result_storage_key", None)
        return about_results, checked(self.where, given, DEFAULT if policy is None else policy)

    def batch(self) -> bool | int:
        value = self.given.get("batch", True)
        if isinstance(value, bool):
            return value
        if not isinstance(value, int) or value < 1:
            raise self.refuse(
                "batch", value, "True, False, or the most runs that may travel together"
            )
        return value


class Decorated(KeepsResults):
    """What both decorators make: something with options that stands in the place of a function.

    Attributes:
        KIND: what it is, in errors.
        OPTIONS: the options that there are.
    """

    KIND: ClassVar[str]
    OPTIONS: ClassVar[tuple[str, ...]]
    fn: Callable[..., Any]
    name: str
    _binding: Any

    def _unwrapped(self, fn: Any) -> Any:
        """The function itself, also of a class method or a static one; `_original` gives that again."""
        is_wrapped = isinstance(fn, (classmethod, staticmethod))
        self._binding = type(fn) if is_wrapped else None
        return fn.__func__ if is_wrapped else fn

    def _original(self) -> Any:
        return self._binding(self.fn) if self._binding is not None else self.fn

    def _stand_for(self, function: Any, name: str, options: Mapping[str, object]) -> Checks:
        """Looks like the function, and takes the options that every kind has; gives what checks the others."""
        self.fn = function
        self.name = name
        check = Checks(f"{self.KIND} {name!r}", options, self.OPTIONS)
        check.text("name")
        description = check.text("description")
        self.description = description if description is not None else inspect.getdoc(function)
        self.version = check.text("version")
        about_results, keeping = check.keeping()
        self.__dict__.update(about_results)
        if keeping is not None:
            self.keeping = keeping
        self.__name__ = getattr(function, "__name__", name)
        self.__qualname__ = getattr(function, "__qualname__", self.__name__)
        self.__module__ = getattr(function, "__module__", type(self).__module__)
        self.__doc__ = getattr(function, "__doc__", None)
        return check

    def options(self) -> dict[str, Any]:
        """The options as the decorator takes them; lists are copies."""
        return {
            option: list(getattr(self, f"{option}_hooks"))
            if option.startswith("on_")
            else getattr(self, option)
            for option in self.OPTIONS
        }

    def _add_hook(self, hooks: list[Any], hook: H) -> H:
        if not callable(hook):
            raise InvalidOption(
                where=f"{self.KIND} {self.name!r}",
                option="hook",
                value=hook,
                problem="a function is needed",
            )
        hooks.append(hook)
        return hook


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
