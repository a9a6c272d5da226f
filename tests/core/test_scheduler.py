from tests.core.scheduler_machine import MACHINE_SETTINGS, MixedMachine, PullingMachine, PushingMachine

TestPulling = PullingMachine.TestCase
TestPushing = PushingMachine.TestCase
TestMixed = MixedMachine.TestCase
for case in (TestPulling, TestPushing, TestMixed):
    case.settings = MACHINE_SETTINGS
