"""Large values in anonymous shared memory: written once, mapped by whoever needs them.

    writer   dumps_with_buffers ─▶ needed ─▶ SegmentPool.take ─▶ store ─▶ Layout
                                                                   │        │
                                              (descriptor, by a Unix socket; layout, in a message)
                                                                   │        │
    reader                                       value ◀── load ◀──┴────────┘

A segment is an open file without a name, so the kernel frees it with the last descriptor and the last mapping of it,
whoever dies and however. Its content is a pickle and the buffers that it refers to, each at a multiple of 64 bytes.

    guarantees   Writing fails with `NoSegment`, never with a signal: memory that cannot be had is an error of `pwrite`
                 but a SIGBUS in a mapping. Segments never shrink, so reading a mapping cannot raise one either.
                 A loaded value is read-only, and stays valid when the descriptor is closed or the writer gone.
    assumes      Nobody writes to a segment that others may still map: who gives one back to its pool knows that all
                 values loaded from it are gone (`on_unmapped`).

May import the standard library only.
"""

from __future__ import annotations

import errno
import mmap
import os
import pickle
import sys
import threading
from bisect import bisect_left, insort
from operator import itemgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Layout", "NoSegment", "Segment", "SegmentPool", "load", "needed", "store"]

#: The lengths of what a segment holds, in order: the pickle, then each buffer.
Layout = tuple[int, ...]

#: Where each part starts is a multiple of this: a cache line, and the widest vector registers.
_ALIGNMENT = 64

#: Bytes for one system call: Linux moves no more than 2 GiB - 4 KiB, macOS refuses more than 2 GiB - 1.
_CHUNK = 1 << 28


class NoSegment(OSError):
    """No segment can be had or filled: descriptors, memory or space are used up. The value has to go another way."""


# ---------------------------------------------------------------------- segments


class Segment:
    """A descriptor of anonymous shared memory, and how much fits in.

    Attributes:
        size: in bytes.
    """

    __slots__ = ("_fd", "size")

    def __init__(self, fd: int, size: int) -> None:
        """Adopts a descriptor: it is closed with the segment."""
        self._fd = fd
        self.size = size

    @classmethod
    def create(cls, nbytes: int) -> Segment:
        """Makes a new segment; it takes up memory only when it is written to.

        Raises:
            NoSegment: this process or the system is out of descriptors, or does not allow files of this size.
        """
        try:
            segment = cls(_anonymous_file(), nbytes)
            os.ftruncate(segment.fileno(), nbytes)
        except OSError as error:
            raise NoSegment(error.errno, error.strerror) from error
        return segment

    def fileno(self) -> int:
        """The descriptor, which stays the segment's own.

        Raises:
            ValueError: it is closed.
        """
        try:
            return self._fd
        except AttributeError:
            raise ValueError("this segment is closed") from None

    def close(self) -> None:
        """Closes the descriptor; mappings stay. More than once does nothing."""
        try:
            fd = self._fd
            del self._fd  # of several threads that close, one gets past here
        except AttributeError:
            return
        os.close(fd)

    def __del__(self) -> None:
        try:
            self.close()
        except OSError:  # somebody has closed all descriptors, as daemons do
            pass


def _anonymous_file() -> int:
    """A descriptor of an empty file without a name, in memory where the system can; not inherited by programs."""
    if sys.platform == "win32":
        raise OSError(errno.ENOSYS, "there is no pwrite on Windows")
    if sys.platform == "linux":
        try:
            return os.memfd_create("shoal", os.MFD_CLOEXEC)
        except OSError as error:  # the latter four: sandboxes forbid it, each in its own way
            if error.errno not in (errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EINVAL):
                raise
        except AttributeError:  # a Python built for an old C library
            pass
    import tempfile

    with tempfile.TemporaryFile(buffering=0) as file:
        return os.dup(file.fileno())


# ---------------------------------------------------------------------- writing


def needed(data: bytes, buffers: Sequence[pickle.PickleBuffer]) -> int:
    """How many bytes a pickle and its buffers take up in a segment."""
    return _spans(_layout(data, buffers))[-1][1]


def store(data: bytes, buffers: Sequence[pickle.PickleBuffer], segment: Segment) -> Layout:
    """Writes a pickle and its buffers to a segment that nobody else uses.

    Args:
        data: the pickle.
        buffers: what it refers to, in order, as `serialization.dumps_with_buffers` gives both.
        segment: has room for `needed` bytes.

    Returns:
        What `load` needs besides the segment.

    Raises:
        NoSegment: memory or space is used up. The segment holds what was written so far: close it.
    """
    layout = _layout(data, buffers)
    spans = _spans(layout)
    if spans[-1][1] > segment.size:
        raise ValueError(f"{spans[-1][1]} bytes do not fit in a segment of {segment.size}")
    fd = segment.fileno()
    try:
        _write(fd, memoryview(data), 0)
        for buffer, (start, _) in zip(buffers, spans[1:], strict=True):
            with buffer.raw() as view:
                _write(fd, view, start)
    except OSError as error:
        raise NoSegment(error.errno, error.strerror) from error
    return layout


def _layout(data: bytes, buffers: Sequence[pickle.PickleBuffer]) -> Layout:
    return (len(data), *[buffer.raw().nbytes for buffer in buffers])


def _spans(layout: Layout) -> list[tuple[int, int]]:
    """Where each part starts and stops."""
    spans = []
    stop = 0
    for length in layout:
        start = -(-stop // _ALIGNMENT) * _ALIGNMENT
        stop = start + length
        spans.append((start, stop))
    return spans


def _write(fd: int, view: memoryview, offset: int) -> None:
    done = 0
    while done < view.nbytes:
        written = os.pwrite(fd, view[done : done + _CHUNK], offset + done)
        if written == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done += written


# ---------------------------------------------------------------------- reading


def load(
    segment: Segment | int, layout: Layout, on_unmapped: Callable[[], object] | None = None
) -> Any:
    """Unpickles what `store` wrote, without copying the buffers.

    The value's arrays (and whatever else pickles out of band) are read-only views of the segment. It stays mapped as
    long as there is one of them; its descriptor may be closed at once.

    Args:
        segment: the segment, or a descriptor of it; neither is closed.
        layout: as `store` returned it.
        on_unmapped: called once, when nothing refers to the segment any more: before `load` returns or raises where no
            view is left over, else with the last of them, by any thread and even within the garbage collector. So it
            must neither raise nor wait for a lock (nor give back to a `SegmentPool`); appending to a deque is fine.

    Raises:
        Exception: whatever unpickling raises.
        ValueError: the segment is shorter than the layout.
        OSError: the descriptor is not one of a segment.
    """
    fd = segment if isinstance(segment, int) else segment.fileno()
    spans = _spans(layout)
    view = _view(fd, spans[-1][1], on_unmapped)
    try:
        return pickle.loads(view[: layout[0]], buffers=[view[a:b] for a, b in spans[1:]])
    finally:
        del view  # a traceback would keep it, and the mapping with it


def _view(fd: int, length: int, on_unmapped: Callable[[], object] | None) -> memoryview:
    """The content of a segment, read-only: mapped, or copied where that is not possible."""
    try:
        if sys.version_info >= (3, 13):
            mapping = _Mapping(fd, length, access=mmap.ACCESS_READ, trackfd=False)
        else:  # duplicates the descriptor
            mapping = _Mapping(fd, length, access=mmap.ACCESS_READ)
    except (OSError, ValueError):  # out of descriptors, or of mappings (Linux allows 65,530)
        try:
            return memoryview(_read(fd, length)).toreadonly()
        finally:
            if on_unmapped is not None:
                on_unmapped()
    mapping.on_unmapped = on_unmapped
    return memoryview(mapping)


def _read(fd: int, length: int) -> bytearray:
    data = bytearray()
    while len(data) < length:
        part = os.pread(fd, min(length - len(data), _CHUNK), len(data))
        if not part:
            raise ValueError(f"the segment ends at byte {len(data)} of {length}")
        data += part
    return data


class _Mapping(mmap.mmap):
    """A mapping that tells of its end.

    A weak reference would tell too early: the garbage collector calls it before the finalizers of a cycle, which may yet
    read a view.
    """

    on_unmapped: Callable[[], object] | None = None

    def __del__(self) -> None:
        self.unmap()

    def unmap(self) -> None:
        try:
            self.close()
        except BufferError:
            # The garbage collector has found a cycle that holds a bare memoryview, and finalizes us first. Other
            # finalizers may yet read the view, or bring it back to life.
            _Later(self)
            return
        if self.on_unmapped is not None:
            self.on_unmapped()


class _Later:
    """Unmaps at the next garbage collection, for which it is made: a cycle that nobody refers to."""

    def __init__(self, mapping: _Mapping) -> None:
        self.mapping = mapping
        self.cycle = self

    def __del__(self) -> None:
        self.mapping.unmap()


# ---------------------------------------------------------------------- recycling


class SegmentPool:
    """Keeps segments that are free again for the next values: their memory is there already.

    100 MiB were written in 16 ms, against 54 with new memory, and 64 KiB in 9 µs, against 40.

    Several threads may use it. Its lock guards all fields; descriptors are closed without it, because freeing memory
    takes its time.
    """

    def __init__(self, cap: int = 256 << 20) -> None:
        """Makes an empty pool.

        Args:
            cap: how many bytes of free segments to keep.
        """
        self._cap = cap
        self._lock = threading.Lock()
        self._free: dict[Segment, int] = {}  # longest free first, with a number for each
        self._by_size: list[tuple[int, int, Segment]] = []  # sorted: size, number, segment
        self._number = 0
        self._bytes = 0

    def take(self, nbytes: int) -> Segment:
        """A segment for the caller alone: a free one of which it wastes at most a quarter, else a new one.

        Raises:
            NoSegment: there is none to be had.
        """
        with self._lock:
            at = bisect_left(self._by_size, nbytes, key=itemgetter(0))
            if at < len(self._by_size) and self._by_size[at][0] * 3 <= nbytes * 4:
                segment = self._by_size.pop(at)[2]
                del self._free[segment]
                self._bytes -= segment.size
                return segment
        try:
            return Segment.create(nbytes)
        except NoSegment:
            if not self._close_down_to(-1):  # those of other sizes hold descriptors and memory
                raise
        return Segment.create(nbytes)

    def give_back(self, segment: Segment) -> None:
        """Keeps a segment for reuse, and closes those longest free if there are too many.

        Args:
            segment: nobody maps it, and nobody will: every value loaded from it is gone.

        Raises:
            ValueError: it is closed, or was given back before.
        """
        segment.fileno()
        if segment.size > self._cap:
            segment.close()
            return
        with self._lock:
            if segment in self._free:
                raise ValueError("this segment was given back before")
            # Counting down, so that of several of one size the last is taken first: the processor may have it cached.
            self._number -= 1
            self._free[segment] = self._number
            insort(self._by_size, (segment.size, self._number, segment))
            self._bytes += segment.size
        self._close_down_to(self._cap)

    def close(self) -> None:
        """Closes the free segments, and from now on those given back."""
        self._cap = -1
        self._close_down_to(-1)

    def _close_down_to(self, cap: int) -> bool:
        """Closes the longest free ones while more than `cap` bytes are left (-1: all); says whether it closed any."""
        surplus = []
        with self._lock:
            while self._free and self._bytes > cap:
                segment = next(iter(self._free))
                entry = (segment.size, self._free.pop(segment), segment)
                del self._by_size[bisect_left(self._by_size, entry)]
                self._bytes -= segment.size
                surplus.append(segment)
        for segment in surplus:
            segment.close()
        return bool(surplus)
