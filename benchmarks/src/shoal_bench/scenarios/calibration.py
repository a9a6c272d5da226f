"""How much a processor computes in a second: found once for a comparison, so that all contestants get the same work.

Counted in seconds of a processor, not of a clock. On a machine that others use too, a clock would say anything: 20 ms of
hashing on two cores with a load of 3 gave between 0.00 and 1.97 GB/s, and the work made from that between 0.05 and 500
times what it should be, where processor time mostly stays within 2 %. What shares a core slows it by a quarter all the same,
so the best of many tries is taken, as Task Bench takes the peak: a lower one would make everybody look more efficient.
"""

from __future__ import annotations

import threading
import time

from shoal_bench.scenarios import work

__all__ = ["bytes_per_second"]

#: Bytes of one try, some milliseconds; and how often each thread tries.
CHUNK, TRIES = 8_000_000, 15


def bytes_per_second(workers: int) -> float:
    """Bytes that `work.compute` gets through in a second of a processor, while so many do it at once.

    Args:
        workers: how many; threads stand for them, as computing lets go of the interpreter lock.
    """
    found: list[float] = []

    def try_out() -> None:
        for _ in range(TRIES):
            began = time.thread_time()
            work.compute(CHUNK)
            found.append(CHUNK / (time.thread_time() - began))

    threads = [threading.Thread(target=try_out) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return max(found)
