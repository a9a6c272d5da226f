"""`exponential_backoff`: retry delays that double. May import `exceptions`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from shoal.exceptions import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["exponential_backoff"]

#: Beyond this many retries the delay stays as it is: it is longer than a lifetime.
_DOUBLINGS = 50


def exponential_backoff(backoff_factor: float) -> Callable[[int], list[float]]:
    """Retry delays that double: what `retry_delay_seconds` of a task may be given.

    Args:
        backoff_factor: the first delay, in seconds.

    Returns:
        A function that takes a number of retries, and gives the delay before each of them.

    Raises:
        InvalidOption: the factor is no number from 0 up.

    Examples:
        >>> exponential_backoff(2)(4)
        [2.0, 4.0, 8.0, 16.0]

        >>> @task(retries=4, retry_delay_seconds=exponential_backoff(backoff_factor=2))
        ... def fetch(url: str) -> bytes: ...
    """
    given: Any = backoff_factor
    if (
        not isinstance(given, (int, float))
        or isinstance(given, bool)
        or not 0 <= given < float("inf")
    ):
        raise InvalidOption(
            where="exponential_backoff",
            option="backoff_factor",
            value=backoff_factor,
            problem="a number from 0 up is needed",
        )
    return partial(_doubling, float(backoff_factor))  # which can be pickled


def _doubling(first: float, retries: int) -> list[float]:
    return [first * 2.0**retry for retry in range(min(retries, _DOUBLINGS))]
