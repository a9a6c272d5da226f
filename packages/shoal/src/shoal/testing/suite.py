"""The suite itself; its parts are in the modules beside this one."""

from __future__ import annotations

from shoal.testing.base import FLAGS, Covered
from shoal.testing.section_2_returns import ReturnTests
from shoal.testing.section_2_tasks import TaskTests
from shoal.testing.section_3_flows import FlowTests
from shoal.testing.section_4_futures import FutureTests
from shoal.testing.section_4_memory import MemoryTests
from shoal.testing.section_4_waiting import WaitingTests
from shoal.testing.section_5_dependencies import DependencyTests
from shoal.testing.section_6_maps import MapTests
from shoal.testing.section_7_crashes import CrashTests, SerializationTests
from shoal.testing.section_7_oddities import OddityTests
from shoal.testing.section_7_retries import RetryTests
from shoal.testing.section_7_stopping import CancellationTests, TimeoutTests
from shoal.testing.section_7_travelling import ExceptionTests, OddObjectTests, TravellingTests
from shoal.testing.section_8_hooks import HookTests
from shoal.testing.section_8_logs import LogTests
from shoal.testing.section_8_runtime import RuntimeTests
from shoal.testing.section_9_nesting import NestingTests
from shoal.testing.section_9_own_loops import OwnLoopTests
from shoal.testing.section_9_side_threads import SideThreadTests
from shoal.testing.section_10_caps import CapTests
from shoal.testing.section_10_caps_going_on import CapGoingOnTests
from shoal.testing.section_10_caps_of_calls import CapOfCallTests
from shoal.testing.section_10_concurrency import ConcurrencyTests
from shoal.testing.section_10_limits import LimitTests
from shoal.testing.section_11_runners import RunnerTests
from shoal.testing.section_12_results import ResultTests
from shoal.testing.section_12_transactions import TransactionTests

__all__ = ["TaskRunnerSuite"]


class TaskRunnerSuite(
    RunnerTests,
    TaskTests,
    ReturnTests,
    FlowTests,
    FutureTests,
    MemoryTests,
    WaitingTests,
    DependencyTests,
    MapTests,
    RetryTests,
    TimeoutTests,
    CancellationTests,
    CrashTests,
    SerializationTests,
    OddityTests,
    ExceptionTests,
    TravellingTests,
    OddObjectTests,
    HookTests,
    LogTests,
    RuntimeTests,
    NestingTests,
    SideThreadTests,
    OwnLoopTests,
    LimitTests,
    CapTests,
    CapOfCallTests,
    CapGoingOnTests,
    ConcurrencyTests,
    ResultTests,
    TransactionTests,
):
    """Tests that a task runner does what users rely on, whichever runner runs their work.

    Subclass it in a pytest module, under a name that begins with `Test`, and give it a runner:

        import pytest
        from shoal.testing import TaskRunnerSuite
        from my_package import MyTaskRunner


        class TestMyTaskRunner(TaskRunnerSuite):
            @pytest.fixture
            def runner(self):
                return MyTaskRunner(workers=2)

            @pytest.fixture
            def single_runner(self):
                return MyTaskRunner(workers=1)

    Each test enters the runner, or a flow enters a duplicate of it, several hundred times in all. Where starting is
    dear (a cluster), start it once in a fixture of module scope, and let `runner` give a runner that connects to it.

    What to give:

        runner              fixture: a runner with exactly two slots, not entered
        single_runner       fixture: the same with one slot; without it the tests that need one are skipped
        capabilities        what the backend can do, where it does not say so itself: a runner that is made of
                            `BaseTaskRunner` declares it in its backend, any other must set this
        survives_crashes    False where the pool is of no use after a worker has died; True by default
        signals             fixture: `Signals(directory)`, how tests and runs meet; override it where the workers do
                            not see the driver's temporary directory under the same path

    What a backend cannot do it declares as a flag of `Capabilities`. Tests that need a missing flag are skipped, with
    a reason that names the flag and says what it means. `excuses()` lists the tests that each flag excuses.

    Requirements of the tests: pytest, and trio for the halves of tests that are about it. Add
    `pytest.register_assert_rewrite("shoal.testing")` to your `conftest.py`, before anything imports the suite,
    and failing asserts explain themselves. A test that passes takes well under a second of waiting; one that fails
    because something did not happen gives up after half a minute, so set a time limit above that for hangs.
    """

    @classmethod
    def covered(cls) -> dict[str, Covered]:
        """What each test covers and needs, by the test's name."""
        tests = {name: getattr(cls, name) for name in dir(cls) if name.startswith("test_")}
        return {name: test.covered for name, test in tests.items() if hasattr(test, "covered")}

    @classmethod
    def excuses(cls) -> dict[str, list[str]]:
        """The tests that a missing flag excuses, by flag.

        Examples:
            >>> TaskRunnerSuite.excuses()["shares_context"]
            ['test_context_variables']
        """
        covered = cls.covered().items()
        return {flag: [name for name, facts in covered if flag in facts.needs] for flag in FLAGS}
