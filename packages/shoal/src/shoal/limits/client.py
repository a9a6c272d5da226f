"""`ConcurrencyLimits`: how programs manage limits. May import what a store is made of.

Every call opens the store and closes it again, so there is nothing to leave open; limits are managed rarely.
"""

from __future__ import annotations

import shlex
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from shoal.engine.interrupt import shielded
from shoal.exceptions import ConcurrencyLimitError
from shoal.limits.opening import open_store
from shoal.limits.store import TAG, ConcurrencyLimit

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from shoal.limits.store import Limit, LimitStore

__all__ = [
    "AsyncConcurrencyLimits",
    "ConcurrencyLimits",
    "GlobalConcurrencyLimitCreate",
    "GlobalConcurrencyLimitUpdate",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class GlobalConcurrencyLimitCreate:
    """A limit to be made.

    Attributes:
        name: by which `concurrency` and `rate_limit` ask for its slots.
        limit: how many slots it has, from 0 up.
        active: whether it limits anything.
        active_slots: how many slots count as taken to begin with.
        slot_decay_per_second: slots that are free again each second without being given back; 0 for none.
    """

    name: str
    limit: int
    active: bool = True
    active_slots: int = 0
    slot_decay_per_second: float = 0.0


@dataclass(frozen=True, slots=True)
class GlobalConcurrencyLimitUpdate:
    """What is to be changed of a limit; `None` leaves a thing as it is. See `GlobalConcurrencyLimitCreate`.

    Attributes:
        name: its new name.
        limit: how many slots it has.
        active: whether it limits anything.
        active_slots: how many slots count as taken from now on; who holds more than these goes on without.
        slot_decay_per_second: slots that are free again each second.
    """

    name: str | None = None
    limit: int | None = None
    active: bool | None = None
    active_slots: int | None = None
    slot_decay_per_second: float | None = None


class ConcurrencyLimits:
    """Sets, shows, changes and removes limits: those of tags, and global ones, by name.

    Use it with `with`, with `async with` (then the methods are to be awaited), or as it is.

    Raises:
        InvalidOption: SHOAL_LIMITS_URL names no store.

    Examples:
        >>> with ConcurrencyLimits() as client:
        ...     client.create_concurrency_limit(tag="small_instance", concurrency_limit=10)
    """

    # ------------------------------------------------------------------ of tags

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
        _check_name(tag, "tag")
        _check_count(tag, "concurrency_limit", concurrency_limit)
        return self._do(lambda store: store.upsert(TAG + tag, concurrency_limit)).id

    def read_concurrency_limit_by_tag(self, tag: str) -> ConcurrencyLimit:
        """The limit of a tag, which runs hold its slots, and which stand in line.

        Raises:
            ConcurrencyLimitError: the tag has no limit.
        """
        _check_name(tag, "tag")
        limit = self._do(lambda store: store.read(TAG + tag))
        return _of_tag(limit) if limit is not None else _no_tag(tag)

    def read_concurrency_limits(
        self, limit: int | None = None, offset: int = 0
    ) -> list[ConcurrencyLimit]:
        """The limits of all tags, in the order of these.

        Args:
            limit: the most to return.
            offset: how many to leave out at the beginning.

        Raises:
            ConcurrencyLimitError: one of these is not a whole number from 0 up.
        """
        return [_of_tag(found) for found in self._read_all(limit, offset, tags=True)]

    def delete_concurrency_limit_by_tag(self, tag: str) -> None:
        """Removes the limit of a tag: from now on its runs are free.

        Raises:
            ConcurrencyLimitError: the tag has no limit.
        """
        _check_name(tag, "tag")
        if not self._do(lambda store: store.delete(TAG + tag)):
            _no_tag(tag)

    def reset_concurrency_limit_by_tag(self, tag: str) -> None:
        """Frees all slots of a tag at once. Runs that held one go on without it.

        Raises:
            ConcurrencyLimitError: the tag has no limit.
        """
        _check_name(tag, "tag")
        if not self._do(lambda store: store.reset(TAG + tag)):
            _no_tag(tag)

    # ------------------------------------------------------------------ global ones

    def create_global_concurrency_limit(
        self, concurrency_limit: GlobalConcurrencyLimitCreate
    ) -> str:
        """Makes a limit.

        Args:
            concurrency_limit: what it is to be.

        Returns:
            The limit's id.

        Raises:
            ConcurrencyLimitError: there is one of this name already, or it cannot be made as asked.
        """
        made = concurrency_limit
        _check_name(made.name, "name")
        _check(made.name, made)

        def create(store: LimitStore) -> Limit | None:
            return store.create(
                made.name,
                made.limit,
                decay=float(made.slot_decay_per_second),
                active=made.active,
                active_slots=made.active_slots,
            )

        limit = self._do(create)
        if limit is None:
            problem = (
                "there is a limit of this name already;"
                f" `shoal global-concurrency-limit update {shlex.quote(made.name)}` changes it"
            )
            raise ConcurrencyLimitError(tag=made.name, problem=problem)
        return limit.id

    def read_global_concurrency_limit_by_name(self, name: str) -> Limit:
        """A limit, who holds its slots, and who waits for them.

        Raises:
            ConcurrencyLimitError: there is none of this name.
        """
        _check_name(name, "name")
        return self._do(lambda store: store.read(name)) or _no_name(name)

    def read_global_concurrency_limits(
        self, limit: int | None = None, offset: int = 0
    ) -> list[Limit]:
        """All global limits, in the order of their names; those of tags are not among them.

        Args:
            limit: the most to return.
            offset: how many to leave out at the beginning.

        Raises:
            ConcurrencyLimitError: one of these is not a whole number from 0 up.
        """
        return self._read_all(limit, offset, tags=False)

    def update_global_concurrency_limit(
        self, name: str, concurrency_limit: GlobalConcurrencyLimitUpdate
    ) -> None:
        """Changes a limit. Who holds slots keeps them, unless `active_slots` is given.

        Args:
            name: of the limit.
            concurrency_limit: what is to be changed.

        Raises:
            ConcurrencyLimitError: there is none of this name, or it cannot be changed as asked.
        """
        new = concurrency_limit
        _check_name(name, "name")
        if new.name is not None:
            _check_name(new.name, "name")
        _check(name, new)

        def update(store: LimitStore) -> Limit | None:
            decay = new.slot_decay_per_second
            return store.update(
                name,
                new_name=new.name,
                limit=new.limit,
                decay=None if decay is None else float(decay),
                active=new.active,
                active_slots=new.active_slots,
            )

        if self._do(update) is None:
            _no_name(name)

    def upsert_global_concurrency_limit_by_name(self, name: str, limit: int) -> None:
        """Sets how many slots a limit has, and makes it if there is none.

        Args:
            name: of the limit.
            limit: how many slots it has.

        Raises:
            ConcurrencyLimitError: the name or the number cannot be used.
        """
        _check_name(name, "name")
        _check_count(name, "limit", limit)
        self._do(lambda store: store.upsert(name, limit))

    def delete_global_concurrency_limit_by_name(self, name: str) -> None:
        """Removes a limit: what asks for its slots is free from now on.

        Raises:
            ConcurrencyLimitError: there is none of this name.
        """
        _check_name(name, "name")
        if not self._do(lambda store: store.delete(name)):
            _no_name(name)

    # ------------------------------------------------------------------ how

    def _read_all(self, limit: int | None, offset: int, *, tags: bool) -> list[Limit]:
        if limit is not None:
            _check_count("*", "limit", limit)
        _check_count("*", "offset", offset)
        return self._do(lambda store: store.read_all(limit, offset, tags=tags))

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

    async def create_global_concurrency_limit(
        self, concurrency_limit: GlobalConcurrencyLimitCreate
    ) -> str:
        """See `ConcurrencyLimits.create_global_concurrency_limit`."""
        return await _in_thread(self._limits.create_global_concurrency_limit, concurrency_limit)

    async def read_global_concurrency_limit_by_name(self, name: str) -> Limit:
        """See `ConcurrencyLimits.read_global_concurrency_limit_by_name`."""
        return await _in_thread(self._limits.read_global_concurrency_limit_by_name, name)

    async def read_global_concurrency_limits(
        self, limit: int | None = None, offset: int = 0
    ) -> list[Limit]:
        """See `ConcurrencyLimits.read_global_concurrency_limits`."""
        return await _in_thread(self._limits.read_global_concurrency_limits, limit, offset)

    async def update_global_concurrency_limit(
        self, name: str, concurrency_limit: GlobalConcurrencyLimitUpdate
    ) -> None:
        """See `ConcurrencyLimits.update_global_concurrency_limit`."""
        await _in_thread(self._limits.update_global_concurrency_limit, name, concurrency_limit)

    async def upsert_global_concurrency_limit_by_name(self, name: str, limit: int) -> None:
        """See `ConcurrencyLimits.upsert_global_concurrency_limit_by_name`."""
        await _in_thread(self._limits.upsert_global_concurrency_limit_by_name, name, limit)

    async def delete_global_concurrency_limit_by_name(self, name: str) -> None:
        """See `ConcurrencyLimits.delete_global_concurrency_limit_by_name`."""
        await _in_thread(self._limits.delete_global_concurrency_limit_by_name, name)


async def _in_thread(function: Callable[..., T], *args: Any) -> T:
    import anyio.to_thread

    return await anyio.to_thread.run_sync(function, *args)


def _of_tag(limit: Limit) -> ConcurrencyLimit:
    """A limit as that of a tag."""
    return ConcurrencyLimit(
        limit.id,
        limit.name.removeprefix(TAG),
        limit.limit,
        [lease.holder.id for lease in limit.holders],
        limit.created,
        limit.updated,
        limit.holders,
        limit.waiters,
    )


# ---------------------------------------------------------------------- what cannot be


def _check_name(name: object, kind: str) -> None:
    """Refuses what is no name of a limit.

    Args:
        name: what was given.
        kind: "tag" or "name".
    """
    if not isinstance(name, str):
        raise ConcurrencyLimitError(tag=repr(name), problem=f"a {kind} is a string")
    if not name.strip():
        raise ConcurrencyLimitError(tag=name, problem=f"a {kind} must not be empty or blank")
    if kind == "name" and name.startswith(TAG):
        problem = (
            f"names that begin with {TAG!r} are those of tags, which have methods of their own"
        )
        raise ConcurrencyLimitError(tag=name, problem=problem)
    try:
        storable = b"\0" not in name.encode()
    except UnicodeEncodeError:
        storable = False
    if not storable:
        raise ConcurrencyLimitError(
            tag=name, problem="it has characters that are not text (NUL, or half of a pair)"
        )


def _check(name: str, given: GlobalConcurrencyLimitCreate | GlobalConcurrencyLimitUpdate) -> None:
    """Refuses numbers that cannot be; one that is `None` is not to be changed."""
    for fact in ("limit", "active_slots"):
        number = getattr(given, fact)
        if number is not None or isinstance(given, GlobalConcurrencyLimitCreate):
            _check_count(name, fact, number)
    decay: Any = given.slot_decay_per_second
    if decay is not None and (
        not isinstance(decay, (int, float)) or isinstance(decay, bool) or not 0 <= decay < 1e15
    ):
        problem = f"slot_decay_per_second must be a number from 0 up, not {decay!r}"
        raise ConcurrencyLimitError(tag=name, problem=problem)
    if given.active is not None and not isinstance(given.active, bool):
        problem = f"active must be True or False, not {given.active!r}"
        raise ConcurrencyLimitError(tag=name, problem=problem)


def _check_count(name: str, fact: str, number: object) -> None:
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 1 << 63:
        raise ConcurrencyLimitError(
            tag=name, problem=f"{fact} must be a whole number from 0 up, not {number!r}"
        )


def _no_tag(tag: str) -> NoReturn:
    raise ConcurrencyLimitError(
        tag=tag,
        problem=f"the tag has no limit; `shoal concurrency-limit create {shlex.quote(tag)} N` sets one",
    )


def _no_name(name: str) -> NoReturn:
    command = f"shoal global-concurrency-limit create {shlex.quote(name)} --limit N"
    raise ConcurrencyLimitError(tag=name, problem=f"there is no such limit; `{command}` makes one")
