"""What workers ask their driver for, and what becomes of it when one of both goes (SPEC 10.2, 10.3)."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from shoal.context import LOCK
from shoal.engine.interrupt import Interrupt, frames_of_this_thread
from shoal.exceptions import InvalidOption
from shoal.futures.blocking import LENT
from shoal.limits.store import Acquired
from shoal.serialization import loads
from shoal.specs import TaskCap
from shoal.task_runners.remote import calling, messages
from shoal.task_runners.remote.coroutines import _Place
from shoal.task_runners.remote.limit_slots import WorkerSlots
from shoal.task_runners.remote.members import Member

from tests.limits.tools import wants

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.limits.store import Request


class Channel:
    """Notes what is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, Any]] = []
        self.told = threading.Condition()

    def send(self, kind: int, body: bytes) -> None:
        with self.told:
            self.sent.append((kind, loads(body)))
            self.told.notify_all()

    def wait_for(self, kind: int) -> Any:
        """The first message of a kind."""

        def found() -> list[Any]:
            return [told for sent, told in self.sent if sent == kind]

        with self.told:
            assert self.told.wait_for(found, 10)
            return found()[0]


class Keeper:
    """Gives slots at once; `before` is called just before."""

    def __init__(self, before: Callable[[], None]) -> None:
        self.held: set[str] = set()
        self._before = before

    def request(self, request: Request, decided: Any, timeout: float | None, who: Any) -> None:
        self._before()
        self.held.add(request.holder.id)
        decided(Acquired(request.names))

    def release(self, id: str) -> None:
        self.held.discard(id)


def member_of(channel: Channel) -> Member:
    return Member(1, channel, "worker")  # type: ignore[arg-type]


@pytest.mark.parametrize("goes", [False, True], ids=["stays", "goes"])
def test_a_worker_that_goes_while_it_asks_keeps_no_slots(goes: bool) -> None:
    member = member_of(Channel())
    keeper = Keeper(member.see_off if goes else lambda: None)
    slots = WorkerSlots(SimpleNamespace(keeper=keeper))
    slots.take_wanted(member, wants(["db"], "a"), None)
    assert keeper.held == (set() if goes else {"a"})
    slots.take_released(member, "a")
    assert keeper.held == set()


def test_a_setting_of_the_driver_that_cannot_be_is_the_run_s_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The driver's thread goes on, and so does the worker."""
    monkeypatch.setenv("SHOAL_LIMITS_LEASE_SECONDS", "never")
    channel = Channel()
    slots = WorkerSlots(SimpleNamespace(keeper=None))
    slots.take_wanted(member_of(channel), wants(["db"], "a", 0), None)
    id, answer = channel.wait_for(messages.SLOTS)
    assert id == "a"
    assert isinstance(loads(answer), InvalidOption)


# ---------------------------------------------------------------------- places of caps


def worker_with(channel: Channel) -> Any:
    remote = SimpleNamespace(new_wait=iter(range(100)).__next__, refusals={}, capped=False)
    return SimpleNamespace(
        channel=channel, remote=remote, coroutines=SimpleNamespace(places={}), gone=False
    )


CAP = TaskCap(1, "cap")


def entering(worker: Any, ended: list[BaseException | None]) -> tuple[threading.Thread, list[Any]]:
    """A thread in a run that waits for a place of its own; the frames of that run."""
    begun, frames = threading.Event(), []

    def enter() -> None:
        frames.append(frames_of_this_thread())
        frame = frames[0].begin("the run")
        frames[0].leave_shield()
        begun.set()
        try:
            calling._ThreadPlace(worker, CAP).enter()
        except (Interrupt, ConnectionError) as error:
            ended.append(error)
        else:
            ended.append(None)
        finally:
            frames[0].end(frame)

    thread = threading.Thread(target=enter)
    thread.start()
    assert begun.wait(10)
    return thread, frames


def test_a_run_that_is_stopped_while_it_waits_for_a_place_gives_it_back() -> None:
    channel = Channel()
    worker = worker_with(channel)
    ended: list[BaseException | None] = []
    thread, frames = entering(worker, ended)
    number, *_ = channel.wait_for(messages.ENTER)
    with LOCK:
        frames[0].fire("the run")
    thread.join(10)
    assert [type(error) for error in ended] == [Interrupt]
    assert channel.wait_for(messages.LEAVE) == number
    assert worker.coroutines.places == {}


@pytest.mark.parametrize("answer", ["resume", "wake"], ids=["it has one", "the driver has gone"])
def test_who_waits_for_a_place_is_woken(answer: str) -> None:
    channel = Channel()
    worker = worker_with(channel)
    ended: list[BaseException | None] = []
    thread, _ = entering(worker, ended)
    number, *_ = channel.wait_for(messages.ENTER)
    getattr(worker.coroutines.places[number], answer)()
    thread.join(10)
    wanted = type(None) if answer == "resume" else ConnectionError
    assert [type(error) for error in ended] == [wanted]


def test_a_coroutine_that_is_stopped_while_it_waits_to_go_on_has_its_place_first() -> None:
    channel = Channel()
    worker = worker_with(channel)
    worker.remote.tell_waiting = lambda *_, **__: None
    place = _Place(worker, SimpleNamespace(number=1), 0, CAP)  # type: ignore[arg-type]

    async def go_on(monkeypatch: pytest.MonkeyPatch) -> None:
        from shoal.engine.loops import SERVICE_LOOP

        monkeypatch.setattr(SERVICE_LOOP, "get", asyncio.get_running_loop)
        place.give_up(LENT, lambda: None)
        task = asyncio.ensure_future(place.take_again(LENT))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()  # what was cancelled may go on, and must not do so without its place
        place.resume()
        with pytest.raises(asyncio.CancelledError):
            await task

    with pytest.MonkeyPatch.context() as patch:
        asyncio.run(go_on(patch))
    assert [kind for kind, _ in channel.sent] == [messages.GO_ON, messages.RESUMED]
    assert worker.coroutines.places == {}
