"""Cache policies: what a key is made of, sums of policies, arguments left out."""

from __future__ import annotations

import functools
import pickle
import threading
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from shoal import cache_policies, task
from shoal.cache_policies import (
    DEFAULT,
    FLOW_PARAMETERS,
    INPUTS,
    NO_CACHE,
    NONE,
    RUN_ID,
    TASK_SOURCE,
    CacheKeyFnPolicy,
    CachePolicy,
)
from shoal.exceptions import InvalidOption, UnstableKeyError
from shoal.tasks import task_input_hash


@task
def load(x: int, conn: Any = None) -> int:
    return x


@task
def save(x: int, conn: Any = None) -> int:
    return x + 1


def context(of: Any = load, flow_run_id: Any = "flow-run", run_id: str = "run") -> Any:
    return SimpleNamespace(task=of, task_run=SimpleNamespace(flow_run_id=flow_run_id, id=run_id))


def key(
    policy: CachePolicy, of: Any = load, flow: Any = None, run: Any = None, **inputs: Any
) -> Any:
    return policy.compute_key(run or context(of), inputs, flow or {})


def test_inputs_are_the_arguments_and_the_name_of_the_task() -> None:
    assert key(INPUTS, x=1) == key(INPUTS, x=1) != key(INPUTS, x=2)
    assert key(INPUTS, x=1) != key(INPUTS, of=save, x=1)
    assert key(INPUTS) is not None, "a task without arguments"


def test_the_source_is_that_of_the_function() -> None:
    assert key(TASK_SOURCE, x=1) == key(TASK_SOURCE, x=2) != key(TASK_SOURCE, of=save)
    assert key(TASK_SOURCE, of=load.with_options(name="other", retries=3)) == key(TASK_SOURCE)


def test_parameters_of_the_flow() -> None:
    assert key(FLOW_PARAMETERS, flow={"a": 1}) != key(FLOW_PARAMETERS, flow={"a": 2})
    assert key(FLOW_PARAMETERS) is None
    with pytest.raises(UnstableKeyError, match=r"flow_parameters\['a'\]"):
        key(FLOW_PARAMETERS, flow={"a": object()})


def test_run_id_is_the_flow_run_or_the_run() -> None:
    assert key(RUN_ID) == "flow-run"
    assert key(RUN_ID, run=context(flow_run_id=None)) == "run"


@pytest.mark.parametrize("part", [INPUTS, TASK_SOURCE, RUN_ID], ids=["inputs", "source", "run"])
def test_a_sum_depends_on_each(part: CachePolicy) -> None:
    changed = {
        INPUTS: {"x": 2},
        TASK_SOURCE: {"x": 1, "of": save},
        RUN_ID: {"x": 1, "run": context(flow_run_id="b")},
    }
    other: dict[str, Any] = changed[part]
    assert key(DEFAULT, x=1) == key(INPUTS + TASK_SOURCE + RUN_ID, x=1)
    assert key(DEFAULT, x=1) != key(DEFAULT, **other)
    assert key(INPUTS + FLOW_PARAMETERS, x=1) is not None, "what has no key is left out"
    assert key(FLOW_PARAMETERS + FLOW_PARAMETERS, x=1) is None


def test_arguments_are_left_out() -> None:
    conn = object()
    with pytest.raises(UnstableKeyError, match="INPUTS - 'conn'"):
        key(INPUTS, x=1, conn=conn)
    for policy in (INPUTS - "conn", (INPUTS + TASK_SOURCE) - "conn", DEFAULT - "conn" - "other"):
        assert key(policy, x=1, conn=conn) == key(policy, x=1, conn=2) != key(policy, x=2)
    assert key(TASK_SOURCE - "conn", x=1) == key(TASK_SOURCE, x=1)
    with pytest.raises(TypeError, match="name of an argument"):
        INPUTS - 1  # type: ignore[operator]


@pytest.mark.parametrize("policy", [INPUTS - "cnn", DEFAULT - "cnn"], ids=repr)
def test_an_argument_that_the_task_has_not_cannot_be_left_out(policy: CachePolicy) -> None:
    with pytest.raises(
        InvalidOption,
        match=f"cache_policy={policy!r} in task 'load' .* no parameter 'cnn', but 'x', 'conn'. Did you mean 'conn'",
    ):
        load.with_options(cache_policy=policy)
    with pytest.raises(InvalidOption, match="no parameter 'cnn', but 'numbers', 'others'"):
        task(cache_policy=policy)(lambda *numbers, **others: None)
    assert task(cache_policy=policy)(max) is not None, "its parameters are not known"


class Store:
    """Something that is bound to functions, and has a key, unless it has a lock."""

    def __init__(self, conn: Any = None) -> None:
        self.conn = conn

    def read(self, x: int) -> Any:
        return self.conn

    @classmethod
    def made(cls, x: int) -> int:
        return x

    def __call__(self, x: int) -> Any:
        return self.conn


class Other(Store):
    """One more class."""


def read(conn: Any, x: int, mode: Any = None) -> Any:
    return conn


#: What each way of binding makes of a connection, and what the argument is called then.
BINDINGS: dict[str, Any] = {
    "method": (lambda conn: Store(conn).read, "self"),
    "callable": (Store, "self"),
    "partial": (lambda conn: functools.partial(read, conn), "conn"),
    "keyword": (lambda conn: functools.partial(read, x=1, mode=conn), "mode"),
    "twice": (lambda conn: functools.partial(functools.partial(read, conn), mode=1), "conn"),
    "partial-of-a-method": (lambda conn: functools.partial(Store(conn).read, x=2), "self"),
    "cached": (lambda conn: functools.cache(functools.partial(read, conn)), "conn"),
    "written-in-C": (lambda conn: [conn].count, "self"),
    "operator": (lambda conn: [conn].__add__, "self"),
}


@pytest.mark.parametrize(("bind", "name"), BINDINGS.values(), ids=BINDINGS)
def test_what_a_function_is_bound_to_is_an_argument(bind: Any, name: str) -> None:
    def of(conn: Any) -> Any:
        return task(bind(conn), name="of")

    lock = threading.Lock()
    for policy in (INPUTS, DEFAULT):
        assert key(policy, of=of(1)) == key(policy, of=of(1)) != key(policy, of=of(2))
        less = policy - name
        assert key(less, of=of(1)) == key(less, of=of(2)) == key(less, of=of(lock))
        assert of(1).with_options(cache_policy=less).name == "of"
    assert f"argument {name!r}" in INPUTS.key_parts(context(of(1)), {}, {})
    with pytest.raises(UnstableKeyError) as caught:
        key(INPUTS, of=of(lock))
    assert caught.value.path.startswith(f"parameters[{name!r}]")


def test_a_class_is_an_argument_of_its_method() -> None:
    of = [task(kind.made, name="made") for kind in (Store, Other)]
    assert key(INPUTS, of=of[0], x=1) != key(INPUTS, of=of[1], x=1)
    assert key(INPUTS - "cls", of=of[0], x=1) == key(INPUTS - "cls", of=of[1], x=1)


def test_a_call_may_give_another_argument_than_the_partial_has() -> None:
    of = [task(functools.partial(read, mode=mode), name="read") for mode in (1, 2)]
    assert key(INPUTS, of=of[0], mode=3) == key(INPUTS, of=of[1], mode=3)


def test_nothing_is_kept() -> None:
    assert NONE is NO_CACHE
    assert key(NO_CACHE, x=1) is None
    assert INPUTS + NO_CACHE is INPUTS
    assert NO_CACHE + INPUTS is INPUTS


def test_a_function_makes_the_key() -> None:
    policy = CachePolicy.from_cache_key_fn(
        lambda run, arguments: f"{run.task.name}-{arguments['x']}"
    )
    assert isinstance(policy, CacheKeyFnPolicy)
    assert key(policy, x=3) == "load-3"
    assert key(CacheKeyFnPolicy(lambda run, arguments: None), x=3) is None
    assert key(policy + INPUTS, x=3) not in (None, "load-3")
    assert policy.key_parts(context(), {"x": 3}, {}).keys() == {"the key of CacheKeyFnPolicy"}


def test_task_input_hash() -> None:
    assert task_input_hash is cache_policies.task_input_hash
    assert task_input_hash(context(), {"x": 1}) == key(TASK_SOURCE + INPUTS, x=1)
    assert task_input_hash(context(), {"x": 1}) != task_input_hash(context(save), {"x": 1})


@dataclass
class Salted(CachePolicy):
    salt: str = ""

    def compute_key(self, task_ctx: Any, inputs: Any, flow_parameters: Any, **kwargs: Any) -> str:
        return f"{self.salt}-{inputs['x']}"


def test_a_policy_of_ones_own() -> None:
    assert key(Salted("a"), x=1) == "a-1"
    assert key(Salted("a") + INPUTS, x=1) != key(Salted("b") + INPUTS, x=1)
    assert Salted("a").configure(key_storage="/keys").salt == "a"
    with pytest.raises(NotImplementedError, match="needs a method compute_key"):
        key(CachePolicy(), x=1)


def test_where_and_how_is_configured() -> None:
    kept = INPUTS.configure(key_storage="/keys", isolation_level="serializable")
    assert (INPUTS.key_storage, kept.key_storage) == (None, "/keys")
    assert kept.configure(lock_manager="locks").isolation_level == "serializable"
    total = kept + TASK_SOURCE + RUN_ID.configure(lock_manager="locks")
    assert (total.key_storage, total.isolation_level, total.lock_manager) == (
        "/keys",
        "serializable",
        "locks",
    )
    assert (total - "conn").key_storage == "/keys"
    with pytest.raises(InvalidOption, match="key_storage='/others'"):
        kept + INPUTS.configure(key_storage="/others")


def test_a_policy_shows_how_it_is_written() -> None:
    for text in ("INPUTS", "DEFAULT - 'a' - 'b'", "INPUTS + TASK_SOURCE - 'x'", "NO_CACHE"):
        assert repr(eval(text, vars(cache_policies))) == text
    assert repr(INPUTS + RUN_ID + CacheKeyFnPolicy(len)) == "INPUTS + RUN_ID + <CacheKeyFnPolicy>"


def test_the_parts_of_a_key_are_named() -> None:
    parts = DEFAULT.key_parts(context(), {"x": 1, "conn": 2}, {})
    source = "code of test_cache_policies.load"
    assert list(parts) == [
        "the task's name",
        "argument 'x'",
        "argument 'conn'",
        source,
        f"{source}(conn)",
        "the run",
    ]


@pytest.mark.parametrize(
    "policy", [DEFAULT, INPUTS - "x", Salted("a"), NO_CACHE], ids=["default", "less", "own", "none"]
)
def test_policies_travel(policy: CachePolicy) -> None:
    assert key(pickle.loads(pickle.dumps(policy)), x=1) == key(policy, x=1)
