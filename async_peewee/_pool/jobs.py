"""Job and Lease: one call on its way to a worker and back, and the right to one worker for a while."""

from __future__ import annotations

import contextvars
import threading
import time
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any

from .._errors import PoolClosed, TransactionFinished
from .._eventloops import Parker
from .write_lock import WriteLock


class State(Enum):
    """Where a job is. Nothing else tells what may happen to it."""

    AT_LOCK = "waits for the write lock"
    QUEUED = "waits for a worker"
    PLACED = "has its worker, and waits for it or for its turn"
    RUNNING = "is run by its worker"
    DONE = "finished"
    DROPPED = "never ran"


class Lease:
    """The right to one worker for a while, held by one block, stream or set-up.

    Made by the job that takes it, before that runs, so that whoever cancels the job has
    something to end. All but the label is the scheduler's, under the pool's lock.
    """

    __slots__ = ("closed_pool", "jobs", "label", "since", "state", "worker")

    WANTED = "wanted"
    HELD = "held"
    ENDING = "ending"
    ENDED = "ended"

    def __init__(self, label: str) -> None:
        # Whose it is, for messages.
        self.label: str = label
        self.state: str = Lease.WANTED
        # The Worker, from the moment that the lease is held.
        self.worker: Any = None
        self.since: float = 0.0
        # The name of the pool that has ended it with its worker.
        self.closed_pool: str = ""
        # Calls that wait until their worker has done the one before.
        self.jobs: deque[Job] = deque()

    @property
    def is_held(self) -> bool:
        return self.state is Lease.HELD

    def describe(self, now: float) -> str:
        """Say who holds it and for how long, for the message of a PoolTimeout."""
        return f"{self.label} for {now - self.since:.1f} s"

    def end_error(self) -> TransactionFinished | PoolClosed:
        """Return the error of a call that comes after the lease's end."""
        return PoolClosed(self.closed_pool) if self.closed_pool else TransactionFinished(self.label)


class Job:
    """One call on a worker, and what becomes of it."""

    # Who waits for it, and what cancels the wait; None: nobody.
    parker: Parker | None = None
    state = State.QUEUED
    # When its wait for a worker has been too long, in seconds of time.monotonic(); 0: no clock runs.
    deadline: float = 0.0
    # The Worker that runs it: a job does not know what that is.
    worker: Any = None
    interrupted = False
    # The name of the pool that has it interrupted because it ends.
    closed_pool = ""
    # Set when it is done, for a thread that interrupts it.
    finished: threading.Event | None = None
    # Its connection was cut under a COMMIT: who waits for it has to hear that, cancelled or not.
    was_cut = False
    result: Any = None
    error: BaseException | None = None
    # What the job wants done on the loop's thread once it has succeeded.
    after: list[Callable[[], Any]] | None = None

    def __init__(
        self,
        function: Callable[[], Any],
        label: str,
        *,
        lease: Lease | None = None,
        takes_lease: bool = False,
        write_lock: WriteLock | None = None,
    ) -> None:
        self.function: Callable[[], Any] | None = function
        self.label = label
        # Whose it is: it runs on the worker of its lease, and after the lease's end never.
        self.lease = lease
        # It runs on whichever worker is free, and brings the lease that the worker is under
        # from then on, if it succeeds.
        self.takes_lease = takes_lease
        # It is the last one of its lease.
        self.ends_lease = False
        # The lock that it takes together with a worker.
        self.write_lock = write_lock
        # A copy for each job: spans and tenants are the caller's, and what the job sets
        # does not travel back.
        self.context: contextvars.Context | None = contextvars.copy_context()

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

    It has no lock and does nothing to a job but change its state: the scheduler decides under
    the pool's lock.
    """

    def __init__(self, acquire_timeout: float) -> None:
        self._acquire_timeout = acquire_timeout
        # For whichever worker is free next. One that was dropped stays until it is met,
        # so dropping costs the same however long the queue is.
        self._ready: deque[Job] = deque()
        # Those that were taken out once, and could not begin.
        self._returned: deque[Job] = deque()
        # Every job that waits, those at the write lock too. All have the same timeout,
        # so the order of arrival is the order of the deadlines.
        self._deadlines: deque[Job] = deque()
        self.waiting = 0
        # How many of them wait for a worker.
        self.ready = 0

    def start_clock(self, job: Job) -> None:
        """Count a job that cannot run now among those that wait."""
        if not job.deadline:
            job.deadline = time.monotonic() + self._acquire_timeout
            self._deadlines.append(job)
            self.waiting += 1

    def put(self, job: Job) -> None:
        """Let a job wait for a worker."""
        job.state = State.QUEUED
        self.start_clock(job)
        self._ready.append(job)
        self.ready += 1

    def put_back(self, job: Job) -> None:
        """Let a job wait for a worker again, in front of those that have not been asked yet."""
        job.state = State.QUEUED
        self._returned.append(job)
        self.ready += 1

    def pop(self) -> Job | None:
        """Return the first job that still wants a worker."""
        for jobs in (self._returned, self._ready):
            while jobs:
                job = jobs.popleft()
                if job.state is State.QUEUED:
                    self.ready -= 1
                    return job
        return None

    def leave(self, job: Job, state: State) -> None:
        """Note that a job waits no more: for the state that it goes on to."""
        job.state = state
        if job.deadline:
            job.deadline = 0.0
            self.waiting -= 1
            self._forget_left()

    def drop(self, job: Job) -> None:
        """Note that the job will never run."""
        if job.state is State.QUEUED and job.deadline:
            self.ready -= 1
        self.leave(job, State.DROPPED)
        job.function = None

    def first_overdue(self, now: float) -> Job | None:
        """Return the job that has waited longest if its deadline has passed."""
        deadline = self.next_deadline()
        return self._deadlines[0] if deadline is not None and deadline <= now else None

    def drop_all(self) -> list[Job]:
        """Drop and return every job that waits."""
        dropped = []
        while (job := self.drop_first()) is not None:
            dropped.append(job)
        return dropped

    def drop_first(self) -> Job | None:
        """Drop and return the job that has waited longest."""
        job = self.first_overdue(float("inf"))
        if job is not None:
            self.drop(job)
        return job

    def next_deadline(self) -> float | None:
        """Return when the job that has waited longest is overdue, None if none waits."""
        self._forget_left()
        return self._deadlines[0].deadline if self._deadlines else None

    def _forget_left(self) -> None:
        while self._deadlines and not self._deadlines[0].deadline:
            self._deadlines.popleft()

    def check(self) -> None:
        """Fail unless the count is what counting gives."""
        waiting = [job for job in self._deadlines if job.deadline]
        assert self.waiting == len(waiting), f"{self.waiting} are counted, {len(waiting)} wait"
        ready = sum(job.state is State.QUEUED for job in waiting)
        assert self.ready == ready, f"{self.ready} are counted for a worker, {ready} wait for one"
        for job in waiting:
            assert job.state in (State.QUEUED, State.AT_LOCK), f"{job.label} waits and {job.state.value}"
