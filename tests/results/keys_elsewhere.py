"""Code and values of every kind; and `main`, which makes keys in another process, maybe of another Python.

It reads pickles, each with its length before it, and answers each with the digest in hex, a line. Standard library only, as
another Python may have no more.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import pathlib
import pickle
import sys
from typing import Any

LIMIT = 3
KINDS = ("a", "b", ("c", 1.5))
ROOT = pathlib.PurePosixPath("/data")


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclasses.dataclass
class Point:
    x: Any = 1
    y: Any = 2


class Plain:
    """An object."""

    def __init__(self, x: Any = 1) -> None:
        self.x = x

    @property
    def size(self) -> int:
        return LIMIT

    def area(self, *, more: int = 2) -> Any:
        return self.x * more


def helper(x: int, kind: Any = Colour.RED) -> Any:
    match x:
        case [1, *rest] if rest:
            return f"{x!r:>{LIMIT}} and {'nested'}"
        case {"a": None, **others}:
            return others
    return [y for y in range(x) if (z := y) > 2 or not z], kind


def scaled(function: Any, by: int) -> Any:
    @functools.wraps(function)
    def scale(*args: Any, **options: Any) -> Any:
        return function(*args, **options) * by

    return scale


@functools.partial(scaled, by=LIMIT)
def work(a: int, /, b: str = "x", *args: int, c: float = 1e3, **rest: Any) -> Any:
    """Does it all."""
    total = 0
    try:
        with open(ROOT) as file:
            for line in file:
                total += len(line) or helper(a)
    except* OSError as group:
        raise ValueError(b) from group
    finally:
        del total
    return lambda x=KINDS: Plain(x).area() if a else (yield)


async def later(n: int) -> Any:
    async with n as m:
        return {await x async for x in m}


LAMBDAS = (lambda x: x + 1), (lambda x: lambda y: [z * 2 for z in (x, y)]), (
lambda x: x * 2
)  # fmt: skip


# Which of them it is does not matter here.
IN_COMPREHENSIONS = (
    [[lambda: (x, y) for x in range(2)] for y in range(2)],  # noqa: B023
    {x: lambda y: x + y + LIMIT for x in range(2)},  # noqa: B023
)


def within(n: int) -> Any:
    return [lambda x: [x + n + z for z in range(n)] for _ in range(2)], {n: [lambda: n]}


FUNCTIONS = [
    *LAMBDAS,
    *IN_COMPREHENSIONS,
    within(3),
    functools.partial(within(2)[0][0], 1),
    LAMBDAS[1](2),
    helper,
    work,
    later,
    scaled,
    Plain,
    Colour,
    Point,
    Plain(2).area,
    functools.partial(helper, 1),
]


def main() -> None:
    from shoal.results.keys import digest

    stdin = sys.stdin.buffer
    while header := stdin.read(8):
        value = pickle.loads(stdin.read(int.from_bytes(header, "big")))
        print(digest(FUNCTIONS if value == "functions" else value).hex(), flush=True)
