"""Turnstile: one worker at a time in Python, the others while it waits for the database.

Under the GIL two threads that run Python only take turns, and each change of turn costs both
of them more than a small statement takes. So one worker has the turn, and goes on from job to
job. When its statement is expected to take long, or is seen to, the turn goes to another one.
A short one that a server works on is not worth that; where jobs mostly consist of such, two
workers have a turn, and one computes while the other waits. On a free-threaded Python there
is a turn for each processor.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque

from ._turns import TurnTaker

# A holder that has used less than this share of the time since the last look is waiting for
# something, in Python code or in the driver.
WORKING_SHARE = 0.25

# A loop that has used more than this share of it may be what the holder has waited for.
BUSY_SHARE = 0.5

# Two workers get more done than one as long as their jobs compute for at most so many times
# as long as they wait in short statements. Measured at a server on the same machine: get(),
# create() and small transactions up to 2.3 times, lists of a hundred rows from 2.7 times on.
MOST_COMPUTING = 2.5

# In how many jobs a change of what they are like shows.
MEMORY = 16


def turns() -> int:
    """Return how many threads of this interpreter can run Python at the same time."""
    has_gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    return 1 if has_gil else os.cpu_count() or 1


class Turnstile:
    """Say whose turn it is; all of it under the pool's lock."""

    def __init__(self) -> None:
        # How many turns are free. An attribute, for it is looked at several times for each job.
        # Less than none, while one is to be given up.
        self.free = turns()
        self._overlaps = False
        # What an average job computes, and waits in short statements, in seconds.
        self._computed = self._waited = 0.0
        # Who has one, and what the last look has seen of it: its progress, its processor time.
        self._holders: dict[TurnTaker, tuple[int, float] | None] = {}
        # When that was, and how much processor time the loop's thread had used.
        self._looked_at = self._loop_used = 0.0
        # Those that come back from a long statement: in the middle of a job, so they go first.
        self._returning: deque[TurnTaker] = deque()

    def take(self, worker: TurnTaker) -> None:
        """Give a turn that is free to a worker; one that has a turn keeps it."""
        # A writer may get its next job while it is leaving the gate, before its turn is over.
        self.free -= worker not in self._holders
        self._holders[worker] = None

    def weigh(self, computed: float, waited: float) -> None:
        """Learn from a job whether two workers are to overlap."""
        self._computed += (computed - self._computed) / MEMORY
        self._waited += (waited - self._waited) / MEMORY
        overlaps = self._computed <= self._waited * MOST_COMPUTING
        self.free += overlaps - self._overlaps
        self._overlaps = overlaps

    def leave(self, worker: TurnTaker) -> bool:
        """Take the turn from a worker; False: it did not have one."""
        had = worker in self._holders
        if had:
            del self._holders[worker]
            self.free += 1
        return had

    def come_back(self, worker: TurnTaker) -> bool:
        """Give a turn to a worker in the middle of a job; False: it has to wait."""
        if self.free > 0:
            self.take(worker)
            return True
        self._returning.append(worker)
        return False

    def stop_waiting(self, worker: TurnTaker) -> bool:
        """Take a worker out of the queue of those that come back; False: it has a turn by now."""
        waits = worker in self._returning
        if waits:
            self._returning.remove(worker)
        return waits

    def next_returning(self) -> TurnTaker | None:
        """Return the first of those that come back, None if there is none."""
        return self._returning.popleft() if self._returning else None

    def free_if_stuck(self, now: float) -> None:
        """Take the turn from holders that have got nowhere since the last look, and wait.

        Called on the loop's thread, which may have kept them from the interpreter: then they
        are looked at again.
        """
        elapsed, self._looked_at = now - self._looked_at, now
        loop_used = time.thread_time()
        was_busy = loop_used - self._loop_used > elapsed * BUSY_SHARE
        self._loop_used = loop_used
        for holder, seen in list(self._holders.items()):
            progress, used = self._holders[holder] = holder.progress, holder.processor_time()
            if seen is None or seen[0] != progress or was_busy:
                continue
            # A driver that computes does so without the GIL.
            if holder.in_driver or used - seen[1] < elapsed * WORKING_SHARE:
                self.leave(holder)
