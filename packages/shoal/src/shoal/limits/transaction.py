"""What a store does at once, in the SQL that both databases understand.

May import the standard library only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

__all__ = ["Query", "Transaction"]

#: A statement, with `?` for each value, and the values.
Query = tuple[str, *tuple[Any, ...]]


class Transaction(ABC):
    """What a store does at once, or not at all. Statements have `?` for each value.

    Attributes:
        lasting: whether it must outlive a crash of the server: what was granted, and what was set. That something was
            given back need not, as leases end.
    """

    lasting = False

    @property
    @abstractmethod
    def now(self) -> float:
        """The store's clock, in seconds; once limits are locked, as it was then."""

    @property
    @abstractmethod
    def wall(self) -> float:
        """Seconds since the epoch."""

    @abstractmethod
    def lock(self, sql: str, *values: Any) -> list[Any]:
        """The rows of a SELECT, which nobody else changes before this is done."""

    @abstractmethod
    def ask(self, *queries: Query) -> list[list[Any]]:
        """The rows of each SELECT."""

    @abstractmethod
    def do(self, sql: str, *values: Any) -> None:
        """Carries out any other statement."""

    @abstractmethod
    def ring(self, address: str) -> None:
        """Tells who has an address, once all is done, that something may have become free."""

    @abstractmethod
    def ring_found(self, sql: str, *values: Any) -> None:
        """As `ring`, for the addresses that a SELECT finds."""

    def run(self, sql: str, *values: Any) -> list[Any]:
        """The rows of one SELECT."""
        return self.ask((sql, *values))[0]
