"""Steps: what a thread does one after the other, and a coroutine without holding up its loop.

A generator of steps is written once for both. May import `staging` and what lies above task runners.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from shoal.engine.loops import SERVICE_LOOP
from shoal.results.staging import current

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from shoal.results.storage import Storage

    Steps = Generator["Step", Any, bool]

__all__ = ["Step", "answer_of", "answer_of_async"]


class Step(NamedTuple):
    """Something to do: call a function, whose answer may have to be awaited.

    Attributes:
        call: the function.
        where: the storage that it asks, which may take its time; `None` for a hook.
    """

    call: Callable[[], Any]
    where: Storage | None = None


def answer_of(steps: Steps) -> bool:
    """Takes steps in this thread, and gives what they come to."""
    try:
        step = next(steps)
        while True:
            try:
                with current(None):
                    given = step.call()
                    if hasattr(given, "__await__"):
                        given = SERVICE_LOOP.run(given)
            except BaseException as error:
                step = steps.throw(error)
            else:
                step = steps.send(given)
    except StopIteration as end:
        return bool(end.value)


async def answer_of_async(steps: Steps) -> bool:
    """As `answer_of`, on a loop."""
    from anyio import to_thread

    try:
        step = next(steps)
        while True:
            try:
                with current(None):
                    if step.where is not None and not step.where.is_near:
                        given = await to_thread.run_sync(step.call)
                    else:
                        given = step.call()
                        if hasattr(given, "__await__"):
                            given = await given
            except BaseException as error:
                step = steps.throw(error)
            else:
                step = steps.send(given)
    except StopIteration as end:
        return bool(end.value)
