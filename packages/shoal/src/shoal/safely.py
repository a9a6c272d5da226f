"""What is said of the user's exceptions and values: words that can always be found, whatever the object does.

An exception may refuse attributes (a frozen dataclass does), and its `__str__` may raise, SystemExit too. Who reports a
failure says it in these words, and asks the object for nothing else, so that the report cannot fail. May import the
standard library only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    from types import TracebackType

__all__ = [
    "in_words",
    "is_error",
    "is_raisable",
    "kind_of",
    "repr_of",
    "text_of",
    "traceback_of",
    "with_traceback",
]


def text_of(value: object) -> str:
    """What `str` gives."""
    try:
        return str.__str__(str(value))  # it may give a subclass of `str`, with methods of its own
    except BaseException:
        return "(its message could not be made)"


def repr_of(value: object) -> str:
    """What `repr` gives."""
    try:
        return str.__str__(repr(value))
    except BaseException:
        return f"<{kind_of(value)} whose repr could not be made>"


def kind_of(value: object) -> str:
    """The name of its class."""
    name: str = _NAME.__get__(type(value))
    return name


def in_words(error: BaseException) -> str:
    """Class and message: `ValueError: no such table`."""
    text = text_of(error)
    return f"{kind_of(error)}: {text}" if text else kind_of(error)


def is_error(value: object) -> TypeGuard[Exception]:
    """Whether it is an `Exception`, by its class alone: `isinstance` may ask the object too."""
    return issubclass(type(value), Exception)


def is_raisable(value: object) -> TypeGuard[BaseException]:
    """Whether it is any exception, SystemExit and its like included."""
    return issubclass(type(value), BaseException)


def traceback_of(value: object) -> TracebackType | None:
    """The traceback of an exception; `None` for anything else."""
    if not is_raisable(value):
        return None
    trace: TracebackType | None = _TRACEBACK.__get__(value)
    return trace


def with_traceback(error: BaseException, trace: TracebackType | None) -> BaseException:
    """The exception, with another traceback."""
    return BaseException.with_traceback(error, trace)


# The interpreter's own accessors: what a class overrides is not asked.
_NAME: Any = vars(type)["__name__"]
_TRACEBACK: Any = vars(BaseException)["__traceback__"]
