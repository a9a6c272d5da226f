"""What Ray tells of its tasks; here without a cluster."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from shoal.exceptions import ClusterFailed
from shoal.scheduling.in_flight import JobEnd
from shoal.task_runners.remote.standby import Standby
from shoal_ray import jobs
from shoal_ray.jobs import Jobs


class Reference:
    """One whose end somebody else tells."""

    def __init__(self) -> None:
        self.told: Future[Any] = Future()

    def future(self) -> Future[Any]:
        return self.told


class Failing(Reference):
    """One that Ray does not let go of."""

    def future(self) -> Future[Any]:
        raise RuntimeError("no connection")


def new(*, has_lost: bool = False) -> tuple[Jobs, list[BaseException], list[Any]]:
    """The jobs of a backend, its failures, and what its I/O thread was told to do."""
    failures: list[BaseException] = []
    actions: list[Any] = []
    backend: Any = SimpleNamespace(
        failed=failures.append,
        watch=SimpleNamespace(has_lost=has_lost),
        link=SimpleNamespace(do=actions.append),
    )
    return Jobs(backend), failures, actions


def sent(status: Reference, *values: Reference) -> Any:
    return SimpleNamespace(status=status, values=list(values))


def closing(job: Jobs) -> threading.Thread:
    thread = threading.Thread(target=job.close)
    thread.start()
    return thread


class TestLeaving:
    """SPEC 3.3: Ray ends the process if it is shut down while it tells of a task's end."""

    def test_it_waits_for_what_ray_is_still_to_tell(self) -> None:
        job, failures, actions = new()
        first, second = Reference(), Reference()
        job.await_end(sent(first))
        job.await_end(sent(second))
        left = closing(job)
        first.told.set_result(True)
        left.join(0.05)
        assert left.is_alive()
        second.told.set_result(True)
        left.join()
        assert len(actions) == 2
        assert not failures

    def test_a_task_that_failed_is_told_of_with_its_values(self) -> None:
        job, _, actions = new()
        status, value = Reference(), Reference()
        job.await_end(sent(status, value))
        status.told.set_exception(ValueError("of the task"))
        left = closing(job)
        left.join(0.05)
        assert left.is_alive()
        value.told.set_exception(ValueError("of the task"))
        left.join()
        assert len(actions) == 1

    def test_an_error_of_ours_ends_the_wait_too(self) -> None:
        job, failures, _ = new()
        status = Reference()
        job._backend.link = None  # type: ignore[assignment]
        job.await_end(sent(status))
        status.told.set_result(True)
        closing(job).join()
        assert [type(error) for error in failures] == [AttributeError]

    def test_what_was_not_asked_is_not_waited_for(self) -> None:
        job, _, _ = new()
        with pytest.raises(RuntimeError):
            job.await_end(sent(Failing()))
        closing(job).join()

    def test_it_does_not_wait_for_ever(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(jobs, "TOLD_WITHIN", 0.01)
        job, _, _ = new()
        job.await_end(sent(Reference()))
        closing(job).join()

    def test_a_cluster_that_has_gone_is_not_waited_for(self) -> None:
        job, _, _ = new(has_lost=True)
        job.await_end(sent(Reference()))
        began = time.monotonic()
        closing(job).join()
        assert time.monotonic() - began < jobs.TOLD_WITHIN


class TestTheRelay:
    """Workers wait until it is there: if it cannot start, runs must end all the same."""

    def test_it_starts(self) -> None:
        job, failures, _ = new()
        answer = Reference()
        job.await_start(answer)
        answer.told.set_result(True)
        closing(job).join()
        assert not failures

    def test_it_cannot_start(self) -> None:
        job, failures, _ = new()
        answer = Reference()
        job.await_start(answer)
        answer.told.set_exception(ActorDiedError())
        closing(job).join()
        [failure] = failures
        assert type(failure) is ClusterFailed
        assert isinstance(failure.__cause__, ActorDiedError)


@pytest.mark.parametrize(
    ("cause", "expected"),
    [
        (TypeError("'Handlers' object is not callable"), [(1, JobEnd.NOT_BEGUN)]),
        (TypeError("not of Ray's making"), [(1, JobEnd.UNFIT)]),
    ],
)
def test_a_cancel_of_another_task_on_a_cluster_that_ignores_sigint(
    cause: TypeError, expected: list[Any]
) -> None:
    """SPEC 7.5: such a cancel ends a task before our function begins, so its runs are sent again."""
    job, _, actions = new()
    ends: list[Any] = []
    job._backend.stopping = False
    job._backend.standby = Standby()
    job._backend.ledger = SimpleNamespace(  # type: ignore[assignment]
        job_ended=lambda number, end, **_: ends.append((number, end))
    )
    status = Reference()
    batch = sent(status)
    batch.number, batch.stored, batch.worker = 1, [], None
    batch.killed = batch.withdrawn = False
    job.await_end(batch)
    status.told.set_exception(RayTaskError("execute", "", cause).as_instanceof_cause())
    [act] = actions
    act()
    assert ends == expected
