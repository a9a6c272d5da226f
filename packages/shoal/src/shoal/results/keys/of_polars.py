"""Polars' frames and series, column by column, however they are cut into chunks. Imported when one is met.

May import `columns`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from shoal.results.keys.columns import ROWS, lengths, numbers, texts
from shoal.results.keys.walk import text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shoal.results.keys.walk import Walk

__all__ = ["encoder_of"]


def encoder_of(kind: type) -> Callable[[Any, Walk], bytes] | None:
    """The encoder of one of Polars' types, `None` for those that are objects like others."""
    if issubclass(kind, pl.DataFrame):
        return _frame
    if issubclass(kind, pl.Series):
        return lambda series, walk: b"Ys" + text(series.name) + _column(series, walk)
    return None


def _frame(frame: Any, walk: Walk) -> bytes:
    columns = [text(series.name) + _column(series, walk) for series in frame.iter_columns()]
    return b"Yf%d:" % frame.height + b"".join(columns)


def _column(series: Any, walk: Walk) -> bytes:
    """One column: the name of its type, and its data."""
    dtype = series.dtype
    if isinstance(dtype, pl.Enum):
        head = text("Enum") + walk.sequence(dtype.categories.to_list())
    else:
        head = text(str(dtype))
    return head + _data(series, dtype, walk)


def _data(series: Any, dtype: Any, walk: Walk) -> bytes:
    length = len(series)
    if isinstance(dtype, (pl.String, pl.Binary)):
        return texts(_lists(series), length)
    if isinstance(dtype, (pl.Categorical, pl.Enum, pl.Decimal)):
        return texts(_lists(series, pl.String()), length)
    if str(dtype).endswith("128"):  # which NumPy has not, and older Polars make no text of
        return b"".join([walk.sequence(values) for values in _lists(series)])
    if dtype.is_numeric() or dtype.is_temporal() or isinstance(dtype, pl.Boolean):
        return numbers(map(_plain, series.get_chunks()), length)
    if isinstance(dtype, pl.List):
        counts = series.list.len()
        inner = series.filter((counts > 0).fill_null(False)).explode()
        return lengths(counts.cast(pl.Int64).fill_null(-1).to_numpy(), walk) + _column(inner, walk)
    if isinstance(dtype, pl.Struct):
        absent = numbers([(np.zeros(length, np.uint8), series.is_null().to_numpy())], length)
        fields = [_column(series.struct.field(field.name), walk) for field in dtype.fields]
        return absent + b"".join(fields)
    return b"".join([walk.sequence(values) for values in _lists(series)])


def _plain(chunk: Any) -> tuple[Any, Any]:
    """The numbers behind one chunk, and which are missing; without a copy where none is."""
    plain = chunk.to_physical()
    if not plain.null_count():
        return plain.to_numpy(), None
    empty = False if isinstance(plain.dtype, pl.Boolean) else 0
    return plain.fill_null(empty).to_numpy(), plain.is_null().to_numpy()


def _lists(series: Any, dtype: Any = None) -> Iterator[list[Any]]:
    for start in range(0, len(series), ROWS):
        piece = series.slice(start, ROWS)
        yield (piece if dtype is None else piece.cast(dtype)).to_list()
