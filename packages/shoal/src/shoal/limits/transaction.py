"""What a store does at once, in the SQL that both databases understand."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

__all__ = ["Transaction"]


class Transaction(ABC):
    """What a store does at once, or not at all.

    Attributes:
        rings: addresses of those to be told, once all is done, that something may have become free.
    """

    def __init__(self) -> None:
        self.rings: set[str] = set()

    @property
    @abstractmethod
    def now(self) -> float:
        """The store's clock, in seconds."""

    @property
    @abstractmethod
    def wall(self) -> float:
        """Seconds since the epoch."""

    @abstractmethod
    def run(self, sql: str, *values: Any) -> list[Any]:
        """Carries out a statement, with `?` for each value; returns its rows."""
