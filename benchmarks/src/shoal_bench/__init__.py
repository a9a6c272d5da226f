"""What Shoal costs per task: every figure stands beside the bare engine's, measured in the same run.

`shoal bench overhead`, a runner at a time:

    measurement.py    the words: a measurement, its figure, floor and aim
    fresh_process.py  takes a sample in a process of its own
    workloads.py      what is measured: the same work for a runner and for a bare engine
    suites/           the measurements of each runner
    harness.py        takes samples of both sides in turn and sums them up
    machine.py        what the figures were measured on
    report.py         results as a table, as Markdown, as JSON

`shoal bench`, all runners at once:

    contestants/      who takes part: an adapter for each system
    scenarios/        what is measured
    live/             a contestant in a process of its own, which takes samples on request
    record.py         the schema of what is written; derive.py: what samples come to
    comparison.py     who is asked for what, in which order; book.py: what was taken
    progress.py  table.py  advice.py      what is shown
    page/             a record as a page with charts, and as a picture
    changes.py  significance.py  floors.py    what is made of records
    trial/            a user's own flow on every runner
    watched.py        what it costs to be recorded, shown or traced: `python -m shoal_bench.watched`
    limited.py        what caps, slots and rates cost: `python -m shoal_bench.limited`
    commands/         the commands

    simulation/       `shoal bench simulate`: the real scheduler and ledger with many workers, in virtual time
    cli.py            `shoal bench`, and its command `overhead`

Each imports only from those above it. docs/benchmarks.md tells how to read the figures and how to add one.
"""
