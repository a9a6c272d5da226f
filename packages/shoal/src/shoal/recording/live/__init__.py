"""Live progress: rows at the foot of the terminal while flows run, and a few lines when they have ended.

    __init__.py   whether there is to be any; loads the rest
    counting.py   what is counted of each task of each flow run, from what observers are told
    observing.py  the observer, and the thread that looks and draws
    running.py    what a runner executes at the moment
    rows.py       counts as lines of text
    summary.py    the lines at the end
    screen.py     the rows on a terminal, below whatever else is printed there
    notebook.py   the rows in a notebook

    any thread ──told──▶ counts ◀──looks every fifth of a second── thread ──rows──▶ screen ◀──print, log lines── any thread

Nothing is loaded unless a flow is called where stderr is a terminal, or in a notebook. May import `settings`, and within the functions that
load the rest all of recording.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, Any

from shoal import settings

if TYPE_CHECKING:
    from shoal.recording.live.observing import LiveObserver

__all__ = ["offer"]

_lock = threading.Lock()
_offered: LiveObserver | None = None


def offer() -> None:
    """Has flow runs shown that begin from now on, if stderr is a terminal, or this a notebook, and the user has not said no."""
    global _offered
    wanted = is_wanted()
    if wanted is (_offered is not None):
        return
    with _lock:
        if wanted and _offered is None:
            from shoal.engine.observing import add_observer
            from shoal.recording.live.observing import LiveObserver

            _offered = LiveObserver()
            add_observer(_offered)
        elif not wanted and _offered is not None:
            from shoal.engine.observing import remove_observer

            remove_observer(_offered)
            _offered = None


def is_wanted() -> bool:
    """Whether live progress is to be shown now.

    Raises:
        InvalidOption: `SHOAL_PROGRESS` is neither true nor false.
    """
    notebook = "ipykernel" in sys.modules and _in_notebook()
    if not notebook and not _is_terminal(sys.stderr):
        return False
    if not settings.progress() or os.environ.get("CI"):
        return False
    if notebook:
        return True
    return os.environ.get("TERM") != "dumb" and (sys.platform != "win32" or _moves_cursor())


def _is_terminal(stream: Any) -> bool:
    try:
        return stream is not None and bool(stream.isatty())
    except (AttributeError, ValueError):  # no stream of the usual kind, or a closed one
        return False


def _in_notebook() -> bool:
    from shoal.recording.live.notebook import in_notebook

    return in_notebook()


def _moves_cursor() -> bool:
    """Whether a console of Windows understands the usual sequences; asking it switches them on."""
    from rich.console import detect_legacy_windows

    return not detect_legacy_windows()
