"""Results that are kept, and what tells that one fits.

    keys          what a value, an argument or a function is, in 32 bytes
    settings      where they are kept, and how much of them
    serializers   how a value is written
    classes       by what name the class of a value is found again
    pickles       pickles that a later process reads
    plain         values as JSON that come back as they were
    storage       where records are kept: a folder, or what fsspec reaches
    changes       why a run had to compute its result
    kept          values: written, and read again
    options       what tasks and flows say about keeping results
    templates     what keys name, and format strings that are keys
    run_keys      the key of a run's result
    turns         waiting for a key that another computes
    within        what surrounds a function that others wait for
    telling       what is said once
    staging       what is run in a transaction
    steps         what a thread does at once, and a coroutine without holding up its loop
    transacting   what is committed together, or rolled back together
    caching       one attempt of a run whose result is kept
    journal       what has completed of a flow run, so that it can go on

Nothing of this is imported for a task that asks for nothing. May import what lies above task runners.
"""
