"""The command line of this process, as records and the lines after a flow tell it.

May import the standard library only.
"""

from __future__ import annotations

import os
import shlex
import sys

__all__ = ["command_line"]


def command_line() -> str:
    """As one would type it; empty where there is none, as in an interactive session, and where it is long."""
    words = list(sys.orig_argv)
    if len(words) < 2 or hasattr(sys, "ps1"):
        return ""
    if os.path.basename(sys.argv[0]) == "shoal":
        words = ["shoal", *sys.argv[1:]]
    else:
        words[0] = os.path.basename(words[0])
    text = shlex.join(words)
    return text if len(text) <= 500 else ""
