"""Annotations: wrappers that survive every way of travelling (SPEC 5.4, 5.6, 6.2)."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Collection, Iterable
from typing import Any

import cloudpickle
import pytest
from shoal.annotations import Annotation, allow_failure, opaque, quote, unmapped

KINDS: list[type[Annotation[Any]]] = [unmapped, allow_failure, quote, opaque]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


@each_kind
def test_wraps(kind: type[Annotation[Any]]) -> None:
    value = [1, 2]
    annotation = kind(value)
    assert annotation.value is value
    assert annotation.unwrap() is value
    assert repr(annotation) == f"{kind.__name__}([1, 2])"


@each_kind
def test_rewrap(kind: type[Annotation[Any]]) -> None:
    again = kind(1).rewrap("x")
    assert type(again) is kind
    assert again.unwrap() == "x"


@each_kind
def test_is_no_container(kind: type[Annotation[Any]]) -> None:
    """Peers' annotations are tuples, and decay to plain ones on Dask and Ray."""
    annotation = kind([1, 2])
    assert not isinstance(annotation, (tuple, list, Iterable, Collection))
    assert not hasattr(annotation, "__dict__")


@each_kind
@pytest.mark.parametrize("library", [pickle, cloudpickle], ids=["pickle", "cloudpickle"])
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickling(kind: type[Annotation[Any]], library: Any, protocol: int) -> None:
    annotation = kind({"a": unmapped(1)})
    again = pickle.loads(library.dumps(annotation, protocol=protocol))
    assert type(again) is kind
    assert again == annotation


@each_kind
def test_copying_keeps_cycles(kind: type[Annotation[Any]]) -> None:
    values: list[Any] = []
    values.append(kind(values))
    for again in (copy.deepcopy(values), pickle.loads(pickle.dumps(values))):
        assert again[0].value is again
    assert copy.copy(values[0]).value is values


def test_equality() -> None:
    assert unmapped([1]) == unmapped([1])
    assert unmapped(1) != unmapped(2)
    assert unmapped(1) != quote(1)
    assert unmapped(1) != 1
    assert {unmapped(1), unmapped(1), quote(1)} == {unmapped(1), quote(1)}
    not_itself = float("nan")
    assert quote(not_itself) == quote(not_itself)


def test_nesting() -> None:
    annotation = unmapped(allow_failure([1]))
    assert annotation.unwrap().unwrap() == [1]
    assert repr(annotation) == "unmapped(allow_failure([1]))"
