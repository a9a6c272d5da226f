"""Keys that hold: the same content has the same key in every process, on every runner, whatever the hash seed.

    digesting   keys of values and arguments; `UnstableKeyError` where there can be none
    walk        the canonical walk: leaves and containers
    kinds       which encoder another type has; objects
    callables   the encoders of functions, classes and their like
    arrays      NumPy's arrays
    columns     the columns of tables: of_pandas, of_polars, of_arrow
    binding     what functions are bound to
    functions   functions and classes, by their source and that of all the user's own code they reach
    source      source as trees, the same in all versions of Python
    referring   which names a function refers to
    explaining  what of a key has changed
    naming      what classes and functions are called, and which code is the user's own
    buffers     the hash of many bytes

SHA-256 throughout. May import `exceptions` and `specs`.
"""

from shoal.results.keys.binding import bound_arguments, freed
from shoal.results.keys.callables import register
from shoal.results.keys.digesting import digest, digest_arguments, digest_call
from shoal.results.keys.functions import (
    function_digest,
    function_parts,
    function_texts,
    may_read_parameters,
)

__all__ = [
    "bound_arguments",
    "digest",
    "digest_arguments",
    "digest_call",
    "freed",
    "function_digest",
    "function_parts",
    "function_texts",
    "may_read_parameters",
]

register()
