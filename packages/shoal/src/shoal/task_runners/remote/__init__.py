"""What runners across a process border share: batches as they travel, runs that workers submit, waits there.

driver     batch_serializer.py  what a batch holds, as its message
           listener.py    what workers say
           members.py     the books about workers, and about a cluster's batches
           nested.py      runs that workers submit
           limit_slots.py  slots of limits that runs there take; both halves
           modules.py     modules that workers cannot import
           environment.py whether workers have what works with the driver's
worker     worker.py      a worker process: what it holds, and what it says
           worker_thread.py  one of its threads, or its main thread: runs batches, waits
           side_waits.py  what threads wait for that runs there have started
           batches.py     a batch as its worker has it
           coroutines.py  async tasks
           record.py      what has begun, and how it ended, in memory that outlives the worker
           dispatcher.py  the driver's dispatcher, as runs on a worker see it
           calling.py     places of caps for tasks that runs there call
           untold.py      what was submitted there, and what of it the driver is not told of yet
between    messages.py    what they tell each other
           outbox.py      a channel on which nobody waits
           parcels.py     values as they cross
           file_store.py  large ones in files, where a runner has no better place

The same for clusters, which decide themselves where a batch goes:

driver     cluster_runner.py    what users configure
           late_start.py        a start that waits for the first run
           cluster_backend.py   batches go out, and may be had back
           cluster_listener.py  what workers say
           scratch.py           folders that go with the driver, at last when the next one makes one
worker     cluster_worker.py    a worker of one session
           cluster_thread.py    one of its threads
           columns.py           outcomes of a batch, until they are reported
both       standby.py           who has ended a batch stands by for the next

A runner adds how messages and large values travel, and how workers start and end.
"""
