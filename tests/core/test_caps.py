"""Places of caps of a batch of coroutines (SPEC 10.3)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from shoal.scheduling.caps import Caps
from shoal.specs import TaskCap

CAP = TaskCap(3, "cap")


def test_a_coroutine_that_is_stopped_while_it_waits_counts_no_more() -> None:
    """Else the next end in its batch would free the place of one that still runs."""
    caps = Caps()
    resumed: list[str] = []

    def blocked(name: str) -> Any:
        batch = SimpleNamespace(number=1)
        return SimpleNamespace(
            batch=batch, run=None, lends=False, resume=lambda: resumed.append(name)
        )

    runs: Any = [SimpleNamespace(_task=SimpleNamespace(cap=CAP, is_async=True))] * 3
    caps.sent(1, runs, loops=True)
    line = caps.line_under((CAP,), on_loop=True)
    assert line is not None
    assert line.room() == 0
    first, second = blocked("first"), blocked("second")
    caps.lend(1, first)
    caps.lend(1, second)
    caps.take(line, 2)  # others run meanwhile
    assert not caps.take_again(1, first, (CAP,))
    assert not caps.take_again(1, second, (CAP,))

    caps.stopped(first)
    assert not caps.now_open(1, 2)  # it has ended
    caps.free(line)
    caps.serve()
    assert resumed == ["second"]
    assert caps.now_open(1, 1)  # the third has ended
    assert line.room() == 1  # the second runs, and one of the others
    assert caps.now_open(1, 0)
    caps.free(line)
    assert line.room() == 3
