"""The timeline for Perfetto, decoded with Perfetto's own definitions of its messages."""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
import shoal
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as perfetto
from shoal.recording.record import Record
from shoal.recording.trace import NOISE, write_trace

from tests.recording.made import START, Made, large, small

BEGIN, END, INSTANT = 1, 2, 3


@dataclass
class Drawn:
    """A slice as it is shown: times in seconds after the record's start."""

    track: str
    name: str
    begun: float
    ended: float
    facts: dict[str, Any]
    depth: int
    starts: list[int]
    ends: list[int]


@dataclass
class Decoded:
    """What Perfetto makes of a trace."""

    slices: list[Drawn] = field(default_factory=list)
    instants: list[tuple[str, str, float, str]] = field(default_factory=list)
    processes: dict[int, str] = field(default_factory=dict)
    parents: dict[str, str] = field(default_factory=dict)
    started: float = nan

    def on(self, track: str) -> list[Drawn]:
        return sorted((s for s in self.slices if s.track == track), key=lambda s: s.begun)

    def arrows(self) -> list[tuple[str, str]]:
        """`(run, run)`, as pairs of names of runs."""
        sources = {flow: s for s in self.slices for flow in s.starts}
        return [
            (sources[flow].facts["run"], s.facts["run"]) for s in self.slices for flow in s.ends
        ]


def decoded(record: Record) -> Decoded:
    """Decodes, and checks what Perfetto asks for: slices that nest, tracks and names that are described first."""
    file = io.BytesIO()
    write_trace(record, file)
    trace = perfetto.Trace.FromString(file.getvalue())
    found = Decoded()
    names: dict[str, dict[int, str]] = {"event_names": {}, "debug_annotation_names": {}}
    tracks: dict[int, str] = {}
    thread_of_process: dict[int, int] = {}
    open_slices: dict[int, list[Drawn]] = defaultdict(list)
    # Perfetto sorts by time, and leaves what is at one time as it was written.
    for place, packet in enumerate(trace.packet):
        assert packet.trusted_packet_sequence_id == 1
        assert packet.sequence_flags == (1 if place == 0 else 2)
        assert packet.FindInitializationErrors() == []
        for kind, known in names.items():
            for entry in getattr(packet.interned_data, kind):
                assert entry.iid not in known
                known[entry.iid] = entry.name
        if packet.HasField("clock_snapshot"):
            clocks = {clock.clock_id: clock.timestamp for clock in packet.clock_snapshot.clocks}
            assert clocks[6] == 0
            found.started = clocks[1] / 1e9 - START
        if packet.HasField("track_descriptor"):
            track = packet.track_descriptor
            assert track.uuid not in tracks
            if track.HasField("process"):
                assert track.process.pid not in found.processes
                found.processes[track.process.pid] = track.process.process_name
                tracks[track.uuid] = track.process.process_name
            else:
                is_thread = track.HasField("thread")
                tracks[track.uuid] = track.thread.thread_name if is_thread else track.name
                if is_thread:
                    assert track.thread.tid not in thread_of_process
                    thread_of_process[track.thread.tid] = track.thread.pid
                    assert track.thread.pid in found.processes
                found.parents[tracks[track.uuid]] = tracks[track.parent_uuid]
    for packet in sorted(
        (packet for packet in trace.packet if packet.HasField("track_event")),
        key=lambda packet: packet.timestamp,
    ):
        event = packet.track_event
        at = packet.timestamp / 1e9 + found.started
        stack = open_slices[event.track_uuid]
        if event.type == END:
            stack.pop().ended = at
            continue
        facts = {
            names["debug_annotation_names"][fact.name_iid]: getattr(fact, fact.WhichOneof("value"))
            for fact in event.debug_annotations
        }
        name, track = names["event_names"][event.name_iid], tracks[event.track_uuid]
        if event.type == INSTANT:
            found.instants.append((track, name, at, facts["what"]))
            continue
        starts, ends = list(event.flow_ids), list(event.terminating_flow_ids)
        drawn = Drawn(track, name, at, inf, facts, len(stack), starts, ends)
        found.slices.append(drawn)
        stack.append(drawn)
    return found


def approx(value: float) -> Any:
    return pytest.approx(value, abs=1e-6)


def test_a_known_schedule() -> None:
    found = decoded(small())
    assert found.started == approx(0)
    assert found.processes == {4711: "driver 4711 on here"}
    tracks = ["flow runs", "runners", "events", "shoal-worker-0", "shoal-worker-1"]
    assert found.parents == dict.fromkeys(tracks, "driver 4711 on here")
    worker = found.on("shoal-worker-0")
    assert [(s.name, s.begun, s.ended) for s in worker] == [
        *(("load", approx(i * 0.5), approx(i * 0.5 + 0.5)) for i in range(4)),
        ("fit", approx(2), approx(4.5)),
        ("fit", approx(4.5), approx(7)),
        ("fit", approx(7), approx(9.9)),
    ]
    assert {s.depth for s in worker} == {0}, (
        "one after another, though one ends when another begins"
    )
    (flow,) = found.on("flow runs")
    assert (flow.name, flow.begun, flow.ended) == ("study", approx(0), approx(10))
    assert flow.facts["run"] == "hilarious-collie"
    (start,) = found.on("runners")
    assert (start.name, start.ended) == ("start of ThreadPoolTaskRunner", approx(0.01))


def test_every_attempt_that_began_is_a_slice() -> None:
    record = small()
    expected = Counter(row.task for row in record.runs() if row.begun == row.begun)
    found = decoded(record)
    on_workers = [s for s in found.slices if s.track.startswith("shoal-worker")]
    assert Counter(s.name for s in on_workers) == expected
    failed = next(s for s in on_workers if s.facts["state"] == "Failed")
    assert failed.name == "check <&\"'>"
    assert failed.facts["error"] == "ValueError: no <b>such</b> table"
    fetches = [s for s in on_workers if s.name == "fetch"]
    assert [(s.facts["attempt"], s.facts["state"]) for s in fetches] == [
        (1, "Retrying"),
        (2, "Completed"),
    ]
    assert fetches[0].facts["run"] == fetches[1].facts["run"]


def test_arrows_follow_dependencies() -> None:
    record = small()
    names = {row.number: row.name for row in record.runs()}
    expected = [(names[upstream], names[run]) for run, upstream in record.edges.pairs()]
    assert sorted(decoded(record).arrows()) == sorted(expected)
    assert expected


def test_the_list_of_a_long_map_has_one_arrow_from_its_last_run() -> None:
    made = Made(workers=2)
    first = made.map("load", [0.1] * 20)
    last = made.map("load", [0.1, 0.2, 0.3], begun=2.0)
    total = made.run("total", 4.0, 5.0)
    made.record.edges.append(total, first, first + 20)
    made.record.edges.append(total, last, last + 3)
    names = {row.number: row.name for row in made.record.runs()}
    sources = [source for source, _ in decoded(made.record).arrows()]
    assert len(sources) == 4
    assert set(sources[-3:]) == {names[last + i] for i in range(3)}
    assert sources[0] in {names[first + 18], names[first + 19]}


def test_a_retried_run_is_waited_for_until_its_last_attempt() -> None:
    made = Made()
    first = made.run("fetch", 0.0, 1.0, state="Retrying", error="again")
    made.run("fetch", 2.0, 3.0, number=first, attempt=2)
    second = made.run("parse", 3.0, 4.0, after=[first], state="Retrying", error="again")
    made.run("parse", 5.0, 6.0, number=second, attempt=2)
    found = decoded(made.record)
    (source,) = [s for s in found.slices if s.starts]
    (target,) = [s for s in found.slices if s.ends]
    assert (source.begun, target.begun) == (approx(2), approx(3))


def test_what_overlaps_goes_to_further_tracks() -> None:
    made = Made(workers=1)
    made.run("fetch", 0.0, 4.0)
    made.run("fetch", 1.0, 5.0)
    made.run("fetch", 2.0, 6.0)
    made.run("fetch", 4.0, 7.0)
    made.run("inner", 2.5, 3.5)  # a run that another waits for is inside it
    found = decoded(made.record)
    assert [s.begun for s in found.on("shoal-worker-0")] == [approx(0), approx(2.5), approx(4)]
    assert [s.depth for s in found.on("shoal-worker-0")] == [0, 1, 0]
    assert [s.ended for s in found.on("shoal-worker-0 (2)")] == [approx(5)]
    assert [s.ended for s in found.on("shoal-worker-0 (3)")] == [approx(6)]
    assert found.parents["shoal-worker-0 (2)"] == "shoal-worker-0"


def test_the_noise_of_clocks_makes_no_further_track() -> None:
    made = Made(workers=1)
    made.run("step", 0.0, 1.0)
    made.run("step", 1.0 - NOISE / 2, 2.0)
    made.run("step", 2.0 - 3 * NOISE, 3.0)
    found = decoded(made.record)
    assert [s.begun for s in found.on("shoal-worker-0")] == [approx(0), approx(1)]
    assert [s.begun for s in found.on("shoal-worker-0 (2)")] == [approx(2 - 3 * NOISE)]


def test_what_has_not_ended_is_open() -> None:
    made = Made(workers=1)
    made.run("slow", 1.0, nan, state="Running")
    made.run("inner", 2.0, 3.0)
    made.record.flow_runs[0] = made.record.flow_runs[0]._replace(ended=None)
    made.record.ended = None
    found = decoded(made.record)
    assert [s.ended for s in found.on("shoal-worker-0")] == [inf, approx(3)]
    assert [s.ended for s in found.on("flow runs")] == [inf]


def test_machines_with_processes_of_one_number() -> None:
    made = Made(workers=0)
    for host in ("a", "b"):
        made.run("load", 0.0, 1.0, worker=made.worker(host=host, pid=7, thread=""))
    found = decoded(made.record)
    assert sorted(found.processes.values()) == [
        *("driver 4711 on here", "worker 7 on a", "worker 7 on b"),
    ]
    assert len(found.on("runs")) == 2


def test_events() -> None:
    made = Made(workers=1)
    made.event("death", 3.0, "killed by SIGKILL", worker=0)
    made.event("limit", 1.0, "waited for 'db'")
    assert decoded(made.record).instants == [
        ("events", "limit", approx(1), "waited for 'db'"),
        ("shoal-worker-0", "death", approx(3), "killed by SIGKILL"),
    ]


def test_an_empty_record() -> None:
    assert decoded(Record()).slices == []


def test_times_before_the_recording_and_names_that_are_no_text() -> None:
    made = Made(workers=1)
    made.run("sur\udc80rogate", -0.5, 0.5)  # a worker's clock, corrected too far
    found = decoded(made.record)
    assert found.started == approx(-0.5)
    assert [(s.name, s.begun) for s in found.on("shoal-worker-0")] == [("sur?rogate", approx(-0.5))]


def test_a_large_record_keeps_its_names_once() -> None:
    record = large(20_000)
    file = io.BytesIO()
    write_trace(record, file)
    assert file.getvalue().count(b"\x04step") == 1
    found = decoded(record)
    assert len([s for s in found.slices if s.name == "step"]) == 20_000


def test_of_a_real_run(tmp_path: Path) -> None:
    @shoal.task
    def load(number: int) -> int:
        return number

    @shoal.task
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    @shoal.flow(name="main", task_runner="threads:2")
    def main() -> int:
        loads = [load.submit(i) for i in range(3)]
        load.map(range(50)).wait()
        return total.submit(loads).result()

    with shoal.record() as recording:
        assert main() == 3
    found = decoded(recording.record)
    assert Counter(s.name for s in found.slices) >= Counter(load=53, total=1, main=1)
    sum_of = next(s for s in found.slices if s.name == "total")
    sources = {s.facts["run"]: s for s in found.slices if s.starts}
    assert len(sources) == 3
    assert {target for _, target in found.arrows()} == {sum_of.facts["run"]}
    (around,) = found.on("flow runs")
    for drawn in found.slices:
        if drawn.name in ("load", "total"):
            assert around.begun <= drawn.begun <= drawn.ended <= around.ended
    assert all(s.ended <= sum_of.begun + NOISE for s in sources.values())
    path = recording.trace(tmp_path / "x.pftrace")
    assert perfetto.Trace.FromString(path.read_bytes()).packet
