"""What was said about keeping results: by a task, by the flows around it, and what of both is in force.

    checked    the options of a decorator ─▶ `ResultOptions`
    over       a task's, and beneath them the flow's
    taker      every run that a flow submits is of a task for which its flow's are in force

Imported when a decorator has such an option. May import `serializers`, `keys`, `storage`, `caching` (on use), and what lies above task
runners.
"""

from __future__ import annotations

import os
import weakref
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import shoal.results.telling  # noqa: F401  # the logger of a driver has its filter from now on
from shoal.context import SCOPE
from shoal.exceptions import InvalidOption, ShoalError
from shoal.results.keys.naming import main_name, tell_main_name
from shoal.results.serializers import serializer_of
from shoal.results.storage import Storage, open_storage
from shoal.results.storage.managed import ManagedLock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from shoal.calls import Call, Outcome
    from shoal.context import FlowRun, Scope, Submitter
    from shoal.engine.task_run import EndLimit
    from shoal.futures import TaskFuture, TaskFutureList
    from shoal.results.serializers import Serializer
    from shoal.results.storage import KeyLock
    from shoal.specs import TaskSpec

__all__ = ["ResultOptions", "Taker", "checked", "storage_of"]

#: By task, its copies, by what was said around them: one each, as a runner sends each task once.
_COPIES: weakref.WeakKeyDictionary[TaskSpec, dict[Any, TaskSpec]] = weakref.WeakKeyDictionary()


class ResultOptions(NamedTuple):
    """What was said about keeping results. Each is `None` where nothing was said.

    Attributes:
        persist: whether they are kept.
        storage: where: a folder, a URL, or a storage.
        serializer: how they are written.
        storage_key: the key, as a format string.
        policy: what makes the key, where there is no such.
        expiration: for how many seconds they count.
        refresh: whether they are made anew in any case.
        within: whether who asks is beneath a run for whose result others may wait: it does not wait long for anybody.
        home: where they are kept if nothing says where, as the driver has it, or why it has none; `None` in the driver.
    """

    persist: bool | None = None
    storage: Any = None
    serializer: Serializer | None = None
    storage_key: str | None = None
    policy: Any = None
    expiration: float | None = None
    refresh: bool | None = None
    within: bool = False
    home: Storage | ShoalError | None = None

    def over(self, outer: ResultOptions | None) -> ResultOptions:
        """See `shoal.specs.Keeping`."""
        if outer is None:
            return self
        return self._replace(
            persist=outer.persist if self.persist is None else self.persist,
            storage=outer.storage if self.storage is None else self.storage,
            serializer=outer.serializer if self.serializer is None else self.serializer,
            policy=outer.policy if self.policy is None else self.policy,
            within=self.within or outer.within,
            home=self.home or outer.home,
        )

    def within_of(self, flow_run: FlowRun | None) -> ResultOptions:
        """What is said about runs that a run submits whose key others wait for.

        Args:
            flow_run: around it.
        """
        around: Any = flow_run.keeping if flow_run is not None else None
        return ResultOptions(within=True).over(around)

    def open_storage(self) -> Storage:
        """Where results are kept.

        Raises:
            MissingExtraError: what reaches it is not installed here.
        """
        scope = SCOPE.get()
        flow_run = scope.flow_run if scope is not None else None
        places = (
            *(self.storage, getattr(self.policy, "key_storage", None), self.home),
            flow_run.home if flow_run is not None else None,
        )
        return storage_of(next((place for place in places if place is not None), None))

    def lock_of(self, storage: Storage, key: str) -> KeyLock | None:
        """What keeps apart those who compute a key, not taken yet; `None` if nothing is to."""
        level = getattr(self.policy, "isolation_level", None)
        if getattr(level, "name", level) == "READ_COMMITTED":
            return None
        manager = getattr(self.policy, "lock_manager", None)
        return storage.lock(key) if manager is None else ManagedLock(manager, key)

    def said_of(self, task: TaskSpec) -> TaskSpec:
        """See `shoal.specs.Keeping`."""
        own: Any = task.keeping or ResultOptions()
        said = own.over(self)
        if said == own or not (said.persist or said.within):
            return task
        which = said.persist, id(self.storage), id(self.serializer), said.within
        copies = _COPIES.setdefault(task, {})
        copy = copies.get(which)
        if copy is None:
            copy = object.__new__(type(task))
            copy.__dict__.update(task.__dict__)
            copy.keeping = said
            copy.update_plain()
            copies[which] = copy
        return copy

    def taker(self, dispatcher: Submitter) -> Submitter:
        """See `shoal.specs.Keeping`."""
        return Taker(dispatcher, self)

    def fits(self, task: TaskSpec) -> None:
        """See `shoal.specs.Keeping`."""
        from shoal.results.templates import check_names

        check_names(task, self.storage_key, self.policy)

    def attempt(
        self, call: Call, end_limit: EndLimit | None, execute: Callable[..., Outcome]
    ) -> Outcome:
        """See `shoal.specs.Keeping`."""
        if not (self.persist or self.within):
            return execute(call, end_limit, True)
        from shoal.results import caching

        return caching.attempt(self, call, end_limit, execute)

    async def attempt_async(
        self, call: Call, end_limit: EndLimit | None, execute: Callable[..., Any]
    ) -> Outcome:
        """See `shoal.specs.Keeping`."""
        if not (self.persist or self.within):
            outcome: Outcome = await execute(call, end_limit, True)
            return outcome
        from shoal.results import caching

        return await caching.attempt_async(self, call, end_limit, execute)

    def __reduce__(self) -> Any:
        # Where the driver keeps results is where its workers do, whatever their environment and folder are.
        named = self.storage if self.storage is None else storage_of(self.storage)
        home: Any
        try:
            home = storage_of(self.home)
        except ShoalError as error:  # told by the run that needs it
            home = error
        return _arrived, (main_name(), *self._replace(storage=named, home=home))


def _arrived(main: str, *options: Any) -> ResultOptions:
    """What was said, on a worker: what it has of the driver's `__main__` is called there as in the driver."""
    tell_main_name(main)
    return ResultOptions(*options)


def storage_of(given: Any) -> Storage:
    """The storage that an option means.

    Args:
        given: one, the path of a folder, or a URL; `None` for that of the settings; or why there is none.

    Raises:
        ShoalError: there is none.
    """
    if isinstance(given, ShoalError):
        raise given
    return given if isinstance(given, Storage) else open_storage(given)


# ---------------------------------------------------------------------- what decorators are given


def checked(where: str, given: Mapping[str, Any], policy: Any) -> ResultOptions:
    """What the options of a decorator say.

    Args:
        where: the task or flow, for errors.
        given: by name, those that were given; any but `persist_result=False` has results kept.
        policy: what makes the keys where there is no format string for them.

    Raises:
        InvalidOption: one cannot be.
        MissingExtraError: what reaches the storage is not installed.
    """

    def refuse(option: str, problem: str) -> InvalidOption:
        return InvalidOption(where=where, option=option, value=given[option], problem=problem)

    for option in ("persist_result", "refresh_cache", "cache_result_in_memory"):
        if not isinstance(given.get(option), bool | None):
            raise refuse(option, "True, False, or None is needed")
    storage = given.get("result_storage")
    if storage == "" or not isinstance(storage, str | os.PathLike | Storage | None):
        raise refuse("result_storage", "the path of a folder, a URL or a storage is needed")
    if storage is not None:
        storage_of(storage)  # it may need what is not installed
    if not isinstance(given.get("result_storage_key"), str | None):
        raise refuse("result_storage_key", "a format string is needed")
    serializer = given.get("result_serializer")
    return ResultOptions(
        persist=given.get("persist_result", True),
        storage=storage,
        serializer=None if serializer is None else serializer_of(serializer, where),
        storage_key=given.get("result_storage_key"),
        policy=policy,
        expiration=_seconds(given.get("cache_expiration"), refuse),
        refresh=given.get("refresh_cache"),
    )


def _seconds(given: Any, refuse: Callable[[str, str], InvalidOption]) -> float | None:
    if given is None:
        return None
    seconds = given.total_seconds() if isinstance(given, timedelta) else given
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds >= 0:
        raise refuse("cache_expiration", "a timedelta, or seconds, from 0 up is needed")
    return float(seconds)


# ---------------------------------------------------------------------- what flows say


class Taker:
    """A dispatcher that takes runs as if their tasks had said what is said around them.

    Args:
        dispatcher: that of the runner.
        around: what is said.

    Attributes:
        dispatcher: see above.
    """

    def __init__(self, dispatcher: Any, around: ResultOptions) -> None:
        self.dispatcher: Any = (
            dispatcher.dispatcher if isinstance(dispatcher, Taker) else dispatcher
        )
        self._around = around

    def __getattr__(self, name: str) -> Any:
        return getattr(self.dispatcher, name)

    def submit(
        self, task: TaskSpec, args: tuple[Any, ...], kwargs: Any, wait_for: Any, scope: Scope
    ) -> TaskFuture[Any]:
        """See `Submitter`."""
        future: TaskFuture[Any] = self.dispatcher.submit(
            self._around.said_of(task), args, kwargs, wait_for, scope
        )
        return future

    def submit_map(
        self,
        task: TaskSpec,
        positional: Any,
        keywords: Any,
        size: int,
        wait_for: Any,
        scope: Scope,
    ) -> TaskFutureList[Any]:
        """See `Submitter`."""
        futures: TaskFutureList[Any] = self.dispatcher.submit_map(
            self._around.said_of(task), positional, keywords, size, wait_for, scope
        )
        return futures
