"""What a live process and its parent say to each other: a JSON object a line, in each direction. Standard library only.

To the child: `{"do": "warm" | "sample", "scenario": …, "case": …, "size": …}`, and `{"do": "go"}` to what it says of the
clock. From the child: `{"event": …}` with what else the event has; the events are constants here.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, TextIO

__all__ = ["CLOCK", "FAILED", "OPENED", "SAMPLED", "VOID", "WARMED", "Pipe", "message_in"]

OPENED = "opened"  # python, versions
CLOCK = "clock"  # running; the child goes on when it is told to
WARMED = "warmed"  # size
SAMPLED = "sampled"  # value, wall, quantities
VOID = "void"  # reason; the system goes on
FAILED = "failed"  # reason; the system could not be opened


EVENTS = frozenset({OPENED, CLOCK, WARMED, SAMPLED, VOID, FAILED})


def message_in(line: bytes) -> dict[str, Any] | None:
    """The child's message in a line; none if it is something else, such as what an interpreter greets with."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) and message.get("event") in EVENTS else None


class Pipe:
    """The child's end. Takes over standard input and output, so that nothing an engine prints gets in between.

    What the engine prints goes to standard error.
    """

    def __init__(self) -> None:
        self._incoming: TextIO = os.fdopen(os.dup(sys.stdin.fileno()), encoding="utf-8")
        self._outgoing: TextIO = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, sys.stdin.fileno())
        os.close(nothing)
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def say(self, event: str, **content: Any) -> None:
        """Tells the parent something."""
        self._outgoing.write(json.dumps({"event": event, **content}) + "\n")
        self._outgoing.flush()

    def hear(self) -> dict[str, Any] | None:
        """What the parent says next; `None` when it has nothing more to say, or has gone."""
        line = self._incoming.readline()
        if not line:
            return None
        message: dict[str, Any] = json.loads(line)
        return message
