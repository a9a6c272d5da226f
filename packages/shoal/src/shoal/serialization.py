"""Pickling: plain where it works on the other side, cloudpickle where it would not, and errors that say where.

Plain pickle takes classes and functions of `__main__` by reference, which a worker cannot resolve; cloudpickle takes
them by value. May import `exceptions`; cloudpickle on use.
"""

from __future__ import annotations

import copyreg
import io
import os
import pickle
from collections import ChainMap
from types import FunctionType
from typing import TYPE_CHECKING, Any

from shoal.exceptions import SerializationError

if TYPE_CHECKING:
    from types import TracebackType

__all__ = [
    "BY_VALUE",
    "dumps",
    "dumps_function",
    "dumps_with_buffers",
    "find_culprit",
    "loads",
    "loads_each",
    "portable_error",
]

_PROTOCOL = 5

#: Names of modules, as bytes, that are treated like `__main__`: what they define travels by value. Kept by runners whose
#: workers do not have these modules, who register them with cloudpickle too.
BY_VALUE: set[bytes] = set()

#: Types that never have buffers of their own.
_FLAT = frozenset({type(None), bool, int, float, complex, str, bytes})

#: Buffers below this many bytes stay in the pickle: to copy them there costs less than to handle them apart.
_SMALL = 4096


def dumps(value: Any) -> bytes:
    """Pickles a value for another process.

    Raises:
        Exception: whatever pickling raises; `find_culprit` puts it into words.
    """
    try:
        data = _dumps_plainly(value)
        if b"__main__" not in data and not (BY_VALUE and _names_any(data)):
            return data
    except Exception:  # cloudpickle knows more types, and its error is the one to see
        pass
    return dumps_function(value)


# tblib, which Dask imports, has all exceptions pickled with their tracebacks; those with attributes of their own, such as
# SyntaxError or UnicodeDecodeError, lose these. Ours tell their tracebacks in notes, so it is left out.


def _has_tblib() -> bool:
    return BaseException in copyreg.dispatch_table


def _without_tblib() -> dict[type, Any]:
    return {
        kind: reduce
        for kind, reduce in copyreg.dispatch_table.items()
        if not issubclass(kind, BaseException)
    }


def _dumps_plainly(value: Any, callback: Any = None) -> bytes:
    if not _has_tblib():
        return pickle.dumps(value, _PROTOCOL, buffer_callback=callback)
    file = io.BytesIO()
    pickler = pickle.Pickler(file, _PROTOCOL, buffer_callback=callback)
    pickler.dispatch_table = _without_tblib()
    pickler.dump(value)
    return file.getvalue()


def _dumps_by_value(value: Any, callback: Any = None) -> bytes:
    import cloudpickle

    if not _has_tblib():
        data: bytes = cloudpickle.dumps(value, _PROTOCOL, buffer_callback=callback)
        return data
    file = io.BytesIO()
    pickler = cloudpickle.Pickler(file, _PROTOCOL, buffer_callback=callback)
    pickler.dispatch_table = ChainMap(cloudpickle.Pickler._dispatch_table, _without_tblib())
    pickler.dump(value)
    return file.getvalue()


def _names_any(data: bytes) -> bool:
    """Whether a plain pickle refers to a module that travels by value; it may be a mere text that looks so."""
    return any(name in data for name in list(BY_VALUE))


class _Buffers(list[pickle.PickleBuffer]):
    """Collects what had better stay out of a pickle; a callback that costs less to make than a closure."""

    __slots__ = ()

    def __call__(self, buffer: pickle.PickleBuffer) -> bool:
        if memoryview(buffer).nbytes < _SMALL:
            return True  # into the pickle
        self.append(buffer)
        return False


def dumps_with_buffers(value: Any) -> tuple[bytes, list[pickle.PickleBuffer]]:
    """Pickles a value like `dumps`, but leaves its large buffers (those of NumPy arrays, say) where they are. Hot.

    Returns:
        The pickle, and views of the buffers it refers to: still the value's own memory, in the order in which
        `pickle.loads(..., buffers=...)` wants them.

    Raises:
        Exception: whatever pickling raises; `find_culprit` puts it into words.
    """
    buffers: list[pickle.PickleBuffer]
    try:
        if type(value) in _FLAT:  # the callback would cost another 100 ns
            buffers = []
            data = pickle.dumps(value, _PROTOCOL)
        else:
            buffers = callback = _Buffers()
            data = _dumps_plainly(value, callback)
        if b"__main__" not in data and not (BY_VALUE and _names_any(data)):
            return data, buffers
    except Exception:  # as in `dumps`
        pass
    buffers = callback = _Buffers()
    return _dumps_by_value(value, callback), buffers


def dumps_function(value: Any) -> bytes:
    """Pickles something that is, or is likely to hold, functions; those of `__main__` by value."""
    return _dumps_by_value(value)


loads = pickle.loads


def loads_each(parts: list[bytes]) -> list[Any]:
    """Unpickles values one by one; what fails is a `SerializationError` in its place."""
    values: list[Any] = []
    for part in parts:
        try:
            values.append(loads(part))
        except Exception as error:
            values.append(
                SerializationError(
                    path="result", type_name="unknown", problem=f"unpickling raised {error!r}"
                )
            )
    return values


def find_culprit(value: Any, path: str, run_name: str | None = None) -> SerializationError:
    """The error of a value that cannot be pickled, naming the innermost part that cannot be.

    Args:
        value: the value.
        path: what it is called, say `parameters['cfg']`.
        run_name: the run.
    """
    seen: set[int] = set()
    problem = "it cannot be pickled"
    for _ in range(50):
        seen.add(id(value))
        try:
            dumps(value)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        inner = next(
            (
                (part, name)
                for part, name in _parts(value, path)
                if id(part) not in seen and not _pickles(part)
            ),
            None,
        )
        if inner is None:
            break
        value, path = inner
    return SerializationError(
        path=path, type_name=type(value).__qualname__, problem=problem, run_name=run_name
    )


def _parts(value: Any, path: str) -> list[tuple[Any, str]]:
    if isinstance(value, dict):
        parts = [(key, f"a key of {path}") for key in value]
        return parts + [(item, f"{path}[{key!r}]") for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return [(item, f"{path}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, (set, frozenset)):
        return [(item, f"an element of {path}") for item in value]
    attributes = getattr(value, "__dict__", None)
    if isinstance(attributes, dict) and not isinstance(value, type):
        return [(item, f"{path}.{name}") for name, item in attributes.items()]
    if isinstance(value, FunctionType):
        return _parts_of_function(value, path)
    return []


def _parts_of_function(function: FunctionType, path: str) -> list[tuple[Any, str]]:
    """What a function refers to: it travels by value, and takes these along."""
    names = function.__code__.co_freevars
    parts = [
        (cell.cell_contents, f"{path}.<closure>.{name}")
        for cell, name in zip(function.__closure__ or (), names, strict=True)
    ]
    known = function.__globals__
    used = [name for name in function.__code__.co_names if name in known]
    return parts + [(known[name], f"{path}.<globals>.{name}") for name in used]


def _pickles(value: Any) -> bool:
    try:
        dumps(value)
    except Exception:
        return False
    return True


def _users_part(trace: TracebackType | None) -> TracebackType | None:
    """A traceback from the first line on that is not ours; whole if there is none."""
    ours = os.path.dirname(__file__)
    part = trace
    while part is not None and part.tb_frame.f_code.co_filename.startswith(ours):
        part = part.tb_next
    return part if part is not None else trace


def portable_error(error: BaseException, run_name: str) -> bytes:
    """Pickles an exception so that it certainly unpickles: itself, or else a `SerializationError` that tells of it."""
    import traceback

    text = "".join(traceback.format_exception(type(error), error, _users_part(error.__traceback__)))
    if not any(
        "Traceback (most recent call last)" in note for note in getattr(error, "__notes__", ())
    ):
        error.add_note(f"On the worker:\n{text}")
    try:
        data = dumps(error)
        if type(loads(data)) is type(error):
            return data
        problem = "it unpickles as something else"
    except Exception as failure:
        problem = f"{type(failure).__name__}: {failure}"
    told = SerializationError(
        path="exception", type_name=type(error).__qualname__, problem=problem, run_name=run_name
    )
    told.add_note(f"The task raised:\n{text}")
    return dumps(told)
