"""Spans of OpenTelemetry: what is made of runs on threads and processes, read by the SDK's in-memory exporter."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from shoal import flow, task
from shoal.engine.observing import CARRIERS, add_observer, observers, remove_observer
from shoal.futures import wait
from shoal.recording import run_spans
from shoal.recording.flow_spans import Spans
from shoal.task_runners import ThreadPoolTaskRunner


class Traced:
    """What was exported."""

    def __init__(self, exporter: InMemorySpanExporter, provider: TracerProvider) -> None:
        self.exporter = exporter
        self.tracer = provider.get_tracer("user")

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[Traced]:
    monkeypatch.setenv(
        "SHOAL_OTEL", "0"
    )  # the observer is ours, not that of the program's provider
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    spans = Spans(provider)
    add_observer(spans)
    try:
        yield Traced(exporter, provider)
    finally:
        remove_observer(spans)
        provider.shutdown()
    assert CARRIERS == {}
    assert not trace.get_current_span().get_span_context().is_valid, "nothing stays attached"


def test_no_thread_is_woken_for_each_run(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    woken: list[str] = []
    monkeypatch.setattr(run_spans.CALLBACKS, "put", lambda what, *_: woken.append(what))
    monkeypatch.setattr(run_spans, "EVERY", 3600.0)

    @task
    def step(x: int) -> int:
        return x

    @flow(task_runner="threads:2")
    def steps() -> int:
        return sum(future.result() for future in [step.submit(x) for x in range(50)])

    assert steps() == sum(range(50))
    assert woken == []
    assert len(traced.named("step")) == 50  # at the end all are made


@task(timeout_seconds=0.1)
def overstays(number: int) -> int:
    over = time.monotonic() + 0.5
    while True:  # what is raised in it at its time limit does not end it
        try:
            while time.monotonic() < over:
                time.sleep(0.01)
        except BaseException:
            continue
        return number


@pytest.mark.parametrize("mapped", [False, True])
def test_a_run_that_its_worker_reports_late_has_one_span(traced: Traced, mapped: bool) -> None:
    @task
    def after() -> None: ...

    @flow(task_runner="processes:1")
    def late() -> None:
        runs = overstays.map([0, 1]) if mapped else [overstays.submit(x) for x in (0, 1)]
        wait(runs)
        after.submit().result()

    late()
    states = [(span.attributes or {}).get("shoal.state") for span in traced.named("overstays")]
    assert states == ["TimedOut"] * 2
    assert len(traced.named("after")) == 1
    assert [span.name for span in traced.spans if span.parent is None] == ["late"]
    if mapped:
        assert (traced.one("map overstays").attributes or {})["shoal.map.TimedOut"] == 2


def is_child(span: ReadableSpan, parent: ReadableSpan) -> bool:
    return (
        span.parent is not None
        and span.context is not None
        and parent.context is not None
        and span.parent.span_id == parent.context.span_id
        and span.context.trace_id == parent.context.trace_id
    )


def user_span() -> str:
    """In a task: what a span opened there would have as its parent, as hexadecimal trace and span id."""
    context = trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x}-{context.span_id:016x}"


def ids_of(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.trace_id:032x}-{span.context.span_id:016x}"


@task
def where(number: int, *others: Any) -> str:
    return user_span()


@task
def fails(number: int) -> int:
    if number % 2:
        raise ValueError(f"no {number}")
    return number


RUNNERS = ["threads:2", "sequential", "processes:2"]


@pytest.mark.parametrize("runner", RUNNERS)
def test_runs_are_children_of_their_flow_run(traced: Traced, runner: str) -> None:
    @flow(task_runner=runner, name="main")
    def main() -> list[str]:
        first = where.submit(1)
        second = where.submit(2, first)
        return [first.result(), second.result()]

    told = main()
    main_span = traced.one("main")
    first, second = sorted(traced.named("where"), key=lambda span: span.start_time or 0)
    assert is_child(first, main_span)
    assert is_child(second, main_span)
    assert told == [ids_of(first), ids_of(second)], "spans opened in a run are its children"
    assert [link.context.span_id for link in second.links] == [first.context.span_id]  # type: ignore[union-attr]
    assert not first.links
    assert first.attributes is not None
    assert str(first.attributes["shoal.task_run.name"]).startswith("where-")
    assert (first.end_time or 0) <= (second.end_time or 0)
    assert (main_span.start_time or 0) <= (first.start_time or 0)
    assert main_span.status.is_ok or main_span.status.is_unset


@pytest.mark.parametrize("runner", RUNNERS)
def test_maps(traced: Traced, runner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_OTEL_MAP_RUNS", "3")

    @flow(task_runner=runner, name="main")
    def main() -> list[str]:
        fails.map(range(20)).wait()
        return where.map(range(3)).result()

    told = main()
    of_map = traced.one("map fails")
    assert is_child(of_map, traced.one("main"))
    assert of_map.attributes is not None
    facts = {key: of_map.attributes[key] for key in of_map.attributes if "map" in key}
    assert facts == {"shoal.map.size": 20, "shoal.map.Completed": 10, "shoal.map.Failed": 10}
    assert of_map.status.status_code is trace.StatusCode.ERROR
    runs = traced.named("fails")
    assert all(is_child(run, of_map) for run in runs)
    failed = [run for run in runs if run.status.status_code is trace.StatusCode.ERROR]
    assert (len(failed), len(runs)) == (10, 12), (
        "ten failures, and two of the first three completed"
    )
    assert {run.events[0].name for run in failed} == {"exception"}
    assert len({run.context.span_id for run in runs if run.context}) == 12
    wheres = traced.named("where")
    assert sorted(told) == sorted(ids_of(span) for span in wheres)


def test_failures_and_retries(traced: Traced) -> None:
    @task(retries=1)
    def flaky() -> str:
        if len(attempts) < 1:
            attempts.append(1)
            raise OSError("not yet")
        return user_span()

    attempts: list[int] = []

    @flow(name="main", task_runner="threads:1")
    def main() -> str:
        fails.submit(1).wait()
        return flaky.submit().result()

    told = main()
    failed = traced.one("fails")
    assert failed.status.status_code is trace.StatusCode.ERROR
    assert failed.attributes is not None
    assert failed.attributes["shoal.state"] == "Failed"
    assert failed.events[0].attributes is not None
    assert failed.events[0].attributes["exception.message"] == "no 1"
    retried = traced.one("flaky")
    assert told == ids_of(retried)
    assert [event.name for event in retried.events] == ["retry"]
    assert (retried.start_time or 0) <= retried.events[0].timestamp <= (retried.end_time or 0)
    assert retried.status.is_unset


@pytest.mark.parametrize("mapped", [False, True])
def test_a_crash_that_is_retried(traced: Traced, tmp_path: Path, mapped: bool) -> None:
    """It is an event as any other retry is; one that is not retried is none."""

    @task(crash_retries=1)
    def dies(times: int) -> int:
        for number in range(times):
            mark = tmp_path / f"{times} {number}"
            if not mark.exists():
                mark.touch()
                os._exit(3)
        return times

    @flow(name="main", task_runner="processes:1")
    def main() -> list[bool]:
        runs = dies.map([1, 2]) if mapped else [dies.submit(1), dies.submit(2)]
        wait(runs)
        return [run.state.is_completed() for run in runs]

    assert main() == [True, False]
    events = [
        [(event.name, (event.attributes or {}).get("shoal.state")) for event in span.events]
        for span in sorted(traced.named("dies"), key=lambda span: not span.status.is_unset)
    ]
    assert events == [[("retry", "Crashed")], [("retry", "Crashed"), ("exception", None)]]
    for span in traced.named("dies"):
        assert (span.start_time or 0) <= span.events[0].timestamp <= (span.end_time or 0)


def test_a_flow_that_fails(traced: Traced) -> None:
    @flow(name="main")
    def main() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        main()
    span = traced.one("main")
    assert span.status.status_code is trace.StatusCode.ERROR
    assert span.events[0].name == "exception"


@pytest.mark.parametrize("runner", ["threads:2", "processes:2"])
def test_spans_of_the_user_around_and_inside(traced: Traced, runner: str) -> None:
    @flow(name="inner", task_runner=runner)
    def inner() -> str:
        return where.submit(1).result()

    @flow(name="main", task_runner=runner)
    def main() -> tuple[str, list[str], str]:
        with traced.tracer.start_as_current_span("phase"):
            return where.submit(1).result(), where.map([1, 2]).result(), inner()

    with traced.tracer.start_as_current_span("program"):
        one, mapped, nested = main()
    assert is_child(traced.one("main"), traced.one("program"))
    phase = traced.one("phase")
    assert is_child(phase, traced.one("main"))
    by_ids = {ids_of(span): span for span in traced.named("where")}
    assert is_child(by_ids[one], phase)
    assert is_child(traced.one("map where"), phase)
    assert all(is_child(by_ids[told], traced.one("map where")) for told in mapped)
    assert is_child(traced.one("inner"), phase)
    assert is_child(by_ids[nested], traced.one("inner"))


def test_direct_calls_and_runs_inside_runs(traced: Traced) -> None:
    @task
    def outer() -> list[str]:
        return [user_span(), where(1), where.submit(2).result()]

    @flow(name="main", task_runner="threads:2")
    def main() -> list[str]:
        return outer()

    told = main()
    around = traced.one("outer")
    by_ids = {ids_of(span): span for span in traced.named("where")}
    assert told[0] == ids_of(around)
    assert is_child(around, traced.one("main"))
    assert all(is_child(by_ids[ids], around) for ids in told[1:])


def test_what_runs_submit_on_workers_are_their_children(
    traced: Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on threads. Of an element of a map that has no span of its own, they are children of the map's."""
    monkeypatch.setenv("SHOAL_OTEL_MAP_RUNS", "1")

    @task
    def outer(number: int) -> list[str]:
        return [where.submit(number).result(), *where.map([number]).result()]

    @flow(name="main", task_runner="processes:2")
    def main() -> list[list[str]]:
        return [outer.submit(0).result(), *outer.map([1, 2]).result()]

    told = main()
    by_ids = {ids_of(span): span for span in traced.named("where")}
    maps = {span.context.span_id: span for span in traced.named("map where") if span.context}
    first, of_map, beyond = told
    single, element = sorted(traced.named("outer"), key=lambda span: span.start_time or 0)
    for (one, mapped), around in (
        (first, single),
        (of_map, element),
        (beyond, traced.one("map outer")),
    ):
        assert is_child(by_ids[one], around)
        parent = by_ids[mapped].parent
        assert parent is not None
        assert is_child(maps[parent.span_id], around)


def test_async_and_generator_flows(traced: Traced) -> None:
    import asyncio

    @task
    async def coroutine(number: int) -> str:
        return user_span()

    @flow(name="main", task_runner="threads:1")
    async def main() -> list[str]:
        return [await coroutine.submit(1), await coroutine(2)]

    @flow(name="items", task_runner="threads:1")
    def items() -> Iterator[str]:
        yield where.submit(1).result()
        yield where.submit(2).result()

    told = asyncio.run(main())
    assert sorted(told) == sorted(ids_of(span) for span in traced.named("coroutine"))
    assert all(is_child(span, traced.one("main")) for span in traced.named("coroutine"))
    for told_inside in items():
        assert told_inside in {ids_of(span) for span in traced.named("where")} | {told_inside}
        assert not trace.get_current_span().get_span_context().is_valid
    assert all(is_child(span, traced.one("items")) for span in traced.named("where"))


def test_a_runner_without_a_flow(traced: Traced) -> None:
    with ThreadPoolTaskRunner(max_workers=1) as runner:
        runner.submit(where, {"number": 1}).result()
        runner.map(where, {"number": [1, 2]}).result()
    assert len(traced.named("where")) == 3


def test_counters(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = InMemoryMetricReader()
    meters = MeterProvider([reader])
    monkeypatch.setattr(
        "opentelemetry.metrics.get_meter", lambda *_, **__: meters.get_meter("shoal")
    )
    monkeypatch.setenv("SHOAL_OTEL", "0")
    spans = Spans(TracerProvider())
    add_observer(spans)
    try:

        @flow(name="main", task_runner="threads:1")
        def main() -> None:
            fails.map(range(10)).wait()
            fails.submit(1).wait()

        main()
    finally:
        remove_observer(spans)
    found: Counter[tuple[str, str]] = Counter()
    data: Any = reader.get_metrics_data()
    for metric in data.resource_metrics[0].scope_metrics[0].metrics:
        for point in metric.data.data_points:
            found[metric.name, point.attributes["shoal.state"]] += point.value
    meters.shutdown()
    assert found == {
        ("shoal.task_runs", "Completed"): 5,
        ("shoal.task_runs", "Failed"): 6,
        ("shoal.flow_runs", "Completed"): 1,
    }


SCRIPT = """
import sys
from shoal import flow, task
{before}
@task
def one(): return 1
@flow(task_runner="threads:1")
def main(): return one.submit().result()
main()
from shoal.engine.observing import observers
print(len(observers()), "opentelemetry.trace" in sys.modules)
"""
PROVIDER = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
trace.set_tracer_provider(TracerProvider())
"""


@pytest.mark.parametrize(
    ("before", "wanted", "printed"),
    [
        ("", "", "0 False"),
        ("from opentelemetry import trace", "", "0 True"),
        (PROVIDER, "", "1 True"),
        (PROVIDER, "0", "0 True"),
        ("", "1", "1 True"),
    ],
    ids=["nothing", "no provider", "provider", "off", "asked for"],
)
def test_off_unless_the_program_traces(
    before: str, wanted: str, printed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SHOAL_OTEL", raising=False)
    if wanted:
        monkeypatch.setenv("SHOAL_OTEL", wanted)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(before=before)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == printed


def test_asked_for_and_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_OTEL", "1")
    monkeypatch.setitem(sys.modules, "shoal.recording.flow_spans", None)  # type: ignore[arg-type]

    @flow
    def main() -> None: ...

    from shoal.exceptions import MissingExtraError

    before = observers()
    with pytest.raises(MissingExtraError, match="otel"):
        main()
    assert observers() == before
    assert otel.get_current() is not None


class OtherTracer(trace.Tracer):
    """Of a provider that is not the SDK's: it gives ids of its own."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    def start_span(self, *args: Any, **kwargs: Any) -> trace.Span:
        return self._tracer.start_span(*args, **kwargs)

    def start_as_current_span(self, *args: Any, **kwargs: Any) -> Any:
        return self._tracer.start_as_current_span(*args, **kwargs)


class OtherProvider(trace.TracerProvider):
    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider

    def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
        return OtherTracer(self._provider.get_tracer(*args, **kwargs))


def test_a_provider_that_is_not_the_sdks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_OTEL", "0")
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    spans = Spans(OtherProvider(provider))
    add_observer(spans)
    try:

        @flow(name="main", task_runner="threads:1")
        def main() -> str:
            return where.submit(1).result()

        told = main()
    finally:
        remove_observer(spans)
    run, main_span = sorted(exporter.get_finished_spans(), key=lambda span: span.name == "main")
    assert is_child(run, main_span)
    assert told == ids_of(main_span)


class Broken(SpanProcessor):
    """Raises whatever it is told."""

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        raise OSError("no room")

    def on_end(self, span: ReadableSpan) -> None:
        raise OSError("no room")


def test_a_processor_that_fails_costs_no_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SHOAL_OTEL", "0")
    provider = TracerProvider()
    provider.add_span_processor(Broken())
    spans = Spans(provider)
    add_observer(spans)
    try:

        @flow(name="main", task_runner="threads:1")
        def main() -> list[int]:
            return [fails.submit(2).result(), *fails.map([4, 6]).result(), fails(8)]

        assert main() == [2, 4, 6, 8]
    finally:
        remove_observer(spans)
    assert CARRIERS == {}
    assert "A span could not be made" in caplog.text
