"""Pickles that are kept: read by a later process, in which classes are the same by name only.

    a pickle                                                      where nothing large is in it
    magic (8)   count (4)   lengths (8 each)   pickle   buffers   the data of arrays and large bytes is beside the pickle

Numbers are little-endian. Beside the pickle, data is not searched for names, which takes longer than all else: see
`shoal.serialization.pickling`.

What a script defines, or another module that workers have not, travels by value: one that is kept so would be of a class of its own,
with which `isinstance` and `==` do not agree. So such classes are kept with their name, too: where a process has the class, it is
that; where it has none, the copy. May import `serialization`.
"""

from __future__ import annotations

import io
import pickle
import struct
import sys
from typing import Any

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
        return pickle.loads(data)
    (count,) = struct.unpack_from("<I", data, 8)
    lengths = struct.unpack_from(f"<{count + 1}Q", data, 12)
    view, start, parts = memoryview(data), 12 + 8 * (count + 1), []
    for length in lengths:
        parts.append(view[start : start + length])
        start += length
    # Arrays are made of copies, so that they may be written.
    return pickle.loads(parts[0], buffers=map(bytearray, parts[1:]))


# ---------------------------------------------------------------------- classes that travel by value


def _dumps_by_name(value: Any) -> tuple[bytes, list[pickle.PickleBuffer]]:
    from shoal.serialization.by_value import Pickler
    from shoal.serialization.by_value import dumps as dumps_by_value
    from shoal.serialization.references import travels_by_value

    class ByName(Pickler):
        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, type):
                module, name = obj.__module__, obj.__qualname__
                if travels_by_value(module) and "<" not in name:
                    return _class_of, (module, name, dumps_by_value(obj))
            return super().reducer_override(obj)

    file, buffers = io.BytesIO(), list[pickle.PickleBuffer]()
    ByName(file, _PROTOCOL, buffer_callback=buffers.append).dump(value)
    return file.getvalue(), buffers


def _class_of(module: str, name: str, copy: bytes) -> Any:
    """A class: that of the module, if this process has it, or that of a function that has come here; else the copy."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if isinstance(found, type) and found.__module__ == module:
        return found
    from cloudpickle import cloudpickle

    known = list(cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS)
    for kind in reversed(known):  # the one that came last
        if kind.__module__ == module and kind.__qualname__ == name:
            return kind
    return pickle.loads(copy)
