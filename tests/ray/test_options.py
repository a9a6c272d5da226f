"""`remote_options` and tasks' `resources`: what is sent to Ray, what is refused, and when runs may share a batch."""

from __future__ import annotations

import contextvars
import pickle
from typing import Any

import pytest
import shoal_ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from shoal.exceptions import InvalidOption
from shoal_ray import RemoteOptionsContext, context, remote_options
from shoal_ray.options import Options, captured, check_resources, for_task, max_calls


def inside(**options: Any) -> Options:
    with remote_options(**options):
        found = captured()
    assert found is not None
    return found


def test_they_hold_inside() -> None:
    assert captured() is None
    with remote_options(num_cpus=2):
        assert captured() == Options({"num_cpus": 2})
        assert contextvars.copy_context().run(captured) == Options({"num_cpus": 2})
    assert captured() is None
    with remote_options():
        assert captured() is None


def test_they_end_with_an_exception() -> None:
    with pytest.raises(KeyError), remote_options(num_cpus=2):
        raise KeyError
    assert captured() is None


@remote_options(num_cpus=0.5)
def decorated() -> Options | None:
    return captured()


def test_as_a_decorator() -> None:
    assert decorated() == decorated() == Options({"num_cpus": 0.5})


def test_nested_ones_add_up() -> None:
    outer = {
        "num_cpus": 2,
        "memory": 1 << 20,
        "resources": {"a": 1, "b": 1},
        "runtime_env": {"env_vars": {"A": "1", "B": "1"}, "pip": ["numpy"]},
    }
    inner = {
        "num_cpus": 1,
        "resources": {"b": 2},
        "runtime_env": {"env_vars": {"B": "2"}, "working_dir": "https://h/x.zip"},
        "memory": None,
    }
    with remote_options(**outer):
        with remote_options(**inner):
            assert captured() == Options(
                {
                    "num_cpus": 1,
                    "resources": {"a": 1, "b": 2},
                    "runtime_env": {
                        "env_vars": {"A": "1", "B": "2"},
                        "pip": ["numpy"],
                        "working_dir": "https://h/x.zip",
                    },
                }
            )
        assert captured() == Options(outer)
    assert outer["runtime_env"] == {"env_vars": {"A": "1", "B": "1"}, "pip": ["numpy"]}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"num_gpu": 1}, "num_gpus"),
    "an actor's": ({"max_restarts": 1}, "max_restarts"),
    "a string": ({"num_cpus": "2"}, "num_cpus"),
    "a bool": ({"num_cpus": True}, "number"),
    "negative": ({"num_gpus": -1}, "negative"),
    "too fine": ({"num_cpus": 0.00001}, "precision"),
    "no dictionary": ({"resources": ["a"]}, "resources"),
    "no numbers": ({"resources": {"a": "many"}}, "number"),
    "CPU among the custom ones": ({"resources": {"CPU": 1}}, "num_cpus"),
    "negative calls": ({"max_calls": -1}, "max_calls"),
    "an unknown strategy": ({"scheduling_strategy": "RANDOM"}, "SPREAD"),
    "something else as a strategy": ({"scheduling_strategy": 3}, "scheduling_strategy"),
    "no environment": ({"runtime_env": "pip"}, "runtime_env"),
    "an environment that is wrong": ({"runtime_env": {"pip": 3}}, "pip"),
    "a directory of this machine": ({"runtime_env": {"working_dir": "/tmp"}}, "working_dir"),
    "the name": ({"name": "mine"}, "task_run_name"),
    "returns": ({"num_returns": 2}, "ours"),
    "retries": ({"max_retries": 2}, "crash_retries"),
    "retries of exceptions": ({"retry_exceptions": True}, "retries"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_on_entering(case: str) -> None:
    options, named = REFUSED[case]
    with pytest.raises(InvalidOption, match=named) as raised, remote_options(**options):
        pytest.fail("it was entered")
    assert raised.value.where == "remote_options"
    assert raised.value.option == next(iter(options))


TAKEN: dict[str, dict[str, Any]] = {
    "numbers": {"num_cpus": 0.5, "num_gpus": 2, "memory": 1e9, "max_calls": 3},
    "a strategy by name": {"scheduling_strategy": "SPREAD"},
    "a strategy": {"scheduling_strategy": NodeAffinitySchedulingStrategy("ab" * 28, soft=False)},
    "labels": {"label_selector": {"zone": "in(a, b)"}},
    "an accelerator": {"accelerator_type": "A100"},
    "an environment": {"runtime_env": {"env_vars": {"A": "1"}}},
    "no events": {"enable_task_events": False},
    "nothing": {"num_cpus": None},
}


@pytest.mark.parametrize("options", TAKEN.values(), ids=TAKEN)
def test_taken(options: dict[str, Any]) -> None:
    with remote_options(**options):
        pass


def test_they_are_values() -> None:
    def strategy(node: str) -> NodeAffinitySchedulingStrategy:
        return NodeAffinitySchedulingStrategy(node * 28, soft=False)

    one = inside(num_cpus=1, resources={"a": 1, "b": 2}, scheduling_strategy=strategy("ab"))
    two = inside(scheduling_strategy=strategy("ab"), resources={"b": 2, "a": 1}, num_cpus=1)
    assert one == two
    assert hash(one) == hash(two)
    assert one != inside(num_cpus=1, resources={"a": 1, "b": 2}, scheduling_strategy=strategy("cd"))
    again = pickle.loads(pickle.dumps(inside(runtime_env={"env_vars": {"A": "1"}})))
    assert again == inside(runtime_env={"env_vars": {"A": "1"}})
    assert repr(again) == "Options({'runtime_env': {'env_vars': {'A': '1'}}})"


def test_entered_again() -> None:
    options = inside(num_cpus=3)
    with remote_options(memory=5), options.entered():
        assert captured() == options
    assert captured() is None


# ------------------------------------------------------------------------ what Ray gets


def test_what_a_run_is_sent_with() -> None:
    assert for_task(None, None) == for_task(None, {}) == {}
    assert for_task(inside(num_cpus=2, max_calls=1), {}) == {"num_cpus": 2}
    resources = {"num_cpus": 2, "GPU": 1, "memory": 100, "mine": 3, "yours": 1}
    expected = {"num_cpus": 2, "num_gpus": 1, "memory": 100, "resources": {"mine": 3, "yours": 1}}
    assert for_task(None, resources) == expected


def test_what_is_nearest_to_the_call_prevails() -> None:
    options = inside(num_cpus=4, resources={"mine": 5, "theirs": 1}, max_calls=7)
    assert for_task(options, {"num_cpus": 2, "num_gpus": 1, "mine": 3}) == {
        "num_cpus": 4,
        "num_gpus": 1,
        "resources": {"mine": 5, "theirs": 1},
    }
    assert options == inside(num_cpus=4, resources={"mine": 5, "theirs": 1}, max_calls=7)


def test_how_often_a_process_is_used() -> None:
    assert max_calls(None, None) == max_calls(None, {"num_cpus": 1}) == 0
    assert max_calls(inside(max_calls=3), {}) == 3
    # As Ray does with tasks of its own.
    assert max_calls(None, {"GPU": 1}) == max_calls(inside(num_gpus=0.5), None) == 1
    assert max_calls(inside(max_calls=0), {"num_gpus": 1}) == 0
    assert max_calls(inside(num_gpus=0), {"num_gpus": 1}) == 0


@pytest.mark.parametrize(
    ("resources", "named"),
    [
        ({"a": -1}, "from 0 up"),
        ({"a": "1"}, "from 0 up"),
        ({"a": True}, "from 0 up"),
        ({"a": float("nan")}, "from 0 up"),
        ({"num_cpus": 0.00001}, "precision"),
        ({"CPU": 1, "num_cpus": 1}, "the same"),
    ],
    ids=["negative", "text", "bool", "nan", "too fine", "twice"],
)
def test_resources_that_ray_would_refuse(resources: Any, named: str) -> None:
    """SPEC 2.7."""
    with pytest.raises(InvalidOption, match=named) as raised:
        check_resources(resources, "mine")
    assert "'mine'" in str(raised.value)


def test_resources_that_ray_takes() -> None:
    """SPEC 2.7."""
    check_resources({})
    check_resources({"CPU": 1, "num_gpus": 0.5, "memory": 1e9, "mine": 0.1})


def test_the_context_of_options() -> None:
    assert RemoteOptionsContext.get().current_remote_options == {}
    with remote_options(num_cpus=2):
        assert RemoteOptionsContext.get().current_remote_options == {"num_cpus": 2}
        with remote_options(num_gpus=1):
            both = {"num_cpus": 2, "num_gpus": 1}
            assert RemoteOptionsContext.get().current_remote_options == both
        with RemoteOptionsContext(current_remote_options={"num_gpus": 1}) as alone:
            assert alone.current_remote_options == {"num_gpus": 1}
            assert for_task(captured(), None) == {"num_gpus": 1}, "it takes the place of others"
        assert for_task(captured(), None) == {"num_cpus": 2}
    assert captured() is None
    with pytest.raises(InvalidOption, match="num_wheels"), RemoteOptionsContext({"num_wheels": 4}):
        pass
    assert context.RemoteOptionsContext is shoal_ray.RemoteOptionsContext is RemoteOptionsContext
    assert context.remote_options is remote_options


def test_names_that_prefect_has() -> None:
    from shoal.futures import TaskFuture
    from shoal_ray.task_runners import PrefectRayFuture

    assert PrefectRayFuture is TaskFuture
    runner = shoal_ray.RayTaskRunner("ray://h:10001", {"namespace": "mine"})
    assert (runner.address, runner.init_kwargs) == ("ray://h:10001", {"namespace": "mine"})
    assert shoal_ray.RayTaskRunner().init_kwargs == {}
