"""The `shoal` command: what is typed, what is printed, and the exit code (SPEC 11.3)."""

from __future__ import annotations

import importlib.metadata
import json
import operator
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from shoal.cli.app import PLUGINS, invoke
from shoal.cli.signals import Signals
from shoal.task_runners import registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SHOAL = str(Path(sys.executable).with_name("shoal"))

FLOWS = """
    import datetime, os, threading
    from pathlib import Path
    from typing import Any, Iterable, Literal, Optional

    import pydantic

    from shoal import flow, task

    class Shop(pydantic.BaseModel):
        name: str
        size: int = 1

    @task
    def where() -> str:
        return threading.current_thread().name

    @task
    def divide(a, b):
        return a / b

    @task
    def process() -> int:
        return os.getpid()

    @flow
    def place():
        return where.submit().result()

    @flow
    def is_elsewhere():
        return process.submit().result() != os.getpid()

    @flow(name="twice as much")
    def double(n: int, name: str = "x", items: list[int] = []):
        return n * 2, name, items

    @flow
    def types(
        text: str = "", maybe: Optional[int] = None, day: datetime.date = None, path: Path = None,
        flag: bool = None, either: int | str = None, shop: Shop = None, table: dict[str, float] = None,
        kind: Literal["a", "b"] = None, whatever=None, anything: Any = None, stream: Iterable[int] = (),
        pair: tuple[int, str] = None,
    ):
        given = {key: value for key, value in locals().items() if value not in (None, "", ())}
        given.pop("stream", None)
        return [*given.values(), *stream]

    @flow(validate_parameters=False)
    def unchecked(n: int):
        return n + 1

    @flow
    def loose(first, /, *numbers: int, **options: float):
        return first, numbers, options

    @flow
    def fails(n: int = 0):
        return divide.map([n], [0]).result()

    @flow
    async def later(n: int):
        return await divide.submit(n, 2)

    @flow
    async def fails_later():
        return await divide.submit(1, 0)

    @flow
    def nothing():
        pass

    @flow
    def leaves():
        raise SystemExit(3)

    here = 5
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, with `flows.py`; what is imported from it is forgotten."""
    (tmp_path / "flows.py").write_text(textwrap.dedent(FLOWS))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("SHOAL_TASK_RUNNER", raising=False)
    monkeypatch.setenv("SHOAL_LOGGING_LEVEL", "INFO")
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if file.startswith(str(tmp_path)):
            del sys.modules[name]


Result = tuple[int, str, str]


@pytest.fixture
def shoal(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Carries out a command line in this process; gives exit code, stdout and stderr."""

    def run(*tokens: str) -> Result:
        code = invoke(tokens)
        out, err = capsys.readouterr()
        return code, out, err

    return run


Shoal = "Callable[..., Result]"


# ---------------------------------------------------------------------- the command itself


def test_version(shoal: Shoal) -> None:
    import shoal as package

    assert shoal("--version") == (0, f"shoal {package.__version__}\n", "")


@pytest.mark.parametrize("tokens", [(), ("--help",)], ids=["nothing", "help"])
def test_help_lists_the_commands(shoal: Shoal, tokens: tuple[str, ...]) -> None:
    code, out, err = shoal(*tokens)
    assert (code, err) == (0, "")
    for command in ("run", "runners", "demo", "bench"):
        assert f" {command} " in out


@pytest.mark.parametrize("command", ["run", "runners", "demo"])
def test_every_command_has_help(shoal: Shoal, command: str) -> None:
    code, out, _ = shoal(command, "--help")
    assert code == 0
    assert f"Usage: shoal {command}" in out


# ---------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("rn", ["rn", 'Did you mean "run"']),
        ("run", ["TARGET"]),
        ("run flows.py:double --runer threads", ["--runer", "--runner"]),
        ("run flow.py:double", ["no file 'flow.py'", "Did you mean 'flows.py'?"]),
        ("run other/flows.py:double", ["no file 'other/flows.py'", "no folder 'other'"]),
        ("run ./:double", ["is a folder"]),
        ("run notes.txt:double", ["no Python file"]),
        ("run flow:double", ["no module 'flow'", "its path"]),
        ("run flows.sub:double", ["no module 'flows.sub'"]),
        ("run .flows:double", ["path/to/file.py:flow"]),
        ("run flows.py:", ["path/to/file.py:flow"]),
        ("run :double", ["path/to/file.py:flow"]),
        ("run flows.py:duoble", ["no flow 'duoble'", "'double'", "Did you mean 'double'?"]),
        ("run flows.py:divide", ["'divide' is a task, not a flow", "'double'"]),
        ("run flows.py:here", ["of type int, not a flow"]),
        ("run flows.py", ["a single flow", "'double'", "Say which: flows.py:"]),
        ("run none.py", ["a single flow", "none", "@flow"]),
        ("run none.py:x", ["not a flow", "@flow"]),
        ("run flows.py:double -p n", ["-p n: write -p name=value"]),
        ("run flows.py:double -p", ["requires an argument"]),
        ("run flows.py:double -p =3", ["write -p name=value"]),
        ("run flows.py:double n=3", ["n=3", "-p name=value"]),
        ("run flows.py:double -p n=1 -p n=2", ["'n' is given twice"]),
        ("run flows.py:double -p m=1", ["no parameter 'm'", "n: int", "name: str = 'x'"]),
        ("run flows.py:double -p n=1 -p nam=1", ["no parameter 'nam'", "Did you mean 'name'?"]),
        ("run flows.py:double", ["needs n: int", "-p n=..."]),
        ("run flows.py:double -p n=one", ["-p n=one", "n: int", "valid integer"]),
        ("run flows.py:double -p n=1 -p items=1,2", ["list[int]", "JSON", "'items=[1, 2]'"]),
        ("run flows.py:double -p n=1 -p items=[1,[]]", ["-p items=", "[1]: ", "valid integer"]),
        ("run flows.py:types -p shop=x", ["Shop", "JSON", "'shop={"]),
        ("run flows.py:types -p kind=c", ["kind=c", "'a' or 'b'"]),
        ("run flows.py:loose -p first=1 -p rate=high", ["-p rate=high", "**options: float"]),
        ("run flows.py:place --runner treads", ["'treads'", "did you mean 'threads'?"]),
        ("run flows.py:place --runner thread", ["'thread'", "did you mean 'threads'?"]),
        ("run flows.py:place --runner threads:many", ["'many'", "a whole number is needed"]),
        ("run flows.py:place --runner threads:0", ["max_workers=0"]),
        ("run flows.py:place --runner proceses", ["'proceses'", "did you mean 'processes'?"]),
        ("run flows.py:place --runner processes:0", ["max_workers=0"]),
        ("run flows.py:place --runner processes:two", ["'two'", "a whole number is needed"]),
        ("run bad.py", ["flow 'only'", "'treads'", "did you mean 'threads'?"]),
        ("demo --limit 0", ["--limit", ">= 1"]),
        ("demo --runner treads", ["did you mean 'threads'?"]),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do(
    shoal: Shoal, folder: Path, line: str, parts: list[str]
) -> None:
    (folder / "none.py").write_text("x = 1\n")
    (folder / "bad.py").write_text(ONE_FLOW.replace("@flow", "@flow(task_runner='treads')"))
    (folder / "notes.txt").write_text("x = 1\n")
    code, out, err = shoal(*line.split())
    assert (code, out) == (2, "")
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    for part in parts:
        assert part in err.replace("does not hold a flow", "no flow")


@pytest.mark.skipif(find_spec("shoal_dask") is not None, reason="shoal-dask is installed")
def test_a_runner_that_is_not_installed_names_the_command(shoal: Shoal) -> None:
    code, _, err = shoal("run", "flows.py:place", "--runner", "dask")
    assert code == 2
    assert "pip install ./packages/shoal ./packages/shoal-dask" in err


def test_the_runner_of_the_environment_is_checked(
    shoal: Shoal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOAL_TASK_RUNNER", "treads")
    code, _, err = shoal("run", "flows.py:nothing")
    assert code == 2
    assert "SHOAL_TASK_RUNNER: there is no task runner 'treads'; did you mean 'threads'?" in err


# ---------------------------------------------------------------------- parameters


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("text=5", ["5"]),
        ("text=null", ["null"]),
        ("text=a=b", ["a=b"]),
        ("text=[1, 2]", ["[1, 2]"]),
        ("maybe=5", [5]),
        ("maybe=null", []),
        ("day=2024-05-01", ["datetime.date(2024, 5, 1)"]),
        ("path=a/b", ["PosixPath('a/b')"]),
        ("flag=yes", [True]),
        ("either=5", ["5"]),
        ("either=x", ["x"]),
        ('shop={"name": "a", "size": "2"}', ["Shop(name='a', size=2)"]),
        ('table={"a": 1}', [{"a": 1.0}]),
        ("kind=a", ["a"]),
        ("whatever=5", [5]),
        ("whatever=five", ["five"]),
        ('anything={"a": [1]}', [{"a": [1]}]),
        ("stream=[1, 2]", [1, 2]),
        ('pair=[1, "a"]', [(1, "a")]),
    ],
)
def test_parameters_are_read_by_their_types(
    shoal: Shoal, assignment: str, value: list[object]
) -> None:
    code, out, err = shoal("run", "flows.py:types", "-p", assignment)
    assert (code, err) == (0, "")
    reprs = [v if isinstance(v, str) and "(" in v else repr(v) for v in value]
    assert out.strip() == f"[{', '.join(reprs)}]"


@pytest.mark.parametrize(
    ("line", "printed"),
    [
        ("flows.py:double -p n=2", "(4, 'x', [])"),
        ("flows.py:double -p n=2 -p name=y -p items=[1,2]", "(4, 'y', [1, 2])"),
        ("flows.py:double --param n=2 --param=name=7", "(4, '7', [])"),
        ("flows:double -p n=2", "(4, 'x', [])"),
        ("flows.py:unchecked -p n=2", "3"),
        ("flows.py:later -p n=3", "1.5"),
        ("flows.py:loose -p first=x -p numbers=[1,2] -p a=1", "('x', (1, 2), {'a': 1.0})"),
        ("flows.py:nothing", ""),
    ],
)
def test_a_flow_is_run_and_its_value_printed(shoal: Shoal, line: str, printed: str) -> None:
    assert shoal("run", *line.split()) == (0, printed + "\n" if printed else "", "")


def test_annotations_that_only_type_checkers_know(shoal: Shoal, folder: Path) -> None:
    code = """
    from __future__ import annotations
    from typing import TYPE_CHECKING
    if TYPE_CHECKING:
        from somewhere import Thing
    from shoal import flow
    @flow
    def it(thing: Thing, text: str): return thing, text
    """
    (folder / "lazy.py").write_text(textwrap.dedent(code))
    assert shoal("run", "lazy.py", "-p", "thing=[1]", "-p", "text=[1]")[:2] == (
        0,
        "([1], '[1]')\n",
    )


# ---------------------------------------------------------------------- targets and runners

ONE_FLOW = "from shoal import flow\n@flow\ndef only(): return __name__\n"


def test_a_flow_goes_by_its_own_name_too(shoal: Shoal) -> None:
    assert shoal("run", "flows.py:twice as much", "-p", "n=1")[:2] == (0, "(2, 'x', [])\n")


@pytest.mark.parametrize("file", ["only.py", "only-one.py", "json.py", "on.ly.py"])
def test_the_only_flow_needs_no_name(shoal: Shoal, folder: Path, file: str) -> None:
    (folder / file).write_text(ONE_FLOW)
    code, out, err = shoal("run", file)
    assert (code, err) == (0, "")
    assert out.strip() in (file.removesuffix(".py"), "__shoal_file__")


def test_imported_flows_are_not_in_the_way(shoal: Shoal, folder: Path) -> None:
    (folder / "mine.py").write_text(f"from flows import double, place\n{ONE_FLOW}")
    assert shoal("run", "mine.py") == (0, "mine\n", "")


def test_the_folder_of_the_file_comes_first_on_the_path(shoal: Shoal, folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "beside.py").write_text("value = 7\n")
    script = "import beside\nfrom shoal import flow\n@flow\ndef only(): return beside.value\n"
    (folder / "deep" / "script.py").write_text(script)
    assert shoal("run", "deep/script.py") == (0, "7\n", "")
    assert sys.path[0] == str(folder / "deep")


def test_the_runner_is_replaced(shoal: Shoal) -> None:
    """SPEC 11.3."""
    assert shoal("run", "flows.py:place", "-r", "sequential") == (0, "MainThread\n", "")
    assert shoal("run", "flows.py:place", "--runner=threads:2")[1] != "MainThread\n"
    assert shoal("run", "flows.py:is_elsewhere") == (0, "False\n", "")
    assert shoal("run", "flows.py:is_elsewhere", "-r", "processes:1") == (0, "True\n", "")


def test_the_runner_of_the_environment(shoal: Shoal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_TASK_RUNNER", "processes:1")
    assert shoal("run", "flows.py:is_elsewhere") == (0, "True\n", "")


def test_what_fails_in_another_process_shows_where(shoal: Shoal) -> None:
    code, out, err = shoal("run", "flows.py:fails", "--runner", "processes:1")
    assert (code, out) == (1, "")
    assert "ZeroDivisionError: division by zero" in err
    assert ", in divide\n    return a / b\n" in err
    assert err.count("Traceback") == 1
    assert err.count("flows.py") == err.count("File ") == 2


# ---------------------------------------------------------------------- failures


@pytest.mark.parametrize("flow", ["fails", "fails_later"])
def test_a_failure_is_one_traceback_of_the_users_code(shoal: Shoal, flow: str) -> None:
    code, out, err = shoal("run", f"flows.py:{flow}")
    assert (code, out) == (1, "")
    assert err.count("Traceback") == 1
    assert err.count("flows.py") == err.count("File ") == 2
    assert err.rstrip().endswith("ZeroDivisionError: division by zero")


def test_causes_are_shown_without_frames_of_the_library(shoal: Shoal, folder: Path) -> None:
    code = """
    from shoal import flow, task
    @task
    def bad(): raise KeyError("k")
    @task
    def after(x): return x
    @flow
    def only(): after.submit(bad.submit()).result()
    """
    (folder / "chain.py").write_text(textwrap.dedent(code))
    code, _, err = shoal("run", "chain.py")
    assert code == 1
    assert "KeyError: 'k'" in err
    assert "UpstreamTaskError" in err
    assert err.count("chain.py") == err.count("File ") == 2


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("import no_such_module_\n", "ModuleNotFoundError: No module named 'no_such_module_'"),
        ("def f(:\n", "SyntaxError: invalid syntax"),
    ],
)
@pytest.mark.parametrize("target", ["broken.py", "broken:only"])
def test_a_file_that_cannot_be_loaded_shows_why(
    shoal: Shoal, folder: Path, text: str, last: str, target: str
) -> None:
    (folder / "broken.py").write_text(text)
    code, out, err = shoal("run", target)
    assert (code, out) == (1, "")
    assert err.count("File ") == 1
    assert "broken.py" in err
    assert err.rstrip().endswith(last)


def test_a_bug_of_ours_is_shown_whole(shoal: Shoal, monkeypatch: pytest.MonkeyPatch) -> None:
    from shoal import Flow

    monkeypatch.setattr(Flow, "__call__", operator.itemgetter("lost"))  # has no frame of its own
    code, _, err = shoal("run", "flows.py:nothing")
    assert code == 1
    assert "cli/run.py" in err


def test_a_flow_that_leaves_decides_on_the_exit_code(shoal: Shoal) -> None:
    with pytest.raises(SystemExit) as left:
        shoal("run", "flows.py:leaves")
    assert left.value.code == 3


# ---------------------------------------------------------------------- runners, plugins


def test_runners_are_listed(shoal: Shoal) -> None:
    import shoal as package

    code, out, err = shoal("runners")
    assert (code, err) == (0, "")
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    assert rows["threads"][1:5] == ["shoal", package.__version__, "-r", "threads"]
    assert rows["processes"][1:5] == ["shoal", package.__version__, "-r", "processes"]
    assert "default" in " ".join(rows["threads"])
    assert "default" not in " ".join(rows["processes"])
    assert max(map(len, out.splitlines()[: len(rows)])) < 101


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """shoal-ray is not installed."""
    found = registry.installed()
    without = {name: entry for name, entry in found.items() if name != "ray"}
    monkeypatch.setattr(registry, "installed", lambda: without)


def test_a_failed_run_without_a_journal_says_how_the_next_can_go_on(
    shoal: Shoal, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, at the end, where there would have been something to go on with."""
    (folder / "several.py").write_text(
        textwrap.dedent("""
            from shoal import flow, task

            @task
            def one(x):
                return 1 / x

            @flow
            def mapped():
                one.map([1, 2]).result()
                raise ValueError("broken")

            @flow(persist_result=True)
            def returned():
                return one.map([1, 0])

            @flow
            async def submitted():
                await one.submit(1)
                await one.submit(0)

            @flow
            def called():
                one(1), one(0)

            @flow
            def single():
                one(0)

            forbidden = called.with_options(name="forbidden", journal=False)
        """)
    )
    monkeypatch.setenv("SHOAL_HOME", str(folder / "home"))
    how = "To have the next run go on where it stops, begin it with --journal.\n"
    for name in ("mapped", "returned", "submitted", "called"):
        code, _, err = shoal("run", f"several.py:{name}")
        assert (code, err.count(how)) == (1, 1), name
        assert err.endswith(how)
    for name in ("single", "forbidden"):
        code, _, err = shoal("run", f"several.py:{name}")
        assert (code, how in err) == (1, False), name
    _, _, err = shoal("run", "several.py:mapped", "--journal")
    assert how not in err
    _, _, err = shoal("resume", "last")
    assert how not in err
    assert "To go on where it stopped: shoal resume" in err


@pytest.mark.usefixtures("no_ray")
def test_runners_that_are_not_installed_say_how(shoal: Shoal) -> None:
    _, out, _ = shoal("runners")
    assert "ray comes with shoal-ray; in a clone: " in out
    assert "pip install ./packages/shoal ./packages/shoal-ray" in out
    code, _, err = shoal("run", "flows.py:place", "-r", "ray")
    assert code == 2
    assert "pip install ./packages/shoal ./packages/shoal-ray" in err


@pytest.mark.usefixtures("no_ray")
def test_runners_as_json(shoal: Shoal, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the versions of engines, where a package brings one (SPEC 11.3)."""
    code, out, err = shoal("runners", "--json")
    assert (code, err) == (0, "")
    rows = {row["name"]: row for row in json.loads(out)}
    assert rows["threads"]["is_default"]
    monkeypatch.setenv("SHOAL_TASK_RUNNER", "tcp://host:8786")
    by_address = {row["name"]: row for row in json.loads(shoal("runners", "--json")[1])}
    assert {name for name, row in by_address.items() if row.get("is_default")} <= {"dask"}
    assert not by_address["threads"]["is_default"]
    assert rows["threads"]["engines"] == {}
    assert "shoal-ray" in rows["ray"]["install"]
    assert rows["ray"]["version"] is None
    for name in rows.keys() & {"dask"}:
        assert rows[name]["engines"]["distributed"] == importlib.metadata.version("distributed")


def test_the_package_runs_as_the_command() -> None:
    import shoal as package

    command = [sys.executable, "-m", "shoal", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"shoal {package.__version__}\n"


def test_shells_complete_commands_and_runners(
    shoal: Shoal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its script is in a home of the test's own; bash is asked what it makes of that."""
    monkeypatch.setenv("HOME", str(tmp_path))
    code, _, _ = shoal("--install-completion", "--shell", "bash")
    assert code == 0
    script = tmp_path / ".local/share/bash-completion/completions/shoal"
    assert str(script) in (tmp_path / ".bashrc").read_text()

    def completed(*words: str) -> list[str]:
        asked = " ".join(f"'{word}'" for word in words)
        code = f"COMP_WORDS=({asked}); COMP_CWORD={len(words) - 1}; _shoal; echo ${{COMPREPLY[@]}}"
        command = ["bash", "-c", f"source {script}; {code}"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    assert completed("shoal", "doc") == ["doctor"]
    assert completed("shoal", "run", "flows.py", "--runner", "th") == ["threads"]
    assert completed("shoal", "demo", "-r", "") == [
        *("threads", "processes", "sequential", "dask", "ray")
    ]
    assert completed("shoal", "run", "flo") == ["flows.py"]


def entry(name: str, value: str) -> importlib.metadata.EntryPoint:
    return importlib.metadata.EntryPoint(name, value, PLUGINS)


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> list[importlib.metadata.EntryPoint]:
    """The commands that other packages add."""
    entries: list[importlib.metadata.EntryPoint] = []
    find = importlib.metadata.entry_points
    monkeypatch.setattr(
        importlib.metadata,
        "entry_points",
        lambda group: entries if group == PLUGINS else find(group=group),
    )
    return entries


def test_without_the_benchmarks_bench_says_how_to_get_them(
    shoal: Shoal, plugins: list[importlib.metadata.EntryPoint]
) -> None:
    code, _, err = shoal("bench", "overhead", "--runner", "threads")
    assert code == 2
    assert "shoal-bench" in err


def test_other_packages_add_commands(
    shoal: Shoal, folder: Path, plugins: list[importlib.metadata.EntryPoint]
) -> None:
    code = """
    from cyclopts import App
    bench = App(name="bench")
    @bench.command
    def overhead(times: int = 1):
        print("measured", times)
    def hello(name: str):
        return 4
    """
    (folder / "plugin.py").write_text(textwrap.dedent(code))
    sys.path.insert(0, str(folder))
    plugins += [entry("bench", "plugin:bench"), entry("hello", "plugin:hello")]
    assert shoal("bench", "overhead", "--times", "2") == (0, "measured 2\n", "")
    assert shoal("hello", "you") == (4, "", "")
    assert " hello " in shoal("--help")[1]


def test_a_broken_plugin_breaks_nothing_else(
    shoal: Shoal, plugins: list[importlib.metadata.EntryPoint]
) -> None:
    plugins.append(entry("bench", "no_such_plugin:app"))
    assert shoal("--help")[0] == 0
    assert shoal("run", "flows.py:nothing")[0] == 0
    code, _, err = shoal("bench")
    assert code == 2
    assert "no_such_plugin" in err


# ---------------------------------------------------------------------- real processes

SLOW = """
    import asyncio, signal, sys, threading, time
    from shoal import flow, task
    from shoal.futures import as_completed

    @task
    def quick(n):
        return n

    @task
    def spin():
        while True:
            time.sleep(0.01)

    def say(text):
        print(text, flush=True)

    @flow
    def tasks():
        quick.map(range(3)).result()
        futures = spin.map(range(0, 50, 10))
        say("ready")
        futures.wait()

    @flow(task_runner="processes:2")
    def processes():
        tasks.fn()

    @flow
    async def coroutine():
        say("ready")
        await asyncio.sleep(60)

    def signal_elsewhere():
        time.sleep(1)
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

    @task
    def elsewhere():
        signal_elsewhere()
        time.sleep(60)

    @flow
    def lost():
        future = elsewhere.submit()
        say("ready")
        future.wait()

    @flow
    def lost_in_turn():
        say("ready")
        next(iter(as_completed([elsewhere.submit()])))

    @flow
    async def lost_in_a_loop():
        say("ready")
        threading.Thread(target=signal_elsewhere, daemon=True).start()
        await asyncio.sleep(60)

    @flow
    def covers_up():
        try:
            say("ready")
            time.sleep(60)
        except KeyboardInterrupt:
            raise ValueError("cannot be pickled") from None

    @flow
    def takes_notice():
        try:
            say("ready")
            time.sleep(60)
        except KeyboardInterrupt:
            return "noticed"

    @flow
    def held_up():
        threading.Thread(target=time.sleep, args=(60,)).start()
        say("ready")
        time.sleep(60)
""".replace("def spin():", "def spin(n):")


def started(folder: Path, *command: str) -> subprocess.Popen[str]:
    """A process that has said that it is ready to be stopped."""
    (folder / "slow.py").write_text(textwrap.dedent(SLOW))
    process = subprocess.Popen(
        command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(
    ("flow", "number", "code"),
    [
        pytest.param("tasks", signal.SIGINT, 130, id="tasks-ctrl-c"),
        pytest.param("tasks", signal.SIGTERM, 143, id="tasks-sigterm"),
        pytest.param("processes", signal.SIGINT, 130, id="processes-ctrl-c"),
        pytest.param("coroutine", signal.SIGTERM, 143, id="coroutine-sigterm"),
    ],
)
def test_a_signal_ends_the_flow_quietly(
    tmp_path: Path, flow: str, number: signal.Signals, code: int
) -> None:
    with started(tmp_path, SHOAL, "run", f"slow.py:{flow}") as process:
        process.send_signal(number)
        began = time.monotonic()
        _, err = process.communicate(timeout=20)
    assert process.returncode == code
    assert time.monotonic() - began < 15
    assert "Traceback" not in err
    stopped = "Stopped." if flow == "coroutine" else "Stopped: 5 runs were cancelled, 3 had ended."
    assert stopped in err.splitlines()


def test_a_signal_that_comes_as_another_error_is_no_failure(tmp_path: Path) -> None:
    """Where it is raised in the midst of pickling, say, and that is told as what it is: an error."""
    with started(tmp_path, SHOAL, "run", "slow.py:covers_up") as process:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "Stopped." in err.splitlines()


def test_a_flow_that_takes_notice_of_a_signal_has_the_last_word(tmp_path: Path) -> None:
    with started(tmp_path, SHOAL, "run", "slow.py:takes_notice") as process:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, "noticed\n")
    assert "Stopped" not in err


@pytest.mark.slow  # a quarter of the standard library is read before
def test_the_demo_says_what_was_stopped(tmp_path: Path) -> None:
    command = [SHOAL, "demo", "--runner", "threads:1"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:
        assert process.stderr is not None
        assert "measured" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert re.search(
        r"^Stopped: [\d,]+ runs were cancelled, [\d,]+ had ended\.$", err, re.MULTILINE
    )
    assert "Traceback" not in err


def test_an_async_flow_of_the_command_in_another_thread() -> None:
    """Signals are the main thread's affair; elsewhere nothing is changed."""

    async def value() -> int:
        return 1

    def run() -> int:
        with Signals() as handled:
            return handled.run(value())

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(run).result() == 1


@pytest.mark.parametrize(
    "flow",
    [
        "lost_in_a_loop",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("lost", "lost_in_turn")),
    ],
)
def test_a_signal_that_ends_no_system_call_is_seen(tmp_path: Path, flow: str) -> None:
    """It reached another thread, or the main thread just before that went to wait."""
    with started(tmp_path, SHOAL, "run", f"slow.py:{flow}") as process:
        _, err = process.communicate(timeout=20)
    assert process.returncode == 143
    assert "Traceback" not in err


def test_what_holds_up_the_exit_is_given_up(tmp_path: Path) -> None:
    script = (
        "import sys; from shoal.cli import main, signals; signals.PATIENCE = 0.5;"
        "sys.argv[1:] = ['run', 'slow.py:held_up']; sys.exit(main())"
    )
    with started(tmp_path, sys.executable, "-c", script) as process:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in err


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    with started(tmp_path, SHOAL, "run", "slow.py:held_up") as process:
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        while process.poll() is None and time.monotonic() - began < 4:
            time.sleep(0.1)
            process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 143
    assert "Traceback" not in err


def test_only_the_value_goes_to_stdout(folder: Path) -> None:
    command = [SHOAL, "run", "flows.py:double", "-p", "n=21"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "(42, 'x', [])\n")
    assert "Finished in state Completed()" in done.stderr


def test_exit_codes_of_failures_and_mistakes(folder: Path) -> None:
    environment = {**os.environ, "SHOAL_LOGGING_LEVEL": "CRITICAL"}
    codes = []
    for target in ("flows.py:fails", "flows.py:nothing_such"):
        command = [SHOAL, "run", target]
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=False, env=environment
        )
        assert done.stdout == ""
        codes.append(done.returncode)
    assert codes == [1, 2]


def test_a_reader_that_leaves_is_no_error(folder: Path) -> None:
    command = f"{SHOAL} run flows.py:double -p n=1 | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() in ("0", "1")
    assert "BrokenPipeError" not in done.stderr
