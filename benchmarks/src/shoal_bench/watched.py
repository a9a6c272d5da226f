"""What it costs to be watched: flows that are recorded, shown on a terminal, or traced, against the same unwatched.

    python -m shoal_bench.watched --runner threads --runner processes --rounds 9
    python -m shoal_bench.watched --page 1000000

Each round takes every way once, in turn; a figure is the median of the ratios of the rounds, for the time and for the processor's
time of this process, which tells more where others keep the machine busy. Only the flow's body is timed, and the end of the
recording: runners start before, and the workers of Dask and Ray are there for all rounds.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import threading
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import shoal
from shoal.engine.observing import observers, remove_observer

from shoal_bench.workers import workers

__all__ = ["main"]


@shoal.task
def _nothing(x: int) -> int:
    return x


@shoal.task
def _nap(seconds: float) -> None:
    time.sleep(seconds)


def _map_of_nothing(runs: int) -> None:
    _nothing.map(range(runs)).wait()


def _naps_of_10_ms(runs: int) -> None:
    _nap.map([0.01] * (runs // 200)).wait()


def _singles_of_1_ms(runs: int) -> None:
    for future in [_nap.submit(0.001) for _ in range(runs // 100)]:
        future.wait()


#: What is done, by its name, and by whom it is watched.
WORK: dict[str, tuple[Callable[[int], None], tuple[str, ...]]] = {
    "map of no-ops": (_map_of_nothing, ("recorded", "shown")),
    "tasks of 10 ms": (_naps_of_10_ms, ("recorded", "shown")),
    "tasks of 1 ms": (_singles_of_1_ms, ("traced",)),
}


# ---------------------------------------------------------------------- ways of watching


@contextmanager
def _shown() -> Iterator[None]:
    """stderr is a terminal, of which somebody reads."""
    import pty

    reader, terminal = pty.openpty()
    stderr, sys.stderr = sys.stderr, os.fdopen(terminal, "w", buffering=1)

    def read() -> None:
        try:
            while os.read(reader, 65_536):
                pass
        except OSError:
            return  # the other end is closed

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    ci = os.environ.pop("CI", None)
    try:
        yield
    finally:
        sys.stderr.close()
        sys.stderr = stderr
        if ci is not None:
            os.environ["CI"] = ci
        thread.join()
        os.close(reader)


@contextmanager
def _traced() -> Iterator[None]:
    """A provider of the SDK exports spans in batches, to nowhere."""
    os.environ["SHOAL_OTEL"] = "1"
    try:
        yield
    finally:
        os.environ["SHOAL_OTEL"] = "0"
        for observer in observers():
            if type(observer).__name__ == "Spans":
                remove_observer(observer)


def _set_up_tracing() -> bool:
    """Whether there is an SDK to trace with."""
    os.environ["SHOAL_OTEL"] = "0"
    try:
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
    except ImportError:
        return False

    class Nowhere(SpanExporter):
        def export(self, spans: Any) -> Any:
            from opentelemetry.sdk.trace.export import SpanExportResult

            return SpanExportResult.SUCCESS

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Nowhere()))
    trace.set_tracer_provider(provider)
    return True


WAYS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "unwatched": nullcontext,
    "recorded": shoal.record,
    "shown": _shown,
    "traced": _traced,
}


# ---------------------------------------------------------------------- the figures


def _taken(
    runner: Callable[[], Any], way: str, work: Callable[[int], None], runs: int
) -> tuple[float, float]:
    """How long the work takes in a flow, with what it costs afterwards to have watched, and the processor's time of that."""
    body, used = 0.0, 0.0

    @shoal.flow(task_runner=runner())
    def watched() -> None:
        nonlocal body, used
        _nothing.map(range(2000)).wait()  # the workers are there, and how quick the task is
        began, used = time.perf_counter(), time.process_time()
        work(runs)
        body, used = time.perf_counter() - began, time.process_time() - used

    with ExitStack() as stack:
        stack.enter_context(WAYS[way]())
        watched()
        began, since = time.perf_counter(), time.process_time()
    return body + time.perf_counter() - began, used + time.process_time() - since


def costs(name: str, rounds: int, runs: int, traces: bool) -> None:
    """Prints what the ways of watching cost on a runner."""
    with workers(name) as runner:
        for title, (work, ways) in WORK.items():
            told = [way for way in ways if way != "traced" or traces]
            if not told:
                continue
            for way in ("unwatched", *told):  # what is loaded on use
                _taken(runner, way, work, runs // 10)
            taken: dict[str, list[tuple[float, float]]] = {}
            for _ in range(rounds):
                for way in ("unwatched", *told):
                    taken.setdefault(way, []).append(_taken(runner, way, work, runs))
            bare = taken["unwatched"]
            for way in told:
                pairs = list(zip(taken[way], bare, strict=True))
                times = [a[0] / b[0] for a, b in pairs]
                used = [a[1] / b[1] for a, b in pairs]
                print(
                    f"{name:11} {title:15} {way:9} {statistics.median(times):.3f}x "
                    f"({min(times):.2f} to {max(times):.2f}), processor {statistics.median(used):.3f}x; "
                    f"unwatched {statistics.median(b[0] for b in bare):.3f} s",
                    flush=True,
                )


def page(runs: int) -> None:
    """Prints how long the page of so many runs takes to be made, and how large it and the record are."""

    @shoal.flow(task_runner="threads:2")
    def many() -> None:
        _nothing.map(range(runs)).wait()

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "run.shoal")
        with shoal.record(file) as recording:
            many()
        began, used = time.perf_counter(), time.process_time()
        record = recording.record
        read = time.perf_counter() - began
        c = record.columns
        columns = [getattr(c, name) for name in c.__slots__]
        memory = sum(len(column) * column.itemsize for column in columns)
        target = recording.report(Path(os.environ.get("PAGE") or Path(folder, "run.html")))
        made, used = time.perf_counter() - began, time.process_time() - used
        print(
            f"page of {runs:,} runs: {made:.1f} s, {used:.1f} of the processor (reading the record {read:.1f} s), {target.stat().st_size / 1e6:.1f} MB; "
            f"the record has {memory / len(c):.0f} B a run in memory, {file.stat().st_size / len(c):.1f} B in its file"
        )


def main() -> None:
    """The command."""
    parser = ArgumentParser(prog="python -m shoal_bench.watched", description=__doc__)
    parser.add_argument("--runner", action="append", default=[])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--runs", type=int, default=100_000, help="of the map of no-ops")
    parser.add_argument("--page", type=int, default=0, metavar="RUNS")
    chosen = parser.parse_args()
    os.environ["SHOAL_LOGGING_LEVEL"] = "CRITICAL"
    traces = _set_up_tracing()
    for name in chosen.runner:
        costs(name, chosen.rounds, chosen.runs, traces)
    if chosen.page:
        page(chosen.page)


if __name__ == "__main__":
    main()
