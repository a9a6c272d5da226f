"""What an exception tells, in words that a record can keep.

May import what things are called.
"""

from __future__ import annotations

import traceback as tracebacks
from typing import TYPE_CHECKING

from shoal.safely import in_words, kind_of, text_of

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["LONGEST_TEXT", "Told"]

#: Characters of a message, and of a traceback.
LONGEST_TEXT = 2_000
LONGEST_TRACEBACK = 20_000


class Told:
    """What an exception tells; empty for none.

    Args:
        error: it.
        trace: its traceback.
        traced: whether that is kept as text, too.

    Attributes:
        kind, text, file, line, traceback: as in `ErrorRow`.
    """

    def __init__(
        self,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
        traced: bool = False,
    ) -> None:
        self.kind = self.text = self.file = self.traceback = ""
        self.line = 0
        if error is None:
            return
        self.kind = kind_of(error)
        self.text = text_of(error)[:LONGEST_TEXT]
        entries = tracebacks.extract_tb(trace)
        if entries:  # the innermost line of the user's own
            own = [entry for entry in entries if "site-packages" not in entry.filename]
            where = (own or entries)[-1]
            self.file, self.line = where.filename, where.lineno or 0
        if not traced:
            return
        try:
            lines = tracebacks.format_exception(type(error), error, trace)
        except Exception:  # its own methods are asked
            lines = [*tracebacks.format_list(entries), in_words(error)]
        text = "".join(lines)
        if len(text) > LONGEST_TRACEBACK:
            half = LONGEST_TRACEBACK // 2
            text = f"{text[:half]}\n  [...]\n{text[-half:]}"
        self.traceback = text
