"""What Shoal costs per task: every figure stands beside the bare engine's, measured in the same run.

    measurement.py    the words: a measurement, its figure, floor and aim
    fresh_process.py  takes a sample in a process of its own
    workloads.py      what is measured: the same work for a runner and for a bare engine
    suites/           the measurements of each runner
    harness.py        takes samples of both sides in turn and sums them up
    machine.py        what the figures were measured on
    report.py         results as a table, as Markdown, as JSON
    cli.py            `shoal bench`

Each imports only from those above it. docs/benchmarks.md tells how to read the figures and how to add one.
"""
