"""Section 2.8 on any runner: what tasks return."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from shoal import flow, quote, task
from shoal.exceptions import FailedRun
from shoal.states import (
    Cancelled,
    Cancelling,
    Completed,
    Failed,
    NotReady,
    Paused,
    Running,
    State,
)
from shoal.testing.base import SuiteBase, covers
from shoal.testing.samples import (
    boom,
    hold,
    identity,
    inc,
)

if TYPE_CHECKING:
    from shoal.task_runners import TaskRunner
    from shoal.testing.tools import Signals

__all__ = ["ReturnTests"]


class ReturnTests(SuiteBase):
    """Section 2.8."""

    @covers("2.8")
    def test_a_returned_state_is_the_final_state(self, runner: TaskRunner) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            good = identity.submit(opaque_state(Completed(message="fine", data=5)))
            assert good.result() == 5
            assert str(good.state) == "Completed('fine')"
            bad = identity.submit(opaque_state(Failed("no good")))
            with pytest.raises(FailedRun, match="no good"):
                bad.result()
            assert str(bad.state) == "Failed('no good')"
            gone = identity.submit(opaque_state(Cancelled()))
            gone.wait()
            assert gone.state.is_cancelled()
            named = identity.submit(opaque_state(Completed(name="Cached", data=1)))
            assert named.result() == 1
            assert named.state.name == "Cached"

        main()

    @covers("2.8", "3.4")
    def test_returned_states_are_summed_up(self, runner: TaskRunner) -> None:
        @task
        def several(*messages: str) -> Any:
            return [Failed(text) if text else Completed(data=1) for text in messages]

        @flow(task_runner=runner)
        def main() -> None:
            good = several.submit("", "")
            good.wait()
            assert good.state.is_completed()
            bad = several.submit("", "one", "two")
            bad.wait()
            assert bad.state.is_failed()
            assert bad.state.message == "2/3 states failed."
            one, two, three = bad.result(raise_on_failure=False)
            assert (one, str(two), str(three)) == (1, "one", "two")

        main()

    @covers("2.8", "3.4")
    def test_what_there_is_in_place_of_a_value(self, runner: TaskRunner) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            told = identity.submit(opaque_state(Failed("m", data={"a": 1})))
            assert told.result(raise_on_failure=False) == {"a": 1}
            assert told.state.result(raise_on_failure=False) == {"a": 1}
            with pytest.raises(FailedRun, match="m"):
                told.result()
            failed = boom.submit("text")
            assert str(failed.result(raise_on_failure=False)) == "text"

        main()

    @covers("2.8")
    def test_a_returned_state_that_is_not_final(self, runner: TaskRunner) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            going = identity.submit(opaque_state(Cancelling("on its way")))
            going.wait()
            assert str(going.state) == "Cancelled('on its way')"
            for state in (Running(), Paused(), NotReady()):
                future = identity.submit(opaque_state(state))
                with pytest.raises(FailedRun):
                    future.result()
                assert future.state.is_failed()

        main()

    @covers("2.8", "5.6")
    def test_what_is_quoted_is_returned_quoted(self, runner: TaskRunner) -> None:
        @task
        def quoted() -> Any:
            return quote(Failed("only data"))

        @task
        def among_others() -> Any:
            return [quote(Failed("only data")), inc.submit(1)]

        @flow(task_runner=runner)
        def main() -> Any:
            value = quoted.submit().result()
            assert isinstance(value, quote)
            assert value.unwrap().message == "only data"
            first, second = among_others.submit().result()
            assert (type(first), second) == (quote, 2)
            return value, [inc.submit(1)]

        value, others = main()
        assert (type(value), others) == (quote, [2])

    @covers("2.8")
    def test_returned_futures_become_values(self, runner: TaskRunner) -> None:
        @task
        def parent(x: Any) -> Any:
            return {"a": inc.submit(x), "b": [inc.submit(x + 1), (inc.submit(x + 2), 0)]}

        @task
        def single(x: Any) -> Any:
            return inc.submit(x)

        @flow(task_runner=runner)
        def main() -> None:
            assert parent.submit(1).result() == {"a": 2, "b": [3, (4, 0)]}
            assert single.submit(5).result() == 6
            assert inc.map([7, 8]).result() == single.map([7, 8]).result()

        main()

    @covers("2.8")
    def test_a_returned_future_that_fails_fails_the_run(self, runner: TaskRunner) -> None:
        @task
        def parent() -> Any:
            return [inc.submit(1), boom.submit("inner")]

        @flow(task_runner=runner)
        def main() -> None:
            future = parent.submit()
            with pytest.raises(Exception, match="inner"):
                future.result()
            assert future.state.is_failed()

        main()

    @covers("2.8", needs=("nests", "concurrent"))
    def test_a_run_whose_value_waits_for_others_holds_no_slot(
        self, single_runner: TaskRunner, signals: Signals
    ) -> None:
        @task
        def parent() -> Any:
            return [hold.submit(signals, "go", "child")]

        @flow(task_runner=single_runner)
        def main() -> None:
            future = parent.submit()
            signals.wait("go began")  # the child runs in the only slot
            assert not future.done()
            signals.set("go")
            assert future.result() == ["child"]

        main()


def opaque_state(state: State[Any]) -> Any:
    """A State as an argument that is handed over as it is (and not taken for an upstream)."""
    return quote(state)
