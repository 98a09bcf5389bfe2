"""Interrupts: the running job of a worker can be stopped from outside, and never the next one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ._driver_protocol import Driver
from ._jobs import Interrupted, Job, State

# The pauses between attempts to interrupt one job, in seconds: the first attempt may fall
# between two statements of it.
PAUSES = (0.02, 0.04, 0.08, 0.16, 0.25)

# How long a job is interrupted politely before its connection is shut down, in seconds.
GRACE = 5.0


class Interruptible:
    """The side of a worker that interrupts reach."""

    def __init__(self, driver: Driver, name: str) -> None:
        self.name = name
        self.driver = driver
        # Protects _job. An interrupt checks and strikes under it, so it cannot hit the
        # next job; the worker waits here while an interrupt is under way.
        self._guard = threading.Lock()
        self._job: Job | None = None

    # -- on the worker's own thread ---------------------------------------------------

    def check_interrupted(self) -> None:
        """Raise Interrupted if the running job was cancelled."""
        job = self._job
        if job is not None and job.interrupted:
            raise Interrupted(f"{job.label} was cancelled")

    @contextmanager
    def uninterrupted(self) -> Iterator[None]:
        """Let no interrupt reach what runs inside: nobody could say what became of a COMMIT."""
        with self._guard:
            job, self._job = self._job, None
        try:
            yield
        finally:
            with self._guard:
                self._job = job

    # -- from any thread --------------------------------------------------------------

    def cancel(self, job: Job) -> None:
        """Interrupt `job`, again and again until it has ended, from a thread made for that.

        Not the loop's thread: an interrupt may talk to a server that does not answer. Not a
        worker: all of them may be busy.
        """
        job.finished = threading.Event()
        job.interrupted = True
        threading.Thread(
            target=self._pursue, args=(job, job.finished), name=f"{self.name} interrupt", daemon=True
        ).start()

    def _pursue(self, job: Job, finished: threading.Event) -> None:
        kill_at = time.monotonic() + GRACE
        attempt = 0
        while job.state is not State.DONE:
            self._strike(job, kill=time.monotonic() >= kill_at)
            if finished.wait(PAUSES[min(attempt, len(PAUSES) - 1)]):
                return
            attempt += 1

    def _strike(self, job: Job, kill: bool) -> None:
        # Decided and done under the guard: see __init__.
        with self._guard:
            if self._job is not job:
                return
            if kill:
                self.driver.kill()
            else:
                self.driver.interrupt()
