"""What can be said of objects that may misbehave: raise anything when looked at, or claim to be of another class.

Who reports a failure asks here, and nothing here raises. May import the standard library only.
"""

from __future__ import annotations

import opcode
import reprlib
import signal
import threading
from typing import Any

__all__ = ["from_a_signal", "shown", "words_of"]

_reprs = reprlib.Repr()
_reprs.maxstring = _reprs.maxother = 80


def shown(value: Any) -> str:
    """A short repr."""
    try:
        return _reprs.repr(value)
    except BaseException as error:
        if from_a_signal(error):
            raise
        return f"<{type(value).__name__} object>"


def words_of(error: BaseException) -> str:
    """An exception's class and message."""
    kind = type(error).__name__
    try:
        text = str(error)
    except BaseException as failure:
        if from_a_signal(failure):
            raise
        return f"{kind}, whose text cannot be had"
    return f"{kind}: {text}" if text else kind


def from_a_signal(error: BaseException) -> bool:
    """Whether an exception comes of Ctrl-C or SIGTERM, not of an object: as far as that can be told."""
    if isinstance(error, Exception) or threading.current_thread() is not threading.main_thread():
        return False
    codes = [
        getattr(signal.getsignal(number), "__code__", None)
        for number in (signal.SIGINT, signal.SIGTERM)
    ]
    trace = error.__traceback__
    raises = False
    while trace is not None:
        code = trace.tb_frame.f_code
        if code in codes:
            return True
        raises = code.co_code[trace.tb_lasti] == _RAISE
        trace = trace.tb_next
    by_python = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    # Python's own handler has no frame. What it raises comes at any instruction but one that raises.
    return isinstance(error, KeyboardInterrupt) and by_python and not raises


_RAISE = opcode.opmap["RAISE_VARARGS"]
