"""Schedule: which job runs next, on which worker. It decides; the pool acts.

Nothing here has a lock or blocks: the pool asks under its own lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

from .._errors import TransactionFinished
from .gil import Turnstile
from .jobs import Job, JobQueue, State
from .threads import Crew
from .worker import Worker

# How often the loop's thread looks, while jobs wait, whether the worker that has the turn
# gets on, in seconds: a statement that lasts so long may well last much longer.
LOOK = 0.002


# How often it looks while nobody has the turn: all workers wait for the database.
SELDOM = 0.02


# The most replies that one wake of the loop brings.
BATCH = 32


class Schedule:
    """The jobs that wait, and who of the crew has the turn to run one."""

    def __init__(
        self,
        crew: Crew,
        acquire_timeout: float,
        admit: Callable[[Job], bool],
        wake: Callable[[Callable[[], object]], bool],
    ) -> None:
        self._crew = crew
        # Has the loop's thread call something.
        self._wake = wake
        # Called by a write gate, on whichever thread leaves it, for a job that waited there.
        self._admit = admit
        self.turnstile = Turnstile()
        # Jobs that take whichever worker is free.
        self.queue = JobQueue(acquire_timeout)
        # Jobs that have a worker, and wait for its turn.
        self._placed: deque[Job] = deque()
        self._placed_are_next = False
        # Whether the loop's thread will look at what waits, and whether replies rely on it.
        self._is_looked_at = False
        self._replies_wait = False
        self.calls = 0

    # -- what comes in ------------------------------------------------------------------

    def add(self, job: Job) -> None:
        """Let a job wait: for its own worker, or for any."""
        if job.worker is not None:
            self._placed.append(job)
        else:
            self.queue.put(job)

    def admit(self, job: Job) -> bool:
        """Place a job that waited at the write gate; False: it declines the gate.

        It does so without a free worker, and is then among the first to try again.
        """
        job.at_gate = False
        if job.state is not State.QUEUED:
            return False
        job.holds_gate = bool(self._crew.idle)
        if job.holds_gate:
            self.assign(job, self._crew.idle.pop())
            self._placed.append(job)
        else:
            self.queue.put_back(job)
        return job.holds_gate

    def release(self, worker: Worker) -> None:
        """Hand a worker that is to end what has been placed with it: its turn would come too late."""
        for job in [job for job in self._placed if job.worker is worker]:
            self._placed.remove(job)
            worker.inbox.put(job)

    # -- what runs next -----------------------------------------------------------------

    def dispatch(self, finisher: Worker | None = None) -> Job | None:
        """Give the turn, while it is free, to whoever is next; return a job for `finisher` itself."""
        while self.turnstile.free > 0:
            worker = self.turnstile.next_returning()
            if worker is not None:
                self.turnstile.take(worker)
                worker.turn.release()
                continue
            job = self._choose()
            if job is None:
                return None
            self.turnstile.take(job.worker)
            if job.worker is finisher:
                return job
            job.worker.inbox.put(job)
        return None

    def _choose(self) -> Job | None:
        """Return the next job, with its worker: by turns from the blocks and from the queue."""
        if not self._placed:
            return self._next_queued()
        self._placed_are_next = not self._placed_are_next
        if self._placed_are_next:
            return self._next_placed() or self._next_queued()
        return self._next_queued() or self._next_placed()

    def _next_placed(self) -> Job | None:
        """Return the first job whose own worker is free for it: it may be aside with another."""
        for job in list(self._placed):
            if job.state is State.DROPPED:
                self._placed.remove(job)
            elif job.lease is not job.worker.lease and job.state is State.QUEUED:
                self._placed.remove(job)
                self._drop_stale(job)
            elif job.worker.running in (None, job):
                self._placed.remove(job)
                if job.state is State.QUEUED:
                    self.assign(job, job.worker)
                return job
        return None

    def _drop_stale(self, job: Job) -> None:
        """End a job whose block has ended before it: its worker is another's now."""
        self.queue.drop(job)
        job.error = TransactionFinished(f"{job.label}: its block has ended, and its connection serves others")
        if job.parker is not None:
            self._wake(job.parker.unpark)

    def _next_queued(self) -> Job | None:
        while self._crew.idle and (job := self.queue.pop()) is not None:
            if self._may_start(job):
                self.assign(job, self._crew.idle.pop())
                return job
        return None

    def _may_start(self, job: Job) -> bool:
        """Return True if a worker that is free may have the job; False: it waits at the write gate.

        A job takes the gate only together with a worker. One that held it in the queue
        would wait for workers that wait for the gate.
        """
        if job.gate is not None:
            job.holds_gate = job.gate.enter(partial(self._admit, job))
            job.at_gate = not job.holds_gate
        return not job.at_gate

    def assign(self, job: Job, worker: Worker) -> None:
        """Give a job to a worker."""
        self.queue.take(job)
        job.worker = worker
        worker.running = job
        self.calls += 1

    # -- what it needs ------------------------------------------------------------------

    def is_full(self, job: Job, limit: int) -> bool:
        """Return True if so many wait already for the end of another's job."""
        # Not those for whom there is a worker, or room for one.
        free = 0 if job.gate is not None and job.gate.is_held else self._crew.free
        return self.queue.waiting - free >= limit

    def may_grow(self) -> bool:
        """Return True if one more worker would find work."""
        # One at a time: it passes the turn on while it connects, and that calls for the next.
        return (
            self.turnstile.free > 0
            and not self._crew.idle
            and not self._crew.coming
            and self.queue.ready > 0
            and self._crew.has_room()
        )

    def _is_waiting(self) -> bool:
        """Return True if a job waits, for a worker or for its turn."""
        return self.queue.waiting > 0 or bool(self._placed)

    def begin_to_look(self) -> bool:
        """Return True if the loop's thread has to begin to look at what waits."""
        begins = not self._is_looked_at and self._is_waiting()
        self._is_looked_at = self._is_looked_at or begins
        return begins

    def next_look(self, now: float) -> float | None:
        """Return in how many seconds the loop's thread has to look again, None if nothing waits."""
        self._is_looked_at = self._is_waiting() or self._replies_wait
        self._replies_wait = False
        if not self._is_looked_at:
            return None
        pause = SELDOM if self.turnstile.free > 0 else LOOK
        deadline = self.queue.next_deadline()
        return pause if deadline is None else max(0.0, min(pause, deadline - now))

    def batch(self) -> int:
        """Return how many replies may wait for one another: as many as there are jobs waiting.

        Then the loop gives out new jobs while these are done.
        """
        if not self._is_looked_at or self.turnstile.free > 0:
            return 0
        batch = min(self.queue.waiting + len(self._placed), BATCH)
        self._replies_wait = self._replies_wait or batch > 0
        return batch
