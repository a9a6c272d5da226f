"""Exceptions on their way home: pickled so that they certainly arrive, whatever they are.

May import `errors` and `pickling`; `by_value` on use.
"""

from __future__ import annotations

from typing import Any

from shoal import tracebacks
from shoal.exceptions import SerializationError
from shoal.serialization.errors import BARE, CAREFUL, TRUSTING
from shoal.serialization.guarded import from_a_signal, words_of
from shoal.serialization.pickling import loads

__all__ = ["Portable", "portable_error"]


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
