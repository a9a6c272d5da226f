"""Messages between a driver and its workers: what kinds there are.

Bodies are pickles unless said otherwise. How they travel is the business of each runner; in order, in any case. Some
kinds are used by some runners only, and what a body holds is that of worker processes: clusters add what their own way
needs, or leave out what goes by it. Imports nothing of ours.
"""

from __future__ import annotations

from typing import Protocol

__all__ = ["Channel", "Message", "WorkerEnd"]

# To the worker.
BATCH = 1  # (number, lane, wait, surroundings, tasks, stored values, own segment, content, tags): runs to be run
INTERRUPT = 2  # (run number, whether it is past its limit): stop it, or never begin it
RECALL = 3  # batch number: give back what was not begun
RUNS_ENDED = 4  # (stored values, list of (number, phase, since, name, value)): runs submitted here
REPLY = 5  # (question number, whether it is an error, answer)
REFUSED = 6  # (wait number, error): a run would wait for itself
STOP = 7  # nothing: end when idle
FREED = 8  # list of (segment number, whether it may be filled anew) that hold no value any more
TASK = 10  # (task key, pickle): a worker has asked for it
SURROUNDINGS = 11  # a pickled `Surroundings`
NUMBERS = 13  # (first, how many): the worker's own run numbers
GIVE_UP = 14  # (batch number, run number): it does not stop, so its thread is given up
NEXT = 17  # (number of a job, batch number, blob): what a worker that stands by in it goes on with
DISMISSED = 18  # number of a job: who stands by in it does so no more
PLACE = 19  # number of a wait, or of what entered: there is a place of its caps, so it goes on
VALUE = 15  # (run number, phase, pickled value or number of a handle): what was wanted
SECEDE = 12  # wait number: what waits can be given nothing, so its place in the execution system is wanted
SLOTS = 16  # (acquisition, answer or error): of the limits that a run here has asked for
HEARD = 56  # nothing: the driver knows who the worker is, and where it writes down what it begins
SPLIT = 9  # number of a map that could not be unpickled: its runs are to be submitted one by one

# To the driver.
READY = 20  # nothing: the initializer has run
UNREADY = 21  # exception: it raised
REPORT = 22  # struct (batch number, seconds, runs, last) and positions as 16-bit integers: look into the record
VALUES = 23  # (batch number, position, end, pickle, stored value): what the record has no room for
BACK = 24  # (batch number, positions, seconds): runs that were not begun and will not be
UNPACKABLE = 25  # (batch number, exception, whether it was a task's function)
STARTED = 26  # (batch number, position): a run with a time limit has begun
RETURNED = 37  # likewise: it is no longer held to it, whatever its value has yet to go through
LOGGED = 27  # log record
INSIDE = 45  # what happened inside runs, as `recording.inside` has it: to a driver that is recorded
SUBMITTED = 28  # (number, 1, (task key, task, content, own segment)): a run submitted by a run
MAPPED = 29  # likewise for a map
# (wait number, batch and position, awaited runs, awaited maps, blocks, until when, lends; the slots waited for and those kept;
#  whether it is a thread that the run has started)
WAITING = 30
RESUMED = 31  # wait number
ENTER = 51  # (number, caps, whether it is async): what is called here needs places of its own
LEAVE = 52  # that number: it needs it no more
GO_ON = 50  # (wait number, the caps that it is under from now on): what it waited for is there, a place may not be
QUESTION = 32  # (question number, what, argument)
SLOTS_WANTED = 43  # (request, seconds to wait at most): a run wants slots of limits
SLOTS_RELEASED = 44  # acquisition: it needs them no more, or no longer waits for them
DROPPED = 33  # list of run numbers whose futures are gone here
ARRIVED = 35  # number of a batch that came as a task of the execution system's own: a worker has it, and begins
ENDS = 36  # (batch number, positions, kinds, values, ends, seconds, last, whether it stands by): runs have ended
WANTED = 40  # run number: a value that a task of the execution system's own relays
HELLO = 39  # mapping: who the worker is
FAREWELL = 38  # nothing: the worker has said all it has to say
ASKED = 42  # task key: a batch needs a task that is not known here
FAILED = 41  # exception: something of the worker's own went wrong, and runs depend on it
RETIRING = 34  # nothing: it has had its `max_tasks_per_worker`


class Message:
    """One message.

    Attributes:
        kind: a constant of this module.
        body: its bytes.
        fds: descriptors, which belong to the receiver now.
        is_cut: whether descriptors are missing, because this process may not have so many.
    """

    __slots__ = ("body", "fds", "is_cut", "kind")

    def __init__(self, kind: int, body: bytes, fds: list[int], is_cut: bool = False) -> None:
        self.kind = kind
        self.body = body
        self.fds = fds
        self.is_cut = is_cut


class Channel(Protocol):
    """One end of a way to the other side."""

    def send(self, kind: int, body: bytes = b"") -> None:
        """Sends a message, after all that were sent before."""


class WorkerEnd(Channel, Protocol):
    """A worker's end of it."""

    def leave_to_parent(self) -> None:
        """In a child that a run has forked: the way is the parent's."""
