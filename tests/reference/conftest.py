"""The examples sleep for seconds; here a second takes a hundredth of one."""

import asyncio
import shlex
import time
from collections.abc import Callable

import pytest
from shoal.cli.app import invoke


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    """Carries out a line of a page, `prefect` replaced, in this process; gives what it prints."""

    def run(line: str) -> str:
        program, *arguments = shlex.split(line)
        assert program == "shoal"
        code = invoke(arguments)
        out, err = capsys.readouterr()
        assert code == 0, err
        return out

    return run


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `time.sleep` and `asyncio.sleep` a hundred times as fast."""
    sleep, sleep_async = time.sleep, asyncio.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(seconds / 100))
    monkeypatch.setattr(asyncio, "sleep", lambda seconds: sleep_async(seconds / 100))


@pytest.fixture(params=["threads", "processes:2"])
def each_pool(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes each pool in turn the runner of flows that name none."""
    monkeypatch.setenv("SHOAL_TASK_RUNNER", request.param)
