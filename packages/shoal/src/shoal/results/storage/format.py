"""A record as bytes: what a file or object of a storage holds. Pure.

    magic (8)   length of header (4)   length of value (8)   CRC of header (4)   CRC of value (4)   header   value

Numbers are little-endian. The header is JSON: all of a `Record` but its value. The lengths must add up to the length of the file,
so one that was cut off, or has something behind it, is found before its value is looked at. The checksums are CRC-32, which takes
15 ms for 100 MB where SHA-256 takes 50: they are against accidents, and who may write the file is another question.

May import `record`.
"""

from __future__ import annotations

import json
import struct
import zlib
from typing import TYPE_CHECKING, Any

from shoal.results.storage.record import Record

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["HEAD_BYTES", "Damaged", "pack", "unpack", "unpack_header"]

_MAGIC = b"shoal-r1"
_HEAD = struct.Struct("<8sIQII")

#: Bytes after which it is known how long the header is.
HEAD_BYTES = _HEAD.size

_FIELDS = (
    *("key", "serializer", "created", "expires"),
    *("task_name", "run_name", "flow_run_name", "parts"),
)


class Damaged(Exception):
    """What was read is no record, or no longer; the message says how that was found."""


def pack(record: Record) -> Sequence[bytes | memoryview]:
    """A record as it is written: pieces, so that a large value is not copied.

    Raises:
        TypeError: the parts are not JSON.
    """
    facts = {name: getattr(record, name) for name in _FIELDS}
    header = json.dumps(facts, separators=(",", ":"), default=bytes.hex).encode()
    value = memoryview(record.value).cast("B")
    crcs = zlib.crc32(header), zlib.crc32(value)
    return _HEAD.pack(_MAGIC, len(header), len(value), *crcs) + header, value


def unpack(data: bytes | memoryview, key: str) -> Record:
    """The record in the bytes of a whole file.

    Args:
        data: the bytes.
        key: the key that was looked for.

    Raises:
        Damaged: it does not verify, or is the record of another key.
    """
    record, start = _header_in(data, len(data))
    value = memoryview(data)[start:]
    if zlib.crc32(value) != _HEAD.unpack_from(data)[4]:
        raise Damaged("its value does not match its checksum")
    if record["key"] != key:
        raise Damaged("it is the result of another key")
    return Record(value=value, **record)


def unpack_header(data: bytes | memoryview, size: int) -> Record | int:
    """The record in the first bytes of a file, without its value.

    Args:
        data: some bytes from the beginning, `HEAD_BYTES` or more.
        size: how long the whole file is.

    Returns:
        The record, or how many bytes from the beginning are needed for it, where these are too few.

    Raises:
        Damaged: it does not verify.
    """
    needed = _lengths(data, size)
    if len(data) < needed:
        return needed
    return Record(**_header_in(data, size)[0])


def _lengths(data: bytes | memoryview, size: int) -> int:
    """Where the value begins."""
    if len(data) < HEAD_BYTES:
        raise Damaged(f"it is cut off after {size} bytes")
    magic, header, value, _, _ = _HEAD.unpack_from(data)
    if magic != _MAGIC:
        raise Damaged("it is no result, or one of another version of Shoal")
    start: int = HEAD_BYTES + header
    if start + value != size:
        raise Damaged(f"it has {size} bytes, and should have {start + value}")
    return start


def _header_in(data: bytes | memoryview, size: int) -> tuple[dict[str, Any], int]:
    start = _lengths(data, size)
    header = bytes(data[HEAD_BYTES:start])
    if zlib.crc32(header) != _HEAD.unpack_from(data)[3]:
        raise Damaged("its header does not match its checksum")
    try:
        facts = json.loads(header)
        return {name: facts[name] for name in _FIELDS}, start
    except (ValueError, TypeError, KeyError) as error:
        raise Damaged("its header is of another version of Shoal") from error
