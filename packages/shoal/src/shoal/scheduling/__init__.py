"""Decides what runs when and where.

scheduler.py    pure: events in, effects out; no threads, no clock, no I/O
pulling.py      pure: the scheduler of workers in this process, which take what is ready
pushing.py      pure: the scheduler of backends to which batches are sent; made of
  sending.py      what is ready goes to the slots that have room
  waits.py        workers that wait for runs, and what they are given
  forming.py      which runs go together in a batch
  slots.py        how much is in flight at each slot
batching.py     pure: how long tasks take, and how many travel together
effects.py      what schedulers ask for
backend.py      what an execution system has to offer
dispatcher.py   the impure shell: lock, clock, threads, and the effects carried out; made of
  answers.py      what futures ask of whoever runs them
  runlog.py       log lines about task runs
"""
