"""A small process that ends an instance of Ray whose driver was killed.

    driver ── starts ──▶ keeper ── waits for the driver's end ──▶ kills what is left of the instance, and ends
           └─ starts ──▶ gcs_server, raylet, … ── raylet starts ──▶ agents, workers

Ray has the kernel kill what the driver has started with the driver. What the raylet has started is to notice by itself: workers
do within seconds, its agents after another minute, as they first try to tell the control store, which is gone. Those
of an instance that was killed while it started are left in the same way.

What belongs to an instance is known by what it has open to write to: the `logs` of a session of Ray's that bears the driver's
number. All of it is in the driver's session of the system. So a program that a task has started ends too, unless it was
started with `start_new_session=True`, or writes elsewhere.

Run as a script, by an interpreter that loads nothing else. May import the standard library only. Linux only.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Keeper"]

#: Seconds for which processes are looked for: one may be just about to start another.
LOOKS_FOR = 3.0
#: Seconds that a keeper has when it is no longer needed.
CLOSES_WITHIN = 10.0
#: Seconds without any that are enough.
_QUIET_FOR = 0.5
#: Seconds between two looks.
_BETWEEN = 0.05


class Keeper:
    """The driver's side: it lasts until `close`."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        if sys.platform != "linux" or not sys.executable:
            return
        # What comes before the keeper ignores it has to wait: processes inherit what is blocked.
        usual = signal.pthread_sigmask(signal.SIG_BLOCK, _ignored())
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__, str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                # Ctrl-C is for the driver; its session stays the keeper's, to know the programs of tasks by.
                process_group=0,
            )
        except OSError:
            pass  # Ray ends by itself then, if late
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, usual)

    def close(self) -> None:
        """The instance was shut down: what is left of it is killed."""
        process, self._process = self._process, None
        if process is None or process.stdin is None:
            return
        process.stdin.close()
        try:
            process.wait(CLOSES_WITHIN)
        except subprocess.TimeoutExpired:  # somebody has stopped it
            process.kill()
            process.wait()


def main(driver: int) -> None:
    """What the keeper runs."""
    for number in _ignored():
        signal.signal(number, signal.SIG_IGN)
    was_killed = _wait(driver)
    now = time.monotonic()
    until, quiet = now + LOOKS_FOR, now + (_QUIET_FOR if was_killed else 0.0)
    while True:
        found = list(_left_of(driver))
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        now = time.monotonic()
        if found:
            quiet = now + _QUIET_FOR
        if now >= min(quiet, until):
            return
        time.sleep(_BETWEEN)


def _ignored() -> list[signal.Signals]:
    """What ends programs of a terminal, or of a session."""
    return [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP")]


def _wait(driver: int) -> bool:
    """Waits for the driver's end, or until it has closed the pipe; whether it was the former."""
    poll = select.poll()
    poll.register(0, select.POLLIN)
    watched = -1
    # A child that the driver has forked may hold the other end of the pipe.
    with contextlib.suppress(OSError, AttributeError):
        watched = os.pidfd_open(driver)
        poll.register(watched, select.POLLIN)
    if os.getppid() == driver:
        poll.poll()
    return os.getppid() != driver


def _left_of(driver: int) -> Iterator[int]:
    """The processes of the driver's instance, by their numbers."""
    log = re.compile(rf"/session_[0-9_-]+_{driver}/logs/")
    me, session = os.getpid(), os.getsid(0)
    for name in filter(str.isdecimal, os.listdir("/proc")):
        pid = int(name)
        # What has ended meanwhile, or is another user's, cannot be looked at.
        with contextlib.suppress(OSError):
            if pid not in (me, driver) and os.getsid(pid) == session and _writes(pid, log):
                yield pid


def _writes(pid: int, log: re.Pattern[str]) -> bool:
    """Whether a process has such a file open, and not only to read it, as somebody who looks at logs."""
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            if log.search(os.readlink(f"/proc/{pid}/fd/{fd}")):
                with open(f"/proc/{pid}/fdinfo/{fd}") as file:
                    flags = re.search(r"^flags:\s*([0-7]+)", file.read(), re.MULTILINE)
                if flags is not None and int(flags[1], 8) & os.O_ACCMODE != os.O_RDONLY:
                    return True
    return False


if __name__ == "__main__":
    main(int(sys.argv[1]))
