"""What objects show of themselves, in words and in notebooks: escaped, without waiting, whatever they hold."""

from __future__ import annotations

import threading
from html.parser import HTMLParser
from typing import Any

import pytest
from shoal import State, flow, task
from shoal.futures import TaskFutureList
from shoal.markup import card
from shoal.states import Cancelled, Completed
from shoal.task_runners import ThreadPoolTaskRunner

HOSTILE = "<script>alert('x')</script> \"&"


class Texts(HTMLParser):
    """The tags and the texts of some HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.links: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def shown(thing: Any) -> Texts:
    """What a notebook makes of something; no tag but ours is in it."""
    found = Texts(thing._repr_html_())
    assert set(found.tags) <= {"div", "strong", "code", "table", "tr", "th", "td", "a"}
    return found


class Broken:
    """Nothing can be said of it."""

    def __repr__(self) -> str:
        raise RuntimeError("no words")


def test_tasks_and_flows() -> None:
    @task(name=HOSTILE, tags=["<b>"], retries=2, timeout_seconds=3)
    def load(path: str, times: object = Broken()) -> None:
        """Reads <i>."""

    @flow(name=HOSTILE, task_runner="threads:2")
    def main(broken: object = Broken()) -> None: ...

    for thing in (load, main):
        assert repr(thing) == f"<{type(thing).__name__} {HOSTILE!r}>"
        assert HOSTILE in shown(thing).texts
    assert {"<b>", "2", "3 s", "Reads <i>."} <= set(shown(load).texts)
    assert "threads:2" in shown(main).texts


def test_a_method_of_what_cannot_be_shown() -> None:
    class Owner(Broken):
        @task
        def method(self) -> None: ...

    bound: Any = Owner().method
    assert repr(bound) == "<Task 'method' of <Owner whose repr could not be made>>"
    assert "<Owner whose repr could not be made>" in shown(bound).texts


def test_futures_are_shown_as_they_are_and_not_waited_for() -> None:
    begun, go = threading.Event(), threading.Event()

    @task
    def hold(number: int) -> int:
        begun.set()
        assert go.wait(50)
        return number

    with ThreadPoolTaskRunner(max_workers=1) as runner:
        futures = runner.map(hold, {"number": range(3)})
        assert begun.wait(50)
        assert repr(futures) == "<TaskFutureList of 3: 2 Pending, 1 Running>"
        assert "2 Pending, 1 Running" in shown(futures).texts
        assert "Running()" in repr(futures[0])
        assert "Running()" in shown(futures[0]).texts
        assert repr(futures) == "<TaskFutureList of 3: 2 Pending, 1 Running>"  # with a future made
        go.set()
        futures.wait()
        assert repr(futures) == "<TaskFutureList of 3: 3 Completed>"
        assert "Completed()" in shown(futures[2]).texts


def test_a_list_counts_states_by_their_names() -> None:
    @task
    def share(number: int) -> object:
        return Cancelled("enough") if number == 2 else 1 / number

    with ThreadPoolTaskRunner(max_workers=1) as runner:
        futures = runner.map(share, {"number": range(4)})
        futures.wait()
        assert repr(futures) == "<TaskFutureList of 4: 2 Completed, 1 Failed, 1 Cancelled>"
        assert repr(futures[:2]) == "<TaskFutureList of 2: 1 Failed, 1 Completed>"
    assert repr(TaskFutureList()) == "<TaskFutureList of 0>"
    assert shown(TaskFutureList[Any]()).texts == ["TaskFutureList", " ", "of 0"]


def test_states() -> None:
    assert {"FAILED", HOSTILE} <= set(shown(State("FAILED", message=HOSTILE)).texts)
    assert repr(State("COMPLETED", timestamp=float("inf"))) == "<State Completed() of inf>"
    fetched: list[int] = []
    remote: State[Any] = State("COMPLETED", fetch=lambda: fetched.append(1))
    assert repr(remote)
    assert shown(remote)
    assert shown(Completed(data=Broken())).texts[0] == "State"
    assert not fetched, "the value is somewhere else, and stays there"


def test_a_runner_shows_what_it_is_connected_to() -> None:
    class Connected(ThreadPoolTaskRunner):
        def connection(self) -> dict[str, str]:
            return {"scheduler": "tcp://a:1", "dashboard": f"https://a:2/{HOSTILE}"}

    runner = Connected(max_workers=2)
    assert repr(runner) == (
        f"<Connected(max_workers=2), scheduler tcp://a:1, dashboard https://a:2/{HOSTILE}>"
    )
    assert shown(runner).links == [f"https://a:2/{HOSTILE}"]
    assert "tcp://a:1" in shown(runner).texts
    assert repr(ThreadPoolTaskRunner(max_workers=2)) == "ThreadPoolTaskRunner(max_workers=2)"


@pytest.mark.parametrize("address", ["javascript:alert(1)", "data:text/html,x", "tcp://a"])
def test_only_addresses_of_the_web_are_links(address: str) -> None:
    assert Texts(card("Task runner", "x", [("dashboard", address)])).links == []


def test_long_texts_are_cut() -> None:
    assert len(card("State", "x", [("message", "a" * 100_000)])) < 1500
