"""The rows at the foot of a terminal, below whatever else is printed there.

    print, log lines ──▶ the stream's `write`, replaced ──▶ queue ──┐
                                                                    ├─ every 50 ms at most ─▶ terminal
    rows ───────────────────────────────────────────────── draw ────┘

After each drawing the cursor stands above the rows, where it was; that is the start of an empty line:

    what was printed
    ▮                  ◀─ the cursor
    rows               a line that somebody has begun and not ended comes first

So whoever writes past us (a subprocess, a worker, C code) writes a line of his own, and the next drawing comes below it,
also while he has written half of it; and however a terminal that is resized breaks the rows anew, all from the cursor on
is ours to erase, and nothing before it.

The `write` of the streams is replaced, not the streams: handlers of `logging` and others that hold them go the same way.
Who moves the cursor himself, as rich and nested bars of tqdm do, has the terminal for himself until he has not for a second,
and while he hides it.
`input` has it while it asks.

`_lock` guards every field, and is held while the process is forked. A line appears within a twentieth of a second after it
was written.
"""

from __future__ import annotations

import atexit
import builtins
import os
import re
import shutil
import sys
import threading
import time
from math import inf
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len

from shoal.context import HERE
from shoal.recording.live.rows import Style, clean, cut

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Screen"]

#: Seconds from one writing to the next, and characters that are kept at the most.
PACE = 0.05
MOST = 65_536
#: Seconds for which a stranger has the terminal for himself after he has moved the cursor.
ASIDE = 1.0
#: Seconds for which a fork waits for the end of a drawing.
PATIENCE = 0.5

#: Down and up again: there is a line below the cursor, which stays in its column.
_BELOW = "\x1bD\x1b[A"
#: Erases the rest of the line.
_REST = "\x1b[K"
#: Erases all from the cursor on; there are rows. In two steps, as tmux keeps a whole screen that is erased in one.
_ERASE = f"{_REST}{_BELOW}\x1b7\n\x1b[J\x1b8"

#: What moves the cursor out of its line, hides it, or takes another screen.
_MOVES = re.compile(r"\x1b(?:\[[0-9;]*[A-BE-FHJSTdf]|\[\?(?:25|47|1047|1049)[hl]|[78M]|c)")
_SEQUENCES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)?")


class _Tap:
    """A stream whose `write` is replaced.

    Attributes:
        stream: the stream.
        partial: what was written since the last end of a line.
    """

    def __init__(self, screen: Screen, stream: Any) -> None:
        self.stream = stream
        self.partial = ""
        self.real_write: Callable[[str], int] = stream.write
        self.real_flush: Callable[[], None] = stream.flush
        self._screen = screen

    def put(self) -> bool:
        """Replaces it; whether the stream allows that."""
        try:
            self.stream.write = self.write
            self.stream.flush = self.flush
        except (AttributeError, TypeError):
            return False
        return True

    def remove(self) -> None:
        """Gives the stream its own back, unless somebody else has replaced it since."""
        for name, ours in (("write", self.write), ("flush", self.flush)):
            if self.stream.__dict__.get(name) == ours:
                delattr(self.stream, name)

    def write(self, text: str) -> int:
        """What the stream's `write` is meanwhile."""
        if not isinstance(text, str):
            return self.real_write(text)  # which raises what it always does
        _shielded(self._screen.take, self, text)
        return len(text)

    def flush(self) -> None:
        """What its `flush` is."""
        _shielded(self._screen.hurry)


def _shielded(do: Callable[..., object], *args: Any) -> None:
    """Calls what must not be interrupted by the end of the run that prints."""
    frames = HERE.frames
    if frames is None:
        do(*args)
        return
    frames.enter_shield()
    try:
        do(*args)
    finally:
        frames.leave_shield()


class Screen:
    """The terminal that stderr is, and stdout if it is one.

    Args:
        stream: what the rows are drawn on; `sys.stderr` by default.
    """

    def __init__(self, stream: Any = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._lock = threading.RLock()
        self._taps: list[_Tap] = []
        self._queue: list[tuple[_Tap, str]] = []
        self._queued = 0
        self._rows: Sequence[str] = ()
        self._shown = False  # whether rows are below the cursor
        self._ever = False
        self._at = 0.0  # of the latest writing
        self._aside = 0.0  # until then somebody else has the terminal
        self._hidden = False  # he has hidden the cursor
        self._asked = 0
        self._input: Any = None
        self._own: _Tap | None = None
        self._style: Style | None = None
        self._bell = threading.Condition(self._lock)
        self._pacing: threading.Thread | None = None
        self._over = False

    # ------------------------------------------------------------------ what kind of terminal it is

    def style(self) -> Style:
        """What it can show."""
        if self._style is None:
            colour = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
            self._style = Style.of(colour, getattr(self._stream, "encoding", None) or "ascii")
        return self._style

    def width(self) -> int:
        """In cells, as it is now."""
        return self._size().columns

    def height(self) -> int:
        """In lines, as it is now."""
        return self._size().lines

    def _size(self) -> os.terminal_size:
        try:
            size = os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError, AttributeError):
            return shutil.get_terminal_size()
        return size if size.columns > 0 and size.lines > 0 else os.terminal_size((80, 24))

    # ------------------------------------------------------------------ taking it and giving it back

    def start(self) -> None:
        """Takes the streams."""
        with self._lock:
            self._own = _Tap(self, self._stream)
            for stream in dict.fromkeys((self._stream, sys.stdout)):
                tap = self._own if stream is self._stream else _Tap(self, stream)
                if _is_terminal(stream) and tap.put():
                    self._taps.append(tap)
            self._input = builtins.input
            builtins.input = self._ask
            self._pacing = threading.Thread(target=self._pace, name="shoal-screen", daemon=True)
        _SCREENS.append(self)
        self._pacing.start()
        atexit.register(self.stop)

    def stop(self) -> bool:
        """Erases the rows and gives the streams back; whether there ever were rows."""
        atexit.unregister(self.stop)
        with self._lock:
            if self in _SCREENS:
                _SCREENS.remove(self)
                self._over = True
                self._bell.notify_all()
                self._write_out(rows=False)
                self._untap()
        pacing = self._pacing
        if pacing is not None and pacing is not threading.current_thread():
            pacing.join()
        return self._ever

    def _untap(self) -> None:
        for tap in self._taps:
            tap.remove()
        if builtins.input == self._ask:
            builtins.input = self._input

    def print(self, lines: Sequence[str]) -> None:
        """Prints lines, after the end of one that somebody has begun."""
        if not lines:
            return
        begun = any(tap.partial for tap in self._taps)
        text = "\n".join([*([""] if begun else []), *lines, ""])
        self._emit(text)

    def _emit(self, text: str) -> None:
        tap = self._own
        assert tap is not None  # it has started
        encoding = getattr(self._stream, "encoding", None) or "ascii"
        tap.real_write(text.encode(encoding, "replace").decode(encoding))
        tap.real_flush()

    # ------------------------------------------------------------------ what others write

    def take(self, tap: _Tap, text: str) -> None:
        """Somebody has written something."""
        with self._lock:
            if self._over:
                tap.real_write(text)
                return
            self._queue.append((tap, text))
            self._queued += len(text)
            now = time.monotonic()
            if _MOVES.search(text):
                hides, shows = text.rfind("\x1b[?25l"), text.rfind("\x1b[?25h")
                if max(hides, shows) >= 0:
                    self._hidden = hides > shows
                self._aside = inf if self._hidden else now + ASIDE
                self._write_out(rows=False)
            elif (
                now < self._aside
                or self._queued > MOST
                or (now - self._at >= PACE and text.endswith("\n"))  # `print` writes word by word
            ):
                self._write_out(rows=True)
            elif len(self._queue) == 1:
                self._bell.notify()

    def hurry(self) -> None:
        """Somebody wants to see what he has written."""
        with self._lock:
            if self._over:
                for tap in self._taps:
                    tap.real_flush()
            elif self._queue and time.monotonic() - self._at >= PACE:
                self._write_out(rows=True)

    def _pace(self) -> None:
        """Writes what is left in the queue when others have fallen silent."""
        with self._lock:
            while not self._over:
                if not self._queue:
                    self._bell.wait()
                    continue
                left = self._at + PACE - time.monotonic()
                if left > 0:
                    self._bell.wait(left)
                else:
                    self._write_out(rows=True)

    def _ask(self, prompt: object = "", /) -> str:
        """What `input` is meanwhile."""
        with self._lock:
            self._write_out(rows=False)
            self._asked += 1
        try:
            answer: str = self._input(prompt)
            return answer
        finally:
            with self._lock:
                self._asked -= 1
                for tap in self._taps:
                    tap.partial = ""  # the line ended with the answer

    # ------------------------------------------------------------------ writing

    def draw(self, rows: Sequence[str]) -> None:
        """Shows these rows from now on."""
        with self._lock:
            self._rows = rows
            if not self._over:
                self._write_out(rows=True)

    def _write_out(self, *, rows: bool) -> None:
        """Writes the queue, and the rows below it."""
        now = self._at = time.monotonic()
        if not rows or self._asked or now < self._aside:
            self._step_aside()
            return
        if not self._rows:
            self._step_aside()
            return
        printed, self._queue, self._queued = self._queue, [], 0
        begun_above = "" if self._shown else "".join(tap.partial for tap in self._taps)
        lines = [(tap, text) for tap, text in _whole_lines(printed) if text]
        head = _ERASE if lines and self._shown else _REST
        length = cell_len(clean(_SEQUENCES.sub("", begun_above)))
        above = (
            length - 1
        ) // self.width()  # lines that the terminal has made of it before the last
        if length and above < self.height():
            # That line is among the rows from now on.
            head = f"\r\x1b[{above}A{_ERASE}" if above else f"\r{_REST}"
        for tap, text in lines:
            tap.real_write(head + text)
            tap.real_flush()
            head = ""
        width = self.width() - 1
        begun = [
            cut(clean(_SEQUENCES.sub("", tap.partial)).rstrip(), width, self.style())
            for tap in self._taps
            if tap.partial.strip()
        ]
        shown = [*begun, *self._rows]
        # There is room for them before the cursor's place is noted: they scroll nothing.
        room = "\x1bD" * len(shown) + f"\x1b[{len(shown)}A"
        body = "".join(f"\n{row}{_REST}" for row in shown)
        # A row that has become too long, as the terminal has just become narrower, must not take two lines.
        self._emit(f"{head}{room}\x1b7\x1b[?7l{body}\x1b[?7h\x1b[J\x1b8")
        self._shown = self._ever = True

    def _step_aside(self) -> None:
        """Writes the queue as it is, where the cursor would be without us."""
        head = ""
        if self._shown:
            head = _ERASE
            self._shown = False
            for tap in self._taps:
                if tap.partial:
                    tap.real_write(head + tap.partial)
                    tap.real_flush()
                    head = ""
        printed, self._queue, self._queued = self._queue, [], 0
        for tap, text in printed:
            tap.real_write(head + text)
            tap.real_flush()
            head = ""
            tap.partial = _since_line_end(tap.partial + text)
            if "\n" in text:  # it has ended the line that others had begun, too
                for other in self._taps:
                    if other is not tap:
                        other.partial = ""
        if head:
            self._emit(head)


def _whole_lines(printed: list[tuple[_Tap, str]]) -> list[tuple[_Tap, str]]:
    """What can be printed for good; what follows the last end of a line stays with its stream."""
    lines = []
    for tap, text in printed:
        whole, end, rest = (tap.partial + text).rpartition("\n")
        lines.append((tap, whole + end))
        tap.partial = _since_line_end(rest)
    return lines


def _since_line_end(text: str) -> str:
    """The line that has begun, as a terminal shows it: what follows a return overwrites what was before."""
    line = text.rpartition("\n")[2]
    if "\r" not in line:
        return line
    kept = ""
    for piece in line.split("\r"):
        plain = _SEQUENCES.sub("", piece)
        if piece and cell_len(plain) >= cell_len(_SEQUENCES.sub("", kept)):
            kept = piece
        elif plain:
            kept = piece + kept[len(piece) :]
    return kept


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):
        return False


# ---------------------------------------------------------------------- forks

#: Those that have a terminal now.
_SCREENS: list[Screen] = []
#: Of a thread that forks: those whose locks it holds.
_FORKING = threading.local()


def _finish_drawing() -> None:
    """Nobody else is within a drawing: what of it is in a stream's buffer, the child would write, too.

    It does not wait for long, as a terminal may stand still for ever.
    """
    _FORKING.held = [screen for screen in _SCREENS if screen._lock.acquire(timeout=PATIENCE)]


def _go_on() -> None:
    """In the parent."""
    for screen in _FORKING.held:
        screen._lock.release()


def _leave_to_parent() -> None:
    """In a child: the rows are the parent's, and what is in the queue too."""
    while _SCREENS:
        screen = _SCREENS.pop()
        screen._lock = threading.RLock()
        screen._over = True
        screen._queue = []
        screen._untap()
        atexit.unregister(screen.stop)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_finish_drawing, after_in_parent=_go_on, after_in_child=_leave_to_parent
    )
