"""WorkerPool: a bounded number of workers on one event loop, first come, first served."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from .._errors import PoolClosed, PoolFull, PoolTimeout
from .._eventloops import EventLoop, Parker
from .._settings import PoolSettings
from .connection import Connection
from .gil import TurnTaker
from .jobs import Job, State
from .scheduler import LOOK, Schedule
from .threads import Crew
from .worker import Worker


@dataclass(frozen=True)
class PoolStats:
    """Say how a pool is: its size, what its workers do now, and what it has done so far.

    `pool_size`, `workers`, `idle`, `busy` and `pinned` count workers, `waiting` the calls in
    the queue; `calls`, `cancelled`, `timed_out` and `refused` count calls since it was opened.
    """

    pool_size: int = 0
    workers: int = 0
    idle: int = 0
    busy: int = 0
    pinned: int = 0
    waiting: int = 0
    calls: int = 0
    cancelled: int = 0
    timed_out: int = 0
    refused: int = 0


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


class Dispatch:
    """The side of a pool that its workers see."""

    def __init__(
        self, loop: EventLoop, lock: threading.Lock, crew: Crew, schedule: Schedule, grow: Callable[[], None]
    ) -> None:
        self._loop = loop
        # The pool's, and what it protects.
        self._lock = lock
        self._crew = crew
        self._schedule = schedule
        # Hires a worker; on the loop's thread.
        self._grow = grow
        # The pool delivers what waits here when it looks.
        self.replies = Replies(loop)

    def started(self, worker: Worker) -> bool:
        """Note that a worker's thread runs; False: it was stopped before it began."""
        return self._crew.started(worker)

    def should_end(self, worker: Worker) -> bool:
        """Decide whether a worker without work ends."""
        return self._crew.should_end(worker)

    def ended(self, worker: Worker) -> None:
        """Note that a worker's thread is through with it."""
        self.step_aside(worker)
        self._crew.ended(worker)

    def take(self, worker: Worker) -> Job | None:
        """Return the first job of a new worker, None if it has to wait for one."""
        with self._lock:
            self._crew.coming -= 1
            self._crew.rest(worker)
            job = self._schedule.dispatch(worker)
            must_grow = self._schedule.may_grow()
        if must_grow:
            self._loop.wake(self._grow)
        return job

    def claim(self, worker: Worker, job: Job) -> bool:
        """Return False if a job from the worker's own inbox was dropped meanwhile."""
        with self._lock:
            if job.state is State.QUEUED:
                self._schedule.assign(job, worker)
            return job.state is State.TAKEN

    def finish(self, worker: Worker, job: Job) -> Job | None:
        """Note that a job has ended and reply; return the next one for its worker."""
        with self._lock:
            job.state = State.DONE
            worker.running = None
            job.pinned = job.pin and job.error is None
            if job.pinned:
                worker.lease = job.lease
            elif job.unpin and job.lease is worker.lease:
                worker.lease = None
            if not worker.pinned:
                worker.holder = None
                self._crew.rest(worker)
        if worker.held_gate is not None:
            # While it has the turn and is the first of the idle: the next writer gets both.
            worker.leave_gate()
        following, batch = self._pass_on(worker)
        if job.finished is not None:
            job.finished.set()
        self.replies.send(job, batch)
        return following

    def _pass_on(self, worker: Worker) -> tuple[Job | None, int]:
        """Return the next job for a worker, and how many replies may wait for one another meanwhile."""
        spent = worker.spent() if worker.connection.may_overlap else None
        with self._lock:
            self._schedule.turnstile.leave(worker)
            if spent is not None:
                self._schedule.turnstile.weigh(*spent)
            following = self._schedule.dispatch(worker)
            batch = self._schedule.batch()
            must_grow = self._schedule.may_grow()
        if must_grow:
            self._loop.wake(self._grow)
        return following, batch

    def step_aside(self, worker: TurnTaker) -> None:
        """Pass the turn on: its worker is going to wait."""
        with self._lock:
            if not self._schedule.turnstile.leave(worker):
                return
            self._schedule.dispatch()
            is_free = self._schedule.turnstile.free > 0
            must_grow = self._schedule.may_grow()
        if must_grow:
            self._loop.wake(self._grow)
        if is_free:
            self.replies.flush()

    def step_back(self, worker: TurnTaker) -> bool:
        """Return True if the worker has the turn again; False: it has to wait for `worker.turn`."""
        with self._lock:
            return self._schedule.turnstile.come_back(worker)

    def go_on(self, worker: TurnTaker) -> bool:
        """Return False if the worker goes on without the turn; True: it has got it just now."""
        with self._lock:
            return not self._schedule.turnstile.stop_waiting(worker)

    def refuse(self, job: Job, error: BaseException) -> None:
        """Answer a job that its worker will not run."""
        job.error = error
        self.replies.send(job)


class WorkerPool:
    """Hand jobs to at most `pool_size` workers. Its methods are for the loop's thread."""

    def __init__(
        self, name: str, settings: PoolSettings, loop: EventLoop, make_connection: Callable[[], Connection]
    ) -> None:
        self.name = name
        self.settings = settings
        self.loop = loop
        self._make_connection = make_connection
        # How often `async with db` was entered and not left.
        self.entries = 0
        # Protects the crew, the queues, the turn and the counts, and the pool's fields of each
        # worker and job. Held for a few instructions only, never around a call that can block.
        self._lock = threading.Lock()
        self._crew = Crew(name, settings, loop, self._lock, self._grow)
        self._schedule = Schedule(self._crew, settings.acquire_timeout, self._admit, loop.wake)
        self._crew.before_stop = self._schedule.release
        self._counts: Counter[str] = Counter()
        self._dispatch = Dispatch(loop, self._lock, self._crew, self._schedule, self._grow)

    # -- giving work ------------------------------------------------------------------

    async def run(self, job: Job, *, shielded: bool = False) -> None:
        """Submit a job and wait until it has ended; its outcome is in the job.

        Cancelled while the job waits in the queue, it never runs. Cancelled while it runs,
        it is interrupted, and the cancellation goes on when its worker is free. `shielded`:
        the job is left alone, and the cancellation goes on when it has ended.
        """
        self.start(job)
        await self.wait(job, shielded=shielded)

    def start(self, job: Job) -> None:
        """Submit a job that `wait` will be called for later."""
        job.parker = self.loop.parker()
        self.submit(job)

    def wait(self, job: Job, *, shielded: bool = False) -> Awaitable[None]:
        """Wait until a job that was started has ended; cancellation as in `run`."""
        assert job.parker is not None
        return job.parker.park(_never if shielded else partial(self._cancel, job))

    def submit(self, job: Job) -> None:
        """Put a job on its way. Raises PoolClosed or PoolFull."""
        with self._lock:
            self._refuse_if_closed_or_full(job)
            self._schedule.add(job)
            self._schedule.dispatch()
            must_look = self._schedule.begin_to_look()
            must_grow = self._schedule.may_grow()
        if must_grow:
            self._grow()
        if must_look:
            self.loop.look(LOOK, self._look)

    def post(self, job: Job) -> None:
        """Put a job on its way that nobody waits for; safe wherever a finalizer may run.

        The garbage collector may call it on a thread that is inside the pool's lock: so it is the
        loop's next turn that submits the job.
        """
        self.loop.wake(partial(self._submit_posted, job))

    def _submit_posted(self, job: Job) -> None:
        # A pool that is closing ends its workers, and whatever they had open, by itself.
        with contextlib.suppress(PoolClosed):
            self.submit(job)

    def _refuse_if_closed_or_full(self, job: Job) -> None:
        if self._crew.is_closing if job.worker is None else job.worker.is_stopping:
            raise PoolClosed(self.name)
        limit = self.settings.max_waiting
        if job.worker is None and limit is not None and self._schedule.is_full(job, limit):
            self._counts["refused"] += 1
            raise PoolFull(self.name, limit)

    def _admit(self, job: Job) -> bool:
        with self._lock:
            is_admitted = self._schedule.admit(job)
            self._schedule.dispatch()
            must_grow = self._schedule.may_grow()
        if must_grow:
            self.loop.wake(self._grow)
        return is_admitted

    # -- taking it back ---------------------------------------------------------------

    def abandon(self, job: Job) -> None:
        """Have a job ended that nobody will wait for, if it still is under way."""
        if job.state is not State.DONE:
            self._cancel(job)

    def _cancel(self, job: Job) -> bool:
        """Drop a queued job (True), or have a running one interrupted (False)."""
        with self._lock:
            self._counts["cancelled"] += 1
            dropped = job.state is State.QUEUED
            if dropped:
                self._schedule.queue.drop(job)
        if not dropped and job.worker is not None:
            job.worker.cancel(job)
        return dropped

    def _fail(self, jobs: list[Job], error: Callable[[], Exception]) -> None:
        for job in jobs:
            job.error = error()
            if job.parker is not None:
                job.parker.unpark()

    # -- looking after what waits ------------------------------------------------------

    def _look(self) -> float | None:
        """Time out what waits too long, and free the turn of a worker that waits itself."""
        with self._lock:
            now = time.monotonic()
            overdue, message = self._drop_overdue(now)
            self._schedule.turnstile.free_if_stuck(now)
            self._schedule.dispatch()
            pause = self._schedule.next_look(now)
        self._fail(overdue, lambda: PoolTimeout(message))
        self._dispatch.replies.deliver()
        self._grow()
        return pause

    def _drop_overdue(self, now: float) -> tuple[list[Job], str]:
        """Drop the jobs that have waited too long; return them and what to tell their callers."""
        deadline = self._schedule.queue.next_deadline()
        if deadline is None or deadline > now:
            return [], ""
        message = self._describe_timeout(now)  # before: it says how many wait
        overdue = self._schedule.queue.drop_overdue(now)
        self._counts["timed_out"] += len(overdue)
        return overdue, message

    def _describe_timeout(self, now: float) -> str:
        holders = [text for worker in self._crew.workers if (text := worker.describe(now))]
        return (
            f"no worker of {self.name} became free within {self.settings.acquire_timeout:g} s: "
            f"pool size {self.settings.pool_size}, {self._schedule.queue.waiting} waiting, "
            f"held by: {'; '.join(sorted(holders)) or 'nobody'}. Make the blocks shorter "
            "or the pool larger (pool_size, ASYNC_PEEWEE_POOL_SIZE)"
        )

    # -- growing and ending -----------------------------------------------------------

    def _grow(self) -> None:
        """Hire a worker for the jobs that wait, if the pool may have one more."""
        with self._lock:
            if not self._schedule.may_grow():
                return
            worker = Worker(self._dispatch, self._make_connection(), self._crew.next_name())
            self._crew.workers.add(worker)
            self._crew.coming += 1
        self._crew.hire(worker)

    async def close(self, timeout: float) -> bool:
        """Refuse new work, give what runs `timeout` seconds, interrupt the rest, leave nothing.

        Returns False if the pool was closed already. Cancelled, it interrupts at once and
        still waits for the threads to end.
        """
        with self._lock:
            first = not self._crew.is_closing
            self._crew.stop_unused()
            refused = self._schedule.queue.drop_all()
            self._schedule.dispatch()
        self._fail(refused, lambda: PoolClosed(self.name))
        await self._crew.wait_until_gone(timeout)
        return first

    @property
    def is_closed(self) -> bool:
        return self._crew.is_closing

    def stats(self) -> PoolStats:
        """Return what the pool does now and has done so far."""
        with self._lock:
            return PoolStats(
                pool_size=self.settings.pool_size,
                workers=len(self._crew.workers),
                idle=len(self._crew.idle),
                busy=sum(worker.running is not None for worker in self._crew.workers),
                pinned=sum(worker.pinned for worker in self._crew.workers),
                waiting=self._schedule.queue.waiting,
                calls=self._schedule.calls,
                cancelled=self._counts["cancelled"],
                timed_out=self._counts["timed_out"],
                refused=self._counts["refused"],
            )


def _never() -> bool:
    return False
