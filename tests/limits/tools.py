"""What tests of limits share: fake time, short ways to ask a store, scripts in processes of their own."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from shoal.futures.blocking import Countdown, Decision, block_plainly
from shoal.limits.slots import KEEPER, SlotKeeper
from shoal.limits.store import Acquired, Busy, Holder, Request

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shoal.limits.store import Answer, LimitStore


class FakeTime:
    """A clock for the store and timers for the keeper, moved on by hand."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.timers: list[FakeTimer] = []

    def time(self) -> float:
        return self.now

    def after(self, seconds: float, action: Callable[[], Any]) -> FakeTimer:
        timer = FakeTimer(self, self.now + seconds, action)
        self.timers.append(timer)
        return timer

    def pass_by(self, seconds: float) -> None:
        self.now += seconds
        for timer in [timer for timer in self.timers if timer.when <= self.now]:
            timer.cancel()
            timer.action()


class FakeTimer:
    def __init__(self, owner: FakeTime, when: float, action: Callable[[], Any]) -> None:
        self.owner, self.when, self.action = owner, when, action

    def cancel(self) -> None:
        if self in self.owner.timers:
            self.owner.timers.remove(self)


def slots(store: LimitStore, name: str) -> list[str]:
    """Who holds slots of a limit, the oldest first."""
    limit = store.read(name)
    assert limit is not None
    return [lease.holder.id for lease in limit.holders]


def line(store: LimitStore, name: str) -> list[str]:
    """Who stands in line at a limit."""
    limit = store.read(name)
    assert limit is not None
    return [waiter.holder.id for waiter in limit.waiters]


def taken(store: LimitStore, name: str) -> float:
    """How many slots of a limit are taken."""
    limit = store.read(name)
    assert limit is not None
    return limit.active_slots


def wants(names: Iterable[str], id: str, lease: float | None = 60, **more: Any) -> Request:
    return Request(frozenset(names), Holder(id), lease_seconds=lease, **more)


def ask(
    store: LimitStore, names: Iterable[str], id: str, lease: float | None = 60, **more: Any
) -> Answer:
    """One try of somebody who does not stay in line."""
    return store.try_acquire(wants(names, id, lease, **more), stand=False)


def got(answer: Answer) -> set[str]:
    """The limits of which there are slots now."""
    assert isinstance(answer, Acquired), answer
    return set(answer.names)


def full(answer: Answer) -> set[str]:
    """The limits at which one has to wait."""
    assert isinstance(answer, Busy), answer
    return set(answer.names)


def acquire(keeper: SlotKeeper, request: Request, timeout: float | None = None) -> None:
    """Takes slots, and waits for them in the caller's own thread."""
    decision = Decision()
    keeper.request(request, decision, timeout)
    block_plainly(Countdown(), (decision,), None)
    if not isinstance(decision.answer, Acquired):
        raise decision.answer


def hold_and_end() -> None:
    """What a child process does that ends with a slot."""
    acquire(KEEPER, wants(["db"], "child"))


def eventually(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "this did not come true"
        time.sleep(0.002)


#: Starts a script, with arguments, in a process of its own; the fixture `python` of `conftest`.
Python = Callable[..., subprocess.Popen[str]]


@contextmanager
def scripts() -> Iterator[Python]:
    """Starts scripts in processes of their own, of which none is there afterwards."""
    with ExitStack() as ended:

        def python(script: str, *arguments: str) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(script), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            ended.enter_context(process)
            ended.callback(process.kill)
            return process

        yield python


def assert_no_more_in_a_second(count: int, calls: list[tuple[float, float]]) -> None:
    """Of calls that had a rate's slots: when each had asked, and when it began. The slot's moment lies between, so all that
    asked and began within a time had their slots then, however late they were told.
    """
    for first, _ in calls:
        assert sum(first <= asked and begun < first + 1 for asked, begun in calls) <= count


def next_line(process: subprocess.Popen[str]) -> str:
    """Waits for what a script prints next."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.endswith("\n"), "the script has ended"
    return line[:-1]


def go(process: subprocess.Popen[str], word: str = "go") -> None:
    """Sends a line to a script that waits for it."""
    assert process.stdin is not None
    process.stdin.write(f"{word}\n")
    process.stdin.flush()


def output(process: subprocess.Popen[str], seconds: float = 50) -> str:
    """What a script prints until it ends, which is not due to an error."""
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == 0, err
    assert not err
    return out
