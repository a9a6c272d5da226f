"""The errors of those who get no slots. May import `lines`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoal.exceptions import (
    AcquireConcurrencySlotTimeoutError,
    ConcurrencyLimitError,
    MissingExtraError,
)
from shoal.limits.store import TAG

if TYPE_CHECKING:
    from shoal.exceptions import ShoalError
    from shoal.limits.lines import Asker
    from shoal.limits.store import Refused

__all__ = ["failed", "refused", "too_late"]


def too_late(
    asker: Asker, trouble: ConcurrencyLimitError | None
) -> AcquireConcurrencySlotTimeoutError:
    """Its time is over; `trouble` is why the store could not be asked, if that is so."""
    names = tuple(sorted(name.removeprefix(TAG) for name in asker.request.names))
    error = AcquireConcurrencySlotTimeoutError(names=names, timeout_seconds=asker.timeout or 0.0)
    if trouble is not None:
        error.add_note(str(trouble))
        error.__cause__ = trouble
    return error


def refused(answer: Refused) -> ConcurrencyLimitError:
    """The store has said that it is no use to wait."""
    return ConcurrencyLimitError(tag=answer.name.removeprefix(TAG), problem=answer.problem)


def failed(asker: Asker, error: BaseException) -> ShoalError:
    """The keeper's thread has ended by an error. Each asker has one of its own, as they are raised."""
    refusal: ShoalError
    if isinstance(error, MissingExtraError):
        refusal = MissingExtraError(feature=error.feature, requirement=error.requirement)
    else:
        refusal = ConcurrencyLimitError(
            tag=min(asker.request.names).removeprefix(TAG),
            problem=f"it cannot be looked at: {error}",
        )
    refusal.__cause__ = error
    return refusal
