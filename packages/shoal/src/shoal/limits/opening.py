"""Opens the store that the settings say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoal.limits.settings import postgres_url

if TYPE_CHECKING:
    from shoal.limits.store import LimitStore

__all__ = ["open_store"]


def open_store() -> LimitStore:
    """The store of the settings; it opens its file, or connects, on use.

    Raises:
        InvalidOption: SHOAL_LIMITS_URL is the address of something else.
        MissingExtraError: what speaks with that database is not installed.
    """
    url = postgres_url()
    if url is None:
        from shoal.limits.sqlite import SqliteStore

        return SqliteStore()
    from shoal.limits.postgres import PostgresStore

    return PostgresStore(url)
