"""The parent's side of a live process: asks for samples, and sees to it that the process and all it started end.

A thread reads what the child says, so that an answer can be waited for with a limit; it ends with the pipe.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import shoal_bench
from shoal_bench.contestants import ContestantSpec
from shoal_bench.fresh_process import clean_environment, how_it_ended
from shoal_bench.live.protocol import CLOCK, FAILED, VOID, message_in
from shoal_bench.live.watch import Tree, Used
from shoal_bench.record import Sample
from shoal_bench.scenarios.base import CaseSpec

__all__ = ["LiveProcess", "Lost", "Void"]

#: Seconds that a system may take to open, and to close; starting Ray takes the longest.
OPENING, CLOSING = 90.0, 30.0
#: Seconds from the end of what it says to the end of a process.
ENDING = 5.0
#: Seconds between two looks at the memory of all processes.
LOOK = 0.5


class Void(Exception):
    """A sample does not count, and the system goes on; the message says why."""


class Lost(Exception):
    """The live process ended, or did not answer in time and was ended; the message says which."""


class LiveProcess:
    """A contestant's process, its system open. Ended by `close`, or by `kill` at any time.

    Args:
        spec: whose.
        workers: how many the system is to have.
        speed: bytes that computing gets through in a second; see `Scenario`.
        python: the interpreter.

    Attributes:
        opened: seconds from the start of the process to the system's first result.
        opened_cpu: seconds of processors that this took.
        python: the version of the interpreter.
        versions: of the contestant's packages.

    Raises:
        Lost: the system could not be opened.
    """

    def __init__(
        self, spec: ContestantSpec, workers: int, speed: float, python: str | None = None
    ) -> None:
        self._spec = spec
        self._errors: IO[bytes] = tempfile.TemporaryFile(prefix="shoal-bench-")  # noqa: SIM115 - closed by kill
        self._folder = None if python is None else _folder_of_ours()
        began = time.perf_counter()
        self._process = subprocess.Popen(
            [
                python or sys.executable,
                "-m",
                "shoal_bench.live.child",
                _description(spec, workers, speed),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=_environment(self._folder),
            start_new_session=True,  # Ctrl-C is for us: we end it when what it has said is written down
        )
        self._tree = Tree(self._process.pid)
        self._cpu: float | None = None
        self._peak = 0.0
        self._heard: queue.SimpleQueue[dict[str, Any] | bytes | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="bench-reader", daemon=True)
        self._reader.start()
        try:
            reply = self._first()
            self.opened = time.perf_counter() - began
            if reply["event"] == FAILED:
                raise Lost(reply["reason"])
            self.opened_cpu = self._tree.used().total
        except BaseException:
            self.kill()
            raise
        self.python: str = reply["python"]
        self.versions: dict[str, str] = reply["versions"]

    def warm(self, scenario: str, case: CaseSpec) -> int:
        """Has what happens once happen; gives the size that samples are to have.

        Raises:
            Void: the system cannot do this, or not rightly.
            Lost: the process ended, or was ended because it took too long.
        """
        size: int = self._ask(case, do="warm", scenario=scenario)["size"]
        return size

    def sample(self, scenario: str, case: CaseSpec, size: int, number: int) -> Sample:
        """Takes the sample of a round.

        Raises:
            Void: see `warm`.
            Lost: see `warm`.
        """
        self._cpu, self._peak = 0.0, 0.0
        reply = self._ask(case, do="sample", scenario=scenario, size=size)
        quantities = dict(reply["quantities"])
        if case.watches_memory:
            quantities["peak_memory"] = self._peak
        return Sample(
            round=number,
            value=reply["value"],
            wall=reply["wall"],
            cpu=self._cpu,
            quantities=quantities,
        )

    def close(self) -> float:
        """Has the system close; gives the seconds until all has ended.

        Raises:
            Lost: it did not close in time, or failed; all of it has been ended.
        """
        began = time.perf_counter()
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            code = self._process.wait(CLOSING)
        except subprocess.TimeoutExpired:
            raise Lost(f"it did not close within {CLOSING:.0f} s") from None
        else:
            if code != 0:
                raise Lost(self._last_words())
        finally:
            seconds = time.perf_counter() - began
            self.kill()
        return seconds

    def kill(self) -> None:
        """Ends the process and all that it has started, and waits for that."""
        self._tree.kill()
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                _close(stream)
        if self._folder is not None:
            self._folder.cleanup()

    # ---------------------------------------------------------------------- the pipe

    def _ask(self, case: CaseSpec, **request: Any) -> dict[str, Any]:
        end = time.monotonic() + case.limit
        self._say(case=asdict(case), **request)
        try:
            while (reply := self._next(end, case.watches_memory))["event"] == CLOCK:
                self._note(self._tree.used(), running=reply["running"])
                self._say(do="go")
        except TimeoutError:
            self.kill()
            raise Lost(f"it took longer than {case.limit:.0f} s") from None
        if reply["event"] == VOID:
            raise Void(reply["reason"])
        return reply

    def _note(self, used: Used, *, running: bool) -> None:
        """Adds up what was used while the clock ran."""
        if running:
            self._before = used
        elif self._cpu is not None:
            since = used.since(self._before)
            self._cpu = None if since is None else self._cpu + since

    def _first(self) -> dict[str, Any]:
        try:
            return self._next(time.monotonic() + OPENING)
        except TimeoutError:
            raise Lost(f"it did not open within {OPENING:.0f} s") from None

    def _say(self, **message: Any) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write(json.dumps(message).encode() + b"\n")
            stdin.flush()
        except (BrokenPipeError, ValueError):  # it has ended; reading says more
            return

    def _next(self, end: float, watch: bool = False) -> dict[str, Any]:
        """What the child says next, until then.

        Raises:
            TimeoutError: it said nothing.
            Lost: it has ended, or wrote something that is no message, and was ended.
        """
        while True:
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError
            try:
                reply = self._heard.get(timeout=min(left, LOOK) if watch else left)
            except queue.Empty:
                if watch:
                    self._peak = max(self._peak, self._tree.memory())
                continue
            if reply is None:
                words = self._last_words()
                self.kill()
                raise Lost(words)
            if isinstance(reply, bytes):
                self.kill()
                raise Lost(f"it wrote {_beginning(reply)!r} where an answer was due")
            return reply

    def _read(self) -> None:
        """Hears messages, what is none as it was written, and the end as `None`."""
        stdout = self._process.stdout
        assert stdout is not None
        for line in stdout:
            self._heard.put(message_in(line) or line)
        self._heard.put(None)

    def _last_words(self) -> str:
        """How the process ended, and what it wrote last to standard error."""
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - 2000))
        output = self._errors.read().decode(errors="replace")
        try:
            code = self._process.wait(ENDING)
        except subprocess.TimeoutExpired:  # it has closed its end of the pipe, and lives
            return "its process says nothing any more"
        return how_it_ended(code, output)


def _beginning(line: bytes) -> str:
    return line.decode(errors="replace").strip()[:200]


def _close(stream: IO[bytes]) -> None:
    try:
        stream.close()
    except BrokenPipeError:  # what was not sent yet
        return


def _description(spec: ContestantSpec, workers: int, speed: float) -> str:
    wanted = {
        "adapter": spec.adapter,
        "argument": spec.argument,
        "workers": workers,
        "speed": speed,
        "packages": spec.packages,
    }
    return json.dumps(wanted)


def _folder_of_ours() -> tempfile.TemporaryDirectory[str]:
    """A folder with this package and nothing else, for another interpreter to import it from."""
    folder = tempfile.TemporaryDirectory(prefix="shoal-bench-")
    (package,) = shoal_bench.__path__
    Path(folder.name, "shoal_bench").symlink_to(package, target_is_directory=True)
    return folder


def _environment(folder: tempfile.TemporaryDirectory[str] | None) -> dict[str, str]:
    """See `clean_environment`; starting is measured."""
    environment = clean_environment(os.environ)
    if folder is not None:
        environment["PYTHONPATH"] = folder.name
    return environment
