"""`DaskTaskRunner` as a value: what it takes, what it refuses, and that none of it starts anything."""

from __future__ import annotations

import importlib.machinery
import pickle
import subprocess
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from shoal.exceptions import InvalidOption, MissingExtraError, SerializationError
from shoal.task_runners import ThreadPoolTaskRunner, registry
from shoal_dask import DaskTaskRunner, backend, task_runners
from shoal_dask.task_runners import Report

if TYPE_CHECKING:
    from shoal_dask.connection import Connection


class FakeCluster:
    """Looks like a cluster to whoever does not look closely."""

    scheduler_address = "tcp://somewhere:1"


SETTINGS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "an address": {"address": "tcp://nowhere:8786"},
    "a scheduler file": {"address": Path("there/scheduler.json")},
    "a scheduler file for the client": {"client_kwargs": {"scheduler_file": "scheduler.json"}},
    "a local cluster": {"cluster_kwargs": {"n_workers": 3}, "adapt_kwargs": {"maximum": 3}},
    "a class": {"cluster_class": FakeCluster, "cluster_kwargs": {"cores": 3}},
    "the name of a class": {"cluster_class": "dask_jobqueue.SLURMCluster"},
    "all the rest": {
        "client_kwargs": {"timeout": 3, "asynchronous": False},
        "check_environment": False,
        "ship_modules": ["helpers"],
    },
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_it_is_a_value(settings: dict[str, Any]) -> None:
    """SPEC 11.1."""
    runner = DaskTaskRunner(**settings)
    assert runner == DaskTaskRunner(**settings) == runner.duplicate()
    assert hash(runner) == hash(runner.duplicate())
    assert runner == pickle.loads(pickle.dumps(runner))
    if settings:
        assert runner != DaskTaskRunner()
    for name in settings:
        assert f"{name}=" in repr(runner)


def test_what_it_was_told() -> None:
    told = DaskTaskRunner(
        cluster_class="dask_jobqueue.SLURMCluster",
        cluster_kwargs={"cores": 3},
        adapt_kwargs={"maximum": 3},
        client_kwargs={"timeout": 3},
    )
    assert (told.address, told.cluster_class) == (None, "dask_jobqueue.SLURMCluster")
    assert (told.cluster_kwargs, told.adapt_kwargs, told.client_kwargs) == (
        {"cores": 3},
        {"maximum": 3},
        {"timeout": 3},
    )
    told.cluster_kwargs["cores"] = 4
    assert told.cluster_kwargs == {"cores": 3}, "they are copies: a runner is a value"
    plain = DaskTaskRunner("tcp://nowhere:8786")
    assert plain.address == "tcp://nowhere:8786"
    assert plain.cluster_kwargs == plain.adapt_kwargs == plain.client_kwargs == {}
    assert plain.client is None


def test_names_that_prefect_has() -> None:
    import shoal_dask
    from shoal.futures import TaskFuture
    from shoal_dask import utils

    assert task_runners.PrefectDaskFuture is TaskFuture
    assert utils.get_dask_client is shoal_dask.get_dask_client is utils.get_async_dask_client
    for module in ("shoal_dask", "shoal_dask.task_runners"):
        with pytest.raises(ImportError, match=f"{module}.PrefectDaskClient is not here"):
            exec(f"from {module} import PrefectDaskClient")
    assert not hasattr(shoal_dask, "PrefectDaskClient")


def test_repr_shows_what_was_given() -> None:
    assert repr(DaskTaskRunner()) == "DaskTaskRunner()"
    assert repr(DaskTaskRunner("tcp://h:1")) == "DaskTaskRunner(address='tcp://h:1')"


def test_later_changes_of_what_was_given_do_not_reach_it() -> None:
    options = {"n_workers": 2}
    runner = DaskTaskRunner(cluster_kwargs=options)
    options["n_workers"] = 3
    assert runner == DaskTaskRunner(cluster_kwargs={"n_workers": 2})


def test_a_single_string_is_an_address() -> None:
    assert DaskTaskRunner("tcp://h:1") == DaskTaskRunner(address="tcp://h:1")


STRINGS: dict[str, dict[str, Any]] = {
    "dask": {},
    "dask:4": {"cluster_kwargs": {"n_workers": 4}},
    "tcp://h:8786": {"address": "tcp://h:8786"},
    "tls://h:8786": {"address": "tls://h:8786"},
    "ws://h:8786": {"address": "ws://h:8786"},
    "inproc://1.2.3.4/5/6": {"address": "inproc://1.2.3.4/5/6"},
    "dask:h:8786": {"address": "h:8786"},
    "dask:/shared/scheduler.json": {"address": "/shared/scheduler.json"},
}


@pytest.mark.parametrize("text", STRINGS)
def test_strings(text: str) -> None:
    """SPEC 11.3."""
    assert registry.resolve(text) == DaskTaskRunner(**STRINGS[text])


@pytest.mark.parametrize("text", ["dask:0", "dask:four", "dask:-1"])
def test_strings_that_name_nothing(text: str) -> None:
    with pytest.raises(InvalidOption, match="DaskTaskRunner"):
        registry.resolve(text)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "address and cluster": ({"cluster": FakeCluster(), "address": "tcp://h:1"}, "address"),
    "address and class": ({"address": "tcp://h:1", "cluster_class": FakeCluster}, "cluster_class"),
    "cluster and class": (
        {"cluster": FakeCluster(), "cluster_class": FakeCluster},
        "cluster_class",
    ),
    "cluster and its arguments": (
        {"cluster": FakeCluster(), "cluster_kwargs": {"n_workers": 2}},
        "cluster_kwargs",
    ),
    "cluster and adaptive": (
        {"cluster": FakeCluster(), "adapt_kwargs": {"maximum": 2}},
        "adapt_kwargs",
    ),
    "address and arguments": (
        {"address": "tcp://h:1", "cluster_kwargs": {"n_workers": 2}},
        "cluster_kwargs",
    ),
    "address and adaptive": (
        {"address": "tcp://h:1", "adapt_kwargs": {"maximum": 2}},
        "adapt_kwargs",
    ),
    "file and address": (
        {"address": "tcp://h:1", "client_kwargs": {"scheduler_file": "s.json"}},
        "scheduler_file",
    ),
    "asynchronous cluster": ({"cluster_kwargs": {"asynchronous": True}}, "asynchronous"),
    "asynchronous client": ({"client_kwargs": {"asynchronous": True}}, "asynchronous"),
    "address for the client": ({"client_kwargs": {"address": "tcp://h:1"}}, "client_kwargs"),
    "no cluster": ({"cluster": 3}, "cluster"),
    "no address": ({"address": 3}, "address"),
    "an empty address": ({"address": ""}, "address"),
    "no class": ({"cluster_class": 3}, "cluster_class"),
    "no dotted name": ({"cluster_class": "LocalCluster"}, "cluster_class"),
    "arguments that are none": ({"cluster_kwargs": [("n_workers", 2)]}, "cluster_kwargs"),
    "arguments without names": ({"cluster_kwargs": {1: 2}}, "cluster_kwargs"),
    "a module as a string": ({"ship_modules": "helpers"}, "ship_modules"),
    "modules that are none": ({"ship_modules": [sys]}, "ship_modules"),
    "a check that is no bool": ({"check_environment": "no"}, "check_environment"),
    "a negative time": ({"worker_timeout": -1}, "worker_timeout"),
    "a time that is none": ({"worker_timeout": "soon"}, "worker_timeout"),
    "a time that is no number": ({"worker_timeout": float("nan")}, "worker_timeout"),
    "a time that is a bool": ({"worker_timeout": True}, "worker_timeout"),
    "a report that is no path": ({"performance_report_path": 3}, "performance_report_path"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_at_once(case: str) -> None:
    settings, named = REFUSED[case]
    with pytest.raises(ValueError, match=named) as raised:
        DaskTaskRunner(**settings)
    assert isinstance(raised.value, InvalidOption)
    assert "DaskTaskRunner" in str(raised.value)


def test_a_given_client(connection: Connection) -> None:
    client = connection.client
    runner = DaskTaskRunner(client)
    assert runner == DaskTaskRunner(address=client) == runner.duplicate()
    with pytest.raises(InvalidOption, match="the client exists already"):
        DaskTaskRunner(client, client_kwargs={"timeout": 3})


def test_what_lives_here_cannot_travel(connection: Connection) -> None:
    for runner in (DaskTaskRunner(connection.client), DaskTaskRunner(connection.cluster)):
        with pytest.raises(SerializationError, match="needs the scheduler's address"):
            pickle.dumps(runner)


def test_duplicates_share_the_cluster() -> None:
    runner = DaskTaskRunner()
    assert runner.duplicate().duplicate()._connection is runner._connection
    assert DaskTaskRunner()._connection is not runner._connection


def test_importing_and_configuring_it_does_not_import_dask() -> None:
    code = (
        "import sys, shoal_dask; shoal_dask.DaskTaskRunner('tcp://h:1'); shoal_dask.get_dask_client;"
        "sys.exit('dask' in sys.modules or 'distributed' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 0


# ---------------------------------------------------------------------- performance report


def with_bokeh(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("bokeh")
    module.__spec__ = importlib.machinery.ModuleSpec("bokeh", None)
    monkeypatch.setitem(sys.modules, "bokeh", module)


def test_a_report_needs_bokeh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match='pip install "bokeh"'):
        DaskTaskRunner(performance_report_path="report.html")


def test_with_bokeh_it_is_a_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with_bokeh(monkeypatch)
    runner = DaskTaskRunner(performance_report_path=tmp_path / "report.html")
    assert runner == runner.duplicate() != DaskTaskRunner()


class FakeScheduler:
    """Draws what would need bokeh."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}

    async def performance_report(self, **options: Any) -> str:
        self.asked = options
        return "<html>drawn</html>"


def test_the_report_is_written(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scheduler = FakeScheduler()
    report = Report(connection.client, tmp_path / "report.html")
    monkeypatch.setattr(connection.client, "scheduler", scheduler)
    report.write()
    monkeypatch.undo()
    assert (tmp_path / "report.html").read_text() == "<html>drawn</html>"
    assert scheduler.asked["start"] > 0


def test_a_report_that_cannot_be_drawn_is_a_warning(
    connection: Connection, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    report = Report(connection.client, tmp_path / "nowhere" / "report.html")
    report.write()
    assert "report.html could not be written" in caplog.text


class FakeReport:
    """Remembers what was done with it."""

    events: list[str] = []  # noqa: RUF012 - each test has its own

    def __init__(self, client: Any, path: object) -> None:
        self.client = client
        self.events.append("begun")

    def write(self) -> None:
        self.events.append(f"written by a client that is {self.client.status}")


def test_the_report_covers_the_whole_use_also_when_it_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_bokeh(monkeypatch)
    monkeypatch.setattr(task_runners, "Report", FakeReport)
    monkeypatch.setattr(FakeReport, "events", [])
    threads = ThreadPoolTaskRunner(max_workers=1)
    monkeypatch.setattr(DaskTaskRunner, "make_backend", lambda self: threads.make_backend())
    runner = DaskTaskRunner(
        cluster_kwargs={"processes": False, "n_workers": 0}, performance_report_path="report.html"
    )
    with pytest.raises(ZeroDivisionError), runner:
        _ = 1 / 0
    assert FakeReport.events == ["begun", "written by a client that is running"]
    assert not runner._connection.is_open


def test_how_often_streams_send(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHOAL_DASK_SEND_SECONDS", raising=False)
    assert backend._send_seconds() == backend.SEND_SECONDS
    monkeypatch.setenv("SHOAL_DASK_SEND_SECONDS", "0.02")
    assert backend._send_seconds() == 0.02


@pytest.mark.parametrize("bad", ["", "soon", "-1", "nan", "inf"])
def test_how_often_nobody_can_send(bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_DASK_SEND_SECONDS", bad)
    with pytest.raises(InvalidOption, match="SHOAL_DASK_SEND_SECONDS"):
        backend._send_seconds()
