"""Tasks and values that several tests of the suite share. Imported on workers, so it does not need pytest."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import BaseModel

from shoal import task
from shoal.testing.tools import Signals

__all__ = [
    "Account",
    "BoomError",
    "Box",
    "Model",
    "Pair",
    "Slow",
    "Traced",
    "Weighed",
    "add",
    "boom",
    "hold",
    "identity",
    "inc",
    "note",
    "number_of",
]


class BoomError(Exception):
    """What failing samples raise. Its facts must survive the way home.

    Attributes:
        code: a number.
    """

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text, code)
        self.text = text
        self.code = code

    def __str__(self) -> str:
        return self.text


class Pair(NamedTuple):
    """A named tuple."""

    left: Any
    right: Any


@dataclass(frozen=True)
class Box:
    """A frozen dataclass."""

    content: Any
    label: str = "box"


class Model(BaseModel, arbitrary_types_allowed=True):
    """A pydantic model."""

    content: Any
    label: str = "model"


class Weighed:
    """A plain object that can be referred to weakly."""

    def __init__(self, number: int = 0) -> None:
        self.number = number


class Slow:
    """A value that takes its time to be pickled.

    Args:
        seconds: how long.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def __reduce__(self) -> Any:
        time.sleep(self.seconds)
        return Slow, ()


class Traced:
    """A value that takes down where it is pickled and unpickled, as lines `<what> <process id>` of the log `traced`.

    Args:
        signals: where.
        size: how many bytes it weighs, incompressible.
    """

    def __init__(self, signals: Signals, size: int = 0, payload: bytes | None = None) -> None:
        self.signals = signals
        self.payload = os.urandom(size) if payload is None else payload

    def __reduce__(self) -> Any:
        self.signals.append("traced", f"pickled {os.getpid()}")
        return _unpickle_traced, (self.signals, self.payload)


def _unpickle_traced(signals: Signals, payload: bytes) -> Traced:
    signals.append("traced", f"unpickled {os.getpid()}")
    return Traced(signals, payload=payload)


@task
def inc(x: Any) -> Any:
    """One more."""
    return x + 1


@task
def add(x: Any, y: Any = 10) -> Any:
    """The sum."""
    return x + y


@task
def identity(x: Any) -> Any:
    """What it was given."""
    return x


@task
def boom(text: Any = "boom", code: int = 7) -> Any:
    """Fails."""
    raise BoomError(text, code)


@task
def hold(signals: Signals, name: str, value: Any = None) -> Any:
    """Sets the event `<name> began`, waits for `<name>`, gives the value."""
    signals.set(f"{name} began")
    signals.wait(name)
    return value


@task
def note(signals: Signals, log: str, text: Any) -> Any:
    """Adds a line to a log, and gives it."""
    signals.append(log, text)
    return text


@task
def number_of(x: Any) -> int:
    """The number of a `Weighed`, or of the first in a list."""
    number: int = (x[0] if isinstance(x, list) else x).number
    return number


class Account:
    """A class with tasks for methods."""

    bank = "piggy"

    def __init__(self, owner: str) -> None:
        self.owner = owner

    @task
    def deposit(self, amount: int) -> str:
        """An instance method."""
        return f"{self.owner} +{amount}"

    @task
    @classmethod
    def where(cls, town: str) -> str:
        """A class method."""
        return f"{cls.bank} of {town}"

    @task
    @staticmethod
    def double(amount: int) -> int:
        """A static method."""
        return amount * 2
