"""Bytes that pass through this process: the driver of a system. Standard library only, Linux only."""

from __future__ import annotations

import os
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["carried", "counted", "through_pipes_and_tcp"]

#: Where the kernel's description of a TCP connection says how many bytes were acknowledged, and how many received.
_ACKED_AND_RECEIVED = (120, struct.Struct("=QQ"))
#: Where it says how many bytes this process has read and written by the calls for files and pipes.
_READ_AND_WRITTEN = Path("/proc/self/io")


@contextmanager
def through_pipes_and_tcp() -> Iterator[Callable[[], int]]:
    """Counts the bytes that pass through pipes, files and TCP connections of this process meanwhile.

    Yields:
        What gives the count.
    """
    piped, before = _piped(), Counter(carried())
    yield lambda: _piped() - piped + sum((Counter(carried()) - before).values())


def carried() -> dict[str, int]:
    """Bytes that each TCP connection of this process has carried since it was made; whoever uses it, C++ included."""
    offset, fields = _ACKED_AND_RECEIVED
    found = {}
    for entry in os.listdir("/proc/self/fd"):
        try:
            name = os.readlink(f"/proc/self/fd/{entry}")
            if not name.startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(entry))) as connection:
                described = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        except OSError:
            continue  # it was closed just now, or is no TCP
        found[name] = sum(fields.unpack_from(described, offset))
    return found


def _piped() -> int:
    """Bytes that this process has read and written, but for what went through sockets by the calls for these."""
    lines = _READ_AND_WRITTEN.read_text().splitlines()
    counts = {name: int(value) for name, value in (line.split(": ") for line in lines)}
    return counts["rchar"] + counts["wchar"]


@contextmanager
def counted(
    kind: Any, method: str, call: Callable[..., tuple[Any, int]]
) -> Iterator[Callable[[], int]]:
    """Counts meanwhile what a method of a class moves.

    Args:
        kind: the class.
        method: the method's name.
        call: calls the method, which it gets first, with the arguments; gives its result, and how many bytes it moved.

    Yields:
        What gives the count.
    """
    original = getattr(kind, method)
    total = 0

    def counting(*args: Any, **kwargs: Any) -> Any:
        nonlocal total
        result, size = call(original, *args, **kwargs)
        total += size
        return result

    setattr(kind, method, counting)
    try:
        yield lambda: total
    finally:
        setattr(kind, method, original)
