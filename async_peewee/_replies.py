"""Replies: outcomes on their way from the workers to the loop, one wake for all that are ready."""

from __future__ import annotations

import time
from collections import deque

from ._jobs import Job
from ._loops import EventLoop, Parker

# How long an outcome may wait for others while its worker goes on to the next job, in
# seconds: a wake costs as much as a small statement, for the loop's thread and the worker
# then fight for the interpreter.
PATIENCE = 0.003


class Replies:
    """Take outcomes on the workers' threads, and end the waits for them on the loop's."""

    def __init__(self, loop: EventLoop) -> None:
        self._loop = loop
        # A deque's append and popleft are atomic, and the flag is lowered before the deque is
        # emptied, so a reply is never left behind: at worst the loop is woken once too often.
        self._ready: deque[Parker] = deque()
        self._wake_due = False
        self._first_at = 0.0

    def send(self, job: Job, batch: int = 0) -> None:
        """Have the wait for a job ended; from any thread.

        With a `batch`, others will follow and the pool looks here before long: the loop is
        woken when more than so many are ready.
        """
        if job.parker is not None:
            if not self._ready:
                self._first_at = time.monotonic()
            self._ready.append(job.parker)
        if len(self._ready) > batch or time.monotonic() - self._first_at >= PATIENCE:
            self.flush()

    def flush(self) -> None:
        """Have the loop deliver what is ready; from any thread."""
        if self._ready and not self._wake_due:
            self._wake_due = True
            # A loop that is gone has nobody who waits; its workers notice by themselves.
            self._loop.wake(self.deliver)

    def deliver(self) -> None:
        """End the waits for all that is ready; on the loop's thread."""
        self._wake_due = False
        while self._ready:
            self._ready.popleft().unpark()
