"""What runners across a process border share: batches as they travel, runs that workers submit, waits there.

driver     contents.py    what a batch holds
           members.py     the books about workers
           nested.py      runs that workers submit
           modules.py     modules that workers cannot import
           environment.py whether workers have what works with the driver's
worker     worker.py      a worker process: what it holds, and what it says
           seat.py        one of its threads: runs batches, waits
           batches.py     a batch as its worker has it
           coroutines.py  async tasks
           record.py      which runs have begun, in memory that outlives the worker
           dispatcher.py  the driver's dispatcher, as runs on a worker see it
between    messages.py    what they tell each other
           parcels.py     values as they cross

A runner adds how messages and large values travel, and how workers start and end.
"""
