"""Arrow's tables and arrays, column by column, however they are cut into chunks. Imported when one is met.

May import `columns`.
"""

from __future__ import annotations

from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shoal.results.keys.columns import ROWS, lengths, numbers, texts
from shoal.results.keys.walk import text

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.results.keys.walk import Walk

__all__ = ["encoder_of"]


def encoder_of(kind: type) -> Callable[[Any, Walk], bytes] | None:
    """The encoder of one of Arrow's types, `None` for those that are objects like others."""
    if issubclass(kind, (pa.Table, pa.RecordBatch)):
        return _table
    if issubclass(kind, pa.ChunkedArray):
        return lambda array, walk: b"L" + _column(array.type, array.chunks, walk)
    if issubclass(kind, pa.Array):
        return lambda array, walk: b"L" + _column(array.type, [array], walk)
    if issubclass(kind, pa.Scalar):
        return lambda value, walk: b"L." + text(str(value.type)) + walk.encode(value.as_py())
    if issubclass(kind, (pa.DataType, pa.Field)):
        return lambda value, walk: b"L:" + text(str(value))
    if issubclass(kind, pa.Schema):
        return lambda schema, walk: b"L;" + walk.sequence(list(schema))
    return None


def _table(table: Any, walk: Walk) -> bytes:
    parts = [b"W" if isinstance(table, pa.Table) else b"W."]
    for field, column in zip(table.schema, table.columns, strict=True):
        chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
        parts.append(text(field.name) + _column(field.type, chunks, walk))
    return b"".join(parts)


def _column(kind: Any, chunks: list[Any], walk: Walk) -> bytes:
    """One column: the name of its type, and its data."""
    return text(str(kind)) + _data(kind, chunks, sum(map(len, chunks)), walk)


def _data(kind: Any, chunks: list[Any], length: int, walk: Walk) -> bytes:
    types = pa.types
    if types.is_null(kind):
        return b"%d:" % length
    if types.is_boolean(kind):
        return numbers(map(_booleans, chunks), length)
    if isinstance(kind, pa.BaseExtensionType):
        return _column(kind.storage_type, [chunk.storage for chunk in chunks], walk)
    if _is_fixed(kind):
        return numbers(((_fixed(chunk, kind), _absent(chunk)) for chunk in chunks), length)
    if types.is_dictionary(kind):
        return _column(kind.value_type, [chunk.dictionary_decode() for chunk in chunks], walk)
    if (
        types.is_string(kind)
        or types.is_binary(kind)
        or types.is_large_string(kind)
        or types.is_large_binary(kind)
        or types.is_string_view(kind)
        or types.is_binary_view(kind)
    ):
        return texts(_lists(chunks), length)
    if types.is_struct(kind):
        absent = numbers([(np.zeros(len(c), np.uint8), _absent(c)) for c in chunks], length)
        inner = zip(*(chunk.flatten() for chunk in chunks), strict=True)
        columns = list(inner) or [() for _ in range(kind.num_fields)]
        fields = [_column(kind.field(i).type, list(each), walk) for i, each in enumerate(columns)]
        return absent + b"".join(fields)
    if types.is_list(kind) or types.is_large_list(kind):
        counts = [
            pc.fill_null(pc.list_value_length(c), -1).to_numpy(zero_copy_only=False) for c in chunks
        ]
        joined = np.concatenate(counts) if counts else np.empty(0)
        return lengths(joined, walk) + _column(kind.value_type, [c.flatten() for c in chunks], walk)
    values = chain.from_iterable(_lists(chunks))
    return b"".join(map(walk.sequence, iter(lambda: list(islice(values, ROWS)), [])))


def _is_fixed(kind: Any) -> bool:
    types = pa.types
    return bool(
        types.is_primitive(kind)
        or types.is_decimal(kind)
        or types.is_fixed_size_binary(kind)
        or kind == pa.month_day_nano_interval()
    )


def _fixed(chunk: Any, kind: Any) -> Any:
    """The bytes of each value, without a copy."""
    width = kind.bit_width // 8
    buffer = chunk.buffers()[1]
    if buffer is None or not len(chunk):
        return np.empty(0, f"V{width or 1}")
    data = np.frombuffer(buffer, np.uint8, len(chunk) * width, chunk.offset * width)
    return data.view(f"V{width}")


def _booleans(chunk: Any) -> tuple[Any, Any]:
    absent = _absent(chunk)
    plain = chunk if absent is None else chunk.fill_null(False)
    return plain.to_numpy(zero_copy_only=False), absent


def _absent(chunk: Any) -> Any:
    return chunk.is_null().to_numpy(zero_copy_only=False) if chunk.null_count else None


def _lists(chunks: list[Any]) -> Any:
    for chunk in chunks:
        for start in range(0, len(chunk), ROWS):
            yield chunk.slice(start, ROWS).to_pylist()
