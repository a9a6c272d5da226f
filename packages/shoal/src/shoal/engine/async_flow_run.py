"""Runs a flow that is a coroutine function, or an async generator, on its caller's loop; the steps are those of `flow_run`.

May import `flow_run` and what lies above it; anyio is imported on use.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from shoal.engine.flow_run import FlowSteps, futures_in, state_of_returned
from shoal.engine.inputs import runs_among
from shoal.engine.streams import AsyncSteps
from shoal.engine.task_run import results_in
from shoal.futures import TaskFuture, TaskFutureList
from shoal.futures.awaiting import settled, within
from shoal.states import Cancelled, Completed, State
from shoal.tracebacks import fold

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from anyio import CancelScope

    from shoal.specs import FlowSpec

__all__ = ["run_flow_async", "stream_flow_async"]


async def run_flow_async(
    flow: FlowSpec,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    wait_for: Any,
    return_state: bool,
) -> Any:
    """Runs a coroutine flow on the caller's loop, under asyncio or trio."""
    try:
        return await _run_async(flow, args, kwargs, wait_for, return_state)
    except BaseException as error:
        fold(error)
        raise


async def _run_async(
    flow: FlowSpec,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    wait_for: Any,
    return_state: bool,
) -> Any:
    import anyio

    run = FlowSteps(flow, args, kwargs)
    state = await _start_async(run, wait_for)
    interruption: BaseException | None = None
    while state is None:
        run.record.run_count += 1
        await run.call_hooks_async(flow.on_running_hooks, run.running())
        try:
            state = await _attempt_async(run)
        except Exception as error:
            state = run.raised(error)
        except BaseException as error:
            state, interruption = run.raised(error), error
        if interruption is None and run.retries(state):
            state = None
            await anyio.sleep(flow.retry_delay_seconds)
    await _end_async(run, state)
    if interruption is not None:
        raise interruption
    return run.give(state, return_state)


def stream_flow_async(
    flow: FlowSpec, args: tuple[Any, ...], kwargs: dict[str, Any], wait_for: Any
) -> AsyncGenerator[Any, Any]:
    """As `stream_flow`, for async generator flows."""
    return _stream_async(FlowSteps(flow, args, kwargs), wait_for)


async def _stream_async(run: FlowSteps, wait_for: Any) -> AsyncGenerator[Any, Any]:
    import anyio

    flow = run.flow
    state = await _start_async(run, wait_for)
    interruption: BaseException | None = None
    while state is None:
        run.record.run_count += 1
        await run.call_hooks_async(flow.on_running_hooks, run.running())
        try:
            async with _entered(run) as runner:
                items = flow.fn(*run.args, **run.kwargs)
                steps = AsyncSteps(
                    items, lambda: run.inside(runner), flow.timeout_seconds, run.overdue
                )
                try:
                    while True:
                        item = await steps.next()
                        await _settled(futures_in(item))
                        item = results_in(item)
                        try:
                            given = yield item
                        except GeneratorExit:
                            raise
                        except Exception as error:
                            steps.throw(error)
                        else:
                            steps.send(given)
                except StopAsyncIteration:
                    state = Completed()
                finally:
                    await steps.close()
        except GeneratorExit as closed:
            state, interruption = Cancelled("the generator was closed"), closed
        except Exception as error:
            state = run.raised(error)
        except BaseException as error:
            state, interruption = run.raised(error), error
        if interruption is None and run.retries(state):
            state = None
            await anyio.sleep(flow.retry_delay_seconds)
    await _end_async(run, state)
    if interruption is not None:
        raise interruption
    run.give(state, False)


async def _start_async(run: FlowSteps, wait_for: Any) -> State[Any] | None:
    try:
        found = run.upstreams(wait_for)
        await _settled(runs_among(found))
        run.begin(found)
    except Exception as error:
        return run.raised(error)
    return None


async def _end_async(run: FlowSteps, state: State[Any]) -> None:
    import anyio

    run.log_end(state)
    with anyio.CancelScope(shield=True):
        await run.call_hooks_async(run.hooks(state), state)


async def _settled(futures: list[TaskFuture[Any]]) -> None:
    if futures:
        await settled(futures)


async def _attempt_async(run: FlowSteps) -> State[Any]:
    import anyio

    with anyio.CancelScope() as scope:
        return await _in_runner_async(run, scope)
    if scope.cancelled_caught:
        raise run.overdue()
    raise AssertionError("unreachable: the block above returns, raises or is cancelled")


async def _in_runner_async(run: FlowSteps, limited: CancelScope) -> State[Any]:
    import anyio

    limit = run.flow.timeout_seconds
    async with _entered(run) as runner:
        with run.inside(runner):
            if limit is not None:
                limited.deadline = anyio.current_time() + limit
            value: Any
            if run.flow.is_generator:
                value = [item async for item in run.flow.fn(*run.args, **run.kwargs)]
            else:
                value = await run.flow.fn(*run.args, **run.kwargs)
                while hasattr(value, "__await__") and not isinstance(
                    value, (TaskFuture, TaskFutureList)
                ):
                    value = await value
            await _settled(futures_in(value))
            return state_of_returned(value)


@asynccontextmanager
async def _entered(run: FlowSteps) -> AsyncIterator[Any]:
    """The runner of one attempt, left without holding up the loop."""
    import anyio

    runner = run.make_runner()
    runner.__enter__()
    error: BaseException | None = None
    try:
        with within(run.record.number):
            yield runner
        end = runner.end()
        if end is not None:
            await _settled([end])
    except BaseException as raised:
        error = raised
        raise
    finally:
        if error is None:
            runner.__exit__(None, None, None)  # every run has ended, so nothing is waited for
        else:
            # What still runs is stopped and joined, which must not hold up the loop.
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(runner.__exit__, type(error), error, None)
