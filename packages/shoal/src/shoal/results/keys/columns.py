"""Columns of tables, in pieces: numbers by their bytes, texts by their lengths and characters, and which are missing.

What lies under a missing value is not part of the column, and neither is where a column is cut: the same content has the
same bytes, whichever library holds it. Imported when a table is met. May import `arrays` and `buffers`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from shoal.results.keys.arrays import encode_array
from shoal.results.keys.buffers import Stream

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shoal.results.keys.walk import Walk

__all__ = ["ROWS", "lengths", "numbers", "texts"]

#: Rows of a piece where values are turned into Python objects.
ROWS = 1 << 16


def numbers(pieces: Iterable[tuple[Any, Any]], length: int) -> bytes:
    """A column whose values are all of the same width.

    Args:
        pieces: NumPy arrays of one dimension, each with an array of booleans that says which are missing, or `None`.
        length: of all together.
    """
    data, missing = Stream(), _Missing()
    for values, absent in pieces:
        plain = np.ascontiguousarray(values)
        if absent is not None and absent.any():
            plain = plain.copy()
            plain[absent] = np.zeros((), plain.dtype)
        data.update(plain.view(np.uint8))
        missing.update(absent, len(values))
    return b"%d:%b%b" % (length, data.digest(), missing.digest())


def texts(pieces: Iterable[list[Any]], length: int) -> bytes:
    """A column of texts or of bytes.

    Args:
        pieces: lists of them, with `None` where one is missing.
        length: of all together.
    """
    sizes, data, missing = Stream(), Stream(), _Missing()
    for values in pieces:
        absent = np.fromiter((value is None for value in values), bool, len(values))
        missing.update(absent, len(values))
        there = [value for value in values if value is not None]
        sizes.update(np.fromiter(map(len, there), "<i8", len(there)).view(np.uint8))
        is_text = bool(there) and isinstance(there[0], str)
        data.update("".join(there).encode("utf-8", "surrogatepass") if is_text else b"".join(there))
    return b"%d:%b%b%b" % (length, sizes.digest(), data.digest(), missing.digest())


def lengths(values: Any, walk: Walk) -> bytes:
    """How many elements each row of a column of lists has; -1 where there is no list."""
    return encode_array(np.asarray(values, dtype="<i8"), walk)


class _Missing:
    """Which values of a column are missing; nothing is hashed as long as all are there."""

    def __init__(self) -> None:
        self._stream: Stream | None = None
        self._before = 0

    def update(self, absent: Any, length: int) -> None:
        if absent is None or not absent.any():
            if self._stream is None:
                self._before += length
                return
            absent = np.zeros(length, bool)
        if self._stream is None:
            self._stream = Stream()
            self._stream.update(np.zeros(self._before, np.uint8))
        self._stream.update(np.ascontiguousarray(absent).view(np.uint8))

    def digest(self) -> bytes:
        return b"-" if self._stream is None else b"!" + self._stream.digest()
