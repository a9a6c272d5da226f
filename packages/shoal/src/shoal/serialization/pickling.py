"""Pickling: plain where it works on the other side, by value where it would not. Hot.

May import `errors`; `by_value` on use, which loads cloudpickle.
"""

from __future__ import annotations

import copyreg
import io
import pickle
from typing import Any

from shoal.exceptions import SerializationError
from shoal.serialization.errors import ERRORS
from shoal.serialization.guarded import from_a_signal, words_of

__all__ = [
    "BY_VALUE",
    "dumps",
    "dumps_function",
    "dumps_with_buffers",
    "loads",
    "loads_each",
]

_PROTOCOL = 5

#: Names of modules, as bytes, that are treated like `__main__`: what they define travels by value. Kept by runners whose
#: workers do not have these modules, who register them with cloudpickle too.
BY_VALUE: set[bytes] = set()

#: Types that never have buffers of their own.
_FLAT = frozenset({type(None), bool, int, float, complex, str})

#: Buffers below this many bytes stay in the pickle: to copy them there costs less than to handle them apart.
_SMALL = 4096

#: From so many on, bytes are a buffer too. Pickle copies them, and the copy would be searched for names: a value of 16 MB took
#: longer to be pickled, only to be kept where it was, than all else that a task costs.
_MANY = 64 * 1024


class _Bytes:
    """Pickled as bytes that are made of a buffer."""

    def __reduce__(self) -> Any:
        return bytes, (pickle.PickleBuffer(b""),)


#: The pickle of bytes whose buffer is not in it.
_BYTES = pickle.dumps(_Bytes(), _PROTOCOL, buffer_callback=lambda _: False)

#: The opcode by which a pickle names a class or function; in most pickles there is none.
_NAMES = pickle.STACK_GLOBAL


def dumps(value: Any) -> bytes:
    """Pickles a value for another process.

    Raises:
        Exception: whatever pickling raises; `find_culprit` puts it into words.
    """
    try:
        data = _dumps_plainly(value)
        find = data.find
        if find(_NAMES) < 0 or (
            find(b"__main__") < 0
            and find(b"getattr") < 0
            and (not (BY_VALUE or ERRORS) or _names_none(data))
        ):
            return data
    except Exception:  # pickling by value knows more types, and its error is the one to see
        pass
    return dumps_function(value)


# A plain pickle is not understood on the other side where it names `__main__`, or a module that travels by value. Bound
# methods are in it as attributes of their objects, which may be the state of a module. And a mere text may look so.
# (`find` takes half the time of `in`, which tries first whether it is asked for a number.)


def _names_none(data: bytes) -> bool:
    """Whether a plain pickle names no module that travels by value, and no class of exceptions that have crossed."""
    return not any(name in data for names in (BY_VALUE, ERRORS) for name in list(names))


# tblib, which Dask imports, has all exceptions pickled with their tracebacks; those with attributes of their own, such as
# SyntaxError or UnicodeDecodeError, lose these. So it is left out.


def _dumps_plainly(value: Any, callback: Any = None) -> bytes:
    if BaseException not in copyreg.dispatch_table:
        return pickle.dumps(value, _PROTOCOL, buffer_callback=callback)
    file = io.BytesIO()
    pickler = pickle.Pickler(file, _PROTOCOL, buffer_callback=callback)
    pickler.dispatch_table = {
        kind: reduce
        for kind, reduce in copyreg.dispatch_table.items()
        if not issubclass(kind, BaseException)
    }
    pickler.dump(value)
    return file.getvalue()


class _Buffers(list[pickle.PickleBuffer]):
    """Collects what had better stay out of a pickle; a callback that costs less to make than a closure."""

    __slots__ = ()

    def __call__(self, buffer: pickle.PickleBuffer) -> bool:
        if memoryview(buffer).nbytes < _SMALL:
            return True  # into the pickle
        self.append(buffer)
        return False


def dumps_with_buffers(value: Any) -> tuple[bytes, list[pickle.PickleBuffer]]:
    """Pickles a value like `dumps`, but leaves its large buffers (those of NumPy arrays, or large bytes) where they are. Hot.

    Returns:
        The pickle, and views of the buffers it refers to: still the value's own memory, in the order in which
        `pickle.loads(..., buffers=...)` wants them.

    Raises:
        Exception: whatever pickling raises; `find_culprit` puts it into words.
    """
    buffers: list[pickle.PickleBuffer]
    try:
        if (kind := type(value)) in _FLAT:  # the callback would cost another 100 ns
            buffers = []
            data = pickle.dumps(value, _PROTOCOL)
        elif kind is bytes and len(value) >= _MANY:
            return _BYTES, [pickle.PickleBuffer(value)]
        else:
            buffers = callback = _Buffers()
            data = _dumps_plainly(value, callback)
        find = data.find
        if find(_NAMES) < 0 or (
            find(b"__main__") < 0
            and find(b"getattr") < 0
            and (not (BY_VALUE or ERRORS) or _names_none(data))
        ):
            return data, buffers
    except Exception:  # as in `dumps`
        pass
    buffers = callback = _Buffers()
    from shoal.serialization import by_value

    return by_value.dumps(value, callback), buffers


def dumps_function(value: Any) -> bytes:
    """Pickles something that is, or is likely to hold, functions or exceptions: all with care."""
    from shoal.serialization import by_value

    return by_value.dumps(value)


loads = pickle.loads


def loads_each(parts: list[bytes]) -> list[Any]:
    """Unpickles values one by one; what fails is a `SerializationError` in its place."""
    values: list[Any] = []
    for part in parts:
        try:
            values.append(loads(part))
        except BaseException as error:
            if from_a_signal(error):
                raise
            values.append(
                SerializationError(
                    path="result",
                    type_name="unknown",
                    problem=f"unpickling raised {words_of(error)}",
                )
            )
    return values
