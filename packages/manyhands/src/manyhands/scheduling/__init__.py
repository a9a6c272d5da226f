"""Decides what runs when and where.

scheduler.py    pure: events in, effects out; no threads, no clock, no I/O
batching.py     pure: how long tasks take, and how many travel together
backend.py      what an execution system has to offer
dispatcher.py   the impure shell: lock, clock, threads, and the effects carried out
"""
