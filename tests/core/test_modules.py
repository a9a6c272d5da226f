"""Modules that travel by value: which ones, and for how long."""

from __future__ import annotations

import importlib
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import cloudpickle
import pytest
from shoal.exceptions import InvalidOption
from shoal.task_runners.remote.modules import shipped_by_value

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory like that of a script, with modules in it that are not installed."""
    script = str(tmp_path / "script.py")
    monkeypatch.setattr(sys.modules["__main__"], "__file__", script, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "mh_helpers.py").write_text("def double(x): return 2 * x\n")
    (tmp_path / "mh_package").mkdir()
    (tmp_path / "mh_package" / "__init__.py").write_text("")
    (tmp_path / "mh_package" / "inner.py").write_text("class Thing: pass\n")
    installed = tmp_path / "venv" / "lib" / "site-packages"
    installed.mkdir(parents=True)
    monkeypatch.syspath_prepend(str(installed))
    (installed / "mh_installed.py").write_text("def f(): pass\n")
    importlib.invalidate_caches()
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("mh_")]:
        del sys.modules[name]
    assert registered() == set()


def registered() -> set[str]:
    """Modules of these tests that travel by value."""
    names: set[str] = cloudpickle.list_registry_pickle_by_value()
    return {name for name in names if name.startswith("mh_")}


@pytest.mark.usefixtures("beside")
def test_what_lives_beside_the_script() -> None:
    for name in ("mh_helpers", "mh_package.inner", "mh_installed"):
        importlib.import_module(name)
    with shipped_by_value("auto") as shipping:
        assert registered() == {"mh_helpers", "mh_package", "mh_package.inner"} == shipping.names
    assert shipping.names == set()


@pytest.mark.usefixtures("beside")
def test_what_is_imported_later() -> None:
    with shipped_by_value("auto") as shipping:
        assert registered() == set()
        importlib.import_module("mh_helpers")
        shipping.refresh()
        assert registered() == {"mh_helpers"}
        shipping.refresh()


@pytest.mark.usefixtures("beside")
def test_two_runners_at_once() -> None:
    importlib.import_module("mh_helpers")
    first, second = shipped_by_value("auto"), shipped_by_value(["mh_helpers"])
    with second:
        with first:
            assert registered() == {"mh_helpers"}
        assert registered() == {"mh_helpers"}
    with first:
        assert registered() == {"mh_helpers"}


@pytest.mark.usefixtures("beside")
def test_what_the_user_registered_stays() -> None:
    module = importlib.import_module("mh_helpers")
    cloudpickle.register_pickle_by_value(module)
    with shipped_by_value("auto") as shipping:
        assert shipping.names == set()
    assert registered() == {"mh_helpers"}
    cloudpickle.unregister_pickle_by_value(module)


@pytest.mark.usefixtures("beside")
def test_a_list_of_names() -> None:
    with shipped_by_value(["mh_installed"]):
        assert registered() == {"mh_installed"}
    with shipped_by_value([]):
        assert registered() == set()
    with pytest.raises(InvalidOption, match="mh_no_such_module"):
        shipped_by_value(["mh_helpers", "mh_no_such_module"]).__enter__()


def test_nothing_that_is_installed() -> None:
    """The tests run from a command: what counts is where that was started, here the root of the workspace."""
    with shipped_by_value("auto") as shipping:
        tops = {name.partition(".")[0] for name in shipping.names}
    assert tops.isdisjoint({"shoal", "shoal_dask", "pytest", "distributed", "json"})


def test_a_script_and_its_helpers(beside: Path) -> None:
    """What is pickled loads where neither the script nor its helpers are."""
    (beside / "script.py").write_text(
        textwrap.dedent("""
            import sys, cloudpickle, mh_helpers
            from shoal.task_runners.remote.modules import shipped_by_value

            with shipped_by_value("auto"):
                data = cloudpickle.dumps(mh_helpers.double)
            sys.stdout.write(data.hex())
        """)
    )
    made = run("script.py", beside)
    code = f"import pickle; print(pickle.loads(bytes.fromhex('{made}'))(21))"
    assert run("-c", beside.parent, code) == "42\n"


def run(what: str, directory: Path, *rest: str) -> str:
    return subprocess.run(
        [sys.executable, what, *rest],
        cwd=directory,
        check=True,
        timeout=30,
        capture_output=True,
        text=True,
    ).stdout
