"""Workers across a process border: what they hold, and what they have to offer."""

from __future__ import annotations

import threading
from contextvars import Context
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from shoal import task
from shoal.calls import Call
from shoal.engine.interrupt import Frame
from shoal.exceptions import ResultLost
from shoal.scheduling.capabilities import LedgerRules
from shoal.scheduling.in_flight import Departure
from shoal.serialization import loads
from shoal.task_runners.remote import messages
from shoal.task_runners.remote.batches import Batch, Rows
from shoal.task_runners.remote.cluster_backend import ClusterBackend
from shoal.task_runners.remote.file_store import FileStore, FileValue
from shoal.task_runners.remote.members import ClusterMember, Sent
from shoal.task_runners.remote.outbox import Outbox
from shoal.task_runners.remote.parcels import pack
from shoal.task_runners.remote.worker import RemoteWorker
from shoal.task_runners.remote.worker_thread import MainThread

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@task
def work(x: int) -> int:
    return x


def batch_of_runs(number: int, runs: list[int]) -> Batch:
    """A batch as a worker has it."""
    lane: Any = None
    scope: Any = None
    rows = Rows({1: work}, ("calls", 1, runs, [(run,) for run in runs]), [frozenset()])
    return Batch(number, lane, rows, scope, 0)


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_a_run_that_was_handed_back_belongs_to_the_batch_it_came_with_again(
    order: tuple[int, int],
) -> None:
    """SPEC 9.1. Else its wait would be taken for one in the other batch, and would end with that."""
    worker = RemoteWorker(None, 1.0)
    held = {1: batch_of_runs(order[0], [7, 8]), 2: batch_of_runs(order[1], [8])}
    for batch in held.values():
        worker.batches[batch.number] = batch
    assert worker.batch_of(8) == (order[1], 0), "the one that came last"
    assert worker.batch_of(7) == (order[0], 0)
    assert worker.batch_of(9) is None


def test_what_comes_while_threads_of_a_run_wait_goes_back() -> None:
    """SPEC 9.1. They may wait for it, and the thread that would begin it is at their run."""
    sent: list[tuple[int, bytes]] = []
    channel: Any = SimpleNamespace(send=lambda kind, body: sent.append((kind, body)))
    main_thread = MainThread(RemoteWorker(channel, 1.0))
    before, meanwhile = batch_of_runs(1, [7]), batch_of_runs(2, [8, 9])
    main_thread.begin_batch(before)
    assert not sent
    main_thread.sides[7] = SimpleNamespace(stop=lambda: None)
    main_thread.begin_batch(batch_of_runs(3, [10]))
    assert not sent, "their run has ended, and has left them behind"
    assert main_thread.queue.get() is before
    assert main_thread.queue.get().number == 3
    run = Call(work, (7,), None, 7, Context(), None)
    main_thread.frames.stack.append(Frame(run))
    main_thread.begin_batch(meanwhile)
    assert [(kind, loads(body)) for kind, body in sent] == [(messages.BACK, (2, [0, 1], 0.0))]
    assert main_thread.queue.get() is meanwhile
    assert list(before.indices) == [0]
    assert not list(meanwhile.indices), "the thread only closes it"


# ---------------------------------------------------------------------- what nobody has


class Offering(ClusterBackend):
    """A cluster of which only is known what its places have."""

    def __init__(self, *offers: dict[str, float]) -> None:
        super().__init__(LedgerRules("Test"), "test worker", cost=0.0, patience=1.0)
        self._offers = list(offers)
        self.ledger = SimpleNamespace(  # type: ignore[assignment]
            run_at=lambda batch, position: SimpleNamespace(name="run-1")
        )

    def offers(self) -> list[Mapping[str, float]]:
        """See `ClusterBackend`."""
        return list(self._offers)


@pytest.mark.parametrize(
    ("offers", "warns"),
    [
        pytest.param([{"GPU": 1.0}, {"GPU": 2.0}], False, id="one has it"),
        pytest.param([{"GPU": 1.0}, {"TPU": 8.0}], True, id="none has enough"),
        pytest.param([{}], True, id="none has any"),
        pytest.param([], False, id="none is known yet"),
    ],
)
def test_what_no_place_has_is_warned_of_once(
    offers: list[dict[str, float]], warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    backend = Offering(*offers)
    for _ in range(2):
        sent = Sent(SimpleNamespace(number=1), [])  # type: ignore[arg-type]
        sent.demands = {"GPU": 2}
        backend.warn_of_demands(sent)
    sent.demands = {}
    backend.warn_of_demands(sent)
    expected = f"Task run 'run-1' waits for a test worker with GPU=2; none of the {len(offers)} test workers has that"
    assert [record.getMessage() for record in caplog.records] == [expected] * warns


# ---------------------------------------------------------------------- what backends of others are made of


def test_a_file_goes_with_the_last_who_has_its_value(tmp_path: Path) -> None:
    store = FileStore(str(tmp_path))
    path = store.write([1, 2])
    lent, owned = FileValue(path), store.own(path)
    assert store.own(path) is owned, "who is told twice does not remove it twice"
    assert lent.value() == owned.value() == [1, 2]
    del owned
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ResultLost, match="the file"):
        lent.value("run-1")


def test_arguments_in_files(tmp_path: Path) -> None:
    store = FileStore(str(tmp_path))
    kept = store.keep([3], pack([3]))
    assert kept.value() == [3]
    with pytest.raises(ValueError, match="handles"):
        store.keep([kept], pack([kept]))
    with pytest.raises(Exception, match="pickle"):
        store.write(threading.Lock())
    assert len(list(tmp_path.iterdir())) == 1, "of what cannot be written nothing is left"


def test_whoever_sends_through_an_outbox_does_not_wait() -> None:
    may_go_on, sent = threading.Event(), []

    class Full:
        def send(self, kind: int, body: bytes = b"") -> None:
            may_go_on.wait(10)
            if kind == 2:
                raise BrokenPipeError
            sent.append((kind, body))

    failures: list[BaseException] = []
    outbox = Outbox(Full(), failures.append)
    for kind in (1, 2, 3):
        outbox.send(kind, b"body")
    assert sent == []
    may_go_on.set()
    outbox.close(10)
    assert (sent, failures) == ([(1, b"body"), (3, b"body")], [])


def test_how_a_process_went() -> None:
    assert Departure.of_process(3) == Departure(exit_code=3)
    assert Departure.of_process(-9) == Departure(signal=9)


def test_what_a_worker_had_written_down() -> None:
    member = ClusterMember(1, None, 1)  # type: ignore[arg-type]
    assert member.outcomes(FileValue) == {}, "who has said nothing has begun nothing"
    for path in (None, "/nowhere/record"):
        member.hello = {"record": path}
        assert member.outcomes(FileValue) is None, "nobody knows"
