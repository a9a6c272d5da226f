"""Finding and replacing futures and States in arguments (SPEC 5.1, 5.4 to 5.6)."""

from __future__ import annotations

import collections
import copy
import dataclasses
import enum
import random
import sys
import time
import types
from collections import Counter, OrderedDict, UserDict, defaultdict, deque
from dataclasses import InitVar, dataclass, field
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shoal.annotations import Annotation, allow_failure, opaque, quote, unmapped
from shoal.engine.inputs import (
    Input,
    collect,
    collect_wait_for,
    has_no_inputs,
    replace_futures,
    substitute,
)
from shoal.futures import TaskFuture, TaskFutureList
from shoal.states import Completed, State

# ---------------------------------------------------------------------- stand-ins


class Ended(TaskFuture[Any]):
    """A future of a run that has ended, without anything that ran it."""

    def __init__(self, value: Any = None) -> None:
        self.value = value

    def __repr__(self) -> str:
        return f"Ended({self.value!r})"

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> Any:
        return self.value


future = Ended


def given_value(source: Any, allow: bool) -> Any:
    return source.data if isinstance(source, State) else source.value


def substituted(value: Any) -> Any:
    args, kwargs = substitute((value,), None, given_value)
    assert kwargs is None
    return args[0]


def collected(value: Any) -> list[Any]:
    return [entry.future for entry in collect((value,))]


class Point(NamedTuple):
    x: Any
    y: Any


@dataclass
class Plain:
    a: Any
    b: Any = None


@dataclass(frozen=True)
class Frozen:
    a: Any


@dataclass(slots=True)
class Slotted:
    a: Any
    late: Any = field(init=False)


@dataclass(frozen=True, slots=True)
class FrozenSlotted:
    a: Any


@dataclass
class Elaborate:
    shared: ClassVar[list[int]] = [1]
    given: InitVar[int]
    a: Any
    derived: Any = field(init=False, default=None)

    def __post_init__(self, given: int) -> None:
        self.runs = getattr(self, "runs", 0) + 1


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True, extra="allow")
    a: Any
    positive: Any = 1
    _private: int = 0


class FrozenModel(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True)
    a: Any


class Root(pydantic.RootModel[Any]):
    pass


class MyList(list[Any]):
    label = "none"


class MyDict(dict[Any, Any]):
    label = "none"


class MyTuple(tuple[Any, ...]):
    label: str

    def __new__(cls, label: str, *items: Any) -> Self:
        made = super().__new__(cls, items)
        made.label = label
        return made


class MyFrozenSet(frozenset[Any]):
    pass


class Colour(enum.Enum):
    RED = 1


class Opaque:
    def __init__(self, value: Any) -> None:
        self.value = value


# ---------------------------------------------------------------------- SPEC 5.1: where inputs are found

WRAPPERS: dict[str, Any] = {
    "itself": lambda x: x,
    "list": lambda x: [1, x],
    "tuple": lambda x: (1, x),
    "set": lambda x: {1, x},
    "frozenset": lambda x: frozenset({1, x}),
    "dict value": lambda x: {"k": x},
    "dict key": lambda x: {x: "v"},
    "named tuple": lambda x: Point(1, x),
    "deque": lambda x: deque([1, x], maxlen=5),
    "defaultdict": lambda x: defaultdict(list, {"k": x}),
    "OrderedDict": lambda x: OrderedDict([("a", 1), ("k", x), ("z", 2)]),
    "OrderedDict key": lambda x: OrderedDict([("a", 1), (x, 2), ("z", 2)]),
    "Counter": lambda x: Counter({x: 3}),
    "list subclass": lambda x: MyList([1, x]),
    "dict subclass": lambda x: MyDict(k=x),
    "tuple subclass": lambda x: MyTuple("label", 1, x),
    "frozenset subclass": lambda x: MyFrozenSet({1, x}),
    "dataclass": lambda x: Plain(1, x),
    "frozen dataclass": Frozen,
    "slotted dataclass": Slotted,
    "frozen slotted dataclass": FrozenSlotted,
    "pydantic model": lambda x: Model(a=x),
    "pydantic extra": lambda x: Model.model_validate({"a": 1, "more": x}),
    "frozen pydantic model": lambda x: FrozenModel(a=x),
    "pydantic root model": Root,
    "deep": lambda x: [{"k": (1, Point({x}, Plain([x])))}],
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_found_and_replaced(wrap: Any) -> None:
    source, value = future(42), 42
    argument, expected = wrap(source), wrap(value)
    assert collected(argument) == [source]
    result = substituted(argument)
    assert type(result) is type(expected)
    if not isinstance(result, Slotted):  # whose unset field makes it incomparable
        assert result == expected
    assert collected(result) == []
    assert collected(argument) == [source], "the original was changed"


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_untouched_where_there_is_nothing(wrap: Any) -> None:
    argument = wrap(42)
    assert collected(argument) == []
    assert substituted(argument) is argument


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_states_are_inputs_too(wrap: Any) -> None:
    state = Completed(data=42)
    assert collected(wrap(state)) == [state]
    assert collected(substituted(wrap(state))) == []


@pytest.mark.parametrize(
    "value",
    [
        1, 1.0, 1j, True, "future", b"bytes", bytearray(b"x"), None, ..., range(3), slice(1), len,
        np.zeros(3), np.float64(1), Colour.RED, Opaque([future()]), UserDict(a=future()),
        (f for f in [future()]), types.SimpleNamespace(a=future()), Plain, time.localtime(),
        collections.ChainMap({"a": future()}), iter([future()]),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_nothing_else_is_looked_into(value: Any) -> None:
    assert collect((value,), {"k": value}) == []
    assert substituted(value) is value


def test_a_list_of_futures_becomes_a_list_of_values() -> None:
    one, two = future(1), future(2)
    futures = TaskFutureList([one, two])
    assert collected({"k": futures}) == [one, two]
    assert substituted({"k": futures}) == {"k": [1, 2]}
    assert substituted(opaque(futures)) == [1, 2]
    assert substituted([TaskFutureList([])]) == [[]]


def test_positional_and_keyword_arguments() -> None:
    one, two = future(1), future(2)
    assert [entry.future for entry in collect((0, [one]), {"x": two, "y": one})] == [one, two]
    args, kwargs = substitute((0, [one]), {"x": two, "y": one, "z": 3}, given_value)
    assert (args, kwargs) == ((0, [1]), {"x": 2, "y": 1, "z": 3})
    args, kwargs = (0, [1]), {"x": {"k": 1}}
    same_args, same_kwargs = substitute(args, kwargs, given_value)
    assert same_args is args
    assert same_kwargs is kwargs


def test_futures_as_they_mostly_come() -> None:
    """Bare, of this very class: that has a way of its own."""
    one: TaskFuture[Any] = object.__new__(TaskFuture)
    two: TaskFuture[Any] = object.__new__(TaskFuture)
    assert collect((one, 5, two, one)) == [Input(one, False), Input(two, False)]
    args, kwargs = substitute((one, 5, two, one), None, lambda source, _: {one: 1, two: 2}[source])
    assert (args, kwargs) == ((1, 5, 2, 1), None)


def test_equal_states_are_two_inputs() -> None:
    """And telling so fetches nothing."""

    def never() -> int:
        raise AssertionError("fetched")

    one: State[int] = State("COMPLETED", fetch=never)
    two: State[int] = State("COMPLETED", fetch=never)
    assert len(collect(([one, two, one],))) == 2


def test_values_are_not_looked_into() -> None:
    inner = future(1)
    assert substituted([future([inner])]) == [[inner]]


def test_value_of_is_asked_once_for_each() -> None:
    one, asked = future(1), []

    def ask(source: Any, allow: bool) -> Any:
        asked.append(source)
        return object()

    (result,), _ = substitute(([one, {one: [one]}, TaskFutureList([one])],), None, ask)
    assert asked == [one]
    assert result[1] == {result[0]: [result[0]]}
    assert result[2] == [result[0]]


def test_only_what_changed_is_rebuilt() -> None:
    same, changed = [1, [2]], [future(3)]
    argument = {"same": same, "changed": changed, "too": (same, Plain(same))}
    result = substituted(argument)
    assert result == {"same": same, "changed": [3], "too": (same, Plain(same))}
    assert result["same"] is same
    assert result["too"] is argument["too"]


def test_details_of_containers_stay() -> None:
    source = future(1)
    items = MyList([source])
    items.label = "mine"
    assert substituted(items).label == "mine"
    pairs = MyDict(a=source)
    pairs.label = "mine"
    assert substituted(pairs).label == "mine"
    assert substituted(MyTuple("mine", source)).label == "mine"
    by_default = substituted(defaultdict(list, {"k": source}))
    assert by_default["new"] == []
    assert substituted(deque([1, source], maxlen=2)).maxlen == 2
    ordered = substituted(OrderedDict([("z", 1), (source, 2), ("a", 3)]))
    assert list(ordered.items()) == [("z", 1), (1, 2), ("a", 3)]
    ordered.move_to_end("z")
    assert list(ordered) == [1, "a", "z"]


def test_dataclasses_are_copied_not_made() -> None:
    argument = Elaborate(given=1, a=future(1))
    argument.derived = [future(2)]
    result = substituted(argument)
    assert (result.a, result.derived, result.runs) == (1, [2], 1)
    assert Elaborate.shared == [1]


def test_unset_fields_stay_unset() -> None:
    result = substituted(Slotted(future(1)))
    assert result.a == 1
    assert not hasattr(result, "late")


def test_models_are_copied_not_validated() -> None:
    class Strict(pydantic.BaseModel):
        size: int = pydantic.Field(gt=0)

    assert substituted(Strict.model_construct(size=future(-5))).size == -5
    argument = Model(a=future(1))
    argument._private = 7
    result = substituted(argument)
    assert result._private == 7
    assert result.model_fields_set == {"a"}


def test_pydantic_is_not_imported_for_this(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pydantic.main")

    class Unknown:
        pass

    assert collected(Unknown()) == []
    assert "pydantic.main" not in sys.modules


def test_unhashable_values_as_keys() -> None:
    with pytest.raises(TypeError, match="unhashable") as caught:
        substituted([{future([1]): 2}])
    assert any("argument of type dict" in note for note in caught.value.__notes__)


# ---------------------------------------------------------------------- SPEC 5.1: cycles, sharing, depth


def test_sharing_is_kept() -> None:
    shared = [future(1)]
    result = substituted({"a": shared, "b": (shared,), "c": Plain(shared)})
    assert result["a"] == [1]
    assert result["b"][0] is result["a"]
    assert result["c"].a is result["a"]


def test_cycles_are_kept() -> None:
    argument: list[Any] = [future(1)]
    argument.append(argument)
    result = substituted(argument)
    assert result[0] == 1
    assert result[1] is result
    assert argument[1] is argument

    idle: list[Any] = [1]
    idle.append([idle])
    assert substituted(idle) is idle


def test_cycle_through_a_tuple() -> None:
    inner: list[Any] = []
    argument = (inner, future(1))
    inner.append(argument)
    result = substituted(argument)
    assert result[1] == 1
    assert result[0][0] is result


def test_cycle_through_two_tuples() -> None:
    items: list[Any] = []
    outer = (items, 0)
    items.extend([(outer, future(1)), outer])
    result = substituted(outer)
    assert result[0][0][0] is result
    assert result[0][1] is result
    assert result[0][0][1] == 1


def test_cycle_through_objects() -> None:
    parent, child = Plain(future(1)), Frozen({})
    parent.b, child.a["parent"] = [child], parent
    result = substituted(child)
    assert result.a["parent"].a == 1
    assert result.a["parent"].b[0] is result


def test_hashed_after_it_was_filled() -> None:
    result = substituted({Frozen(future(1)): "v"})
    assert result[Frozen(1)] == "v"
    result = substituted([{Frozen((future(1), Frozen(2)))}])
    assert Frozen((1, Frozen(2))) in result[0]


@pytest.mark.parametrize("depth", [300, 5_000])
@pytest.mark.parametrize(
    "wrap", [lambda x: [x], lambda x: (x,), lambda x: {"k": x}, Plain],
    ids=["list", "tuple", "dict", "dataclass"],
)  # fmt: skip
def test_any_depth(wrap: Any, depth: int) -> None:
    argument: Any = future(1)
    for _ in range(depth):
        argument = wrap(argument)
    assert len(collected(argument)) == 1
    result = substituted(argument)
    for _ in range(depth):
        (result,) = (
            result.values()
            if isinstance(result, dict)
            else ((result.a,) if isinstance(result, Plain) else result)
        )
    assert result == 1


def test_linear_in_shared_containers() -> None:
    """Each level holds the one below twice: there are two to the power of 60 ways to the future."""
    argument: Any = [future(1)]
    for _ in range(60):
        argument = [argument, argument]
    result = substituted(argument)
    for _ in range(60):
        assert result[0] is result[1]
        result = result[0]
    assert result == [1]


def reference(value: Any) -> Any:
    """Substitution as one would write it for trees."""
    if isinstance(value, Ended):
        return value.value
    if isinstance(value, TaskFutureList):
        return [item.result() for item in value]
    if isinstance(value, quote):
        return value.value
    if isinstance(value, (unmapped, allow_failure)):
        return reference(value.value)
    if isinstance(value, Plain):
        return Plain(reference(value.a), reference(value.b))
    if isinstance(value, Point):
        return Point(reference(value.x), reference(value.y))
    if isinstance(value, dict):
        return {key: reference(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(reference(item) for item in value)
    return value


def tree(rng: random.Random, depth: int) -> Any:
    """Something nested, out of all that is treated differently."""
    if depth == 0 or rng.random() < 0.2:
        number = rng.randint(0, 9)
        return rng.choice([number, str(number), Ended(number), TaskFutureList([Ended(number)])])
    parts = [tree(rng, depth - 1) for _ in range(2)]
    return rng.choice(
        [
            parts,
            tuple(parts),
            {"a": parts[0], "b": parts[1]},
            Plain(*parts),
            Point(*parts),
            unmapped(parts[0]),
            allow_failure(parts[0]),
            quote(parts[0]),
        ]
    )


@given(st.randoms(use_true_random=False), st.integers(0, 5))
def test_trees(rng: random.Random, depth: int) -> None:
    value = tree(rng, depth)
    result = substituted(value)
    assert result == reference(value)
    assert substituted(quote(value)) is value


@given(st.randoms(use_true_random=False))
def test_graphs(rng: random.Random) -> None:
    """Any graph of containers, with cycles, becomes one of the same shape with values in place of futures."""
    nodes: list[Any] = []
    for _ in range(rng.randint(1, 8)):
        below = [rng.choice(nodes) for _ in range(rng.randint(0, 3)) if nodes]
        nodes.append(
            rng.choice([list, tuple, Plain, lambda items: dict(enumerate(items))])(below)  # type: ignore[operator]
        )
    for node in nodes:  # edges back, and futures
        more = [rng.choice([*nodes, Ended(rng.random())]) for _ in range(rng.randint(0, 2))]
        if isinstance(node, list):
            node.extend(more)
        elif isinstance(node, Plain):
            node.b = more
    top = rng.choice(nodes)
    changed = bool(collected(top))
    result = substituted(top)
    assert (result is not top) is changed
    matched: dict[int, Any] = {}
    stack = [(top, result)]
    while stack:
        old, new = stack.pop()
        if isinstance(old, Ended):
            assert new == old.value
            continue
        if id(old) in matched:
            assert matched[id(old)] is new, "sharing was lost"
            continue
        matched[id(old)] = new
        assert type(old) is type(new)
        if isinstance(old, Plain):
            stack += [(old.a, new.a), (old.b, new.b)]
        elif isinstance(old, dict):
            stack += [(old[key], new[key]) for key in old]
        elif isinstance(old, (list, tuple)):
            assert len(old) == len(new)
            stack += zip(old, new, strict=True)


# ---------------------------------------------------------------------- SPEC 5.4, 5.6: annotations


def test_quote_hands_over_what_it_holds() -> None:
    value = [future(1), unmapped(2)]
    assert collected(quote(value)) == []
    assert substituted(quote(value)) is value
    assert substituted({"k": [quote(value)]})["k"][0] is value
    source = future(1)
    assert substituted(quote(source)) is source


def test_opaque_resolves_itself_only() -> None:
    source = future([1])
    assert collected(opaque(source)) == [source]
    assert substituted(opaque(source)) == [1]
    assert substituted(opaque(Completed(data=5))) == 5
    held = [source]
    assert collected(opaque(held)) == []
    assert substituted(opaque(held)) is held
    assert substituted([opaque(held), source])[0] is held


def test_unmapped_is_taken_off() -> None:
    value = [1, [2]]
    assert substituted(unmapped(value)) is value
    assert substituted([unmapped(future(3))]) == [3]
    assert substituted([[unmapped(1)]]) == [[1]]


@pytest.mark.parametrize(
    ("wrap", "allowed"),
    [
        (lambda x: [x], False),
        (lambda x: allow_failure(x), True),
        (lambda x: [allow_failure(x)], True),
        (lambda x: allow_failure([{"k": x}]), True),
        (lambda x: allow_failure(unmapped(x)), True),
        (lambda x: unmapped(allow_failure(x)), True),
        (lambda x: opaque(allow_failure(x)), True),
        (lambda x: allow_failure(TaskFutureList([x])), True),
        (lambda x: [allow_failure(x), x], False),
        (lambda x: [x, allow_failure(x)], False),
        (lambda x: [allow_failure(x), allow_failure([x])], True),
    ],
    ids=[
        "bare", "itself", "in a list", "around a list", "outside unmapped", "inside unmapped", "inside opaque",
        "around futures", "once allowed, once not", "once not, once allowed", "twice allowed",
    ],
)  # fmt: skip
def test_allow_failure(wrap: Any, allowed: bool) -> None:
    """SPEC 5.4."""
    source = future()
    assert collect((wrap(source),)) == [Input(source, allowed)]


def test_each_occurrence_has_its_own_permission() -> None:
    source = future()
    shared = [source]
    (result,), _ = substitute(([allow_failure(shared), shared],), None, lambda _, allow: allow)
    assert result == [[True], [False]]


def test_annotations_of_the_user_s_own_are_taken_off() -> None:
    class noted(Annotation[Any]):
        __slots__ = ()

    assert substituted(noted([future(1)])) == [1]


def test_replace_futures() -> None:
    source, state = future(1), Completed(data=2)
    result = replace_futures({"a": [source, state], "b": source}, lambda f: f.result())
    assert result == {"a": [1, state], "b": 1}
    assert result["a"][1] is state
    assert replace_futures(5, lambda f: None) == 5
    kept = [state, 1]
    assert replace_futures(kept, lambda f: None) is kept
    quoted = quote(source)
    assert replace_futures([quoted, source], lambda f: 0) == [quoted, 0]
    assert replace_futures(opaque(1), lambda f: 0) == opaque(1), "no future, nothing to do"


# ---------------------------------------------------------------------- SPEC 5.5: wait_for


def test_wait_for() -> None:
    one, two, three, state = future(), future(), future(), Completed()
    wait_for = [one, [two, (state,)], TaskFutureList([three, one]), {two}]
    assert collect_wait_for(wait_for) == [
        Input(source, False) for source in (one, two, state, three)
    ]
    assert collect_wait_for(one) == [Input(one, False)]
    assert collect_wait_for(f for f in [one, two]) == [Input(one, False), Input(two, False)]
    assert collect_wait_for(None) == collect_wait_for([]) == []


def test_wait_for_and_allow_failure() -> None:
    one, two = future(), future()
    assert collect_wait_for([one, allow_failure([two, one])]) == [
        Input(one, False),
        Input(two, True),
    ]
    assert collect_wait_for([allow_failure(one), one]) == [Input(one, False)]
    assert collect_wait_for(unmapped(allow_failure(one))) == [Input(one, True)]


def test_wait_for_a_cycle() -> None:
    items: list[Any] = [future()]
    items.append(items)
    assert len(collect_wait_for(items)) == 1


@pytest.mark.parametrize(
    "value",
    [5, "abc", [None], object(), [iter([1])]],
    ids=["number", "text", "none", "object", "iterator"],
)
def test_values_in_wait_for(value: Any) -> None:
    """They are there already, such as what a direct call gave."""
    assert collect_wait_for(value) == []
    one = future(1)
    assert collect_wait_for([value, {"a": (one, value)}]) == [Input(one, False)]


def test_an_iterator_among_values_is_not_used_up() -> None:
    one, items = future(1), iter([1, 2])
    assert collect_wait_for([one, items]) == [Input(one, False)]
    assert list(items) == [1, 2]


# ---------------------------------------------------------------------- quick looks


def test_quick_looks() -> None:
    assert has_no_inputs((1, "x", None))
    assert has_no_inputs(())
    assert not has_no_inputs((1, []))
    assert not has_no_inputs((1, future()))


def test_classes_without_end() -> None:
    from shoal.engine import inputs

    for _ in range(inputs._KINDS_KEPT + 10):
        collect((type("Fresh", (), {})(),))
    assert len(inputs._kinds) <= inputs._KINDS_KEPT
    assert collected([future()])


def test_arguments_can_be_replaced_again() -> None:
    """What a retry does: the original is as it was."""
    argument = [future(1), Plain({"k": future(2)})]
    first = substituted(argument)
    second = substituted(argument)
    assert first == second == [1, Plain({"k": 2})]
    assert first is not second
    assert dataclasses.is_dataclass(first[1])
    assert copy.copy(argument) == argument
