"""`shoal.record()`: records what runs, from when it is entered to when it is left, and makes pages of it.

May import everything of recording, on use, and what lies above it.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from shoal.engine.observing import add_observer, remove_observer
from shoal.exceptions import RecordError
from shoal.logs import set_up
from shoal.recording.whole import written_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from shoal.recording.file import Writer
    from shoal.recording.record import FlowRunRow, Record, RunRow
    from shoal.recording.recorder import Recorder

__all__ = ["Recording", "check_writable", "record"]


class Recording:
    """What ran while it was entered, in this process and on the workers of its runners.

    Made by `shoal.record`. It can be asked while it goes on, too: that shows what ran up to then. Runners that were entered
    before are not recorded.

    Args:
        path: the file to record to; `None` for a temporary one, which goes when nobody has the recording any more.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self._given = os.path.abspath(path) if path is not None else None
        self._path: str | None = None
        self._writer: Writer | None = None
        self._recorder: Recorder | None = None
        self._record: Record | None = None

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Recording:
        """The recording in a file that `save` or `shoal.record(path)` has written, perhaps in a process that was killed.

        Args:
            path: the file.

        Raises:
            RecordError: there is none, it is no record, or it is of another version.
        """
        from shoal.recording.reading import read

        recording = cls(path)
        recording._path = recording._given
        recording._record = read(str(recording._path))
        return recording

    def __repr__(self) -> str:
        if self._path is None:
            return "<Recording that has not begun>"
        going = self._writer is not None
        return f"<Recording {'to' if going else 'in'} {self._path!r}>"

    # ------------------------------------------------------------------ from when to when

    def __enter__(self) -> Self:
        """Begins to record.

        Raises:
            RecordError: the file cannot be written, or it has begun already.
        """
        from shoal.recording.file import Writer
        from shoal.recording.recorder import Recorder

        if self._path is not None:
            raise RecordError(path=self._path, problem="it has begun already; make another one")
        if self._given is not None:
            check_writable(self._given)
            path = self._given
        else:
            folder = tempfile.mkdtemp(prefix="shoal-record-")
            weakref.finalize(self, _remove, folder, os.getpid())
            path = os.path.join(folder, "run.shoal")
        set_up()
        recorder = Recorder()
        self._writer = Writer(path, recorder)
        self._path, self._recorder = path, recorder
        logging.getLogger("shoal").addHandler(recorder.handler)
        add_observer(recorder)
        _GOING.add(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends it; what was recorded stays."""
        writer, recorder = self._writer, self._recorder
        if writer is None or recorder is None:
            return
        self._writer = None
        _GOING.discard(self)
        remove_observer(recorder)
        logging.getLogger("shoal").removeHandler(recorder.handler)
        writer.close()

    @property
    def recorder(self) -> Recorder:
        """Observes, while it goes on."""
        if self._recorder is None:
            raise RecordError(path=str(self._given or "(none)"), problem="it has not begun")
        return self._recorder

    def _in_child(self) -> None:
        """In a child that user code has forked: what it runs is not recorded."""
        writer, recorder = self._writer, self._recorder
        if writer is None or recorder is None:
            return
        self._writer = None
        remove_observer(recorder)
        logging.getLogger("shoal").removeHandler(recorder.handler)
        writer.abandon()

    # ------------------------------------------------------------------ what was recorded

    @property
    def record(self) -> Record:
        """All of it as plain data, as it is now."""
        if self._record is not None:
            return self._record
        if self._path is None:
            raise RecordError(path=str(self._given or "(none)"), problem="it has not begun")
        from shoal.recording.reading import read

        writer = self._writer
        if writer is not None:
            writer.flush()
        found = read(self._path)
        if writer is None:
            self._record = found  # it does not change any more
        return found

    def runs(self) -> Iterator[RunRow]:
        """A row for each attempt of a task run, every one."""
        return self.record.runs()

    def flow_runs(self) -> list[FlowRunRow]:
        """A row for each flow run, in the order in which they began."""
        return self.record.flow_runs

    def to_pandas(self) -> Any:
        """The rows of `runs()` as a `pandas.DataFrame`; times are `datetime64` in UTC.

        Raises:
            ImportError: pandas is not installed.
        """
        return self.record.to_pandas()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the record to a file, which `shoal report` and `Recording.open` read.

        Args:
            path: of the file; one that is there is replaced.

        Raises:
            RecordError: it cannot be written, or there is no record.
        """
        if self._path is None:
            raise RecordError(path=str(path), problem="nothing was recorded yet")
        from shoal.recording.file import copy

        target = os.path.abspath(path)
        if self._writer is not None:
            self._writer.flush()
        if target != self._path:
            check_writable(target)
            copy(self._path, target)

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Writes a page of all that ran: HTML, in one file that opens without a network.

        Args:
            path: of the file; one that is there is replaced.

        Returns:
            The path.

        Raises:
            RecordError: it cannot be written, or there is no record.
        """
        from shoal.recording.report import page

        return _written(path, lambda file: file.write(page(self.record).encode()))

    def trace(self, path: str | os.PathLike[str]) -> Path:
        """Writes the timeline for https://ui.perfetto.dev.

        Args:
            path: of the file, conventionally `….pftrace`; one that is there is replaced.

        Returns:
            The path.

        Raises:
            RecordError: it cannot be written, or there is no record.
        """
        from shoal.recording.trace import write_trace

        return _written(path, lambda file: write_trace(self.record, file))


def _written(path: str | os.PathLike[str], write: Callable[[BinaryIO], object]) -> Path:
    target = Path(os.path.abspath(path))
    check_writable(str(target))
    try:
        with written_whole(str(target)) as part, open(part, "wb") as file:
            write(file)
    except OSError as error:
        raise RecordError(path=str(target), problem=f"it cannot be written: {error}") from error
    return target


def record(path: str | os.PathLike[str] | None = None) -> Recording:
    """Records what runs inside `with`.

    Args:
        path: a file to record to, which is there even if this process is killed; by default a temporary one, which goes
            when nobody has the recording any more.

    Examples:
        >>> with shoal.record() as recording:
        ...     nightly()
        >>> recording.report("nightly.html")

    Raises:
        RecordError: (when it is entered) the file cannot be written.
    """
    return Recording(path)


def _remove(folder: str, pid: int) -> None:
    """Removes a temporary record, unless this is a child that was forked from its process."""
    if os.getpid() == pid:
        shutil.rmtree(folder, ignore_errors=True)


def check_writable(path: str) -> None:
    """Sees that a file can be written, before there is anything to write.

    Raises:
        RecordError: it cannot.
    """
    folder = os.path.dirname(os.path.realpath(path))
    if os.path.isdir(path):
        raise RecordError(path=path, problem="it is a folder; name a file in it")
    if not os.path.isdir(folder):
        raise RecordError(path=path, problem=f"there is no folder {folder!r}")
    try:
        if os.path.exists(path):
            with open(path, "ab"):
                pass
        else:
            with tempfile.TemporaryFile(dir=folder):
                pass
    except OSError as error:
        raise RecordError(path=path, problem=f"it cannot be written: {error}") from error


#: Recordings that go on in this process.
_GOING: weakref.WeakSet[Recording] = weakref.WeakSet()


def _after_fork() -> None:
    for recording in list(_GOING):
        recording._in_child()
    _GOING.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
