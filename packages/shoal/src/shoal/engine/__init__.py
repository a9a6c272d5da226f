"""The engine: what happens to one run where it lands. It knows nothing of schedulers and runners.

    inputs.py       futures and States in arguments: finding them, putting values in their place
    columns.py      the arguments of a map
    containers.py   which objects are looked into for them, and how each kind is taken apart and rebuilt
    task_run.py     one attempt of a task run
    hooks.py        the user's hooks on a task run, and the run as they see it
    direct_call.py  a task called directly: all its attempts, in the caller's thread
    batch_run.py    a batch of runs in another process
    flow_run.py     one run of a flow
    async_flow_run.py  the same on the caller's loop
    streams.py      generators of the user's, step by step, for both kinds of runs
    interrupt.py    stopping what runs, at its time limit too
    observing.py    who is told what runs
    tracing.py      which span of OpenTelemetry is the current one in a run
    services.py     the service threads of a driver: timers, user callbacks
    loops.py        the event loop that runs async tasks
    forks.py        processes that user code forks inside a run
    handlers.py     signal handlers, in force in this process only

Import the modules; nothing is gathered here, so that a worker loads only what it uses.
"""
