"""Values that are kept: written, and read again.

May import `serializers` and `storage`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shoal.exceptions import ResultStorageError
from shoal.results.serializers import PickleSerializer, Serializer
from shoal.results.storage.base import logger
from shoal.results.storage.record import Record
from shoal.serialization import culprit_in, from_a_signal, words_of

if TYPE_CHECKING:
    from shoal.results.storage import Ref, Storage

__all__ = ["Kept", "keep", "recall"]


@dataclass(frozen=True, slots=True)
class Kept:
    """A value that was kept.

    Attributes:
        value: the value.
        record: what is known of it.
    """

    value: Any
    record: Record


def keep(storage: Storage, key: str, value: Any, serializer: Serializer, **facts: Any) -> Ref:
    """Keeps a value under a key.

    Args:
        storage: where.
        key: under which `recall` finds it.
        value: the value.
        serializer: how it is written.
        facts: what else is known of it: see `Record`.

    Raises:
        ResultStorageError: it cannot be written by this serializer, or the storage cannot be used.
    """
    try:
        data = serializer.dumps(value)
    except BaseException as error:
        if from_a_signal(error):
            raise
        raise ResultStorageError(
            place=str(storage), problem=_why_not(value, serializer, error)
        ) from error
    return storage.write(Record(key=key, value=data, serializer=serializer.type, **facts))


def recall(storage: Storage, key: str, serializer: Serializer) -> Kept | None:
    """The value that is kept under a key.

    Args:
        storage: where.
        key: the key.
        serializer: how it would be written now. One that was written by another of ours is read by that.

    Returns:
        The value; `None` if there is none that counts, or none that can be read: that gives a warning.

    Raises:
        ResultStorageError: the storage cannot be read, or must not be trusted.
    """
    record = storage.read(key)
    if record is None:
        return None
    try:
        reader = _reader(record.serializer, serializer)
        return Kept(reader.loads(record.value), record)
    except BaseException as error:
        if from_a_signal(error):
            raise
        logger.warning(
            "Results in %s: what %s had returned cannot be read and is computed again: %s",
            storage,
            record.run_name or f"the key {key!r}",
            words_of(error),
            extra={"subject": f"{storage.place}\0{key}\0unread"},  # a run asks twice
        )
        return None


def _reader(name: str, serializer: Serializer) -> Serializer:
    if name == serializer.type:
        return serializer
    known = Serializer.known().get(name)
    if known is None:
        raise LookupError(f"it was written by the serializer {name!r}, which is not there")
    return known()


def _why_not(value: Any, serializer: Serializer, error: BaseException) -> str:
    inner = getattr(serializer, "serializer", serializer)
    if type(inner) is PickleSerializer and (culprit := culprit_in(value, "result")):
        return f"{culprit.path} ({culprit.type_name}) cannot be pickled: {culprit.problem}"
    return f"the result cannot be written by {serializer!r}: {words_of(error)}"
