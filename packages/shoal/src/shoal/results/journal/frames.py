"""The journal's file as bytes: a mark, a sign, then frames. Pure.

    mark (8)   sign (8)   { sign (8)   length of body (4)   CRC of kind and body (4)   kind (1)   CRC of these three (4)   body } ...

Numbers are little-endian. The sign is random and the file's own: it tells where a frame begins, also to who has lost his way, and a file that
is a value in this one cannot be taken for a part of it.

    torn      The file ends before a frame does: its process was killed meanwhile. What there is of the frame is cut off, and nobody
              is told.
    damaged   Bytes are not what was written. They are skipped up to the next frame, and told of as `Damage`.

Imports the standard library only.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterator

__all__ = ["MARK", "SIGN_BYTES", "Damage", "Frame", "frame", "frames", "sign_of"]

#: How a journal begins; the last two bytes are the version of the format.
MARK = b"shoalj02"

SIGN_BYTES = 8

_HEAD = struct.Struct("<IIB")
_CHECK = struct.Struct("<I")
_HEAD_BYTES = SIGN_BYTES + _HEAD.size + _CHECK.size


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


class Damage(NamedTuple):
    """A part of a file that does not verify.

    Attributes:
        kind: of the one frame that it is; `None` if nobody knows what it was.
        size: how many bytes it has.
    """

    kind: int | None
    size: int


def frame(kind: int, body: bytes) -> bytes:
    """A frame as it is written, behind the sign of its file.

    Args:
        kind: what the body is, from 0 to 255.
        body: up to 4 GB.
    """
    head = _HEAD.pack(len(body), zlib.crc32(body, kind), kind)
    return head + _CHECK.pack(zlib.crc32(head)) + body


def sign_of(data: bytes | mmap.mmap) -> bytes:
    """The sign of a file; empty if it is no journal, or is cut off before that."""
    sign = data[len(MARK) : len(MARK) + SIGN_BYTES]
    return sign if data[: len(MARK)] == MARK and len(sign) == SIGN_BYTES else b""


def frames(data: bytes | mmap.mmap, unchecked: int | None = None) -> Iterator[Frame | Damage]:
    """The frames of a file, and what is damaged between them.

    Args:
        data: the whole file; nothing comes of one that has no sign.
        unchecked: of which kind the bodies are not looked at, since they are many and only counted.
    """
    sign = sign_of(data)
    if not sign:
        return
    view = memoryview(data)
    at, size = len(MARK) + SIGN_BYTES, len(data)
    while at < size:
        kind, end = None, at + _HEAD_BYTES
        is_torn = end > size
        head = _head_at(view, at, sign)
        if head is not None:
            length, crc, kind = head
            body = view[end : end + length]
            end += length
            is_torn = end > size
            if not is_torn and (kind == unchecked or zlib.crc32(body, kind) == crc):
                yield Frame(kind, body, end)
                at = end
                continue
        found = data.find(sign, at + 1)
        while found >= 0 and _head_at(view, found, sign) is None:
            found = data.find(sign, found + 1)
        if found >= 0:
            yield Damage(kind if end == found else None, found - at)
            at = found
            continue
        if not is_torn:
            yield Damage(kind if end == size else None, size - at)
        return


def _head_at(view: memoryview, at: int, sign: bytes) -> tuple[int, int, int] | None:
    """Length, CRC and kind of the frame that begins there; `None` if none does."""
    head = at + SIGN_BYTES
    check = head + _HEAD.size
    if check + _CHECK.size > len(view) or view[at:head] != sign:
        return None
    if zlib.crc32(view[head:check]) != _CHECK.unpack_from(view, check)[0]:
        return None
    return _HEAD.unpack_from(view, head)
