"""`RayTaskRunner` as a value: what it takes, what it refuses, and that none of it starts anything."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import pytest
from shoal.exceptions import InvalidOption, MissingExtraError
from shoal.task_runners import registry
from shoal_ray import RayTaskRunner

SETTINGS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "an address": {"address": "nowhere:6379"},
    "Ray Client": {"address": "ray://nowhere:10001"},
    "IPv6": {"address": "[::1]:6379"},
    "what runs here": {"address": "auto"},
    "an instance": {"address": "local", "init_kwargs": {"num_cpus": 3, "resources": {"x": 1}}},
    "all the rest": {
        "init_kwargs": {"namespace": "mine", "runtime_env": {"env_vars": {"A": "1"}}},
        "check_environment": False,
        "ship_modules": ["helpers"],
    },
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_it_is_a_value(settings: dict[str, Any]) -> None:
    """SPEC 11.1."""
    runner = RayTaskRunner(**settings)
    assert runner == RayTaskRunner(**settings) == runner.duplicate()
    assert hash(runner) == hash(runner.duplicate())
    assert runner == pickle.loads(pickle.dumps(runner))
    if settings:
        assert runner != RayTaskRunner()
    for name in settings:
        assert f"{name}=" in repr(runner)


def test_repr_shows_what_was_given() -> None:
    assert repr(RayTaskRunner()) == "RayTaskRunner()"
    assert repr(RayTaskRunner("ray://h:1")) == "RayTaskRunner(address='ray://h:1')"


def test_later_changes_of_what_was_given_do_not_reach_it() -> None:
    options = {"num_cpus": 2}
    runner = RayTaskRunner(init_kwargs=options)
    options["num_cpus"] = 3
    assert runner == RayTaskRunner(init_kwargs={"num_cpus": 2})


STRINGS: dict[str, dict[str, Any]] = {
    "ray": {},
    "ray:4": {"address": "local", "init_kwargs": {"num_cpus": 4}},
    "ray://h:10001": {"address": "ray://h:10001"},
    "ray:h:6379": {"address": "h:6379"},
    "ray:auto": {"address": "auto"},
    "ray:local": {"address": "local"},
}


@pytest.mark.parametrize("text", STRINGS)
def test_strings(text: str) -> None:
    """SPEC 11.3."""
    assert registry.resolve(text) == RayTaskRunner(**STRINGS[text])


@pytest.mark.parametrize("text", ["ray:0", "ray:four", "ray:-1", "ray://h", "ray:h:99999"])
def test_strings_that_name_nothing(text: str) -> None:
    with pytest.raises(InvalidOption, match="RayTaskRunner"):
        registry.resolve(text)


def test_what_to_install_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """SPEC 11.3."""
    monkeypatch.setattr(registry, "installed", dict)
    with pytest.raises(
        MissingExtraError, match=r"pip install ./packages/shoal ./packages/shoal-ray"
    ):
        registry.resolve("ray://h:10001")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no address": ({"address": 3}, "address"),
    "an empty address": ({"address": ""}, "address"),
    "a host": ({"address": "head"}, "host:port"),
    "a dashboard": ({"address": "http://head:8265"}, "dashboard"),
    "another scheme": ({"address": "tcp://head:8786"}, "address"),
    "arguments that are none": ({"init_kwargs": [("num_cpus", 2)]}, "init_kwargs"),
    "arguments without names": ({"init_kwargs": {1: 2}}, "init_kwargs"),
    "an address among them": ({"init_kwargs": {"address": "h:1"}}, "address"),
    "a mode that Ray has no more": ({"init_kwargs": {"local_mode": True}}, "SequentialTaskRunner"),
    "twice": ({"init_kwargs": {"ignore_reinit_error": True}}, "used as it is"),
    "several": ({"address": "ray://h:1", "init_kwargs": {"allow_multiple": True}}, "one conn"),
    "CPUs of others": ({"address": "h:1", "init_kwargs": {"num_cpus": 2}}, "num_cpus"),
    "a dashboard of others": (
        {"address": "auto", "init_kwargs": {"include_dashboard": True}},
        "include_dashboard",
    ),
    "a module as a string": ({"ship_modules": "helpers"}, "ship_modules"),
    "modules that are none": ({"ship_modules": [sys]}, "ship_modules"),
    "a check that is no bool": ({"check_environment": "no"}, "check_environment"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_at_once(case: str) -> None:
    settings, named = REFUSED[case]
    with pytest.raises(ValueError, match=named) as raised:
        RayTaskRunner(**settings)
    assert isinstance(raised.value, InvalidOption)
    assert "RayTaskRunner" in str(raised.value)


def test_importing_and_configuring_it_does_not_import_ray() -> None:
    code = (
        "import sys, shoal_ray; shoal_ray.RayTaskRunner('ray://h:1'); shoal_ray.remote_options;"
        "sys.exit('ray' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 0
