"""What Prefect has and Shoal has not, or has in another place: how it answers (SPEC 1)."""

from __future__ import annotations

import importlib
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import shoal
import shoal.absent
import shoal.logging
from shoal import Flow, State, Task, annotations, elsewhere, flow, futures, logs, task
from shoal.elsewhere import MODULES, NAMES, OPTIONS, PAGE
from shoal.exceptions import UnknownOption
from shoal.states import Pending
from shoal.utilities import annotations as utilities

ABSENT = Path(shoal.absent.__path__[0])

#: Modules in which names are missing, of this package; those of the plug-ins are tested with them.
IN_MODULES = [
    (module, name)
    for module, names in NAMES.items()
    for name in names
    if not module.endswith((".Task", ".Flow", ".State"))
    and not module.startswith(("shoal_dask", "shoal_ray"))
]
ON_CLASSES = [
    (owner, name)
    for owner in (Task, Flow, State)
    for name in NAMES[f"{owner.__module__}.{owner.__qualname__}"]
]


def says(error: BaseException, what: str, purpose: str) -> bool:
    """Whether it is the one sentence."""
    return str(error) == f"{what} is not here: in Prefect it {purpose} (see {PAGE})"


@pytest.mark.parametrize("name", MODULES)
def test_a_missing_module(name: str) -> None:
    package, _, module = f"shoal.{name}".rpartition(".")
    for statement in (
        f"import shoal.{name}",
        f"from {package} import {module}",
        f"import shoal.{name}.x",
    ):
        with pytest.raises(ModuleNotFoundError) as raised:
            exec(statement)
        assert says(raised.value, f"shoal.{name}", MODULES[name])
        assert raised.value.name == f"shoal.{name}"
    with pytest.raises(ModuleNotFoundError, match=f"shoal.{name} is not here"):
        importlib.import_module(f"shoal.{name}")
    holder = importlib.import_module(package)
    assert not hasattr(holder, module)
    with pytest.raises(AttributeError, match=f"shoal.{name} is not here"):
        getattr(holder, module)


def test_table_and_files_of_missing_modules_agree() -> None:
    found = [path.relative_to(ABSENT).with_suffix("") for path in ABSENT.rglob("*.py")]
    assert {".".join(path.parts) for path in found} - {"__init__"} == set(MODULES)
    real = [path for path in found if list(ABSENT.parent.glob(f"{path}*")) and path.name[0] != "_"]
    assert not real, "Shoal has it now: take it out of `elsewhere` and `absent/`"


@pytest.mark.parametrize(("module", "name"), IN_MODULES)
def test_a_missing_name(module: str, name: str) -> None:
    purpose = NAMES[module][name]
    with pytest.raises(ImportError) as imported:
        exec(f"from {module} import {name}")
    assert says(imported.value, f"{module}.{name}", purpose)
    holder = importlib.import_module(module)
    assert not hasattr(holder, name)
    assert getattr(holder, name, "default") == "default"
    with pytest.raises(AttributeError) as accessed:
        getattr(holder, name)
    assert says(accessed.value, f"{module}.{name}", purpose)


@pytest.mark.parametrize(("owner", "name"), ON_CLASSES)
def test_a_missing_method(owner: type, name: str) -> None:
    @task
    def one() -> None: ...

    @shoal.flow
    def main() -> None: ...

    examples = {Task: one, Flow: main, State: Pending()}
    for holder in (owner, examples[owner]):
        assert not hasattr(holder, name)
        with pytest.raises(AttributeError) as raised:
            getattr(holder, name)
        purpose = NAMES[f"{owner.__module__}.{owner.__qualname__}"][name]
        assert says(raised.value, f"{owner.__qualname__}.{name}", purpose)


TRACED = """
import sys

def trace(*_):
    return trace

sys.settrace(trace)
from shoal import flow, serve
"""


def test_a_missing_name_while_code_is_traced() -> None:
    """In an interpreter of its own, as what is traced there is all that it does."""
    done = subprocess.run(
        [sys.executable, "-c", TRACED], capture_output=True, text=True, timeout=50, check=False
    )
    assert "ImportError: shoal.serve is not here" in done.stderr


@pytest.mark.parametrize(
    "module",
    ["shoal", "shoal.states", "shoal.tasks", "shoal.flows", "shoal.context", "shoal.exceptions"],
)
def test_any_other_name_is_answered_as_everywhere(module: str) -> None:
    with pytest.raises(ImportError, match="cannot import name 'nonsense'"):
        exec(f"from {module} import nonsense")
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        getattr(importlib.import_module(module), "nonsense")  # noqa: B009  the access is the test
    with pytest.raises(ModuleNotFoundError, match="No module named"):
        importlib.import_module("shoal.nonsense")


def test_what_lives_elsewhere() -> None:
    assert shoal.logging.get_run_logger is shoal.get_run_logger
    assert shoal.logging.get_logger is logs.get_logger
    for name in ("unmapped", "quote", "allow_failure", "opaque"):
        assert getattr(utilities, name) is getattr(annotations, name)
    for name in ("Future", "TaskRunFuture", "ConcurrentFuture", "DistributedFuture"):
        assert getattr(futures, f"Prefect{name}") is futures.TaskFuture
    assert futures.PrefectFutureList is futures.TaskFutureList


def test_our_logging_is_not_in_the_way_of_pythons() -> None:
    assert logs.logging is logging
    assert shoal.logging is not logging
    code = "import shoal.logging, logging, shoal.logs; print(logging.INFO, shoal.logs.logging is logging)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "20 True\n"


def test_the_page_is_there() -> None:
    assert (Path(__file__).parents[2] / elsewhere.PAGE).exists()


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_that_is_missing(option: str) -> None:
    for kind, decorator in (("task", task), ("flow", flow)):
        sentence = f"{kind} 'len': there is no option {option!r}: in Prefect it {OPTIONS[option]} (see {PAGE})"
        for give in (
            lambda decorator=decorator: decorator(**{option: None})(len),
            lambda decorator=decorator: decorator(len).with_options(**{option: None}),
        ):
            with pytest.raises(UnknownOption) as raised:
                give()
            assert str(raised.value) == sentence


def test_an_option_that_is_there_is_not_said_to_be_missing() -> None:
    assert not {*task(print).options(), *flow(print).options()} & set(OPTIONS)
