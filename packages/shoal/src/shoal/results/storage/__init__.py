"""Where records are kept: one computation's value by its key, and what is known of it.

    record     what is kept, and what a list of it shows
    format     a record as bytes; pure
    base       what a storage does: `Storage`, and the lock of a key
    folder     in a folder of files
    trust      whether what is read there may be somebody else's
    index      what the files of a folder say, for lists
    locks      the locks of keys there: files locked by the kernel
    remote     in what fsspec reaches
    leases     the locks of keys there
    managed    the lock of a key that a lock manager keeps instead
    opening    opens the storage that is meant

    read(key) ─▶ file of that name ─▶ does it verify? ─▶ `Record`, or a miss (with a warning, where it does not)
    lock(key) ─▶ read again ─▶ compute ─▶ write(record): a temporary file, renamed ─▶ release

A file is the whole truth about its record. Nothing else is opened to read or write one.
"""

from shoal.results.storage.base import KeyLock, Storage
from shoal.results.storage.opening import open_storage
from shoal.results.storage.record import Entry, Pruned, Record, Ref

__all__ = ["Entry", "KeyLock", "Pruned", "Record", "Ref", "Storage", "open_storage"]
