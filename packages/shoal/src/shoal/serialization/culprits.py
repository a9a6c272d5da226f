"""What of a value cannot be pickled, by its path from the value.

The value is pickled once more, by a pickler that writes down what it visits and how each object was reduced: it fails
at the culprit, the last object visited. The way there leads over what was written down, so nothing is pickled, nor asked
how it is reduced, twice, and it is the way that pickling took: through functions, classes, closures, slots and whatever
`__reduce__` and `__getstate__` gave.

May import `guarded`; `tracing` on use.
"""

from __future__ import annotations

import copyreg
import functools
from collections.abc import Callable, Iterator
from itertools import chain
from types import BuiltinMethodType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from shoal.exceptions import SerializationError
from shoal.serialization.guarded import from_a_signal, shown, words_of

if TYPE_CHECKING:
    from shoal.serialization.tracing import Tracer

__all__ = ["culprit_in", "find_culprit", "way_to"]

#: Characters of a path; of a longer one, the beginning and the end are shown.
_LONGEST = 400


def find_culprit(value: Any, path: str, run_name: str | None = None) -> SerializationError:
    """The error of a value that cannot be pickled, naming the innermost part that cannot be. Never fails itself.

    Args:
        value: the value.
        path: what it is called, say `parameters['cfg']`.
        run_name: the run.
    """
    found = culprit_in(value, path, run_name)
    if found is not None:
        return found
    return SerializationError(
        path=path,
        type_name=type(value).__qualname__,
        problem="it cannot be pickled",  # or could not a moment ago
        run_name=run_name,
    )


def culprit_in(value: Any, path: str, run_name: str | None = None) -> SerializationError | None:
    """As `find_culprit`, for a value of which it is not known; `None` if it can be pickled."""
    from shoal.serialization.tracing import Tracer

    tracer = Tracer()
    try:
        tracer.dump(value)
        return None
    except BaseException as error:
        if from_a_signal(error):
            raise
        culprit, found, problem = value, path, words_of(error)
        way = _safe_way(tracer, value, path)
        if way is not None:
            culprit, found = tracer.last, way
    if len(found) > _LONGEST:
        found = f"{found[: _LONGEST // 2]}...{found[-_LONGEST // 2 :]}"
    return SerializationError(
        path=found, type_name=type(culprit).__qualname__, problem=problem, run_name=run_name
    )


def _safe_way(tracer: Tracer, value: Any, path: str) -> str | None:
    if type(tracer.last) in (str, int, type(None)):
        return None  # the last part of what failed when all its parts were pickled
    try:
        return way_to(tracer.last, value, path, tracer.reduced)
    except Exception:  # something was reduced to what makes no sense, and that is why it failed
        return None


def way_to(culprit: Any, value: Any, path: str, reduced: dict[int, tuple[Any, Any]]) -> str | None:
    """The path from a value to an object in it, in the order in which pickling goes.

    Args:
        culprit: the object.
        value: the value.
        path: what it is called.
        reduced: by id, objects and what they were reduced to.
    """
    seen: set[int] = set()
    open_: list[Iterator[tuple[Any, str]]] = [iter([(value, path)])]
    while open_:
        item = next(open_[-1], None)
        if item is None:
            open_.pop()
            continue
        part, name = item
        if part is culprit:
            return name
        if id(part) in seen:
            continue
        seen.add(id(part))
        open_.append(iter(_parts(part, name, reduced)))
    return None


def _parts(value: Any, path: str, reduced: dict[int, tuple[Any, Any]]) -> Iterator[tuple[Any, str]]:
    """What pickling goes on to, with paths."""
    kind = type(value)
    if kind is dict:
        return _items(value.items(), path)
    if kind is list or kind is tuple:
        return ((item, f"{path}[{index}]") for index, item in enumerate(value))
    if kind is set or kind is frozenset:
        return ((item, f"an element of {path}") for item in value)
    known = reduced.get(id(value))
    if known is None or not isinstance(known[1], tuple):
        return iter(())
    make, args, state, items, pairs = (*known[1][:5], None, None, None)[:5]
    ways: list[Iterator[tuple[Any, str]]] = []
    special = _SPECIAL.get(kind, _of_error if issubclass(kind, BaseException) else None)
    found = special(value, path, args, state) if special is not None else None
    if found is not None:
        ways.append(found)
    else:
        quiet = len(args) == 1 or issubclass(kind, type) or any(make is each for each in _MAKERS)
        ways += [iter([(make, path)]), _arguments(args, path, quiet), _state(state, path)]
    if items is not None:
        ways.append((item, f"{path}[{index}]") for index, item in enumerate(items))
    if pairs is not None:
        ways.append(_items(pairs, path))
    return chain.from_iterable(ways)


def _items(pairs: Any, path: str) -> Iterator[tuple[Any, str]]:
    for key, item in pairs:
        yield key, f"a key of {path}"
        yield item, f"{path}[{shown(key)}]"


def _arguments(args: Any, path: str, quiet: bool) -> Iterator[tuple[Any, str]]:
    """What an object is made from."""
    for index, item in enumerate(args):
        yield item, path if quiet else f"{path}.<reduced>[{index}]"
    yield args, path


def _state(state: Any, path: str) -> Iterator[tuple[Any, str]]:
    """Attributes; of objects with slots, in a pair."""
    parts = state if type(state) is tuple and len(state) == 2 else (state,)
    if not all(part is None or type(part) is dict for part in parts):
        yield state, f"{path}.<state>"
        return
    for part in parts:
        for name, item in (part or {}).items():
            yield name, f"a key of {path}"
            yield item, f"{path}.{name}" if type(name) is str else f"{path}[{shown(name)}]"


# ---------------------------------------------------------------------- what has a way of its own


def _of_function(
    function: FunctionType, path: str, args: Any, state: Any
) -> Iterator[tuple[Any, str]] | None:
    """Closure, defaults, globals: what a function takes along that travels by value."""
    if not (type(state) is tuple and len(state) == 2 and "__globals__" in state[1]):
        return None
    own, told = state
    code = function.__code__
    positional = code.co_varnames[: code.co_argcount]
    defaults = told["__defaults__"] or ()
    named: list[tuple[Any, str]] = []
    for name, cell in zip(code.co_freevars, told["__closure__"] or (), strict=True):
        named.append((cell, f"{path}.<closure>.{name}"))
    for name, value in zip(positional[len(positional) - len(defaults) :], defaults, strict=False):
        named.append((value, f"{path}.<defaults>.{name}"))
    for name, value in (told["__kwdefaults__"] or {}).items():
        named.append((value, f"{path}.<defaults>.{name}"))
    named += ((value, f"{path}.<globals>.{name}") for name, value in told["__globals__"].items())
    named += ((value, f"{path}.{name}") for name, value in own.items())
    return iter([*named, (args, path), (state, path)])


def _of_method(
    method: MethodType, path: str, args: Any, state: Any
) -> Iterator[tuple[Any, str]] | None:
    if len(args) != 2:
        return None
    return iter([(args[0], path), (args[1], f"{path}.__self__")])


def _of_partial(partial: Any, path: str, args: Any, state: Any) -> Iterator[tuple[Any, str]] | None:
    if not (type(state) is tuple and len(state) == 4):
        return None
    function, positional, keywords, own = state
    return chain(
        [(function, f"{path}.func")],
        ((item, f"{path}.args[{index}]") for index, item in enumerate(positional)),
        _items((keywords or {}).items(), f"{path}.keywords"),
        _state(own, path),
    )


def _of_builtin(
    method: BuiltinMethodType, path: str, args: Any, state: Any
) -> Iterator[tuple[Any, str]] | None:
    return iter([(args[0], f"{path}.__self__")])


def _of_cached(cached: Any, path: str, args: Any, state: Any) -> Iterator[tuple[Any, str]] | None:
    _, _, _, made_from = args
    function = cached.__wrapped__
    _, inner, own = state
    if type(function) is FunctionType and inner is not None:
        found = _of_function(function, path, made_from, inner)
        if found is not None:
            return chain(found, _state(own, path))
    return chain([(item, path) for item in made_from], [(inner, path)], _state(own, path))


def _of_error(
    error: BaseException, path: str, args: Any, state: Any
) -> Iterator[tuple[Any, str]] | None:
    if len(state) == 2:  # as its class wants it
        given, (own, told) = args[2], state
        fields: Any = {}
    else:
        given, fields, own, told = state
    return chain(
        ((item, f"{path}.args[{index}]") for index, item in enumerate(given)),
        _state(fields, path),
        _state(own, path),
        ((told[0], f"{path}.__cause__"), (told[1], f"{path}.__context__")),
        [(args, path), (state, path)],
    )


#: What makes instances of most classes, from the class.
_MAKERS: tuple[Any, ...] = (copyreg.__newobj__, copyreg.__newobj_ex__)  # type: ignore[attr-defined]

_Special = Callable[[Any, str, Any, Any], "Iterator[tuple[Any, str]] | None"]

_SPECIAL: dict[type, _Special] = {
    FunctionType: _of_function,
    MethodType: _of_method,
    BuiltinMethodType: _of_builtin,
    functools.partial: _of_partial,
    type(functools.lru_cache(len)): _of_cached,
}
