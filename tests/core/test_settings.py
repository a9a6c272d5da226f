"""Environment variables that stand in for options nobody gave, and what bad ones say."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from shoal import flow, settings, task
from shoal.exceptions import InvalidOption
from shoal.testing.samples import BoomError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def a_task(**options: Any) -> Any:
    return task(name="t", **options)(print)


def a_flow(**options: Any) -> Any:
    return flow(name="f", **options)(print)


#: By variable, what it is about, a value, and what that makes of the option.
DEFAULTS: list[tuple[str, Callable[..., Any], str, str, Any]] = [
    ("SHOAL_TASK_DEFAULT_RETRIES", a_task, "retries", "2", 2),
    ("SHOAL_TASKS_DEFAULT_RETRIES", a_task, "retries", "2", 2),
    ("SHOAL_TASK_DEFAULT_RETRY_DELAY_SECONDS", a_task, "retry_delay_seconds", "0.5", 0.5),
    (
        "SHOAL_TASK_DEFAULT_RETRY_DELAY_SECONDS",
        a_task,
        "retry_delay_seconds",
        "1,10,100",
        [1, 10, 100],
    ),
    ("SHOAL_TASK_DEFAULT_RETRY_DELAY_SECONDS", a_task, "retry_delay_seconds", "[1, 10]", [1, 10]),
    ("SHOAL_FLOW_DEFAULT_RETRIES", a_flow, "retries", "3", 3),
    ("SHOAL_FLOW_DEFAULT_RETRY_DELAY_SECONDS", a_flow, "retry_delay_seconds", "7", 7.0),
    ("SHOAL_FLOWS_DEFAULT_RETRY_DELAY_SECONDS", a_flow, "retry_delay_seconds", "7", 7.0),
]


@pytest.mark.parametrize(("variable", "make", "option", "text", "value"), DEFAULTS)
def test_defaults_of_options(
    variable: str,
    make: Callable[..., Any],
    option: str,
    text: str,
    value: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = make()
    assert getattr(before, option) == 0
    monkeypatch.setenv(variable, text)
    assert getattr(make(), option) == value
    assert getattr(make(**{option: 1}), option) == 1, "what is said prevails"
    assert getattr(make(**{option: 0}), option) == 0
    assert getattr(before, option) == 0, "it is read when a function is decorated"
    assert getattr(make().with_options(name="other"), option) == value
    assert getattr(before.with_options(**{option: None}), option) == value


@pytest.mark.parametrize(
    ("variable", "make", "text"),
    [
        ("SHOAL_TASK_DEFAULT_RETRIES", a_task, "many"),
        ("SHOAL_TASK_DEFAULT_RETRIES", a_task, "-1"),
        ("SHOAL_TASKS_DEFAULT_RETRIES", a_task, "1.5"),
        ("SHOAL_TASK_DEFAULT_RETRY_DELAY_SECONDS", a_task, "1,soon"),
        ("SHOAL_TASK_DEFAULT_RETRY_DELAY_SECONDS", a_task, "inf"),
        ("SHOAL_TASK_DEFAULT_RETRY_DELAY_SECONDS", a_task, ""),
        ("SHOAL_FLOW_DEFAULT_RETRIES", a_flow, ""),
        ("SHOAL_FLOW_DEFAULT_RETRY_DELAY_SECONDS", a_flow, "1,2"),
        ("SHOAL_LOGGING_LOG_PRINTS", settings.log_prints, "perhaps"),
    ],
)
def test_bad_values_are_named(
    variable: str, make: Callable[..., Any], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(InvalidOption, match=variable) as raised:
        make()
    assert (raised.value.option, raised.value.value) == (variable, repr(text))


def test_retries_by_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_TASK_DEFAULT_RETRIES", "2")
    monkeypatch.setenv("SHOAL_FLOW_DEFAULT_RETRIES", "1")
    attempts: list[str] = []

    @task
    def fails() -> None:
        attempts.append("task")
        raise BoomError("no")

    @flow
    def main() -> None:
        attempts.append("flow")
        fails.submit().result()

    with pytest.raises(BoomError):
        main()
    assert attempts == ["flow", "task", "task", "task"] * 2


PRINTS = """
from shoal import flow, task

@task
def prints(text):
    print(text)

@flow(task_runner="RUNNER")
def main():
    print("in the flow")
    prints.submit("in the task").wait()

@flow(task_runner="RUNNER", log_prints=False)
def silent():
    prints.submit("as a print").wait()

if __name__ == "__main__":
    main()
    silent()
    prints("in a direct call")
    from shoal.task_runners.registry import resolve
    with resolve("RUNNER") as runner:
        runner.submit(prints, {"text": "without a flow"}).wait()
    print("outside of runs")
"""


@pytest.mark.parametrize("runner", ["threads:2", "processes:1", "sequential"])
def test_prints_are_logged_by_setting(runner: str, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(PRINTS.replace("RUNNER", runner))
    done = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "SHOAL_LOGGING_LOG_PRINTS": "true"},
    )
    logged = [line.rpartition(" - ")[2] for line in done.stderr.splitlines()]
    for text in ("in the flow", "in the task", "in a direct call", "without a flow"):
        assert text in logged
    assert done.stdout.splitlines() == ["as a print", "outside of runs"]


def test_a_bad_setting_of_prints_ends_no_run_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_LOGGING_LOG_PRINTS", "perhaps")
    with pytest.raises(InvalidOption, match="SHOAL_LOGGING_LOG_PRINTS"):
        flow(name="f")(lambda: None)()
