"""NumPy's arrays, by their data, in the order of their indices; whatever their layout in memory and the order of bytes.

A contiguous array is not copied, of another a piece at a time. A memory map is the array that it shows. Imported when an
array is met. May import `buffers`, `naming` and `walk`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from shoal.results.keys.buffers import Stream, hash_bytes
from shoal.results.keys.naming import name_of
from shoal.results.keys.walk import text

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.results.keys.walk import Walk

__all__ = ["encode_array", "encoder_of"]

_CONTIGUOUS: Any = [["readonly", "contig"]]  # NumPy's types know no "contig"
#: Elements of a strided array that are copied at once.
_BUFFERED = 1 << 18


def encoder_of(kind: type) -> Callable[[Any, Walk], bytes] | None:
    """The encoder of one of NumPy's types, `None` for those that are objects like others."""
    if issubclass(kind, np.ma.MaskedArray):
        return _masked
    if issubclass(kind, np.ndarray):
        return encode_array
    if issubclass(kind, np.generic):
        return _scalar
    if issubclass(kind, np.dtype):
        return _dtype
    if issubclass(kind, np.ufunc):
        return _ufunc
    return None


def encode_array(array: Any, walk: Walk) -> bytes:
    """An array: its type, shape and data; of a subclass its name too, and its attributes, say units."""
    kind = type(array)
    plain = array.view(np.ndarray)
    shape = ",".join(map(str, plain.shape))
    head = b"A"
    if kind not in (np.ndarray, np.memmap):
        head = b"A+" + text(name_of(kind)) + walk.attributes(getattr(array, "__dict__", {}))
    return head + _dtype(plain.dtype, walk) + text(shape) + _data(plain, walk)


def _data(array: Any, walk: Walk) -> bytes:
    dtype = array.dtype
    if dtype.names is not None:  # field by field: what is between them is not part of the value
        return b"".join(_data(array[name], walk) for name in dtype.names)
    if dtype.hasobject or dtype.kind == "T":
        return walk.sequence(array.ravel().tolist())
    if array.flags.c_contiguous and dtype.str[0] != ">":
        return hash_bytes(memoryview(array.reshape(-1).view(np.uint8)))
    return _strided(array)


def _strided(array: Any) -> bytes:
    """As `hash_bytes` of a contiguous copy, of which there is only a piece at a time."""
    stream = Stream()
    pieces = np.nditer(
        array,
        flags=["external_loop", "buffered", "zerosize_ok"],
        op_flags=_CONTIGUOUS,
        op_dtypes=[array.dtype.newbyteorder("<")],
        order="C",
        buffersize=_BUFFERED,
    )
    piece: Any
    for piece in pieces:
        stream.update(piece.view(np.uint8))
    return stream.digest()


def _dtype(dtype: Any, walk: Walk) -> bytes:
    if dtype.names is not None:
        fields = [(name, dtype.fields[name][0]) for name in dtype.names]
        return b"V" + b"".join(text(name) + _dtype(inner, walk) for name, inner in fields) + b";"
    if dtype.subdtype is not None:
        inner, shape = dtype.subdtype
        return b"U" + _dtype(inner, walk) + text(str(shape))
    # Pickling turns the bytes of an array into this machine's order, so that their order cannot count.
    return text(dtype.newbyteorder("<").str if dtype.kind != "T" else "T")


def _scalar(value: Any, walk: Walk) -> bytes:
    array = np.asarray(value)
    return b"G" + _dtype(array.dtype, walk) + _data(array, walk)


def _masked(array: Any, walk: Walk) -> bytes:
    """What is under the mask is not part of the value."""
    filled = encode_array(np.asarray(array.filled()), walk)
    mask = encode_array(np.ma.getmaskarray(array), walk)
    return b"K" + filled + mask + encode_array(np.asarray(array.fill_value), walk)


def _ufunc(value: Any, walk: Walk) -> bytes:
    return b"x" + text(f"numpy.{value.__name__}")
