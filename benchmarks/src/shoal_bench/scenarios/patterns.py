"""The dependence patterns of Task Bench, from their description: Slaughter et al., "Task Bench: A Parameterized Benchmark for
Evaluating Parallel Runtime Performance", SC 2020, table 2 and its implementation's defaults (three dependences a node for
`nearest`, `spread` and `random_nearest`; of the last, a quarter of the others beside the node's own column). Pure.

A graph is a number of steps, each with a node for each point of a width. What a node needs are nodes of the step before.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from shoal_bench.contestants.base import Layer

__all__ = ["PATTERNS", "layers_of", "sequential"]

RADIX = 3
PERIOD = 3
CONNECTED = 0.25

#: What a node needs: of the width, the step (from 1) and the point, the points of the step before.
_Needs = Callable[[int, int, int], tuple[int, ...]]


def _trivial(width: int, step: int, point: int) -> tuple[int, ...]:
    return ()


def _no_comm(width: int, step: int, point: int) -> tuple[int, ...]:
    return (point,)


def _between(width: int, low: int, high: int) -> tuple[int, ...]:
    return tuple(range(max(0, low), min(high, width - 1) + 1))


def _stencil(width: int, step: int, point: int) -> tuple[int, ...]:
    return _between(width, point - 1, point + 1)


def _tree(width: int, step: int, point: int) -> tuple[int, ...]:
    return (point // 2,)


def _fft(width: int, step: int, point: int) -> tuple[int, ...]:
    stages = max(1, (width - 1).bit_length())
    reach = 1 << ((step - 1) % stages)
    return tuple(p for p in (point - reach, point, point + reach) if 0 <= p < width)


def _all_to_all(width: int, step: int, point: int) -> tuple[int, ...]:
    return tuple(range(width))


def _nearest(width: int, step: int, point: int) -> tuple[int, ...]:
    return _between(width, point - RADIX // 2, point + (RADIX - 1) // 2)


def _spread(width: int, step: int, point: int) -> tuple[int, ...]:
    shift = step % PERIOD
    points = [(point + i * width // RADIX + (shift if i > 0 else 0)) % width for i in range(RADIX)]
    return tuple(dict.fromkeys(points))


def _random_nearest(width: int, step: int, point: int) -> tuple[int, ...]:
    rng = random.Random(f"{step % PERIOD} {point}")
    return tuple(p for p in _nearest(width, step, point) if p == point or rng.random() < CONNECTED)


#: By Task Bench's names.
PATTERNS: dict[str, _Needs] = {
    "trivial": _trivial,
    "no_comm": _no_comm,
    "stencil_1d": _stencil,
    "fft": _fft,
    "tree": _tree,
    "all_to_all": _all_to_all,
    "nearest": _nearest,
    "spread": _spread,
    "random_nearest": _random_nearest,
}


def layers_of(pattern: str, width: int, steps: int) -> Iterator[Layer]:
    """The layers of a graph.

    Args:
        pattern: a name of PATTERNS.
        width: nodes of a step; a `tree` begins with one and doubles until it is as wide.
        steps: how many.
    """
    needs = PATTERNS[pattern]
    for step in range(steps):
        wide = min(width, 1 << min(step, 62)) if pattern == "tree" else width
        yield [needs(width, step, point) if step else () for point in range(wide)]


def sequential(
    function: Callable[..., int], argument: int, layers: Iterator[Layer]
) -> tuple[list[int], int]:
    """What a graph gives: the results of its last layer, and how many nodes it has."""
    before: list[int] = []
    nodes = 0
    for layer in layers:
        before = [function(argument, *(before[p] for p in needed)) for needed in layer]
        nodes += len(layer)
    return before, nodes
