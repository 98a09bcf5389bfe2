"""Turnstile: one worker at a time in Python, the others while it waits for the database.

Under the GIL two threads that run Python only take turns, and each change of turn costs both
of them more than a small statement takes. So one worker has the turn, and goes on from job to
job. When its statement is expected to take long, or is seen to, the turn goes to another one.
On a free-threaded Python everybody has it.
"""

from __future__ import annotations

import sys
import time
from collections import deque

from ._worker import Worker

# A holder that has used less than this share of the time since the last look is waiting for
# something, in Python code or in the driver.
WORKING_SHARE = 0.25

# A loop that has used more than this share of it may be what the holder has waited for.
BUSY_SHARE = 0.5


def has_gil() -> bool:
    """Return True if only one thread of this interpreter runs Python at a time."""
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


class Turnstile:
    """Say whose turn it is; all of it under the pool's lock."""

    def __init__(self) -> None:
        self._limits = has_gil()
        # None: the turn is free. An attribute, for it is looked at several times for each job.
        self.holder: Worker | None = None
        # Those that come back from a long statement: in the middle of a job, so they go first.
        self._returning: deque[Worker] = deque()
        # The last look at a holder: its progress, its processor time and the loop's, and when.
        self._seen: tuple[Worker | None, int, float, float, float] = (None, 0, 0.0, 0.0, 0.0)

    def take(self, worker: Worker) -> None:
        """Give the turn, which is free, to a worker."""
        if self._limits:
            self.holder = worker

    def leave(self, worker: Worker) -> bool:
        """Take the turn from a worker; False: it did not have it."""
        had = self.holder is worker
        if had:
            self.holder = None
        return had

    def come_back(self, worker: Worker) -> bool:
        """Give the turn to a worker in the middle of a job; False: it has to wait."""
        if self.holder is None:
            self.take(worker)
            return True
        self._returning.append(worker)
        return False

    def stop_waiting(self, worker: Worker) -> bool:
        """Take a worker out of the queue of those that come back; False: the turn is its own by now."""
        waits = worker in self._returning
        if waits:
            self._returning.remove(worker)
        return waits

    def next_returning(self) -> Worker | None:
        """Return the first of those that come back, None if there is none."""
        return self._returning.popleft() if self._returning else None

    def free_if_stuck(self, now: float) -> None:
        """Take the turn from a holder that has got nowhere since the last look, and waits.

        Called on the loop's thread, which may have kept it from the interpreter: then it is
        looked at again.
        """
        holder = self.holder
        if holder is None:
            return
        progress, used, own = holder.progress, holder.processor_time(), time.thread_time()
        seen, seen_progress, seen_used, seen_own, seen_at = self._seen
        self._seen = (holder, progress, used, own, now)
        elapsed = now - seen_at
        if (holder, progress) != (seen, seen_progress) or own - seen_own > elapsed * BUSY_SHARE:
            return
        # A driver that computes does so without the GIL.
        if holder.in_driver or used - seen_used < elapsed * WORKING_SHARE:
            self.holder = None
