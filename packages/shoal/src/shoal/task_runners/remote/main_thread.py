"""The main thread of a worker process that is there for runs alone: takes batches until the process is to end.

A signal gets it out of system calls, so that a run which sleeps is stopped at once. May import `worker_thread` and what
lies above it.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Any

from shoal.context import LOCK
from shoal.engine.interrupt import Interrupt
from shoal.task_runners.remote.worker_thread import WorkerThread

if TYPE_CHECKING:
    from shoal.task_runners.remote.batches import Batch

__all__ = ["MainThread"]

#: Kicks the main thread out of a system call, so that an interrupt is raised there: a signal that programs seldom use
#: for themselves. `None` where there is none.
KICK = signal.SIGRTMIN + 7 if hasattr(signal, "SIGRTMIN") else getattr(signal, "SIGUSR2", None)

#: Seconds that a run may go on when the driver has gone.
LAST_GRACE = 2.0


class MainThread(WorkerThread):
    """See the module. `begin` comes before anything is received, and `serve` is what the process does from then on."""

    def begin(self) -> None:
        """This is the thread from now on."""
        self.enter()
        if KICK is not None:
            signal.signal(KICK, self._kicked)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)

    def serve(self) -> None:
        """Runs batches until the worker is `stopping`, or its driver has gone."""
        home = self.home
        try:
            while True:
                batch = self.queue.get()
                if batch is not None:
                    self.run(batch)
                elif home.stopping and not home.coroutines.are_there():
                    return
                # else it was to wake a wait that has ended since
                del batch
        except ConnectionError:
            pass  # the driver has gone, and with it who could be told
        finally:
            self.leave()
            if KICK is not None:
                signal.signal(KICK, signal.SIG_IGN)

    def begin_batch(self, batch: Batch) -> None:
        """Has a batch run that came by message: in its turn, or on the loop if it is of coroutines."""
        if batch.rows.task.is_async:
            self.home.coroutines.begin(batch)
        else:
            batch.worker_thread = self
            self.give(batch)

    def end(self) -> None:
        """The driver has gone: what runs is stopped, and the process ends, by force if that takes too long."""
        last = threading.Timer(LAST_GRACE, _end_with_all)
        last.daemon = True
        last.start()
        self.home.end()

    def kick(self) -> None:
        """See `WorkerThread`."""
        if KICK is not None:
            main = threading.main_thread().ident
            assert main is not None  # it runs
            signal.pthread_kill(main, KICK)

    def _kicked(self, number: int, frame: Any) -> None:
        with LOCK:
            if not self.frames.due():
                return
            self.frames.withdraw()
        raise Interrupt

    def _after_fork(self) -> None:
        """In a child that a run has forked: it is no worker, so it says nothing to the driver. See `engine.forks`."""
        if KICK is not None:
            signal.signal(KICK, signal.SIG_DFL)
        self.home.leave_to_parent()


def _end_with_all() -> None:
    """Ends this process by force, and what it has started, whose group it leads."""
    if os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
