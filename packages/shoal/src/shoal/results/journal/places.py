"""By what a run is known again: its place, and what it is given. Pure, but that it asks the keys of values for theirs.

    flow run ─▶ Place of its body ─▶ key of a run = place + task + code of the task + inputs ─▶ Place of that run's body ...

A key is worked out when a run is submitted. A future among the inputs counts as the key of its run and not as its value: so no value is needed, and
where a run's code or inputs have changed, the keys of all that depends on it have changed too. Runs of the same task with the
same inputs in the same place are told apart by their order.

May import `engine.inputs` and the keys of results.
"""

from __future__ import annotations

import struct
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from shoal.engine import inputs
from shoal.engine.inputs import value_of
from shoal.results.journal.contents import KEY_BYTES, split
from shoal.results.keys import digest
from shoal.states import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from shoal.futures import TaskFuture

__all__ = [
    "Place",
    "Unknown",
    "key_of_columns",
    "key_of_inputs",
    "key_of_names",
    "key_of_parameters",
]


class Unknown(Exception):
    """A run has no key, since one among its inputs has none; who that is has been told already."""


def key_of_names(*names: bytes) -> bytes:
    """A key of some bytes, each as a whole."""
    hashed = blake2b(digest_size=KEY_BYTES)
    for name in names:
        hashed.update(b"%d:" % len(name) + name)
    return hashed.digest()


def key_of_parameters(parameters: Mapping[str, Any]) -> bytes:
    """The key of a flow's parameters; of one that has no stable key, its name counts."""
    parts: list[bytes] = []
    for name in sorted(parameters):
        try:
            found = digest(parameters[name])
        except Exception:  # of the user's objects, too
            found = b""
        parts += (name.encode(), found)
    return key_of_names(*parts)


class Place:
    """What submits runs: an attempt of a flow's body, or of a task's.

    Args:
        key: of the flow run or task run.
    """

    __slots__ = ("_tasks", "key")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self._tasks: dict[bytes, _Submitted] = {}

    def key_for(self, task: bytes, given: bytes) -> bytes:
        """The key of the next run here.

        Args:
            task: the task's key.
            given: what `key_of_inputs` made of its inputs.
        """
        submitted = self._of(task)
        hashed = submitted.start.copy()
        hashed.update(given)
        return submitted.told_apart(hashed.digest())

    def keys_for(self, task: bytes, given: Iterable[bytes]) -> bytes:
        """As `key_for` for each of several runs: their keys, one after another. Hot."""
        submitted = self._of(task)
        copy = submitted.start.copy
        keys = []
        for each in given:
            hashed = copy()
            hashed.update(each)
            keys.append(hashed.digest())
        return submitted.all_told_apart(keys)

    def _of(self, task: bytes) -> _Submitted:
        submitted = self._tasks.get(task)
        if submitted is None:
            start = blake2b(self.key + task, digest_size=KEY_BYTES)
            submitted = self._tasks[task] = _Submitted(start)
        return submitted


#: How many keys are looked through for each that is new, before a set is made of them.
_LOOKED_THROUGH = 16
#: How many keys are put into a set at a time.
_AT_ONCE = 50_000


class _Submitted:
    """The runs of one task in one place.

    Attributes:
        start: what the hash of each begins with.
    """

    __slots__ = ("_again", "_maps", "_seen", "start")

    def __init__(self, start: Any) -> None:
        self.start = start
        #: The keys that there are: those of maps one after another, as they are kept anyway, and a set takes ten times the room.
        self._maps: list[bytes] = []
        self._seen: set[bytes] = set()
        self._again: dict[bytes, int] = {}

    def told_apart(self, key: bytes) -> bytes:
        """The key of a run, or another if there was one like it."""
        self._put_into_set()
        if key not in self._seen:
            self._seen.add(key)
            return key
        count = self._again[key] = self._again.get(key, 0) + 1
        return key_of_names(key, b"%d" % count)

    def all_told_apart(self, keys: list[bytes]) -> bytes:
        """As `told_apart` for each, one after another."""
        fresh: set[bytes] = set()
        for at in range(0, len(keys), _AT_ONCE):  # between these other threads have their turn
            fresh.update(keys[at : at + _AT_ONCE])
        if len(fresh) == len(keys) and self._are_new(fresh):
            together = b"".join(keys)
            self._maps.append(together)
            return together
        return b"".join([self.told_apart(key) for key in keys])

    def _are_new(self, fresh: set[bytes]) -> bool:
        if sum(map(len, self._maps)) > _LOOKED_THROUGH * KEY_BYTES * len(fresh):
            self._put_into_set()
        return self._seen.isdisjoint(fresh) and all(
            fresh.isdisjoint(split(known)) for known in self._maps
        )

    def _put_into_set(self) -> None:
        for known in self._maps:
            self._seen.update(split(known))
        self._maps.clear()


# ---------------------------------------------------------------------- inputs as bytes

_DOUBLE = struct.Struct("<d")


def _plain(value: Any) -> bytes | None:
    """A small value as bytes that no other has, and that begin no other's; `None` for what is not written so. Hot."""
    kind = type(value)
    if kind is int:
        return b"i%x;" % value
    if kind is str:
        data: bytes = value.encode("utf-8", "surrogatepass")
        return b"s%d:" % len(data) + data
    if value is None:
        return b"n"
    if kind is bool:
        return b"t" if value else b"f"
    if kind is float:
        return b"d" + _DOUBLE.pack(value)
    return None


def _written(value: Any, path: str) -> bytes:
    return _plain(value) or b"x" + digest(value, path)


def _in_place_of(run_key: Callable[[TaskFuture[Any], bool], bytes]) -> Callable[[Any, bool], Any]:
    def resolve(source: Any, allow_failure: bool) -> Any:
        if isinstance(source, State):
            return value_of(source, allow_failure)
        return _RUN, run_key(source, allow_failure)

    return resolve


_RUN = "shoal: what a run gives"


def key_of_inputs(
    names: tuple[str, ...],
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None,
    wait_for: Any,
    run_key: Callable[[TaskFuture[Any], bool], bytes],
) -> bytes:
    """What a run is given, as bytes.

    Args:
        names: of the parameters, for errors.
        args: positional arguments.
        kwargs: keyword arguments.
        wait_for: runs that must have ended first.
        run_key: gives the key of a run, told whether its failure is allowed.

    Raises:
        UnstableKeyError: an argument has no stable key.
        Unknown: as `run_key` says.
        Exception: whatever goes wrong when containers are copied.
    """
    if not inputs.has_no_inputs(args) or kwargs:
        args, kwargs = inputs.substitute(args, kwargs, _in_place_of(run_key))
    parts = [_written(value, _name(names, index)) for index, value in enumerate(args)]
    if kwargs:
        for name in sorted(kwargs):
            parts += (b"=", _written(name, name), _written(kwargs[name], _name((name,), 0)))
    if wait_for is not None:
        parts.append(b"w")
        for entry in inputs.collect_wait_for(wait_for):
            if not isinstance(entry.future, State):
                parts.append(run_key(entry.future, entry.allow_failure))
    return b"".join(parts)


def key_of_columns(
    names: tuple[str, ...],
    positional: list[tuple[list[Any] | None, Any]],
    keywords: dict[str, tuple[list[Any] | None, Any]],
    size: int,
) -> Iterable[bytes]:
    """What each run of a map is given, as `key_of_inputs` has it; there are no futures in it.

    Args:
        names: of the parameters, for errors.
        positional: for each argument `(column, None)` if mapped, else `(None, value)`.
        keywords: likewise by name.
        size: how many runs.

    Raises:
        UnstableKeyError: an argument has no stable key.
    """
    columns: list[list[bytes]] = []
    for index, (column, value) in enumerate(positional):
        columns.append(_column(column, value, size, _name(names, index)))
    for name in sorted(keywords):
        columns.append([b"=" + _written(name, name)] * size)
        columns.append(_column(*keywords[name], size, _name((name,), 0)))
    return columns[0] if len(columns) == 1 else map(b"".join, zip(*columns, strict=True))


def _column(column: list[Any] | None, value: Any, size: int, path: str) -> list[bytes]:
    if column is None:
        return [_written(value, path)] * size
    if {*map(type, column)} == {int}:
        return [b"i%x;" % each for each in column]
    return [_plain(each) or b"x" + digest(each, path) for each in column]


def _name(names: tuple[str, ...], index: int) -> str:
    return f"parameters[{names[index] if index < len(names) else index!r}]"
