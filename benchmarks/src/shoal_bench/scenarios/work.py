"""The functions that travel to workers. Standard library only, and nothing that a worker would have to import besides."""

from __future__ import annotations

import ast
import hashlib
import os
import random
import threading
import time
from collections import Counter
from functools import lru_cache
from pathlib import Path

__all__ = [
    "arrive",
    "compute",
    "count_definitions",
    "count_in_circle",
    "count_words",
    "die_once",
    "fail_once",
    "hold",
    "node",
    "pass_bytes",
    "same",
    "score",
]

#: What is hashed, again and again: short enough for a processor's cache, long enough for the interpreter lock to be let
#: go of, which `hashlib` does beyond 2,047 bytes.
_BLOCK = memoryview(bytes(256 * 1024))
#: Results of nodes stay below, so that they cost the same however deep a graph is.
_MODULUS = 1_000_003


def same(x: int) -> int:
    """A no-op, with an argument and a result to carry."""
    return x


def arrive(_: int) -> tuple[int, int]:
    """Takes long enough for another worker to take the next one; says which worker it was."""
    time.sleep(0.02)
    return os.getpid(), threading.get_ident()


# ---------------------------------------------------------------------- computing


def compute(amount: int) -> int:
    """Hashes so many bytes, with the interpreter lock let go of; gives the amount back."""
    hasher = hashlib.sha256()
    left = amount
    while left > 0:
        hasher.update(_BLOCK[: min(left, len(_BLOCK))])
        left -= len(_BLOCK)
    return amount


def node(amount: int, *inputs: int) -> int:
    """A node of a task graph: computes, then makes its result of those before."""
    compute(amount)
    return (1 + sum(inputs)) % _MODULUS


# ---------------------------------------------------------------------- carrying


def pass_bytes(size: int, *inputs: bytes) -> bytes | int:
    """Without an input, makes so many bytes that cannot be compressed; with one, says how many it has got."""
    return len(inputs[0]) if inputs else _noise(size)


@lru_cache(1)  # to be made once by each worker: making them is not what is measured
def _noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


# ---------------------------------------------------------------------- failing


def fail_once(place: tuple[str, int]) -> int:
    """Raises when it is called for the first time for a folder and a number; then gives the number."""
    if _is_first(place):
        raise ConnectionError("the first attempt fails")
    return place[1]


def die_once(place: tuple[str, int]) -> int:
    """Ends its process when it is first called for a folder and the number 0; else gives the number."""
    if place[1] == 0 and _is_first(place):
        os._exit(1)
    return place[1]


def _is_first(place: tuple[str, int]) -> bool:
    try:
        Path(place[0], str(place[1])).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def hold(place: tuple[str, int]) -> int:
    """Says that it has begun, by a file of its number, and keeps its worker until the file `go` is in the folder."""
    folder, number = place
    Path(folder, str(number)).touch()
    while not Path(folder, "go").exists():
        time.sleep(0.01)
    return number


# ---------------------------------------------------------------------- what people do


def count_definitions(path: str) -> tuple[int, int]:
    """How many functions and classes there are in a file of Python."""
    nodes = list(ast.walk(ast.parse(Path(path).read_bytes())))
    functions = sum(isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)) for n in nodes)
    return functions, sum(isinstance(n, ast.ClassDef) for n in nodes)


def count_words(text: str) -> Counter[str]:
    """How often each word is in a text.

    Not made a plain dict, which nobody would do: Dask serialises these item by item, and would take ten times as long.
    """
    return Counter(text.lower().split())


#: Points drawn at once. Arrays of more than 128 kB cost page faults or do not, as the memory of a process happens to be.
_DRAWN = 5_000


def count_in_circle(draw: tuple[int, int]) -> int:
    """How many of so many random points are in the quarter circle; the seed is the other number. Needs NumPy."""
    import numpy as np

    seed, points = draw
    rng = np.random.default_rng(seed)
    inside = 0
    for _ in range(points // _DRAWN):
        x, y = rng.random((2, _DRAWN))
        inside += int((x * x + y * y <= 1).sum())
    return inside


def score(choice: tuple[float, int]) -> float:
    """The score of a classifier of digits, with this penalty and tested on this fifth. Needs scikit-learn."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import RidgeClassifier

    penalty, fold = choice
    data, target = load_digits(return_X_y=True)
    test = slice(fold, None, 5)
    train = [number for number in range(len(data)) if number % 5 != fold]
    model = RidgeClassifier(alpha=penalty).fit(data[train], target[train])
    return float(model.score(data[test], target[test]))
