"""Identities of runs: the integer numbers they are known by, and the UUIDs and names made from those on demand.

    number      cheap and unique in this process: what schedulers, workers and reports speak of
    UUID        number and process entropy together: unique everywhere
    name        for people: `inc-3f2` for a task run, `hilarious-collie` for a flow run

Bits of a UUID (RFC 9562, version 8), from the left:

    48 entropy | 4 version | 12 entropy | 2 variant | 14 entropy | 48 number

so the last group is the number in hexadecimal. The 74 bits of entropy are random for each process, and drawn again
in a forked child, which goes on counting where its parent was.

May import `exceptions` and the standard library; not `random`, whose stream belongs to the user and whose seeding
would make names repeat.
"""

from __future__ import annotations

import os
import threading
from contextvars import ContextVar
from itertools import count
from typing import TYPE_CHECKING, Any

from shoal.exceptions import RunNameError
from shoal.safely import in_words, repr_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "ENTROPY",
    "Numbers",
    "adopt_entropy",
    "flow_run_name",
    "function_name_to_flow_name",
    "go_on_as",
    "next_number",
    "number_from",
    "process_entropy",
    "render_run_name",
    "reserve",
    "reserve_block",
    "run_uuid",
    "task_run_name",
]

# ---------------------------------------------------------------------- numbers

# Single numbers count up from 1 without a lock: one step of `count` is atomic. Ranges come from the upper half of the
# 48 bits, under a lock, so the two never meet.
_FIRST_OF_RANGES = 1 << 47

#
# A worker that speaks of its driver's runs numbers what it starts itself from a block among the driver's ranges, split
# in the same way; so does a worker of a worker. When all ranges were given (to 131,072 workers, say), they are given
# again from the first.
_singles = count(1)
_range_lock = threading.Lock()
_ranges = (_FIRST_OF_RANGES, 1 << 48)
_next_range = _FIRST_OF_RANGES
_block = 1 << 30


def next_number() -> int:
    """Gives a run number never given before in this process. Hot, atomic."""
    return next(_singles)


def number_from(base: int, size: int) -> None:
    """Has runs that are started in this process numbered from a block of another's numbers.

    Args:
        base: the first of them, as `reserve_block` gave it there.
        size: how many there are.
    """
    global _singles, _ranges, _next_range, _block
    _singles = count(base)
    _ranges = (base + size // 2, base + size)
    _next_range = _ranges[0]
    _block = max(size >> 10, 16)


def reserve_block() -> tuple[int, int]:
    """Reserves the numbers of a worker: the first of them, and how many."""
    return reserve(_block), _block


def reserve(n: int) -> int:
    """Reserves consecutive run numbers, atomically.

    Args:
        n: how many.

    Returns:
        The first of them.
    """
    global _next_range
    with _range_lock:
        if _next_range + n > _ranges[1]:
            _next_range = _ranges[0]
        base = _next_range
        _next_range += n
    return base


class Numbers:
    """The numbers of a worker that has a block of each of several drivers.

    Args:
        base: the first of the block, as `reserve_block` gave it in the driver.
        size: how many there are.
    """

    def __init__(self, base: int, size: int) -> None:
        self._singles = count(base)
        self._lock = threading.Lock()
        self._next = base + size // 2

    def next_number(self) -> int:
        """A number never given before."""
        return next(self._singles)

    def reserve(self, n: int) -> int:
        """The first of `n` consecutive numbers never given before."""
        with self._lock:
            base = self._next
            self._next += n
        return base


# ---------------------------------------------------------------------- UUIDs

_ENTROPY_BITS = 74
_NUMBER_MASK = (1 << 48) - 1
_VERSION_AND_VARIANT = (8 << 76) | (0b10 << 62)

_entropy: int | None = None
#: Of whose runs a context speaks, in a worker that serves several drivers.
ENTROPY: ContextVar[int | None] = ContextVar("shoal_entropy", default=None)


def process_entropy() -> int:
    """The 74 random bits that tell this process's run numbers from those of all others."""
    global _entropy
    if _entropy is None:
        with _range_lock:
            if _entropy is None:
                _entropy = int.from_bytes(os.urandom(10)) >> (80 - _ENTROPY_BITS)
    return _entropy


def adopt_entropy(entropy: int) -> None:
    """Makes run numbers here mean runs of another process: a worker speaks of its driver's runs."""
    global _entropy
    _entropy = entropy


def run_uuid(number: int, entropy: int | None = None) -> str:
    """A run's UUID.

    Args:
        number: the run's number.
        entropy: `process_entropy()` of the process that gave the number, where that is not this one.

    Returns:
        The UUID in its usual form of 36 characters.
    """
    if entropy is None:
        entropy = ENTROPY.get() or process_entropy()
    bits = (
        (entropy >> 26) << 80
        | (entropy >> 14 & 0xFFF) << 64
        | (entropy & 0x3FFF) << 48
        | (number & _NUMBER_MASK)
        | _VERSION_AND_VARIANT
    )
    text = f"{bits:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def go_on_as(run: str, session: int) -> int | None:
    """Has this process number runs as the process of an earlier run did, so that this run keeps its UUID.

    Only where no UUID was made here yet, or by the very process that made that one: what was said of runs stays true.

    Args:
        run: the earlier run's UUID.
        session: how many processes were at it before this one; the numbers of each have a part of their own.

    Returns:
        The number of that run; `None` if it cannot keep its UUID.
    """
    global _entropy, _singles, _next_range
    bits = int(run.replace("-", ""), 16)
    entropy = bits >> 80 << 26 | (bits >> 64 & 0xFFF) << 14 | bits >> 48 & 0x3FFF
    with _range_lock:
        if _entropy is None:
            _entropy = entropy
            if _ranges[0] == _FIRST_OF_RANGES:  # this is no worker
                part = (session % 126 + 1) << 40
                _singles = count(part)
                _next_range = _FIRST_OF_RANGES + part
    return bits & _NUMBER_MASK if _entropy == entropy else None


def _after_fork() -> None:
    global _entropy, _range_lock
    _entropy = None
    _range_lock = threading.Lock()  # another thread may have held it when the process was forked


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


# ---------------------------------------------------------------------- names

# 2**64 divided by the golden ratio (Knuth, The Art of Computer Programming 3, section 6.4): multiples of it are
# spread so evenly that the top bits of neighbours always differ, and 4,096 consecutive runs share few names.
_GOLDEN = 0x9E3779B97F4A7C15


def task_run_name(task_name: str, number: int) -> str:
    """The default name of a task run, for example `inc-3f2`.

    Args:
        task_name: the task's name.
        number: the run's number; the same number always gives the same name.
    """
    return f"{task_name}-{(number * _GOLDEN >> 52) & 0xFFF:03x}"


def flow_run_name() -> str:
    """A random name for a flow run, for example `hilarious-collie`."""
    adjective, animal = os.urandom(2), os.urandom(2)
    return (
        f"{_ADJECTIVES[int.from_bytes(adjective) % len(_ADJECTIVES)]}"
        f"-{_ANIMALS[int.from_bytes(animal) % len(_ANIMALS)]}"
    )


def function_name_to_flow_name(name: str) -> str:
    """The default name of a flow: its function's, with `_` turned to `-`."""
    return name.replace("_", "-")


def render_run_name(
    template: str | Callable[..., str], parameters: Mapping[str, Any], *, task_name: str
) -> str:
    """The name of a run from what its task or flow was decorated with.

    Args:
        template: a format string over the parameters, with attributes and indexes (`"{dataset.name}"`); or a
            callable, which gets the parameters as `parameters` if it has an argument of that name, else nothing.
        parameters: the run's arguments by name.
        task_name: the task or flow, for the message.

    Raises:
        RunNameError: the template does not fit the parameters, or the callable raised or gave no string.

    Examples:
        >>> render_run_name("load {table[0]}", {"table": ["orders"]}, task_name="load")
        'load orders'
    """
    shown = template if isinstance(template, str) else _callable_name(template)
    try:
        if isinstance(template, str):
            return template.format_map(_Parameters(parameters))
        name = template(parameters=dict(parameters)) if _takes_parameters(template) else template()
    except Exception as error:  # formatting calls the user's own attributes and __format__
        problem = str(error) if isinstance(error, _NoParameter) else in_words(error)
        raise RunNameError(template=shown, task_name=task_name, problem=problem) from error
    if not isinstance(name, str):
        problem = f"it returned {repr_of(name)}, not a string"
        raise RunNameError(template=shown, task_name=task_name, problem=problem)
    return str.__str__(name)  # a subclass of `str` has methods of its own


class _NoParameter(Exception):
    """A template names a parameter that there is not; never leaves this module."""


class _Parameters(dict[str, Any]):
    def __missing__(self, name: str) -> Any:
        raise _NoParameter(
            f"there is no parameter {name!r} (parameters: {', '.join(self) or 'none'})"
        )


def _callable_name(template: Callable[..., str]) -> str:
    name = getattr(template, "__qualname__", None)
    return f"{name}()" if isinstance(name, str) else repr_of(template)


def _takes_parameters(template: Callable[..., str]) -> bool:
    import inspect

    return "parameters" in inspect.signature(template).parameters


# One word after the other, as on a page, rather than one a line.
_ADJECTIVES = (  # noqa: SIM905
    "agile amiable amused balanced blithe bold brave breezy bright bubbly calm candid careful caring cheerful "
    "chipper clever cosy courteous curious dapper daring dazzling diligent dreamy eager earnest elegant fearless "
    "festive fluffy fond frolicsome gallant generous gentle gleaming graceful grateful happy hardy hearty helpful "
    "hilarious honest hopeful humble inventive jaunty jolly jovial joyful keen kind lively loyal lucky lyrical "
    "mellow merry mindful modest neat nimble noble nifty observant optimistic patient peaceful perky placid playful "
    "plucky polite proud punctual quick quirky radiant ready resolute rosy serene shiny sincere sleek smiling snug "
    "sociable sparkling spirited sprightly steady sunny swift tactful tender thoughtful thrifty tidy tranquil "
    "trusty upbeat valiant versatile vivid warm watchful whimsical wise witty zesty"
).split()
_ANIMALS = (  # noqa: SIM905
    "albatross alpaca antelope avocet badger beagle beaver bison bluebird bobcat bonobo buffalo bumblebee "
    "butterfly camel capybara caribou chamois chinchilla chipmunk collie condor corgi cormorant crane cricket "
    "curlew deer dolphin donkey dormouse dragonfly duckling dugong eagle egret eider elephant elk falcon ferret "
    "finch firefly flamingo fox gazelle gecko giraffe goldfinch goose gopher greyhound guanaco hamster hare "
    "hedgehog heron hoopoe hummingbird ibex ibis impala jackdaw jaguar jay kestrel kingfisher kiwi koala kudu "
    "ladybird lark lemur leopard linnet llama lynx magpie manatee marmot marten meerkat mongoose moose narwhal "
    "nightingale ocelot octopus okapi oriole osprey otter owl panda pangolin partridge pelican penguin petrel "
    "pheasant plover pony porcupine porpoise puffin quail quokka rabbit raccoon raven redstart reindeer robin "
    "salamander sandpiper seahorse seal skylark sparrow spaniel squirrel starling stoat stork swallow swan tamarin "
    "tapir tern terrapin thrush tortoise toucan turtle vicuna wagtail wallaby walrus weasel whale wombat "
    "woodpecker wren yak zebra"
).split()
