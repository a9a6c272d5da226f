"""How a value is written that is kept, and read again: Prefect's names and shapes.

    "pickle"              anything that can be pickled
    "json"                plain values, so that others may read them; safe to read from whoever
    "compressed/pickle"   the same, smaller
    "compressed/json"

What JSON would bring back as something else (a tuple, a set, a date) is written so that it comes back as it was; what it cannot say
is refused. May import `exceptions`, `pickles` and `plain`.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from shoal.exceptions import InvalidOption
from shoal.results import pickles, plain
from shoal.spelling import or_perhaps

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "CompressedJSONSerializer",
    "CompressedPickleSerializer",
    "CompressedSerializer",
    "JSONSerializer",
    "PickleSerializer",
    "Serializer",
    "serializer_of",
]

_Kind: TypeAlias = type["Serializer"]


class Serializer(ABC):
    """How a value becomes bytes, and bytes a value.

    Subclass it for a way of your own, and give it a `type`: the name that is kept with each value, and by which
    `result_serializer` knows it.
    """

    type: str
    _known: ClassVar[dict[str, _Kind]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if isinstance(name := vars(cls).get("type"), str):
            Serializer._known[name] = cls

    @staticmethod
    def known() -> Mapping[str, _Kind]:
        """All serializers by name."""
        return Serializer._known

    @abstractmethod
    def dumps(self, obj: Any) -> bytes:
        """The bytes of a value.

        Raises:
            Exception: it cannot be written.
        """

    @abstractmethod
    def loads(self, blob: bytes | memoryview) -> Any:
        """The value of bytes that `dumps` made.

        Raises:
            Exception: they cannot be read.
        """

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class PickleSerializer(Serializer):
    """Pickles: anything goes that can travel to a worker.

    Args:
        picklelib: a module to do it with, which has `dumps` and `loads`; by default pickle, and cloudpickle for what that
            cannot do.
    """

    type = "pickle"

    def __init__(self, picklelib: str | None = None) -> None:
        self.picklelib = picklelib

    def dumps(self, obj: Any) -> bytes:
        """See `Serializer`."""
        if self.picklelib is None:
            return pickles.dumps(obj)
        data: bytes = importlib.import_module(self.picklelib).dumps(obj)
        return data

    def loads(self, blob: bytes | memoryview) -> Any:
        """See `Serializer`."""
        if self.picklelib is None:
            return pickles.loads(blob)
        return importlib.import_module(self.picklelib).loads(blob)


class JSONSerializer(Serializer):
    """JSON: plain values, dates, paths, dataclasses and pydantic models; nothing that is read runs code.

    Args:
        object_encoder: makes something plain of what else a value holds, as `default` of `json.dumps`.
        object_decoder: makes it what it was, as `object_hook` of `json.loads`.
        dumps_kwargs: further arguments of `json.dumps`.
        loads_kwargs: further arguments of `json.loads`.
    """

    type = "json"

    def __init__(
        self,
        object_encoder: Callable[[Any], Any] | None = None,
        object_decoder: Callable[[dict[str, Any]], Any] | None = None,
        dumps_kwargs: Mapping[str, Any] | None = None,
        loads_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.object_encoder = object_encoder
        self.object_decoder = object_decoder
        self.dumps_kwargs = dict(dumps_kwargs or {})
        self.loads_kwargs = dict(loads_kwargs or {})

    def dumps(self, obj: Any) -> bytes:
        """See `Serializer`."""
        import json

        return json.dumps(plain.encoded(obj, self.object_encoder), **self.dumps_kwargs).encode()

    def loads(self, blob: bytes | memoryview) -> Any:
        """See `Serializer`."""
        import json

        return plain.decoded(json.loads(bytes(blob), **self.loads_kwargs), self.object_decoder)


class CompressedSerializer(Serializer):
    """What another serializer writes, compressed.

    Args:
        serializer: the other, or its name.
        compressionlib: a module with `compress` and `decompress`: zlib, bz2, lzma.
    """

    type = "compressed"

    def __init__(
        self, serializer: Serializer | str = "pickle", compressionlib: str = "zlib"
    ) -> None:
        self.serializer = serializer_of(serializer)
        self.compressionlib = compressionlib
        self.type = f"compressed/{self.serializer.type}"

    def dumps(self, obj: Any) -> bytes:
        """See `Serializer`."""
        data: bytes = self._library().compress(self.serializer.dumps(obj))
        return data

    def loads(self, blob: bytes | memoryview) -> Any:
        """See `Serializer`."""
        return self.serializer.loads(self._library().decompress(blob))

    def _library(self) -> Any:
        return importlib.import_module(self.compressionlib)


class CompressedPickleSerializer(CompressedSerializer):
    """Pickles, compressed: `"compressed/pickle"`."""

    type = "compressed/pickle"


class CompressedJSONSerializer(CompressedSerializer):
    """JSON, compressed: `"compressed/json"`."""

    type = "compressed/json"

    def __init__(self, serializer: Serializer | str = "json", compressionlib: str = "zlib") -> None:
        super().__init__(serializer, compressionlib)


def serializer_of(given: Serializer | str | None, where: str | None = None) -> Serializer:
    """The serializer that is meant.

    Args:
        given: one, or the name of one; `None`: pickle.
        where: the task or flow that it was given to.

    Raises:
        InvalidOption: there is none of this name.
    """
    if isinstance(given, Serializer):
        return given
    name = "pickle" if given is None else str(given)
    kind = Serializer._known.get(name)
    if kind is None:
        perhaps = or_perhaps(name, list(Serializer._known))
        raise InvalidOption(
            where=where,
            option="result_serializer",
            value=given,
            problem=f"there is no such serializer{perhaps} Known: {', '.join(Serializer._known)}.",
        )
    return kind()
