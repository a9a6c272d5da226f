"""Tracebacks without the library's frames, and as they cross."""

from __future__ import annotations

import asyncio
import inspect
import linecache
import os
import subprocess
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any

import pytest
from shoal import flow, task
from shoal.exceptions import ParameterBindError, UpstreamTaskError, WaitTimeout
from shoal.serialization import dumps, loads, portable_error
from shoal.states import Failed, raise_state_exception
from shoal.tracebacks import folded, rebuilt, told

if TYPE_CHECKING:
    from pathlib import Path
    from types import FrameType

HERE = os.path.basename(__file__)


def files_of(error: BaseException) -> list[str]:
    """The files that a traceback shows, asyncio's left out: the test itself has called it."""
    frames = traceback.extract_tb(error.__traceback__)
    return [os.path.basename(frame.filename) for frame in frames if "asyncio" not in frame.filename]


def divides(number: int) -> float:
    return number / (number - number)


@task
def fails(number: int) -> float:
    return divides(number)


@task
async def fails_later(number: int) -> float:
    return divides(number)


@task
def sleeps(seconds: float) -> None:
    time.sleep(seconds)


@task
def streams() -> Any:
    yield divides(1)


@task
async def streams_later() -> Any:
    yield divides(1)


@flow(task_runner="sequential")
def inner() -> Any:
    return fails.submit(1)


# SPEC 7.8
WAYS: dict[str, Any] = {
    "submit": lambda: fails.submit(1).result(),
    "map": lambda: fails.map([1]).result(),
    "async": lambda: fails_later.submit(1).result(),
    "call": lambda: fails(1),
    "streamed": lambda: list(streams()),
    "state": lambda: fails.submit(1, return_state=True).result(),
    "returned": lambda: fails.submit(1),
    "flow": lambda: inner(),
    "body": lambda: divides(1),
    "raised": lambda: raise_state_exception(Failed(data=fails.submit(1).exception())),
}


@pytest.mark.parametrize("runner", ["threads:1", "sequential"])
@pytest.mark.parametrize("way", WAYS)
def test_only_the_users_frames_are_raised(runner: str, way: str) -> None:
    @flow(task_runner=runner)
    def main() -> Any:
        return WAYS[way]()

    with pytest.raises(ZeroDivisionError) as caught:
        main()
    assert set(files_of(caught.value)) == {HERE}


@pytest.mark.parametrize("way", ["await", "call", "map", "streamed"])
def test_only_the_users_frames_are_raised_to_a_loop(way: str) -> None:
    @flow(task_runner="threads:1")
    async def main() -> Any:
        if way == "await":
            return await fails_later.submit(1)
        if way == "map":
            return await fails.map([1])
        if way == "streamed":
            return [item async for item in streams_later()]
        return await fails_later(1)

    with pytest.raises(ZeroDivisionError) as caught:
        asyncio.run(main())
    assert set(files_of(caught.value)) == {HERE}


def test_our_own_errors_end_at_the_users_line() -> None:
    @flow(task_runner="threads:1")
    def main(how: str) -> Any:
        if how == "bind":
            return fails(1, 2)  # type: ignore[call-arg]
        if how == "upstream":
            return fails.submit(fails.submit(1)).result()  # type: ignore[arg-type]
        return sleeps.submit(0.2).result(timeout=0)

    kinds = {"bind": ParameterBindError, "timeout": WaitTimeout, "upstream": UpstreamTaskError}
    for how, kind in kinds.items():
        with pytest.raises(kind) as caught:
            main(how)
        assert set(files_of(caught.value)) == {HERE}
    cause = caught.value.__cause__
    assert cause is not None
    assert set(files_of(cause)) == {HERE}


def test_what_may_be_our_fault_is_shown_whole() -> None:
    @flow(task_runner="threads:1")
    def main() -> Any:
        run: Any = task(abs).submit(1)
        run.wait()
        run._dispatcher = None
        return run.result()

    with pytest.raises(AttributeError) as caught:
        main()
    assert files_of(caught.value)[-1:] == ["run.py"]


def test_raising_again_adds_nothing() -> None:
    @flow(task_runner="threads:1")
    def main() -> Any:
        future = fails.submit(1)
        seen = []
        for _ in range(3):
            with pytest.raises(ZeroDivisionError) as caught:
                future.result()
            seen.append(len(files_of(caught.value)))
        return seen

    assert len(set(main())) == 1


def raised(function: Any) -> BaseException:
    with pytest.raises(Exception) as caught:  # noqa: PT011  of any kind
        function()
    return caught.value


def test_a_rebuilt_traceback_shows_the_same_text() -> None:
    def multiline() -> Any:
        return [
            1,
            divides(
                3,
            ),
        ][0] + 1

    error = raised(multiline)
    again: Any = loads(portable_error(error, "run"))
    own = "".join(traceback.format_exception(error))
    rebuilt_text = "".join(traceback.format_exception(again))
    assert own == rebuilt_text
    assert [line._asdict() for line in told(again)] == [line._asdict() for line in told(error)]


def test_lines_of_code_that_is_in_no_file() -> None:
    """As notebooks have it: the driver knows the source, and no other process does."""
    name = "<cell 7>"
    source = "def fails():\n    return 1 / 0  # in a cell\n"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(source, name, "exec"), names)
    function = loads(dumps(names["fails"]))
    error = loads(portable_error(raised(function), "run"))
    assert "return 1 / 0  # in a cell" in "".join(traceback.format_exception(error))
    del linecache.cache[name]


def test_a_rebuilt_frame_finds_the_source_of_its_function() -> None:
    """As IPython looks for it: from where the code begins."""

    def inner() -> Any:
        return divides(1)

    for function in (inner, lambda: 1 / 0):
        error = raised(function)
        again: Any = loads(portable_error(error, "run"))
        own, rebuilt_frame = (last_frame(each) for each in (error, again))
        assert inspect.getsource(rebuilt_frame) == inspect.getsource(own)
        assert rebuilt_frame.f_locals == {}


def last_frame(error: BaseException) -> FrameType:
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame


def test_a_long_traceback_is_cut() -> None:
    def endless(n: int) -> Any:
        return endless(n + 1)

    error = raised(lambda: endless(0))
    assert len(told(error)) == 200
    assert len(traceback.extract_tb(rebuilt(told(error)))) == 200


def test_code_without_columns_or_lines() -> None:
    code = compile("1 / 0", "odd.py", "exec")
    error = raised(lambda: exec(code.replace(co_linetable=b"")))
    shown = traceback.extract_tb(rebuilt(told(error)))
    assert shown[-1].filename == "odd.py"
    assert folded(error) is not None


# SPEC 7.8
def test_a_script_that_fails_shows_the_scripts_lines_only(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from shoal import flow, task\n"
        "def divides(x):\n"
        "    return x / 0\n"
        "@task\n"
        "def fails(x):\n"
        "    return divides(x)\n"
        "@flow(task_runner='processes:1')\n"
        "def main():\n"
        "    return fails.submit(1).result()\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    shown = done.stderr[done.stderr.index("Traceback") :]
    assert shown.count("Traceback") == 1
    assert [line.strip() for line in shown.splitlines() if "File" in line or "^" not in line] == [
        "Traceback (most recent call last):",
        f'File "{script}", line 10, in <module>',
        "main()",
        f'File "{script}", line 9, in main',
        "return fails.submit(1).result()",
        f'File "{script}", line 6, in fails',
        "return divides(x)",
        f'File "{script}", line 3, in divides',
        "return x / 0",
        "ZeroDivisionError: division by zero",
    ]
