"""Measure this library, plain Peewee and the peers: `python -m benchmarks`.

What makes the comparison fair:

- Everybody works on the same server or the same kind of file, on the same schema and rows, does the
  same operations (`workloads.py`), and has a pool of the same size. SQLite is a file in WAL mode
  with `synchronous=NORMAL` for everybody; on the PostgreSQL that is started here, too, no commit
  waits for the disk.
- Each contender lives in a process of its own, kept alive for the run, which opens its database
  for a cell and closes it afterwards. Only one of them works at a time.
- Rounds are interleaved: in each round every cell is measured once, the contenders of a cell right
  after one another, in the other direction in every second round. Ratios are taken within a
  round; what is reported is their median, with the lowest and the highest.
- Each contender is written in its best form (`contenders/`). Where a connection kept by a task
  is faster, tasks keep it for `HOLD` operations and then let others have it. Where a library has no
  pool for SQLite, or lets its transactions fail or wait long for one another there, it gets what
  its user would have to add: a semaphore, a lock. Only `pwasyncio-call` is as its manual shows it.
- One loop measures everybody. Plain synchronous Peewee runs through it as coroutines that never
  suspend, driven by hand on threads, so that no event loop slows it down.
- Latency includes the wait for a connection.
- The timer that measures the event loop's lag costs time itself, so it runs in a stretch of its own.
- Rows are counted: a contender that returns wrong rows, or whose writes are not all in the database
  afterwards, is reported as an error.
"""
