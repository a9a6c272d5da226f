"""The journal's file as bytes: a mark, then frames. Pure.

    mark (8)   { length of body (4)   CRC of kind and body (4)   kind (1)   body } ...

Numbers are little-endian. A frame that is cut off or does not match its checksum ends the journal: what comes before it counts,
it and what comes behind it do not. So whatever was being written when its process was killed is cut off, and nothing else.

Imports the standard library only.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MARK", "Frame", "frame", "frames"]

#: How a journal begins; the last two bytes are the version of the format.
MARK = b"shoalj01"

_HEAD = struct.Struct("<IIB")


class Frame(NamedTuple):
    """A frame that verifies.

    Attributes:
        kind: what its body is.
        body: that, a view of the bytes that were read.
        end: where the next one begins, in bytes from the beginning of the file.
    """

    kind: int
    body: memoryview
    end: int


def frame(kind: int, body: bytes) -> bytes:
    """A frame as it is written.

    Args:
        kind: what the body is, from 0 to 255.
        body: up to 4 GB.
    """
    return _HEAD.pack(len(body), zlib.crc32(body, kind), kind) + body


def frames(data: memoryview, unchecked: int | None = None) -> Iterator[Frame]:
    """The frames of a file, up to the first that does not verify.

    Args:
        data: the whole file; nothing comes of one that does not begin with `MARK`.
        unchecked: of which kind the bodies are not looked at, since they are many and only counted.
    """
    at, size = len(MARK), len(data)
    if bytes(data[:at]) != MARK:
        return
    while at + _HEAD.size <= size:
        length, crc, kind = _HEAD.unpack_from(data, at)
        end = at + _HEAD.size + length
        if end > size:
            return
        body = data[at + _HEAD.size : end]
        if kind != unchecked and zlib.crc32(body, kind) != crc:
            return
        yield Frame(kind, body, end)
        at = end
