"""`ConcurrencyLimits`: how programs manage limits. May import what a store is made of.

Every call opens the store and closes it again, so there is nothing to leave open; limits are managed rarely.
"""

from __future__ import annotations

import shlex
from contextlib import closing
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from shoal.engine.interrupt import shielded
from shoal.exceptions import ConcurrencyLimitError
from shoal.limits.opening import open_store
from shoal.limits.store import TAG, ConcurrencyLimit

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from shoal.limits.store import Limit, LimitStore

__all__ = ["AsyncConcurrencyLimits", "ConcurrencyLimits"]

T = TypeVar("T")


class ConcurrencyLimits:
    """Sets, shows and removes the limits of tags.

    Use it with `with`, with `async with` (then the methods are to be awaited), or as it is.

    Raises:
        InvalidOption: SHOAL_LIMITS_URL names no file.

    Examples:
        >>> with ConcurrencyLimits() as client:
        ...     client.create_concurrency_limit(tag="small_instance", concurrency_limit=10)
    """

    def create_concurrency_limit(self, tag: str, concurrency_limit: int) -> str:
        """Sets the most runs with a tag that may run at once, or changes it.

        Runs that hold a slot keep it: after a limit is lowered, none starts until enough of them have ended.

        Args:
            tag: the tag.
            concurrency_limit: a whole number. At 0, runs with the tag are aborted.

        Returns:
            The limit's id.

        Raises:
            ConcurrencyLimitError: the tag or the number cannot be used.
        """
        _check_tag(tag)
        _check_number(tag, "concurrency_limit", concurrency_limit)
        return self._do(lambda store: store.upsert(TAG + tag, concurrency_limit)).id

    def read_concurrency_limit_by_tag(self, tag: str) -> ConcurrencyLimit:
        """The limit of a tag; its `active_slots` are the ids of the runs that hold one.

        Raises:
            ConcurrencyLimitError: the tag has no limit.
        """
        _check_tag(tag)
        found = self._do(lambda store: store.read(TAG + tag))
        return _missing(tag) if found is None else _of_tag(found)

    def read_concurrency_limits(
        self, limit: int | None = None, offset: int = 0
    ) -> list[ConcurrencyLimit]:
        """All limits, in the order of their tags.

        Args:
            limit: the most to return.
            offset: how many to leave out at the beginning.

        Raises:
            ConcurrencyLimitError: one of these is not a whole number from 0 up.
        """
        if limit is not None:
            _check_number("*", "limit", limit)
        _check_number("*", "offset", offset)
        found = self._do(lambda store: store.read_all(limit, offset, tags=True))
        return [_of_tag(limit) for limit in found]

    def delete_concurrency_limit_by_tag(self, tag: str) -> None:
        """Removes the limit of a tag: from now on its runs are free.

        Raises:
            ConcurrencyLimitError: the tag has no limit.
        """
        _check_tag(tag)
        if not self._do(lambda store: store.delete(TAG + tag)):
            _missing(tag)

    def reset_concurrency_limit_by_tag(self, tag: str) -> None:
        """Frees all slots of a tag at once. Runs that held one go on without it.

        Raises:
            ConcurrencyLimitError: the tag has no limit.
        """
        _check_tag(tag)
        if not self._do(lambda store: store.reset(TAG + tag)):
            _missing(tag)

    def _do(self, act: Callable[[LimitStore], T]) -> T:
        with shielded(), closing(open_store()) as store:
            return act(store)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing is open between calls."""

    async def __aenter__(self) -> AsyncConcurrencyLimits:
        return AsyncConcurrencyLimits(self)

    async def __aexit__(self, *error: object) -> None:
        """Nothing is open between calls."""


class AsyncConcurrencyLimits:
    """The methods of `ConcurrencyLimits`, to be awaited: `async with ConcurrencyLimits() as client`."""

    def __init__(self, limits: ConcurrencyLimits) -> None:
        self._limits = limits

    async def create_concurrency_limit(self, tag: str, concurrency_limit: int) -> str:
        """See `ConcurrencyLimits.create_concurrency_limit`."""
        return await _in_thread(self._limits.create_concurrency_limit, tag, concurrency_limit)

    async def read_concurrency_limit_by_tag(self, tag: str) -> ConcurrencyLimit:
        """See `ConcurrencyLimits.read_concurrency_limit_by_tag`."""
        return await _in_thread(self._limits.read_concurrency_limit_by_tag, tag)

    async def read_concurrency_limits(
        self, limit: int | None = None, offset: int = 0
    ) -> list[ConcurrencyLimit]:
        """See `ConcurrencyLimits.read_concurrency_limits`."""
        return await _in_thread(self._limits.read_concurrency_limits, limit, offset)

    async def delete_concurrency_limit_by_tag(self, tag: str) -> None:
        """See `ConcurrencyLimits.delete_concurrency_limit_by_tag`."""
        await _in_thread(self._limits.delete_concurrency_limit_by_tag, tag)

    async def reset_concurrency_limit_by_tag(self, tag: str) -> None:
        """See `ConcurrencyLimits.reset_concurrency_limit_by_tag`."""
        await _in_thread(self._limits.reset_concurrency_limit_by_tag, tag)


def _of_tag(limit: Limit) -> ConcurrencyLimit:
    return ConcurrencyLimit(
        limit.id,
        limit.name.removeprefix(TAG),
        limit.limit,
        [lease.holder.id for lease in limit.holders],
        limit.created,
        limit.updated,
    )


async def _in_thread(function: Callable[..., T], *args: Any) -> T:
    import anyio.to_thread

    return await anyio.to_thread.run_sync(function, *args)


def _check_tag(tag: object) -> None:
    if not isinstance(tag, str):
        raise ConcurrencyLimitError(tag=repr(tag), problem="a tag is a string")
    if not tag:
        raise ConcurrencyLimitError(tag=tag, problem="a tag must not be empty")
    try:
        storable = b"\0" not in tag.encode()
    except UnicodeEncodeError:
        storable = False
    if not storable:
        raise ConcurrencyLimitError(
            tag=tag, problem="it has characters that are not text (NUL, or half of a pair)"
        )


def _check_number(tag: str, name: str, number: object) -> None:
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 1 << 63:
        raise ConcurrencyLimitError(
            tag=tag, problem=f"{name} must be a whole number from 0 up, not {number!r}"
        )


def _missing(tag: str) -> NoReturn:
    raise ConcurrencyLimitError(
        tag=tag,
        problem=f"the tag has no limit; `shoal concurrency-limit create {shlex.quote(tag)} N` sets one",
    )
