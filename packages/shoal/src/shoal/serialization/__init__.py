"""What travels between processes, and how failures to travel are named.

    pickling     plain where it works on the other side, by value where it would not
    by_value     the pickler for that; loads cloudpickle, so it is imported on use
    references   by which name of a module something is found on the other side
    errors       exceptions, whole
    portable     exceptions that certainly arrive
    culprits     what of a value cannot be pickled; by a pickler of `tracing`
    guarded      what can be said of objects that misbehave

Plain pickle takes classes and functions of `__main__` by reference, which a worker cannot resolve; cloudpickle takes
them by value. May import `exceptions` and `tracebacks`.
"""

from shoal.serialization.culprits import culprit_in, find_culprit
from shoal.serialization.guarded import from_a_signal, shown, words_of
from shoal.serialization.pickling import (
    BY_VALUE,
    dumps,
    dumps_function,
    dumps_with_buffers,
    loads,
    loads_each,
)
from shoal.serialization.portable import Portable, pack_error, portable_error, unpicklable

__all__ = [
    "BY_VALUE",
    "Portable",
    "culprit_in",
    "dumps",
    "dumps_function",
    "dumps_with_buffers",
    "find_culprit",
    "from_a_signal",
    "loads",
    "loads_each",
    "pack_error",
    "portable_error",
    "shown",
    "unpicklable",
    "words_of",
]
