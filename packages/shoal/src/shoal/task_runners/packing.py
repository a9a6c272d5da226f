"""What comes between a batch and its calls: upstream values filled in.

May import the engine and what lies above it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.calls import CRASHED, DONE, FAILED, Batch, Call, Outcome
from shoal.engine import inputs
from shoal.engine.inputs import value_of
from shoal.exceptions import CrashedRun
from shoal.futures.maps import Span
from shoal.futures.run import TaskFuture
from shoal.safely import in_words, is_error
from shoal.serialization import culprit_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.exceptions import SerializationError
    from shoal.states import State

__all__ = ["calls_of", "culprit_of", "follow", "not_begun"]


def calls_of(
    batch: Batch, resolve: Callable[[TaskFuture[Any] | State[Any], bool], Any] = value_of
) -> tuple[dict[int, Call], dict[int, Outcome]]:
    """The calls of a batch by position, upstream values filled in, and the ends of those that cannot be made.

    Runs that have ended meanwhile (cancelled) are left out, and so is what waits for another run of the same batch:
    see `follow`.

    Args:
        batch: the batch.
        resolve: gives what an upstream is replaced by, as `value_of` does.
    """
    if type(batch.runs) is Span:
        return _calls_of_span(batch.runs), {}
    calls: dict[int, Call] = {}
    failed: dict[int, Outcome] = {}
    for position, future in enumerate(batch.runs):
        call = future._call
        if call is None:
            continue  # cancelled since
        detail = future._detail
        if detail is not None and detail.upstreams:
            if detail.blockers and position and _waits(future):
                continue
            try:
                call.args, call.kwargs = inputs.substitute(call.args, call.kwargs, resolve)
                detail.upstreams = ()  # filled in once, for all attempts
            except BaseException as error:
                failed[position] = not_begun(future, error)
                continue
        calls[position] = call
    return calls, failed


def not_begun(future: TaskFuture[Any], error: BaseException) -> Outcome:
    """The end of a run whose arguments could not be put together: that calls code of the user's, which may raise anything."""
    if is_error(error):
        return Outcome(FAILED, error)
    text = f"putting its arguments together raised {in_words(error)}"
    return Outcome(CRASHED, CrashedRun(run_name=future.name, message=text, cause=error))


def _waits(future: TaskFuture[Any]) -> bool:
    return any(run._phase < DONE for run in inputs.runs_among(future._details().upstreams))


def follow(
    batch: Batch,
    position: int,
    resolve: Callable[[TaskFuture[Any] | State[Any], bool], Any],
    here: Callable[[TaskFuture[Any]], Any],
) -> tuple[Call, list[TaskFuture[Any]]] | None:
    """The call of a run that waits for others of its batch, as its worker needs it.

    The run itself keeps its arguments as they are: should it not be begun, it waits again.

    Args:
        batch: the batch.
        position: of the run.
        resolve: as for `calls_of`.
        here: gives what stands for a run of the batch that has not ended.

    Returns:
        The call, and the runs of the batch that must have completed first; `None` if it has ended meanwhile.
    """
    future = batch.runs[position]
    call = future._call
    if call is None:
        return None
    upstreams = inputs.runs_among(future._details().upstreams)
    needs = [run for run in upstreams if run._phase < DONE]

    def filled_in(source: TaskFuture[Any] | State[Any], allow_failure: bool) -> Any:
        if isinstance(source, TaskFuture) and source in needs:
            return here(source)
        return resolve(source, allow_failure)

    args, kwargs = inputs.substitute(call.args, call.kwargs, filled_in)
    copy = Call(call.task, args, kwargs, call.number, call.context, call.scope, call.attempt)
    copy.follow(call.earlier())
    return copy, needs


def _calls_of_span(span: Span) -> dict[int, Call]:
    record = span.record
    calls: dict[int, Call] = {}
    for position, index in enumerate(range(span.start, span.stop)):
        future = record.futures.get(index)
        if future is not None and future.done():
            continue
        known = future._call if future is not None else None
        calls[position] = known if known is not None else record.call(index)
    return calls


def culprit_of(call: Call) -> SerializationError | None:
    """The error of a call whose arguments cannot be pickled, naming the part that cannot be; `None` if all can be."""
    if call.task.signature is None:
        parameters = {"args": call.args, **(call.kwargs or {})}
    else:
        parameters = call.task.given(call.args, call.kwargs)
    return culprit_in(parameters, "parameters", call.run_name())
