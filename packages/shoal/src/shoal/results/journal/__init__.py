"""The journal of a flow run: what has completed, so that a run that failed or was killed goes on where it stopped.

    observing   begins and ends the journals of this process
    keeping     a runner whose runs are remembered; calls: direct calls
    journal     the keys of what is submitted, and what of it is reused
    places      by what a run is known again
    writer      the thread that appends what has completed
    resuming    goes on with a run, and says what of it is reused
    values      values that stand in a journal are made again
    journals    those of this machine
    reading     what a journal says
    file        the file that is being written
    contents    what its frames hold; pure
    frames      the file as bytes; pure

Everything is in the driver: workers know nothing of it. May import storage and keys of results, and what lies above those.
"""

from shoal.results.journal.journals import Found, find, journals, prune, remove_all
from shoal.results.journal.observing import keep_journals
from shoal.results.journal.resuming import resumed

__all__ = ["Found", "find", "journals", "keep_journals", "prune", "remove_all", "resumed"]
