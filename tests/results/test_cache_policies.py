"""Cache policies: what a key is made of, sums of policies, arguments left out."""

from __future__ import annotations

import pickle
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
