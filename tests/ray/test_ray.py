"""What is Ray's own: natives, values that stay, options, names, logs, cancels by force, nesting on one instance."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest
import ray
from shoal import allow_failure, flow, get_run_logger, task, unmapped
from shoal.exceptions import (
    CancelledRun,
    EnvironmentMismatch,
    InvalidOption,
    RunnerStateError,
    SerializationError,
    TaskRunTimeout,
    UpstreamTaskError,
)
from shoal.testing.samples import BoomError, boom, identity, inc
from shoal.testing.tools import PATIENCE, Signals, eventually
from shoal_ray import RayTaskRunner, remote_options
from shoal_ray.backend import RayBackend

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.slow,
    pytest.mark.may_leave(
        *("threads", "processes", "fds"),
        reason="Ray starts worker processes, threads and connections as it needs them",
    ),
]


@pytest.fixture
def runner(local_ray: RayTaskRunner) -> RayTaskRunner:
    return RayTaskRunner()


@pytest.fixture
def signals(tmp_path: Path) -> Signals:
    return Signals(tmp_path)


@task
def ones(count: int) -> Any:
    return np.ones(count)


@task
def total(array: Any) -> float:
    return float(array.sum())


@task
def work() -> tuple[int, str | None]:
    """Which worker, and as part of which Ray task."""
    return os.getpid(), ray.get_runtime_context().get_task_id()


@task
def where(number: int) -> int:
    return os.getpid()


@ray.remote(num_cpus=0)
def negative(value: Any) -> Any:
    return -value


@ray.remote(num_cpus=0)
def divided(dividend: int, divisor: int) -> float:
    return dividend / divisor


def bytes_in_store() -> int:
    """What Ray's object stores hold."""
    from ray._private import internal_api

    address = ray.get_runtime_context().gcs_address
    state: Any = internal_api.get_state_from_address(address)
    reply: Any = internal_api.get_memory_info_reply(state)
    return reply.store_stats.object_store_bytes_used  # type: ignore[no-any-return]


def holders() -> str:
    """Which objects there are, and who holds them, as `ray memory` tells."""
    from ray._private import internal_api

    address = ray.get_runtime_context().gcs_address
    summary: str = internal_api.memory_summary(address)
    return summary


# ---------------------------------------------------------------------- natives


class TestNatives:
    """Ray's references of our runs, and Ray's references among their arguments (SPEC 4.1)."""

    def test_before_during_and_after_a_run(self, runner: RayTaskRunner, signals: Signals) -> None:
        @task
        def waits(number: int) -> int:
            signals.set(f"begun-{number}")
            signals.wait(f"go-{number}")
            return number

        @flow(task_runner=runner)
        def main() -> None:
            first = waits.submit(1)
            waiting = inc.submit(first)
            before = waiting.native
            signals.wait("begun-1")
            during = first.native
            assert isinstance(before, ray.ObjectRef)
            assert before is waiting.native
            consumer = negative.remote(during)
            signals.set("go-1")
            assert ray.get([during, before, consumer], timeout=PATIENCE) == [1, 2, -1]
            assert ray.get(first.native, timeout=PATIENCE) == 1
            assert ray.get(negative.remote(waiting.native), timeout=PATIENCE) == -2
            late = inc.submit(5)
            late.wait()
            assert ray.get(late.native, timeout=PATIENCE) == 6

        main()

    def test_of_a_large_value(self, runner: RayTaskRunner) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            early, late = ones.submit(100_000), ones.submit(100_000)
            asked = early.native
            late.wait()
            for reference in (asked, late.native):
                assert ray.get(reference, timeout=PATIENCE).sum() == 100_000
                assert ray.get(negative.remote(reference), timeout=PATIENCE).sum() == -100_000
            assert early.result().sum() == 100_000

        main()

    def test_of_a_failed_run(self, runner: RayTaskRunner, signals: Signals) -> None:
        @task
        def fails() -> None:
            signals.wait("go")
            raise BoomError("late")

        @flow(task_runner=runner)
        def main() -> None:
            run = fails.submit()
            early = run.native
            signals.set("go")
            run.wait()
            for reference in (early, run.native, boom.submit().native):
                with pytest.raises(BoomError):
                    ray.get(reference, timeout=PATIENCE)
                with pytest.raises(BoomError):
                    ray.get(negative.remote(reference), timeout=PATIENCE)

        main()

    def test_of_a_cancelled_run(self, runner: RayTaskRunner, signals: Signals) -> None:
        @task
        def waits() -> None:
            signals.wait("never")

        @flow(task_runner=runner)
        def main() -> None:
            run = waits.submit()
            reference = run.native
            assert run.cancel()
            with pytest.raises(CancelledRun):
                ray.get(reference, timeout=PATIENCE)

        main()

    def test_after_the_flow(
        self, runner: RayTaskRunner, signals: Signals, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The engine's own, or an error that says why not: never a Ray that starts by itself."""
        runs: list[Any] = []

        @task
        def waits() -> None:
            signals.wait("never")

        @flow(task_runner=runner)
        def main() -> None:
            read, cancelled = inc.submit(1), waits.submit()
            assert isinstance(read.native, ray.ObjectRef)
            runs.extend([read, inc.submit(1), ones.submit(100_000), boom.submit(), cancelled])
            runs[-1].cancel()

        main()
        assert [ray.get(run.native, timeout=PATIENCE) for run in runs[:2]] == [2, 2]
        assert ray.get(runs[2].native, timeout=PATIENCE).sum() == 100_000
        for run, error in zip(runs[3:], (BoomError, CancelledRun), strict=True):
            with pytest.raises(error):
                ray.get(run.native, timeout=PATIENCE)
        with monkeypatch.context() as gone:
            gone.setattr(ray, "is_initialized", lambda: False)
            for run in runs:
                with pytest.raises(RunnerStateError, match="shut down"):
                    _ = run.native

    def test_of_the_runs_of_a_map(self, runner: RayTaskRunner) -> None:
        @flow(task_runner=runner)
        def main() -> Any:
            futures = inc.map(range(100))
            return ray.get([future.native for future in futures], timeout=PATIENCE)

        assert main() == list(range(1, 101))

    def test_rays_references_are_arguments(self, runner: RayTaskRunner) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            small, large = negative.remote(-1024), ray.put(np.ones(100_000))
            assert inc.submit(small).result() == 1025
            deep = identity.submit({"deep": [small, (small, {"deeper": small})]}).result()
            assert deep == {"deep": [1024, (1024, {"deeper": 1024})]}
            assert inc.map([small, 1]).result() == [1025, 2]
            assert total.submit(large).result() == 100_000
            assert total.map([large] * 3).result() == [100_000] * 3

        main()

    def test_a_reference_that_is_not_there_yet_holds_no_slot(
        self, runner: RayTaskRunner, signals: Signals
    ) -> None:
        @ray.remote(num_cpus=0)
        def late(signals: Signals) -> int:
            signals.wait("go")
            return 1

        @flow(task_runner=runner)
        def main() -> Any:
            waiting = [inc.submit(reference) for reference in [late.remote(signals)] * 4]
            assert inc.map(range(20)).result(timeout=PATIENCE) == list(range(1, 21))
            signals.set("go")
            return [run.result(timeout=PATIENCE) for run in waiting]

        assert main() == [2] * 4

    def test_a_reference_that_fails(self, runner: RayTaskRunner) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            failed = divided.remote(1, 0)
            run = identity.submit([failed])
            with pytest.raises(UpstreamTaskError, match="reference of Ray") as raised:
                run.result(timeout=PATIENCE)
            assert isinstance(raised.value.cause, ZeroDivisionError)
            assert run.state.name == "NotReady"
            later = inc.submit(run)
            with pytest.raises(UpstreamTaskError):
                later.result(timeout=PATIENCE)
            assert isinstance(identity.submit(allow_failure(run)).result(), UpstreamTaskError)
            mapped = inc.map([1, failed, 2])
            mapped.wait(PATIENCE)
            names = [run.state.name for run in mapped]
            assert names == ["Completed", "NotReady", "Completed"]

        main()

    def test_references_inside_a_run(self, runner: RayTaskRunner) -> None:
        """On a worker: Ray's own as arguments of what it submits, and `ray.get` itself."""

        @task
        def parent() -> Any:
            reference = negative.remote(-5)
            failed = divided.remote(1, 0)
            runs = [inc.submit(reference), identity.submit({"deep": [reference]})]
            large = total.submit(ray.put(np.ones(100_000)))
            bad = inc.submit(failed)
            bad.wait()
            return (
                [run.result() for run in runs],
                large.result(),
                bad.state.name,
                ray.get(reference),
            )

        @flow(task_runner=runner)
        def main() -> Any:
            return parent.submit().result(timeout=PATIENCE)

        assert main() == ([6, {"deep": [5]}], 100_000, "NotReady", 5)

    def test_a_returned_reference(self, runner: RayTaskRunner) -> None:
        @task
        def refers() -> Any:
            return [ray.put(7)]

        @flow(task_runner=runner)
        def main() -> Any:
            return ray.get(refers.submit().result(timeout=PATIENCE)[0], timeout=PATIENCE)

        assert main() == 7


# ---------------------------------------------------------------------- values that stay


class TestValues:
    """Large values stay in the object store (SPEC 5.7)."""

    def test_waiting_moves_no_value(self, runner: RayTaskRunner) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            run = ones.submit(2_000_000)
            run.wait()
            assert run.state.is_completed()
            received = _fetched_by(lambda: run.wait())
            assert received == []
            assert _fetched_by(lambda: run.result().sum() == 2_000_000) == [run.native]

        main()

    def test_they_go_from_task_to_task_without_a_copy(self, runner: RayTaskRunner) -> None:
        @task
        def look(array: Any) -> tuple[bool, bool, float]:
            return array.flags.writeable, array.flags.owndata, float(array[-1])

        @flow(task_runner=runner)
        def main() -> None:
            array = ones.submit(1_000_000)

            def consume() -> None:
                looks = [look.submit(array) for _ in range(4)]
                for one in looks:
                    assert one.result(timeout=PATIENCE) == (False, False, 1.0)

            assert _fetched_by(consume) == []
            value = array.result()
            assert not value.flags.writeable

        main()

    def test_a_chain_of_large_values(self, runner: RayTaskRunner) -> None:
        @task
        def more(array: Any) -> Any:
            assert not array.flags.writeable
            return array + 1

        @flow(task_runner=runner)
        def main() -> None:
            def chain() -> Any:
                array = ones.submit(100_000)
                links = [array]
                for _ in range(10):
                    array = more.submit(array)
                    links.append(array)
                array.wait(PATIENCE)
                return links

            assert _fetched_by(chain) == []
            assert [int(link.result()[0]) for link in chain()] == list(range(1, 12))

        main()

    def test_a_chain_goes_on_after_a_large_value(
        self, runner: RayTaskRunner, signals: Signals
    ) -> None:
        """SPEC 7.5. What ended is not run again where its links are reported apart: the value exists when all have ended."""

        @task
        def slow_ones(count: int) -> Any:
            signals.append("ones", count)
            return np.ones(count)

        @task
        def slow_total(array: Any) -> float:
            time.sleep(0.2)
            return float(array.sum())

        @flow(task_runner=runner)
        def main() -> Any:
            busy = [identity.submit(number) for number in range(4)]
            array = slow_ones.submit(20_000, wait_for=busy)
            last = inc.submit(inc.submit(slow_total.submit(array)))
            assert last.result(timeout=PATIENCE) == 20_002
            return array.state.is_completed()

        assert main()
        assert signals.lines("ones") == ["20000"]

    def test_a_tree_of_large_values(self, runner: RayTaskRunner) -> None:
        @task
        def merged(left: Any, right: Any) -> Any:
            return left + right

        @flow(task_runner=runner)
        def main() -> float:
            level: list[Any] = list(ones.map([50_000] * 8))
            while len(level) > 1:
                pairs = zip(level[::2], level[1::2], strict=True)
                level = [merged.submit(left, right) for left, right in pairs]
            return float(level[0].result(timeout=PATIENCE).sum())

        assert main() == 8 * 50_000

    def test_a_large_argument_of_a_map_is_shipped_once(self, runner: RayTaskRunner) -> None:
        @task
        def pick(array: Any, index: int) -> float:
            return float(array[index])

        @flow(task_runner=runner)
        def main() -> Any:
            with pytest.MonkeyPatch.context() as patch:
                puts: list[Any] = []
                put = ray.put

                def counted(value: Any) -> Any:
                    puts.append(value)
                    return put(value)

                patch.setattr(ray, "put", counted)
                values = pick.map(unmapped(np.arange(200_000.0)), range(300)).result()
                assert len(puts) == 1
            return values

        assert main() == [float(index) for index in range(300)]

    def test_a_large_value_of_a_run_inside_a_run(self, runner: RayTaskRunner) -> None:
        @task
        def parent(count: int) -> Any:
            array = ones.submit(count)
            return total.submit(array).result(), float(array.result().sum())

        @flow(task_runner=runner)
        def main() -> Any:
            return _fetched_by(lambda: parent.submit(100_000).result()), parent.submit(9).result()

        assert main() == ([], (9, 9))

    def test_the_store_is_empty_afterwards(self, runner: RayTaskRunner) -> None:
        """SPEC 4.6."""

        @flow(task_runner=runner)
        def main() -> None:
            for _ in range(5):
                array = ones.submit(1_000_000)
                assert total.submit(array).result() == 1_000_000

        gc.collect()  # futures of maps of other tests, which know each other
        main()
        try:
            eventually(lambda: bytes_in_store() < 4_000_000, "the store has room again")
        except AssertionError:
            pytest.fail(holders())


def _fetched_by(action: Any) -> list[Any]:
    """Which of Ray's references this process has fetched meanwhile."""
    fetched: list[Any] = []
    get = ray.get

    def spy(references: Any, *, timeout: float | None = None) -> Any:
        fetched.extend(references if isinstance(references, list) else [references])
        return get(references, timeout=timeout)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray, "get", spy)
        action()
    return fetched


# ---------------------------------------------------------------------- Ray's vocabulary


#: Hides it from a Python.
WITHOUT = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "shoal_ray":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
"""


@task
def resources() -> Any:
    return ray.get_runtime_context().get_assigned_resources()


class TestVocabulary:
    """`remote_options`, `resources`, names."""

    def test_options_of_a_run(self, runner: RayTaskRunner) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            with remote_options(num_cpus=0.5):
                run, mapped = resources.submit(), identity.map([1, 2])
                with remote_options(num_cpus=2):
                    inner = resources.submit()
            assert run.result(timeout=PATIENCE)["CPU"] == 0.5
            assert inner.result(timeout=PATIENCE)["CPU"] == 2
            assert resources.submit().result(timeout=PATIENCE)["CPU"] == 1
            assert mapped.result(timeout=PATIENCE) == [1, 2]

        main()

    def test_options_inside_a_run(self, runner: RayTaskRunner) -> None:
        @task
        def parent() -> Any:
            with remote_options(num_cpus=0.25):
                return resources.submit().result()["CPU"], inc.map([1, 2]).result()

        @flow(task_runner=runner)
        def main() -> Any:
            with remote_options(num_cpus=0.5):
                return parent.submit().result(timeout=PATIENCE)

        assert main() == (0.25, [2, 3])

    def test_resources_of_a_task(self, runner: RayTaskRunner) -> None:
        demanding = resources.with_options(resources={"num_cpus": 2})

        @flow(task_runner=runner)
        def main() -> None:
            assert demanding.submit().result(timeout=PATIENCE)["CPU"] == 2
            with remote_options(num_cpus=0.5):
                assert demanding.submit().result(timeout=PATIENCE)["CPU"] == 0.5

        main()

    def test_placement(self, runner: RayTaskRunner) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        @task
        def node() -> str:
            return ray.get_runtime_context().get_node_id()

        @flow(task_runner=runner)
        def main() -> None:
            here = ray.get_runtime_context().get_node_id()
            with remote_options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False)
            ):
                assert node.submit().result(timeout=PATIENCE) == here
            nowhere = NodeAffinitySchedulingStrategy(ray.NodeID.from_random().hex(), soft=False)
            with remote_options(scheduling_strategy=nowhere):
                run = node.submit()
            run.wait(PATIENCE)
            assert run.state.is_crashed()
            assert "Ray could not begin it" in str(run.state.message)

        main()

    def test_an_environment_of_ones_own(self, runner: RayTaskRunner) -> None:
        @task
        def variables() -> Any:
            return os.environ.get("MH_A"), os.environ.get("MH_B")

        @flow(task_runner=runner)
        def main() -> Any:
            with remote_options(runtime_env={"env_vars": {"MH_A": "1", "MH_B": "1"}}):
                with remote_options(runtime_env={"env_vars": {"MH_B": "2"}}):
                    both = variables.submit()
                return both.result(timeout=PATIENCE), variables.submit().result(timeout=PATIENCE)

        assert main() == (("1", "2"), ("1", "1"))

    def test_a_worker_without_this_package(self, runner: RayTaskRunner, tmp_path: Path) -> None:
        (tmp_path / "sitecustomize.py").write_text(WITHOUT)

        @flow(task_runner=runner)
        def main() -> None:
            with remote_options(runtime_env={"env_vars": {"PYTHONPATH": str(tmp_path)}}):
                run = inc.submit(1)
            with pytest.raises(EnvironmentMismatch, match="shoal_ray"):
                run.result(timeout=PATIENCE)

        main()

    def test_runs_of_different_options_share_no_ray_task(self, runner: RayTaskRunner) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            for run in [work.submit() for _ in range(20)]:
                run.result()  # it is known to be short
            with remote_options(num_cpus=0.5):
                halves = [work.submit() for _ in range(200)]
            plain = [work.submit() for _ in range(200)]
            of_halves = {run.result(timeout=PATIENCE)[1] for run in halves}
            of_plain = {run.result(timeout=PATIENCE)[1] for run in plain}
            assert not of_halves & of_plain
            assert len(of_halves | of_plain) < 200

        main()

    def test_max_calls(self, runner: RayTaskRunner) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            for run in [work.submit() for _ in range(10)]:
                run.result()
            with remote_options(max_calls=1):
                one_by_one = [work.submit() for _ in range(2)]
                mapped = where.map(range(2))
            pids = {run.result(timeout=PATIENCE)[0] for run in one_by_one}
            assert len(pids.union(mapped.result(timeout=PATIENCE))) == 4

        main()

    def test_what_no_node_has_is_warned_of(
        self, runner: RayTaskRunner, caplog: pytest.LogCaptureFixture
    ) -> None:
        @task(resources={"QUANTUM": 2})
        def never() -> None: ...

        @flow(task_runner=runner)
        def main() -> None:
            run = never.submit()
            eventually(lambda: "QUANTUM=2" in caplog.text, "it is warned of")
            assert run.name in caplog.text
            assert inc.submit(1).result(timeout=PATIENCE) == 2
            assert run.cancel()

        main()

    def test_unknown_options_are_refused_where_they_are_given(self, runner: RayTaskRunner) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            with pytest.raises(InvalidOption, match="num_cpu"), remote_options(num_cpu=1):
                inc.submit(1)
            with pytest.raises(InvalidOption, match="crash_retries"), remote_options(max_retries=1):
                inc.submit(1)
            with pytest.raises(InvalidOption, match="num_gpus"):
                inc.with_options(resources={"num_gpus": -1})
            both = inc.with_options(resources={"num_gpus": 1, "GPU": 1})
            with pytest.raises(InvalidOption, match="the same as 'num_gpus'"):
                both.submit(1)

        main()

    def test_rays_tasks_have_the_names_of_ours(self, runner: RayTaskRunner) -> None:
        @task(name="a fine name")
        def named() -> str | None:
            return ray.get_runtime_context().get_task_name()

        @flow(task_runner=runner)
        def main() -> Any:
            return named.submit().result(timeout=PATIENCE)

        assert main() == "a fine name"


# ---------------------------------------------------------------------- logs and prints


class TestLogs:
    """SPEC 8.4."""

    def test_in_order_and_once(
        self,
        runner: RayTaskRunner,
        caplog: pytest.LogCaptureFixture,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        @task
        def talks(number: int) -> int:
            for line in range(20):
                get_run_logger().info("line %d of %d", line, number)
            return number

        @flow(task_runner=runner)
        def main() -> None:
            for number in range(5):
                run = talks.submit(number)
                run.result()
                said = [
                    r.getMessage()
                    for r in caplog.records
                    if r.getMessage().endswith(f"of {number}")
                ]
                assert said == [f"line {line} of {number}" for line in range(20)]
            talks.map(range(100, 110)).result()

        with caplog.at_level(logging.INFO):
            main()
        lines = [record.getMessage() for record in caplog.records]
        for number in range(100, 110):
            said = [line for line in lines if line.endswith(f"of {number}")]
            assert said == [f"line {line} of {number}" for line in range(20)]
        time.sleep(0.5)  # what Ray prints of its workers comes so late
        shown = capfd.readouterr()
        assert (shown.out + shown.err).count("line 7 of 3") <= 1

    def test_prints_are_seen_once(
        self,
        runner: RayTaskRunner,
        caplog: pytest.LogCaptureFixture,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        @task(log_prints=True)
        def logs() -> None:
            print("a logged print")

        @task
        def prints() -> None:
            print("a plain print")

        @flow(task_runner=runner)
        def main() -> None:
            logs.submit().result()
            prints.submit().result()

        with caplog.at_level(logging.INFO):
            main()
        assert [record.getMessage() for record in caplog.records].count("a logged print") == 1
        shown = ""

        def is_shown() -> bool:
            nonlocal shown
            captured = capfd.readouterr()
            shown += captured.out + captured.err
            return "a plain print" in shown

        eventually(is_shown, "it is printed")
        time.sleep(0.3)
        is_shown()
        assert shown.count("a plain print") == 1
        assert shown.count("a logged print") <= 1


# ---------------------------------------------------------------------- coroutines


class TestCoroutines:
    def test_they_run_together_and_hold_no_cpu(
        self, runner: RayTaskRunner, signals: Signals
    ) -> None:
        @task
        async def waits(number: int) -> int:
            signals.append("begun", number)
            while not signals.is_set("go"):  # noqa: ASYNC110 - it is set elsewhere
                await asyncio.sleep(0.05)
            return number

        @flow(task_runner=runner)
        def main() -> None:
            futures = waits.map(range(100))
            eventually(lambda: len(signals.lines("begun")) == 100, "all have begun")
            assert inc.map(range(50)).result(timeout=PATIENCE) == list(range(1, 51)), (
                "they hold no CPU"
            )
            signals.set("go")
            assert futures.result(timeout=PATIENCE) == list(range(100))

        main()

    def test_one_by_one_they_share_loops(self, runner: RayTaskRunner, signals: Signals) -> None:
        """What comes while a worker is awaited travels together: a process for each would be started."""

        @task
        async def meets() -> int:
            signals.append("here", os.getpid())
            while len(signals.lines("here")) < 30:  # noqa: ASYNC110 - they may be in several processes
                await asyncio.sleep(0.01)
            return os.getpid()

        @flow(task_runner=runner)
        def main() -> Any:
            return [run.result(timeout=PATIENCE) for run in [meets.submit() for _ in range(30)]]

        assert len(set(main())) < 10

    def test_a_cancelled_one_leaves_its_neighbours_alone(
        self, runner: RayTaskRunner, signals: Signals
    ) -> None:
        """SPEC 7.4."""

        @task
        async def naps(number: int) -> int:
            signals.append("naps", number)
            await asyncio.sleep(2)
            return number

        @flow(task_runner=runner)
        def main() -> Any:
            futures = naps.map(range(4))
            eventually(lambda: len(signals.lines("naps")) == 4, "all have begun")
            assert futures[1].cancel()
            return [future.result(timeout=PATIENCE) for future in futures[2:]]

        assert main() == [2, 3]


# ---------------------------------------------------------------------- stopping by force


class TestForce:
    """SPEC 7.3: C code included, and the slot comes back."""

    @staticmethod
    def stuck(signals: Signals) -> int:
        signals.set("begun")
        number = 3**200_000
        for _ in range(24):
            number = number * number  # in C, for minutes, deaf to everything
        return number

    def test_a_time_limit(self, runner: RayTaskRunner, signals: Signals) -> None:
        stuck = task(self.stuck).with_options(timeout_seconds=0.5)

        @flow(task_runner=runner)
        def main() -> float:
            inc.submit(1).result()
            run = stuck.submit(signals)
            signals.wait("begun")
            began = time.monotonic()
            with pytest.raises(TaskRunTimeout):
                run.result(timeout=PATIENCE)
            settled = time.monotonic() - began
            assert run.state.name == "TimedOut"
            with remote_options(num_cpus=2):  # the slot has to be back
                assert inc.submit(1).result(timeout=PATIENCE) == 2
            assert time.monotonic() - began < 10, "2 s where the machine is not busy"
            return settled

        assert main() < 2.5, "0.5 s where the machine is not busy"

    def test_a_cancel(self, runner: RayTaskRunner, signals: Signals) -> None:
        stuck = task(self.stuck)

        @flow(task_runner=runner)
        def main() -> None:
            run = stuck.submit(signals)
            signals.wait("begun")
            began = time.monotonic()
            assert run.cancel()
            assert run.state.is_cancelled()
            with remote_options(num_cpus=2):
                assert inc.submit(1).result(timeout=PATIENCE) == 2
            assert time.monotonic() - began < 10, "2 s where the machine is not busy"

        main()

    def test_what_waits_beneath_it_is_told(self, runner: RayTaskRunner, signals: Signals) -> None:
        stuck = task(self.stuck).with_options(timeout_seconds=1.0)

        @task
        def parent() -> str:
            run = stuck.submit(signals)
            run.wait()
            return run.state.name

        @flow(task_runner=runner)
        def main() -> Any:
            run = parent.submit()
            run.wait(PATIENCE)
            return run.state.name

        assert main() in ("Completed", "Crashed")

    def test_a_limit_that_python_code_reaches(
        self, runner: RayTaskRunner, signals: Signals
    ) -> None:
        @task(timeout_seconds=1)
        def spins() -> None:
            signals.append("worker", os.getpid())
            while True:
                time.sleep(0.01)

        @flow(task_runner=runner)
        def main() -> None:
            run = spins.submit()
            run.wait(PATIENCE)
            assert run.state.name == "TimedOut"
            inc.submit(1).result(timeout=PATIENCE)

        main()
        assert psutil.pid_exists(int(signals.lines("worker")[0])), "its worker goes on"


# ---------------------------------------------------------------------- recalls


def test_a_run_that_uses_ray_itself_after_a_recall(runner: RayTaskRunner, signals: Signals) -> None:
    """Ray's cancel of a batch that has just begun raises `KeyboardInterrupt` in the next `ray.get`."""

    @task
    def uses_ray(number: int) -> int:
        reference = negative.remote(number)
        time.sleep(0.05)
        return -ray.get(reference)  # type: ignore[no-any-return]

    @task
    def parent() -> Any:
        runs = [uses_ray.submit(number) for number in range(6)]
        return [run.result() for run in reversed(runs)][::-1]

    @flow(task_runner=runner)
    def main() -> None:
        runs = [parent.submit() for _ in range(3)]
        for run in runs:
            assert run.result(timeout=PATIENCE) == list(range(6))

    main()


# ---------------------------------------------------------------------- batches, nesting, sharing


def test_forks_inside_runs(runner: RayTaskRunner, signals: Signals) -> None:
    """A child that a run has forked is no worker: it ends with the run, and says nothing."""

    def fork(x: int) -> str:
        child = os.fork()
        if child == 0:
            signals.append("children", x)
            if x % 3 == 1:
                raise SystemExit(3)
            if x % 3 == 2:
                raise BoomError("in the child")
            return "the child"
        os.waitpid(child, 0)
        return "the parent"

    @task
    def forks(x: int) -> str:
        return fork(x)

    @task
    async def forks_on_a_loop(x: int) -> str:
        return fork(x)

    @flow(task_runner=runner)
    def main() -> None:
        runs = [each.submit(x) for each in (forks, forks_on_a_loop) for x in range(3)]
        later = inc.map(range(50))
        assert [run.result(timeout=PATIENCE) for run in runs] == ["the parent"] * 6
        assert later.result(timeout=PATIENCE) == list(range(1, 51))

    main()
    assert sorted(signals.lines("children")) == sorted("012" * 2), "each once"


def test_short_runs_share_ray_tasks(runner: RayTaskRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """10,000 runs are far fewer Ray tasks (DESIGN 'Performance' 3)."""
    tasks: list[Any] = []
    send_task = RayBackend.send_task

    def counted(self: RayBackend, sent: Any, *args: Any) -> None:
        tasks.append(sent)
        send_task(self, sent, *args)

    monkeypatch.setattr(RayBackend, "send_task", counted)

    @flow(task_runner=runner)
    def main() -> None:
        inc.map(range(200)).wait()
        tasks.clear()
        assert inc.map(range(10_000)).result(timeout=PATIENCE) == list(range(1, 10_001))
        assert 0 < len(tasks) < 200

    main()


def test_fifty_levels_on_one_cpu(runner: RayTaskRunner) -> None:
    """SPEC 9.1: a waiting worker runs what it waits for."""

    @task
    def down(level: int) -> set[int]:
        here = {os.getpid()}
        return here | down.submit(level - 1).result() if level else here

    @flow(task_runner=runner)
    def main() -> Any:
        with remote_options(num_cpus=2):
            work.submit().result()
        began = time.monotonic()
        return down.submit(50).result(timeout=PATIENCE), time.monotonic() - began

    pids, seconds = main()
    assert len(pids) <= 3
    assert seconds < 15, "under 5 s where the machine is not busy"


def test_nested_maps_run_in_parallel(runner: RayTaskRunner, signals: Signals) -> None:
    @task
    def meets(number: int) -> int:
        signals.meet("room", 2)
        return number

    @task
    def parent() -> Any:
        return meets.map([1, 2]).result()

    @flow(task_runner=runner)
    def main() -> Any:
        return parent.submit().result(timeout=PATIENCE)

    assert main() == [1, 2]


def test_nested_flows_share_the_instance(runner: RayTaskRunner) -> None:
    @flow(task_runner=RayTaskRunner())
    def inner(count: int) -> Any:
        return ray.get_runtime_context().gcs_address, inc.map(range(count)).result()

    @flow(task_runner=runner)
    def main() -> Any:
        before = inc.submit(1)
        return before.result(), inner(20), ray.get_runtime_context().gcs_address

    number, (there, values), here = main()
    assert (number, values) == (2, list(range(1, 21)))
    assert there == here


def test_two_flows_at_once(runner: RayTaskRunner) -> None:
    results: dict[int, Any] = {}

    def run(which: int) -> None:
        @flow(task_runner=runner)
        def main() -> Any:
            return inc.map(range(which, which + 300)).result(timeout=PATIENCE)

        results[which] = main()

    threads = [threading.Thread(target=run, args=(which,)) for which in (0, 1000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {which: list(range(which + 1, which + 301)) for which in (0, 1000)}


def test_a_warm_runner_serves_flows_in_turn(local_ray: RayTaskRunner) -> None:
    @flow(task_runner=local_ray)
    def main(number: int) -> Any:
        return work.submit().result(timeout=PATIENCE)[0], inc.submit(number).result()

    began = time.monotonic()
    pids = set()
    for number in range(10):
        pid, value = main(number)
        pids.add(pid)
        assert value == number + 1
    assert len(pids) <= 4
    assert time.monotonic() - began < 20


# ---------------------------------------------------------------------- what cannot be pickled


class TestUnpicklable:
    """SPEC 7.7."""

    def test_it_fails_its_own_run(self, runner: RayTaskRunner) -> None:
        @task
        def returns_lock() -> Any:
            return {"lock": threading.Lock()}

        @flow(task_runner=runner)
        def main() -> None:
            bad = identity.submit({"lock": threading.Lock()})
            with pytest.raises(SerializationError, match="lock"):
                bad.result(timeout=PATIENCE)
            with pytest.raises(SerializationError, match="lock"):
                returns_lock.submit().result(timeout=PATIENCE)
            mapped = identity.map([1, threading.Lock(), 3])
            for run in mapped:
                run.wait(PATIENCE)
            assert [run.state.is_completed() for run in mapped] == [True, False, True]

        main()

    def test_an_error_of_a_class_that_cannot_be_called_again(self, runner: RayTaskRunner) -> None:
        class Odd(Exception):
            def __init__(self, a: int, b: int) -> None:
                super().__init__("odd")

        @task
        def fails() -> None:
            raise Odd(1, 2)

        @flow(task_runner=runner)
        def main() -> None:
            run = fails.submit()
            run.wait(PATIENCE)
            assert run.state.is_failed()
            assert isinstance(run.exception(), Odd)

        main()


# ---------------------------------------------------------------------- workers that stand by


def test_a_worker_stands_by_for_what_comes_soon(runner: RayTaskRunner) -> None:
    """DESIGN 2. What it is given is run in the same Ray task."""

    @flow(task_runner=runner)
    def main() -> None:
        eventually(lambda: work.submit().result() == work.submit().result(), "it stood by")

    main()


def test_large_values_stay_though_their_worker_stood_by(runner: RayTaskRunner) -> None:
    """DESIGN 7. The first of them comes home with a message, as nothing was known of its task but small ones."""

    @flow(task_runner=runner)
    def main() -> None:
        for count in (1, 2, 300_000, 3, 300_000, 300_000):
            array = ones.submit(count)
            assert total.submit(array).result() == count
            assert array.result().size == count

    main()


def test_who_dies_of_what_it_stood_by_for(runner: RayTaskRunner, tmp_path: Path) -> None:
    """SPEC 7.5: the run alone has had its death; it is known from its first end on, and comes by message then."""

    @task(crash_retries=1)
    def dies_once(number: int) -> int:
        try:
            (tmp_path / str(number)).touch(exist_ok=number == 0)
        except FileExistsError:
            return number
        if number:
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    @flow(task_runner=runner)
    def main() -> None:
        for number in range(4):
            before, dying = inc.submit(number), dies_once.submit(number)
            assert (before.result(), dying.result()) == (number + 1, number)

    main()
