"""Decides what runs when and where.

scheduler.py    pure: events in, effects out; no threads, no clock, no I/O
endings.py      pure: runs are ended from outside, by cancels and time limits
caps.py         pure: how many runs of a task, or of all, may run at once
wait_graph.py   pure: who waits for what, and what would close a circle
stuck.py        pure: who waits for slots of limits that never come
pulling.py      pure: the scheduler of workers in this process, which take what is ready
pushing.py      pure: the scheduler of backends to which batches are sent; made of
  sending.py      what is ready goes to the slots that have room
  waits.py        workers that wait for runs, and what they are given
  blocked_run.py  the plain data of that
  forming.py      which runs go together in a batch
  worker_slots.py  how much is in flight at each slot
batching.py     pure: how long tasks take, and how many travel together
ledger.py       pure: batches in flight at a system of others, and its workers; what becomes of runs when these go; made of
  in_flight.py    the books: batches, workers, and the ways in which a batch leaves
  stopping.py     runs are stopped where they are
  unpickling.py   workers that die while they unpickle a batch
  worker_errors.py  what runs end with whose worker has gone
observed.py     pure: the same schedulers and ledger, telling an observer
effects.py      what schedulers and the ledger ask for
backend.py      what an execution system has to offer; capabilities.py: what of it, as flags
dispatchers.py  the impure shell, by the kind of backend: its events, and the effects carried out; made of
  pulling_dispatcher.py  the one for workers of this process
  dispatcher.py   what all kinds have: lock, clock, threads, and an order of effects
  ledger_events.py  the ledger's half
  intake.py       runs come in
  calling.py      places of caps for direct calls
  answers.py      what futures ask of whoever runs them
  runlog.py       log lines about task runs
"""
