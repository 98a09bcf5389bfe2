"""Replies: outcomes on their way from the workers to the loop, one wake for all that are ready."""

from __future__ import annotations

from collections import deque

from ._jobs import Job
from ._loops import EventLoop


class Replies:
    """Take outcomes on the workers' threads, and end the waits for them on the loop's."""

    def __init__(self, loop: EventLoop) -> None:
        self._loop = loop
        # A deque's append and popleft are atomic, and the flag is lowered before the deque is
        # emptied, so a reply is never left behind: at worst the loop is woken once too often.
        self._ready: deque[Job] = deque()
        self._wake_due = False

    def send(self, job: Job) -> None:
        """Have the wait for a job ended; from any thread."""
        if job.parker is None:
            return
        self._ready.append(job)
        if not self._wake_due:
            self._wake_due = True
            # A loop that is gone has nobody who waits; its workers notice by themselves.
            self._loop.wake(self.deliver)

    def deliver(self) -> None:
        """End the waits for all that is ready; on the loop's thread."""
        self._wake_due = False
        while self._ready:
            settle(self._ready.popleft())


def settle(job: Job) -> None:
    """End the wait for a job; on the loop's thread."""
    if job.parker is not None:
        job.parker.unpark()
