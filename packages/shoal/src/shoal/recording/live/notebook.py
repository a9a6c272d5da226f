"""The rows in a notebook: one output of the cell, which is updated in place.

May import `rows`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from shoal.recording.live.rows import Style

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Notebook", "in_notebook"]


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    ipython: Any = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return hasattr(shell, "kernel")


class Notebook:
    """The output of the cell that runs; has the methods of a `Screen`."""

    def __init__(self) -> None:
        self._handle: Any = None

    def style(self) -> Style:
        """What is shown is kept with the notebook, and read elsewhere: it has no colours."""
        return Style.of(colour=False, encoding="utf-8")

    def width(self) -> int:
        """In characters."""
        return 100

    def height(self) -> int:
        """In lines."""
        return 40

    def start(self) -> None:
        """Nothing has to be taken."""

    def stop(self) -> bool:
        """Whether there ever were rows; they stay until `print` has something in their place."""
        return self._handle is not None

    def draw(self, rows: Sequence[str]) -> None:
        """Shows these rows from now on."""
        from IPython import display as ipython

        text = {"text/plain": "\n".join(rows)}
        if self._handle is None:
            display: Any = ipython.display  # it has no types
            self._handle = display(text, raw=True, display_id=True)
        else:
            self._handle.update(text, raw=True)

    def print(self, lines: Sequence[str]) -> None:
        """Shows lines in the rows' place."""
        if lines:
            self.draw(lines)
