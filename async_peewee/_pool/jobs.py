"""Job: one call on its way to a worker and back, and the queue of those that wait."""

from __future__ import annotations

import contextvars
import threading
import time
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any

from .._eventloops import Parker
from .write_lock import WriteGate


class State(Enum):
    QUEUED = "waits for a worker"
    TAKEN = "given to a worker"
    DROPPED = "never ran"
    DONE = "finished"


class Interrupted(Exception):
    """Raised inside a job that was cancelled; its caller sees the cancellation instead."""


class Job:
    """One call on a worker, and what becomes of it."""

    # Who waits for it, and what cancels the wait; None: nobody.
    parker: Parker | None = None
    # Whether it waits at the write gate, and whether it is through.
    at_gate = False
    holds_gate = False
    pinned = False
    state = State.QUEUED
    deadline: float = 0.0
    interrupted = False
    finished: threading.Event | None = None
    result: Any = None
    error: BaseException | None = None
    # What the job wants done on the loop's thread once it has succeeded.
    after: list[Callable[[], Any]] | None = None

    def __init__(
        self,
        function: Callable[[], Any],
        label: str,
        *,
        worker: Any = None,
        lease: object = None,
        gate: WriteGate | None = None,
        pin: bool = False,
        unpin: bool = False,
    ) -> None:
        self.function: Callable[[], Any] | None = function
        self.label = label
        # The Worker that must run it, then the one that does: a job does not know what that is.
        self.worker: Any = worker
        # Whose it is: a job of a lease runs only while its worker is under that very lease, and
        # one that pins a worker brings the lease that the worker is under from then on.
        self.in_block: bool = worker is not None
        self.lease: object = object() if pin else lease
        # The write gate that it has to pass.
        self.gate = gate
        self.pin = pin
        self.unpin = unpin
        # A copy for each job: spans and tenants are the caller's, and what the job sets
        # does not travel back.
        self.context: contextvars.Context = contextvars.copy_context()

    def outcome(self) -> Any:
        """Return or raise what the function did, once."""
        error, result = self.error, self.result
        self.error = self.result = None
        if error is None:
            return result
        try:
            raise error
        finally:
            del error  # the traceback refers to this frame: no cycle


class JobQueue:
    """Keep the jobs that wait: in order for the workers, and in order of their deadlines.

    It has no lock and does nothing to a job but change its state: the pool decides under
    its own lock and acts afterwards.
    """

    def __init__(self, acquire_timeout: float) -> None:
        self._acquire_timeout = acquire_timeout
        # For whichever worker is free next. One that was dropped stays until it is met,
        # so dropping costs the same however long the queue is.
        self._ready: deque[Job] = deque()
        # Those that were taken out once, and could not begin.
        self._returned: deque[Job] = deque()
        # Every job that waits, those before the write gate too. All have the same timeout,
        # so the order of arrival is the order of the deadlines.
        self._deadlines: deque[Job] = deque()
        self.waiting = 0

    @property
    def ready(self) -> int:
        return len(self._ready) + len(self._returned)

    def wait(self, job: Job) -> None:
        """Start the clock of a job that cannot run now."""
        if not job.deadline:
            job.deadline = time.monotonic() + self._acquire_timeout
            self._deadlines.append(job)
            self.waiting += 1

    def put(self, job: Job) -> None:
        """Let a job wait for a worker."""
        self.wait(job)
        self._ready.append(job)

    def put_back(self, job: Job) -> None:
        """Let a job wait for a worker again, in front of those that have not been asked yet."""
        self._returned.append(job)

    def pop(self) -> Job | None:
        """Return the first job that still wants a worker."""
        for jobs in (self._returned, self._ready):
            while jobs:
                job = jobs.popleft()
                if job.state is State.QUEUED:
                    return job
        return None

    def take(self, job: Job) -> None:
        """Note that a worker has the job."""
        self._leave(job, State.TAKEN)

    def drop(self, job: Job) -> None:
        """Note that the job will never run."""
        self._leave(job, State.DROPPED)
        job.function = None

    def _leave(self, job: Job, state: State) -> None:
        job.state = state
        if not job.deadline:
            return
        self.waiting -= 1
        while self._deadlines and self._deadlines[0].state is not State.QUEUED:
            self._deadlines.popleft()

    def drop_overdue(self, now: float) -> list[Job]:
        """Drop and return the jobs whose deadline has passed."""
        overdue = []
        while self._deadlines and self._deadlines[0].deadline <= now:
            overdue.append(self._deadlines[0])
            self.drop(self._deadlines[0])
        return overdue

    def drop_all(self) -> list[Job]:
        """Drop and return every job that waits."""
        return self.drop_overdue(float("inf"))

    def next_deadline(self) -> float | None:
        return self._deadlines[0].deadline if self._deadlines else None
