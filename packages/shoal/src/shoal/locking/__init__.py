"""Managers of locks, for `CachePolicy.configure(lock_manager=…)`, where Prefect has them.

    protocol.py    what a manager does
    waiting.py     what is the same in all of ours
    memory.py      locks of one process
    filesystem.py  locks of all processes that see a folder

A storage locks its keys itself, so that none of these is needed. May import `results` and what lies above it.
"""
