"""pandas: frames, series, indexes and their arrays, column by column. Imported when one is met. May import `columns` and `kinds`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from shoal.results.keys.arrays import encode_array
from shoal.results.keys.columns import ROWS, numbers, texts
from shoal.results.keys.kinds import encode_object
from shoal.results.keys.naming import name_of
from shoal.results.keys.walk import text

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.results.keys.walk import Walk

__all__ = ["encoder_of"]


def encoder_of(kind: type) -> Callable[[Any, Walk], bytes] | None:
    """The encoder of one of pandas' types, `None` for those that are objects like others."""
    if issubclass(kind, pd.DataFrame):
        return _frame
    if issubclass(kind, pd.Series):
        return _series
    if issubclass(kind, pd.Index):
        return _index
    if issubclass(kind, pd.api.extensions.ExtensionArray):
        return _array
    return None


def _frame(frame: Any, walk: Walk) -> bytes:
    columns = [_array(frame.iloc[:, i].array, walk) for i in range(frame.shape[1])]
    name = text(name_of(type(frame))) + _more(frame, pd.DataFrame, walk)
    return b"Q%b%b%b" % (name, _index(frame.columns, walk), _index(frame.index, walk)) + b"".join(
        columns
    )


def _series(series: Any, walk: Walk) -> bytes:
    name = text(name_of(type(series))) + walk.encode(series.name) + _more(series, pd.Series, walk)
    return b"Q" + name + _index(series.index, walk) + _array(series.array, walk)


def _more(value: Any, plain: type, walk: Walk) -> bytes:
    """What a subclass says that it keeps beside the data."""
    names = [] if type(value) is plain else value._metadata
    return walk.attributes({name: getattr(value, name, None) for name in names})


def _index(index: Any, walk: Walk) -> bytes:
    names = walk.sequence(list(index.names))
    if isinstance(index, pd.RangeIndex):
        return b"J" + names + walk.encode(range(index.start, index.stop, index.step))
    if isinstance(index, pd.MultiIndex):
        levels = [index.get_level_values(i).array for i in range(index.nlevels)]
    else:
        levels = [index.array]
    return b"J" + names + b"".join([_array(level, walk) for level in levels])


def _array(array: Any, walk: Walk) -> bytes:
    """One column: the name of its type, and its data."""
    if type(array).__module__.partition(".")[0] != "pandas":
        return encode_object(array, walk)
    dtype = array.dtype
    if isinstance(dtype, pd.StringDtype):  # in objects of Python's or Arrow's, as is installed
        return b"j" + text("str") + _texts(array)
    if isinstance(array, pd.arrays.NumpyExtensionArray):
        return encode_array(array.to_numpy(), walk)
    head = text(str(dtype))
    if isinstance(dtype, pd.CategoricalDtype):
        kinds = _index(dtype.categories, walk) + walk.encode(bool(dtype.ordered))
        return b"j" + kinds + encode_array(np.asarray(array.codes, "<i4"), walk)
    if hasattr(array, "asi8"):  # dates, spans and periods, as the numbers that they are kept as
        return b"j" + head + encode_array(array.asi8, walk)
    if isinstance(dtype, pd.ArrowDtype):
        return b"j" + head + walk.encode(array.__arrow_array__())
    plain = getattr(dtype, "numpy_dtype", None)
    if plain is not None and hasattr(array, "_mask"):
        absent = np.asarray(array.isna())
        values = array.to_numpy(dtype=plain, na_value=plain.type(0))
        return b"j" + head + numbers([(values, absent)], len(array))
    return b"j" + head + walk.sequence(array.tolist())


def _texts(array: Any) -> bytes:
    def piece(start: int) -> list[Any]:
        values = array[start : start + ROWS].to_numpy(dtype=object, na_value=None)
        return list(values)

    return texts(map(piece, range(0, len(array), ROWS)), len(array))
