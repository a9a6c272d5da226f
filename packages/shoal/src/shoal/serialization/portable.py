"""Exceptions on their way home: pickled so that they certainly arrive, whatever they are.

May import `culprits`, `errors` and `pickling`; `by_value` on use.
"""

from __future__ import annotations

from typing import Any

from shoal import tracebacks
from shoal.exceptions import SerializationError
from shoal.safely import in_words, kind_of
from shoal.serialization.culprits import find_culprit
from shoal.serialization.errors import BARE, CAREFUL, TRUSTING
from shoal.serialization.guarded import from_a_signal, words_of
from shoal.serialization.pickling import dumps, loads

__all__ = ["Portable", "pack_error", "portable_error", "unpicklable"]


def portable_error(error: BaseException, run_name: str) -> bytes:
    """Pickles an exception so that it certainly unpickles: itself, or else a `SerializationError` that tells of it.

    Of what cannot be pickled in it, arguments become text and attributes stay behind; a note says which.
    """
    from shoal.serialization import by_value

    problem = ""
    for care in (TRUSTING, CAREFUL, BARE):
        try:
            data = by_value.dumps(error, care=care)
            if type(loads(data)) is type(error):
                return data
            problem = problem or "it unpickles as something else"
        except BaseException as failure:
            if from_a_signal(failure):
                raise
            problem = problem or words_of(failure)
    told = SerializationError(
        path="exception", type_name=type(error).__qualname__, problem=problem, run_name=run_name
    )
    told.add_note(f"The task raised {words_of(error)}")
    told.__traceback__ = tracebacks.rebuilt(tracebacks.told(error))
    return by_value.dumps(told)


def pack_error(error: BaseException, run_name: str) -> bytes:
    """Pickles an exception so that it certainly unpickles, whatever exception it is."""
    try:
        return portable_error(error, run_name)
    except BaseException as problem:  # it cannot be looked at: its class is all that is told
        told = SerializationError(
            path="exception",
            type_name=kind_of(error),
            problem=f"it cannot be looked at: {in_words(problem)}",
            run_name=run_name,
        )
        return dumps(told)


def unpicklable(
    value: Any, path: str, problem: BaseException, run_name: str | None = None
) -> SerializationError:
    """The error of a value that cannot be pickled: `find_culprit`'s, or one that needs nothing of the value.

    Args:
        value: the value.
        path: what it is called.
        problem: what pickling has raised.
        run_name: the run.
    """
    try:
        return find_culprit(value, path, run_name)
    except BaseException:  # it cannot be looked at
        return SerializationError(
            path=path, type_name=kind_of(value), problem=in_words(problem), run_name=run_name
        )


class Portable:
    """Stands for an exception in what is pickled, and is unpickled as it, or as what `portable_error` makes of it.

    Args:
        error: the exception.
        run_name: the run that raised it.
    """

    __slots__ = ("_data",)

    def __init__(self, error: BaseException, run_name: str) -> None:
        self._data = portable_error(error, run_name)

    def __reduce__(self) -> Any:
        return loads, (self._data,)
