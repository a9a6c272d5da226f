"""Real live processes: what they answer, and that nothing of them is left."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from shoal_bench.contestants import RUNNERS, known
from shoal_bench.live.child import Server
from shoal_bench.live.process import LiveProcess, Lost, Void
from shoal_bench.scenarios import load

from tests.bench.fakes import Sequential

OVERHEAD = load(["overhead"])[0]
MAP = OVERHEAD.cases(full=False)[0]


@contextmanager
def live(name: str) -> Iterator[LiveProcess]:
    process = LiveProcess(known()[name], 2, 1e9)
    try:
        yield process
    finally:
        process.kill()


@pytest.mark.parametrize("name", ["threads", "futures-threads"])
def test_takes_samples_and_closes(name: str) -> None:
    with live(name) as process:
        assert process.warm("overhead", MAP) >= MAP.least
        sample = process.sample("overhead", MAP, 100, 3)
        assert (sample.round, sample.quantities) == (3, {"tasks": 100})
        assert sample.value == pytest.approx(sample.wall / 100)
        assert sample.cpu is not None
        assert sample.cpu >= 0
        assert process.close() > 0


def test_what_it_cannot_do_is_void_and_it_goes_on() -> None:
    (failures,) = load(["failures"])
    _, death = failures.cases(full=False)
    with live("futures-threads") as process:
        with pytest.raises(Void, match="does not outlive the death of a worker"):
            process.sample("failures", death, 1, 1)
        assert process.sample("overhead", MAP, 100, 1).value > 0


def test_who_takes_too_long_is_ended() -> None:
    with live("futures-threads") as process:
        with pytest.raises(Lost, match="took longer than 0 s"):
            process.sample("overhead", replace(MAP, limit=0.0), 100, 1)
        assert process._process.poll() is not None


def test_who_was_killed_is_lost() -> None:
    with live("futures-threads") as process:
        psutil.Process(process._process.pid).kill()
        with pytest.raises(Lost, match="its process was killed by SIGKILL"):
            process.sample("overhead", MAP, 100, 1)


def test_a_system_that_cannot_be_opened() -> None:
    spec = replace(known()["loky"], adapter="nothing:Nothing")
    with pytest.raises(Lost, match="ModuleNotFoundError"):
        LiveProcess(spec, 2, 1e9)


@pytest.mark.parametrize(
    "written", ["Welcome!", "[1]", '{"event": "greeting"}', "[" * 100_000], ids=lambda w: w[:10]
)
def test_an_interpreter_that_writes_something_else_is_lost(tmp_path: Path, written: str) -> None:
    greeting = tmp_path / "greeting"
    greeting.write_text(written + "\n")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\ncat {greeting}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    with pytest.raises(Lost, match=r"it wrote .* where an answer was due") as caught:
        LiveProcess(known()["futures-threads"], 1, 1e9, str(python))
    assert written[:200] in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("ours", RUNNERS)
def test_every_runner_beside_its_bare_engine(ours: str) -> None:
    for name in (ours, known()[ours].bare or ""):
        with live(name) as process:
            size = process.warm("overhead", MAP)
            assert process.sample("overhead", MAP, size, 1).value > 0
            process.close()


class Conversation:
    """A pipe whose other end has said all that it will."""

    def __init__(self, *requests: dict[str, Any]) -> None:
        self.requests = list(requests)
        self.said: list[str] = []

    def hear(self) -> dict[str, Any] | None:
        return self.requests.pop(0) if self.requests else None

    def say(self, event: str, **content: Any) -> None:
        self.said.append(event)


class Calls(Sequential):
    """Notes which functions are mapped."""

    mapped: list[str]

    def map(self, function: Any, items: Any) -> list[Any]:
        self.mapped.append(function.__name__)
        return super().map(function, items)


@pytest.mark.parametrize(
    ("argument", "mapped"),
    [("", ["same"]), ("ray://host:10001", ["arrive", "same"])],
    ids=["of its own", "that runs"],
)
def test_workers_of_a_cluster_that_runs_have_arrived_before_each_sample(
    argument: str, mapped: list[str]
) -> None:
    """Ray ends those that are idle while another contestant takes its turn."""
    system = Calls(1, argument)
    system.mapped = []
    case = {"name": "map", "least": 1, "most": 1}
    sample = {"do": "sample", "scenario": "overhead", "case": case, "size": 1}
    pipe = Conversation(sample, {"do": "go"}, {"do": "go"})
    Server(system, pipe, 1e9).serve()  # type: ignore[arg-type]
    assert system.mapped == mapped
    assert pipe.said == ["clock", "clock", "sampled"]
