"""What travels by value and what by reference."""

from __future__ import annotations

import dataclasses
import functools
import importlib.machinery
import operator
import os
import pickle
import random
import secrets
import subprocess
import sys
import time
import traceback
import types
import weakref
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy.random
import pytest
from shoal.serialization import (
    dumps,
    dumps_function,
    dumps_with_buffers,
    loads,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HELPERS = """
import functools, random, threading
from shoal import task

generator = random.Random(3)
draw = generator.random
lock = threading.Lock()
settings = {}

class Client:
    def __init__(self):
        self.lock = threading.Lock()
        self.calls = 0
    def fetch(self):
        self.calls += 1
        return self.calls

client = Client()
fetch = client.fetch

def closing_over():
    held = threading.Lock()
    def closed():
        with held:
            return 7
    return closed

closed = closing_over()

@functools.lru_cache(maxsize=None)
def cached(x):
    return x

@task
def draws():
    return generator.random()

@task
def locks():
    with lock:
        return 8

@task
def reads():
    return settings

@task
def adds(x):
    return x + 1
"""


@pytest.fixture
def helpers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An importable module of the user's."""
    name = f"helpers_{os.getpid()}_{time.monotonic_ns()}"
    (tmp_path / f"{name}.py").write_text(HELPERS)
    monkeypatch.syspath_prepend(tmp_path)
    yield __import__(name)
    sys.modules.pop(name, None)


def elsewhere(tmp_path: Path, data: bytes, expression: str, path: str = "") -> str:
    """What an expression of `value` prints in a process that unpickles it."""
    (tmp_path / "data").write_bytes(data)
    script = f"import pickle; value = pickle.load(open({str(tmp_path / 'data')!r}, 'rb')); print({expression})"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# ---------------------------------------------------------------------- by reference


def put(value: Any) -> dict[str, Any]:
    """The places that a value may be in."""

    def default(x: Any = value) -> Any:
        return x

    def keyword(*, x: Any = value) -> Any:
        return x

    return {
        "itself": value,
        "closure": lambda: value,
        "default": default,
        "keyword": keyword,
        "partial": functools.partial(value),
        "container": {"a": [value]},
    }


def taken(where: str, value: Any) -> Any:
    if where in ("closure", "default", "keyword"):
        return value()
    if where == "partial":
        return value.func
    return value["a"][0] if where == "container" else value


@pytest.mark.parametrize(
    "pickler",
    [dumps, dumps_function, lambda v: dumps_with_buffers(v)[0]],
    ids=["plain", "function", "buffers"],
)
@pytest.mark.parametrize(
    "method",
    [
        random.random,
        random.choice,
        secrets.choice,
        numpy.random.rand,
        numpy.random.normal,
        numpy.random.seed,
    ],
    ids=["random", "choice", "secret choice", "rand", "normal", "seed"],
)
def test_what_a_module_offers_is_that_modules_own(
    method: Any, pickler: Callable[[Any], bytes]
) -> None:
    """SPEC 5.1: and not a copy with a state of its own."""
    for where, value in put(method).items():
        again = taken(where, loads(pickler(value)))
        assert again == method
        assert getattr(again, "__self__", None) is getattr(method, "__self__", None)


def test_methods_of_the_users_modules(helpers: Any) -> None:
    for name in ("draw", "fetch", "closed", "cached"):
        offered = getattr(helpers, name)
        for where, value in put(offered).items():
            again = taken(where, loads(dumps(value)))
            assert again == offered, (name, where)
            assert getattr(again, "__self__", None) is getattr(offered, "__self__", None)


def test_a_generator_of_ones_own_travels_with_its_state() -> None:
    mine = random.Random(3)
    mine.random()
    for where, value in put(mine.random).items():
        again = taken(where, loads(dumps(value)))
        assert again.__self__ is not mine
    copy = loads(dumps(mine.random))
    assert [copy() for _ in range(3)] == [mine.random() for _ in range(3)]


def test_a_system_generator_travels() -> None:
    mine = random.SystemRandom()
    assert 0 <= loads(dumps(mine.random))() < 1
    assert 0 <= loads(dumps({"a": mine}))["a"].random() < 1


def test_methods_of_modules_that_travel_by_value(
    helpers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cloudpickle

    cloudpickle.register_pickle_by_value(helpers)
    try:
        assert float(elsewhere(tmp_path, dumps_function(helpers.draw), "value()")) > 0
        assert elsewhere(tmp_path, dumps_function(helpers.cached), "value(3)") == "3"
    finally:
        cloudpickle.unregister_pickle_by_value(helpers)


def test_generators_of_modules(helpers: Any) -> None:
    """Where a function uses one, it is the worker's own; an argument is a copy."""
    generator = helpers.generator
    assert loads(dumps(lambda: generator))() is generator
    assert loads(dumps(lambda: numpy.random.mtrand._rand))() is numpy.random.mtrand._rand
    copy = loads(dumps(generator))
    assert copy is not generator
    assert copy.random() == generator.random()
    mine = random.Random(4)
    assert loads(dumps(lambda: mine))() is not mine
    numpys = numpy.random.default_rng(3)
    assert loads(dumps(lambda: numpys))().random() == numpys.random()


@pytest.mark.parametrize("again", ["another name", "the same name"])
def test_generators_of_modules_that_come_and_go(again: str, monkeypatch: Any) -> None:
    """A new module often has the address of one that went."""
    for number in range(50):
        name = f"passing_{number if again == 'another name' else 0}"
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        module.generator = random.Random(number)  # type: ignore[attr-defined]
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, module)
            generator = module.generator
            assert loads(dumps(lambda: generator))() is generator  # noqa: B023
        del module


def test_task_functions_use_their_modules_state(helpers: Any, tmp_path: Path) -> None:
    here = [helpers.draws.fn, helpers.locks.fn]
    data = dumps_function(here)
    assert loads(data) == here
    path = os.path.dirname(helpers.__file__)
    assert elsewhere(tmp_path, data, "value[1]()", path) == "8"
    # Where the module is not found, what can be copied is.
    drawn = elsewhere(tmp_path, dumps_function(helpers.draws.fn), "value()")
    assert float(drawn) == random.Random(3).random()
    with pytest.raises(AssertionError, match="No module named"):
        elsewhere(tmp_path, dumps_function(helpers.locks.fn), "value()")


def test_task_functions_take_data_along_as_it_is(helpers: Any, tmp_path: Path) -> None:
    """What a program sets when it starts is the same on workers, which import nothing for it."""
    helpers.settings["debug"] = True
    data = dumps_function(helpers.reads.fn)
    path = os.path.dirname(helpers.__file__)
    assert elsewhere(tmp_path, data, "value()", path) == "{'debug': True}"


def test_task_functions_without_state_need_no_import(helpers: Any, tmp_path: Path) -> None:
    shown = elsewhere(
        tmp_path,
        dumps_function(helpers.adds.fn),
        "value(1), value.__module__ in sys.modules if (sys := __import__('sys')) else 0",
    )
    assert shown == "2 False"


# ---------------------------------------------------------------------- caches


def test_caches() -> None:
    @functools.lru_cache(maxsize=5, typed=True)
    def double(x: int) -> int:
        """Doubles."""
        return 2 * x

    @functools.cache
    def fibonacci(n: int) -> int:
        return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

    class Table:
        scale = 3

        def __init__(self, n: int) -> None:
            self.n = n

        @functools.cached_property
        def square(self) -> int:
            return self.n**2

        @functools.lru_cache  # noqa: B019
        def times(self, x: int) -> int:
            return self.n * x * self.scale

        @staticmethod
        @functools.cache
        def static(x: int) -> int:
            return x + 1

    double.extra = 1  # type: ignore[attr-defined]
    double(3)
    again = loads(dumps(double))
    assert again.cache_info() == (0, 0, 5, 0)
    assert again.cache_parameters() == {"maxsize": 5, "typed": True}
    assert (again(3), again.__doc__, again.__name__, again.extra) == (6, "Doubles.", "double", 1)
    assert again.__wrapped__(4) == 8
    assert loads(dumps(fibonacci))(80) == fibonacci(80)
    assert loads(dumps(lambda: fibonacci(20)))() == 6765
    table = loads(dumps(Table(4)))
    assert (table.square, table.times(2), table.static(1)) == (16, 24, 2)
    assert loads(dumps([Table(2).times]))[0](5) == 30
    assert type(vars(type(table))["square"]) is functools.cached_property


def test_a_cached_recursion_goes_as_deep_as_at_home() -> None:
    @functools.cache
    def depth(n: int) -> int:
        return 0 if n == 0 else 1 + depth(n - 1)

    deepest = 400
    assert depth(deepest) == deepest
    assert loads(dumps(depth))(deepest) == deepest


def test_stacked_decorators() -> None:
    def loud(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*args: Any) -> Any:
            return function(*args)

        return wrapper

    @functools.singledispatch
    def kind(x: object) -> str:
        return "object"

    @kind.register
    def _(x: int) -> str:
        return f"int, {kind('a')}"

    @functools.cache
    @loud
    @functools.lru_cache
    def stacked(x: int) -> Any:
        return x if x == 0 else stacked(0)

    cached_kind = functools.lru_cache(kind)
    cached_partial = functools.cache(functools.partial(operator.add, 1))

    class Handler:
        @functools.singledispatchmethod
        def handle(self, x: object) -> str:
            return "object"

        @handle.register
        def _(self, x: int) -> str:
            return "int"

        def add(self, x: int, y: int) -> int:
            return x + y

        add_one = functools.partialmethod(add, 1)

    kind(1.0)
    again = loads(dumps(kind))
    assert (again(1), again([]), again.__name__) == ("int, object", "object", "kind")
    assert again.dispatch(bool)(True) == "int, object"
    again.register(list, len)
    assert again([1, 2]) == 2
    assert loads(dumps(stacked))(3) == 0
    assert loads(dumps(cached_kind))(1) == "int, object"
    assert loads(dumps(cached_partial))(2) == 3
    handler = loads(dumps(Handler()))
    assert (handler.handle(1), handler.handle(""), handler.add_one(2)) == ("int", "object", 3)


def test_caches_of_importable_modules_go_by_reference() -> None:
    import fnmatch

    for dump in (dumps, dumps_function):
        assert loads(dump(fnmatch._compile_pattern)) is fnmatch._compile_pattern  # type: ignore[attr-defined]


def test_weak_mappings() -> None:
    mapping = weakref.WeakKeyDictionary({int: 1})
    assert dict(loads(dumps(mapping))) == {int: 1}


# ---------------------------------------------------------------------- tracebacks


def test_code_that_travels_keeps_its_file() -> None:
    def fails(x: int) -> float:
        return (lambda: x / (x - x))()

    data = dumps(fails)
    assert dumps(fails) == data
    again = loads(data)
    assert again.__code__.co_filename == __file__
    with pytest.raises(ZeroDivisionError) as caught:
        again(1)
    lines = [frame.line for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert lines[-2:] == ["return (lambda: x / (x - x))()"] * 2


def test_plain_pickles_stay_plain() -> None:
    for value in (1, "a", [1, 2], {"a": (1, 2.0)}, Decimal(1), dataclasses.replace):
        assert dumps(value) == pickle.dumps(value, 5)


def test_large_bytes_are_a_buffer_as_they_are() -> None:
    """A pickle would be a copy, and searched for names, where most are kept in their place."""
    value = b"__main__" * 10_000
    data, (buffer,) = dumps_with_buffers(value)
    assert len(data) < 100
    assert buffer.raw().obj is value
    again = loads(data, buffers=[bytearray(value)])
    assert type(again) is bytes
    assert again == value


def test_few_bytes_and_those_of_a_kind_of_their_own_stay_in_the_pickle() -> None:
    class Named(bytes):
        pass

    for value in (b"few", Named(100_000)):
        data, buffers = dumps_with_buffers(value)
        again = loads(data)
        assert (again, type(again), buffers) == (value, type(value), [])
