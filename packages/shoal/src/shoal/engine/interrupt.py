"""Stopping Python code that runs in a thread: asynchronous exceptions that land where they should, or not at all.

What makes this hard: the exception is raised at some later bytecode of the target thread. By then the run it was meant
for may have ended and another begun, or the thread may be inside our own code, half-way through an update.

    guarantees   An `Interrupt` is raised only inside the run it was fired at (or what that run called directly), never
                 inside a `shield`, never after `Frames.end`.
                 In the main thread it ends a call that blocks, such as `time.sleep`, too (see `Kicks`).
    assumes      A frame's `armed` is a token (a slot that one thread succeeds in deleting): deleted by `fire`, the run
                 is interrupted; deleted by the run's own thread, it has ended and cannot be. `fire` and the edges of a
                 shield hold `LOCK`, so who finds the token gone, and takes the lock, finds the exception set, and can
                 withdraw it (`PyThreadState_SetAsyncExc(thread, NULL)`).

A thread's stack of runs is a list of frames: a task that calls another, or runs in place what it waits for, has a
frame above its own. A wait and every other call into the library is a shield: the frame below is marked, a blocked
wait is woken, and the interrupt is raised on the way out. A flow is a shield with a hole in it, the user's function,
so that no interrupt comes between its runner and the leaving of it.

A `TimeLimit` is for a run that waits for its own end: a flow, or a task that is called directly. May import `services`.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self, TypeVar

from shoal.context import HERE, LOCK
from shoal.engine.forks import FRAMES, leave
from shoal.engine.services import TIMERS

if TYPE_CHECKING:
    from types import TracebackType

    from shoal.engine.services import Timer
    from shoal.futures.blocking import Countdown

__all__ = [
    "Frame",
    "Frames",
    "Interrupt",
    "Kicks",
    "TimeLimit",
    "answered_soon",
    "frames_of_this_thread",
    "raise_if_due",
    "set_async_exception",
    "shielded",
]

R = TypeVar("R")


class Interrupt(BaseException):
    """Raised inside a run that was cancelled or ran out of time; a `BaseException`, so that it is seldom caught."""


def set_async_exception(thread: int, exception: type[BaseException] | None) -> None:
    """Raises an exception in a thread at one of its next bytecodes; `None` withdraws one that has not come yet."""
    import ctypes  # loaded when the first run is interrupted

    target = ctypes.py_object(exception) if exception is not None else ctypes.py_object()
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), target)


class Frame:
    """One run on a thread's stack.

    Attributes:
        run: what is to be interrupted (compared by identity): a future, the call of a map's element, or a token.
        record: the map of an element's call.
        armed: the token of its end (see the module).
        fired: whether it was interrupted.
        shield: how many calls into the library are under way.
    """

    __slots__ = ("armed", "fired", "record", "run", "shield")

    def __init__(self, run: object, record: Any = None) -> None:
        self.run = run
        self.record = record
        self.armed = True
        self.fired = False
        self.shield = 0


class Frames:
    """The interruptible runs on one thread's stack, innermost last.

    Attributes:
        thread: the thread.
        stack: its runs.
        countdown: what it waits on.
        kicked: whether a signal is on its way that is to raise an interrupt; written with `LOCK` held.
    """

    __slots__ = ("countdown", "kicked", "stack", "thread")

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.stack: list[Frame] = []
        self.countdown: Countdown | None = None
        self.kicked = False

    def disarm(self, frame: Frame) -> bool:
        """Whether a run can no longer be interrupted and was not. Hot; takes no lock."""
        try:
            del frame.armed
        except AttributeError:
            return False
        return True

    def begin(self, run: object) -> Frame:
        """Puts a run on the stack, in a shield."""
        frame = Frame(run)
        frame.shield = 1
        with LOCK:
            if any(below.fired for below in self.stack):
                self.withdraw()
            self.stack.append(frame)
        return frame

    def end(self, frame: Frame) -> bool:
        """Takes a run off the stack; from here on it can't be interrupted. Returns whether it had been."""
        with LOCK:
            self.disarm(frame)
            if frame.fired:
                self.withdraw()
            if frame in self.stack:
                del self.stack[self.stack.index(frame) :]
            return frame.fired

    def finish(self, frame: Frame) -> None:
        """Ends a frame that was interrupted; whatever was fired at it is over afterwards. On this thread.

        In a child that its run has forked, ends the process: a frame was disarmed there, too.
        """
        if FRAMES and frame in FRAMES:
            leave()
        while True:
            try:
                with LOCK:
                    frame.run = None  # nothing finds it any more
                    frame.fired = False
                    self.withdraw()
                break
            except Interrupt:
                continue
        if frame in self.stack:
            del self.stack[self.stack.index(frame) :]

    def withdraw(self) -> None:
        """Takes back an exception that was fired and has not been raised; with `LOCK` held."""
        self.kicked = False
        set_async_exception(self.thread, None)

    def fire(self, run: object) -> bool:
        """Interrupts a run of this thread; with `LOCK` held.

        Returns:
            False if the run is not on this thread.
        """
        stack = list(self.stack)
        depth = next((depth for depth, frame in enumerate(stack) if frame.run is run), None)
        if depth is None:
            return False
        frame = stack[depth]
        if not self.disarm(frame) and not frame.fired:
            return False  # it has just ended
        # Fired again, an exception replaces the one before, which may have been lost: the interpreter ignores what is
        # raised in a weak reference's callback or a finalizer.
        frame.fired = True
        if any(above.shield for above in stack[depth:-1]):
            return True  # it waits, and runs something in place meanwhile: raised when control returns to it
        if stack[-1].shield:
            if self.countdown is not None:
                self.countdown.interrupt()
        elif _can_be_kicked(self.thread):
            self.kicked = True
            signal.pthread_kill(self.thread, _KICK)
        else:
            set_async_exception(self.thread, Interrupt)
        return True

    def due(self, shielded: bool = False) -> bool:
        """Whether an interrupt is to be raised where the thread stands now.

        Args:
            shielded: whether it stands in a shield of our own and asks for what that keeps out.
        """
        for frame in reversed(self.stack):
            if frame.shield and not shielded:
                return False
            if frame.fired:
                return True
            shielded = False
        return False

    def expose(self, function: Callable[[], R]) -> R:
        """Calls user code from inside a shield: an interrupt may be raised in there, and is over afterwards."""
        frame = self.stack[-1]
        level = frame.shield
        try:
            try:
                self.leave_shield()
                return function()
            finally:
                self._restore(frame, level)
        except Interrupt:
            self._restore(frame, level)  # it may have come just before the line above
            raise

    def _restore(self, frame: Frame, level: int) -> None:
        with LOCK:
            frame.shield = level
            if any(frame.fired for frame in self.stack):
                self.withdraw()

    def enter_shield(self) -> None:
        """From here the thread is in our own code."""
        with LOCK:
            if self.stack:
                # First withdrawn: it may be raised in this very line, and then there is no shield to leave.
                if any(frame.fired for frame in self.stack):
                    self.withdraw()
                self.stack[-1].shield += 1

    def leave_shield(self) -> None:
        """Back to user code.

        Raises:
            Interrupt: the run was interrupted meanwhile, or had been and took no notice.
        """
        with LOCK:
            if self.stack:
                self.stack[-1].shield -= 1
                if self.due():
                    raise Interrupt


def frames_of_this_thread() -> Frames:
    """The current thread's frames, made on first use."""
    frames = HERE.frames
    if frames is None:
        frames = HERE.frames = Frames()
    return frames


class shielded:  # reads as an adjective: `with shielded():`
    """Keeps interrupts out of a block of our own code; they are raised at its end."""

    # No generator: `contextlib` sets attributes of the exception that passes, which some refuse.

    __slots__ = ("_frames",)

    def __enter__(self) -> None:
        frames = HERE.frames
        self._frames = frames if frames is not None and frames.stack else None
        if self._frames is not None:
            self._frames.enter_shield()

    def __exit__(self, *_: object) -> None:
        if self._frames is not None:
            self._frames.leave_shield()


def raise_if_due(*, shielded: bool = False) -> None:
    """Raises what a shield has kept out so far.

    Raises:
        Interrupt: the current run, or one around it, was interrupted.
    """
    frames = HERE.frames
    if frames is not None:
        with LOCK:
            if frames.due(shielded):
                raise Interrupt


def interruptible_block(wanted: Any, deadline: float | None, fail_fast: bool, first: bool) -> bool:
    """How a thread waits whose own run can be interrupted (a timed flow or direct call)."""
    from shoal.futures.blocking import Countdown, block_plainly

    frames = frames_of_this_thread()
    if not frames.stack:
        return block_plainly(Countdown(fail_fast, first), wanted, deadline)
    countdown = Countdown(fail_fast, first)
    frames.enter_shield()
    try:
        with LOCK:
            frames.countdown = countdown
            if any(frame.fired for frame in frames.stack):
                countdown.interrupt()
        try:
            return block_plainly(countdown, wanted, deadline)
        finally:
            frames.countdown = None
    finally:
        frames.leave_shield()


#: Seconds that a run waits for slots of a limit before its worker is lent: to lend it for less is dearer than to wait.
#: 1,000 runs of 10 ms under a limit of 4 took 15 s on 8 processes that were lent at once, as each lent its own to one that
#: had to be started.
LEND_AFTER = 0.05


def answered_soon(wanted: Any) -> bool:
    """Waits a moment for what nobody can be given anything to run for; whether that is over."""
    return interruptible_block(wanted, time.monotonic() + LEND_AFTER, False, False)


# ---------------------------------------------------------------------- the main thread

# Ignored by default, so one that comes late does no harm; and programs hardly ever handle it.
_KICK: Any = getattr(signal, "SIGURG", None)


class Kicks:
    """Within it, an interrupt gets the main thread out of a call that blocks.

    An exception that is set from outside waits for the next bytecode; a signal's handler runs in the midst of
    `time.sleep`, and may raise. So here interrupts come with a signal. A handler that somebody else has for it is left
    alone, and so is a thread that blocks it: then, and in other threads, nothing changes.
    """

    __slots__ = ("_installed",)

    def __enter__(self) -> None:
        self._installed = (
            _KICK is not None
            and threading.current_thread() is threading.main_thread()
            and signal.getsignal(_KICK) is signal.SIG_DFL
            and _KICK not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
        )
        if self._installed:
            signal.signal(_KICK, _kicked)

    def __exit__(self, *raised: object) -> None:
        if self._installed and signal.getsignal(_KICK) is _kicked:
            signal.signal(_KICK, signal.SIG_DFL)


def _can_be_kicked(thread: int) -> bool:
    return (
        _KICK is not None
        and signal.getsignal(_KICK) is _kicked
        and thread == threading.main_thread().ident
    )


def _kicked(number: int, frame: object) -> None:
    frames = HERE.frames
    if frames is None:
        return
    with LOCK:
        wanted, frames.kicked = frames.kicked, False
    if wanted:
        raise Interrupt


def _unkicked_child() -> None:
    """A forked child has nobody who would interrupt it, so it has the signal as it was."""
    if signal.getsignal(_KICK) is _kicked:
        signal.signal(_KICK, signal.SIG_DFL)


if _KICK is not None and hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unkicked_child)


class TimeLimit:
    """A block of our own code that runs user code, through `expose`, for so long and no longer.

    The block is a shield: in our code, an interrupt of a run further out could leave a lock taken. What it raises because
    its time was over is dropped.

    Attributes:
        expired: afterwards, whether its time was over before it ended.
    """

    def __init__(self) -> None:
        self.expired = False
        self._ended = False
        self._timer: Timer | None = None
        self._kicks = Kicks()

    def __enter__(self) -> Self:
        self._frames = frames_of_this_thread()
        self._token = object()
        self._frame = self._frames.begin(self._token)
        self._kicks.__enter__()
        self._blocker = HERE.block
        if self._blocker is None:
            HERE.block = interruptible_block
        return self

    def start(self, seconds: float, at_end: Callable[[], object] | None = None) -> None:
        """Starts the clock.

        Args:
            seconds: the limit.
            at_end: called too when the time is over, on a service thread.
        """
        frames, token = self._frames, self._token

        def fire() -> None:
            with LOCK:
                if self._ended:
                    return
                frames.fire(token)
            if at_end is not None:
                at_end()

        self._timer = TIMERS.after(seconds, fire)

    def end(self) -> None:
        """Ends the clock: user code that is yet to come is not held to it.

        Raises:
            Interrupt: the time was over before.
        """
        with LOCK:
            self._ended = True
            if self._frame.fired:
                raise Interrupt

    def expose(self, function: Callable[[], R]) -> R:
        """Calls user code."""
        return self._frames.expose(function)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if self._timer is not None:
            self._timer.cancel()
        self._kicks.__exit__()
        HERE.block = self._blocker
        self.expired = self._frames.end(self._frame)
        raise_if_due()  # for a run around this one
        return self.expired and isinstance(error, (Exception, Interrupt))
