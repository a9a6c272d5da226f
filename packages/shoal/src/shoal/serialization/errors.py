"""Exceptions as they cross: class, attributes, notes, causes, group members and tracebacks.

Its class is not called on the other side, but an instance is made and filled. Plain pickling calls the class with `args`, which fails where `__init__` takes others, and drops causes and tracebacks. A class that
says itself how it is reduced is trusted, unless that turns out not to work.

May import `guarded` and `tracebacks`.
"""

from __future__ import annotations

import copyreg
import pickle
from types import BuiltinMethodType, GetSetDescriptorType, MemberDescriptorType
from typing import TYPE_CHECKING, Any

from shoal import tracebacks
from shoal.serialization.guarded import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["BARE", "CAREFUL", "ERRORS", "TRUSTING", "reduce_error"]

#: Names of classes, as pickles spell them, of exceptions that have crossed a process border: as arguments and results,
#: too, these are pickled as here, as plain pickling loses some and cannot rebuild others.
ERRORS: set[bytes] = set()

#: How much is taken along, each time less: all, as the class wants it; what can be pickled; that without what led to
#: the exception.
TRUSTING, CAREFUL, BARE = range(3)

_args: Any = BaseException.__dict__["args"]
_cause: Any = BaseException.__dict__["__cause__"]
_context: Any = BaseException.__dict__["__context__"]
_suppress: Any = BaseException.__dict__["__suppress_context__"]
_trace: Any = BaseException.__dict__["__traceback__"]

#: Fields of the built-in classes that are handled apart; and the object that lacks an attribute, which may be anything.
_APART = frozenset({"__dict__", "__weakref__", "args", "exceptions", "message", "obj"})
_FIELDS = (MemberDescriptorType, GetSetDescriptorType)


def _spelled(kind: type[BaseException]) -> bytes:
    """The name of a class as a pickle has it: a short one alone would be found in most large values."""
    name = kind.__qualname__.encode(errors="surrogatepass")
    if len(name) < 256:
        return pickle.SHORT_BINUNICODE + bytes([len(name)]) + name + pickle.MEMOIZE
    return pickle.BINUNICODE + len(name).to_bytes(4, "little") + name + pickle.MEMOIZE


def reduce_error(error: BaseException, care: int, travels: Callable[[Any], bool]) -> Any:
    """What a pickler wants to know of an exception.

    Args:
        error: the exception.
        care: `TRUSTING`, `CAREFUL` or `BARE`.
        travels: whether a value can be pickled, and unpickled again.
    """
    kind = type(error)
    ERRORS.add(_spelled(kind))
    chain = _chain_of(error, care)
    if care == TRUSTING:
        reduce = _own_way(kind)
        if reduce is not None:
            reduced = reduce(error)
            if not isinstance(reduced, tuple) or len(reduced) > 3:
                return reduced
            make, made_from, *own = reduced
            state_and_chain = (own[0] if own else None, chain)
            return (
                _made,
                (kind, make, made_from, _args.__get__(error)),
                state_and_chain,
                None,
                None,
                _told,
            )
    args = _args.__get__(error)
    fields, attributes = _fields_of(error), _attributes_of(error)
    lost: list[str] = []
    if care > TRUSTING:
        args = tuple(_or_text(value, f"args[{i}]", travels, lost) for i, value in enumerate(args))
        fields = _portable(fields, travels, lost)
        attributes = _portable(attributes, travels, lost)
    if lost:
        note = f"Left behind, as it cannot be pickled: {', '.join(lost)}"
        attributes["__notes__"] = [*_notes_in(attributes), note]
    state = (args, fields, attributes, chain)
    return _new, (kind, _arguments_of(error, args)), state, None, None, _filled


def _notes_in(attributes: dict[str, Any]) -> list[Any]:
    notes = attributes.get("__notes__")
    return notes if type(notes) is list else []


# ---------------------------------------------------------------------- what there is


def _chain_of(error: BaseException, care: int) -> tuple[Any, ...]:
    """Cause, context, whether the context is hidden, and the traceback."""
    if care == BARE:
        return None, None, False, ()
    return (
        _cause.__get__(error),
        _context.__get__(error),
        _suppress.__get__(error),
        [tuple(line) for line in tracebacks.told(error)],
    )


def _own_way(kind: type[BaseException]) -> Callable[[Any], Any] | None:
    """How a class says that its instances are reduced; `None` if that is left to the built-in classes."""
    registered = copyreg.dispatch_table.get(kind)
    if registered is not None and not registered.__module__.startswith("tblib"):
        return registered
    for base in kind.__mro__:
        if "__reduce_ex__" in base.__dict__ or "__reduce__" in base.__dict__:
            return None if base.__module__ == "builtins" else lambda error: error.__reduce_ex__(5)
    return None


def _native(kind: type[BaseException]) -> Any:
    """The class written in C that makes instances of this one."""
    while type(kind.__dict__.get("__new__")) is not BuiltinMethodType:
        assert kind.__base__ is not None  # BaseException at the latest
        kind = kind.__base__
    return kind


def _arguments_of(error: BaseException, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """What the built-in class is given to make it again."""
    if issubclass(type(error), BaseExceptionGroup):
        group = BaseExceptionGroup.__dict__
        return group["message"].__get__(error), list(group["exceptions"].__get__(error))
    native = _native(type(error))
    if native.__module__ == "builtins" and not any(_fields(native)):
        return ()  # it keeps nothing but `args`, which are set later: they may hold the exception
    return args


def _fields(kind: type) -> Iterator[tuple[str, Any]]:
    """What instances have besides their `__dict__`: slots, and what the built-in classes keep."""
    for base in kind.__mro__:
        if base in (BaseException, object):
            return
        for name, field in base.__dict__.items():
            if type(field) in _FIELDS and name not in _APART:
                yield name, field


def _fields_of(error: BaseException) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, field in _fields(type(error)):
        try:
            value = field.__get__(error)
        except AttributeError:  # not set
            continue
        if value is not None:
            found.setdefault(name, value)
    return found


def _attributes_of(error: BaseException) -> dict[str, Any]:
    return dict(object.__getattribute__(error, "__dict__"))


# ---------------------------------------------------------------------- what can travel


def _or_text(value: Any, name: str, travels: Callable[[Any], bool], lost: list[str]) -> Any:
    if travels(value):
        return value
    lost.append(f"{name} ({type(value).__name__})")
    return shown(value)


def _portable(
    values: dict[str, Any], travels: Callable[[Any], bool], lost: list[str]
) -> dict[str, Any]:
    kept = {name: value for name, value in values.items() if travels(value)}
    lost += [f".{name} ({type(values[name]).__name__})" for name in values if name not in kept]
    return kept


# ---------------------------------------------------------------------- on the other side


def _new(kind: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    """An exception of this class, as the built-in class under it makes it."""
    native = _native(kind)
    try:
        error: BaseException = native.__new__(kind, *args)
        native.__init__(error, *args)
    except Exception:  # arguments that were changed since
        error = native.__new__(kind)
    return error


def _made(
    kind: type[BaseException], make: Callable[..., Any], args: tuple[Any, ...], own: tuple[Any, ...]
) -> BaseException:
    """An exception as its class wants it made; if that fails, as others are."""
    try:
        error: BaseException = make(*args)
        _args.__set__(error, own)
    except Exception:
        return _new(kind, own)
    return error


def _filled(error: BaseException, state: tuple[Any, ...]) -> None:
    args, fields, attributes, chain = state
    _args.__set__(error, args)
    for name, field in _fields(type(error)):
        if name in fields:
            try:
                field.__set__(error, fields.pop(name))
            except (AttributeError, TypeError, ValueError):  # it can only be read
                continue
    object.__getattribute__(error, "__dict__").update(attributes)
    _chain(error, chain)


def _told(error: BaseException, state: tuple[Any, ...]) -> None:
    own, chain = state
    if own is not None:
        setstate = getattr(type(error), "__setstate__", None)
        if setstate is not None and setstate is not BaseException.__setstate__:
            setstate(error, own)
        elif isinstance(own, dict):
            object.__getattribute__(error, "__dict__").update(own)
    _chain(error, chain)


def _chain(error: BaseException, chain: tuple[Any, ...]) -> None:
    cause, context, suppress, lines = chain
    if cause is not None:
        _cause.__set__(error, cause)
    if context is not None:
        _context.__set__(error, context)
    _suppress.__set__(error, suppress)
    if lines:
        _trace.__set__(error, tracebacks.rebuilt([tracebacks.Line(*line) for line in lines]))
    ERRORS.add(_spelled(type(error)))
