"""What ran when: columns of a run, and what is made of them.

    live            live progress on a terminal, and the lines at the end
    recording.py    what users have of it: `shoal.record()`
    reports.py      `SHOAL_REPORT`: a report of each flow run
    recorder.py     observes, and keeps what it is told; runner_recorder.py: of one runner; events.py: in which form
    inside.py       what happens inside runs on workers in other processes, on its way to the recorder, which takes it by
                    adopting.py
    file.py         one thread writes it to an SQLite file; taking.py: what was told, as rows, and columns of numbers
                    (chunks.py); told.py: what exceptions tell
    reading.py      makes the record of the file; reported.py: runs that came one after another; clocks.py: of workers,
                    against the driver's
    record.py       the record as its readers have it: plain data, with rows.py
    command.py      the command line of this process
    report          the report: one page of what ran, and what would help
    drawing.py      the tasks of a flow and what they pass, as text and picture
    trace.py        the record as a timeline for Perfetto
    whole.py        files that are written whole or not at all
    otel.py         whether OpenTelemetry is told
    flow_spans.py   spans of flow runs and direct calls, and who is told of all
    run_spans.py    spans of the runs of a runner
    spans.py        makes spans and counters of OpenTelemetry
    dry_run.py      a flow's body is run to be drawn, its tasks are not

Nothing here is loaded, and nothing is told, unless somebody asks for it. May import scheduling and what lies above it.
"""
