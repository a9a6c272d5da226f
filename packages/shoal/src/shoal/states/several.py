"""The state that a run ends in which returned states: one, or several.

May import `state`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.states.state import State, StateType, values_of

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["aggregate_states", "final_state", "summed_up"]


def final_state(state: State[Any]) -> State[Any]:
    """The final state of a run that returned a state: that one, if a run can end in it.

    A run that returned `Cancelling` has been cancelled by that; whatever else is not final is a failure.
    """
    if state.is_final():
        return state
    if state.is_cancelling():
        return State(StateType.CANCELLED, message=state.message, data=state.data)
    if state.is_done():  # it stands for a run that never started, and says why
        return State(StateType.FAILED, message=state.message, data=state.data)
    return State(StateType.FAILED, message=f"{state} was returned, which is not final")


def summed_up(states: Iterable[State[Any]]) -> State[Any]:
    """As `aggregate_states`, with the values as data if all are COMPLETED; a list for a list, else a tuple."""
    found = states if isinstance(states, list) else tuple(states)
    aggregate: State[Any] = aggregate_states(found)
    data = values_of(found) if aggregate.is_completed() else found
    return State(aggregate.type, message=aggregate.message, data=data)


def aggregate_states(states: Iterable[State[Any]]) -> State[list[State[Any]]]:
    """One state for a run that returned several (SPEC 3.4).

    Args:
        states: the states, at least one.

    Returns:
        COMPLETED if all are, else CANCELLED if any is, else FAILED; its data are the states, in order.

    Examples:
        >>> str(aggregate_states([Completed(), Failed("no"), Crashed()]))
        "Failed('2/3 states failed.')"
    """
    found = list(states)
    types = [state.type for state in found]
    if types.count(StateType.COMPLETED) == len(types):
        return State(StateType.COMPLETED, message="All states completed.", data=found)
    cancelled = types.count(StateType.CANCELLED)
    if cancelled:
        message = f"{cancelled}/{len(types)} states cancelled."
        return State(StateType.CANCELLED, message=message, data=found)
    failed = types.count(StateType.FAILED) + types.count(StateType.CRASHED)
    if failed:
        message = f"{failed}/{len(types)} states failed."
    else:  # runs that never started, because something outside this list failed
        message = (
            f"{len(types) - types.count(StateType.COMPLETED)}/{len(types)} states did not complete."
        )
    return State(StateType.FAILED, message=message, data=found)
