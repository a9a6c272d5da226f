"""What every part of the suite builds on: its fixtures, and what a test says about itself.

A test says which paragraphs of the specification it covers and which flags it needs::

    @covers("7.4", needs=("concurrent", "stops"))
    def test_cancelling_what_runs_stops_it(self, runner, signals): ...

Where the backend lacks a flag, the test is skipped, and the reason says what it means to be without.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import pytest

from shoal import flow
from shoal.testing.tools import Signals

if TYPE_CHECKING:
    from pathlib import Path

    from shoal.scheduling.capabilities import Capabilities
    from shoal.task_runners import TaskRunner

__all__ = ["FLAGS", "LOOPS", "Covered", "SuiteBase", "covers", "in_flow"]

F = TypeVar("F", bound=Callable[..., Any])

#: What a test may need, and what it means to be without. All but the last two are flags of `Capabilities`.
FLAGS = {
    "concurrent": "runs happen one at a time, and only while their submitter waits",
    "stops": "what was handed to a worker is out of reach: it is neither stopped nor taken back, nor known to begin",
    "stops_hard": "a run that is inside C code cannot be stopped",
    "sends_logs": "log records of workers do not reach the driver",
    "shares_context": "the submitter's context variables are not visible in its runs",
    "nests": "runs submitted inside a run do not go to the same workers",
    "keeps_values": "large values do not stay where they were made, but come back to the driver",
    "isolated": "runs are in the driver's process, so nothing is pickled and none can crash alone",
    "shares_memory": "runs are in processes of their own",
    "survives_crashes": "the suite's `survives_crashes` says that a dead worker is not replaced",
}

#: Event loops under which the async half of the library works.
LOOPS = ["asyncio", "trio"]


class Covered:
    """What a test says about itself.

    Attributes:
        paragraphs: of the specification.
        needs: keys of `FLAGS`.
    """

    def __init__(self, paragraphs: tuple[str, ...], needs: tuple[str, ...]) -> None:
        self.paragraphs = paragraphs
        self.needs = needs


def covers(*paragraphs: str, needs: str | tuple[str, ...] = ()) -> Callable[[F], F]:
    """Marks a test of the suite.

    Args:
        paragraphs: of the specification that it tests, for example "7.4".
        needs: flags without which it is skipped, keys of `FLAGS`.
    """
    flags = (needs,) if isinstance(needs, str) else needs
    for flag in flags:
        if flag not in FLAGS:
            raise ValueError(f"there is no flag {flag!r}")

    def mark(test: F) -> F:
        test.covered = Covered(paragraphs, flags)  # type: ignore[attr-defined]
        return test

    return mark


def in_flow(runner: TaskRunner, body: Callable[[], Any], **call: Any) -> Any:
    """Runs a function as a flow on a runner, and gives its value (or state, with `return_state=True`)."""
    return flow(name="suite", task_runner=runner)(body)(**call)


class SuiteBase:
    """Fixtures and flags; what a subclass gives is described at `TaskRunnerSuite`."""

    capabilities: ClassVar[Capabilities | None] = None
    survives_crashes: ClassVar[bool] = True

    _flags: ClassVar[dict[str, bool] | None] = None

    @pytest.fixture
    def runner(self) -> TaskRunner:
        """A runner with two slots, not entered."""
        raise NotImplementedError(
            f"{type(self).__name__} must define the fixture `runner`: a task runner with two slots, not entered"
        )

    @pytest.fixture
    def single_runner(self) -> TaskRunner:
        """A runner with one slot, not entered; tests that need it are skipped where there is none."""
        pytest.skip(
            f"{type(self).__name__} defines no fixture `single_runner` (a runner with one slot)"
        )

    @pytest.fixture
    def signals(self, tmp_path: Path) -> Signals:
        """How test and runs meet. Override it where workers do not see the driver's temporary directory."""
        return Signals(tmp_path)

    @pytest.fixture
    def flags(self, runner: TaskRunner) -> dict[str, bool]:
        """The flags of the runner's backend by name, those of `FLAGS` all included."""
        cls = type(self)
        if "_flags" not in vars(cls) or cls._flags is None:
            cls._flags = _flags_of(cls.capabilities or _declared_by(runner), cls.survives_crashes)
        return cls._flags

    @pytest.fixture(autouse=True)
    def _logs_at_info(self, caplog: pytest.LogCaptureFixture) -> None:
        # As in a program that has not set up logging; under pytest, the level depends on what ran before.
        caplog.set_level("INFO", "shoal")

    @pytest.fixture(autouse=True)
    def _excuse(self, request: pytest.FixtureRequest) -> None:
        covered = getattr(request.function, "covered", None)
        if covered is not None and covered.needs:
            flags: dict[str, bool] = request.getfixturevalue("flags")
            missing = [flag for flag in covered.needs if not flags[flag]]
            if missing:
                why = "; ".join(f"{flag}: {FLAGS[flag]}" for flag in missing)
                pytest.skip(f"excused, as the backend lacks {why}")


def _declared_by(runner: Any) -> Capabilities:
    if not hasattr(runner, "scope"):
        raise NotImplementedError(
            f"{type(runner).__name__} is no BaseTaskRunner, so the suite's subclass must say what it can do: "
            "`capabilities = Capabilities(...)`"
        )
    with runner.duplicate() as entered:
        capabilities: Capabilities = entered.scope().dispatcher.capabilities
        return capabilities


def _flags_of(capabilities: Capabilities, survives_crashes: bool) -> dict[str, bool]:
    return {
        **{flag: getattr(capabilities, flag, False) for flag in FLAGS},
        "shares_memory": not capabilities.isolated,
        "survives_crashes": survives_crashes,
    }
