"""Processes that user code inside a run forks: copies of a worker that are none.

    run's function ── os.fork() ──┬─▶ parent: goes on, and its end is the run's
                                  └─▶ child: anything it likes; ends for good where the function does, and tells nobody

A child has one thread, the one that forked. It may use the library for work of its own: it waits and is interrupted
like any program's main thread, and what it inherited of entered runners is the parent's (see `INHERITED`). Nothing of
this costs anything before somebody forks: all is done in the child.

May import `context`.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any, NoReturn

from shoal.context import CALL, HERE

__all__ = ["CALLS", "FRAMES", "ends_with", "leave"]

#: Of this process, if it is such a child: the frames that were on its stack when it was forked,
FRAMES: list[Any] = []
#: and the calls whose functions they run. A call ends the process; direct calls inside one do not.
CALLS: list[Any] = []


def ends_with(call: object, error: BaseException | None = None) -> None:
    """Ends this process if it was forked inside a call that is over now.

    Args:
        call: the call.
        error: what its function raised, if it did.
    """
    if any(call is inherited for inherited in CALLS):
        leave(error)


def leave(error: BaseException | None = None) -> NoReturn:
    """Ends a child as the interpreter ends a program, but for what the parent has registered for its own end."""
    code = 0
    try:
        if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
            code = (error.code or 0) & 0xFF
        elif isinstance(error, SystemExit):
            code = 1
            sys.stderr.write(f"{error.code}\n")
        elif error is not None:
            code = 1
            sys.excepthook(type(error), error, error.__traceback__)
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    finally:
        os._exit(code)


def _after_fork() -> None:
    frames = HERE.frames
    for frame in frames.stack if frames is not None else ():
        with suppress(AttributeError):
            del frame.armed  # so its end is noticed, at no cost to others
        FRAMES.append(frame)
        CALLS.append(
            getattr(frame.run, "_call", frame.run)
        )  # a future's, or the call of a map's element
    if HERE.batch_call is not None:
        CALLS.append(HERE.batch_call)
    if HERE.loop:
        CALLS.append(CALL.get())
    # It is nobody's worker any more.
    HERE.frames = HERE.block = HERE.worker = HERE.caller = HERE.batch_call = None
    HERE.loop = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
