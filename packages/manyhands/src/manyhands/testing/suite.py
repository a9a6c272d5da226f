"""The suite itself; its parts are in the modules beside this one."""
from __future__ import annotations
from manyhands.testing.section_2_tasks import TaskTests
from manyhands.testing.section_3_flows import FlowTests
from manyhands.testing.section_4_futures import FutureTests
from manyhands.testing.section_4_waiting import WaitingTests
from manyhands.testing.section_5_dependencies import DependencyTests

class TaskRunnerSuite(TaskTests, FlowTests, FutureTests, WaitingTests, DependencyTests):
    pass
