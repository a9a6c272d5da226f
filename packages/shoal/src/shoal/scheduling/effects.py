"""What a scheduler asks for: tuples `(kind, subject, ...)`, carried out in order by the dispatcher.

Imports nothing.
"""

LAUNCH = 1  # batch
WAKE = 2  # worker: an idle one, something is ready
CROWDED = 3  # something is ready and nobody is idle
LOOP = 4  # async runs are ready
SETTLED = 5  # future: wake its waiters, call its callbacks, log its end
RECORD = 6  # map record: wake who waits for the whole
TIMER = 7  # future, seconds: call `due` then
INTERRUPT = 8  # future: stop what still runs of it
OTHER = 9  # dispatcher of another runner: it has effects to carry out
DRAINED = 10  # no run is open any more
ELEMENTS = 11  # map record, indices, name of a state: some ended in it that nobody has a future of
LIMIT = 12  # future: take a slot of its tags' limits, and say so by `admitted`
RELEASE = 13  # future: it needs its slot no more, or never will
RETURNED_ENDED = 14  # future, call, value: what its return value waited for has ended
WAIT_FOR_RETURNED = 15  # future, value: it returned runs that have not ended; they settle it
RECALL = 16  # batch: take back what its worker has not begun
IDLE = 17  # a slot has nothing to do while others have more than they are at
HELP = 18  # blocked run: look whether a waiting worker can be given what it waits for
GONE = 19  # slot: a spare one is not needed any more
OVERDUE = 20  # future, call: an attempt was stopped by force at its time limit
UNKNOWN = 21  # task: say `is_slow` in a while, unless its first runs have ended by then
GO_ON = 34  # blocked run, or what has entered: it may go on
REMEMBER = 35  # run number, value; or keys of a map, index, values: for the journal, and carried out by nobody else
FILL = 22  # there may be more to launch, once what was launched before has left

# Of the ledger:
TELL = 23  # worker, what, about what: "recall" batch number, "secede" wait, "place" wait
WITHDRAW = 24  # in-flight batch: ask the system for it, unless a worker has begun it
KILL = 25  # worker, job, run: stop by force what executes the run
GIVE_UP = 26  # in-flight batch, run: it does not stop, and its worker is not killed for it
READ = 27  # worker: it has gone; read what it had written down
LATER = 28  # seconds, function of the time: to be called then, with the lock held
CLOSED = 29  # in-flight batch: it has said all
CERTAIN = 30  # of a batch with stopped runs it is known now whether it begins
DEADLY = 31  # task key, error: workers die of its function; its runs end with that unsent
PASSED_ON = 32  # in-flight batch, report: one that had been held, or was written down, is known now
STOP = 33  # worker, in-flight batch, run: interrupt it there

OF_LEDGER = frozenset(range(TELL, STOP + 1))
