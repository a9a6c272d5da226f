"""`shoal bench simulate`: the driver of a cluster that nobody has here, in virtual time.

The scheduler and the ledger are the real ones, and so is the time that they take: each of their steps is clocked where it
happens. What lies beyond them is played: the wire, the cluster's queue, and workers whose tasks take virtual seconds.

    real      PushingScheduler, Ledger          CPU time of each step, as it is measured
    measured  packing and sending a batch,      once before, on this machine; added for each message (costs.py)
              receiving a report
    played    latency, the cluster's queue, workers, deaths, stragglers

    model.py      what is simulated: the tasks and the cluster, checked
    clock.py      virtual time: what happens next
    costs.py      what a message costs the driver
    engines.py    what a job costs the client of Dask or Ray besides
    driver.py     the driver: one server, which does one thing after another
    cluster.py    the queue and the workers behind it
    run.py        one simulation, and what came out
    search.py     the shortest tasks that keep so many workers busy
    process.py    a simulation in a process of its own, for the memory it takes
    published.py  what others have measured, repeated
    report.py     results as tables and as JSON
    command.py    the command

Each imports only from those above it.
"""
