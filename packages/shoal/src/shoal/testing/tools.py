"""How a test and the runs it started meet, wherever those are: by files in a directory that both see.

Imported on workers, so it needs nothing but the standard library.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["PATIENCE", "Signals", "eventually"]

T = TypeVar("T")

#: Seconds after which what should have happened is taken not to happen. A test that passes never waits for so long.
PATIENCE = 30.0

_PAUSE = 0.003


def eventually(condition: Callable[[], T], what: str, timeout: float = PATIENCE) -> T:
    """Waits until a condition is true.

    Args:
        condition: asked again and again.
        what: what is waited for, for the message.
        timeout: seconds.

    Returns:
        The condition's first true value.

    Raises:
        AssertionError: it was not true in time.
    """
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"did not happen within {timeout:g} s: {what}")
        time.sleep(_PAUSE)
    return value


class Signals:
    """Events, logs and meeting points that the driver and its runs share; a value that can be pickled.

    A name may be anything that a file may be called.

    Args:
        directory: exists, and is visible under this path to the driver and to every worker.

    Examples:
        >>> @task
        ... def work(signals):
        ...     signals.append("log", "began")
        ...     signals.wait("go")
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = os.fspath(directory)

    def _path(self, kind: str, name: str) -> Path:
        return Path(self.directory, f"{kind}-{name}")

    # ------------------------------------------------------------------ events

    def set(self, name: str) -> None:
        """Makes an event happen, for good."""
        self._path("event", name).mkdir(exist_ok=True)

    def is_set(self, name: str) -> bool:
        """Whether an event has happened."""
        return self._path("event", name).exists()

    def wait(self, name: str, timeout: float = PATIENCE) -> None:
        """Waits for an event, in small sleeps, so that a run that waits can be interrupted.

        Raises:
            AssertionError: it did not happen in time.
        """
        eventually(lambda: self.is_set(name), f"the event {name!r}", timeout)

    def meet(self, name: str, parties: int, timeout: float = PATIENCE) -> None:
        """Waits until so many parties have come here; they are all under way at that moment.

        Raises:
            AssertionError: they did not come in time.
        """
        room = self._enter("meeting", name).parent
        eventually(lambda: len(os.listdir(room)) >= parties, f"{parties} come to {name!r}", timeout)

    def _enter(self, kind: str, name: str) -> Path:
        # Directories: making and listing them opens no file that an interrupt could leave open.
        room = self._path(kind, name)
        room.mkdir(exist_ok=True)
        guest = room / f"{os.getpid()}-{os.urandom(8).hex()}"
        guest.mkdir()
        return guest

    # ------------------------------------------------------------------ logs

    def append(self, name: str, text: object) -> None:
        """Adds a line to a log; lines of several writers do not mix."""
        line = f"{text}\n".encode()
        log = os.open(self._path("log", name), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            os.write(log, line)
        finally:
            os.close(log)

    def lines(self, name: str) -> list[str]:
        """The lines of a log so far; none if nobody has written any."""
        try:
            text = self._path("log", name).read_text()
        except FileNotFoundError:
            return []
        return text.splitlines()

    # ------------------------------------------------------------------ crowds

    @contextmanager
    def inside(self, name: str) -> Iterator[int]:
        """A room that runs enter and leave.

        Yields:
            How many were in it when this one had entered, itself included. Whose process was killed is in no room.
        """
        guest = self._enter("room", name)
        try:
            yield sum(_lives(int(name.partition("-")[0])) for name in os.listdir(guest.parent))
        finally:
            guest.rmdir()


def _lives(pid: int) -> bool:
    """Whether a process of this machine runs; one that has ended may still be waited for."""
    try:
        os.kill(pid, 0)
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except ProcessLookupError:
        return False
    except OSError:
        return not Path("/proc/self").exists()  # the system tells no more, or it has just gone
