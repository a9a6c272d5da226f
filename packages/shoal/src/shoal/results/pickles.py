"""Pickles that are kept: read by a later process, in which classes are the same by name only.

    a pickle                                                      where nothing large is in it
    magic (8)   count (4)   lengths (8 each)   pickle   buffers   the data of arrays and large bytes is beside the pickle

Numbers are little-endian. Beside the pickle, data is not searched for names, which takes longer than all else: see
`shoal.serialization.pickling`.

What a script defines, or another module that workers have not, travels by value: one that is kept so would be of a class of its own. So
such classes are kept with their name, too: where a process has the class, see `classes`, it is that; where it has none, the
copy. May import `classes` and `serialization`.
"""

from __future__ import annotations

import io
import pickle
import struct
from typing import Any

from shoal.results.classes import class_at, is_of_the_script, place_of
from shoal.serialization import BY_VALUE, dumps_with_buffers

__all__ = ["dumps", "loads"]

_PROTOCOL = 5
_MAGIC = b"shoal-b1"  # no pickle begins so


def dumps(value: Any) -> bytes:
    """The bytes of a value.

    Raises:
        Exception: whatever pickling raises.
    """
    data, buffers = dumps_with_buffers(value)
    if b"__main__" in data or any(name in data for name in list(BY_VALUE)):
        data, buffers = _dumps_by_name(value)
    if not buffers:
        return data
    views = [buffer.raw() for buffer in buffers]
    lengths = [len(data), *(view.nbytes for view in views)]
    head = struct.pack(f"<8sI{len(lengths)}Q", _MAGIC, len(views), *lengths)
    return b"".join((head, data, *views))


def loads(data: bytes | memoryview) -> Any:
    """The value of bytes that `dumps` made.

    Raises:
        Exception: whatever unpickling raises.
    """
    if data[:8] != _MAGIC:
        return _Unpickler(io.BytesIO(data)).load()
    (count,) = struct.unpack_from("<I", data, 8)
    lengths = struct.unpack_from(f"<{count + 1}Q", data, 12)
    view, start, parts = memoryview(data), 12 + 8 * (count + 1), []
    for length in lengths:
        parts.append(view[start : start + length])
        start += length
    # Arrays are made of copies, so that they may be written.
    return _Unpickler(io.BytesIO(parts[0]), buffers=map(bytearray, parts[1:])).load()


# ---------------------------------------------------------------------- classes that travel by value


def _dumps_by_name(value: Any) -> tuple[bytes, list[pickle.PickleBuffer]]:
    from shoal.serialization.by_value import Pickler
    from shoal.serialization.by_value import dumps as dumps_by_value
    from shoal.serialization.references import travels_by_value

    class ByName(Pickler):
        def reducer_override(self, obj: Any) -> Any:
            is_class = isinstance(obj, type)
            if is_class and travels_by_value(obj.__module__) and "<" not in obj.__qualname__:
                return _class_of, (*place_of(obj), dumps_by_value(obj))
            return super().reducer_override(obj)

    file, buffers = io.BytesIO(), list[pickle.PickleBuffer]()
    ByName(file, _PROTOCOL, buffer_callback=buffers.append).dump(value)
    return file.getvalue(), buffers


def _class_of(module: str, name: str, copy: bytes) -> Any:
    """The class that the program has, or else the copy."""
    return class_at(module, name) or pickle.loads(copy)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """What the program's own file defines is taken from the running program, and not imported a second time."""
        found = class_at(module, name) if is_of_the_script(module) else None
        return super().find_class(module, name) if found is None else found
